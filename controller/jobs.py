"""The job table: every test that has not ended, moved from state to state until it has.

The archive holds the tests; this table holds beside it what only a running program needs: when a command is to be sent again, when
a probe was last heard, and when it is too late. All of it runs in the archive's writer thread. Deadlines are kept in the archive as
wall-clock times for restarts, and watched on the monotonic clock, so a clock that jumps ends no test.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from pydantic import BaseModel
from sqlalchemy import Connection

from controller import deadlines
from controller.archive import Archive, Row, rows
from controller.registry import Registry
from controller.writer import Work
from netloom.clock import Clock
from netloom.ids import new_id
from schemas import limits, topics
from schemas.base import format_instant
from schemas.command import CancelCommand, RunCommand, TestParts
from schemas.errors import ErrorInfo, Failure, error
from schemas.progress import Progress
from schemas.request import FINAL_STATES, TestCancel, TestStart, TestState, TestTicket

log = logging.getLogger(__name__)

RANK: Final[dict[str, int]] = {"waiting": 0, "queued": 1, "accepted": 2, "running": 3}
"""A test only moves on, whatever arrives late or twice."""


class Bus(Protocol):
    """What the job table needs of the bus."""

    @property
    def up(self) -> bool:
        """Whether the connection stands."""

    def publish(self, topic: str, message: BaseModel, /) -> object:
        """Send a message. Raise Failure (broker_unreachable)."""


@dataclass
class Job:
    """A test that has not ended. Times are monotonic, s."""

    number: int
    id: str
    probe: str
    state: TestState
    command: RunCommand | None
    """What is sent until the probe answers; None for a test that began without this controller."""
    ttl_s: int
    send_until: float
    expires_at: float
    deadline_at: float | None
    next_send_at: float
    heard_at: float
    silent: bool = False
    cancelling: bool = False
    next_cancel_at: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """What a result names it by."""
        return self.probe, self.id


class Jobs:
    """The table. `grace_s` is what a deadline is extended by, for a result on its way."""

    def __init__(
        self, archive: Archive, registry: Registry, bus: Bus, clock: Clock, *, silent_after_s: float, grace_s: float
    ) -> None:
        self.counters: Counter[str] = Counter()
        """started, commands, expired, lost, rejected, cancelled."""
        self._archive, self._registry, self._bus, self._clock = archive, registry, bus, clock
        self._silent_after_s, self._grace_s = silent_after_s, grace_s
        self._jobs: dict[tuple[str, str], Job] = {}
        self._recalled: dict[tuple[str, str], float] = {}
        """Tests cancelled before their probe had answered, and when the cancel was last sent."""

    def __len__(self) -> int:
        return len(self._jobs)

    # --- from the archive -------------------------------------------------------------------------------------------------
    def load(self, conn: Connection) -> None:
        """Take the table from the archive: at the start, and after a failed commit, when memory may be ahead of it."""
        known, self._jobs = self._jobs, {}
        for row in self._archive.open_tests(conn):
            key = (row["probe"], row["id"])
            before = known.get(key)
            if before is not None and before.state == row["state"] and before.silent == row["silent"]:
                self._jobs[key] = before
            else:
                self._jobs[key] = self._job(conn, row)

    def _job(self, conn: Connection, row: Row) -> Job:
        now, wall = self._clock.monotonic(), self._clock.now()
        parts = self._archive.parts(conn, row["number"]) if row["ttl_s"] is not None else None
        ttl_s = row["ttl_s"] or 0
        left_s = (row["created_at"] + timedelta(seconds=ttl_s) - wall).total_seconds()
        return Job(
            number=row["number"],
            id=row["id"],
            probe=row["probe"],
            state=row["state"],
            command=None if parts is None else _command(row, parts),
            ttl_s=ttl_s,
            send_until=now + min(left_s, ttl_s),
            # It may have been taken while this program was away: its probe has the grace to say so.
            expires_at=now + min(max(left_s, self._grace_s), ttl_s + self._grace_s),
            deadline_at=None if row["deadline_at"] is None else now + self._left_s(row["deadline_at"], wall),
            next_send_at=now,
            heard_at=now,
            silent=row["silent"],
            cancelling=row["cancel_at"] is not None,
        )

    def _left_s(self, deadline_at: datetime, wall: datetime) -> float:
        """Return the time left to a stored deadline: not less than a grace, not more than any test can take."""
        most_s = deadlines.ANY_S + deadlines.QUEUE_S
        return min(max((deadline_at - wall).total_seconds(), self._grace_s), most_s)

    # --- requests -----------------------------------------------------------------------------------------------------------
    def start(self, conn: Connection, asked: TestStart) -> tuple[TestTicket, Job | None]:
        """Begin a test; the job is None if this request has started one before.

        Raises:
            Failure: probe_unknown, probe_offline; test_not_found if its test was deleted since.
        """
        if (row := self._archive.by_request(conn, asked.id)) is not None:
            return _ticket(row), None
        if self._archive.request_is_deleted(conn, asked.id):
            raise Failure("test_not_found", test=f"of request {asked.id}")
        status = self._registry.get(asked.probe)
        if status is None:
            raise Failure("probe_unknown", field="probe", probe=asked.probe)
        if status.state == "offline":
            raise Failure("probe_offline", field="probe", probe=asked.probe, since=format_instant(status.since))
        now, wall = self._clock.monotonic(), self._clock.now()
        parts = TestParts(ping=asked.ping, speedtest=asked.speedtest, loaded_latency=asked.loaded_latency)
        values = {
            "id": new_id(),
            "probe": asked.probe,
            "request_id": asked.id,
            "state": "waiting",
            "origin": asked.origin,
            "created_at": wall,
            "ttl_s": asked.ttl_s,
            **rows.of_comment(asked.comment),
            **rows.of_parts(parts),
        }
        number = self._archive.add(conn, values, parts)
        job = Job(
            number=number,
            id=str(values["id"]),
            probe=asked.probe,
            state="waiting",
            command=_command({**values, "number": number}, parts),
            ttl_s=asked.ttl_s,
            send_until=now + asked.ttl_s,
            expires_at=now + asked.ttl_s,
            deadline_at=None,
            next_send_at=now,
            heard_at=now,
        )
        self._jobs[job.key] = job
        self.counters["started"] += 1
        return TestTicket(id=job.id, number=number, probe=job.probe, state="waiting"), job

    def cancel(self, conn: Connection, asked: TestCancel) -> TestTicket:
        """Cancel a test: at once if its probe has not answered, else as soon as the probe has stopped.

        Raises:
            Failure: test_not_found, test_final.
        """
        row = self._archive.by_id(conn, asked.test)
        if row is None:
            raise Failure("test_not_found", field="test", test=asked.test)
        if row["state"] in FINAL_STATES:
            raise Failure("test_final", field="test", test=row["number"], state=row["state"])
        job = self._jobs[row["probe"], row["id"]]
        if job.state == "waiting":
            self._finish(conn, job, "cancelled", error("cancelled"))
            self._recalled[job.key] = float("-inf")
            state: TestState = "cancelled"
        else:
            self._archive.change(conn, job.number, cancel_at=self._clock.now())
            job.cancelling, job.next_cancel_at, state = True, self._clock.monotonic(), job.state
        return TestTicket(id=job.id, number=job.number, probe=job.probe, state=state)

    # --- what probes say --------------------------------------------------------------------------------------------------
    def progress(self, conn: Connection, probe: str, heard: Progress) -> None:
        """Move a test on by what its probe says of it."""
        job = self._jobs.get((probe, heard.id))
        if job is None:
            self._unknown(conn, probe, heard)
            return
        job.heard_at = self._clock.monotonic()
        if job.silent:
            job.silent = False
            self._archive.change(conn, job.number, silent=False)
        if heard.state == "rejected":
            if job.state != "running":
                why = heard.error or error("bad_message", reason="the probe gave no reason")
                # A test that was cancelled while it waited has no result, and was not refused either.
                self._finish(conn, job, "cancelled" if why.code == "cancelled" else "rejected", why)
        elif heard.state == "finished":
            self._has_ended(conn, job)
        else:
            self._move(conn, job, heard)

    def _unknown(self, conn: Connection, probe: str, heard: Progress) -> None:
        """A test that this table does not hold: one of another client's, or one that has ended here."""
        row = self._archive.of_probe(conn, probe, heard.id)
        if row is not None:
            if row["state"] == "cancelled" and not row["has_result"] and heard.state in RANK:
                self._recalled.setdefault((probe, heard.id), float("-inf"))
            return
        if heard.state not in RANK or self._archive.is_deleted(conn, probe, heard.id):
            return
        now, wall = self._clock.monotonic(), self._clock.now()
        values = {"id": heard.id, "probe": probe, "state": "waiting", "origin": "mqtt", "created_at": wall}
        number = self._archive.add(conn, values)
        job = Job(number, heard.id, probe, "waiting", None, 0, now, now, None, now, now)
        self._jobs[job.key] = job
        self._move(conn, job, heard)

    def _move(self, conn: Connection, job: Job, heard: Progress) -> None:
        state: TestState = (
            "running" if heard.state == "running" else "queued" if heard.state == "queued" else "accepted"
        )
        if RANK[state] > RANK[job.state]:
            job.state = state
            self._set_deadline(conn, job, self._longest_s(job, heard), state=state)
        elif heard.eta_s is not None and job.deadline_at is not None:
            # The probe knows best how long its second part takes; small corrections are not worth a write.
            due = self._clock.monotonic() + min(heard.eta_s, deadlines.ANY_S)
            if due > job.deadline_at:
                self._set_deadline(conn, job, heard.eta_s)

    def _longest_s(self, job: Job, heard: Progress) -> float:
        own_s = deadlines.longest_s(job.command) if job.command else None
        said_s = heard.eta_s
        known = [found for found in (own_s, said_s) if found is not None]
        longest_s = max(known, default=deadlines.ANY_S)
        return longest_s + (0.0 if heard.state == "running" else deadlines.QUEUE_S)

    def _set_deadline(self, conn: Connection, job: Job, seconds: float, **columns: Any) -> None:
        seconds = min(seconds, deadlines.ANY_S + deadlines.QUEUE_S) + self._grace_s
        job.deadline_at = self._clock.monotonic() + seconds
        stored = self._clock.now() + timedelta(seconds=seconds)
        self._archive.change(conn, job.number, deadline_at=stored, **columns)

    def _has_ended(self, conn: Connection, job: Job) -> None:
        """The probe says the test is over; its result is on its way, or was acknowledged to an archive that is gone."""
        if job.state == "waiting":
            job.state = "accepted"
        due = self._clock.monotonic() + deadlines.FINISHED_S
        if job.deadline_at is None or due < job.deadline_at:
            self._set_deadline(conn, job, deadlines.FINISHED_S, state=job.state)

    def restarted(self, conn: Connection, probe: str) -> None:
        """A probe has restarted: it says soon what became of its tests, or never."""
        soon = self._clock.monotonic() + deadlines.RESTARTED_S
        for job in self._jobs.values():
            if job.probe == probe and job.deadline_at is not None and job.deadline_at > soon:
                self._set_deadline(conn, job, deadlines.RESTARTED_S)

    def ended(self, probe: str, test_id: str) -> None:
        """A test's result is stored (in the running transaction)."""
        self._jobs.pop((probe, test_id), None)
        self._recalled.pop((probe, test_id), None)

    def excuse(self) -> None:
        """Judge nobody for the time that this side could not hear: every deadline is at least a grace away."""
        now = self._clock.monotonic()
        for job in self._jobs.values():
            job.heard_at = now
            if job.deadline_at is not None:
                job.deadline_at = max(job.deadline_at, now + self._grace_s)

    # --- time -------------------------------------------------------------------------------------------------------------
    def send(self) -> None:
        """Send the commands that are due. Raise Failure (broker_unreachable)."""
        now = self._clock.monotonic()
        for job in self._jobs.values():
            if job.state == "waiting" and job.command is not None and job.next_send_at <= now < job.send_until:
                self.send_now(job)
            if job.cancelling and job.next_cancel_at <= now:
                self._send_cancel(job.key)
                job.next_cancel_at = now + limits.RESEND_COMMAND_S
        for key, sent_at in list(self._recalled.items()):
            if now - sent_at >= limits.RESEND_COMMAND_S:
                self._send_cancel(key)
                self._recalled.pop(key)

    def send_now(self, job: Job) -> None:
        """Send a test's command. Raise Failure (broker_unreachable)."""
        if job.command is None or self._jobs.get(job.key) is not job:
            return
        self._bus.publish(topics.probe(job.probe, "cmd"), job.command)
        job.next_send_at = self._clock.monotonic() + limits.RESEND_COMMAND_S
        self.counters["commands"] += 1

    def _send_cancel(self, key: tuple[str, str]) -> None:
        probe, test_id = key
        message = CancelCommand(kind="cancel", id=test_id, issued_at=self._clock.now())
        self._bus.publish(topics.probe(probe, "cmd"), message)

    def due(self) -> Iterable[Work]:
        """Return what time has brought about; nothing is judged while this side cannot hear."""
        if self._bus.up and any(self._judgement(job) for job in self._jobs.values()):
            yield Work(self._judge)

    def _judge(self, conn: Connection) -> None:
        # Again inside the transaction: what came in the same batch may have changed the verdict.
        for job in list(self._jobs.values()):
            if (judgement := self._judgement(job)) is not None:
                judgement(conn, job)

    def _judgement(self, job: Job) -> Callable[[Connection, Job], None] | None:
        now = self._clock.monotonic()
        if job.state == "waiting" and now >= job.expires_at:
            return self._expire
        if job.deadline_at is not None and now >= job.deadline_at:
            return self._lose
        if job.state == "running" and not job.silent and now - job.heard_at > self._silent_after_s:
            return self._fall_silent
        return None

    def _expire(self, conn: Connection, job: Job) -> None:
        self._finish(conn, job, "expired", error("not_answered", probe=job.probe, ttl=job.ttl_s))

    def _lose(self, conn: Connection, job: Job) -> None:
        self._finish(conn, job, "lost", error("lost", probe=job.probe, deadline=format_instant(self._clock.now())))

    def _fall_silent(self, conn: Connection, job: Job) -> None:
        job.silent = True
        self._archive.change(conn, job.number, silent=True)

    def _finish(self, conn: Connection, job: Job, state: TestState, why: ErrorInfo) -> None:
        self._archive.change(
            conn,
            job.number,
            state=state,
            silent=False,
            ended_at=self._clock.now(),
            deadline_at=None,
            error=rows.of_error(why),
        )
        self._jobs.pop(job.key, None)
        self.counters[state] += 1
        log.info("test %d of %s: %s", job.number, job.probe, why.message)


def _command(row: Any, parts: TestParts) -> RunCommand:
    """Any: a row of the archive, or the values of a new one."""
    return RunCommand(
        id=row["id"],
        number=row["number"],
        issued_at=row["created_at"],
        ttl_s=row["ttl_s"],
        origin=row["origin"],
        comment=row["comment"],
        ping=parts.ping,
        speedtest=parts.speedtest,
        loaded_latency=parts.loaded_latency,
    )


def _ticket(row: Row) -> TestTicket:
    return TestTicket(id=row["id"], number=row["number"], probe=row["probe"], state=row["state"])
