"""Commands over real brokers: each is run once, answered always, and ends in one way. The kinds do what the test says."""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from netloom.ids import new_id
from probe.agent import Agent
from probe.kinds.base import Availability, Outcome
from schemas import error, limits
from schemas.base import format_instant
from schemas.progress import Progress
from schemas.result import Result
from tests.kit.agents import Kinds, run_agent
from tests.kit.brokers import BrokerProcess
from tests.kit.probes import Watcher, watch
from tests.kit.wait import until

PING = {"target": "192.0.2.7"}
SPEED = {"target": "192.0.2.9"}


@dataclass
class Bench:
    kinds: Kinds
    seen: Watcher
    agent: Agent
    data: Path

    def ended(self, test_id: str) -> Result:
        until(lambda: [found for found in self.seen.results if found.id == test_id], what=f"result of {test_id}")
        return next(found for found in self.seen.results if found.id == test_id)

    def refused(self, test_id: str) -> Progress:
        until(lambda: "rejected" in self.seen.states(test_id), what=f"refusal of {test_id}")
        return next(found for found in self.seen.progress(test_id) if found.state == "rejected")

    def why(self, test_id: str) -> tuple[str, str | None]:
        found = self.refused(test_id)
        assert found.error is not None
        return found.error.code, found.field

    def heard_results(self, test_id: str, count: int) -> None:
        until(lambda: sum(found.id == test_id for found in self.seen.results) >= count)

    def answer(self, command: bytes) -> Progress:
        """Send bytes as a command and return the next progress message."""
        before = len(self.seen.progress())
        self.seen.raw("probe/paris/cmd", command)
        until(lambda: len(self.seen.progress()) > before)
        return self.seen.progress()[before]

    def reached(self, test_id: str, state: str) -> None:
        until(lambda: state in self.seen.states(test_id), what=f"{test_id} is {state}")

    def counter(self, name: str, value: int) -> None:
        until(lambda: (found := self.seen.status()) and found.counters.get(name) == value, what=f"{name} is {value}")

    def controller(self, *, ahead_s: float = 0) -> None:
        """Speak as a controller whose clock is so much ahead, and wait until the probe has heard it."""
        at = format_instant(datetime.now(UTC) + timedelta(seconds=ahead_s))
        status = {"state": "online", "controller_id": "double", "connection": "c", "at": at, "started_at": at}
        self.seen.raw("controller/status", json.dumps(status).encode())
        until(
            lambda: (
                (found := self.seen.status())
                and found.clock
                and found.clock.offset_s is not None
                and abs(found.clock.offset_s + ahead_s) < 1
            )
        )


@pytest.fixture
def bench(broker: BrokerProcess, tmp_path: Path) -> Iterator[Bench]:
    yield from _bench(broker, tmp_path)


@pytest.fixture
def quick(mosquitto: BrokerProcess, tmp_path: Path) -> Iterator[Bench]:
    """As `bench`, on one broker: for what the broker has no part in."""
    yield from _bench(mosquitto, tmp_path)


def _bench(broker: BrokerProcess, tmp_path: Path) -> Iterator[Bench]:
    kinds = Kinds()
    slots = {"light_tests": 3, "throughput_queue": 2}
    with watch(broker.url) as seen, run_agent(broker.url, tmp_path, kinds, limits=slots) as agent:
        until(seen.status)
        yield Bench(kinds, seen, agent, tmp_path)
        kinds.release()


def test_throughput_tests_wait_in_line_and_one_too_many_is_refused(bench: Bench) -> None:
    first, second, third, fourth = (bench.seen.command(speedtest=SPEED, number=n) for n in range(1, 5))
    assert bench.why(fourth) == ("probe_busy", None)
    until(lambda: (found := bench.seen.status()) and (len(found.running), found.queued) == (1, 2))
    assert bench.seen.states(second) == bench.seen.states(third) == ["queued"]
    bench.kinds.release()
    results = [bench.ended(test_id) for test_id in (first, second, third)]
    assert [found.number for found in results] == [1, 2, 3]
    assert [found.version for found in results] == [1, 2, 3]
    assert bench.kinds.speedtest.most_at_once == 1
    assert bench.seen.states(second)[:2] == ["queued", "accepted"]
    assert fourth not in {found.id for found in bench.seen.results}
    until(lambda: (found := bench.seen.status()) and (found.running, found.queued) == ((), 0))


def test_light_tests_run_side_by_side_and_beside_the_load(bench: Bench) -> None:
    early = bench.seen.command(ping=PING)
    bench.reached(early, "running")
    heavy = bench.seen.command(speedtest=SPEED)
    bench.reached(heavy, "running")
    others = [bench.seen.command(ping=PING) for _ in range(2)]
    one_more = bench.seen.command(ping=PING)
    assert bench.why(one_more) == ("probe_busy", None)
    bench.kinds.release()
    assert all(bench.ended(test_id).during_throughput for test_id in (early, *others))
    assert not bench.ended(heavy).during_throughput
    assert bench.kinds.ping.most_at_once == 3
    alone = bench.seen.command(ping=PING)
    assert not bench.ended(alone).during_throughput


def test_a_test_of_two_parts_runs_the_ping_first_in_the_slot_of_throughput(quick: Bench) -> None:
    quick.kinds.ping.seconds = quick.kinds.speedtest.seconds = 0.5
    first = quick.seen.command(ping=PING, speedtest=SPEED)
    second = quick.seen.command(speedtest=SPEED)
    result = quick.ended(first)
    quick.ended(second)
    assert quick.seen.states(second)[0] == "queued"
    (_, _, ping_end), *_ = quick.kinds.ping.runs
    assert quick.kinds.speedtest.runs[0][1] >= ping_end
    assert result.duration_s >= 1.0
    ticks = [found for found in quick.seen.progress(first) if found.state == "running"]
    assert [ticks[0].part, ticks[-1].part] == ["ping", "download"]
    percents = [found.percent or 0.0 for found in ticks]
    assert percents == sorted(percents)
    assert max(found.percent or 0.0 for found in ticks if found.part == "ping") <= 50.0
    assert 50.0 <= percents[-1] <= 100.0
    assert all(found.eta_s is not None for found in ticks)


def test_progress_is_thinned_numbered_and_ends_with_the_result(bench: Bench) -> None:
    bench.kinds.ping.seconds = 1.0
    test_id = bench.seen.command(ping=PING)
    bench.ended(test_id)
    bench.seen.bus.publish("probe/paris/ack", b"")
    time.sleep(0.3)
    heard = bench.seen.progress(test_id)
    assert [found.seq for found in heard] == list(range(len(heard)))
    assert heard[0].state == "accepted"
    # 50 steps in a second at a tick of 0.05 s: the first step and at most 20 more.
    assert 5 <= len(heard) <= 23
    topics = [
        message.topic.rpartition("/")[2] for message in bench.seen.messages if test_id.encode() in message.payload
    ]
    told = [topic for topic in topics if topic in ("progress", "result")]
    assert told[-1] == "result"
    assert told.count("result") == 1
    qos = [message.qos for message in bench.seen.messages if message.topic == "probe/paris/progress"]
    assert set(qos) == {0, 1}


def test_a_kind_that_says_nothing_is_shown_alive(quick: Bench) -> None:
    quick.kinds.ping.steps_per_s, quick.kinds.ping.seconds = 0, 1.0
    test_id = quick.seen.command(ping=PING)
    quick.ended(test_id)
    heard = quick.seen.progress(test_id)
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(heard)]
    assert len(heard) >= 4
    assert max(gaps) < timedelta(seconds=0.5)


@pytest.mark.parametrize("part", ["ping", "speedtest"])
def test_a_running_test_is_cancelled_with_a_result(quick: Bench, part: str) -> None:
    asked: dict[str, Any] = {part: {"target": "192.0.2.7"}}
    test_id = quick.seen.command(**asked)
    quick.reached(test_id, "running")
    begin = time.monotonic()
    quick.seen.command(kind="cancel", id=test_id)
    result = quick.ended(test_id)
    assert time.monotonic() - begin < 1
    assert result.status == "cancelled"
    assert [reason.code for reason in result.errors.values()] == ["cancelled"]


def test_a_cancel_during_the_ping_leaves_the_speedtest_out(quick: Bench) -> None:
    test_id = quick.seen.command(ping=PING, speedtest=SPEED)
    quick.reached(test_id, "running")
    quick.seen.command(kind="cancel", id=test_id)
    result = quick.ended(test_id)
    assert (result.status, quick.kinds.speedtest.runs) == ("cancelled", [])
    assert result.errors["speedtest"].code == "cancelled"


def test_a_waiting_test_is_cancelled_without_a_result(bench: Bench) -> None:
    running, waiting = bench.seen.command(speedtest=SPEED), bench.seen.command(speedtest=SPEED)
    bench.reached(waiting, "queued")
    bench.seen.command(kind="cancel", id=waiting)
    assert bench.why(waiting) == ("cancelled", None)
    bench.kinds.release()
    bench.ended(running)
    later = bench.seen.command(speedtest=SPEED)
    bench.ended(later)
    assert len(bench.kinds.speedtest.runs) == 2
    assert {found.id for found in bench.seen.results} == {running, later}
    before = len(bench.seen.progress(waiting))
    bench.seen.command(id=waiting, speedtest=SPEED)
    until(lambda: len(bench.seen.progress(waiting)) > before)
    assert bench.seen.states(waiting)[-1] == "rejected"
    numbers = [found.seq for found in bench.seen.progress(waiting)]
    assert numbers == sorted(set(numbers))


def test_a_cancel_of_nothing_is_counted(quick: Bench) -> None:
    quick.seen.command(kind="cancel", id="never-heard-of")
    quick.counter("unknown_cancels", 1)
    assert quick.seen.progress("never-heard-of") == []


def test_a_repeated_command_is_answered_and_never_run_again(bench: Bench) -> None:
    test_id, waiting = new_id(), new_id()
    for _ in range(3):
        bench.seen.command(id=test_id, speedtest=SPEED)
        bench.seen.command(id=waiting, speedtest=SPEED)
    bench.counter("duplicates", 4)
    assert bench.seen.states(waiting) == ["queued"] * 3
    bench.kinds.release()
    for one in (test_id, waiting):
        bench.ended(one)
        bench.seen.command(id=one, speedtest=SPEED)
        bench.heard_results(one, 2)
    bench.seen.ack("paris", test_id)
    until(lambda: (found := bench.seen.status()) and found.spool.waiting == 1)
    bench.seen.command(id=test_id, speedtest=SPEED)
    bench.reached(test_id, "finished")
    last = bench.seen.progress(test_id)[-1]
    assert (last.state, last.outcome) == ("finished", "done")
    bench.seen.command(kind="cancel", id=test_id)
    until(lambda: bench.seen.states(test_id).count("finished") == 2)
    numbers = [found.seq for found in bench.seen.progress(test_id)]
    assert numbers == sorted(set(numbers))
    assert len(bench.kinds.speedtest.runs) == 2
    assert [found.version for found in bench.seen.results if found.id == test_id] == [1] * 2


def test_a_command_refused_for_being_late_stays_refused(quick: Bench) -> None:
    quick.controller()
    at = format_instant(datetime.now(UTC) - timedelta(seconds=100))
    late = quick.seen.command(ping=PING, issued_at=at, ttl_s=60)
    assert quick.why(late) == ("expired", None)
    quick.seen.command(id=late, ping=PING, issued_at=format_instant(datetime.now(UTC)))
    until(lambda: len(quick.seen.progress(late)) == 2)
    assert quick.seen.states(late) == ["rejected"] * 2
    quick.counter("expired", 1)
    in_time = quick.seen.command(ping=PING, issued_at=at, ttl_s=160)
    quick.reached(in_time, "running")


@pytest.mark.parametrize("ahead_s", [-3_600, 30, None])
def test_an_age_is_not_judged_by_a_clock_that_is_off_or_unknown(quick: Bench, ahead_s: float | None) -> None:
    quick.kinds.release()
    if ahead_s is not None:
        quick.controller(ahead_s=ahead_s)
    test_id = quick.seen.command(ping=PING, issued_at="2001-01-01T00:00:00Z", ttl_s=1)
    assert quick.ended(test_id).status == "done"
    assert quick.ended(test_id).clock_trusted is (None if ahead_s is None else False)


@pytest.mark.parametrize(("state", "retain"), [("offline", False), ("online", True)])
def test_neither_the_controllers_will_nor_its_retained_status_tells_the_time(
    mosquitto: BrokerProcess, tmp_path: Path, state: str, retain: bool
) -> None:
    at = format_instant(datetime.now(UTC))
    status = {"state": state, "controller_id": "double", "connection": "c", "at": at, "started_at": at}
    kinds = Kinds()
    with watch(mosquitto.url) as seen:
        if retain:
            seen.raw("controller/status", json.dumps(status).encode(), retain=True)
        with run_agent(mosquitto.url, tmp_path, kinds) as agent:
            until(seen.status)
            if not retain:
                seen.raw("controller/status", json.dumps(status).encode())
            seen.command(kind="cancel", id="never-heard-of")
            Bench(kinds, seen, agent, tmp_path).counter("unknown_cancels", 1)
            found = seen.status()
    assert found is not None
    assert found.clock is not None
    assert (found.clock.offset_s, found.clock.agrees) == (None, None)


@pytest.mark.parametrize(("ping", "speedtest"), [(False, True), (True, False), (False, False)])
def test_what_cannot_run_here_is_said(mosquitto: BrokerProcess, tmp_path: Path, ping: bool, speedtest: bool) -> None:
    kinds = Kinds(ping_s=0.05, speedtest_s=0.05)
    for kind, there, code in ((kinds.ping, ping, "icmp_not_permitted"), (kinds.speedtest, speedtest, "iperf3_missing")):
        kind.availability = Availability(available=there, error=None if there else error(code, reason="a test"))
    with watch(mosquitto.url) as seen, run_agent(mosquitto.url, tmp_path, kinds) as agent:
        until(seen.status)
        bench = Bench(kinds, seen, agent, tmp_path)
        status = seen.status()
        assert status is not None
        found = {name: one.available for name, one in status.capabilities.items()}
        assert found == {"ping": ping, "speedtest": speedtest}
        both = seen.command(ping=PING, speedtest=SPEED)
        if ping or speedtest:
            assert bench.ended(both).status == "done", "a kind tells itself what it lacks"
        else:
            assert bench.why(both)[0] == "icmp_not_permitted"
        if not speedtest:
            assert bench.why(seen.command(speedtest=SPEED)) == ("iperf3_missing", None)
        kinds.ping.availability = kinds.speedtest.availability = Availability(available=True)
        until(lambda: (now := seen.status()) and all(one.available for one in now.capabilities.values()))
        assert bench.ended(seen.command(speedtest=SPEED)).status == "done"
        kinds.ping.availability = Availability(available=False, error=error("icmp_not_permitted", reason="a test"))
        lacking = {"ping": error("icmp_not_permitted", reason="a test")}
        kinds.ping.outcome = lambda _: Outcome(errors=lacking, failed=frozenset(lacking))
        assert bench.ended(seen.command(ping=PING)).status == "error"
        until(lambda: (now := seen.status()) and not now.capabilities["ping"].available, what="a test found it out")


def test_an_invalid_command_is_answered_under_its_id_or_a_made_up_one(bench: Bench) -> None:
    for fields, field in (
        ({"id": "x", "ping": PING}, "id"),
        ({"id": 7, "ping": PING}, "id"),
        ({"ping": {"target": "192.0.2.7", "count": "many"}}, "ping.count"),
        ({"kind": "dance"}, "kind"),
        ({"kind": "cancel"}, "id"),
        ({}, None),
    ):
        found = bench.answer(json.dumps(fields).encode())
        assert (found.state, found.field) == ("rejected", field), fields
        assert len(found.id) == 36, "a UUIDv7 of the probe's own"
        assert found.error is not None
    named = bench.seen.command(ping=PING, colour="red")
    assert bench.why(named) == ("bad_message", "colour")
    bench.kinds.release()
    corrected = bench.seen.command(id=named, ping=PING)
    assert bench.ended(corrected).status == "done", "what was never understood may be corrected"


def test_garbage_does_not_push_out_what_became_of_commands(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    kinds = Kinds(ping_s=0.02)
    with watch(mosquitto.url, acks=True) as seen, run_agent(mosquitto.url, tmp_path, kinds) as agent:
        until(seen.status)
        bench = Bench(kinds, seen, agent, tmp_path)
        test_id = seen.command(ping=PING)
        bench.ended(test_id)
        for _ in range(limits.SEEN_COMMANDS_KEPT + 1):
            seen.bus.publish("probe/paris/cmd", b'{"ping": 3}', qos=0)
        until(lambda: (found := seen.status()) and found.counters.get("rejected") == limits.SEEN_COMMANDS_KEPT + 1, 20)
        seen.command(id=test_id, ping=PING)
        bench.reached(test_id, "finished")
    assert len(kinds.ping.runs) == 1


def test_a_full_spool_takes_no_more_tests(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    kinds = Kinds(ping_s=0.01)
    with watch(mosquitto.url) as seen, run_agent(mosquitto.url, tmp_path, kinds, spool_max=16) as agent:
        until(seen.status)
        bench = Bench(kinds, seen, agent, tmp_path)
        done = [seen.command(ping=PING) for _ in range(16)]
        for test_id in done:
            bench.ended(test_id)
        late = seen.command(ping=PING)
        assert bench.why(late) == ("spool_full", None)
        seen.ack("paris", *done)
        until(lambda: (found := seen.status()) and found.spool.waiting == 0)
        assert bench.ended(seen.command(ping=PING)).status == "done"
