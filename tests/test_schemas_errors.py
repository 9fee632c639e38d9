"""The catalogue: every error has a code, a cause, a next step, and a place in the documentation."""

import ast
import re
import string
from pathlib import Path

import pytest

from schemas.errors import CATALOGUE, ErrorInfo, Failure, error

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("schemas", "netloom", "broker", "probe", "controller", "web")
EXIT_CODES = {1, 2, 3, 4, 5, 6, 7, 130}


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_an_error_is_whole(code: str) -> None:
    entry = CATALOGUE[code]
    assert re.fullmatch(r"[a-z][a-z0-9_]+", code)
    assert entry.message.rstrip().endswith((".", "}")), "a sentence ends"
    assert entry.hint.endswith((".", "?"))
    assert "went wrong" not in entry.message.lower()
    assert 400 <= entry.http < 600
    assert entry.exit_code in EXIT_CODES


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_an_error_never_fails_itself(code: str) -> None:
    info = error(code)
    names = {name for _, name, _, _ in string.Formatter().parse(CATALOGUE[code].message) if name}
    assert info.message.count("?") >= len(names) - CATALOGUE[code].message.count("?")
    assert "{" not in info.message
    assert "{" not in info.hint


def test_values_are_filled_in() -> None:
    assert error("dns_failed", host="nope.example", reason="no such name").message == (
        "The probe could not resolve 'nope.example': no such name."
    )


def test_a_failure_names_its_field() -> None:
    failure = Failure("bad_message", field="ping.count", reason="a whole number")
    assert (failure.code, failure.field) == ("bad_message", "ping.count")
    assert failure.info.message == "ping.count: a whole number"
    again = Failure.of(ErrorInfo(code="x_new", message="From a newer side."), "a.b")
    assert (again.code, again.field, str(again)) == ("x_new", "a.b", "x_new: From a newer side.")


def _codes_used() -> dict[str, set[str]]:
    """Every literal code given to error(...) or Failure(...) in the product, with where."""
    found: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not (isinstance(node, ast.Call) and node.args):
                    continue
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                first = node.args[0]
                if name in {"error", "Failure"} and isinstance(first, ast.Constant) and isinstance(first.value, str):
                    if name == "error" and isinstance(node.func, ast.Attribute):
                        continue  # log.error("...")
                    found.setdefault(first.value, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_code_in_use_is_in_the_catalogue() -> None:
    unknown = {code: where for code, where in _codes_used().items() if code not in CATALOGUE}
    assert not unknown


def test_no_code_is_left_over() -> None:
    texts = [
        path.read_text("utf-8")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "schemas" / "errors.py"
    ]
    assert [code for code in CATALOGUE if not any(f'"{code}"' in text for text in texts)] == []


def test_every_code_is_documented() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    missing = [code for code in CATALOGUE if f"`{code}`" not in text]
    assert not missing
