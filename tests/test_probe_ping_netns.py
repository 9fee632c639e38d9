"""The ping against the truth: namespaces joined by an emulator that knows the fate and delay of every packet."""

import shutil
import socket
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from probe import icmp
from probe.icmp import Fate, Plan, Report
from probe.icmp.sockets import PORTABLE, Options
from probe.kinds.base import Outcome
from probe.kinds.ping import ENTRY
from schemas.command import PingSpec
from tests.kit.ping import FakeContext, Quiet, loss_of, samples_of
from tests.netlab import Lab, Link, needs_lab
from tests.netlab.lab import Echo
from tests.netlab.users import as_nobody

pytestmark = [pytest.mark.netns, needs_lab]
CLOSED, OPEN = "1 0", "0 2147483647"

Samples = tuple[float | None, ...]


# Any: fields of PingSpec by name.
def measure(lab: Lab, target: str, context: FakeContext | None = None, **options: Any) -> Outcome:
    with lab.client.enter():
        return ENTRY.run(PingSpec(target=target, **options), context or FakeContext())


def engine(lab: Lab, plan: Plan, options: Options | None = None) -> Report:
    with lab.client.enter():
        return icmp.ping(plan, Quiet(), options)


def truth(rows: list[Echo]) -> dict[int, Samples]:
    """By identifier of the echo requests: the emulator's round trip of each, ms, in order of sending; None is lost."""
    way: dict[tuple[int, int], list[Echo]] = defaultdict(list)
    for row in rows:
        way[row.ident, row.sequence].append(row)

    def rtt(hops: list[Echo]) -> float | None:
        up, down = hops[0], hops[1:]
        return (up.delays[0] + down[0].delays[0]) * 1e3 if up.delays and down and down[0].delays else None

    keys = sorted(way)
    return {ident: tuple(rtt(way[key]) for key in group) for ident, group in groupby(keys, key=lambda key: key[0])}


def errors_ms(measured: Samples, true: Samples) -> list[float]:
    """Measured minus true of each answered packet; fails unless the same packets were lost."""
    assert [sample is None for sample in measured] == [sample is None for sample in true]
    return sorted(m - t for m, t in zip(measured, true, strict=True) if m is not None and t is not None)


def hold(measured: Samples, true: Samples) -> None:
    """The bounds that a number is right within."""
    found = errors_ms(measured, true)
    assert 0 <= statistics.median(found) < 0.3
    assert found[int(len(found) * 0.95)] < 0.5


@pytest.mark.parametrize("group_range", [OPEN, CLOSED], ids=["datagram", "raw"])
@pytest.mark.parametrize("family", [4, 6])
def test_every_packet_against_the_truth(family: int, group_range: str) -> None:
    up = Link(delay=0.020, jitter=0.004, loss=0.05, ordered=False)
    with Lab(up, Link(delay=0.010, loss=0.03), trace=True, seed=11) as lab:
        lab.client.sysctl(net__ipv4__ping_group_range=group_range)
        target = lab.server_ip if family == 4 else lab.server_ip6
        outcome = measure(lab, target, count=150, interval_ms=10, timeout_s=0.3)
        (true,) = truth(lab.trace()).values()
    hold(samples_of(outcome), true)
    assert None in true
    assert outcome.facts == {"icmp": "datagram" if group_range == OPEN else "raw", "stamps": "kernel"}
    assert outcome.errors == {}


def test_a_busy_thread_beside_the_engine_does_not_reach_the_figures() -> None:
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    with Lab(Link(delay=0.010), trace=True) as lab:
        thread.start()
        try:
            outcome = measure(lab, lab.server_ip, count=100, timeout_s=0.5)
        finally:
            stop.set()
            thread.join()
        (true,) = truth(lab.trace()).values()
    hold(samples_of(outcome), true)


def test_a_hundred_lost_packets_cost_one_time_out() -> None:
    with Lab(Link(loss=1.0)) as lab:
        start = time.monotonic()
        outcome = measure(lab, lab.server_ip, count=100, timeout_s=3)
        took_s = time.monotonic() - start
    assert 4.9 < took_s < 6
    assert outcome.fields["ping"].avg is None
    assert (outcome.fields["jitter"], outcome.fields["mos"]) == (None, 1.0)
    assert (loss_of(outcome).packet_number, loss_of(outcome).packet_percent) == (100, 100.0)
    assert outcome.errors["ping"].code == "target_silent"
    assert outcome.failed == frozenset()


def test_duplicates_are_counted_and_poison_nothing() -> None:
    with Lab(Link(delay=0.020, duplicate=0.02), Link(delay=0.020), trace=True, seed=5) as lab:
        outcome = measure(lab, lab.server_ip, count=200, interval_ms=10, timeout_s=0.5)
        rows = lab.trace()
        duplicated = lab.stats()["up"]["duplicated"]
    assert loss_of(outcome).duplicates == duplicated > 0
    (true,) = truth(rows).values()
    hold(samples_of(outcome), true)


def test_replies_after_the_time_out_are_late_and_lost() -> None:
    with Lab(Link(delay=0.150)) as lab:
        outcome = measure(lab, lab.server_ip, count=40, timeout_s=0.2)
    loss = loss_of(outcome)
    assert (loss.packet_number, outcome.fields["ping"].max) == (40, None)
    # The last replies come when nobody listens any more: 0.3 s of round trip, 0.2 s of patience.
    assert 30 <= loss.late < 40
    assert loss.duplicates == 0


@pytest.mark.skipif(shutil.which("iptables") is None, reason="iptables is not installed")
def test_every_twentieth_packet_dropped_is_exactly_five_percent() -> None:
    with Lab(drop_every=20) as lab:
        outcome = measure(lab, lab.server_ip, count=100, interval_ms=10, timeout_s=0.3)
    assert [number for number, sample in enumerate(samples_of(outcome), 1) if sample is None] == [20, 40, 60, 80, 100]
    assert loss_of(outcome).packet_percent == 5.0
    assert loss_of(outcome).longest_run == 1


@pytest.fixture
def routed() -> Iterator[Lab]:
    # Not shared: a Linux router tells one host of five errors at once, then of one a second.
    with Lab(Link(delay=0.002), router=True) as lab:
        yield lab


@pytest.mark.parametrize("group_range", [OPEN, CLOSED], ids=["datagram", "raw"])
@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("10.77.3.1", "host_unreachable", "10.77.0.254 says that 10.77.3.1 cannot be reached."),
        ("10.77.4.1", "admin_prohibited", "10.77.0.254 forbids packets to 10.77.4.1."),
        ("10.99.0.1", "host_unreachable", "10.77.0.254 says that 10.99.0.1 cannot be reached."),
        ("fd77:99::1", "host_unreachable", "fd77::fe says that fd77:99::1 cannot be reached."),
    ],
)
def test_what_a_router_says_comes_at_once_and_with_its_address(
    routed: Lab, target: str, code: str, says: str, group_range: str
) -> None:
    routed.client.sysctl(net__ipv4__ping_group_range=group_range)
    start = time.monotonic()
    outcome = measure(routed, target, count=3, interval_ms=50, timeout_s=3)
    assert time.monotonic() - start < 1
    assert (outcome.errors["ping"].code, outcome.errors["ping"].message) == (code, says)
    assert loss_of(outcome).packet_percent == 100.0
    assert outcome.failed == frozenset()


@pytest.mark.parametrize("family", [4, 6])
def test_time_to_live_exceeded_names_the_router(routed: Lab, family: int) -> None:
    address, router = (routed.server_ip, routed.router_ip) if family == 4 else (routed.server_ip6, routed.router_ip6)
    report = engine(routed, Plan(address, count=2, interval_s=0.05, timeout_s=2, ttl=1))
    for packet in report.packets:
        assert packet.fate is Fate.REPORTED
        assert packet.reason is not None
        assert (packet.reason.code, packet.reason.router) == ("ttl_exceeded", router)


def test_a_packet_too_big_for_a_router_is_lost_with_its_address_and_the_next_ones_are_cut() -> None:
    with Lab(router=True) as lab:
        assert lab.router is not None
        lab.router.ip("link", "set", "lan0", "mtu", "1300")
        lab.server.ip("link", "set", "lan0", "mtu", "1300")
        report = engine(lab, Plan(lab.server_ip, count=5, interval_s=0.05, timeout_s=0.5, size=1400))
    first, *others = report.packets
    assert first.fate is Fate.REPORTED
    assert first.reason is not None
    assert (first.reason.code, first.reason.router) == ("message_too_big", lab.router_ip)
    # From then on the kernel knows the path's MTU.
    assert {packet.fate for packet in others} == {Fate.ANSWERED}


def test_without_an_error_queue_an_unreachable_target_is_merely_silent(routed: Lab) -> None:
    report = engine(routed, Plan(routed.unreachable_ip, count=2, interval_s=0.05, timeout_s=0.3), PORTABLE)
    assert {packet.fate for packet in report.packets} == {Fate.TIMED_OUT}
    assert report.stamps == "user"


def test_no_route_is_loss_with_its_reason_and_a_route_that_comes_is_taken() -> None:
    with Lab() as lab:
        lost = measure(lab, "198.51.100.1", count=10, interval_ms=10)
        assert loss_of(lost).packet_percent == 100.0
        assert lost.errors["ping"].message == "There is no route to 198.51.100.1."
        assert lost.failed == frozenset()
        lab.client.ip("link", "set", "lab0", "down")
        timer = threading.Timer(0.5, lab.client.ip, ("link", "set", "lab0", "up"))
        timer.start()
        found = samples_of(measure(lab, lab.server_ip, count=100, interval_ms=10, timeout_s=0.5))
        timer.join()
    lost_first = next(number for number, sample in enumerate(found) if sample is not None)
    assert 30 < lost_first < 80
    assert None not in found[lost_first:]


@pytest.mark.parametrize("group_range", [OPEN, CLOSED], ids=["datagram", "raw"])
def test_two_pings_in_one_namespace_never_mix_replies(group_range: str) -> None:
    with Lab(Link(delay=0.030, jitter=0.025, loss=0.1, ordered=False), Link(delay=0.005), trace=True) as lab:
        lab.client.sysctl(net__ipv4__ping_group_range=group_range)
        found: list[Samples] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(
                    samples_of(measure(lab, lab.server_ip, count=100, interval_ms=10, timeout_s=0.5))
                )
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        true = list(truth(lab.trace()).values())
    assert len(true) == 2
    lost = [[sample is None for sample in series] for series in true]
    assert lost[0] != lost[1]
    for samples in found:
        mine = lost.index([sample is None for sample in samples])
        hold(samples, true[mine])


def test_raw_pings_of_this_machine_do_not_take_their_own_requests_for_replies() -> None:
    with Lab() as lab:
        lab.client.sysctl(net__ipv4__ping_group_range=CLOSED, net__ipv4__icmp_echo_ignore_all=1)
        outcome = measure(lab, "127.0.0.1", count=5, timeout_s=0.2)
    assert loss_of(outcome).packet_percent == 100.0
    assert loss_of(outcome).duplicates == loss_of(outcome).late == 0


def test_nobody_pings_where_the_system_permits_it() -> None:
    with Lab() as lab:
        request = PingSpec(target=lab.server_ip, count=5, timeout_s=0.5)
        found = as_nobody(lab.client, ENTRY.probe)
        outcome = as_nobody(lab.client, lambda: ENTRY.run(request, FakeContext()))
    assert found.available
    assert found.detail == outcome.facts == {"icmp": "datagram", "stamps": "kernel"}
    assert loss_of(outcome).packet_percent == 0.0
    assert outcome.errors == {}


def test_nobody_is_told_the_setting_where_it_does_not() -> None:
    with Lab() as lab:
        lab.client.sysctl(net__ipv4__ping_group_range=CLOSED)
        request = PingSpec(target=lab.server_ip, count=5)
        found = as_nobody(lab.client, ENTRY.probe)
        outcome = as_nobody(lab.client, lambda: ENTRY.run(request, FakeContext()))
    assert outcome.failed == {"ping"}
    assert set(outcome.fields) == {"target"}
    error = outcome.errors["ping"]
    assert error.code == "icmp_not_permitted"
    assert error.message == (
        'This user may not send ICMP: net.ipv4.ping_group_range is "1 0", without its group 65534, '
        "and it has no CAP_NET_RAW."
    )
    assert "sysctl -w net.ipv4.ping_group_range='0 2147483647'" in error.hint
    assert (found.available, found.error) == (False, error)


def test_cancelled_half_way_keeps_what_is_known_and_loses_nothing() -> None:
    context, ended = FakeContext(), []
    with Lab(Link(delay=0.050)) as lab:
        thread = threading.Thread(
            target=lambda: ended.append(measure(lab, lab.server_ip, context, count=300, timeout_s=3))
        )
        thread.start()
        deadline = time.monotonic() + 10
        while not context.steps or context.steps[-1][1].done < 10:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        start = time.monotonic()
        context.cancel.set()
        thread.join(5)
        took_s = time.monotonic() - start
    assert took_s < 0.1
    assert ended[0].cancelled
    known = samples_of(ended[0])
    assert 10 <= len(known) < 100
    assert None not in known
    assert (loss_of(ended[0]).packet_number, ended[0].fields["packet_number"]) == (0, len(known))


def test_size_source_and_dscp_are_on_the_wire() -> None:
    with Lab(trace=True) as lab:
        lab.client.ip("addr", "add", "10.77.0.9/24", "dev", "lab0")
        with lab.server.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear:
            ear.settimeout(5)
            outcome = measure(lab, lab.server_ip, count=1, size=1000, source="10.77.0.9", dscp=46)
            data, (sender, _) = ear.recvfrom(4096)
        sizes = {row.size for row in lab.trace()}
        with_interface = measure(lab, lab.server_ip, count=1, source="lab0")
        wrong_interface = measure(lab, lab.server_ip, count=1, source="lo", timeout_s=0.2)
    assert loss_of(outcome).packet_number == 0
    assert (data[1] >> 2, sender) == (46, "10.77.0.9")
    assert sizes == {1028}
    assert loss_of(with_interface).packet_number == 0
    assert loss_of(wrong_interface).packet_number == 1


def test_a_firewall_of_the_probes_own_is_named() -> None:
    if shutil.which("iptables") is None:
        pytest.skip("iptables is not installed")
    with Lab() as lab:
        lab.client.output("iptables", "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
        outcome = measure(lab, lab.server_ip, count=3)
    assert outcome.errors["ping"].message == "This probe's own firewall or routing forbids packets to 10.77.0.2."


def test_the_pace_is_kept() -> None:
    with Lab(trace=True) as lab:
        measure(lab, lab.server_ip, count=50, interval_ms=20)
        left = [row.t for row in lab.trace() if row.direction == "up"]
    late_ms = sorted((at - left[0]) * 1e3 - 20 * number for number, at in enumerate(left))
    assert statistics.median(late_ms) < 2
    assert left[-1] - left[0] == pytest.approx(0.98, abs=0.02)
