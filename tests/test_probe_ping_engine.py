"""The engine on a network and clocks of paper: raw packets and when they come, against the fates expected of them."""

import errno
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from probe.icmp import Engine, Fate, Packet, Plan, Report
from probe.icmp.engine import round_trip_ns
from probe.icmp.model import Complaint, Received, SocketKind, Stamp, StampKind

SCENARIOS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/icmp/scenarios.json").read_text())[
    "scenarios"
]
NONCE = b"netloom!"
IDENT = 0x1234
TARGET = "192.0.2.7"
MS = 1_000_000
START = 7_000_000 * MS
WALL = 1_795_000_000_000 * MS


@dataclass
class Paper:
    """Clock and channel in one: time passes while the engine waits, and arrivals come at their time."""

    now: int = START
    kind: SocketKind = "datagram"
    stamps: StampKind = "kernel"
    ident: int = IDENT
    due: list[tuple[int, int, Received | Complaint]] = field(default_factory=list)
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    on_send: Callable[[int], None] = lambda _: None

    def monotonic_ns(self) -> int:
        return self.now

    def realtime_ns(self) -> int:
        return self.now - START + WALL

    def arrive(self, at_ms: float, what: Received | Complaint) -> None:
        heapq.heappush(self.due, (START + round(at_ms * MS), len(self.due), what))

    def send(self, message: bytes) -> None:
        self.on_send(len(self.sent))
        self.sent.append((self.now, message))

    def _next(self, kind: type[Received | Complaint]) -> Received | Complaint | None:
        if self.due and self.due[0][0] <= self.now and isinstance(self.due[0][2], kind):
            return heapq.heappop(self.due)[2]
        return None

    def receive(self) -> Received | None:
        found = self._next(Received)
        return found if isinstance(found, Received) else None

    def complaint(self) -> Complaint | None:
        found = self._next(Complaint)
        return found if isinstance(found, Complaint) else None

    def wait(self, timeout_s: float) -> None:
        until = self.now + max(1, round(timeout_s * 1e9))
        self.now = min(until, max(self.now + 1, self.due[0][0])) if self.due else until


@dataclass
class Notes:
    """A watcher that writes everything down and cancels at a time."""

    paper: Paper
    cancel_at_ms: float = 1e9
    left: list[int] = field(default_factory=list)
    fates: list[Packet] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def sent(self, number: int) -> None:
        self.left.append(number)

    def decided(self, packet: Packet) -> None:
        self.fates.append(packet)

    def cancelled(self) -> bool:
        self.asked.append(self.paper.now)
        return self.paper.now >= START + self.cancel_at_ms * MS


def plan(count: int = 3, interval_ms: float = 20, timeout_ms: float = 500) -> Plan:
    return Plan(TARGET, count=count, interval_s=interval_ms / 1000, timeout_s=timeout_ms / 1000, size=16)


def run(paper: Paper, what: Plan, notes: Notes | None = None) -> Report:
    return Engine(what, paper, notes or Notes(paper), clock=paper, nonce=NONCE).run()


def post(paper: Paper, arrival: dict[str, Any]) -> None:
    data = bytes.fromhex(arrival["hex"])
    if "error" in arrival:
        error = arrival["error"]
        paper.arrive(arrival["at_ms"], Complaint(data, error["type"], error["code"], error["router"]))
        return
    kernel = arrival.get("kernel_at_ms")
    stamp = None if kernel is None else WALL + round(kernel * MS)
    paper.arrive(arrival["at_ms"], Received(data, arrival.get("source", TARGET), stamp))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_scenarios(scenario: dict[str, Any]) -> None:
    paper = Paper()
    for arrival in scenario["arrivals"]:
        post(paper, arrival)
    notes = Notes(paper)
    report = run(paper, plan(**scenario["plan"]), notes)
    assert [[packet.fate.name.lower(), packet.rtt_ms] for packet in report.packets] == scenario["fates"]
    assert (report.duplicates, report.late) == (scenario.get("duplicates", 0), scenario.get("late", 0))
    assert report.samples == tuple(rtt for _, rtt in scenario["fates"])
    # Every packet was told of once, when it left and when its fate was known.
    assert notes.left == list(range(scenario["plan"]["count"]))
    assert sorted(notes.fates, key=lambda packet: packet.number) == list(report.packets)
    if "reason" in scenario:
        reason = report.packets[0].reason
        assert reason is not None
        assert (reason.code, reason.router) == (scenario["reason"], scenario["router"])
    if "stamps" in scenario:
        assert report.stamps == scenario["stamps"]
    if "ends_ms" in scenario:
        assert (paper.now - START) / MS == pytest.approx(scenario["ends_ms"], abs=0.001)


def test_packets_leave_on_the_grid_with_id_sequence_and_nonce() -> None:
    paper = Paper()
    run(paper, plan(count=5))
    assert [(at - START) / MS for at, _ in paper.sent] == [0, 20, 40, 60, 80]
    for number, (_, message) in enumerate(paper.sent, 1):
        assert message[:2] == bytes((8, 0))
        assert message[4:] == IDENT.to_bytes(2) + number.to_bytes(2) + NONCE + bytes(range(8))


@pytest.mark.parametrize(
    ("stall_ms", "grid"),
    [
        (5, [0, 20, 40, 60, 80]),
        (25, [0, 20, 60, 80, 100]),  # the second leaves at 45, and at 40 none does
        (49, [0, 20, 80, 100, 120]),
        (200, [0, 20, 240, 260, 280]),
    ],
)
def test_a_late_engine_skips_forward_and_never_bursts(stall_ms: int, grid: list[int]) -> None:
    paper = Paper()

    def stall(number: int) -> None:
        if number == 1:
            paper.now += stall_ms * MS

    paper.on_send = stall
    run(paper, plan(count=5))
    left = [(at - START) / MS for at, _ in paper.sent]
    assert min(later - earlier for earlier, later in pairwise(left)) >= 10
    left[1] -= stall_ms
    assert left == grid


def test_an_earlier_packets_error_is_not_this_ones() -> None:
    paper, failures = Paper(), [OSError(errno.EHOSTUNREACH, "No route to host")]

    def fail_once(_: int) -> None:
        if failures:
            raise failures.pop()

    paper.on_send = fail_once
    report = run(paper, plan(count=2, timeout_ms=100))
    assert len(paper.sent) == 2
    assert {packet.fate for packet in report.packets} == {Fate.TIMED_OUT}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENETUNREACH, "network_unreachable"),
        (errno.ENETDOWN, "network_unreachable"),
        (errno.EHOSTUNREACH, "host_unreachable"),
        (errno.EACCES, "admin_prohibited"),
        (errno.EPERM, "admin_prohibited"),
        (errno.EMSGSIZE, "message_too_big"),
        (errno.ENOBUFS, "measurement_failed"),
    ],
)
def test_a_packet_the_kernel_refuses_is_sent_and_lost_with_its_reason(number: int, code: str) -> None:
    paper = Paper()

    def refuse(_: int) -> None:
        raise OSError(number, "as the kernel says")

    paper.on_send = refuse
    report = run(paper, plan(count=3))
    assert report.samples == (None, None, None)
    for packet in report.packets:
        assert packet.fate is Fate.REFUSED
        assert packet.reason is not None
        assert (packet.reason.code, packet.reason.text) == (code, "as the kernel says")
    # Nothing is under way, so nothing is waited for.
    assert paper.now - START < 60 * MS


def test_cancelling_leaves_open_fates_open() -> None:
    paper = Paper()
    post(paper, {"at_ms": 10, "hex": SCENARIOS[0]["arrivals"][0]["hex"]})
    report = run(paper, plan(count=100), Notes(paper, cancel_at_ms=50))
    assert report.cancelled
    assert report.samples == (10.0,)
    assert [packet.fate for packet in report.packets] == [Fate.ANSWERED, Fate.WAITING, Fate.WAITING]


def test_the_watcher_is_asked_at_least_every_50_ms() -> None:
    paper = Paper()
    notes = Notes(paper)
    run(paper, plan(count=2, interval_ms=1000, timeout_ms=2000), notes)
    assert max(later - earlier for earlier, later in pairwise(notes.asked)) <= 50 * MS


@pytest.mark.parametrize(
    ("why", "read_wall", "kernel", "wanted"),
    [
        ("the kernel's stamp", 10_500_000, 10_000_000, (10_000_000, "kernel")),
        ("no stamp", 10_500_000, None, (10_500_000, "user")),
        ("the wall clock was set back", 10_500_000 - 5_000_000_000, 10_000_000, (10_500_000, "user")),
        ("the wall clock was set forward", 10_500_000 + 1_000_000, 11_000_000, (10_500_000, "user")),
        ("slewed by less than the guard", 10_500_000 + 50_000, 10_050_000, (10_050_000, "kernel")),
        ("stamped before the request", 10_500_000, -1, (10_500_000, "user")),
        ("stamped after the reading", 10_500_000, 10_600_000, (10_500_000, "user")),
    ],
)
def test_clock_steps_do_not_reach_the_figures(
    why: str, read_wall: int, kernel: int | None, wanted: tuple[int, str]
) -> None:
    sent, read = Stamp(START, WALL), Stamp(START + 10_500_000, WALL + read_wall)
    assert round_trip_ns(sent, read, None if kernel is None else WALL + kernel) == wanted, why
