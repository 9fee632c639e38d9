"""The settings' model as its loader sees it: every setting by its dotted path, what it takes, how it is written as text."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from netloom.settings import Settings
from schemas.base import NAME_PATTERN

PREFIX: Final = "NETLOOM_"
SECRETS: Final = frozenset({"broker.url", "controller.archive"})
"""Settings that may hold a password."""
_GROUPED_FROM: Final = 100_000  # a port is written without
_PASSWORD: Final = re.compile(r"(?P<before>://[^/@\s:]*:)[^/\s]*(?=@)")


def _walk(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every path with its section's model, or with None where it is a setting."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield before + name, kind
            yield from _walk(kind, f"{before}{name}.")
        else:
            yield before + name, None


@cache
def paths() -> tuple[str, ...]:
    """Return the dotted path of every setting."""
    return tuple(path for path, section in _walk(Settings) if section is None)


@cache
def sections() -> frozenset[str]:
    """Return the dotted path of every section."""
    return frozenset(path for path, section in _walk(Settings) if section is not None)


def variable(path: str) -> str:
    """Return the environment variable of a setting: broker.url is NETLOOM_BROKER__URL."""
    return PREFIX + path.upper().replace(".", "__")


# Any: a setting's value.
def value_of(settings: Settings, path: str) -> Any:
    """Return the value of a setting."""
    found: Any = settings
    for name in path.split("."):
        found = getattr(found, name)
    return found


# Any: as above.
def text_of(value: Any) -> str:
    """Return a value as one writes it in the environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def masked(path: str, text: str) -> str:
    """Return a setting's text with its password hidden."""
    return _PASSWORD.sub(r"\g<before>***", text) if path in SECRETS else text


# Any: JSON Schema.
@cache
def _schema() -> Mapping[str, Any]:
    return Settings.model_json_schema()


def _node(path: str) -> Mapping[str, Any]:
    node = _schema()
    for name in path.split("."):
        node = node["properties"][name]
        if "$ref" in node:
            node = _schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return next((kind for kind in node.get("anyOf", ()) if kind.get("type") != "null"), node)


def _grouped(number: float) -> str:
    """Return a bound; a large one in groups of three, as the contract's sentences have them."""
    return f"{number:,.15g}".replace(",", "\N{NO-BREAK SPACE}") if number >= _GROUPED_FROM else f"{number:.15g}"


def is_switch(path: str) -> bool:
    """Tell whether a setting is true or false."""
    return _node(path).get("type") == "boolean"


def expected(path: str) -> str:
    """Return what a setting takes, as the end of a sentence."""
    if path in sections():
        return f"it is a section: write its settings below [{path}]"
    node = _node(path)
    if "enum" in node:
        *most, last = node["enum"]
        return f"one of {', '.join(most)} or {last}"
    if node.get("pattern") == NAME_PATTERN:
        return "1 to 64 letters, digits, - and _"
    kinds = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "array": "a list of host names",
    }
    kind = kinds.get(node.get("type", ""), "a path" if node.get("format") == "path" else "text")
    if "minimum" in node and "maximum" in node:
        kind += f" from {_grouped(node['minimum'])} to {_grouped(node['maximum'])}"
    return kind


def default_of(path: str) -> str:
    """Return a setting's default as text, "" if it has none."""
    found = value_of(Settings(), path)
    return "" if found in (None, ()) or isinstance(found, Path) else text_of(found)
