"""A settings file: read, and its keys found again by line."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from schemas.errors import Failure

_AT: Final = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)\Z", re.DOTALL
)


Key = tuple[str, ...]
"""The names on the way to a value."""


@dataclass(frozen=True)
class SettingsFile:
    """A TOML file that was read. `table` is its content."""

    path: Path
    text: str
    # Any: TOML.
    table: dict[str, Any]

    def place(self, key: Key) -> str:
        """Return where `key` stands: file and line."""
        return f"{self.path}:{self._lines.get(key, 1)}"

    @cached_property
    def _lines(self) -> dict[Key, int]:
        """The line where the statement that brings each key begins.

        The parser tells no positions, so it is asked with ever more of the file: the first part that holds a key ends with its
        statement, which begins behind the last part that was whole without it.
        """
        found: dict[Key, int] = {}
        lines = self.text.splitlines(keepends=True)
        begin = 1
        for end in range(1, len(lines) + 1):
            try:
                table = tomllib.loads("".join(lines[:end]))
            except tomllib.TOMLDecodeError:  # in the middle of a statement
                continue
            for key in _keys(table):
                found.setdefault(key, begin)
            begin = end + 1
        return found


# Any: TOML.
def _keys(table: dict[str, Any], before: Key = ()) -> Iterator[Key]:
    for name, value in table.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from _keys(value, (*before, name))


def read(path: Path) -> SettingsFile:
    """Return the file at `path`. Raise FileNotFoundError, or Failure (config_file, with the line)."""
    try:
        text = path.read_bytes().decode()
        return SettingsFile(path, text, tomllib.loads(text))
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise Failure("config_file", path=path, reason=(exc.strerror or str(exc)).lower()) from None
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        raise Failure("config_file", path=path, reason=f"line {line}: this is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise Failure("config_file", path=path, reason=_reason(exc, text)) from None


def _reason(exc: tomllib.TOMLDecodeError, text: str) -> str:
    found = _AT.match(str(exc))
    if found is None:
        return str(exc)
    what = found["what"][:1].lower() + found["what"][1:]
    line = found["line"] or str(text.rstrip("\n").count("\n") + 1)
    return f"line {line}: {what}"
