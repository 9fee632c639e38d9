"""What is written into the archive and looked up in it. Each function runs inside a transaction of the caller's."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, select, update

from controller.archive import pages, rows
from controller.archive.engine import Database
from controller.archive.rows import Values
from controller.archive.tables import NUMBER_MAX, documents, meta, raw, tests, tombstones
from schemas.command import TestParts
from schemas.request import FINAL_STATES, ArchivePage, ArchiveRows, TestRecord, TestState
from schemas.result import Result

Row = RowMapping
"""A row of `tests` by column name."""

Stored = Literal["new", "known", "duplicate", "deleted"]
"""What became of a result: a row of its own, the row of its test, already there, or its test was deleted."""

OPEN_STATES: Final[tuple[TestState, ...]] = ("waiting", "queued", "accepted", "running")


class Archive:
    """The archive's operations. `revision` grows with every transaction that changed something, and survives restarts."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._changed = False
        with database.read() as conn:
            self.revision = self._stored_revision(conn)

    # --- transactions ---------------------------------------------------------------------------------------------------
    def _stored_revision(self, conn: Connection) -> int:
        return int(conn.execute(select(meta.c.value).where(meta.c.key == "revision")).scalar() or 0)

    def write_down_revision(self, conn: Connection) -> int:
        """Count this transaction, if it changed a test; the caller sets `revision` to what is returned once it is committed."""
        number = self._stored_revision(conn)
        if not self._changed:
            return number
        self._changed = False
        number += 1
        self.put_meta(conn, "revision", str(number))
        return number

    def put_meta(self, conn: Connection, key: str, value: str) -> None:
        """Keep a small value beside the tables."""
        if not conn.execute(update(meta).where(meta.c.key == key).values(value=value)).rowcount:
            conn.execute(insert(meta).values(key=key, value=value))

    # --- finding --------------------------------------------------------------------------------------------------------
    def _one(self, conn: Connection, condition: ColumnElement[bool]) -> Row | None:
        return conn.execute(select(tests).where(condition).order_by(tests.c.number).limit(1)).mappings().first()

    def of_probe(self, conn: Connection, probe: str, test_id: str) -> Row | None:
        """Return the test `test_id` of `probe`."""
        return self._one(conn, (tests.c.probe == probe) & (tests.c.id == test_id))

    def by_id(self, conn: Connection, test_id: str) -> Row | None:
        """Return a test by its id; if probes have used one id twice, the first of them."""
        return self._one(conn, tests.c.id == test_id)

    def by_number(self, conn: Connection, number: int) -> Row | None:
        """Return a test by its number."""
        return self._one(conn, tests.c.number == number) if number <= NUMBER_MAX else None

    def by_request(self, conn: Connection, request_id: str) -> Row | None:
        """Return the test that a request has started."""
        return self._one(conn, tests.c.request_id == request_id)

    def request_is_deleted(self, conn: Connection, request_id: str) -> bool:
        """Tell whether a request has started a test that was deleted since."""
        return conn.execute(select(tombstones.c.id).where(tombstones.c.request_id == request_id)).first() is not None

    def is_deleted(self, conn: Connection, probe: str, test_id: str) -> bool:
        """Tell whether a test was deleted."""
        found = select(tombstones.c.id).where((tombstones.c.probe == probe) & (tombstones.c.id == test_id))
        return conn.execute(found).first() is not None

    def open_tests(self, conn: Connection) -> Sequence[Row]:
        """Return every test that has not ended."""
        return conn.execute(select(tests).where(tests.c.state.in_(OPEN_STATES))).mappings().all()

    def parts(self, conn: Connection, number: int) -> TestParts | None:
        """Return what a test was asked to do."""
        found = conn.execute(select(documents.c.parts).where(documents.c.number == number)).scalar()
        return None if found is None else TestParts.model_validate_json(found)

    def record(self, conn: Connection, row: Row) -> TestRecord:
        """Return a test whole."""
        number: int = row["number"]
        found = conn.execute(select(documents).where(documents.c.number == number)).mappings().first()
        body = conn.execute(select(raw.c.body).where(raw.c.number == number)).scalar()
        parts, result = (found["parts"], found["result"]) if found else (None, None)
        return TestRecord(
            summary=rows.summary(row),
            parts=None if parts is None else TestParts.model_validate_json(parts),
            result=None if result is None else rows.join(result, body, row["comment"]),
        )

    def page(self, conn: Connection, asked: ArchivePage) -> ArchiveRows:
        """Return a page of the list."""
        return pages.page(conn, asked)

    # --- changing -------------------------------------------------------------------------------------------------------
    def add(self, conn: Connection, values: Values, parts: TestParts | None = None) -> int:
        """Add a test and return its number."""
        self._changed = True
        made = conn.execute(insert(tests).values(**values)).inserted_primary_key
        if made is None:
            raise RuntimeError("the database gave the new row no number")
        number = int(made[0])
        if parts is not None:
            conn.execute(insert(documents).values(number=number, parts=parts.model_dump_json()))
        return number

    def change(self, conn: Connection, number: int, **values: Any) -> None:
        """Change columns of a test."""
        self._changed = True
        conn.execute(update(tests).where(tests.c.number == number).values(**values))

    def store(self, conn: Connection, probe: str, result: Result, now: datetime) -> tuple[Stored, int | None]:
        """Store a result once, and tell what became of it and the number of its test."""
        row = self.of_probe(conn, probe, result.id)
        if row is not None and row["has_result"]:
            return "duplicate", row["number"]
        if row is None and self.is_deleted(conn, probe, result.id):
            return "deleted", None
        values = rows.of_result(result, now)
        if row is None:
            number = self.add(
                conn,
                {
                    **rows.hosts(None, None),
                    **values,
                    **rows.of_comment(result.comment),
                    "id": result.id,
                    "probe": probe,
                    "origin": rows.plain(result.origin, 32),
                    "created_at": now,
                },
            )
        else:
            number = row["number"]
            self.change(conn, number, **values)
        self._store_documents(conn, number, self._finished(result, probe, number, now))
        return ("new" if row is None else "known"), number

    def _finished(self, result: Result, probe: str, number: int, now: datetime) -> Result:
        """Return a result as it is kept: the probe's name is the topic's, the number is ours."""
        changes: Values = {"probe_name": probe, "number": number}
        if rows.clock_is_wrong(result, now):
            changes["clock_trusted"] = False
        return result.model_copy(update=changes)

    def _store_documents(self, conn: Connection, number: int, result: Result) -> None:
        kept = rows.split(result)
        changed = conn.execute(update(documents).where(documents.c.number == number).values(result=kept.result))
        if not changed.rowcount:
            conn.execute(insert(documents).values(number=number, result=kept.result))
        if kept.raw is not None:
            conn.execute(insert(raw).values(number=number, body=kept.raw))

    def delete(self, conn: Connection, row: Row, now: datetime) -> None:
        """Delete a test that has ended; its number and its id are never used again."""
        if row["state"] not in FINAL_STATES:
            raise ValueError(f"test {row['number']} has not ended")
        number = row["number"]
        self._changed = True
        for table in (raw, documents, tests):
            conn.execute(delete(table).where(table.c.number == number))
        conn.execute(
            insert(tombstones).values(probe=row["probe"], id=row["id"], request_id=row["request_id"], deleted_at=now)
        )
