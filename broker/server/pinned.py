"""The start-up check: this broker replaces amqtt's session layer through names that only one version is known to have."""

import importlib
import importlib.metadata
from typing import Final

from broker.server.errors import UnsupportedError

VERSION: Final = "0.12.1"
NEEDED: Final = {
    "amqtt.broker:Broker": (
        "_client_connected",
        "_session_monitor",
        "shutdown",
        "start",
        "stream_connected",
    ),
    "amqtt.broker:Server": ("close_instance",),
    "amqtt.adapters:BufferReader": ("read",),
    "amqtt.codecs_amqtt": ("encode_data_with_length", "encode_string"),
    "amqtt.contexts": ("BrokerConfig", "ListenerConfig"),
    "amqtt.mqtt.connect:ConnectPayload": ("from_stream",),
    "amqtt.mqtt.connect:ConnectVariableHeader": ("from_stream",),
    "amqtt.mqtt.publish:PublishPacket": ("build", "data", "topic_name"),
    "amqtt.mqtt.subscribe:SubscribePacket": ("from_stream",),
    "amqtt.mqtt.unsubscribe:UnsubscribePacket": ("from_stream",),
}
"""What we override or lean on. (`Broker._servers` exists in objects only: the engine looks for it.)"""


def check_library() -> None:
    """Raise UnsupportedError unless amqtt is exactly the version this broker was written against."""
    try:
        found = importlib.metadata.version("amqtt")
    except importlib.metadata.PackageNotFoundError:
        raise UnsupportedError(f"amqtt {VERSION} is not installed") from None
    if found != VERSION:
        raise UnsupportedError(f"amqtt {VERSION} is needed, {found} is installed")
    for place, names in NEEDED.items():
        module_name, _, class_name = place.partition(":")
        try:
            module = importlib.import_module(module_name)
            owner = getattr(module, class_name) if class_name else module
        except (ImportError, AttributeError) as exc:
            raise UnsupportedError(f"amqtt {VERSION} lacks {place}: {exc}") from exc
        for name in names:
            if not hasattr(owner, name):
                raise UnsupportedError(f"amqtt {VERSION} lacks {place}.{name}")
