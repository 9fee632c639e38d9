"""The speedtest as a kind: real servers, both directions, and what it answers when there is none."""

import itertools
import threading
import time
from typing import Any

import pytest

from probe.iperf import runner
from probe.kinds import speedtest
from probe.kinds.base import Outcome
from probe.kinds.speedtest import ENTRY
from schemas.command import Direction, SpeedtestSpec
from schemas.errors import Failure
from schemas.legacy import legacy_view
from schemas.result import DirectionResult, Result, SpeedtestResult
from tests.kit import iperf

QUICK = runner.Deadlines(connect_s=1.0, stall_s=0.8, extra_s=3.0)


def go(port: int, context: iperf.SpeedContext | None = None, **options: Any) -> Outcome:
    """One speedtest of a second for each direction."""
    request = SpeedtestSpec(port=port, **{"target": iperf.LOOPBACK, "duration_s": 1, **options})
    return ENTRY.run(request, context or iperf.SpeedContext())


def speed(outcome: Outcome) -> SpeedtestResult:
    found = outcome.fields["speedtest"]
    assert isinstance(found, SpeedtestResult)
    return found


def direction(outcome: Outcome, name: Direction) -> DirectionResult:
    found = speed(outcome).download if name == "download" else speed(outcome).upload
    assert found is not None
    return found


def average(outcome: Outcome, name: Direction) -> float:
    found = direction(outcome, name).result
    assert found is not None
    assert found.avg is not None
    return found.avg


def codes(outcome: Outcome) -> dict[str, str]:
    return {part: reason.code for part, reason in outcome.errors.items()}


def result(outcome: Outcome) -> Result:
    """The outcome as the agent makes a result of it."""
    return Result.model_validate(
        {
            "id": "01970000",
            "version": 1,
            "probe_name": "paris",
            "status": "error" if outcome.failed else "done",
            "measured_at": "2026-11-23T20:15:04.123Z",
            "duration_s": 2.0,
            "errors": dict(outcome.errors),
            **outcome.fields,
        }
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def test_both_directions_over_tcp() -> None:
    context = iperf.SpeedContext()
    with iperf.server() as server:
        start = time.monotonic()
        outcome = go(server.port, context, bitrate=50_000_000)
        overhead = time.monotonic() - start - 2
    assert overhead < 2 * speedtest.OVERHEAD_S
    assert (outcome.errors, outcome.failed, outcome.cancelled) == ({}, frozenset(), False)
    assert outcome.facts == {"iperf3": iperf.installed_version()}
    for name in ("download", "upload"):
        assert average(outcome, name) / 50e6 == pytest.approx(1, abs=0.05)
    assert direction(outcome, "upload").rtt_ms is not None
    assert direction(outcome, "download").rtt_ms is None
    assert direction(outcome, "download").tries == 1
    assert speed(outcome).target.model_dump() == {
        "host": iperf.LOOPBACK,
        "address": iperf.LOOPBACK,
        "port": server.port,
    }
    assert context.asked == [(iperf.LOOPBACK, None)]  # resolved once


def test_steps_go_through_both_directions() -> None:
    context = iperf.SpeedContext()
    with iperf.server() as server:
        go(server.port, context, bitrate=50_000_000)
    done = [step.done for step in context.steps]
    assert done == sorted(done)
    assert done[0] == 0.0
    assert 1.9 <= done[-1] <= 2.0
    assert {step.total for step in context.steps} == {2.0}
    assert [part for part, _ in itertools.groupby(step.part for step in context.steps)] == ["download", "upload"]
    rates = [step.figures.bits_per_second for step in context.steps if step.figures.bits_per_second is not None]
    assert len(rates) >= 6
    assert sum(rates) / len(rates) / 50e6 == pytest.approx(1, abs=0.3)
    left = [step.eta_s for step in context.steps]
    assert left == sorted(left, reverse=True)


@pytest.mark.parametrize("streams", [1, 4])
def test_streams_are_summed(streams: int) -> None:
    with iperf.server() as server:
        outcome = go(server.port, direction="upload", streams=streams, bitrate=50_000_000)
    assert average(outcome, "upload") / (streams * 50e6) == pytest.approx(1, abs=0.05)
    kept = direction(outcome, "upload").json_
    assert kept is not None
    assert len(kept["end"]["streams"]) == streams


def test_over_udp() -> None:
    with iperf.server() as server:
        outcome = go(server.port, protocol="udp", bitrate=50_000_000)
    for name in ("download", "upload"):
        found = direction(outcome, name)
        assert average(outcome, name) / 50e6 == pytest.approx(1, abs=0.05)
        assert found.loss_percent == pytest.approx(0, abs=1)
        assert found.jitter_ms is not None
        assert found.retransmits is None


def test_udp_without_a_bitrate_is_one_megabit() -> None:
    with iperf.server() as server:
        outcome = go(server.port, direction="upload", protocol="udp")
    assert average(outcome, "upload") / 1e6 == pytest.approx(1, abs=0.1)


def test_omitted_seconds_do_not_count() -> None:
    context = iperf.SpeedContext()
    with iperf.server() as server:
        outcome = go(server.port, context, direction="download", omit_s=1, bitrate=50_000_000)
    found = direction(outcome, "download")
    assert found.seconds == pytest.approx(1, abs=0.1)
    assert len(found.intervals) == 1
    assert context.steps[-1].total == 2.0


def test_over_ipv6() -> None:
    with iperf.server(iperf.LOOPBACK6) as server:
        outcome = go(server.port, target=iperf.LOOPBACK6, family=6, bitrate=50_000_000)
    assert average(outcome, "download") > 0
    assert average(outcome, "upload") > 0


def test_a_name_goes_to_its_one_address() -> None:
    context = iperf.SpeedContext({"lab.example": iperf.LOOPBACK})
    with iperf.server() as server:
        outcome = go(server.port, context, target="lab.example", direction="upload", bitrate=50_000_000)
    assert speed(outcome).target.model_dump() == {"host": "lab.example", "address": iperf.LOOPBACK, "port": server.port}
    kept = direction(outcome, "upload").json_
    assert kept is not None
    assert kept["start"]["connecting_to"]["host"] == iperf.LOOPBACK


def test_the_congestion_control_used_is_told() -> None:
    with iperf.server() as server:
        outcome = go(server.port, direction="upload", congestion="reno", bitrate=50_000_000)
    assert direction(outcome, "upload").congestion == "reno"


def test_the_outcome_makes_a_result() -> None:
    with iperf.server() as server:
        outcome = go(server.port, bitrate=50_000_000, dscp=46)
    found = Result.model_validate_json(result(outcome).model_dump_json())
    assert found.speedtest is not None
    assert found.speedtest.download == speed(outcome).download
    assert found.speedtest_option is not None
    assert SpeedtestSpec.model_validate(found.speedtest_option).dscp == 46
    view = legacy_view(found)
    assert view["speedtest"]["upload"]["status"] == "success"
    assert view["speedtest_option"] == "-t 1 -S 184 -b 50000000"


# --- busy ---------------------------------------------------------------------------------------------------------------


def test_a_busy_server_is_tried_again_and_then_called_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedtest, "BACK_OFF_FIRST_S", 0.1)
    with iperf.server() as server, iperf.client(server):
        outcome = go(server.port, busy_retries=2)
    assert codes(outcome) == {"download": "target_busy", "upload": "target_busy"}
    assert "3 tries" in outcome.errors["download"].message
    assert (direction(outcome, "download").tries, direction(outcome, "upload").tries) == (3, None)
    assert outcome.failed == {"download", "upload"}


def test_without_retries_a_busy_server_is_busy_at_once() -> None:
    with iperf.server() as server, iperf.client(server):
        start = time.monotonic()
        outcome = go(server.port, busy_retries=0)
        assert time.monotonic() - start < 1.0
    assert codes(outcome) == {"download": "target_busy", "upload": "target_busy"}


def test_a_server_that_gets_free_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedtest, "BACK_OFF_FIRST_S", 0.5)
    with iperf.server() as server, iperf.client(server) as other:
        threading.Timer(0.3, other.kill).start()
        outcome = go(server.port, direction="download", bitrate=50_000_000)
    assert codes(outcome) == {}
    assert (direction(outcome, "download").tries or 0) > 1


def test_cancel_while_the_server_is_busy() -> None:
    context = iperf.SpeedContext()
    with iperf.server() as server, iperf.client(server):
        threading.Timer(0.3, context.cancel).start()
        outcome = go(server.port, context)
        assert context.stopped_at is not None
        assert time.monotonic() - context.stopped_at < 0.5
    assert outcome.cancelled
    assert codes(outcome) == {"download": "cancelled", "upload": "cancelled"}


def test_back_off_doubles_up_to_a_bound() -> None:
    assert list(speedtest.back_offs(6)) == [1, 2, 4, 8, 8, 8]
    assert list(speedtest.back_offs(0)) == []


# --- what can go wrong ------------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_once_for_both() -> None:
    with iperf.refusing() as port:
        start = time.monotonic()
        outcome = go(port)
        assert time.monotonic() - start < 1.0
    assert codes(outcome) == {"download": "target_refused", "upload": "target_refused"}
    assert result(outcome).status == "error"
    assert direction(outcome, "upload").status == "error"
    assert direction(outcome, "upload").message == outcome.errors["upload"].message


def test_a_silent_target_is_not_waited_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "DEADLINES", QUICK)
    with iperf.answering(None) as port:
        start = time.monotonic()
        outcome = go(port)
        assert time.monotonic() - start < 2.0
    assert codes(outcome) == {"download": "target_timeout", "upload": "target_timeout"}


def test_a_web_server_is_no_iperf3() -> None:
    with iperf.answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        outcome = go(port, direction="upload")
    assert codes(outcome) == {"upload": "target_protocol_error"}
    assert speed(outcome).download is None  # not asked for


def test_a_server_that_claims_success_without_figures() -> None:
    # SERVER_ERROR with error 0: libiperf then reports "no error".
    with iperf.answering(b"\xfe" + bytes(8)) as port:
        outcome = go(port, direction="upload")
    assert codes(outcome) == {"upload": "target_protocol_error"}


def test_a_direction_lost_leaves_the_other() -> None:
    with iperf.server(one_off=True) as server:
        start = time.monotonic()
        outcome = go(server.port, bitrate=50_000_000)
        assert time.monotonic() - start < 3.0
    assert codes(outcome) == {"upload": "target_refused"}
    assert outcome.failed == {"upload"}
    assert average(outcome, "download") / 50e6 == pytest.approx(1, abs=0.05)
    assert (direction(outcome, "upload").tries or 0) > 3  # it may only have been slow to listen again


def test_a_killed_server_loses_the_first_and_refuses_the_second() -> None:
    with iperf.server() as server:

        def kill(step: Any) -> bool:
            if step.done > 0.2 and server.process.poll() is None:
                server.kill()
            return False

        outcome = go(server.port, iperf.SpeedContext(cancel_when=kill), duration_s=10)
    assert codes(outcome) == {"download": "connection_lost", "upload": "target_refused"}


@pytest.mark.parametrize("code", ["dns_failed", "dns_timeout", "target_denied"])
def test_without_an_address_neither_starts(code: str) -> None:
    reason = Failure(code, host="lab.example", reason="no such name", seconds=5, address="127.0.0.1", rule="loopback")
    outcome = go(5201, iperf.SpeedContext({"lab.example": reason}), target="lab.example")
    assert codes(outcome) == {"speedtest": code}
    assert outcome.failed == {"speedtest"}
    assert outcome.facts == {}
    found = speed(outcome)
    assert found.target.address is None
    assert found.download is not None
    assert found.upload is not None
    assert (found.download.status, found.upload.message) == ("error", reason.info.message)


def test_without_the_library_neither_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIBRARIES", ("libiperf-nowhere.so.0",))
    outcome = go(5201)
    assert codes(outcome) == {"speedtest": "iperf3_missing"}
    assert outcome.failed == {"speedtest"}
    assert direction(outcome, "download").result is None
    available = ENTRY.probe()
    assert not available.available
    assert available.error is not None
    assert available.error.code == "iperf3_missing"
    assert "apt install iperf3" in available.error.hint


def test_the_library_is_found_here() -> None:
    found = ENTRY.probe()
    assert (found.available, found.detail, found.error) == (True, {"iperf3": iperf.installed_version()}, None)


# --- cancel -----------------------------------------------------------------------------------------------------------------


def test_cancel_in_the_second_direction_keeps_the_first() -> None:
    context = iperf.SpeedContext(cancel_when=lambda step: step.part == "upload" and step.done > 1.3)
    with iperf.server() as server:
        outcome = go(server.port, context, bitrate=50_000_000)
        assert context.stopped_at is not None
        assert time.monotonic() - context.stopped_at < 2.0
    assert outcome.cancelled
    assert codes(outcome) == {"upload": "cancelled"}
    assert average(outcome, "download") > 0
    assert direction(outcome, "upload").result is None


def test_cancelled_before_it_began() -> None:
    context = iperf.SpeedContext()
    context.cancel()
    outcome = go(5201, context)
    assert outcome.cancelled
    assert codes(outcome) == {"download": "cancelled", "upload": "cancelled"}
    assert context.steps == []


# --- the registry's line --------------------------------------------------------------------------------------------------------


def test_the_entry() -> None:
    assert ENTRY.throughput
    assert ENTRY.request is SpeedtestSpec
    one = SpeedtestSpec(target="lab.example", direction="upload")
    assert ENTRY.longest_s(one) >= runner.DEADLINES.total_s(one) + sum(speedtest.back_offs(one.busy_retries))
    assert ENTRY.longest_s(SpeedtestSpec(target="lab.example")) == 2 * ENTRY.longest_s(one)
    assert ENTRY.usual_s is not None
    assert ENTRY.usual_s(SpeedtestSpec(target="lab.example", duration_s=3, omit_s=1)) == 9.0
