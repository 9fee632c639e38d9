"""`/`: the probes, live, and the form that starts a test."""

from typing import Final
from urllib.parse import urlsplit

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for

from broker.requests import Refusal
from schemas import codec
from schemas import limits as lim
from schemas.errors import ErrorInfo, Failure
from schemas.request import Done, TestRecord, TestTicket
from web import start_form
from web.cards import ProbeCard, probe_card
from web.fields import Fault
from web.notes import see
from web.problems import status_of
from web.record_view import parts_of
from web.views.common import ask, ask_once, fabric, form_lists, known_targets

pages = Blueprint("probes", __name__)

THEME_COOKIE: Final = "netloom_theme"
THEMES: Final = ("auto", "light", "dark")
_YEAR_S: Final = 365 * 86_400
_UNPROCESSABLE: Final = 422


def _cards() -> list[ProbeCard]:
    now = fabric().clock.now()
    return [probe_card(entry, fabric().cache, now) for entry in fabric().cache.probes()]


def _page(
    values: dict[str, str], errors: dict[str, str] | None = None, failure: ErrorInfo | None = None, status: int = 200
) -> Response:
    targets = known_targets()
    cards = _cards()
    if not values["probe"]:
        able = [card.name for card in cards if card.state in ("free", "busy")]
        free = [card.name for card in cards if card.state == "free"]
        values["probe"] = next(iter(free or able), "")
    errors = errors or {}
    page = render_template(
        "index.html",
        cards=cards,
        values=values,
        errors=errors,
        failure=failure,
        ping_targets=[target for target in targets if target.standard_test],
        speedtest_targets=[target for target in targets if target.speedtest],
        options_open=any(name in errors or values[name] != start_form.DEFAULTS[name] for name in start_form.OPTIONS),
        lim=lim,
    )
    return make_response(page, status)


@pages.get("/")
def index() -> Response:
    """Show the probes and the form, prefilled from a test if it is to be run again."""
    probe = request.args.get("probe", "")
    again = request.args.get("again", "")
    if not (again.isascii() and again.isdigit() and len(again) <= 12):  # noqa: PLR2004 - no archive counts further
        return _page(start_form.fresh(probe))
    try:
        record = ask("archive.get", TestRecord, number=int(again))
    except Failure as exc:
        return _page(start_form.fresh(probe), failure=exc.info)
    return _page(start_form.fresh(record.summary.probe, parts_of(record), record.summary.comment))


@pages.get("/start")
def start_page() -> Response:
    """Lead whoever reloads after an error back to the form."""
    return make_response(redirect(url_for("probes.index"), 303))


@pages.post("/start")
def start() -> Response:
    """Start a test and lead to its page; otherwise show the form again with what was typed and what is wrong."""
    lists = form_lists()
    values = {
        **dict.fromkeys(start_form.DEFAULTS, ""),
        **{k: v[0] for k, v in lists.items() if k in start_form.DEFAULTS},
    }
    try:
        fields = start_form.read(lists, known_targets())
        ticket = ask_once("test.start", TestTicket, **fields)
    except Fault as exc:
        return _page(exc.values, exc.errors, status=_UNPROCESSABLE)
    except Refusal as exc:
        errors = start_form.places(exc.fields)
        if not errors and exc.code.startswith("probe_"):
            errors = {"probe": f"{exc.info.message} {exc.info.hint}"}
        return _page(values, errors, None if errors else exc.info, status_of(exc.info))
    except codec.Invalid as exc:
        return _page(values, start_form.places(exc.fields), status=_UNPROCESSABLE)
    except Failure as exc:
        return _page(values, failure=exc.info, status=status_of(exc.info))
    return see(url_for("tests.show", number=ticket.number))


@pages.post("/probes/<name>/forget")
def forget(name: str) -> Response:
    """Clear what the broker retains of a probe that is gone."""
    ask("probe.forget", Done, probe=name)
    return see(url_for("probes.index"), "probe_forgotten")


@pages.get("/fragments/probes")
def probes_fragment() -> str:
    """Return the whole list of probes."""
    return render_template("_probes.html", cards=_cards())


@pages.get("/fragments/probes/<name>")
def probe_fragment(name: str) -> str:
    """Return one probe; nothing if it is gone."""
    entry = fabric().cache.probe(name)
    if entry is None:
        return ""
    return render_template("_probe.html", card=probe_card(entry, fabric().cache, fabric().clock.now()))


@pages.get("/fragments/banner")
def banner_fragment() -> str:
    """Return what is away, if anything is."""
    return render_template("_banner.html")


@pages.post("/theme")
def theme() -> Response:
    """Keep the choice of light or dark, and lead back to the page it was made on."""
    response = see(_own_path(request.form.get("back", "")))
    chosen = request.form.get("theme", "auto")
    response.set_cookie(
        THEME_COOKIE, chosen if chosen in THEMES else "auto", max_age=_YEAR_S, httponly=True, samesite="Lax"
    )
    return response


def _own_path(path: str) -> str:
    """Return `path` if it is a plain path on this site, else the start page."""
    parts = urlsplit(path)
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if plain and not parts.scheme and not parts.netloc else "/"
