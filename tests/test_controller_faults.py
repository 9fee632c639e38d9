"""The archive under kills, full disks, locks and damage: what was acknowledged is there, and nothing else is acknowledged."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from broker.requests import Refusal
from controller.archive import Archive, Stored, open_database
from controller.service import Controller
from controller.writer import Work, Writer
from netloom.clock import SystemClock
from netloom.ids import new_id
from netloom.settings import Settings
from schemas import request as ask
from schemas.result import Result
from tests.kit.brokers import BrokerProcess, start_broker
from tests.kit.controllers import FAST, ControllerProcess, client, scripted_probe, start_controller
from tests.kit.faults import fill, run_until_killed, small_disk
from tests.kit.wait import until

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from controller.archive import Archive, open_database
from netloom.ids import new_id
from tests.kit.results import make_result

archive, kept = Archive(open_database(None, Path(sys.argv[1]))), []
while True:
    ids = [new_id() for _ in range(3)]
    with archive.database.write() as conn:
        for test_id in ids:
            archive.store(conn, "paris", make_result(id=test_id), datetime.now(UTC))
        if kept:
            archive.change(conn, archive.by_id(conn, kept[-1])["number"], comment="edited")
    print("stored", *ids)
    kept += ids
    if len(kept) % 4 == 0:
        gone = kept.pop(0)
        with archive.database.write() as conn:
            archive.delete(conn, archive.by_id(conn, gone), datetime.now(UTC))
        print("deleted", gone)
"""


def _place(data: Path) -> Path:
    return data / "controller" / "archive.sqlite"


def test_a_killed_writer_loses_nothing_it_has_said(tmp_path: Path) -> None:
    stored: set[str] = set()
    deleted: set[str] = set()
    for number in range(20):
        for line in run_until_killed(WRITER, [str(tmp_path)], 1 + number % 7):
            what, *ids = line.split()
            (stored if what == "stored" else deleted).update(ids)
        database = open_database(None, tmp_path)
        assert database.problem is None
        archive = Archive(database)
        with database.read() as conn:
            for test_id in stored - deleted:
                row = archive.by_id(conn, test_id)
                # The last deletion may have been committed and not yet said.
                assert row is not None or archive.is_deleted(conn, "paris", test_id)
            assert sum(archive.by_id(conn, test_id) is None for test_id in stored - deleted) <= number + 1
            assert all(archive.is_deleted(conn, "paris", test_id) for test_id in deleted)
        database.close()
    assert len(stored) > 40
    assert deleted


def test_a_killed_controller_has_everything_it_acknowledged(tmp_path: Path) -> None:
    sent = [new_id() for _ in range(240)]
    with (
        start_broker("embedded", tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data") as controller,
        scripted_probe(broker.url) as probe,
        client(broker.url) as asker,
    ):
        asker.wait_controller()
        for number in range(4):
            for test_id in sent[number * 60 : number * 60 + 60]:
                probe.result(test_id)
            until(lambda count=number * 60 + 10: len(set(probe.stored)) >= count)  # type: ignore[misc]  # a default binds the loop's value
            controller.kill()
            controller.start()
            until(lambda: asker.status.state == "online")
            for test_id in set(sent[: number * 60 + 60]) - set(probe.stored):
                probe.result(test_id)  # as a probe does when the controller's start is new
            until(lambda count=number * 60 + 60: len(set(probe.stored)) == count)  # type: ignore[misc]  # as above
        assert set(probe.stored) == set(sent)
        page = asker.page()
        assert page.total == len(sent), "nothing lost, nothing twice"


def test_a_full_disk_stops_acknowledging_and_heals(tmp_path: Path) -> None:
    with (
        start_broker("embedded", tmp_path) as broker,
        small_disk(tmp_path, 4096) as disk,
        start_controller(broker.url, disk, offline_after_s=60) as controller,
        scripted_probe(broker.url) as probe,
        client(broker.url) as asker,
    ):
        asker.wait_controller()
        kept = new_id()
        probe.result(kept)
        until(lambda: kept in probe.stored)
        filler = fill(disk)
        sent: list[str] = []

        def starved() -> bool:
            sent.append(new_id())
            probe.result(sent[-1])
            return asker.status.problem is not None

        until(starved, 20)
        assert asker.status.problem is not None
        assert asker.status.problem.code == "store_failed"
        refused = new_id()
        probe.result(refused)
        with pytest.raises(Refusal) as caught:
            asker.start("paris")
        assert caught.value.code == "store_failed"
        assert asker.get(test=kept).summary.state == "done", "reading goes on"
        acknowledged = set(probe.stored)
        assert refused not in acknowledged
        filler.unlink()
        until(lambda: asker.status.problem is None)
        assert probe.commands == [], "what is not in the archive is not sent"
        for test_id in {*sent, refused} - acknowledged:
            probe.result(test_id)
        until(lambda: {kept, refused, *sent} == set(probe.stored))
        assert asker.page().total == len(sent) + 2
        assert asker.start("paris").state == "waiting"
        assert controller.running


def test_a_locked_archive_is_waited_for_and_then_said(tmp_path: Path) -> None:
    with (
        start_broker("embedded", tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data", offline_after_s=60),
        scripted_probe(broker.url) as probe,
        client(broker.url) as asker,
    ):
        asker.wait_controller()
        lock = sqlite3.connect(_place(tmp_path / "data"), isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Refusal) as caught:
            asker.start("paris")
        assert caught.value.code == "store_failed"
        assert "locked" in caught.value.info.message
        test_id = new_id()
        probe.result(test_id)
        assert asker.page().total == 0, "readers do not wait"
        until(lambda: asker.status.problem is not None)
        lock.execute("ROLLBACK")
        lock.close()
        until(lambda: asker.status.problem is None)
        probe.result(test_id)
        until(lambda: test_id in probe.stored)
        assert asker.page().total == 1


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100 : len(data) : 97] = b"\xff" * len(data[100 : len(data) : 97])
    path.write_bytes(bytes(data))


def _truncate(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def _overwrite(path: Path) -> None:
    path.write_bytes(b"nonsense " * 2000)


DAMAGE = {"flipped": _flip, "truncated": _truncate, "nonsense": _overwrite}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[tuple[BrokerProcess, ControllerProcess]]:
    with start_broker("embedded", tmp_path) as broker, start_controller(broker.url, tmp_path / "data") as controller:
        yield broker, controller


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_archive_is_set_aside_loudly(house: tuple[BrokerProcess, ControllerProcess], kind: str) -> None:
    broker, controller = house
    with scripted_probe(broker.url) as probe, client(broker.url) as asker:
        asker.wait_controller()
        for _ in range(30):
            probe.result(new_id())
        until(lambda: len(probe.stored) == 30)
        controller.stop()
        DAMAGE[kind](_place(controller.data))
        controller.start()
        until(lambda: asker.status.state == "online")
        assert asker.status.problem is not None
        assert asker.status.problem.code == "store_corrupt"
        assert asker.page().total == 0
        test_id = new_id()
        probe.result(test_id)
        until(lambda: test_id in probe.stored)
        asides = [path.name for path in _place(controller.data).parent.glob("archive.sqlite.corrupt-*")]
        assert len([name for name in asides if not name.endswith(("-wal", "-shm"))]) == 1
        assert "store_corrupt" in asker.status.problem.code
        assert "ERROR" in controller.log.read_text()
        controller.stop()
        controller.start()
        until(lambda: asker.status.state == "online" and asker.status.problem is None)
        assert asker.page().total == 1


def test_damaged_targets_are_restored_from_the_backup(house: tuple[BrokerProcess, ControllerProcess]) -> None:
    broker, controller = house
    with client(broker.url) as asker:
        asker.wait_controller()
        first, second = (
            asker.call("target.add", ask.TargetChanged, name=name, host="192.0.2.9").target for name in ("a", "b")
        )
        controller.stop()
        path = controller.data / "controller" / "targets.json"
        written = json.loads(path.read_text())
        path.write_text(path.read_text()[:-40])
        controller.start()
        until(lambda: asker.status.state == "online")
        assert asker.status.problem is not None
        assert asker.status.problem.code == "store_corrupt"
        assert asker.call("target.list", ask.Targets).targets == (first,)
        added = asker.call("target.add", ask.TargetChanged, name="b", host="192.0.2.9").target
        assert len(written["targets"]) == 2
        assert added.name == second.name


def test_a_file_mended_by_hand_is_read_as_far_as_it_holds(
    tmp_path: Path, house: tuple[BrokerProcess, ControllerProcess]
) -> None:
    broker, controller = house
    controller.stop()
    good = {
        "target_id": 41,
        "name": "lab",
        "host": "192.0.2.9",
        "standard_test": True,
        "speedtest": False,
        "port": 5201,
    }
    path = tmp_path / "data" / "controller" / "targets.json"
    counters = {"1": {"name": "last_id", "value": "many"}}
    path.write_text(
        json.dumps({"targets": {"1": good, "2": {"name": "bad"}, "3": {**good, "host": "127.1"}}, "counters": counters})
    )
    controller.start()
    with client(broker.url) as asker:
        asker.wait_controller()
        assert [target.target_id for target in asker.call("target.list", ask.Targets).targets] == [41]
        assert asker.call("target.add", ask.TargetChanged, name="x", host="a.example").target.target_id == 42
    assert "is left out" in controller.log.read_text()


def test_a_row_that_cannot_be_stored_holds_up_no_other(tmp_path: Path) -> None:
    database = open_database(None, tmp_path)
    archive = Archive(database)
    reloaded = threading.Event()
    writer = Writer(archive, SystemClock(), tick=lambda: (), recover=lambda _: reloaded.set(), settled=lambda: None)
    now = SystemClock().now()
    done: list[int] = []
    failed: list[str] = []
    for number in range(10):
        value = 2**70 if number == 4 else number + 1
        values = {"number": value, "id": f"x{number}", "probe": "p", "state": "done", "origin": "x", "created_at": now}
        writer.submit(Work(partial(archive.add, values=values), done.append, lambda why: failed.append(why.code)))
    writer.start()
    until(lambda: len(done) + len(failed) == 10)
    assert writer.stop(2)
    assert done == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert failed == ["bad_message"]
    assert reloaded.is_set(), "memory was taken back to the archive"
    database.close()


def test_a_result_that_cannot_be_stored_is_refused(
    mosquitto: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({"data": tmp_path, "broker": {"url": mosquitto.url}, "controller": FAST})
    controller = Controller(settings, SystemClock())
    store = controller.archive.store

    def choosy(conn: Connection, probe: str, result: Result, now: datetime) -> tuple[Stored, int | None]:
        if result.version == 13:
            raise OverflowError("13 is too large")
        return store(conn, probe, result, now)

    monkeypatch.setattr(controller.archive, "store", choosy)
    stop = threading.Event()
    controller.start()
    thread = threading.Thread(target=controller.serve, args=(stop,))
    thread.start()
    try:
        with scripted_probe(mosquitto.url) as probe, client(mosquitto.url) as asker:
            asker.wait_controller()
            ids = [new_id() for _ in range(20)]
            for version, test_id in enumerate(ids):
                probe.result(test_id, version=version)
            until(lambda: len(probe.stored) == 19)
            until(lambda: probe.refused == [(ids[13], "bad_message")])
    finally:
        stop.set()
        thread.join()
        controller.stop()
