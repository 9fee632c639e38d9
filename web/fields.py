"""Reading a form: strictly, keeping what was typed, with one sentence for each field at fault."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from schemas import limits as lim
from schemas.base import check_host, check_text
from schemas.request import Target

_WHOLE: Final = re.compile(r"-?[0-9]{1,18}\Z")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?\Z")
_WORD: Final = re.compile(r"[a-z0-9_-]{1,15}\Z")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,40}\Z")


class Fault(Exception):  # noqa: N818 - not an error of the program but of what was typed
    """A form that does not hold: what was typed, and a sentence by field ("" is the form as a whole)."""

    def __init__(self, values: dict[str, str], errors: Mapping[str, str]) -> None:
        self.values, self.errors = values, dict(errors)
        super().__init__(", ".join(errors))


def between(low: float, high: float, unit: str = "") -> str:
    """Return a range as words."""
    space = "\N{NO-BREAK SPACE}"
    text = f"from {low:,} to {high:,}".replace(",", space)
    return f"{text}{space}{unit}" if unit else text


class Reader:
    """One form as it was sent. A field that is missing counts as left empty, one that is unknown or sent twice is refused."""

    def __init__(self, form: Mapping[str, Iterable[str]], known: Iterable[str]) -> None:
        self.values = dict.fromkeys(known, "")
        self.errors: dict[str, str] = {}
        for name, given in form.items():
            texts = list(given)
            if name not in self.values:
                self.fault("", f"there is no field '{name[:40]}'")
                continue
            self.values[name] = texts[0].replace("\r\n", "\n") if texts else ""
            if len(texts) != 1:
                self.fault(name, "this field was sent twice")
        if self.values.get("id") and not _ID.match(self.values["id"]):
            self.fault("", "the form's own number is damaged: load the page again")

    def fault(self, name: str, sentence: str) -> None:
        """Note a field at fault; its first sentence stays."""
        self.errors.setdefault(name, sentence)

    def finish(self) -> None:
        """Raise Fault if anything was at fault."""
        if self.errors:
            raise Fault(self.values, self.errors)

    def text(self, name: str) -> str:
        """Return a field without spaces at its ends."""
        return self.values[name].strip()

    def prose(self, name: str) -> str:
        """Return free text: any script, line breaks, no control characters, at most a comment's length."""
        value = self.values[name]
        try:
            check_text(value)
        except ValueError as exc:
            self.fault(name, str(exc))
        if len(value) > lim.COMMENT_MAX_CHARS:
            self.fault(name, f"at most {lim.COMMENT_MAX_CHARS} characters; these are {len(value)}")
        return value

    def flag(self, name: str) -> bool:
        """Return whether a box is ticked."""
        value = self.text(name)
        if value not in ("", "yes"):
            self.fault(name, "tick the box or leave it")
        return value == "yes"

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return one of the values offered."""
        value = self.text(name)
        if value not in allowed:
            self.fault(name, f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return value

    def host(self, name: str) -> str:
        """Return an address or a host name."""
        value = self.text(name)
        try:
            return check_host(value)
        except ValueError as exc:
            self.fault(name, str(exc))
            return value

    def word(self, name: str, sentence: str) -> str | None:
        """Return a short lower-case word; None if left empty."""
        value = self.text(name)
        if value and not _WORD.match(value):
            self.fault(name, sentence)
        return value or None

    def whole(self, name: str, low: int, high: int, unit: str = "") -> int:
        """Return a whole number within bounds."""
        value = self.text(name)
        found = int(value) if _WHOLE.match(value) else None
        if found is None or not low <= found <= high:
            self.fault(name, f"a whole number {between(low, high, unit)}")
            return low
        return found

    def whole_or_none(self, name: str, low: int, high: int, unit: str = "") -> int | None:
        """Return a whole number within bounds; None if left empty."""
        if not self.text(name):
            return None
        value = self.whole(name, low, high, unit)
        if name in self.errors:
            self.errors[name] = f"a whole number {between(low, high, unit)}, or nothing"
        return value

    def scaled_or_none(self, name: str, low: float, high: int, factor: int, unit: str) -> int | None:
        """Return a decimal number times `factor`; None if left empty."""
        value = self.text(name)
        if not value:
            return None
        if not _DECIMAL.match(value) or not low <= float(value) <= high:
            self.fault(name, f"a number {between(low, high, unit)}, or nothing")
            return None
        return int(Decimal(value) * factor)

    def target(self, name: str, typed: str, offered: Sequence[Target]) -> tuple[str, Target | None]:
        """Return the host to test, and the saved target it comes from if one was chosen instead of typing it."""
        value = self.text(name)
        if not value:
            return self.host(typed), None
        found = next((target for target in offered if str(target.target_id) == value), None)
        if self.text(typed):
            self.fault(typed, "choose a saved target or type one, not both")
        elif found is None:
            self.fault(name, "this saved target is not there any more: choose another, or type one")
        return (found.host, found) if found is not None else ("", None)
