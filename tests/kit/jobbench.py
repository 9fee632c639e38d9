"""The job table on a bench: a real archive and registry, with the clock and the wire in the test's hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection

from controller.archive import Archive, open_database
from controller.jobs import Jobs
from controller.registry import Registry
from schemas import codec
from schemas import request as ask
from schemas.command import CancelCommand, PingSpec, RunCommand
from schemas.errors import Failure
from schemas.progress import Progress
from schemas.status import ProbeStatus
from tests.kit.results import make_result

GRACE_S = 10.0


class ManualClock:
    def __init__(self) -> None:
        self.mono, self.wall = 1000.0, datetime(2026, 11, 23, 20, 0, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.mono

    def now(self) -> datetime:
        return self.wall

    def run(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += timedelta(seconds=seconds)


class Wire:
    """A test double of the bus: it remembers what was published."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[tuple[str, BaseModel]] = []

    def publish(self, topic: str, message: BaseModel, /) -> None:
        if not self.up:
            raise Failure("broker_unreachable", url="mqtt://test", reason="down")
        self.sent.append((topic, message))


class Bench:
    """A job table on a real archive, with a clock and a wire in the test's hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.wire = folder, ManualClock(), Wire()
        self.registry = Registry(self.clock, 45.0)
        self.open()
        self.online("paris")

    def open(self) -> None:
        self.database = open_database(None, self.folder)
        self.archive = Archive(self.database)
        self.jobs = Jobs(self.archive, self.registry, self.wire, self.clock, silent_after_s=10.0, grace_s=GRACE_S)
        self.do(self.jobs.load)

    def restart(self, after_s: float = 0.0) -> None:
        self.database.close()
        self.clock.run(after_s)
        self.open()

    def do(self, work: Callable[[Connection], Any]) -> Any:
        with self.database.write() as conn:
            return work(conn)

    def online(self, name: str, **changes: Any) -> bool:
        now = self.clock.now().isoformat()
        fields = {"state": "online", "instance": "i", "connection": "c", "at": now, "since": now, **changes}
        return self.registry.hear(name, codec.validate(ProbeStatus, fields), retained=False)

    def start(self, request_id: str = "request-1", **fields: Any) -> ask.TestTicket:
        fields = {"probe": "paris", "ping": PingSpec(target="192.0.2.7", count=10), **fields}
        asked = ask.TestStart(id=request_id, **fields)
        ticket, job = self.do(lambda conn: self.jobs.start(conn, asked))
        if job is not None:
            self.jobs.send_now(job)
        return ticket  # type: ignore[no-any-return]  # `do` passes on whatever the work returns

    def cancel(self, test_id: str) -> ask.TestTicket:
        asked = ask.TestCancel(id="request-9", test=test_id)
        return self.do(lambda conn: self.jobs.cancel(conn, asked))  # type: ignore[no-any-return]  # as above

    def say(self, test_id: str, state: str, probe: str = "paris", **fields: Any) -> None:
        values = {"id": test_id, "seq": 1, "at": self.clock.now().isoformat(), "state": state, **fields}
        progress = codec.validate(Progress, values)
        self.do(lambda conn: self.jobs.progress(conn, probe, progress))

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.run(0.5)
            self.tick()

    def tick(self) -> None:
        if self.wire.up:
            self.jobs.send()
        for work in self.jobs.due():
            self.do(work.apply)

    def row(self, test_id: str) -> ask.TestSummary:
        def found(conn: Connection) -> ask.TestSummary:
            row = self.archive.by_id(conn, test_id)
            assert row is not None
            return self.archive.record(conn, row).summary

        return self.do(found)  # type: ignore[no-any-return]  # as above

    def state(self, test_id: str) -> str:
        return self.row(test_id).state

    def result(self, test_id: str, **changes: Any) -> None:
        result = make_result(id=test_id, **changes)

        def store(conn: Connection) -> None:
            self.archive.store(conn, "paris", result, self.clock.now())
            self.jobs.ended("paris", test_id)

        self.do(store)

    @property
    def runs(self) -> list[RunCommand]:
        return [message for _, message in self.wire.sent if isinstance(message, RunCommand)]

    @property
    def cancels(self) -> list[CancelCommand]:
        return [message for _, message in self.wire.sent if isinstance(message, CancelCommand)]
