"""A real probe in a process of its own, and a bus client that sees everything it says.

with start_probe(broker.url, tmp_path) as probe, watch(broker.url) as seen:
    probe.wait_online(seen)
    seen.command(probe.name, ping={"target": "127.0.0.1", "count": 5})
    until(lambda: seen.results)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from broker.client import BusClient, Message
from netloom.ids import new_id
from netloom.settings import Settings
from netloom.url import BrokerUrl
from schemas import codec, topics
from schemas.ack import Ack, Refused
from schemas.progress import Progress
from schemas.result import Result
from schemas.status import ProbeStatus
from tests.kit.processes import end
from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[2]
START_S = 15.0

M = TypeVar("M", bound=BaseModel)

# The child ends when its stdin does, so an aborted test run leaves no probe behind.
PROGRAM = """
import json, logging, signal, sys, threading
from netloom.settings import Settings
from probe.service import run

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
settings = Settings.model_validate_json(sys.argv[1])
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
run(settings, stop, lambda detail: print(detail, flush=True))
"""


def probe_settings(
    url: str,
    data: Path,
    name: str = "paris",
    *,
    allow_loopback: bool = True,
    limits: dict[str, Any] | None = None,
    **probe: Any,
) -> Settings:
    """Settings of a probe; `limits` and `probe` are further fields of those sections."""
    section = {"name": name, "limits": {"allow_loopback": allow_loopback, **(limits or {})}, **probe}
    return Settings.model_validate({"data": str(data), "broker": {"url": url}, "probe": section})


class ProbeProcess:
    """A probe in a process of its own; it keeps its folder from start to start."""

    def __init__(self, settings: Settings, log: Path) -> None:
        assert settings.probe.name is not None
        self.settings, self.name, self.log = settings, settings.probe.name, log
        self.process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "the probe is not running"
        return self.process.pid

    @property
    def folder(self) -> Path:
        return self.settings.data / f"probe-{self.name}"

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        assert self.process is None, "the probe runs already"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, self.settings.model_dump_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.stop()
            raise AssertionError(f"the probe did not start: {self.log.read_text()[-2000:]}")

    def kill9(self) -> None:
        """SIGKILL: nothing is said or flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        return self._end(signal.SIGTERM)

    def wait_online(self, seen: "Watcher", timeout_s: float = START_S) -> ProbeStatus:
        """Wait until its newest status says online, from the process now running."""
        until(lambda: (found := seen.status(self.name)) and found.state == "online", timeout_s, "the probe is online")
        found = seen.status(self.name)
        assert found is not None
        return found

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        return end(process, number)


@contextlib.contextmanager
def start_probe(
    url: str,
    tmp_path: Path,
    name: str = "paris",
    *,
    data: Path | None = None,
    allow_loopback: bool = True,
    limits: dict[str, Any] | None = None,
    **probe: Any,
) -> Iterator[ProbeProcess]:
    """A running probe; `data` is its data folder (one below `tmp_path` unless given)."""
    folder = data or tmp_path / "probe-data"
    settings = probe_settings(url, folder, name, allow_loopback=allow_loopback, limits=limits, **probe)
    made = ProbeProcess(settings, tmp_path / f"probe-{name}-{new_id()[-6:]}.log")
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Watcher:
    """Hears every probe on the bus, in order of arrival, and speaks as a controller would."""

    def __init__(self, url: str, *, acks: bool = False) -> None:
        self.acks = acks
        """Whether it acknowledges every result at once, as a controller does."""
        self.messages: list[Message] = []
        self.bus = BusClient(BrokerUrl.parse(url), f"watch-{new_id()[-12:]}")
        self.bus.subscribe("probe/#", self._hear)
        self._lock = threading.Lock()

    def _hear(self, message: Message) -> None:
        with self._lock:
            self.messages.append(message)
        topic = topics.parse(message.topic)
        if self.acks and isinstance(topic, topics.ProbeTopic) and topic.leaf == "result" and message.payload:
            self.ack(topic.name, str(json.loads(message.payload)["id"]))

    def of(self, leaf: str, model: type[M], name: str = "paris", *, retained: bool | None = None) -> list[M]:
        """Every message of one topic of one probe; `retained` picks by the flag of the delivery."""
        with self._lock:
            found = list(self.messages)
        return [
            codec.parse(model, message.payload)
            for message in found
            if message.topic == f"probe/{name}/{leaf}" and message.payload and retained in (None, message.retain)
        ]

    @property
    def results(self) -> list[Result]:
        """The results of `paris`."""
        return self.of("result", Result)

    def progress(self, test_id: str | None = None, name: str = "paris") -> list[Progress]:
        """The progress of one test, or of all."""
        return [found for found in self.of("progress", Progress, name) if test_id in (None, found.id)]

    def states(self, test_id: str, name: str = "paris") -> list[str]:
        """The states one test went through, ticks folded into one."""
        found: list[str] = []
        for progress in self.progress(test_id, name):
            if found[-1:] != ["running"] or progress.state != "running":
                found.append(progress.state)
        return found

    def status(self, name: str = "paris") -> ProbeStatus | None:
        """The newest status of a probe."""
        found = self.of("status", ProbeStatus, name)
        return found[-1] if found else None

    def command(self, probe: str = "paris", *, retain: bool = False, **fields: Any) -> str:
        """Send a command (an `id` is made unless given) and return its id."""
        fields.setdefault("id", new_id())
        self.raw(f"probe/{probe}/cmd", json.dumps(fields).encode(), retain=retain)
        return str(fields["id"])

    def ack(self, probe: str, *stored: str, refused: dict[str, str] | None = None) -> None:
        """Acknowledge results."""
        refusals = tuple(Refused(id=key, code=code) for key, code in (refused or {}).items())
        self.bus.publish(topics.probe(probe, "ack"), Ack(stored=stored, refused=refusals))

    def raw(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish bytes and wait until the broker has them."""
        assert self.bus.publish(topic, payload, retain=retain).wait(5)


@contextlib.contextmanager
def watch(url: str, *, acks: bool = False) -> Iterator[Watcher]:
    """A connected watcher."""
    watcher = Watcher(url, acks=acks)
    watcher.bus.start()
    try:
        assert watcher.bus.wait_up(10), watcher.bus.problem
        yield watcher
    finally:
        watcher.bus.stop()
