"""What the controller answers, verb by verb: `schemas.request` says what each is asked with and what it answers."""

import contextlib
from typing import Final

from sqlalchemy import Connection

from broker.client import BusClient
from controller.archive import Archive, Row, rows
from controller.jobs import Job, Jobs
from controller.registry import Registry
from controller.saved_targets import SavedTargets
from netloom.clock import Clock
from schemas import limits, topics
from schemas import request as ask
from schemas.errors import Failure

RECORD_MAX_BYTES: Final = limits.ARCHIVE_PAGE_MAX_BYTES - 4_096


class Answers:
    """One method for each direct verb; `apply` and `answer` for each that changes the archive."""

    def __init__(
        self, bus: BusClient, archive: Archive, jobs: Jobs, registry: Registry, targets: SavedTargets, clock: Clock
    ) -> None:
        self._bus, self._archive, self._jobs = bus, archive, jobs
        self._registry, self._targets, self._clock = registry, targets, clock

    # --- tests --------------------------------------------------------------------------------------------------------------
    def start(self, conn: Connection, asked: ask.TestStart) -> tuple[ask.TestTicket, Job | None]:
        """test.start. Raise Failure: probe_unknown, probe_offline, test_not_found."""
        return self._jobs.start(conn, asked)

    def started(self, outcome: tuple[ask.TestTicket, Job | None]) -> ask.TestTicket:
        """test.start, once it is in the archive: only now does the probe hear of it."""
        ticket, job = outcome
        if job is not None:
            with contextlib.suppress(Failure):  # sent again until the probe answers
                self._jobs.send_now(job)
        return ticket

    def cancel(self, conn: Connection, asked: ask.TestCancel) -> ask.TestTicket:
        """test.cancel. Raise Failure: test_not_found, test_final."""
        return self._jobs.cancel(conn, asked)

    def cancelled(self, ticket: ask.TestTicket) -> ask.TestTicket:
        """test.cancel, once it is in the archive."""
        with contextlib.suppress(Failure):  # sent again until the test has ended
            self._jobs.send()
        return ticket

    # --- the archive ----------------------------------------------------------------------------------------------------------
    def page(self, asked: ask.ArchivePage) -> ask.ArchiveRows:
        """archive.page. Raise Failure: store_failed."""
        with self._archive.database.read() as conn:
            return self._archive.page(conn, asked)

    def get(self, asked: ask.ArchiveGet) -> ask.TestRecord:
        """archive.get. Raise Failure: test_not_found, store_failed."""
        with self._archive.database.read() as conn:
            if asked.test is not None:
                row = self._archive.by_id(conn, asked.test)
            else:
                row = self._archive.by_number(conn, asked.number or 0)
            if row is None:
                field = "test" if asked.test is not None else "number"
                raise Failure("test_not_found", field=field, test=asked.test or asked.number)
            return fitting(self._archive.record(conn, row))

    def comment(self, conn: Connection, asked: ask.ArchiveComment) -> None:
        """archive.comment. Raise Failure: test_not_found."""
        self._archive.change(conn, self._row(conn, asked.test)["number"], **rows.of_comment(asked.comment))

    def delete(self, conn: Connection, asked: ask.ArchiveDelete) -> None:
        """archive.delete. Raise Failure: test_not_found, test_not_final."""
        row = self._row(conn, asked.test)
        if row["state"] not in ask.FINAL_STATES:
            raise Failure("test_not_final", field="test", test=row["number"], state=row["state"])
        self._archive.delete(conn, row, self._clock.now())

    def done(self, _: object) -> ask.Done:
        """After a change of the archive."""
        return ask.Done(revision=self._archive.revision)

    def _row(self, conn: Connection, test_id: str) -> Row:
        row = self._archive.by_id(conn, test_id)
        if row is None:
            raise Failure("test_not_found", field="test", test=test_id)
        return row

    # --- saved targets ----------------------------------------------------------------------------------------------------------
    def targets(self, _: ask.TargetList) -> ask.Targets:
        """target.list."""
        return ask.Targets(targets=tuple(self._targets.all()), revision=self._targets.revision)

    def add_target(self, asked: ask.TargetAdd) -> ask.TargetChanged:
        """target.add. Raise Failure: target_exists, store_failed."""
        return ask.TargetChanged(target=self._targets.add(asked), revision=self._targets.revision)

    def update_target(self, asked: ask.TargetUpdate) -> ask.TargetChanged:
        """target.update. Raise Failure: target_not_found, target_exists, store_failed."""
        return ask.TargetChanged(target=self._targets.replace(asked.target_id, asked), revision=self._targets.revision)

    def delete_target(self, asked: ask.TargetDelete) -> ask.Done:
        """target.delete. Raise Failure: target_not_found, store_failed."""
        self._targets.delete(asked.target_id)
        return ask.Done(revision=self._targets.revision)

    # --- probes -----------------------------------------------------------------------------------------------------------------
    def forget_probe(self, asked: ask.ProbeForget) -> ask.Done:
        """probe.forget. Raise Failure: probe_unknown, probe_online, broker_unreachable."""
        status = self._registry.get(asked.probe)
        if status is None:
            raise Failure("probe_unknown", field="probe", probe=asked.probe)
        if status.state == "online":
            raise Failure("probe_online", field="probe", probe=asked.probe)
        for leaf in ("autotests", "result", "status"):
            self._bus.publish(topics.probe(asked.probe, leaf), b"", retain=True)
        self._registry.forget(asked.probe)
        return ask.Done()


def fitting(record: ask.TestRecord) -> ask.TestRecord:
    """Return a record that a reply can carry; if iperf3's own JSON had to go, `left_out` (a key of its own) says "json"."""
    result = record.result
    if result is None or result.speedtest is None or len(record.model_dump_json().encode()) <= RECORD_MAX_BYTES:
        return record
    found = {"download": result.speedtest.download, "upload": result.speedtest.upload}
    bare = {name: part and part.model_copy(update={"json_": None}) for name, part in found.items()}
    speedtest = result.speedtest.model_copy(update=bare)
    return record.model_copy(
        update={"result": result.model_copy(update={"speedtest": speedtest}), "left_out": ["json"]}
    )
