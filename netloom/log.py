"""Logging to standard error: for a person on a terminal, as JSON lines elsewhere. Passwords in addresses never get into it."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import IO, Any, Final, Literal

from schemas.base import format_instant

Format = Literal["auto", "text", "json"]

EXTRAS: Final = ("role", "probe", "test_id")
"""What a record may carry beside its text: `log.info(..., extra={"probe": name, "test_id": id})`."""
_NOISY: Final = ("amqtt", "asyncio", "transitions", "waitress", "werkzeug", "paho", "sqlalchemy", "urllib3")
_CREDENTIALS: Final = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+]*://)[^/@\s]*@")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def redacted(text: str) -> str:
    """Return `text` without the user and password of any address in it."""
    return _CREDENTIALS.sub(r"\g<scheme>***@", text)


class TextFormatter(logging.Formatter):
    """`14:02:07 warning controller: text`: the local time, for somebody who looks on."""

    def __init__(self, role: str | None) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, and its traceback below it."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        who = getattr(record, "role", None) or self._role or record.name.partition(".")[0]
        text = f"{clock} {record.levelname.lower():<7} {who}: {_CONTROL.sub('?', record.getMessage())}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return redacted(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (UTC), level, role, logger, event, and what the record carries beside."""

    def __init__(self, role: str | None) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        # Any: JSON.
        line: dict[str, Any] = {
            "ts": format_instant(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "event": redacted(record.getMessage()),
        }
        for name in EXTRAS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = str(value)
        if record.exc_info:
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps({key: value for key, value in line.items() if value is not None}, ensure_ascii=False)


def resolve(wanted: Format, stream: IO[str] | None = None) -> Literal["text", "json"]:
    """Return the format that `wanted` means on `stream` (standard error)."""
    if wanted != "auto":
        return wanted
    return "text" if (stream or sys.stderr).isatty() else "json"


def setup(level: str, wanted: Format = "auto", *, role: str | None = None, stream: IO[str] | None = None) -> None:
    """Send the log to `stream` (standard error). Libraries speak from "warning" on only, unless the level is debug."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter(role) if resolve(wanted, target) == "text" else JsonFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A log that cannot be written (the terminal is gone, the disk is full) must not put tracebacks where nobody looks.
    logging.raiseExceptions = False
    quiet = logging.NOTSET if level == "debug" else max(logging.WARNING, root.level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(quiet)
