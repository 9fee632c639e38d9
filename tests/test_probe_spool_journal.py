"""The journal of commands, the set of autotests, and what a restart makes of both."""

import errno
import os
from pathlib import Path
from typing import Literal

import pytest

import probe.autotests
import probe.journal
from netloom.settings import ProbeLimits
from probe.autotests import AutotestStore
from probe.journal import SEQ_LEAP, Journal, Record
from probe.recovery import recover
from probe.spool import Spool
from schemas import codec
from schemas.autotest import AutotestSet
from schemas.base import Instant
from schemas.command import RunCommand
from schemas.result import Result
from tests.kit.agents import FakeClock
from tests.kit.results import make_result

COMMAND = codec.validate(
    RunCommand,
    {
        "id": "command-1",
        "number": 7,
        "comment": "hello",
        "origin": "web",
        "ping": {"target": "192.0.2.7"},
        "speedtest": {"target": "192.0.2.9"},
    },
)


def record(
    test_id: str,
    state: Literal["queued", "running", "rejected", "finished"] = "finished",
    *,
    started_at: Instant | None = None,
) -> Record:
    return Record(
        id=test_id,
        state=state,
        seq=3,
        command=COMMAND.model_copy(update={"id": test_id}) if state in ("queued", "running") else None,
        started_at=started_at,
        outcome="done" if state == "finished" else None,
    )


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_record_is_on_disk_when_put_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.put(record("command-1", "queued"))
    journal.put(record("command-1"))
    journal.put(record("command-2", "running"))
    again = Journal(tmp_path / "journal.jsonl")
    first, second = again.get("command-1"), again.get("command-2")
    assert first is not None
    assert (first.state, first.outcome, first.command) == ("finished", "done", None)
    assert second is not None
    assert second.command == COMMAND.model_copy(update={"id": "command-2"})
    assert [found.id for found in again.unfinished()] == ["command-2"]
    assert again.get("command-3") is None


def test_the_sequence_rises_from_message_to_message_and_over_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.put(record("command-1"))
    assert [journal.next_seq("command-1") for _ in range(3)] == [4, 5, 6]
    assert journal.next_seq("never-heard-of") == 0
    assert Journal(tmp_path / "journal.jsonl").next_seq("command-1") == 3 + SEQ_LEAP + 1


def test_the_last_ids_are_kept_and_none_that_still_runs_is_pushed_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", keep=10)
    journal.put(record("running-1", "running"))
    for number in range(30):
        journal.put(record(f"command-{number}"))
    for found in (journal, Journal(tmp_path / "journal.jsonl", keep=10)):
        assert found.get("running-1") is not None
        assert found.get("command-20") is None
        assert all(found.get(f"command-{number}") is not None for number in range(21, 30))


def test_the_file_is_written_anew_before_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.journal, "LINES_MAX", 20)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, keep=5)
    for number in range(100):
        journal.put(record(f"command-{number}"))
        assert len(path.read_bytes().splitlines()) <= 20
    assert Journal(path, keep=5).get("command-99") is not None


def test_any_torn_end_costs_one_record_at_most(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.put(record(f"command-{number}", "running"))
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last + 1):
        path.write_bytes(whole[:-cut])
        again = Journal(path)
        found = [again.get(f"command-{number}") is not None for number in range(3)]
        assert found == [True, True, cut == 1], "only its newline was missing" if cut == 1 else cut
        again.put(record("command-9"))
        assert Journal(path).get("command-9") is not None
        assert Journal(path).get("command-0") is not None


def test_garbage_between_the_lines_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).put(record("command-1"))
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes() + b'{"id": 3}\n[]\nnull\n' + b"[" * 10_000 + b"\n")
    assert Journal(path).get("command-1") is not None
    assert len(path.read_bytes().splitlines()) == 1


def test_a_disk_that_takes_nothing_leaves_the_journal_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.put(record("command-1"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        patch.setattr(probe.journal, "write_atomic", refuse)
        journal.put(record("command-2"))
        assert (journal.heal(), journal.degraded) == (False, "No space left on device")
        assert journal.get("command-2") is not None
    assert (journal.heal(), journal.degraded) == (True, None)
    assert Journal(path).get("command-2") is not None


def test_a_half_written_record_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.put(record("command-1"))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))
        journal.put(record("command-2"))
    assert journal.degraded is not None
    journal.put(record("command-3"))
    again = Journal(path)
    assert all(again.get(f"command-{number}") is not None for number in (1, 2, 3))


def test_what_ran_ends_with_an_error_and_what_waited_is_refused(tmp_path: Path) -> None:
    clock, spool, journal = FakeClock(), Spool(tmp_path, 10), Journal(tmp_path / "journal.jsonl")
    journal.put(record("finished-1"))
    journal.put(record("queued-01", "queued"))
    journal.put(record("running-1", "running", started_at=clock.now()))
    refused = recover(journal, spool, "paris", ProbeLimits())
    assert [(found.id, found.state) for found in refused] == [("queued-01", "rejected")]
    assert refused[0].error is not None
    assert refused[0].error.code == "probe_restarted"
    assert spool.waiting() == [1]
    result = codec.parse(Result, spool.payload(1) or b"")
    assert (result.id, result.status, result.number, result.comment) == ("running-1", "error", 7, "hello")
    assert (result.measured_at, result.origin) == (clock.now(), "web")
    assert {part: reason.code for part, reason in result.errors.items()} == dict.fromkeys(
        ("ping", "speedtest"), "probe_restarted"
    )
    assert result.target is not None
    assert result.target.host == "192.0.2.7"
    assert result.ping is None
    assert journal.unfinished() == []
    ended = journal.get("running-1")
    assert ended is not None
    assert (ended.state, ended.outcome, ended.command) == ("finished", "error", None)
    assert recover(Journal(tmp_path / "journal.jsonl"), spool, "paris", ProbeLimits()) == []
    assert spool.waiting() == [1]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_test_whose_result_was_written_keeps_it(tmp_path: Path, acknowledged: bool) -> None:
    spool, journal = Spool(tmp_path, 10), Journal(tmp_path / "journal.jsonl")
    journal.put(record("running-1", "running", started_at=FakeClock().now()))
    done = make_result(id="running-1", version=1, status="done")
    spool.add(lambda _: (done, codec.encode(done)))
    if acknowledged:
        spool.forget("running-1")
    assert recover(journal, spool, "paris", ProbeLimits()) == []
    ended = journal.get("running-1")
    assert ended is not None
    assert (ended.state, ended.outcome) == ("finished", "done")
    assert spool.version == 1


def autotests(controller: str, revision: int, period_s: int | None = None) -> AutotestSet:
    listed = [{"id": "autotest-1", "period_s": period_s, "ping": {"target": "192.0.2.7"}}] if period_s else []
    return codec.validate(AutotestSet, {"controller_id": controller, "revision": revision, "autotests": listed})


def test_a_set_of_autotests_replaces_by_revision_and_controller(tmp_path: Path) -> None:
    path = tmp_path / "autotests.json"
    store = AutotestStore(path)
    assert (store.seen.controller_id, store.seen.revision) == (None, 0)
    assert store.offer(autotests("controller-a", 5, 30))
    assert not store.offer(autotests("controller-a", 5, 60))
    assert not store.offer(autotests("controller-a", 4, 60))
    assert AutotestStore(path).current == autotests("controller-a", 5, 30)
    assert store.offer(autotests("controller-a", 6))
    assert AutotestStore(path).current == autotests("controller-a", 6)
    assert store.offer(autotests("controller-b", 1, 60))
    assert (AutotestStore(path).seen.controller_id, AutotestStore(path).seen.revision) == ("controller-b", 1)


def test_a_damaged_set_of_autotests_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "autotests.json"
    path.write_bytes(b'{"controller_id": "controller-a"')
    assert AutotestStore(path).current is None
    assert list(tmp_path.glob("autotests.json.corrupt-*"))


def test_a_set_that_could_not_be_written_is_in_force_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "autotests.json"
    store = AutotestStore(path)
    with monkeypatch.context() as patch:
        patch.setattr(probe.autotests, "write_atomic", refuse)
        assert store.offer(autotests("controller-a", 5))
        assert store.seen.revision == 5
        assert not path.exists()
    assert store.heal()
    assert AutotestStore(path).seen.revision == 5
