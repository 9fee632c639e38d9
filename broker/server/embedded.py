"""The embedded broker as the rest of Netloom sees it: a thread of its own, started and stopped."""

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Self

from broker.server.authorize import Authorize, Gate, allow_all
from broker.server.connection import Hub
from broker.server.counters import Counters
from broker.server.engine import GuardedBroker
from broker.server.errors import BrokerServerError, UnsupportedError
from broker.server.pinned import check_library
from broker.server.retained import RetainedTable
from broker.server.retained_store import RetainedStore, StoreWriter
from broker.server.router import Router
from broker.server.sessions import Session, Sessions
from broker.server.settings import BrokerSettings
from broker.server.subscriptions import SubscriptionIndex

log = logging.getLogger(__name__)


class EmbeddedBroker:
    """An MQTT 3.1.1 broker in a thread of this process. One object runs once; every method may be called from any thread."""

    def __init__(self, settings: BrokerSettings, authorize: Authorize = allow_all) -> None:
        self._settings = settings
        self._authorize = authorize
        self._counters = Counters()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._port: int | None = None

    def start(self, timeout_s: float = 10.0) -> None:
        """Return when the broker listens.

        Raises PortInUseError, SettingError (port or data folder), UnsupportedError (amqtt is not the one needed, or the
        broker did not come up in time), RuntimeError if it was started before.
        """
        if self._thread is not None:
            raise RuntimeError("an EmbeddedBroker runs once; make another")
        check_library()
        _quieten_library()
        listening: Future[int] = Future()
        self._thread = threading.Thread(target=self._main, args=(listening,), name="broker", daemon=True)
        self._thread.start()
        try:
            self._port = listening.result(timeout_s)
        except TimeoutError:
            self.stop()
            raise UnsupportedError(f"it did not listen within {timeout_s:g} s") from None
        log.info("the broker listens on %s port %d", self._settings.address, self._port)

    def stop(self, timeout_s: float = 2.0) -> None:
        """End every connection, store what is retained, close. Does nothing if it does not run."""
        thread, loop, stop = self._thread, self._loop, self._stop
        if thread is None or not thread.is_alive():
            return
        began = time.monotonic()
        if loop is not None and stop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(timeout_s)
        if thread.is_alive():
            log.error("the broker did not stop within %g s", timeout_s)
        else:
            log.info("the broker stopped in %.2f s", time.monotonic() - began)

    @property
    def running(self) -> bool:
        """Whether its thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def port(self) -> int:
        """The port it listens on: the real one if 0 was asked for. Raises RuntimeError before the start."""
        if self._port is None:
            raise RuntimeError("the broker has not been started")
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect to."""
        address = self._settings.address
        return f"mqtt://[{address}]:{self.port}" if ":" in address else f"mqtt://{address}:{self.port}"

    def counters(self) -> Counters:
        """A copy of the counters as they are now."""
        return replace(self._counters)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- in the thread ----------------------------------------------------------------------------------------------
    def _main(self, listening: "Future[int]") -> None:
        try:
            asyncio.run(self._serve(listening))
        except Exception as exc:  # the thread's outermost frame
            if listening.done() or not isinstance(exc, BrokerServerError):
                log.exception("the broker ended")
            if not listening.done():
                listening.set_exception(exc)

    async def _serve(self, listening: "Future[int]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        limits, counters = self._settings.limits, self._counters
        retained = RetainedTable(limits, counters)
        writer: StoreWriter | None = None
        if self._settings.data_dir is not None:
            store, messages = RetainedStore.open(self._settings.data_dir)
            retained.load(messages)
            writer = StoreWriter(store, retained, counters)
        gate = Gate(self._authorize, counters)
        index: SubscriptionIndex[Session] = SubscriptionIndex()
        sessions = Sessions(limits, counters, index, time.monotonic)
        broker = GuardedBroker(
            self._settings, Hub(limits, counters, gate, sessions, Router(limits, counters, gate, index, retained))
        )
        try:
            await broker.start()
            try:
                listening.set_result(broker.port)
                await self._stop.wait()
            finally:
                await broker.shutdown()
        finally:
            if writer is not None:
                await writer.close()


def _quieten_library() -> None:
    """Keep amqtt's narration of its life cycle out of the log; what fails in it is raised and told by us.

    None of its code that handles clients runs here, so nothing a client does, and no fault of ours, is hidden by this.
    """
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)  # it logs, with a traceback, what it then raises
    logging.getLogger("transitions").setLevel(logging.WARNING)
