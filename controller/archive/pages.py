"""The list, page by page: by key and never by offset, so that a page costs the same wherever it lies."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select

from controller.archive import rows
from controller.archive.tables import NUMBER_MAX, tests
from schemas import limits
from schemas.request import ArchivePage, ArchiveRows, TestSummary

ESCAPE: Final = "\\"
ENVELOPE_BYTES: Final = 2_048
"""Room for what stands around the rows in a reply."""


def containing(text: str) -> str:
    """Return the LIKE pattern for "contains `text`", case folded; `%`, `_` and the escape itself stand for themselves."""
    folded = rows.fold(text)
    for special in (ESCAPE, "%", "_"):
        folded = folded.replace(special, ESCAPE + special)
    return f"%{folded}%"


def conditions(asked: ArchivePage) -> list[ColumnElement[bool]]:
    """Return what a row must meet."""
    found: list[ColumnElement[bool]] = []
    if asked.probe is not None:
        found.append(tests.c.probe == asked.probe)
    if asked.state is not None:
        found.append(tests.c.state == asked.state)
    if asked.target:
        found.append(tests.c.hosts_folded.like(containing(asked.target), escape=ESCAPE))
    if asked.text:
        # The first condition is the partial index's own.
        found += [tests.c.comment_folded != "", tests.c.comment_folded.like(containing(asked.text), escape=ESCAPE)]
    return found


def _key(number: int) -> int:
    return min(number, NUMBER_MAX)


def statement(asked: ArchivePage) -> Select[Any]:
    """Return the query of one page, with one row more than asked for: it tells whether there is a further page."""
    found = select(tests).where(*conditions(asked)).limit(asked.rows + 1)
    if asked.newer_than is not None:
        return found.where(tests.c.number > _key(asked.newer_than)).order_by(tests.c.number)
    if asked.older_than is not None:
        found = found.where(tests.c.number < _key(asked.older_than))
    return found.order_by(tests.c.number.desc())


def counting(asked: ArchivePage) -> Select[int]:
    """Return the query for how many rows match."""
    return select(func.count()).select_from(tests).where(*conditions(asked))


def _exists(conn: Connection, asked: ArchivePage, condition: ColumnElement[bool]) -> bool:
    found = select(literal(1)).select_from(tests).where(*conditions(asked), condition).limit(1)
    return conn.execute(found).first() is not None


def page(conn: Connection, asked: ArchivePage) -> ArchiveRows:
    """Return a page, newest first, that fits into a reply."""
    found = conn.execute(statement(asked)).mappings().all()
    upwards = asked.newer_than is not None
    kept = _fitting([rows.summary(row) for row in found[: asked.rows]])
    more = len(found) > len(kept)
    if upwards:
        kept.reverse()
    newest, oldest = _ends(asked, kept)
    older = _exists(conn, asked, tests.c.number < oldest) if upwards else more
    newer = more if upwards else _exists(conn, asked, tests.c.number > newest)
    total = conn.execute(select(func.count()).select_from(tests)).scalar_one()
    matching = conn.execute(counting(asked)).scalar_one() if conditions(asked) else total
    return ArchiveRows(
        rows=tuple(kept),
        older_than=oldest if older else None,
        newer_than=newest if newer else None,
        matching=matching,
        total=total,
    )


def _ends(asked: ArchivePage, kept: Sequence[TestSummary]) -> tuple[int, int]:
    """Return the numbers of the newest and the oldest row; of an empty page, those it lies between."""
    if kept:
        return kept[0].number, kept[-1].number
    if asked.newer_than is not None:
        return NUMBER_MAX, _key(asked.newer_than) + 1 if asked.newer_than < NUMBER_MAX else NUMBER_MAX
    if asked.older_than is not None:
        return _key(asked.older_than) - 1, 0
    return NUMBER_MAX, 0


def _fitting(found: list[TestSummary]) -> list[TestSummary]:
    """Return as many rows, from the first, as a reply can carry; at least one, for one is always small enough."""
    room = limits.ARCHIVE_PAGE_MAX_BYTES - ENVELOPE_BYTES
    for count, row in enumerate(found):
        room -= len(row.model_dump_json().encode()) + 1
        if room < 0:
            return found[: max(1, count)]
    return found
