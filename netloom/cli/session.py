"""A command's connection: the bus, and through it the controller."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from broker.client import BusClient
from broker.requests import Requester
from netloom.config import Loaded
from netloom.log import setup
from netloom.settings import Settings
from schemas.errors import ErrorInfo, Failure

CONNECT_TIMEOUT_S: Final = 5.0
QUIET_S: Final = 0.3
SETTLE_TIMEOUT_S: Final = 3.0


@dataclass
class Session:
    """A client of the bus with what it has of the controller. `heard` is for handlers: the last time something came."""

    bus: BusClient
    ask: Requester
    heard_at: float = field(default_factory=time.monotonic)

    def touch(self) -> None:
        """Take note that a message came."""
        self.heard_at = time.monotonic()

    def settle(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait until the broker has sent what it retains: nothing came for a moment, or `enough`. There is no end mark in MQTT."""
        began = self.heard_at = time.monotonic()
        while not enough():
            now = time.monotonic()
            if now - self.heard_at >= QUIET_S or now - began >= SETTLE_TIMEOUT_S:
                return
            time.sleep(0.01)


def quiet_log(loaded: Loaded, level: str = "error") -> None:
    """Set the log up for a command: its errors are told as such, so without being asked the log adds nothing."""
    chosen = loaded.settings.log_level if loaded.chosen("log_level") else level
    setup(chosen, loaded.settings.log_format, role="cli")


@contextlib.contextmanager
def session(
    settings: Settings, prepare: Callable[[Session], None] = lambda _: None, *, who: str = "cli"
) -> Iterator[Session]:
    """Connect, and disconnect at the end. `prepare` subscribes. Raise Failure: broker_unreachable, broker_refused."""
    bus = BusClient(settings.broker_url(), f"{who}:{os.urandom(6).hex()}")
    found = Session(bus, Requester(bus))
    prepare(found)
    at_first = bus.problem
    bus.start()
    try:
        _wait_up(bus, at_first)
        yield found
    finally:
        bus.stop()


def _wait_up(bus: BusClient, at_first: ErrorInfo | None) -> None:
    """Wait until the connection stands; a broker that says no, or is not there, is known long before the time-out."""
    until = time.monotonic() + CONNECT_TIMEOUT_S
    while not bus.wait_up(0.05):
        problem = bus.problem
        if problem is not None and (problem is not at_first or time.monotonic() > until):
            raise Failure.of(problem)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Have the first SIGINT or SIGTERM set the event; the second interrupts."""
    asked = threading.Event()

    def handler(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
