"""The command line as a program: called, in a pipe, on a terminal; and whole servers to call it against."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.kit.iperf import alive, children
from tests.kit.wait import until

NETLOOM = (sys.executable, "-P", "-m", "netloom.cli")
START_S = 20.0
STOP_S = 4.0


def environment(home: Path, **settings: object) -> dict[str, str]:
    """An environment that knows only the given settings: `broker__url="..."` is NETLOOM_BROKER__URL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NETLOOM_")}
    said = {f"NETLOOM_{name.upper()}": str(value) for name, value in settings.items()}
    return {**kept, "HOME": str(home), "NETLOOM_CONFIG": "", "NETLOOM_DATA": str(home / "data"), **said}


def call(*arguments: str, env: Mapping[str, str], timeout_s: float = 30.0) -> "subprocess.CompletedProcess[str]":
    """Call `netloom` in a pipe and wait for its end."""
    return subprocess.run(
        [*NETLOOM, *arguments],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


# Any: JSON.
def documents(text: str) -> list[dict[str, Any]]:
    """The JSON documents of an output, one a line."""
    return [json.loads(line) for line in text.splitlines()]


class Terminal:
    """`netloom` on a terminal of its own, with what it has drawn there so far."""

    def __init__(self, *arguments: str, env: Mapping[str, str], words: tuple[str, ...] = NETLOOM) -> None:
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*words, *arguments],
            env={**env, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._ours = ours
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def read(self) -> None:
        """Take what has been drawn meanwhile."""
        while select.select([self._ours], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                if data := os.read(self._ours, 65_536):
                    self.shown += data.decode(errors="replace")
                    continue
            return

    def wait_for(self, text: str, timeout_s: float = 15.0) -> None:
        """Wait until `text` is on the terminal."""

        def there() -> bool:
            self.read()
            return text in self.shown

        until(there, timeout_s, f"{text!r} in {self.shown[-1000:]!r}")

    def type(self, text: str) -> None:
        """Type on its keyboard."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C: the process alone gets it, for the terminal is not its controlling one."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout_s: float = 15.0) -> int:
        """Wait for its end and return the exit code."""

        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        until(ended, timeout_s, f"the end of {self.shown[-1000:]!r}")
        self.read()
        code = self.process.returncode
        return int(code)


@dataclass
class Running:
    """A command that goes on until it is ended: a role, a server, the demo."""

    process: "subprocess.Popen[str]"
    out: Path
    err: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.out.read_text()

    def wait_for(self, text: str, timeout_s: float = START_S) -> str:
        """Wait until it has printed a line with `text`, and return that line."""
        until(
            lambda: text in self.text or self.process.poll() is not None, timeout_s, f"{text!r}: {self.err.read_text()}"
        )
        assert text in self.text, f"it ended with {self.process.returncode}: {self.err.read_text()}"
        return next(line for line in self.text.splitlines() if text in line)

    def family(self) -> set[int]:
        """Its children, their children, and so on."""
        return descendants(self.process.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal, wait for the end, return how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(STOP_S)
        return time.monotonic() - began


def descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        with contextlib.suppress(OSError):
            new = children(todo.pop())
            found |= new
            todo += new
    return found


def gone(pids: set[int]) -> bool:
    """Whether none of these processes runs."""
    return not any(map(alive, pids))


@contextlib.contextmanager
def running(
    folder: Path, *arguments: str, env: Mapping[str, str], words: tuple[str, ...] = NETLOOM
) -> Iterator[Running]:
    """A command that goes on; killed at the end with everything below it, if it still runs."""
    name = f"{'-'.join(arguments[:1])}-{sum(1 for _ in folder.glob('*.out'))}"
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    with out.open("w") as to_out, err.open("w") as to_err:
        process = subprocess.Popen(
            [*words, *arguments], env=dict(env), stdin=subprocess.DEVNULL, stdout=to_out, stderr=to_err, text=True
        )
    found = Running(process, out, err)
    try:
        yield found
    finally:
        below = found.family()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        for pid in {*below, process.pid} if process.poll() is None else below:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@dataclass
class Server:
    """`netloom serve` with a probe called paris beside it, which may test this machine."""

    serve: Running
    probe: Running
    url: str
    page: str
    env: dict[str, str]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A whole fabric, each role a process, on free ports."""
    env = environment(folder, broker__port=0, web__port=0, controller__status_period_s=0.5, log_level="warning")
    with running(folder, "serve", env=env) as serve:
        serve.wait_for("Add a probe")
        url, page = (serve.wait_for(f"  {word} ").split()[1] for word in ("Broker", "Page"))
        env = environment(folder, broker__url=url)
        settings = {"log_level": "info", "log_format": "json", "probe__limits__allow_loopback": "true"}
        with running(folder, "probe", "--name", "paris", env=environment(folder, broker__url=url, **settings)) as probe:
            first = ("test", "paris", "127.0.0.1", "-c", "1")
            until(lambda: call(*first, env=env).returncode == 0, START_S, "the probe is known to the controller")
            yield Server(serve, probe, url, page, env)
