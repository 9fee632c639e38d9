"""After a crash: tests that were running end with an error, tests that were waiting are refused."""

import logging
from collections.abc import Iterator

from probe import results
from probe.journal import Journal, Record
from probe.limits import ProbeLimits
from probe.spool import Spool
from schemas import codec
from schemas.errors import Failure, error
from schemas.result import Result

log = logging.getLogger(__name__)


def recover(journal: Journal, spool: Spool, name: str, limits: ProbeLimits) -> list[Record]:
    """Give every test that a crash cut short its end. Return those that never started: their refusal is still to be told."""
    refused: list[Record] = []
    for record in journal.unfinished():
        if record.state == "queued" or record.command is None or record.started_at is None:
            end = _ended(record, "rejected", error=error("probe_restarted"))
            refused.append(end)
        else:
            found = _result_of(record.id, spool) or spool.add(_maker(record, name, limits))
            end = _ended(record, "finished", outcome=found.status)
        log.warning("test %s was cut short by a restart of the probe: %s", record.id, end.outcome or end.state)
        journal.put(end)
    return refused


def _ended(record: Record, state: str, **values: object) -> Record:
    kept = {"id": record.id, "number": record.number, "seq": record.seq + 1}
    return Record.model_validate({**kept, "state": state, **values})


def _maker(record: Record, name: str, limits: ProbeLimits) -> results.Maker:
    """Return what makes the result of an interrupted test; how long it ran nobody knows, so its duration is 0."""
    command, started_at = record.command, record.started_at
    if command is None or started_at is None:
        raise ValueError("only a test that has started has a result")
    asked = [part for part in ("ping", "speedtest") if getattr(command, part) is not None]
    draft = results.Draft(
        probe_name=name,
        command=command,
        limits=limits,
        measured_at=started_at,
        duration_s=0.0,
        outcomes={part: results.failed(part, "probe_restarted") for part in asked},
    )
    return lambda version: results.make(draft, version)


def _result_of(test_id: str, spool: Spool) -> Result | None:
    """Return the result of a test that did end: the crash came between its result and its record."""
    for payload in _candidates(test_id, spool):
        try:
            found = codec.parse(Result, payload)
        except Failure:
            continue
        if found.id == test_id:
            return found
    return None


def _candidates(test_id: str, spool: Spool) -> Iterator[bytes]:
    version = spool.find(test_id)
    for payload in (None if version is None else spool.payload(version), spool.newest_payload()):
        if payload is not None:
            yield payload
