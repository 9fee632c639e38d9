"""Data on standard output: text for a person on a terminal, one JSON document a line in a pipe."""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
from pydantic import BaseModel

from netloom.cli.base import usage

F = TypeVar("F", bound=Callable[..., Any])

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
GAP: Final = "  "


def json_option(command: F) -> F:
    """Add --json/--text; without it the terminal decides."""
    return click.option(
        "--json/--text",
        "as_json",
        default=None,
        help="JSON, one document a line, or text.  [default: text on a terminal, JSON in a pipe]",
    )(command)


def wants_json(*, as_json: bool | None) -> bool:
    """Tell whether data is to be written as JSON."""
    return not sys.stdout.isatty() if as_json is None else as_json


def clean(text: object) -> str:
    """Return text that came from elsewhere without what would steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def document(message: BaseModel) -> None:
    """Write a message as one line of JSON."""
    click.echo(message.model_dump_json())
    sys.stdout.flush()


def line(text: str = "") -> None:
    """Write a line of text at once, so that who reads a pipe sees it too."""
    click.echo(text)
    sys.stdout.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows below their heads; the last column is cut at the terminal's edge."""
    shown = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    edge = shutil.get_terminal_size((1000, 24)).columns if sys.stdout.isatty() else 1000
    for row in (head, *shown):
        text = GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line(text[:edge])


def confirm(what: str, *, yes: bool) -> None:
    """Ask before something is lost. Where nobody can answer, --yes has to be said; raise Told without it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise usage(f"{what} needs --yes where nobody can be asked.")
    click.confirm(f"{what}?", abort=True, err=True)
