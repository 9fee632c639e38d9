"""A whole fabric for measuring: every role as its own process, as `netloom serve` and `netloom probe` run them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NETLOOM = str(Path(sys.executable).with_name("netloom"))
START_S = 20.0


@dataclass
class Fabric:
    """The addresses of a running fabric and its processes by role."""

    page: str
    broker: str
    data: Path
    iperf_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _role(name: str, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start `netloom <name>` and wait until it says that it serves, and where."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [NETLOOM, name],
        env={**os.environ, **environment, "NETLOOM_READY_FD": str(write)},
        pass_fds=(write,),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as lines:
        line = lines.readline().strip()
    if not line.startswith("ready"):
        process.kill()
        raise SystemExit(f"netloom {name} did not start")
    return process, line.removeprefix("ready").strip()


def wait_for(path_or_port: int, seconds: float = START_S) -> None:
    """Wait until somebody listens on a loopback port."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", path_or_port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {path_or_port}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Fabric]:
    """Run broker, controller, page, a probe called `local` that may test loopback, and an iperf3 server."""
    iperf_port, broker_port = free_port(), free_port()
    broker = f"mqtt://127.0.0.1:{broker_port}"
    common = {
        "NETLOOM_DATA": str(folder),
        "NETLOOM_BROKER__PORT": str(broker_port),
        "NETLOOM_WEB__PORT": "0",
        "NETLOOM_PROBE__NAME": "local",
        "NETLOOM_PROBE__LIMITS__ALLOW_LOOPBACK": "true",
    }
    fabric = Fabric("", broker, folder, iperf_port)
    server = subprocess.Popen(
        ["iperf3", "-s", "-p", str(iperf_port), "-B", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    fabric.processes["iperf3"] = server
    try:
        for role in ("broker", "controller", "web", "probe"):
            settings = common if role == "broker" else {**common, "NETLOOM_BROKER__URL": broker}
            fabric.processes[role], detail = _role(role, settings)
            if role == "web":
                fabric.page = detail
        wait_for(iperf_port)
        yield fabric
    finally:
        for process in reversed(fabric.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in fabric.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
