"""What arrives on `probe/<name>/cmd`: checked, run once, and always answered."""

import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from broker.client import BusClient, Message
from netloom.clock import Clock
from netloom.ids import new_id
from probe.clock import ControllerClock
from probe.delivery import Delivery
from probe.guard import NameGuard
from probe.heartbeat import Capabilities
from probe.journal import Journal, Record
from probe.limits import ProbeLimits, check_address, check_command
from probe.progress import Say, encode
from probe.resolve import literal
from probe.runner import Runner
from probe.spool import Spool
from schemas import codec
from schemas.command import CancelCommand, RunCommand
from schemas.errors import ErrorInfo, Failure
from schemas.progress import Progress, ProgressState
from schemas.result import ResultStatus

log = logging.getLogger(__name__)

_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")


class Commands:
    """Takes commands, in the bus client's thread."""

    def __init__(
        self,
        bus: BusClient,
        runner: Runner,
        journal: Journal,
        spool: Spool,
        delivery: Delivery,
        *,
        say: Say,
        limits: ProbeLimits,
        capabilities: Capabilities,
        guard: NameGuard,
        clock: Clock,
        controller: ControllerClock,
        on_change: Callable[[], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        """empty_commands, retained_commands, duplicates, expired, rejected, foreign_commands, unknown_cancels."""
        self._bus, self._runner, self._journal, self._spool, self._delivery = bus, runner, journal, spool, delivery
        self._say, self._limits, self._capabilities, self._guard = say, limits, capabilities, guard
        self._clock, self._controller, self._on_change = clock, controller, on_change

    def take(self, message: Message) -> None:
        """Take what arrived, whatever it is."""
        if not message.payload:
            self._count("empty_commands")  # somebody cleared a retained one
            return
        if message.retain:
            self._count("retained_commands")
            return
        try:
            value = codec.decode(message.payload)
        except Failure as exc:
            self._bus.drop(message, exc)
            self._on_change()
            return
        if self._guard.held:
            self._count("foreign_commands")
            return
        self._obey(value)

    # Any: JSON.
    def _obey(self, value: dict[str, Any]) -> None:
        given = value.get("id")
        test_id = given if isinstance(given, str) and _ID.match(given) else new_id()
        try:
            command = codec.command(value)
        except Failure as exc:
            self._count("rejected")
            # A broken repetition must not be taken for the end of a test that runs. Not journalled: it is refused
            # each time for what it is, and garbage must not push out what became of real commands.
            if self._journal.get(test_id) is None:
                self._tell(test_id, None, 0, "rejected", error=exc.info, field=exc.field)
            return
        if isinstance(command, CancelCommand):
            self._cancel(command)
        else:
            self._run(command, test_id)

    def _cancel(self, command: CancelCommand) -> None:
        if self._runner.cancel(command.id):
            return
        record = self._journal.get(command.id)
        if record is None:
            self._count("unknown_cancels")
        else:
            self._repeat(record)

    def _run(self, command: RunCommand, test_id: str) -> None:
        record = self._journal.get(test_id)
        if record is not None:
            self._count("duplicates")
            self._repeat(record)
            return
        try:
            self._check(command)
            self._runner.submit(command, test_id)
        except Failure as exc:
            self._reject(test_id, command.number, exc)

    def _check(self, command: RunCommand) -> None:
        """Raise Failure if the command may not be run."""
        if command.issued_at is not None and self._controller.agrees:
            age_s = (self._clock.now() - command.issued_at).total_seconds()
            if age_s > command.ttl_s:
                self._count("expired")
                raise Failure("expired", age=age_s, ttl=command.ttl_s)
        if command.loaded_latency:
            raise Failure("unsupported", field="loaded_latency", what="latency under load")
        check_command(command, self._limits)
        asked = {"ping": command.ping, "speedtest": command.speedtest}
        parts = {name: request for name, request in asked.items() if request is not None}
        for name, request in parts.items():
            known = literal(request.target)
            if known is not None:
                try:
                    check_address(request.target, known, self._limits)
                except Failure as exc:
                    raise Failure.of(exc.info, f"{name}.target") from None
        missing = [self._capabilities.missing(name) for name in parts]
        if missing and all(missing):
            raise Failure.of(next(reason for reason in missing if reason is not None))

    def _reject(self, test_id: str, number: int | None, why: Failure) -> None:
        self._count("rejected")
        self._journal.put(Record(id=test_id, state="rejected", number=number, error=why.info, field=why.field))
        self._tell(test_id, number, 0, "rejected", error=why.info, field=why.field)

    def _repeat(self, record: Record) -> None:
        """Say again what became of a command."""
        if not record.ended:
            self._runner.again(record.id)
            return
        seq = self._journal.next_seq(record.id)
        if record.state == "rejected":
            self._tell(record.id, record.number, seq, "rejected", error=record.error, field=record.field)
            return
        version = self._spool.find(record.id)
        if version is not None:
            self._delivery.again(version)
        else:
            self._tell(record.id, record.number, seq, "finished", outcome=record.outcome)

    def tell_rejection(self, record: Record) -> None:
        """Say that a command was refused, when nobody could hear it."""
        self._tell(
            record.id,
            record.number,
            self._journal.next_seq(record.id),
            "rejected",
            error=record.error,
            field=record.field,
        )

    def _tell(
        self,
        test_id: str,
        number: int | None,
        seq: int,
        state: ProgressState,
        *,
        error: ErrorInfo | None = None,
        field: str | None = None,
        outcome: ResultStatus | None = None,
    ) -> None:
        message = Progress(
            id=test_id,
            number=number,
            seq=seq,
            at=self._clock.now(),
            state=state,
            error=error,
            field=field,
            outcome=outcome,
        )
        self._say(encode(message), 1)

    def _count(self, what: str) -> None:
        self.counters[what] += 1
        self._on_change()
