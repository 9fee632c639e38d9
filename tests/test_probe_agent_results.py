"""Whatever a kind brings home, a result comes of it that holds and fits; and what is told on the way."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from netloom.settings import ProbeLimits
from probe import progress, results
from probe.kinds.base import Outcome, Step
from probe.progress import PartPlan, Reporter
from schemas import codec, limits
from schemas.command import RunCommand
from schemas.errors import ErrorInfo, Failure
from schemas.progress import Figures, Progress
from schemas.result import DirectionResult, PingFigures, Result, ServerAddress, SpeedtestResult
from tests.kit.agents import FAST, FakeClock, Kinds, run_agent
from tests.kit.brokers import BrokerProcess
from tests.kit.probes import Watcher, watch
from tests.kit.wait import until

PING = {"target": "192.0.2.7"}
SPEED = {"target": "192.0.2.9"}


def ended(seen: Watcher, test_id: str, timeout_s: float = 8.0) -> Result:
    until(lambda: [found for found in seen.results if found.id == test_id], timeout_s, f"result of {test_id}")
    return next(found for found in seen.results if found.id == test_id)


# --- kinds that fail ------------------------------------------------------------------------------------------------


def fault(_: BaseModel) -> Outcome:
    raise ZeroDivisionError("a kind's own fault")


def failure(_: BaseModel) -> Outcome:
    raise Failure("dns_failed", host="lab.example", reason="no such name")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (fault, "measurement_failed"),
        (failure, "dns_failed"),
        (lambda _: Outcome(fields={"jitter": float("nan")}), "measurement_failed"),
        (lambda _: Outcome(fields={"jitter": -1.0}), "measurement_failed"),
        (lambda _: Outcome(fields={"packet_number": "many"}), "measurement_failed"),
        (lambda _: Outcome(fields={"ping": [1, 2, 3]}), "measurement_failed"),
        (lambda _: Outcome(facts={"icmp": "carrier pigeon"}), "measurement_failed"),
        (lambda _: Outcome(fields={"extra": "\ud800"}), "measurement_failed"),
        (lambda _: Outcome(fields={"extra": "x" * 100_000}), "measurement_failed"),
        (lambda _: Outcome(fields={"extra": threading.Lock()}), "measurement_failed"),
        (lambda _: None, "measurement_failed"),
    ],
)
def test_whatever_a_kind_does_there_is_a_result_and_the_slot_is_free(
    mosquitto: BrokerProcess, tmp_path: Path, outcome: Callable[[BaseModel], Outcome], code: str
) -> None:
    kinds = Kinds(ping_s=0.01, speedtest_s=0.01)
    kinds.ping.outcome = outcome
    with watch(mosquitto.url) as seen, run_agent(mosquitto.url, tmp_path, kinds):
        until(seen.status)
        result = ended(seen, seen.command(ping=PING, speedtest=SPEED))
        assert (result.status, set(result.errors)) == ("error", {"ping"})
        assert result.errors["ping"].code == code
        assert result.target is not None
        assert result.target.host == PING["target"]
        assert len(kinds.speedtest.runs) == 1, "the other part was measured"
        kinds.ping.outcome = lambda _: Outcome()
        assert ended(seen, seen.command(ping=PING, speedtest=SPEED)).status == "done"


COMMAND = codec.validate(RunCommand, {"id": "command-1", "comment": "\N{SNOWMAN}" * 500, "ping": PING})


def draft(**outcomes: Outcome) -> results.Draft:
    return results.Draft("paris", COMMAND, ProbeLimits(), datetime.now(UTC), 1.0, outcomes)


def test_a_result_that_is_too_large_sheds_what_can_be_missed_in_order() -> None:
    big = {"n" * 50 + str(i): i for i in range(400)}
    side = DirectionResult(status="success", json_=big)
    speedtest = SpeedtestResult(target=ServerAddress(host="a", port=1), download=side, upload=side)
    ping = PingFigures(avg=1.0, samples=tuple(1.2345 for _ in range(300)))
    result, payload = results.make(draft(ping=Outcome(fields={"ping": ping, "speedtest": speedtest})), 7)
    assert len(payload) <= limits.MESSAGE_MAX_BYTES
    assert codec.encode(codec.parse(Result, payload)) == payload
    assert result.speedtest is not None
    assert result.speedtest.download is not None
    assert (result.speedtest.download.status, result.speedtest.download.json_) == ("success", None)
    assert result.ping == ping
    many = PingFigures(avg=1.0, samples=tuple(1.2345 for _ in range(9_000)))
    result, payload = results.make(draft(ping=Outcome(fields={"ping": many})), 7)
    assert len(payload) <= limits.MESSAGE_MAX_BYTES
    assert result.ping is not None
    assert (result.ping.avg, result.ping.samples, result.status) == (1.0, (), "done")


def test_every_key_is_in_a_result() -> None:
    _, payload = results.make(draft(ping=Outcome()), 7)
    assert set(json.loads(payload)) == set(Result.model_fields)


def test_errors_name_the_part_and_the_status_follows() -> None:
    gone = ErrorInfo(code="target_silent", message="m")
    noted = Outcome(errors={"ping": gone})
    lost = Outcome(errors={"ping": gone}, failed=frozenset({"ping"}))
    stopped = Outcome(cancelled=True)
    for outcomes, status in (
        ({"ping": noted}, "done"),
        ({"ping": lost, "speedtest": noted}, "error"),
        ({"ping": lost, "speedtest": stopped}, "cancelled"),
    ):
        assert results.make(draft(**outcomes), 1)[0].status == status


# --- progress -------------------------------------------------------------------------------------------------------


def reporter(said: list[tuple[Progress, int]]) -> tuple[Reporter, FakeClock]:
    clock = FakeClock()
    plan = [PartPlan("ping", 2.0, 5.0), PartPlan("speedtest", 6.0, 60.0)]
    made = Reporter(
        "test-0001",
        7,
        plan,
        lambda payload, qos: said.append((codec.parse(Progress, payload), qos)),
        clock=clock,
        periods=FAST,
    )
    return made, clock


def test_ticks_are_thinned_and_the_whole_tests_percent_only_rises() -> None:
    said: list[tuple[Progress, int]] = []
    made, clock = reporter(said)
    made.tell("accepted")
    made.begin("ping")
    for done in range(1, 101):
        made.step(Step("ping", done, 100, (100 - done) / 50, Figures(sent=done)))
        clock.move(0.01)
        made.tick()
    assert 15 <= len(said) <= 25
    made.begin("speedtest")
    made.step(Step("download", 0, 10, 10, Figures()))
    made.step(Step("download", 10, 10, 0, Figures()))
    clock.move(1)
    made.tick()
    percents = [found.percent for found, _ in said if found.percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    assert max(found.percent or 0 for found, _ in said if found.part == "ping") <= 25.0
    assert [found.seq for found, _ in said] == list(range(len(said)))
    etas = [found.eta_s or 0.0 for found, _ in said if found.part == "ping"]
    assert all(60.0 <= eta_s <= 65.0 for eta_s in etas), "the part to come counts at its longest"
    assert [qos for found, qos in said if found.state == "accepted"] == [1]
    assert sum(qos for _, qos in said) == 3, "accepted, and the first step of each part"


def test_nothing_is_said_after_the_end() -> None:
    said: list[tuple[Progress, int]] = []
    made, clock = reporter(said)
    made.tell("accepted")
    assert made.close() == 0
    clock.move(10)
    made.step(Step("ping", 1, 2, 1, Figures()))
    made.tick()
    made.again()
    made.tell("running")
    assert len(said) == 1


def test_samples_are_left_out_of_a_large_tick() -> None:
    def message(count: int) -> Progress:
        figures = Figures(rtt_ms=1.0, samples=tuple(1.2345 for _ in range(count)))
        return Progress(id="test-0001", seq=1, at=datetime.now(UTC), state="running", figures=figures)

    small, large = progress.encode(message(300)), progress.encode(message(3_000))
    assert len(large) <= progress.SMALL_BYTES
    assert len(json.loads(small)["figures"]["samples"]) == 300
    assert json.loads(large)["figures"] | {"samples": None} == json.loads(large)["figures"]
