"""Real controllers for tests, each in a process of its own, with clocks that run fast; and clients that ask them.

`FAST` makes heartbeats and deadlines short. `client` is a bus client with a `Requester`, as the page and the command line have it.
`ScriptedProbe` is a test double of the probe: it says on the bus exactly what a test tells it to say.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from broker.client import BusClient, Message, Will
from broker.requests import Requester
from netloom.ids import new_id
from netloom.url import BrokerUrl
from schemas import codec, topics
from schemas.ack import Ack
from schemas.base import format_instant
from schemas.progress import Progress
from schemas.request import ArchiveRows, TestRecord, TestTicket
from schemas.result import Result
from schemas.status import ControllerStatus, ProbeStatus
from tests.kit.processes import end
from tests.kit.results import result_fields
from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[2]
FAST = {"status_period_s": 0.5, "offline_after_s": 1.5, "silent_after_s": 0.5}

# The child ends when its stdin does, so an aborted test run leaves no controller behind.
CONTROLLER = """
import json, logging, signal, sys, threading
from controller.service import run
from netloom.settings import Settings
from schemas.errors import Failure

stop = threading.Event()
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
signal.signal(signal.SIGTERM, lambda *_: stop.set())
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
settings = Settings.model_validate(json.loads(sys.argv[1]))
try:
    run(settings, stop, lambda detail: print(json.dumps({"ready": detail}), flush=True))
except Failure as exc:
    print(json.dumps({"failure": exc.code, "message": exc.info.message}), flush=True)
    sys.exit(3)
"""


class ControllerProcess:
    """A controller in a process of its own."""

    def __init__(self, url: str, data: Path, settings: Mapping[str, Any]) -> None:
        self.url, self.data, self.log = url, data, data / "controller.log"
        self._given = {"data": str(data), "broker": {"url": url}, "controller": dict(settings)}
        self._process: subprocess.Popen[str] | None = None
        data.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the controller is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it serves. Raises AssertionError with the code of the Failure it ended with."""
        assert not self.running
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CONTROLLER, json.dumps(self._given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        said = self._line()
        if "ready" not in said:
            self._end(signal.SIGKILL)
            raise AssertionError(f"{said.get('failure', 'it ended')}: {self.log.read_text()[-2000:]}")

    def failure(self, timeout_s: float = 10.0) -> str | None:
        """Wait for its end and return the code of the Failure it ended with."""
        assert self._process is not None
        self._process.wait(timeout_s)
        return str(self._line().get("failure"))

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for the orderly end."""
        self._end(signal.SIGTERM)

    def _line(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {}
        return found

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        end(process, number)


@contextlib.contextmanager
def start_controller(url: str, data: Path, **settings: Any) -> Iterator[ControllerProcess]:
    """A running controller on the broker at `url` with its files in `data`; `settings` are those of `controller`."""
    controller = ControllerProcess(url, data, {**FAST, **settings})
    controller.start()
    try:
        yield controller
    finally:
        controller.stop()


class Asker:
    """A client of the controller: `call` as the page does, `status` is the newest status heard."""

    def __init__(self, url: str, name: str) -> None:
        self.replies: list[dict[str, Any]] = []
        self.bus = BusClient(BrokerUrl.parse(url), name)
        self.bus.subscribe(topics.reply(name), lambda message: self.replies.append(json.loads(message.payload)))
        self.statuses: list[ControllerStatus] = []
        self.requester = Requester(self.bus, self.statuses.append)
        self.call = self.requester.call

    @property
    def status(self) -> ControllerStatus:
        return self.statuses[-1]

    def wait_controller(self, timeout_s: float = 10.0) -> None:
        until(lambda: self.requester.controller_online, timeout_s, "the controller is there")

    def raw(self, verb: str, payload: bytes) -> dict[str, Any]:
        """Send any payload and return the reply to it."""
        before = len(self.replies)
        self.bus.publish(topics.request(self.bus.client_id, verb), payload)
        until(lambda: len(self.replies) > before, what=f"a reply to {payload[:80]!r}")
        return self.replies[before]

    def page(self, **fields: Any) -> ArchiveRows:
        return self.call("archive.page", ArchiveRows, **fields)

    def get(self, **fields: Any) -> TestRecord:
        return self.call("archive.get", TestRecord, **fields)

    def start(self, probe: str, **fields: Any) -> TestTicket:
        asked = fields or {"ping": {"target": "192.0.2.7", "count": 10}}
        return self.call("test.start", TestTicket, **{"probe": probe, **asked})

    def state(self, test_id: str) -> str:
        return self.get(test=test_id).summary.state

    def wait_state(self, test_id: str, state: str, timeout_s: float = 8.0) -> TestRecord:
        """Wait until a test is in `state` and return it."""
        until(lambda: self.state(test_id) == state, timeout_s, f"test {test_id} is {state}")
        return self.get(test=test_id)


@contextlib.contextmanager
def client(url: str, name: str | None = None) -> Iterator[Asker]:
    """A client on the broker at `url`, up."""
    asker = Asker(url, name or f"cli:{new_id()[-12:]}")
    asker.bus.start()
    try:
        assert asker.bus.wait_up(10)
        yield asker
    finally:
        asker.bus.stop()


class ScriptedProbe:
    """A test double of the probe, made of a bus client: it measures nothing and says what it is told to say."""

    def __init__(self, url: str, name: str) -> None:
        self.name, self.instance = name, f"double-{name}"
        self.commands: list[dict[str, Any]] = []
        self.acks: list[Ack] = []
        self.statuses: list[tuple[ProbeStatus, bool]] = []
        """What is said on its status topic, by whomever, and whether it came retained."""
        self.seq = 0
        self.started_at = datetime.now(UTC)
        self.bus = BusClient(BrokerUrl.parse(url), f"{name}:{self.instance}", will=self._will)
        self.bus.subscribe(topics.probe(name, "cmd"), lambda m: self.commands.append(json.loads(m.payload)))
        self.bus.subscribe_to(topics.probe(name, "ack"), Ack, lambda _, ack, __: self.acks.append(ack))
        self.bus.subscribe_to(
            topics.probe(name, "status"), ProbeStatus, lambda _, s, m: self.statuses.append((s, m.retain))
        )

    def _will(self, connection: str) -> Will:
        return Will(topics.probe(self.name, "status"), codec.encode(self.status("offline", connection, reason="will")))

    def status(self, state: str, connection: str | None = None, **changes: Any) -> ProbeStatus:
        now = format_instant(datetime.now(UTC))
        fields = {
            "state": state,
            "instance": self.instance,
            "connection": connection or self.bus.connection,
            "at": now,
            "since": now,
            "started_at": format_instant(self.started_at),
            **changes,
        }
        return codec.validate(ProbeStatus, fields)

    def say_online(self, **changes: Any) -> None:
        self.bus.publish(topics.probe(self.name, "status"), self.status("online", **changes), retain=True).wait(5)

    def progress(self, test_id: str, state: str, **fields: Any) -> None:
        self.seq += 1
        values = {"id": test_id, "seq": self.seq, "at": format_instant(datetime.now(UTC)), "state": state, **fields}
        self.bus.publish(topics.probe(self.name, "progress"), codec.validate(Progress, values))

    def result(self, test_id: str, *, retain: bool = False, **changes: Any) -> None:
        measured = format_instant(datetime.now(UTC) - timedelta(seconds=1))
        fields = {"id": test_id, "number": None, "probe_name": self.name, "measured_at": measured, **changes}
        payload = codec.encode(codec.validate(Result, result_fields(**fields)))
        self.bus.publish(topics.probe(self.name, "result"), payload, retain=retain)

    def raw(self, leaf: topics.ProbeLeaf, payload: bytes, *, retain: bool = False) -> None:
        self.bus.publish(topics.probe(self.name, leaf), payload, retain=retain)

    @property
    def stored(self) -> list[str]:
        """Every id acknowledged, as often as it was."""
        return [test_id for ack in self.acks for test_id in ack.stored]

    @property
    def refused(self) -> list[tuple[str, str]]:
        return [(one.id, one.code) for ack in self.acks for one in ack.refused]

    def wait_command(self, test_id: str, count: int = 1, kind: str = "run") -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [c for c in self.commands if c["id"] == test_id and c["kind"] == kind]

        until(lambda: len(found()) >= count, what=f"{count} {kind} of {test_id}")
        return found()[-1]


@contextlib.contextmanager
def scripted_probe(
    url: str, name: str = "paris", *, online: bool = True, prepare: Callable[[ScriptedProbe], object] = id
) -> Iterator[ScriptedProbe]:
    """A scripted probe on the broker at `url`, up; it has said "online" once, unless told not to. It sends no heartbeats."""
    probe = ScriptedProbe(url, name)
    prepare(probe)
    probe.bus.start()
    try:
        assert probe.bus.wait_up(10)
        if online:
            probe.say_online()
        yield probe
    finally:
        probe.bus.stop()


def listen(bus: BusClient, topic_filter: str, into: list[Message]) -> None:
    """Collect the messages on `topic_filter`; before the client starts."""
    bus.subscribe(topic_filter, into.append)
