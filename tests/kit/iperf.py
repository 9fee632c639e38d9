"""iperf3 servers for tests, real and fake, each on a free loopback port; and the context a speedtest is given."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import pytest

from probe.kinds.base import Step
from probe.limits import ProbeLimits
from schemas.errors import Failure
from tests.kit import brokers
from tests.kit.brokers import free_port
from tests.kit.wait import until

LOOPBACK = brokers.LOOPBACK
LOOPBACK6 = "::1"
START_S = 10.0
COOKIE_BYTES = 37


@dataclass
class Server:
    """A real iperf3 server."""

    host: str
    port: int
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL: its connections break at once."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP: its kernel still answers, it does not."""
        self.process.send_signal(signal.SIGSTOP)


def _program() -> str:
    found = shutil.which("iperf3")
    if found is None:
        pytest.skip("iperf3 is not installed")
    return found


def installed_version() -> str:
    """The version that the program on this system has, as the library says it."""
    words = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=True).stdout.split()
    return words[1]


def _says(log: IO[bytes], words: bytes) -> bool:
    log.seek(0)
    return words in log.read()


@contextlib.contextmanager
def server(host: str = LOOPBACK, *, one_off: bool = False) -> Iterator[Server]:
    """A listening `iperf3 -s`; `one_off` serves a single client."""
    program = _program()
    with tempfile.TemporaryFile() as log:
        for _ in range(5):  # somebody else may take the free port first
            port = free_port(host)
            words = [program, "-s", "-B", host, "-p", str(port), "--forceflush", *(["-1"] if one_off else [])]
            process = subprocess.Popen(words, stdout=log, stderr=log)
            # Not by connecting: the server would take it for its client.
            until(lambda p=process: p.poll() is not None or _says(log, b"listening on"), START_S, "iperf3 -s listens")  # type: ignore[misc]
            if process.poll() is None:
                break
        else:
            raise AssertionError("iperf3 -s does not start")
        try:
            yield Server(host, port, process)
        finally:
            process.kill()  # ends a frozen one, too
            process.wait()


@contextlib.contextmanager
def client(target: Server, seconds: int = 30) -> Iterator[subprocess.Popen[bytes]]:
    """A real client at work, which keeps the server busy."""
    words = [_program(), "-c", target.host, "-p", str(target.port), "-t", str(seconds), "-b", "1M", "--forceflush"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            until(lambda: _says(log, b"connected to"), START_S, "the other client is served")
            yield process
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def refusing(host: str = LOOPBACK) -> Iterator[int]:
    """A port that is taken, so that nobody else can, and on which nothing listens."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        held.bind((host, 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose packets vanish: its queue of connections is full, so the kernel drops what comes."""
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(socket.socket())
        held.bind((LOOPBACK, 0))
        held.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(held.getsockname())
        yield held.getsockname()[1]


@contextlib.contextmanager
def answering(payload: bytes | None) -> Iterator[int]:
    """A port that takes the client's cookie, says `payload` and hangs up; None stays silent and connected."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    if payload is None:
                        over.wait()
                    else:
                        connection.recv(COOKIE_BYTES, socket.MSG_WAITALL)
                        connection.sendall(payload)

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class SpeedContext:
    """The context of a speedtest: remembers steps, resolves from a table, cancels when told."""

    def __init__(
        self, names: Mapping[str, str | Failure] | None = None, cancel_when: Callable[[Step], bool] | None = None
    ) -> None:
        self.steps: list[Step] = []
        self.asked: list[tuple[str, int | None]] = []
        self.stop = threading.Event()
        self.stopped_at: float | None = None
        self._names = names or {}
        self._cancel_when = cancel_when

    @property
    def limits(self) -> ProbeLimits:
        return ProbeLimits(allow_loopback=True)

    def cancelled(self) -> bool:
        return self.stop.is_set()

    def cancel(self) -> None:
        self.stopped_at = time.monotonic()
        self.stop.set()

    def step(self, step: Step) -> None:
        self.steps.append(step)
        if self._cancel_when is not None and not self.stop.is_set() and self._cancel_when(step):
            self.cancel()

    def address(self, host: str, family: int | None) -> str:
        self.asked.append((host, family))
        found = self._names.get(host, host)
        if isinstance(found, Failure):
            raise found
        return found


def children(pid: int | None = None) -> set[int]:
    """The processes that a process (this one) has started and that are not reaped."""
    base = f"/proc/{pid or os.getpid()}/task"
    found: set[int] = set()
    for task in os.listdir(base):  # noqa: PTH208 - names of numbers, not paths
        with contextlib.suppress(OSError), open(f"{base}/{task}/children", encoding="ascii") as file:  # noqa: PTH123 - as above
            found |= {int(word) for word in file.read().split()}
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - as above
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as above
