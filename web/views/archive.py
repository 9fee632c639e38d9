"""`/archive`: every test, newest first, a page at a time; the filter is in the address."""

from typing import Any, Final, get_args
from urllib.parse import urlencode

from flask import Blueprint, Response, make_response, render_template, request

from netloom.ids import new_id
from schemas import codec
from schemas.request import ArchivePage, ArchiveRows, TestRecord, TestState
from web.record_view import STATES
from web.views.common import ask, fabric

pages = Blueprint("archive", __name__)

FILTERS: Final = ("probe", "target", "state", "text")
_PLACES: Final = ("older_than", "newer_than")
_SENTENCES: Final = {
    "probe": "the name of a probe: letters, digits, - and _, at most 64",
    "target": "a part of an address or of a host name, at most 253 characters",
    "state": f"one of {', '.join(get_args(TestState))}",
    "text": "at most 100 characters",
}
_UNPROCESSABLE: Final = 422


def _wanted() -> tuple[dict[str, str], dict[str, Any], dict[str, str]]:
    """Return what was typed, the fields to ask with, and a sentence for each that does not hold."""
    typed = {name: request.args.get(name, "").strip() for name in FILTERS}
    fields: dict[str, Any] = {name: value for name, value in typed.items() if value}
    errors: dict[str, str] = {}
    for name in _PLACES:
        value = request.args.get(name, "")
        if value:
            fields[name] = int(value) if value.isascii() and value.isdigit() and len(value) <= 12 else value  # noqa: PLR2004 - as long as an archive's number gets
    try:
        codec.validate(ArchivePage, {"id": new_id(), **fields})
    except codec.Invalid as exc:
        errors = {name: _SENTENCES.get(name, text) for name, text in exc.fields.items()}
    return typed, fields, errors


@pages.get("/archive")
def index() -> Response:
    """Show one page of the archive."""
    typed, fields, errors = _wanted()
    found = None if errors else ask("archive.page", ArchiveRows, **fields)
    kept = {name: value for name, value in typed.items() if value}

    def link(**place: int) -> str:
        query = urlencode({**kept, **place})
        return f"/archive?{query}" if query else "/archive"

    page = render_template(
        "archive.html",
        found=found,
        typed=typed,
        errors=errors,
        filtered=bool(kept),
        first=not any(name in fields for name in _PLACES),
        link=link,
        states=STATES,
        probes=sorted({entry.name for entry in fabric().cache.probes()} | ({typed["probe"]} - {""})),
    )
    return make_response(page, _UNPROCESSABLE if errors else 200)


@pages.get("/fragments/archive/<int(min=1, max=999999999999):number>")
def row(number: int) -> str:
    """Return one row of the archive."""
    record = ask("archive.get", TestRecord, number=number)
    return render_template("_archive_row.html", row=record.summary, states=STATES)
