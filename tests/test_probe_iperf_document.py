"""iperf3's documents, recorded from real runs, to the figures of a result."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.iperf import document
from probe.iperf.events import Sample, finite, live_rate, parse
from schemas import limits
from schemas.command import Direction, SpeedtestSpec
from schemas.result import DirectionResult, PingFigures, Result, ServerAddress, SpeedtestResult

DATA = Path(__file__).parent / "data" / "iperf3"
RECORDED = sorted(path.stem for path in DATA.glob("*.json") if path.stem != "errors")


class Recorded:
    """One recorded run."""

    def __init__(self, name: str) -> None:
        found = json.loads((DATA / f"{name}.json").read_text())
        self.spec = SpeedtestSpec.model_validate(found["spec"])
        self.direction: Direction = found["direction"]
        self.samples = tuple(Sample.of(sample) for sample in found["samples"])
        self.document: dict[str, Any] = found["document"]

    def result(self) -> DirectionResult:
        return document.direction_result(self.document, self.samples, self.spec, self.direction, tries=1)


def _ordered(found: DirectionResult) -> tuple[float, float, float]:
    assert found.result is not None
    assert found.result.min is not None
    assert found.result.avg is not None
    assert found.result.max is not None
    return found.result.min, found.result.avg, found.result.max


@pytest.mark.parametrize("name", RECORDED)
def test_average_is_what_the_receiver_got(name: str) -> None:
    run = Recorded(name)
    found, received = run.result(), run.document["end"]["sum_received"]
    low, average, high = _ordered(found)
    assert low <= average <= high
    assert average == pytest.approx(received["bits_per_second"], rel=1e-9)
    assert (found.bytes, found.seconds) == (received["bytes"], received["seconds"])
    assert found.status == "success"
    assert found.message is None
    assert len(found.intervals) == run.spec.duration_s


@pytest.mark.parametrize("name", RECORDED)
def test_every_number_can_be_computed_again_from_the_result(name: str) -> None:
    found = Recorded(name).result()
    low, average, high = _ordered(found)
    rates = [interval.bits_per_second for interval in found.intervals]
    assert found.bytes is not None
    assert found.seconds is not None
    assert average == found.bytes * 8 / found.seconds
    assert low == min([*rates, average])
    assert high == max([*rates, average])


def test_download_takes_intervals_of_this_side_summed_over_streams() -> None:
    run = Recorded("tcp_download_4_omit")
    counted = [found for found in run.document["intervals"] if not found["sum"]["omitted"]]
    assert len(run.document["intervals"]) == 3
    assert len(counted) == 2
    rates = [sum(stream["bits_per_second"] for stream in found["streams"]) for found in counted]
    assert [found.bits_per_second for found in run.result().intervals] == pytest.approx(rates, rel=1e-3)
    assert run.result().retransmits == run.document["end"]["sum_sent"]["retransmits"]
    assert run.result().rtt_ms is None  # this side was not the sender; iperf3 writes 0
    assert run.document["end"]["streams"][0]["sender"]["mean_rtt"] == 0


def test_upload_takes_what_the_peer_acknowledged() -> None:
    run = Recorded("tcp_upload_4_omit")
    found = run.result()
    marks = {round(sample.at_s): sample for sample in run.samples if sample.at_s and abs(sample.at_s % 1 - 0.5) > 0.4}
    second, third = marks[2], marks[3]
    assert second.at_s is not None
    assert third.at_s is not None
    assert found.intervals[1].bits_per_second == pytest.approx(
        (third.bytes - second.bytes) * 8 / (third.at_s - second.at_s), abs=1
    )
    assert [round(interval.start_s) for interval in found.intervals] == [0, 1]  # the omitted second does not count
    assert all(interval.retransmits is not None for interval in found.intervals)
    rtts = [stream["sender"]["mean_rtt"] for stream in run.document["end"]["streams"]]
    assert found.rtt_ms == pytest.approx(sum(rtts) / 4 / 1000)


def test_upload_without_samples_falls_back_to_what_was_sent() -> None:
    run = Recorded("tcp_upload")
    found = document.direction_result(run.document, (), run.spec, run.direction)
    sums = [interval["sum"] for interval in run.document["intervals"]]
    assert [interval.bits_per_second for interval in found.intervals] == [round(one["bits_per_second"]) for one in sums]


def test_remainders_are_no_intervals() -> None:
    run = Recorded("tcp_download")
    last = copy.deepcopy(run.document["intervals"][-1])
    last["sum"] |= {"seconds": 0.004, "bits_per_second": 1.0}
    run.document["intervals"].append(last)
    low, _, _ = _ordered(run.result())
    assert low > 1.0


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("udp_upload", 0.0),
        ("udp_download", 0.0),
        ("udp_upload_loss", 100 * 16 / 154),
        ("udp_download_loss", 100 * 15 / 153),
    ],
)
def test_udp_has_loss_and_jitter(name: str, percent: float) -> None:
    found = Recorded(name).result()
    assert found.loss_percent == pytest.approx(percent)
    assert found.jitter_ms is not None
    assert 0 < found.jitter_ms < 1
    assert (found.retransmits, found.congestion, found.rtt_ms) == (None, None, None)


def test_udp_average_leaves_out_what_was_lost() -> None:
    run = Recorded("udp_upload_loss")
    _, average, _ = _ordered(run.result())
    assert average == pytest.approx(run.document["end"]["sum_sent"]["bits_per_second"] * (1 - 16 / 154), rel=1e-3)


def test_nothing_arrived_is_all_lost() -> None:
    run = Recorded("udp_upload")
    run.document["end"]["sum_received"] |= {"packets": 0, "lost_packets": 0, "bytes": 0}
    found = run.result()
    assert found.loss_percent == 100.0
    assert found.jitter_ms is None
    assert _ordered(found)[1] == 0.0


def test_tcp_tells_no_loss() -> None:
    found = Recorded("tcp_download").result()
    assert (found.loss_percent, found.jitter_ms) == (None, None)
    assert found.congestion == "bbr"


@pytest.mark.parametrize(("cpu", "limited"), [(90.0, False), (90.1, True), (12.0, False)])
def test_a_busy_probe_is_marked(cpu: float, limited: bool) -> None:
    run = Recorded("tcp_download")
    run.document["end"]["cpu_utilization_percent"]["host_total"] = cpu
    found = run.result()
    assert (found.cpu_percent, found.probe_limited) == (cpu, limited)


def test_absent_is_null() -> None:
    run = Recorded("tcp_upload")
    for path in (("cpu_utilization_percent",), ("sum_sent",), ("streams",), ("sender_tcp_congestion",)):
        del run.document["end"][path[0]]
    found = run.result()
    missing = (found.cpu_percent, found.probe_limited, found.retransmits, found.rtt_ms, found.congestion)
    assert missing == (None,) * 5


@pytest.mark.parametrize("retransmits", [-1, None, True, "3", float("nan")])
def test_retransmits_not_told_are_null(retransmits: Any) -> None:
    run = Recorded("tcp_download")
    run.document["end"]["sum_sent"]["retransmits"] = retransmits
    assert run.result().retransmits is None


@pytest.mark.parametrize("name", ["", "x" * 16, "<script>", "bbr\n", 7, None, "b b"])
def test_a_congestion_control_that_is_no_name_is_null(name: Any) -> None:
    run = Recorded("tcp_download")
    run.document["end"]["sender_tcp_congestion"] = name
    assert run.result().congestion is None


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        ({}, "missing"),
        ({"bytes": 0, "seconds": 2.0}, "no data arrived"),
        ({"bytes": 1000, "seconds": 0}, "missing"),
        ({"bytes": 1e308, "seconds": 2.0}, "missing"),
        ({"bytes": -5, "seconds": 2.0}, "missing"),
        ({"bytes": "many", "seconds": 2.0}, "missing"),
        ({"bytes": 1000, "seconds": 1e-300}, "make no sense"),
    ],
)
def test_no_figures_is_no_result(received: dict[str, Any], reason: str) -> None:
    run = Recorded("tcp_download")
    run.document["end"]["sum_received"] = received
    with pytest.raises(document.NoFigures, match=reason):
        run.result()


@pytest.mark.parametrize("found", [None, {}, {"end": []}, {"end": {"sum_received": 3}}, {"intervals": {}}])
def test_a_document_of_another_shape_is_no_result(found: Any) -> None:
    with pytest.raises(document.NoFigures):
        document.direction_result(found, (), SpeedtestSpec(target="192.0.2.9"), "download")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.sampled_from(RECORDED),
    st.sampled_from(["sum", "sum_sent", "sum_received", "streams", "cpu_utilization_percent", "sender_tcp_congestion"]),
    st.sampled_from(["bytes", "seconds", "packets", "lost_packets", "jitter_ms", "retransmits", "host_total"]),
    _json,
)
def test_whatever_the_server_says_all_numbers_are_finite(name: str, part: str, key: str, value: Any) -> None:
    run = Recorded(name)
    inner = run.document["end"].get(part)
    if isinstance(inner, dict):
        inner[key] = value
    else:
        run.document["end"][part] = value
    run.document["intervals"][0] = {"sum": {"start": value, "end": 1, "seconds": 1, "bits_per_second": value}}
    run.document = finite(run.document)
    try:
        found = run.result()
    except document.NoFigures:
        return
    low, average, high = _ordered(found)
    assert all(map(math.isfinite, (low, average, high)))
    assert 0 <= low <= average <= high
    json.loads(found.model_dump_json(), parse_constant=pytest.fail)


def test_kept_document_has_no_stream_intervals_and_all_else() -> None:
    run = Recorded("tcp_download_4_omit")
    found = run.result().json_
    assert found is not None
    assert [set(interval) for interval in found["intervals"]] == [{"sum"}] * 3
    assert found["end"] == run.document["end"]
    assert found["start"] == run.document["start"]
    assert "streams" in run.document["intervals"][0]  # the original was left alone


# --- the size -----------------------------------------------------------------------------------------------------


def _longest(streams: int = 16, seconds: int = 60) -> DirectionResult:
    """A recorded run of 16 streams, stretched to the longest test."""
    run = Recorded("tcp_upload_16")
    found = copy.deepcopy(run.document)
    pattern = run.document["intervals"]
    found["intervals"] = []
    for second in range(seconds):
        interval = copy.deepcopy(pattern[second % len(pattern)])
        interval["sum"] |= {"start": second + 1e-6, "end": second + 1.000001, "bits_per_second": 94_123_456_789.12345}
        found["intervals"].append(interval)
    found["end"]["sum_received"]["seconds"] = seconds + 0.000123
    for part in (found["end"]["streams"], found["start"]["connected"]):
        del part[streams:]
    spec = SpeedtestSpec(target="192.0.2.9", streams=streams, duration_s=seconds)
    return document.direction_result(found, (), spec, "upload", tries=1)


def _result(speedtest: SpeedtestResult) -> Result:
    """A result that is as long as it can be beside its speedtest."""
    return Result.model_validate(
        {
            "id": "0" * 64,
            "version": 10**9,
            "probe_name": "p" * 64,
            "status": "done",
            "measured_at": "2026-11-23T20:15:04.123Z",
            "duration_s": 139.123456,
            "ping": PingFigures(samples=tuple(123.456789012345 + number for number in range(300))),
            "comment": "\N{GRINNING FACE}" * limits.COMMENT_MAX_CHARS,
            "speedtest": speedtest,
            "speedtest_option": SpeedtestSpec(target="a" * 63 + ".example").model_dump(),
            "errors": {part: {"code": "x" * 30, "message": "m" * 300, "hint": "h" * 200} for part in ("ping", "mos")},
            "granted": {f"limit_{number}": number for number in range(12)},
        }
    )


def _both(one: DirectionResult) -> SpeedtestResult:
    return SpeedtestResult(
        target=ServerAddress(host="a" * 60, address="2001:db8::1", port=5201), download=one, upload=one
    )


@pytest.mark.parametrize("streams", [1, 4, 16])
@pytest.mark.parametrize("seconds", [3, 10, 30, 60])
def test_a_result_fits_into_a_message(streams: int, seconds: int) -> None:
    whole = _both(_longest(streams, seconds))
    fitted = document.fit(whole)
    assert len(_result(fitted).model_dump_json().encode()) <= limits.MESSAGE_MAX_BYTES
    for before, after in ((whole.download, fitted.download), (whole.upload, fitted.upload)):
        assert before is not None
        assert after is not None
        assert after.model_copy(update={"json_": None}) == before.model_copy(update={"json_": None})
        assert len(after.intervals) == seconds


def test_the_longest_would_not_fit_untrimmed() -> None:
    assert len(_result(_both(_longest())).model_dump_json().encode()) > limits.MESSAGE_MAX_BYTES


def test_documents_give_way_in_parts_and_say_so() -> None:
    whole = _both(_longest())
    sizes: list[int] = []
    for count in range(len(document.TRIMMABLE) + 1):
        bound = len(document.fit(whole, 10**6 if count == 0 else sizes[-1] - 1).model_dump_json().encode())
        sizes.append(bound)
    assert sizes == sorted(sizes, reverse=True)
    first = document.fit(whole, sizes[0] - 1)
    assert first.upload is not None
    assert first.upload.json_ is not None
    assert first.upload.json_["trimmed"] == ["end.streams"]
    assert "streams" not in first.upload.json_["end"]
    assert "sum_received" in first.upload.json_["end"]
    assert whole.upload is not None
    assert whole.upload.json_ is not None
    assert "streams" in whole.upload.json_["end"]
    none = document.fit(whole, sizes[-1] - 1)
    assert none.upload is not None
    assert none.upload.json_ is None
    assert none.upload.intervals == whole.upload.intervals


def test_what_fits_stays_as_it_is() -> None:
    whole = _both(Recorded("tcp_download").result())
    assert document.fit(whole) == whole


def test_a_hostile_document_never_makes_a_result_too_large() -> None:
    run = Recorded("tcp_download")
    run.document["end"]["receiver_tcp_congestion"] = "\N{GRINNING FACE}" * 50_000
    fitted = document.fit(_both(run.result()))
    assert len(_result(fitted).model_dump_json().encode()) <= limits.MESSAGE_MAX_BYTES


# --- samples ------------------------------------------------------------------------------------------------------


def _sample(at_s: float | None, count: int, streams: int = 1) -> Sample:
    return Sample(at_s=at_s, connected=True, streams=streams, bytes=count, control=0, retransmits=0)


def test_live_rate_is_over_about_a_second() -> None:
    burst = [_sample(quarter / 4, 0 if quarter < 8 else (quarter - 8) * 250_000) for quarter in range(13)]
    assert live_rate(burst[:9]) == 0.0
    assert live_rate(burst) == pytest.approx(8_000_000)


def test_live_rate_is_absent_before_data_flows() -> None:
    assert live_rate([]) is None
    assert live_rate([_sample(None, 37)]) is None
    assert live_rate([_sample(0.0, 1000)]) is None
    assert live_rate([_sample(0.0, 1000), _sample(0.25, 0, streams=0)]) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "[" * 100_000, b"\xff\xfe{"])
def test_what_is_no_object_is_nothing(text: str | bytes) -> None:
    assert parse(text) is None


def test_parse_takes_no_number_that_is_not_finite() -> None:
    assert parse('{"a": [NaN, {"b": Infinity}, 1e999, 1.5]}') == {"a": [None, {"b": None}, None, 1.5]}
