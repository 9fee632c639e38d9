"""One supervised child process: how it is started, what it says of its readiness, how it is ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from netloom.cli import guard
from netloom.config import LIFELINE_VARIABLE, READY_VARIABLE, child_environment
from netloom.settings import Settings
from schemas.errors import ErrorInfo

LINE_MAX_BYTES: Final = 65_536


@dataclass(frozen=True)
class Spec:
    """A child to run. One that does not `report` counts as ready as soon as it runs."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False, default_factory=dict)
    report: bool = True
    last: bool = False
    """It is ended after the others: they still have something to tell it."""


def role(name: str, settings: Settings, *, last: bool = False) -> Spec:
    """Return a role of ours with exactly these settings."""
    # -P: what the present folder calls web or probe is not ours.
    return Spec(name, (sys.executable, "-P", "-m", "netloom.cli", name), child_environment(settings), last=last)


def program(name: str, *arguments: str) -> Spec:
    """Return a program that knows nothing of us, quiet, and tied to this process."""
    tied = (sys.executable, "-I", "-S", str(Path(guard.__file__).resolve()), str(os.getpid()))
    return Spec(name, (*tied, *arguments), dict(os.environ), report=False)


class Child:
    """A child that runs. Start it in the main thread: the kernel's death signal is tied to the thread that forks."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.started_at = time.monotonic()
        self.ready: str | None = None if spec.report else ""
        """What it said when it became ready."""
        self.silent = not spec.report
        """It has nothing (more) to say on its pipe."""
        self.failure: ErrorInfo | None = None
        """Why it could not start."""
        self.ending: str | None = None
        """How it ended, as the end of a sentence."""
        self._said = b""
        self.pipe, ready = os.pipe()
        lifeline, self._lifeline = os.pipe()
        passed = (ready, lifeline) if spec.report else ()
        told = {READY_VARIABLE: str(ready), LIFELINE_VARIABLE: str(lifeline)} if spec.report else {}
        try:
            # A session of its own: Ctrl-C reaches the parent alone, which ends its children in order.
            self.process = subprocess.Popen(  # noqa: S603 - our own programs, with arguments of ours
                spec.arguments,
                env={**spec.environment, **told},
                stdin=subprocess.DEVNULL,
                stdout=None if spec.report else subprocess.DEVNULL,
                stderr=None if spec.report else subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,
            )
        finally:
            os.close(ready)
            os.close(lifeline)

    @property
    def alive(self) -> bool:
        """Whether it still runs. A dead one is not reaped by asking: until then no other group can have its number."""
        if self.ending is None:
            found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                kind = "exit code" if found.si_code == os.CLD_EXITED else "signal"
                self.ending = f"{kind} {found.si_status}"
        return self.ending is None

    def hear(self) -> None:
        """Read what it says on its pipe; sets `silent` when it will say no more."""
        data = os.read(self.pipe, LINE_MAX_BYTES)
        self._said += data
        line, end, _ = self._said.partition(b"\n")
        self.silent = bool(end) or not data
        if not end:
            return
        word, _, detail = line.decode(errors="replace").partition(" ")
        if word == "ready":
            self.ready = detail
        else:
            self.failure = ErrorInfo.model_validate_json(detail)

    def terminate(self) -> None:
        """Ask it to end."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM if self.spec.report else signal.SIGKILL)

    def kill(self) -> None:
        """End it and whatever it has started in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Reap it, with what it left behind in its group, and close the pipes."""
        self.kill()
        self.process.wait()
        os.close(self.pipe)
        os.close(self._lifeline)
