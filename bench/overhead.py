"""What Netloom adds to the time a measurement takes, and how fast its result is seen.

    ./scripts/bench

Everything runs on loopback, every role as a process of its own. Peers are `ping` and `iperf3` themselves, in the same run, where
they are installed. The figures of Supervision are quoted from a measurement of the original, unchanged.
"""

import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.fabric import Fabric, running
from broker.client import BusClient, Message
from netloom.ids import new_id
from netloom.url import BrokerUrl
from schemas import codec
from schemas.request import FINAL_STATES
from schemas.result import Result

PINGS, INTERVAL_S = 10, 0.02
ROUNDS, SPEED_ROUNDS, PAGE_ROUNDS, SPEED_S = 15, 3, 6, 2


class Row(NamedTuple):
    """A line of the table."""

    what: str
    figure: str
    peer: str
    supervision: str
    promise: str


class Newest:
    """Hears every result as the probe publishes it."""

    def __init__(self, broker: str) -> None:
        self.arrived: dict[str, tuple[float, Result]] = {}
        self._news = threading.Condition()
        self.bus = BusClient(BrokerUrl.parse(broker), f"bench:{new_id()}")
        self._online = threading.Event()
        self.bus.subscribe("probe/+/result", self._take)
        self.bus.subscribe("probe/local/status", lambda _: self._online.set())
        self.bus.start()
        if not self.bus.wait_up(10):
            raise SystemExit("the broker does not answer")
        if not self._online.wait(10):
            raise SystemExit("the probe does not come online")

    def _take(self, message: Message) -> None:
        if message.retain or not message.payload:
            return
        result = codec.parse(Result, message.payload)
        with self._news:
            self.arrived[str(result.number)] = (time.time(), result)
            self._news.notify_all()

    def wait(self, number: str, seconds: float = 60) -> tuple[float, Result]:
        """Return when (wall clock) test `number` arrived, and what it found."""
        with self._news:
            if not self._news.wait_for(lambda: number in self.arrived, seconds):
                raise SystemExit(f"no result of test {number}")
            return self.arrived[number]


def form(fabric: Fabric, **changes: str) -> bytes:
    """The start form as a browser sends it."""
    fields = {
        "id": new_id(),
        "probe": "local",
        "ping_host": "127.0.0.1",
        "packet_number": str(PINGS),
        "packet_timeout": "1",
        "direction": "both",
        "speedtest_host": "127.0.0.1",
        "speedtest_port": str(fabric.iperf_port),
        "duration_s": str(SPEED_S),
        "streams": "1",
        "protocol": "tcp",
        "omit_s": "0",
    }
    return urllib.parse.urlencode({**fields, **changes}).encode()


def start(fabric: Fabric, body: bytes) -> str:
    """Send the form and return the number of the test it started."""
    request = urllib.request.Request(  # noqa: S310 - our own page on loopback
        fabric.page.rstrip("/") + "/start", data=body, headers={"Origin": fabric.page.rstrip("/")}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
        found = re.search(r"/t/(\d+)", answer.geturl())
    if found is None:
        raise SystemExit(f"the form did not lead to a test but to {answer.geturl()}")
    return found.group(1)


def archived(fabric: Fabric, number: str) -> None:
    """Return as soon as the archive says that test `number` is done."""
    path = fabric.data / "controller" / "archive.sqlite"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as archive:
        while True:
            row = archive.execute("SELECT state FROM tests WHERE number = ?", (number,)).fetchone()
            if row and row[0] in FINAL_STATES:
                if row[0] != "done":
                    raise SystemExit(f"test {number} ended as {row[0]}")
                return
            time.sleep(0.002)


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def timed(work: Callable[[], object]) -> float:
    """How long `work` takes, s."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def ping_overhead(fabric: Fabric) -> Row:
    """From POST to done in the archive, minus the packets' own schedule and round trips."""
    ideal = (PINGS - 1) * INTERVAL_S
    found = []
    for _ in range(ROUNDS):
        begin = time.monotonic()
        archived(fabric, start(fabric, form(fabric, standard_test="yes")))
        found.append(time.monotonic() - begin - ideal)
    peer = "not installed"
    if program := shutil.which("ping"):
        command = [program, "-q", "-c", str(PINGS), "-i", str(INTERVAL_S), "127.0.0.1"]
        bare = median(
            [timed(lambda: subprocess.run(command, check=True, capture_output=True)) - ideal for _ in range(ROUNDS)]
        )
        peer = f"`ping`: {bare * 1000:.0f} ms ({median(found) / bare:.1f} x)"
    return Row(
        f"ping test: POST to done in the archive, minus the ideal time (median of {ROUNDS})",
        f"{median(found) * 1000:.0f} ms ({min(found) * 1000:.0f}-{max(found) * 1000:.0f})",
        peer,
        "1.54 s",
        "< 50 ms",
    )


def speed_overhead(fabric: Fabric) -> Row:
    """The same for a speedtest of one direction, beside iperf3's own client."""
    found = []
    for _ in range(SPEED_ROUNDS):
        begin = time.monotonic()
        archived(fabric, start(fabric, form(fabric, speedtest="yes")))
        found.append((time.monotonic() - begin) / 2 - SPEED_S)
    command = ["iperf3", "-c", "127.0.0.1", "-p", str(fabric.iperf_port), "-t", str(SPEED_S)]
    bare = [
        timed(lambda: subprocess.run(command, check=True, capture_output=True)) - SPEED_S for _ in range(SPEED_ROUNDS)
    ]
    return Row(
        f"speedtest: the same, for each direction (median of {SPEED_ROUNDS})",
        f"{median(found) * 1000:.0f} ms",
        f"`iperf3 -c`: {median(bare) * 1000:.0f} ms ({median(found) / median(bare):.1f} x)",
        "6.0-7.0 s",
        "< 500 ms",
    )


def visible(fabric: Fabric, newest: Newest) -> Row:
    """From the probe's publishing a result to its standing in an open page."""
    what, old = f"result published to visible in an open page (median of {PAGE_ROUNDS})", "6.12 s from the click"
    browser_path = shutil.which("chromium")
    if browser_path is None:
        return Row(what, "no chromium here", "", old, "< 500 ms")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page()
        for _ in range(PAGE_ROUNDS):
            number = start(fabric, form(fabric, standard_test="yes", packet_number="100"))
            page.goto(f"{fabric.page.rstrip('/')}/t/{number}")
            seen = page.evaluate(
                """() => new Promise(resolve => {
                    const look = () => {
                        const done = document.querySelector("[data-state=done]");
                        if (done) { resolve(Date.now()); } else { requestAnimationFrame(look); }
                    };
                    look();
                })"""
            )
            at, _ = newest.wait(number)
            found.append(seen / 1000 - at)
        browser.close()
    return Row(what, f"{median(found) * 1000:.0f} ms ({max(found) * 1000:.0f} at most)", "", old, "< 500 ms")


def memory(fabric: Fabric) -> Row:
    """The resident memory of an idle probe."""
    text = Path(f"/proc/{fabric.processes['probe'].pid}/status").read_text("utf-8")
    resident = int(text.split("VmRSS:")[1].split()[0]) / 1024
    bare = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/status').read())"], capture_output=True, text=True, check=True
    )
    python = int(bare.stdout.split("VmRSS:")[1].split()[0]) / 1024
    return Row("memory of an idle probe", f"{resident:.0f} MB", f"bare python: {python:.0f} MB", "", "< 45 MB")


def stops(fabric: Fabric) -> list[Row]:
    """SIGTERM to exit of each role, a test under way."""
    start(fabric, form(fabric, speedtest="yes", duration_s="20", direction="download"))
    time.sleep(1)
    rows = []
    for role in ("probe", "web", "controller", "broker"):
        process = fabric.processes[role]
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        took = time.monotonic() - begin
        rows.append(Row(f"SIGTERM to exit: {role}", f"{took:.2f} s", "", "31.8 s", "< 2 s"))
    return rows


def main() -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="netloom-bench-") as folder, running(Path(folder)) as fabric:
        newest = Newest(fabric.broker)
        archived(fabric, start(fabric, form(fabric, standard_test="yes")))  # the first one warms everything up
        rows = [ping_overhead(fabric), visible(fabric, newest), speed_overhead(fabric), memory(fabric), *stops(fabric)]
        newest.bus.stop()
    print("| what | Netloom | peer, same run | Supervision | promise |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
