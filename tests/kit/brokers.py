"""Real brokers for tests, each in a process of its own, so that it can be killed, stopped and started again.

`start_embedded` and `start_mosquitto` give the same handle; `start_broker(kind, ...)` picks by name, for a fixture
parametrised over `BROKERS`.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.kit.processes import end

BROKERS = ("embedded", "mosquitto")
LOOPBACK = "127.0.0.1"
START_S = 15.0
ROOT = Path(__file__).resolve().parents[2]

# The child ends when its stdin does, so an aborted test run leaves no broker behind.
EMBEDDED = """
import json, logging, signal, sys
from pathlib import Path
from broker.server import BrokerSettings, EmbeddedBroker, Limits

given = json.loads(sys.argv[1])
denied = set(given["denied"])
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
settings = BrokerSettings(
    port=given["port"], data_dir=Path(given["data_dir"]), limits=Limits(**given["limits"])
)
with EmbeddedBroker(settings, authorize=lambda client, action, topic: topic not in denied) as broker:
    print(json.dumps({"port": broker.port}), flush=True)
    sys.stdin.read()
"""


def free_port(host: str = LOOPBACK) -> int:
    """A TCP port that was free a moment ago; the caller retries if somebody else was faster."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


class BrokerProcess:
    """A broker in a process of its own; `url`, `port` and `pid` are the running one's, and `restart` keeps the port."""

    def __init__(self, kind: str, spawn: Callable[[int], tuple[subprocess.Popen[str], int]], log: Path) -> None:
        self.kind = kind
        self.log = log
        self.port = 0
        self._spawn = spawn
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://{LOOPBACK}:{self.port}"

    @property
    def host(self) -> str:
        return LOOPBACK

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.running, "the broker runs already"
        self._process, self.port = self._spawn(self.port)

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for the orderly end."""
        self._end(signal.SIGTERM)

    def restart(self, *, kill: bool = False) -> None:
        """End (by SIGKILL if `kill`) and start again on the same port with the same data."""
        if self.running:
            self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        end(process, number)


@contextlib.contextmanager
def start_mosquitto(tmp_path: Path, port: int | None = None, extra_conf: str = "") -> Iterator[BrokerProcess]:
    """Mosquitto on a free loopback port; skips the test where it is not installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    home = _home(tmp_path, "mosquitto")

    def spawn(wanted: int) -> tuple[subprocess.Popen[str], int]:
        # Another program may take the free port first: an ephemeral port is worth another try, a chosen one is not.
        for _ in range(1 if wanted else 5):
            chosen = wanted or free_port()
            conf = home / "mosquitto.conf"
            conf.write_text(_mosquitto_conf(home, chosen, extra_conf))
            with (home / "broker.log").open("a") as log:
                process = subprocess.Popen([program, "-c", str(conf)], stdout=log, stderr=log, text=True)
            if _answers(process, chosen):
                return process, chosen
        raise AssertionError(f"mosquitto did not start: {(home / 'broker.log').read_text()[-2000:]}")

    yield from _run(BrokerProcess("mosquitto", spawn, home / "broker.log"), port)


@contextlib.contextmanager
def start_embedded(
    tmp_path: Path, port: int | None = None, limits: Mapping[str, float] | None = None, denied: tuple[str, ...] = ()
) -> Iterator[BrokerProcess]:
    """Our own broker in a process of its own; `denied` are topics on which it allows nothing."""
    home = _home(tmp_path, "embedded")

    def spawn(wanted: int) -> tuple[subprocess.Popen[str], int]:
        given = {
            "host": LOOPBACK,
            "port": wanted,
            "data_dir": str(home),
            "limits": dict(limits or {}),
            "denied": denied,
        }
        with (home / "broker.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", EMBEDDED, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise AssertionError(f"the embedded broker did not start: {(home / 'broker.log').read_text()[-2000:]}")
        return process, int(json.loads(line)["port"])

    yield from _run(BrokerProcess("embedded", spawn, home / "broker.log"), port)


def start_broker(kind: str, tmp_path: Path) -> AbstractContextManager[BrokerProcess]:
    """The broker called `kind`, one of `BROKERS`."""
    return start_embedded(tmp_path) if kind == "embedded" else start_mosquitto(tmp_path)


def _run(broker: BrokerProcess, port: int | None) -> Iterator[BrokerProcess]:
    broker.port = port or 0
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def _home(tmp_path: Path, kind: str) -> Path:
    """A fresh folder, so that one test may run several brokers."""
    number = sum(1 for _ in tmp_path.glob(f"{kind}-*"))
    home = tmp_path / f"{kind}-{number}"
    home.mkdir()
    return home


def _mosquitto_conf(home: Path, port: int, extra: str) -> str:
    # Without the autosave lines a kill loses every message that was acknowledged.
    # As root it would drop to a user that cannot write into the test's folder.
    return (
        f"listener {port} {LOOPBACK}\nallow_anonymous true\nuser {_user()}\npersistence true\n"
        f"persistence_location {home}/\nautosave_interval 1\nautosave_on_changes true\nlog_dest stderr\n{extra}\n"
    )


def _user() -> str:
    return "root" if os.geteuid() == 0 else "mosquitto"


def _answers(process: subprocess.Popen[str], port: int) -> bool:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return process.poll() is None
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
    process.wait()
    return False
