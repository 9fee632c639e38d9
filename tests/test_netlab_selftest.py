"""The lab against a plain pinger and iperf3: what it says it does to packets is what it does."""

import json
import math
import shutil
import statistics
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from tests.netlab import Lab, Link, needs_lab
from tests.netlab.pinger import ping, router_answer

pytestmark = [pytest.mark.netns, needs_lab]
needs_iptables = pytest.mark.skipif(shutil.which("iptables") is None, reason="iptables is not installed")
needs_iperf3 = pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")


def binomial_bounds(n: int, p: float) -> tuple[float, float]:
    """A 99.9 % interval for the losses out of n."""
    spread = 3.29 * math.sqrt(n * p * (1 - p)) + 1
    return n * p - spread, n * p + spread


def listens(pid: int, port: int) -> bool:
    """Whether somebody in the namespace of process `pid` listens on a TCP port."""
    tables = (Path(f"/proc/{pid}/net/tcp").read_text(), Path(f"/proc/{pid}/net/tcp6").read_text())
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def iperf_server(lab: Lab) -> None:
    """Start a server for one client and wait until it listens."""
    server = lab.server.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 5
    while not listens(server.pid, 5201):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.020, 0.100])
def test_delay(delay: float) -> None:
    with Lab(Link(delay=delay)) as lab:
        found = ping(lab, 100, 0.005)
        assert len(found.rtt) == 100
        assert 0 <= statistics.median(found.rtt.values()) - 2000 * delay < 0.3
        assert lab.stats()["up"]["late_us_p99"] < 300


@pytest.mark.parametrize(("distribution", "expected"), [("uniform", 5 / math.sqrt(3)), ("normal", 5.0)])
def test_jitter(distribution: Literal["uniform", "normal"], expected: float) -> None:
    up = Link(delay=0.030, jitter=0.005, distribution=distribution, ordered=False)
    with Lab(up, Link(delay=0.010), trace=True) as lab:
        rtt = ping(lab, 800, 0.002).rtt
        assert abs(statistics.fmean(rtt.values()) - 40) < 0.8
        assert abs(statistics.pstdev(rtt.values()) - expected) < 0.35
        truth = {row.sequence: row.delays[0] for row in lab.trace() if row.direction == "up"}
        assert 0 <= statistics.median(rtt[number] - 10 - truth[number] * 1e3 for number in rtt) < 0.3


@pytest.mark.parametrize("loss", [0.05, 0.30])
def test_random_loss(loss: float) -> None:
    low, high = binomial_bounds(1000, loss)
    with Lab(Link(loss=loss), Link()) as lab:
        lost = 1000 - len(ping(lab, 1000, 0.002).rtt)
        assert low <= lost <= high
        assert lost == lab.stats()["up"]["lost"]


def test_bursts_of_loss() -> None:
    with Lab(Link(loss=0.10, burst=5), Link()) as lab:
        order = ping(lab, 1500, 0.002).order
    gaps = [b - a - 1 for a, b in pairwise([0, *order, 1501]) if b - a > 1]
    assert 3.5 < statistics.fmean(gaps) < 6.5
    assert 0.06 < sum(gaps) / 1500 < 0.14


def test_duplicates_and_reordering() -> None:
    with Lab(Link(delay=0.005, reorder=0.05, duplicate=0.05), Link()) as lab:
        found = ping(lab, 1000, 0.002)
        truth = lab.stats()["up"]
    assert found.dup == truth["duplicated"] > 0
    assert 25 <= sum(b < a for a, b in pairwise(found.order)) <= 80


def test_the_same_seed_loses_the_same_packets() -> None:
    with Lab(Link(loss=0.05), Link(), seed=42) as one, Lab(Link(loss=0.05), Link(), seed=42) as two:
        assert ping(one, 300, 0.002).order == ping(two, 300, 0.002).order


@needs_iptables
def test_every_twentieth_packet_dropped() -> None:
    with Lab(drop_every=20) as lab:
        got = set(ping(lab, 100, 0.005).order)
    assert sorted(set(range(1, 101)) - got) == [20, 40, 60, 80, 100]


@needs_iptables
def test_random_loss_by_iptables() -> None:
    low, high = binomial_bounds(1000, 0.05)
    with Lab(ipt_loss=0.05) as lab:
        assert low <= 1000 - len(ping(lab, 1000, 0.002).rtt) <= high


def test_what_the_router_answers_and_a_cut_while_running() -> None:
    with Lab(Link(delay=0.002), router=True) as lab:
        assert router_answer(lab, lab.server_ip, ttl=1) == (lab.router_ip, 11, 0)
        assert router_answer(lab, lab.unreachable_ip) == (lab.router_ip, 3, 1)
        assert router_answer(lab, lab.prohibited_ip) == (lab.router_ip, 3, 13)
        assert router_answer(lab, lab.noroute_ip) == (lab.router_ip, 3, 0)
        alive = len(ping(lab, 20, 0.01).rtt)
        lab.tune("up", loss=1.0)
        cut = len(ping(lab, 20, 0.01).rtt)
    assert (alive, cut) == (20, 0)


@needs_iperf3
@pytest.mark.parametrize(
    ("up", "tbf", "rate"),
    [
        (Link(), 20_000_000, 20_000_000),
        (Link(rate=20_000_000), 0, 20_000_000),
        (Link(rate=200_000_000, delay=0.005), 0, 200_000_000),
    ],
    ids=["tbf 20 Mbit/s", "bottleneck 20 Mbit/s", "bottleneck 200 Mbit/s"],
)
def test_rate(up: Link, tbf: int, rate: int) -> None:
    with Lab(up, tbf=tbf) as lab:
        iperf_server(lab)
        out = json.loads(lab.client.output("iperf3", "-J", "-t", "2", "-O", "1", "-c", lab.server_ip))
    # Goodput over wire is 1448/1500 for TCP with timestamps.
    assert 0.92 < out["end"]["sum_received"]["bits_per_second"] / rate < 0.99


@needs_iperf3
def test_bufferbloat_of_a_queue_of_200_ms() -> None:
    with Lab(Link(delay=0.005, rate=10_000_000, queue=0.200), Link(delay=0.005)) as lab:
        iperf_server(lab)
        load = lab.client.popen(
            ["iperf3", "-c", lab.server_ip, "-t", "4", "-C", "cubic", "-J"], stdout=subprocess.DEVNULL
        )
        ping(lab, 100, 0.02)  # until the queue has filled
        rtt = statistics.median(ping(lab, 50, 0.02).rtt.values())
        assert load.poll() is None
    assert 120 < rtt < 215
