"""The settings' file survives crashes, full disks, damage and threads."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinydb import TinyDB, where

from netloom.store import CrashSafeStorage, Store
from schemas.errors import Failure
from tests.kit.faults import fill, run_until_killed, small_disk

WRITER = """
import sys
from netloom.store import Store
store, number = Store(sys.argv[1]), int(sys.argv[2])
while True:
    number += 1
    with store.edit() as db:
        db.table("targets").insert({"number": number, "padding": "x" * 2000})
        if len(db.table("targets")) > 20:
            db.table("targets").truncate()
            db.table("targets").insert({"number": number})
    print(number)
"""


def _numbers(store: Store) -> list[int]:
    with store.view() as db:
        return [document["number"] for document in db.table("targets").all()]


def test_a_killed_writer_leaves_every_finished_change(tmp_path: Path) -> None:
    path, last = tmp_path / "targets.json", 0
    for number in range(20):
        said = run_until_killed(WRITER, [str(path), str(last)], 1 + number * 7 % 12)
        store = Store(path)
        assert store.problem is None
        found = max(_numbers(store))
        assert found in (int(said[-1]), int(said[-1]) + 1)
        last = found


def test_it_is_a_storage_of_tinydb(tmp_path: Path) -> None:
    with TinyDB(tmp_path / "a.json", storage=CrashSafeStorage) as db:
        db.insert({"name": "lab", "host": "192.0.2.7"})
        db.update({"host": "192.0.2.8"}, where("name") == "lab")
    with TinyDB(tmp_path / "a.json", storage=CrashSafeStorage) as db:
        assert db.all() == [{"name": "lab", "host": "192.0.2.8"}]
    assert "\n" in (tmp_path / "a.json").read_text(), "a person can read it"


def test_a_change_is_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.json")
    with store.edit() as db:
        db.table("targets").insert({"number": 1})

    def break_off() -> None:
        with store.edit() as db:
            db.table("targets").insert({"number": 2})
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        break_off()
    with store.view() as db:
        db.table("targets").insert({"number": 3})
    assert _numbers(store) == [1]
    assert _numbers(Store(tmp_path / "a.json")) == [1]


def test_threads_lose_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.json")

    def insert(thread: int) -> None:
        for number in range(15):
            with store.edit() as db:
                db.table("targets").insert({"number": thread * 100 + number})

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = sorted(thread * 100 + number for thread in range(8) for number in range(15))
    assert sorted(_numbers(Store(tmp_path / "a.json"))) == expected


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    with small_disk(tmp_path, 256) as disk:
        store = Store(disk / "a.json")
        with store.edit() as db:
            db.table("targets").insert({"number": 1})
        filler = fill(disk)
        with pytest.raises(Failure) as caught, store.edit() as db:
            db.table("targets").insert({"number": 2, "padding": "x" * 9000})
        assert caught.value.code == "store_failed"
        assert "No space left" in caught.value.info.message
        assert _numbers(store) == [1]
        assert _numbers(Store(disk / "a.json")) == [1]
        filler.unlink()
        with store.edit() as db:
            db.table("targets").insert({"number": 3})
        assert _numbers(Store(disk / "a.json")) == [1, 3]


DAMAGED = {
    "empty": b"",
    "cut": b'{"targets": {"1": {"num',
    "not utf-8": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a table that is none": b'{"targets": 7}',
    "an id that is none": b'{"targets": {"x": {}}}',
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_set_aside_and_the_backup_restored(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    store = Store(path)
    for number in (1, 2):
        with store.edit() as db:
            db.table("targets").insert({"number": number})
    path.write_bytes(damage)
    opened = Store(path)
    assert _numbers(opened) == [1], "the content before the last change"
    assert opened.problem is not None
    assert opened.problem.code == "store_corrupt"
    aside = next(tmp_path.glob("a.json.corrupt-*"))
    assert aside.read_bytes() == damage
    assert str(aside) in opened.problem.message
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert Store(path).problem is None, "it is mended"


def test_damage_without_a_backup_begins_empty(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    store = Store(tmp_path / "a.json")
    assert store.problem is not None
    assert _numbers(store) == []


def test_a_missing_file_is_restored_and_a_new_one_is_no_problem(tmp_path: Path) -> None:
    assert Store(tmp_path / "a.json").problem is None
    (tmp_path / "a.json.bak").write_text('{"targets": {"1": {"number": 7}}}')
    store = Store(tmp_path / "a.json")
    assert _numbers(store) == [7]
    assert store.problem is not None


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(Failure) as caught:
        Store(tmp_path / "a.json")
    assert caught.value.code == "store_failed"


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    storage = CrashSafeStorage(tmp_path / "a.json")
    storage.write({"targets": {"1": {"number": 1}}})
    for _ in range(2):
        found = storage.read()
        assert found == {"targets": {"1": {"number": 1}}}
        found["targets"].clear()


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.dictionaries(
            st.integers(1, 99).map(str),
            st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20), max_size=3),
            max_size=3,
        ),
        max_size=3,
    )
)
def test_any_content_comes_back(tmp_path_factory: pytest.TempPathFactory, content: dict[str, dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("store") / "a.json"
    CrashSafeStorage(path).write(content)
    assert CrashSafeStorage(path).read() == content
    assert json.loads(path.read_text("utf-8")) == content
