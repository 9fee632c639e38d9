"""`/targets`: the saved targets."""

from typing import Any, Final

from flask import Blueprint, Response, make_response, render_template, url_for

from broker.requests import Refusal
from netloom.ids import new_id
from schemas import codec
from schemas import limits as lim
from schemas.errors import ErrorInfo, Failure
from schemas.request import Done, Target, TargetAdd, TargetChanged
from web.fields import Fault, Reader
from web.notes import see
from web.problems import status_of
from web.views.common import ask, ask_once, fabric, form_lists, left_s

pages = Blueprint("targets", __name__)

FRESH: Final[dict[str, str]] = {
    "id": "",
    "name": "",
    "host": "",
    "standard_test": "yes",
    "speedtest": "",
    "port": str(lim.SPEEDTEST_PORT_DEFAULT),
}
_NUMBER: Final = "<int(min=0, max=999999999999):number>"
_UNPROCESSABLE: Final = 422


def _targets() -> tuple[Target, ...]:
    return fabric().targets(left_s())


def _target(number: int) -> Target:
    for target in _targets():
        if target.target_id == number:
            return target
    raise Failure("target_not_found", target=number)


def _of(target: Target) -> dict[str, str]:
    return {
        "id": new_id(),
        "name": target.name,
        "host": target.host,
        "standard_test": "yes" if target.standard_test else "",
        "speedtest": "yes" if target.speedtest else "",
        "port": str(target.port),
    }


def _page(
    values: dict[str, str],
    editing: Target | None = None,
    errors: dict[str, str] | None = None,
    failure: ErrorInfo | None = None,
    status: int = 200,
) -> Response:
    page = render_template(
        "targets.html",
        targets=fabric().known_targets(left_s()) if failure else _targets(),
        values=values,
        editing=editing,
        errors=errors or {},
        failure=failure,
        lim=lim,
    )
    return make_response(page, status)


def _read() -> tuple[dict[str, str], dict[str, Any]]:
    """Return what was typed and the fields to ask with. Raise Fault."""
    reader = Reader(form_lists(), FRESH)
    fields = {
        "id": reader.text("id") or new_id(),
        "name": reader.text("name"),
        "host": reader.host("host"),
        "standard_test": reader.flag("standard_test"),
        "speedtest": reader.flag("speedtest"),
        "port": lim.SPEEDTEST_PORT_DEFAULT,
    }
    if fields["speedtest"]:
        fields["port"] = reader.whole("port", 1, 65_535)
    if not 1 <= len(str(fields["name"])) <= lim.TARGET_NAME_MAX_CHARS:
        reader.fault("name", f"a name of 1 to {lim.TARGET_NAME_MAX_CHARS} characters")
    if not fields["standard_test"] and not fields["speedtest"]:
        reader.fault("standard_test", "choose what the target is for: standard tests, speedtests or both")
    reader.finish()
    try:
        codec.validate(TargetAdd, fields)
    except codec.Invalid as exc:
        raise Fault(reader.values, exc.fields) from None
    return reader.values, fields


def _change(verb: str, note: str, editing: Target | None, **more: Any) -> Response:
    values = dict.fromkeys(FRESH, "") | {k: v[0] for k, v in form_lists().items() if k in FRESH}
    try:
        values, fields = _read()
        ask_once(verb, TargetChanged, **fields, **more)
        fabric().targets_changed()
    except Fault as exc:
        return _page(exc.values, editing, exc.errors, status=_UNPROCESSABLE)
    except Refusal as exc:
        errors = dict(exc.fields)
        if exc.code == "target_exists":
            errors = {"name": f"{exc.info.message} {exc.info.hint}"}
        return _page(values, editing, errors, None if errors else exc.info, status_of(exc.info))
    except Failure as exc:
        return _page(values, editing, failure=exc.info, status=status_of(exc.info))
    return see(url_for("targets.index"), note)


@pages.get("/targets")
def index() -> Response:
    """Show the saved targets and the form for another."""
    return _page({**FRESH, "id": new_id()})


@pages.post("/targets")
def add() -> Response:
    """Save a target."""
    return _change("target.add", "target_added", None)


@pages.get(f"/targets/{_NUMBER}")
def edit(number: int) -> Response:
    """Show the form with a target's fields."""
    target = _target(number)
    return _page(_of(target), target)


@pages.post(f"/targets/{_NUMBER}")
def update(number: int) -> Response:
    """Replace a target's fields."""
    return _change("target.update", "target_updated", _target(number), target_id=number)


@pages.get(f"/targets/{_NUMBER}/delete")
def confirm(number: int) -> Response:
    """Ask before a target is deleted."""
    return _confirm(_target(number))


@pages.post(f"/targets/{_NUMBER}/delete")
def delete(number: int) -> Response:
    """Delete a target; tests made to it stay."""
    target = _target(number)
    try:
        ask("target.delete", Done, target_id=number)
        fabric().targets_changed()
    except Failure as exc:
        return _confirm(target, exc.info, status_of(exc.info))
    return see(url_for("targets.index"), "target_deleted")


def _confirm(target: Target, failure: ErrorInfo | None = None, status: int = 200) -> Response:
    page = render_template(
        "confirm.html",
        title=f"Delete the target {target.name}?",
        text=f"{target.host} is no longer offered in the forms. Tests that were made to it stay in the archive.",
        action=url_for("targets.delete", number=target.target_id),
        back=url_for("targets.index"),
        failure=failure,
    )
    return make_response(page, status)
