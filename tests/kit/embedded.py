"""The embedded broker inside the test's own process, where its counters can be read and its leaks be seen."""

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.server import Authorize, BrokerSettings, Counters, EmbeddedBroker, Limits, allow_all
from tests.kit.rawmqtt import RawMqtt, Received, Will

WAIT_S = 5.0


def eventually(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path per entry is of no use here


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


class Served:
    """A running broker and the clients a test has on it."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.clients: list[RawMqtt] = []

    @property
    def counters(self) -> Counters:
        return self.broker.counters()

    def dial(self, receive_buffer: int | None = None) -> RawMqtt:
        """A connection that has sent nothing yet."""
        self.clients.append(RawMqtt(self.broker.port, receive_buffer=receive_buffer))
        return self.clients[-1]

    def client(
        self, client_id: str = "", *, clean: bool = True, keep_alive: int = 0, will: Will | None = None
    ) -> RawMqtt:
        """A connected client."""
        client = self.dial()
        assert client.connect(client_id, clean=clean, keep_alive=keep_alive, will=will)[1] == 0
        return client

    def works(self) -> bool:
        """Whether a new client can connect, subscribe, publish and receive."""
        client = self.client()
        client.subscribe(("works/#", 1))
        client.publish("works/1", b"yes", 1)
        found = client.messages(1)
        client.disconnect()
        return [message.payload for message in found] == [b"yes"]

    def none_but(self, client: RawMqtt, *payloads: bytes) -> bool:
        """Whether the client is sent exactly these, judged by a last message of its own."""
        client.subscribe(("the/end", 0))
        client.publish("the/end", b"the end")
        found: list[Received] = client.messages(len(payloads) + 1)
        return [message.payload for message in found] == [*payloads, b"the end"]


@contextlib.contextmanager
def serving(
    caplog: pytest.LogCaptureFixture,
    *,
    limits: Limits | None = None,
    authorize: Authorize = allow_all,
    data_dir: Path | None = None,
) -> Iterator[Served]:
    """A broker on a free port. Fails the test if it leaks files or threads, or complains about its clients."""
    caplog.set_level(logging.INFO)
    files = open_files()
    broker = EmbeddedBroker(BrokerSettings(port=0, data_dir=data_dir, limits=limits or Limits()), authorize=authorize)
    served = Served(broker)
    broker.start()
    try:
        yield served
    finally:
        for client in served.clients:
            client.drop()
        broker.stop()
    gc.collect()  # a task that failed unseen is reported when it is collected
    assert not broker.running
    assert not [thread for thread in threading.enumerate() if thread.name == "broker"]
    assert eventually(lambda: open_files() <= files), "files were left open"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
