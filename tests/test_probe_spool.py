"""The spool: nothing is lost but by an ack, whatever the disk does."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import probe.spool
from probe.results import Maker
from probe.spool import Spool
from schemas import codec
from schemas.result import Result
from tests.kit.results import make_result


def maker(test_id: str, *, autotest: bool = False, pad: int = 0) -> Maker:
    def make(version: int) -> tuple[Result, bytes]:
        result = make_result(
            id=test_id, version=version, autotest_id="autotest-1" if autotest else None, comment="x" * pad
        )
        return result, codec.encode(result)

    return make


def fill(spool: Spool, count: int, *, autotest: bool = False, prefix: str = "result") -> list[str]:
    names = [f"{prefix}-{number:04}" for number in range(count)]
    for name in names:
        spool.add(maker(name, autotest=autotest))
    return names


def ids(spool: Spool) -> list[str]:
    found = [spool.payload(version) for version in spool.waiting()]
    return [codec.parse(Result, payload).id for payload in found if payload is not None]


def test_results_are_kept_in_order_over_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    names = fill(spool, 12)
    again = Spool(tmp_path, 100)
    assert again.waiting() == list(range(1, 13))
    assert ids(again) == names
    assert again.add(maker("another-one")).version == 13
    assert again.status().waiting == 13


def test_a_result_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    result = spool.add(maker("result-0001"))
    (file,) = tmp_path.glob("*.json")
    assert codec.parse(Result, file.read_bytes()) == result
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_an_ack_removes_a_result_and_the_newest_is_kept_for_readers(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    first, second, third = fill(spool, 3)
    assert spool.forget(first)
    assert not spool.forget(first)
    assert not spool.forget("never-heard-of")
    assert spool.forget(third)
    assert ids(spool) == [second]
    for found in (spool, Spool(tmp_path, 100)):
        assert found.newest == 3
        payload = found.newest_payload()
        assert payload is not None
        assert codec.parse(Result, payload).id == third
        assert found.version == 3
    assert spool.forget(second)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["newest.json"]


def test_a_refused_result_goes_into_quarantine_and_its_version_is_not_given_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    first, second = fill(spool, 2)
    assert spool.quarantine(second, "../../etc/passwd")
    assert spool.quarantine(first, "bad_message")
    assert not spool.quarantine(first, "bad_message")
    names = sorted(path.name for path in (tmp_path / "quarantine").iterdir())
    assert names == [f"{1:016}.m.{first}.bad_message.json", f"{2:016}.m.{second}.unknown.json"]
    again = Spool(tmp_path, 100)
    assert (again.status().waiting, again.status().quarantined, again.version) == (0, 2, 2)


def test_the_quarantine_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.spool, "QUARANTINE_MAX", 2)
    spool = Spool(tmp_path, 100)
    for name in fill(spool, 4):
        spool.quarantine(name, "bad_message")
    assert len(list((tmp_path / "quarantine").iterdir())) == spool.status().quarantined == 2


def test_versions_go_on_from_what_was_found_on_the_bus(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    spool.continue_from(41)
    spool.continue_from(7)
    assert spool.add(maker("result-0001")).version == 42


def test_a_full_spool_drops_the_oldest_autotests_and_never_a_one_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 6)
    one_off = fill(spool, 2)
    autotests = fill(spool, 4, autotest=True, prefix="autotest")
    assert [spool.full, len(spool.waiting())] == [False, 6]
    more = fill(spool, 2, prefix="another")
    assert ids(spool) == [*one_off, *autotests[2:], *more]
    assert spool.status().dropped == 2
    last = fill(spool, 4, prefix="further")
    assert [spool.full, len(spool.waiting())] == [True, 8]
    assert ids(spool) == [*one_off, *more, *last]
    assert ids(Spool(tmp_path, 6)) == [*one_off, *more, *last]
    assert spool.status().dropped == 4


def test_any_cut_of_a_file_is_set_aside_and_the_others_live(tmp_path: Path) -> None:
    whole = next(iter([codec.encode(make_result(id="result-0001", version=2))]))
    for cut in [*range(0, len(whole), 97), len(whole) - 1]:
        folder = tmp_path / str(cut)
        spool = Spool(folder, 100)
        first, second, third = fill(spool, 3)
        (damaged,) = folder.glob(f"*{second}.json")
        damaged.write_bytes(whole[:cut])
        again = Spool(folder, 100)
        assert ids(again) == [first, third]
        assert again.waiting() == [1, 3]
        assert again.counters["results_corrupt"] == 1
        assert len(list(folder.glob("*.corrupt-*"))) == 1
        assert Spool(folder, 100).waiting() == [1, 3]


def test_what_is_no_result_of_ours_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    for name in ("readme.json", "1.m.short.json", ".half.tmp", "x.corrupt-1"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "quarantine" / "odd.json").write_bytes(b"{}")
    (tmp_path / "newest.json").write_bytes(b"not JSON")
    spool = Spool(tmp_path, 100)
    assert (spool.waiting(), spool.newest, spool.newest_payload()) == ([], 0, None)
    assert not (tmp_path / ".half.tmp").exists()
    assert list(tmp_path.glob("newest.json.corrupt-*"))
    swapped = fill(spool, 2)
    files = sorted(tmp_path.glob("0*.json"))
    files[0].write_bytes(files[1].read_bytes())
    assert ids(Spool(tmp_path, 100)) == [swapped[1]]


def test_a_file_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    names = fill(spool, 2)
    next(tmp_path.glob(f"*{names[0]}.json")).unlink()
    assert ids(spool) == [names[1]]
    assert spool.waiting() == [2]


def test_a_disk_that_takes_nothing_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spool = Spool(tmp_path, 100)
    before = fill(spool, 1)
    with monkeypatch.context() as patch:
        patch.setattr(probe.spool, "write_atomic", refuse)
        during = fill(spool, 3, prefix="memory")
        status = spool.status()
        assert status.degraded is not None
        assert status.degraded.code == "spool_degraded"
        assert "No space" in status.degraded.message
        assert status.waiting == 4
        assert ids(spool) == [*before, *during]
        assert not spool.heal()
        assert spool.forget(during[2])
        assert spool.newest == 4
    assert spool.heal()
    assert spool.status().degraded is None
    assert ids(Spool(tmp_path, 100)) == [*before, *during[:2]]
    assert Spool(tmp_path, 100).newest == 4


def test_memory_is_bounded_and_one_offs_are_refused_before_they_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    spool = Spool(tmp_path, 100, memory_most=4)
    on_disk = fill(spool, 2, autotest=True, prefix="on-disk")
    monkeypatch.setattr(probe.spool, "write_atomic", refuse)
    fill(spool, 10, autotest=True, prefix="autotest")
    assert len(spool.waiting()) == 2 + 4
    assert ids(spool)[:2] == on_disk, "what is on disk costs no memory"
    assert spool.status().dropped == 6
    assert not spool.full
    fill(spool, 4)
    assert spool.full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "netloom-test", folder], check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_and_is_freed(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 10_000)
    names: list[str] = []
    while spool.degraded is None:
        names.append(f"result-{len(names):04}")
        spool.add(maker(names[-1], pad=400))
        assert len(names) < 5_000
    names += fill(spool, 20, prefix="memory")
    assert ids(spool) == names
    assert not spool.heal()
    for name in names[:200]:
        spool.forget(name)
    assert spool.heal()
    assert ids(Spool(small_disk / "spool", 10_000)) == names[200:]


def test_a_disk_that_turns_read_only_and_back(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", 100)
    names = fill(spool, 2)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    names += fill(spool, 3, prefix="memory")
    assert spool.degraded is not None
    assert ids(spool) == names
    assert spool.forget(names[0])
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert spool.heal()
    # The file of the acked one could not be removed: it is sent, and acknowledged, once more.
    assert ids(Spool(small_disk / "spool", 100)) == names
