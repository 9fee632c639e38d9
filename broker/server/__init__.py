"""The embedded broker: amqtt, pinned, with its session layer replaced by one that is safe to lean on.

Use: `with EmbeddedBroker(BrokerSettings(port=0)) as broker: ... broker.url`. It listens on loopback addresses only.

From the wire inwards: `streams` (whole packets, bounded) -> `codec` (the adapter to amqtt's, made strict) -> `connection`
(one client) -> `sessions` and `outbox` (what a client has coming) and `router` (rights in `authorize`, filters in
`subscriptions`, the newest of each topic in `retained` and, on disk, `retained_store`). `engine` hangs this into amqtt's
broker, whose names `pinned` checks; `embedded` runs it in a thread. Routing never waits: what a client publishes is in
every subscriber's queue before its next packet is read, and each queue is bounded by `limits`.

Errors::

    schemas.errors.Failure
      BrokerServerError      what keeps the broker from running
        ListenRefusedError   listen_refused: not a loopback address
        PortInUseError       port_in_use
        SettingError         config_value: a limit, the port, the data folder
        UnsupportedError     broker_unsupported: not the amqtt this was written for
"""

from broker.server.authorize import Action, Authorize, ClientIdentity, allow_all
from broker.server.counters import Counters
from broker.server.embedded import EmbeddedBroker
from broker.server.errors import (
    BrokerServerError,
    ListenRefusedError,
    PortInUseError,
    SettingError,
    UnsupportedError,
)
from broker.server.limits import Limits
from broker.server.settings import BrokerSettings

__all__ = [
    "Action",
    "Authorize",
    "BrokerServerError",
    "BrokerSettings",
    "ClientIdentity",
    "Counters",
    "EmbeddedBroker",
    "Limits",
    "ListenRefusedError",
    "PortInUseError",
    "SettingError",
    "UnsupportedError",
    "allow_all",
]
