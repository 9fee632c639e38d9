"""The parent's side of a run: starts a child, reads what it says, and ends it by deadline, stall or cancel.

Everything happens in the calling thread, which is also what makes the child die with the probe: the kernel ties its death signal to
the thread that started it. Any number of runs may go on in as many threads.
"""

import contextlib
import ipaddress
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from probe.iperf import child as program
from probe.iperf.events import Ending, Phase, Report, Sample, parse
from schemas.command import Direction, SpeedtestSpec
from schemas.iperf import arguments

logger = logging.getLogger(__name__)

LIBRARIES: Final = (
    "libiperf.so.0",
    "libiperf.so",
    "/usr/local/lib/libiperf.so.0",
    "libiperf.0.dylib",
    "/opt/homebrew/lib/libiperf.0.dylib",
)
POLL_S: Final = 0.1
REAP_S: Final = 2.0
VERSION_S: Final = 10.0
READ_BYTES: Final = 65_536
# 16 streams for 70 s make a document of about half a megabyte.
LINE_MAX_BYTES: Final = 8 * 1024 * 1024
# iperf3 without a block size sends TCP data in blocks of 128 KiB; at a low bitrate they are far apart, and that is no stall.
BLOCK_BITS: Final = 128 * 1024 * 8


@dataclass(frozen=True)
class Deadlines:
    """The patience of a run, s."""

    connect_s: float = 5.0
    """Until the server accepts."""
    stall_s: float = 5.0
    """Without a byte moving, once it has accepted."""
    extra_s: float = 10.0
    """Beyond connecting and measuring, before it is ended whatever it does."""

    def total_s(self, spec: SpeedtestSpec) -> float:
        """Return the longest one run may take."""
        return self.connect_s + spec.omit_s + spec.duration_s + self.extra_s


DEADLINES: Final = Deadlines()


@dataclass(frozen=True)
class Plan:
    """One run: a direction of a speedtest, to a literal address."""

    spec: SpeedtestSpec
    direction: Direction
    address: str

    # Any: JSON.
    def request(self, deadlines: Deadlines) -> dict[str, Any]:
        """Return the child's request. Raise ValueError if the address is not literal: the child must resolve nothing."""
        ipaddress.ip_address(self.address)
        return {
            "arguments": ["-c", self.address, "-J", *arguments(self.spec, self.direction)],
            "connect_timeout_ms": round(deadlines.connect_s * 1000),
            "seconds": self.spec.omit_s + self.spec.duration_s,
            "receive": self.direction == "download",
            "udp": self.spec.protocol == "udp",
        }


class _Child:
    """The process of one run, in a session and process group of its own; gone and reaped when the context ends."""

    def __init__(self, request: dict[str, Any]) -> None:
        line = json.dumps({"parent": os.getpid(), "library": LIBRARIES, **request}) + "\n"
        # By path and with -P: it starts without importing this package, wherever the probe was started from.
        self._process = subprocess.Popen(  # noqa: S603 - our own program, and no word of the list comes from outside
            [sys.executable, "-P", str(Path(program.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above; tells the type checker
        assert self._process.stdout is not None  # noqa: S101 - as above
        self._out = self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._buffer = b""
        self.ended = False
        # Either may find the child gone already; then the reading side notices.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(line.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._out.close()

    def events(self, timeout_s: float) -> list[dict[str, Any]]:
        """Wait for the child to say something, at most so long, and return it; sets `ended` when it will say no more."""
        if not self._poll.poll(timeout_s * 1000):
            return []
        found = os.read(self._out.fileno(), READ_BYTES)
        *lines, self._buffer = (self._buffer + found).split(b"\n")
        self.ended = not found or len(self._buffer) > LINE_MAX_BYTES
        return [event for event in map(parse, lines) if event is not None]

    def end(self) -> int | None:
        """Kill the group if it still lives, reap the child and return its exit status; None if the kernel does not let go of it."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        try:
            return self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(REAP_S)
        logger.error("iperf3 process %d cannot be ended", self._process.pid)
        return None


@dataclass
class _Watch:
    """What is known of a run under way, and whether it still moves."""

    stall_s: float
    connect_s: float
    deadline: float
    version: str | None = None
    samples: list[Sample] = field(default_factory=list)
    moved_at: float | None = None
    """When something last moved (monotonic); None before the first sample, so that without samples nothing is called a stall."""

    @property
    def phase(self) -> Phase:
        if any(found.at_s is not None for found in self.samples):
            return "running"
        return "waiting" if any(found.connected for found in self.samples) else "connecting"

    def take(self, sample: Sample) -> None:
        """Take a sample; anything but time that differs from the one before is movement."""
        last = self.samples[-1] if self.samples else None
        if last is None or (last.connected, last.streams, last.bytes, last.control) != (
            sample.connected,
            sample.streams,
            sample.bytes,
            sample.control,
        ):
            self.moved_at = time.monotonic()
        self.samples.append(sample)

    def over(self) -> Ending | None:
        """Return why the run has to end now, if it has."""
        now = time.monotonic()
        if now >= self.deadline:
            return "late"
        # libiperf ends a connection attempt by itself; it gets a second more to do so.
        patience_s = self.connect_s + 1.0 if self.phase == "connecting" else self.stall_s
        if self.moved_at is not None and now - self.moved_at >= patience_s:
            return "stalled"
        return None

    # Any: JSON.
    def report(self, ending: Ending, code: int = 0, text: str = "", document: dict[str, Any] | None = None) -> Report:
        """Return the report of this run."""
        start = (document or {}).get("start")
        # The document knows of a test too short to be seen by a sample.
        phase: Phase = "running" if isinstance(start, dict) and "test_start" in start else self.phase
        return Report(ending, phase, code, text, document, tuple(self.samples), self.version)


def run(
    plan: Plan,
    *,
    cancelled: Callable[[], bool],
    on_samples: Callable[[list[Sample]], None] = lambda _: None,
    deadlines: Deadlines = DEADLINES,
) -> Report:
    """Measure one direction and return how it went. `on_samples` gets all samples so far after each new one.

    Takes at most `deadlines.total_s`; returns within 0.2 s of `cancelled`. It leaves no process and nothing open behind.
    """
    stall_s = deadlines.stall_s + (BLOCK_BITS / plan.spec.bitrate if plan.spec.bitrate else 0.0)
    watch = _Watch(stall_s, deadlines.connect_s, time.monotonic() + deadlines.total_s(plan.spec))
    return _run(plan.request(deadlines), watch, cancelled, on_samples)


def version() -> Report:
    """Return a report that names libiperf's version, or why it is missing.

    Asked through a child: loading the library here would keep it and the TLS libraries it pulls in mapped into an idle probe for
    ever, and would not show whether a run's own way of finding it works.
    """
    watch = _Watch(VERSION_S, VERSION_S, time.monotonic() + VERSION_S)
    return _run({"arguments": None}, watch, lambda: False, lambda _: None)


def _run(
    request: dict[str, Any], watch: _Watch, cancelled: Callable[[], bool], on_samples: Callable[[list[Sample]], None]
) -> Report:
    try:
        with _Child(request) as child:
            return _follow(child, watch, cancelled, on_samples)
    except OSError as exc:  # no process or no descriptor to be had
        return watch.report("died", text=str(exc))


def _follow(
    child: _Child, watch: _Watch, cancelled: Callable[[], bool], on_samples: Callable[[list[Sample]], None]
) -> Report:
    while True:
        report: Report | None = None
        for event in child.events(POLL_S):
            report = _take(event, watch, on_samples) or report
        if report is not None:
            return report
        if child.ended:
            status = child.end()
            if watch.version is not None and status == 0:
                return watch.report("finished")
            return watch.report("died", text=_status(status))
        if cancelled():
            return watch.report("cancelled")
        ending = watch.over()
        if ending is not None:
            return watch.report(ending)


def _take(event: dict[str, Any], watch: _Watch, on_samples: Callable[[list[Sample]], None]) -> Report | None:
    """Take one event; return the report if it was the last."""
    kind = event.get("event")
    try:
        if kind == "missing":
            return watch.report("missing", text=str(event["reason"]))
        if kind == "loaded":
            watch.version = str(event["version"])
        elif kind == "sample":
            watch.take(Sample.of(event))
            on_samples(watch.samples)
        elif kind == "result":
            document = parse(event["document"] or "")
            code, text = int(event["code"]), _text(event, document)
            return watch.report("finished", code=code, text=text, document=document)
    except (KeyError, TypeError, ValueError):
        logger.warning("iperf3's process said something unknown: %.100r", event)
    return None


# Any: JSON.
def _text(event: dict[str, Any], document: dict[str, Any] | None) -> str:
    """Return libiperf's error text: the document's, made where the error was, or else what the child could find out later."""
    found = (document or {}).get("error")
    return found if isinstance(found, str) else str(event["text"])


def _status(status: int | None) -> str:
    if status is not None and status < 0:
        return f"iperf3 was ended by signal {-status}"
    return f"iperf3 ended with status {status}"
