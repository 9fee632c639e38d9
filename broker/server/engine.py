"""amqtt's broker with our session layer in place of its own.

amqtt keeps the life cycle, the listeners and the codec. Everything between a client's first byte and the message in a
subscriber's queue is ours: amqtt's own tables of sessions, subscriptions and retained messages stay empty.
"""

import asyncio
import errno
import logging
from typing import Any, Final, NoReturn

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError

from broker.server.connection import Connection, Hub
from broker.server.errors import PortInUseError, SettingError, UnsupportedError
from broker.server.settings import BrokerSettings
from broker.server.streams import Link

log = logging.getLogger(__name__)

LISTENER: Final = "default"
HOUSEKEEPING_S: Final = 1.0


class GuardedBroker(Broker):  # type: ignore[misc] # amqtt carries no types
    """Lives in the running event loop: `await start()`, later `await shutdown()`."""

    def __init__(self, settings: BrokerSettings, hub: Hub) -> None:
        bind = f"{settings.address}:{settings.port}"  # an IPv6 address without brackets: amqtt splits at the last colon
        # No plugins: amqtt's defaults are an open login, and a $SYS publisher that bypasses the session layer.
        super().__init__(BrokerConfig(listeners={LISTENER: ListenerConfig(bind=bind)}, plugins={}))
        if not hasattr(self, "_servers"):
            raise UnsupportedError("amqtt's Broker lacks _servers")
        self._settings = settings
        self._hub = hub
        self._running: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def start(self) -> None:
        """Listen. Raises PortInUseError, or SettingError with the system's reason."""
        try:
            await super().start()
        except BrokerError as exc:
            reason = exc.__cause__
            if isinstance(reason, OSError) and reason.errno == errno.EADDRINUSE:
                raise PortInUseError(self._settings.host, self._settings.port) from exc
            raise SettingError("port", f"cannot listen on {self._settings.host}: {reason or exc}") from exc

    @property
    def port(self) -> int:
        """The port it listens on."""
        sockets = self._servers[LISTENER].instance.sockets
        port: int = sockets[0].getsockname()[1]
        return port

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve one TCP connection (amqtt's listener calls this in a task of its own)."""
        del listener_name  # there is only one
        link = Link(reader, writer, self._hub.limits)
        counters = self._hub.counters
        if self._closing or len(self._running) >= self._hub.limits.max_connections:
            counters.refused += 1
            log.info("dropped a client (%s): too many connections", link.address)
            link.abort()
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has a task
        self._running.add(task)
        counters.connections = len(self._running)
        try:
            await Connection(link, self._hub).run()
        except asyncio.CancelledError:
            if not self._closing:  # shutdown cancels; asyncio 3.11 stumbles over a listener's task that ends so
                raise
        finally:
            self._running.discard(task)
            counters.connections = len(self._running)

    async def _client_connected(self, *_args: object) -> NoReturn:
        """Where amqtt's other transports would enter its own session layer."""
        raise BrokerError("only the guarded TCP listener is served")

    async def _session_monitor(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self._hub.sessions.expire()

    async def shutdown(self) -> None:
        """Stop listening, end every connection (clients that do not read are reset), then let amqtt wind up."""
        self._closing = True
        for server in self._servers.values():
            server.instance.close()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await super().shutdown()
