"""Where settings come from: flag, NETLOOM_* environment, file, default, in that order; each value remembers its source.

Files: the one named by `--config` or NETLOOM_CONFIG alone (an empty NETLOOM_CONFIG means none); without either, every one there
is of ./netloom.toml, $XDG_CONFIG_HOME/netloom/config.toml and /etc/netloom/config.toml, an earlier one before a later one.

Errors::

    schemas.errors.Failure
      config_file           a file cannot be read, or is not TOML
      ConfigError           a setting that does not hold; it knows its key and its source
        config_key          no such setting; suggests one
        config_value        not a value it takes
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from netloom import config_file
from netloom.config_model import PREFIX, SECRETS, expected, is_switch, paths, sections, text_of, value_of, variable
from netloom.settings import Settings
from schemas.errors import Failure

CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
READY_VARIABLE: Final = f"{PREFIX}READY_FD"
LIFELINE_VARIABLE: Final = f"{PREFIX}LIFELINE_FD"
SYSTEM_DATA: Final = Path("/var/lib/netloom")
SYSTEM_FILE: Final = Path("/etc/netloom/config.toml")
_RESERVED: Final = frozenset({CONFIG_VARIABLE, READY_VARIABLE, LIFELINE_VARIABLE})
# What Kubernetes puts into the environment of every container when a service is called netloom.
_FOREIGN: Final = re.compile(rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_.*)?)\Z")
_SHOWN_CHARS: Final = 60


@dataclass(frozen=True)
class Source:
    """Where a value was said: `place` is a file with its line, a variable, a flag, or "default"."""

    kind: Literal["default", "file", "env", "flag"]
    place: str


DEFAULT: Final = Source("default", "default")


class ConfigError(Failure):
    """A setting that does not hold, or that there is not."""

    def __init__(self, code: str, key: str, source: Source, **values: object) -> None:
        super().__init__(code, field=key, place=source.place, key=key, **values)
        self.source = source


@dataclass(frozen=True)
class Loaded:
    """The settings in force, the source of each by its dotted path, and the files that were read, strongest first."""

    settings: Settings
    sources: Mapping[str, Source]
    files: tuple[Path, ...]

    def chosen(self, path: str) -> bool:
        """Tell whether somebody chose this value; otherwise it is the default."""
        return self.sources[path].kind != "default"


@dataclass(frozen=True)
class Flag:
    """What the command line said, and with which option."""

    text: str
    name: str


@dataclass(frozen=True)
class _Given:
    """A value as it was said."""

    # Any: TOML, or text.
    value: Any
    source: Source


def load(
    flags: Mapping[str, Flag] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Loaded:
    """Return the settings in force.

    `flags` holds what the command line said, by path; ./netloom.toml is looked for in `folder`, the present one by default.

    Raises:
        ConfigError: a setting that does not hold, from wherever it came.
        Failure: config_file.
    """
    files = [*_files(config, environment, folder or Path())]
    given: dict[str, _Given] = {}
    for file in reversed(files):
        given.update(_from_file(file))
    given.update(_from_environment(environment))
    given.update({path: _Given(said.text, Source("flag", said.name)) for path, said in (flags or {}).items()})
    given.setdefault("data", _Given(*_data_folder(environment)))
    for path, item in given.items():
        if item.value == "" or (isinstance(item.value, bool) and not is_switch(path)):  # pydantic takes true for 1
            raise _value_error(path, item)
    try:
        settings = Settings.model_validate(_nested(given))
    except ValidationError as exc:
        raise _invalid(exc.errors(include_url=False)[0], given) from None
    settings = settings.model_copy(update={"data": settings.data.expanduser().absolute()})
    sources = {path: given[path].source if path in given else DEFAULT for path in paths()}
    return Loaded(settings, sources, tuple(file.path for file in files))


def child_environment(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which `load` finds exactly `settings`, whatever files there are."""
    found = {name: value for name, value in environment.items() if not name.startswith(PREFIX)}
    for path in paths():
        value = value_of(settings, path)
        if value not in (None, ()):
            found[variable(path)] = text_of(value)
    return found | {CONFIG_VARIABLE: ""}


# --- files --------------------------------------------------------------------------------------------------------------
def search(environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> list[Path]:
    """Return where settings files are looked for when none is named, strongest first."""
    home = environment.get("XDG_CONFIG_HOME") or str(_home(environment) / ".config")
    return [(folder or Path()) / "netloom.toml", Path(home) / "netloom" / "config.toml", SYSTEM_FILE]


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())


def _files(config: Path | None, environment: Mapping[str, str], folder: Path) -> Iterator[config_file.SettingsFile]:
    named = str(config) if config is not None else environment.get(CONFIG_VARIABLE)
    if named is not None:
        if named:
            try:
                yield config_file.read(Path(named))
            except FileNotFoundError:
                raise Failure("config_file", path=named, reason="there is no such file") from None
        return
    for path in search(environment, folder):
        try:
            yield config_file.read(path)
        except FileNotFoundError:
            continue


def _from_file(file: config_file.SettingsFile) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    todo: list[tuple[config_file.Key, dict[str, Any]]] = [((), file.table)]
    while todo:
        before, table = todo.pop(0)
        for name, value in table.items():
            key = (*before, name)
            path, source = ".".join(key), Source("file", file.place(key))
            if "." in name:  # quoted: not what it looks like
                raise _unknown(f'"{name}"', source)
            if path in sections() and isinstance(value, dict):
                todo.append((key, value))
            elif path in sections() or path in paths():
                found[path] = _Given(value, source)
            else:
                raise _unknown(path, source)
    return found


# --- environment ----------------------------------------------------------------------------------------------------------
def _from_environment(environment: Mapping[str, str]) -> dict[str, _Given]:
    names = {variable(path): path for path in paths()}
    found: dict[str, _Given] = {}
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in _RESERVED or _FOREIGN.match(name) or not value:
            continue
        path, source = names.get(name) or names.get(name.removesuffix("_FILE")), Source("env", name)
        if path is None:
            raise _unknown(name, source)
        if path in found:  # sorted: the plain name came first
            raise ConfigError(
                "config_value", path, source, reason=f"{found[path].source.place} says it too; keep one of them"
            )
        found[path] = _Given(value if name in names else _secret(path, value, source), source)
    return found


def _secret(path: str, file: str, source: Source) -> str:
    """Return the value that a *_FILE variable points at."""
    try:
        return Path(file).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = (exc.strerror or str(exc)).lower() if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError("config_value", path, source, reason=f"{file} cannot be read: {reason}") from None


def _data_folder(environment: Mapping[str, str]) -> tuple[str, Source]:
    """Return where the roles keep their files unless told otherwise: systemd's folder, the system's, the user's."""
    if given := environment.get("STATE_DIRECTORY"):
        return given.split(":")[0], Source("env", "STATE_DIRECTORY")
    if os.geteuid() == 0 or os.access(SYSTEM_DATA, os.W_OK):
        return str(SYSTEM_DATA), DEFAULT
    return str(Path(environment.get("XDG_STATE_HOME") or _home(environment) / ".local" / "state") / "netloom"), DEFAULT


# --- what does not hold -----------------------------------------------------------------------------------------------------
def _nested(given: Mapping[str, _Given]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # A whole section said to be something else comes last, so that nothing is put into it.
    for path, item in sorted(given.items(), key=lambda pair: pair[0] in sections()):
        *before, name = path.split(".")
        table = found
        for section in before:
            table = table.setdefault(section, {})
        text = isinstance(item.value, str)
        table[name] = _words(item.value) if text and path == "web.hosts" else item.value
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _invalid(detail: ErrorDetails, given: Mapping[str, _Given]) -> ConfigError:
    said = ".".join(str(part) for part in detail["loc"])
    path = next(path for path in given if said == path or said.startswith(f"{path}."))
    if detail["type"] == "value_error":  # a sentence of ours, which shows no secret
        return ConfigError("config_value", path, given[path].source, reason=str(detail["ctx"]["error"]))
    return _value_error(path, given[path])


def _value_error(path: str, item: _Given) -> ConfigError:
    if path in sections():
        reason = expected(path)
    elif path in SECRETS:
        reason = f"it takes {expected(path)}"
    else:
        shown = text_of(item.value) if isinstance(item.value, bool | str) else repr(item.value)
        reason = f"it takes {expected(path)}, not '{shown[:_SHOWN_CHARS]}'"
    return ConfigError("config_value", path, item.source, reason=reason)


def _unknown(key: str, source: Source) -> ConfigError:
    if source.kind == "env":
        near = difflib.get_close_matches(key, [variable(path) for path in paths()], 1, 0.7)
    else:
        near = difflib.get_close_matches(key, [*paths(), *sections()], 1, 0.7)
        near = near or [path for path in paths() if path.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    suggestion = f" Did you mean '{near[0]}'?" if near else ""
    return ConfigError("config_key", key, source, suggestion=suggestion)
