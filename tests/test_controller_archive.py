"""The archive: each result once, numbers never again, pages that lose nothing, and queries that use their indexes."""

import re
import sqlite3
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from controller.archive import Archive, engine, open_database, pages, rows
from controller.archive.tables import NUMBER_MAX, metadata, raw, tests
from schemas import request as ask
from schemas.command import PingSpec, SpeedtestSpec
from schemas.command import TestParts as Parts
from schemas.errors import Failure, error
from tests.kit.results import make_result

NOW = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path) -> Any:
    database = open_database(None, tmp_path)
    yield Archive(database)
    database.close()


def _asked(**fields: Any) -> ask.ArchivePage:
    return ask.ArchivePage(id="12345678", **fields)


def _page(archive: Archive, **fields: Any) -> ask.ArchiveRows:
    with archive.database.read() as conn:
        return archive.page(conn, _asked(**fields))


def _values(serial: int, /, **changes: Any) -> dict[str, Any]:
    values = {
        "id": f"test-{serial:08}",
        "probe": "paris",
        "state": "done",
        "origin": "web",
        "created_at": NOW,
        **rows.hosts("192.0.2.7", None),
        **rows.of_comment(""),
    }
    return values | changes


def _add(archive: Archive, *changes: dict[str, Any]) -> None:
    with archive.database.write() as conn:
        for number, change in enumerate(changes):
            archive.add(conn, _values(number, **change))


# --- results --------------------------------------------------------------------------------------------------------------
def test_a_result_is_stored_once_and_comes_back_whole(archive: Archive) -> None:
    result = make_result(number=None, probe_name="berlin", some_new_field=7)
    for expected in ("new", "duplicate", "duplicate"):
        with archive.database.write() as conn:
            assert archive.store(conn, "paris", result, NOW)[0] == expected
    with archive.database.read() as conn:
        row = archive.of_probe(conn, "paris", result.id)
        assert row is not None
        record = archive.record(conn, row)
        stored = conn.execute(select(raw.c.body)).scalar_one()
    assert record.parts is None
    assert record.result == result.model_copy(update={"number": 1, "probe_name": "paris"}), "the topic's name wins"
    assert b"iperf 3.12" not in stored, "it is compressed"
    summary = record.summary
    assert (summary.ping_target, summary.speedtest_target) == ("lab.example", "192.0.2.9:5201")
    assert (summary.ping_avg, summary.loss_percent, summary.mos) == (23.67, 25.0, 4.3)
    assert (summary.download, summary.upload) == (40e6, None)
    assert summary.ended_at == result.measured_at + timedelta(seconds=31.9)
    assert summary.created_at == NOW


def test_a_result_fills_the_row_of_its_test(archive: Archive) -> None:
    parts = Parts(ping=PingSpec(target="a.example"), speedtest=SpeedtestSpec(target="2001:db8::1"))
    result = make_result(
        speedtest=None, target=None, comment="as asked", errors={"ping": error("dns_failed").model_dump()}
    )
    with archive.database.write() as conn:
        values = _values(0, id=result.id, state="lost", **rows.of_parts(parts), comment="edited since")
        number = archive.add(conn, values, parts)
        assert archive.store(conn, "paris", result, NOW) == ("known", number)
        assert archive.store(conn, "paris", make_result(status="error"), NOW)[0] == "duplicate", "replaced once"
        row = archive.by_number(conn, number)
        assert row is not None
        record = archive.record(conn, row)
    assert record.parts == parts
    assert record.summary.state == "done"
    assert record.summary.speedtest_target == "[2001:db8::1]:5201", (
        "what was asked for stays where the result is silent"
    )
    assert record.summary.error is not None
    assert record.summary.error.code == "dns_failed"
    assert record.result is not None
    assert record.result.comment == "edited since"


def test_one_id_on_two_probes_is_two_tests(archive: Archive) -> None:
    with archive.database.write() as conn:
        assert archive.store(conn, "paris", make_result(), NOW) == ("new", 1)
        assert archive.store(conn, "berlin", make_result(), NOW) == ("new", 2)
        found = archive.by_id(conn, make_result().id)
    assert found is not None
    assert found["probe"] == "paris", "nobody takes over another probe's test"


def test_deleted_stays_deleted_and_its_number_is_gone(archive: Archive) -> None:
    with archive.database.write() as conn:
        archive.store(conn, "paris", make_result(), NOW)
        row = archive.by_number(conn, 1)
        assert row is not None
        archive.delete(conn, row, NOW)
    with archive.database.write() as conn:
        assert archive.store(conn, "paris", make_result(), NOW) == ("deleted", None)
        assert archive.store(conn, "berlin", make_result(), NOW) == ("new", 2), "a number is never used again"
    with archive.database.read() as conn:
        counts = [conn.execute(text(f"SELECT count(*) FROM {name}")).scalar() for name in metadata.tables]  # noqa: S608 - our own names
    assert counts == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("measured_at", "duration_s", "trusted"),
    [
        ("2036-11-23T20:15:04.000Z", 31.9, False),
        ("9999-12-31T23:59:59.999Z", 1e300, False),
        ("1970-01-01T00:00:00.000Z", 1e300, None),
        ("0001-01-01T00:00:00.000Z", 1.0, None),
        ("2026-11-24T20:15:04.123Z", 1.0, None),
    ],
)
def test_odd_times_are_kept_and_clamped(
    archive: Archive, measured_at: str, duration_s: float, trusted: bool | None
) -> None:
    result = make_result(measured_at=measured_at, duration_s=duration_s)
    with archive.database.write() as conn:
        archive.store(conn, "paris", result, NOW)
        row = archive.by_number(conn, 1)
        assert row is not None
        record = archive.record(conn, row)
    assert record.result is not None
    assert record.result.measured_at == result.measured_at, "the document says what the probe said"
    assert record.result.clock_trusted is trusted
    assert record.summary.measured_at == (NOW if trusted is False else result.measured_at)
    assert record.summary.ended_at is not None


def test_hostile_texts_are_bounded(archive: Archive) -> None:
    result = make_result(
        comment="a\0b" * 900,
        origin="x" * 2000,
        autotest_id="y" * 2000,
        target={"host": "h" * 2000, "address": None},
        errors={"ping": {"code": "c" * 2000, "message": "m" * 2000, "hint": "h" * 2000}},
        speedtest={"target": {"host": "s", "port": 10**30}},
    )
    with archive.database.write() as conn:
        archive.store(conn, "paris", result, NOW)
    page = _page(archive, text="AB" * 5)
    assert page.matching == 1
    assert len(page.model_dump_json()) < 4000


# --- pages ------------------------------------------------------------------------------------------------------------------
def test_filters(archive: Archive) -> None:
    _add(
        archive,
        {"probe": "berlin", **rows.hosts("LAB.example", None)},
        {"state": "error", **rows.hosts(None, "lab2.example:5201"), **rows.of_comment("100 % of ÄRGER_now\\")},
        {**rows.of_comment("after the move"), **rows.hosts("192.0.2.9", "[2001:db8::1]:5201")},
    )

    def numbers(**fields: Any) -> list[int]:
        page = _page(archive, **fields)
        assert page.matching == len(page.rows) or fields.keys() & {"older_than", "newer_than"}
        assert page.total == 3
        return [row.number for row in page.rows]

    assert numbers() == [3, 2, 1]
    assert numbers(probe="berlin") == [1]
    assert numbers(state="error", probe="paris") == [2]
    assert numbers(target="lab") == [2, 1]
    assert numbers(target="LAB.EX") == [1]
    assert numbers(target="2001:db8") == [3]
    assert numbers(target="5201", text="move") == [3]
    assert numbers(text="ärger_") == [2]
    assert numbers(text="%") == [2]
    assert numbers(text="\\") == [2]
    assert numbers(text="e_m") == []
    assert numbers(target="", text="") == [3, 2, 1]
    assert numbers(older_than=3) == [2, 1]
    assert numbers(newer_than=2, state="error") == []


@given(needle=st.text(st.sampled_from("aB%_\\é\n"), max_size=4), hay=st.text(st.sampled_from("aB%_\\é\n"), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_contains_means_contains(archive: Archive, needle: str, hay: str) -> None:
    with archive.database.write() as conn:
        conn.execute(tests.delete())
        archive.add(conn, _values(1, **rows.of_comment(hay)))
    expected = not needle or needle.casefold() in hay.casefold()
    assert _page(archive, text=needle).matching == int(expected)


@given(
    states=st.lists(st.sampled_from(["done", "error", "lost"]), max_size=25),
    gaps=st.sets(st.integers(0, 24)),
    size=st.integers(1, 7),
    state=st.sampled_from([None, "done"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_paging_both_ways_meets_each_row_once(
    archive: Archive, states: list[str], gaps: set[int], size: int, state: ask.TestState | None
) -> None:
    with archive.database.write() as conn:
        conn.execute(tests.delete())
        for number, one in enumerate(states):
            if number not in gaps:
                archive.add(conn, _values(number, number=number + 1, state=one))
    expected = [n + 1 for n, one in enumerate(states) if n not in gaps and state in (None, one)][::-1]
    down: list[int] = []
    page = _page(archive, rows=size, state=state)
    assert page.newer_than is None
    while True:
        assert page.matching == len(expected)
        down += [row.number for row in page.rows]
        if page.older_than is None:
            break
        page = _page(archive, rows=size, state=state, older_than=page.older_than)
    assert down == expected
    up = [row.number for row in page.rows]
    while page.newer_than is not None:
        page = _page(archive, rows=size, state=state, newer_than=page.newer_than)
        up = [row.number for row in page.rows] + up
    assert up == expected


def test_a_page_fits_into_a_reply(archive: Archive) -> None:
    long = rows.of_error(error("lost").model_copy(update={"message": "ä" * 500, "hint": "\N{GRINNING FACE}" * 500}))
    _add(archive, *({**rows.of_comment("\N{GRINNING FACE}" * 500), "error": long} for _ in range(100)))
    page = _page(archive, rows=100)
    assert 20 < len(page.rows) < 100
    assert len(page.model_dump_json().encode()) <= 256 * 1024 - 1024
    assert page.older_than == page.rows[-1].number
    back = _page(archive, rows=100, newer_than=1)
    assert back.rows[-1].number == 2
    assert back.newer_than == back.rows[0].number


@pytest.mark.parametrize("number", [0, 1, NUMBER_MAX, NUMBER_MAX + 1, 10**40])
def test_numbers_of_any_size_are_just_absent(archive: Archive, number: int) -> None:
    with archive.database.read() as conn:
        assert archive.by_number(conn, number) is None
    assert _page(archive, newer_than=number).rows == ()
    assert _page(archive, older_than=max(1, number)).rows == ()


PLANS = [
    ({"probe": "paris"}, "USING (COVERING )?INDEX ix_tests_probe"),
    ({"probe": "paris", "state": "error"}, "USING (COVERING )?INDEX ix_tests_probe_state"),
    ({"state": "error"}, "USING (COVERING )?INDEX ix_tests_state"),
]


@pytest.mark.parametrize(("fields", "expected"), PLANS)
@pytest.mark.parametrize("way", [{}, {"older_than": 500}, {"newer_than": 500}])
def test_pages_are_read_by_index_and_in_order(
    archive: Archive, fields: dict[str, Any], expected: str, way: dict[str, int]
) -> None:
    with archive.database.read() as conn:
        plan = _plan(conn, pages.statement(_asked(**fields, **way)))
        count = _plan(conn, pages.counting(_asked(**fields)))
    assert "TEMP B-TREE" not in plan, "no sorting"
    assert _matches(expected, plan), plan
    assert _matches("USING COVERING INDEX", count), count


@pytest.mark.parametrize(
    ("fields", "index"), [({"target": "lab"}, "ix_tests_hosts"), ({"text": "x"}, "ix_tests_comment")]
)
def test_counts_of_a_search_look_only_into_an_index(archive: Archive, fields: dict[str, Any], index: str) -> None:
    with archive.database.read() as conn:
        plan = _plan(conn, pages.counting(_asked(**fields)))
        page = _plan(conn, pages.statement(_asked(**fields, older_than=5)))
    assert f"COVERING INDEX {index}" in plan, plan
    assert "TEMP B-TREE" not in page, page


def _matches(pattern: str, plan: str) -> bool:
    return re.search(pattern, plan) is not None


def _plan(conn: Connection, statement: Any) -> str:
    compiled = statement.compile(conn, compile_kwargs={"literal_binds": True})
    return "; ".join(row[-1] for row in conn.execute(text("EXPLAIN QUERY PLAN " + str(compiled).replace(":", "\\:"))))


def test_the_time_of_pages_among_100_000_tests_is_told(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    added = [
        _values(
            number,
            probe=f"p{number % 50}",
            state="error" if number % 10 == 0 else "done",
            **rows.hosts(f"host{number % 300}.example", "192.0.2.9:5201"),
            **rows.of_comment(f"comment {number}" if number % 10 == 3 else ""),
        )
        for number in range(100_000)
    ]
    with archive.database.write() as conn:
        conn.execute(tests.insert(), added)
    asked: list[dict[str, Any]] = [
        {},
        {"probe": "p3"},
        {"state": "error"},
        {"target": "host29"},
        {"target": "nowhere"},
        {"text": "comment 99"},
    ]
    told = []
    for fields in asked:
        began = time.perf_counter()
        page = _page(archive, **fields)
        told.append(f"{fields or 'all'}: {page.matching} in {1000 * (time.perf_counter() - began):.1f} ms")
        assert page.total == 100_000
    with capsys.disabled():
        sys.stdout.write(f"\n100 000 tests, a page with its counts: {'; '.join(told)}\n")


def test_postgresql_understands_every_statement() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy gives it no types
    for table in metadata.tables.values():
        assert "AUTOINCREMENT" not in str(CreateTable(table).compile(dialect=dialect)).upper()
        for index in table.indexes:
            str(CreateIndex(index).compile(dialect=dialect))
    assert "BIGSERIAL" in str(CreateTable(tests).compile(dialect=dialect))
    asked = _asked(target="a", text="b", probe="c", state="done", older_than=5)
    assert "LIKE" in str(pages.statement(asked).compile(dialect=dialect))


# --- opening ----------------------------------------------------------------------------------------------------------------
def test_a_newer_layout_is_not_touched(tmp_path: Path) -> None:
    open_database(None, tmp_path).close()
    with sqlite3.connect(tmp_path / "archive.sqlite") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'layout'")
    db.close()
    before = (tmp_path / "archive.sqlite").read_bytes()
    with pytest.raises(Failure) as caught:
        open_database(None, tmp_path)
    assert caught.value.code == "store_newer"
    assert "layout 99" in caught.value.info.message
    assert (tmp_path / "archive.sqlite").read_bytes() == before


def test_an_older_layout_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(None, tmp_path).close()
    seen: list[int] = []
    monkeypatch.setattr(engine, "LAYOUT", 3)
    monkeypatch.setattr(engine, "STEPS", {1: lambda _: seen.append(1), 2: lambda _: seen.append(2)})
    for _ in range(2):
        open_database(None, tmp_path).close()
    assert seen == [1, 2]


@pytest.mark.parametrize("url", ["nonsense", "oracle-of-delphi://x/y", "sqlite://", "sqlite:///:memory:"])
def test_an_unusable_url_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        open_database(url, tmp_path)
    assert caught.value.code == "config_value"
    assert "controller.archive" in caught.value.info.message


def test_the_revision_survives(tmp_path: Path) -> None:
    for expected in range(3):
        database = open_database(f"sqlite:///{tmp_path}/elsewhere.sqlite", tmp_path)
        archive = Archive(database)
        assert archive.revision == expected
        with database.write() as conn:
            archive.add(conn, _values(expected))
            archive.write_down_revision(conn)
        with database.write() as conn:
            archive.write_down_revision(conn)
        database.close()
    assert not (tmp_path / "archive.sqlite").exists()


def test_it_is_durable_and_readers_do_not_wait(archive: Archive) -> None:
    with archive.database.write() as conn:
        assert conn.execute(text("PRAGMA synchronous")).scalar() == 2
        assert conn.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        archive.add(conn, _values(1))
        assert _page(archive).total == 0
    assert _page(archive).total == 1
    with pytest.raises(Failure), archive.database.read() as conn:
        archive.add(conn, _values(2))
