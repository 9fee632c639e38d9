"""`/t/<number>`: one test, live while it runs, with its result when it is over."""

from typing import Final

from flask import Blueprint, Response, make_response, render_template, request, url_for

from schemas.errors import ErrorInfo, Failure
from schemas.request import Done, TestRecord, TestTicket
from web.fields import Fault, Reader
from web.notes import see
from web.problems import status_of
from web.record_view import STATES, view_record
from web.views.common import ask, fabric, form_lists

pages = Blueprint("tests", __name__)

_NUMBER: Final = "<int(min=1, max=999999999999):number>"
_UNPROCESSABLE: Final = 422


def _record(number: int) -> TestRecord:
    return ask("archive.get", TestRecord, number=number)


def _page(
    record: TestRecord, comment: str | None = None, fault: str = "", failure: ErrorInfo | None = None, status: int = 200
) -> Response:
    page = render_template(
        "test.html",
        view=view_record(record, fabric().cache),
        states=STATES,
        comment=record.summary.comment if comment is None else comment,
        fault=fault,
        failure=failure,
    )
    return make_response(page, status)


@pages.get(f"/t/{_NUMBER}")
def show(number: int) -> Response:
    """Show a test."""
    return _page(_record(number))


@pages.get(f"/fragments/t/{_NUMBER}")
def fragment(number: int) -> str:
    """Return what changes of a test while it runs."""
    return render_template("_test.html", view=view_record(_record(number), fabric().cache), states=STATES)


@pages.post(f"/t/{_NUMBER}/cancel")
def cancel(number: int) -> Response:
    """Cancel a test that has not ended."""
    record = _record(number)
    try:
        ask("test.cancel", TestTicket, test=record.summary.id)
    except Failure as exc:
        return _page(record, failure=exc.info, status=status_of(exc.info))
    return see(url_for("tests.show", number=number), "test_cancelled")


@pages.post(f"/t/{_NUMBER}/comment")
def comment(number: int) -> Response:
    """Replace a test's comment; what was typed is kept if it does not hold."""
    record = _record(number)
    try:
        reader = Reader(form_lists(), ("comment",))
        typed = reader.prose("comment")
        if "comment" not in request.form:  # nothing was typed, not even nothing
            reader.fault("comment", "this field is needed")
        reader.finish()
        ask("archive.comment", Done, test=record.summary.id, comment=typed)
    except Fault as exc:
        return _page(record, exc.values["comment"], next(iter(exc.errors.values())), status=_UNPROCESSABLE)
    except Failure as exc:
        return _page(record, request.form.get("comment", ""), failure=exc.info, status=status_of(exc.info))
    return see(url_for("tests.show", number=number), "test_updated")


@pages.get(f"/t/{_NUMBER}/delete")
def confirm(number: int) -> Response:
    """Ask before a test is deleted."""
    return _confirm(_record(number))


@pages.post(f"/t/{_NUMBER}/delete")
def delete(number: int) -> Response:
    """Delete a test that has ended."""
    record = _record(number)
    try:
        ask("archive.delete", Done, test=record.summary.id)
    except Failure as exc:
        return _confirm(record, exc.info, status_of(exc.info))
    return see(url_for("archive.index"), "test_deleted")


def _confirm(record: TestRecord, failure: ErrorInfo | None = None, status: int = 200) -> Response:
    number = record.summary.number
    page = render_template(
        "confirm.html",
        title=f"Delete test {number}?",
        text="Its figures and its comment are removed from the archive. This cannot be undone.",
        action=url_for("tests.delete", number=number),
        back=url_for("tests.show", number=number),
        failure=failure,
    )
    return make_response(page, status)
