"""Delivery on paper: what goes out, in which order, with which flag, and when again - with the clock in hand."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from probe.delivery import Delivery
from probe.guard import NameGuard
from probe.spool import Spool
from probe.timing import Periods
from probe.uplink import Uplink
from schemas import codec, limits
from schemas.ack import Ack, Refused
from schemas.result import Result
from tests.kit.agents import FakeClock
from tests.kit.results import make_result

PERIODS = Periods()


@dataclass
class Wire:
    """What stands for the connection: what was said on it, and whether it takes anything."""

    up: bool = True
    full: bool = False
    on_say: Callable[[], None] = lambda: None
    said: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def bus(self) -> "Wire":
        return self

    def say(self, leaf: str, message: bytes, *, qos: int = 1, retain: bool = False) -> object | None:
        assert (leaf, qos) == ("result", 1)
        self.on_say()
        if not self.up or self.full:
            return None
        self.said.append((codec.parse(Result, message).version, retain))
        return self


@dataclass
class Name:
    """What stands for the guard of the name."""

    wait_s: float | None = 0.0


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock, self.wire, self.name = FakeClock(), Wire(), Name()
        self.spool = Spool(folder, 10_000)
        self.delivery = Delivery(
            cast("Uplink", self.wire), self.spool, cast("NameGuard", self.name), clock=self.clock, periods=PERIODS
        )

    def connect(self, retained: int | None = None) -> None:
        self.delivery.on_up()
        if retained is not None:
            self.delivery.on_own_result(make_result(version=retained), retained=True)

    def add(self, count: int) -> None:
        for _ in range(count):
            made = self.spool.add(_result)
            self.delivery.add(made.version)

    def run(self, seconds: float = 0.0) -> list[tuple[int, bool]]:
        """Let the clock run for so long, and return what went out meanwhile."""
        end = self.clock.at + seconds
        before = len(self.wire.said)
        while True:
            rest_s = self.delivery._turn()
            if rest_s is None or self.clock.at + rest_s > end + 0.2:
                return self.wire.said[before:]
            assert rest_s > 0
            self.clock.move(rest_s)

    def ack(self, *versions: int) -> None:
        self.delivery.on_ack(Ack(stored=tuple(f"result-{version:04}" for version in versions)))


def _result(version: int) -> tuple[Result, bytes]:
    result = make_result(id=f"result-{version:04}", version=version)
    return result, codec.encode(result)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_backlog_goes_newest_first_then_oldest_to_newest(bench: Bench) -> None:
    bench.add(6)
    bench.connect(retained=3)
    assert bench.run() == [(6, True), (1, False), (2, False), (3, False), (4, False), (5, False)]


def test_nothing_goes_before_what_is_retained_had_time_to_arrive(bench: Bench) -> None:
    bench.add(1)
    bench.connect()
    assert bench.delivery._turn() == PERIODS.settle
    assert bench.wire.said == []
    bench.delivery.on_own_result(make_result(version=41), retained=True)
    assert bench.run() == [(1, False)], "an older one is not put over what is retained"
    bench.add(1)
    assert bench.run() == [(42, True)]


def test_a_live_result_is_no_retained_one(bench: Bench) -> None:
    bench.connect()
    bench.delivery.on_own_result(make_result(version=41), retained=False)
    assert bench.delivery._turn() == PERIODS.settle
    assert bench.spool.version == 0


def test_an_absurd_version_is_not_believed(bench: Bench) -> None:
    bench.add(1)
    bench.connect(retained=2**60)
    assert bench.run(1) == [(1, True)]
    assert bench.spool.version == 1


def test_at_most_sixteen_are_in_flight_and_an_ack_makes_room(bench: Bench) -> None:
    bench.add(40)
    bench.connect(retained=0)
    first = bench.run()
    assert [version for version, _ in first] == [40, *range(1, 16)]
    assert len(first) == limits.RESULTS_IN_FLIGHT_MAX
    bench.ack(40, 1, 2)
    assert [version for version, _ in bench.run()] == [16, 17, 18]
    bench.delivery.on_ack(Ack(refused=(Refused(id="result-0003", code="bad_message"),)))
    assert [version for version, _ in bench.run()] == [19]
    assert bench.spool.status().quarantined == 1


def test_the_newest_goes_out_however_much_is_in_flight(bench: Bench) -> None:
    bench.add(30)
    bench.connect(retained=0)
    bench.run()
    bench.add(1)
    assert bench.run() == [(31, True)]
    assert len(bench.delivery._in_flight) == limits.RESULTS_IN_FLIGHT_MAX


def test_what_is_never_acknowledged_does_not_hold_up_the_others(bench: Bench) -> None:
    bench.add(60)
    bench.connect(retained=0)
    sent: set[int] = set()
    for _ in range(8):
        sent |= {version for version, _ in bench.run(PERIODS.resend_first)}
    assert sent == set(range(1, 61))


def test_an_unanswered_result_is_repeated_after_a_minute_doubling_to_ten(bench: Bench) -> None:
    bench.add(1)
    bench.connect(retained=0)
    times: list[float] = []
    while len(times) < 8:
        if bench.run():
            times.append(bench.clock.at)
        bench.clock.move(1)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert gaps == [60, 120, 240, 480, 600, 600, 600]


def test_an_acknowledged_result_is_never_sent_again(bench: Bench) -> None:
    bench.add(3)
    bench.connect(retained=0)
    bench.run()
    bench.ack(1, 2, 3)
    assert bench.run(7_200) == []
    bench.delivery.begin_round()
    assert bench.run(7_200) == []
    assert bench.spool.waiting() == []


def test_a_new_start_of_the_controller_begins_again(bench: Bench) -> None:
    bench.add(3)
    bench.connect(retained=0)
    bench.run()
    bench.ack(1)
    bench.delivery.begin_round()
    assert bench.run() == [(3, True), (2, False)]


def test_nothing_is_sent_while_down_and_a_lost_one_goes_first_again(bench: Bench) -> None:
    bench.add(3)
    bench.connect(retained=0)
    bench.wire.up = False
    assert bench.run(100) == []
    bench.delivery.on_down()
    bench.wire.up = True
    assert bench.run(100) == []
    bench.connect(retained=0)
    assert bench.run() == [(3, True), (1, False), (2, False)]


def test_a_connection_that_breaks_between_two_loses_none(bench: Bench) -> None:
    bench.add(2)
    bench.connect(retained=0)
    assert bench.delivery._turn() == PERIODS.pace
    bench.clock.move(PERIODS.pace)
    bench.wire.full = True
    assert bench.delivery._turn() == 1.0
    bench.wire.full = False
    assert bench.run(1) == [(1, False)], "the connection stayed, so nothing else begins a new round"


def test_what_was_written_over_is_restored_whether_acknowledged_or_not(bench: Bench) -> None:
    bench.add(2)
    bench.connect(retained=0)
    bench.run()
    bench.delivery.on_overwritten()
    assert bench.run() == [(2, True)]
    bench.ack(1, 2)
    bench.delivery.on_overwritten()
    assert bench.run() == [(2, True)]
    assert bench.run(7_200) == []


def test_an_end_sends_what_can_be_sent_at_once(bench: Bench) -> None:
    bench.connect(retained=0)
    bench.add(3)
    bench.delivery.stop(0.0)
    assert bench.wire.said == []
    bench.wire.on_say = lambda: bench.clock.move(0.01)
    bench.delivery.stop(0.025)
    assert [version for version, _ in bench.wire.said] == [3, 1, 2]


def test_an_acknowledged_newest_is_restored_where_it_is_missing_or_older(bench: Bench) -> None:
    bench.add(3)
    bench.connect(retained=0)
    bench.run()
    bench.ack(1, 2, 3)
    for retained, expected in ((None, [(3, True)]), (2, [(3, True)]), (3, []), (9, [])):
        bench.connect(retained)
        assert bench.run(1) == expected, retained


def test_a_probe_that_waits_for_its_name_delivers_nothing(bench: Bench) -> None:
    bench.add(1)
    bench.connect(retained=0)
    bench.name.wait_s = 30.0
    assert bench.delivery._turn() == 30.0
    assert bench.wire.said == []
    bench.name.wait_s = 0.0
    assert bench.run() == [(1, True)]


def test_a_backlog_leaves_at_most_200_a_second(bench: Bench) -> None:
    bench.add(400)
    bench.connect(retained=0)
    begin = bench.clock.at
    while bench.spool.waiting():
        rest_s = bench.delivery._turn()
        for version, _ in bench.wire.said[-1:]:
            bench.ack(version)  # which wakes: a turn comes before its time
        assert bench.delivery._turn() is not None
        bench.clock.move(rest_s or 0.0)
    assert len(bench.wire.said) == 400
    assert bench.clock.at - begin >= 399 * PERIODS.pace


def test_a_damaged_result_and_one_that_cannot_be_read_hold_up_nobody(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add(4)
    next(tmp_path.glob("*result-0001.json")).write_bytes(b"{")
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if "result-0002" in path.name:
            raise OSError(5, "Input/output error")
        return read(path)

    bench.connect(retained=0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert bench.run() == [(4, True), (3, False)]
    bench.ack(3, 4)
    assert bench.run(PERIODS.resend_first) == [(2, False)], "it can be read again"
    assert bench.spool.waiting() == [2]


def test_a_result_dropped_from_the_spool_is_forgotten(bench: Bench) -> None:
    bench.add(2)
    bench.connect(retained=0)
    bench.run()
    bench.spool.forget("result-0001")
    bench.spool.forget("result-0002")
    assert bench.run(7_200) == []
    assert bench.delivery._sent == {}


def test_somebody_may_ask_for_a_result_again(bench: Bench) -> None:
    bench.add(2)
    bench.connect(retained=0)
    bench.run()
    bench.delivery.again(1)
    bench.delivery.again(2)
    assert bench.wire.said[-2:] == [(1, False), (2, True)]
    assert bench.delivery.counters == {"results_sent": 4}


def test_a_foreign_ack_changes_nothing(bench: Bench) -> None:
    bench.add(1)
    bench.connect(retained=0)
    bench.run()
    fields: dict[str, Any] = {"stored": ["somebody-elses", ""], "refused": [{"id": "x", "code": "y" * 500}]}
    bench.delivery.on_ack(codec.validate(Ack, fields))
    assert bench.spool.waiting() == [1]
    assert bench.delivery.counters["results_acked"] == 0
