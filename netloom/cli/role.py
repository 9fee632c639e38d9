"""A role as a process: signals, log, readiness; and its end when its parent ends.

A parent (netloom/cli/supervisor.py) hands down two pipes by number. On NETLOOM_READY_FD the role writes one line: "ready <detail>",
or "failed <error as JSON>". NETLOOM_LIFELINE_FD reads end of file when the parent is gone, however it went.
"""

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol, cast

import click

from netloom.config import LIFELINE_VARIABLE, READY_VARIABLE, Loaded
from netloom.log import setup
from netloom.settings import Settings
from schemas.errors import CATALOGUE, Failure

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG: Final = 1
ORPHAN_PATIENCE_S: Final = 2.0
OURS: Final = frozenset({"schemas", "netloom", "broker", "controller", "probe", "web"})


class Run(Protocol):
    """A role's entry point."""

    def __call__(self, settings: Settings, stop: threading.Event, ready: Callable[[str], None]) -> None:
        """Serve until `stop` is set; call `ready` once. Raise Failure for what a person must mend."""


def entry_point(module: str, command: str, extra: str) -> Run:
    """Return a role's `run`. Raise Failure (extra_missing) if a package it needs is not installed."""
    try:
        return cast("Run", importlib.import_module(module).run)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] in OURS:
            raise
        raise Failure("extra_missing", command=f"netloom {command}", reason=str(exc), extra=extra) from None


def _inherited(variable: str) -> int | None:
    """Return the pipe that the parent named in `variable`, out of reach of processes that this one starts."""
    number = os.environ.pop(variable, None)
    if number is None or not number.isdecimal():
        return None
    try:
        os.set_inheritable(int(number), False)  # noqa: FBT003 - the system's signature
    except OSError:  # it named what is not open
        return None
    return int(number)


class _Readiness:
    """Tells the parent, if there is one; otherwise the log."""

    def __init__(self, role: str, pipe: int | None) -> None:
        self._role, self._pipe = role, pipe

    def ready(self, detail: str) -> None:
        """Say that the role serves."""
        if not self._tell(f"ready {detail}"):
            log.info("%s is ready: %s", self._role, detail)

    def failed(self, exc: Failure) -> bool:
        """Say that it cannot; return whether somebody heard."""
        return self._tell(f"failed {exc.info.model_dump_json()}")

    def _tell(self, line: str) -> bool:
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return False
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, line.replace("\n", " ").encode() + b"\n")
        os.close(pipe)
        return True


def _end_with_parent(stop: threading.Event, lifeline: int) -> None:
    """Stop when the parent is gone, and end hard if that takes too long."""
    if sys.platform == "linux":  # at once, even while Python is still loading the role
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        stop.set()
        threading.Event().wait(ORPHAN_PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM, SIGINT and SIGHUP set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


def run(name: str, loaded: Loaded, find: Callable[[], Run]) -> None:
    """Run a role until a signal. Raise Failure if it cannot start and nobody but the person at the terminal is there to tell."""
    settings = loaded.settings
    setup(settings.log_level, settings.log_format, role=name)
    stop = stop_on_signals()
    readiness = _Readiness(name, _inherited(READY_VARIABLE))
    if (lifeline := _inherited(LIFELINE_VARIABLE)) is not None:
        _end_with_parent(stop, lifeline)
    try:
        find()(settings, stop, readiness.ready)
    except Failure as exc:
        if readiness.failed(exc):
            raise click.exceptions.Exit(CATALOGUE[exc.code].exit_code) from None
        raise
