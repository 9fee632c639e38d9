"""The statistics: reference values to four decimals, and what must hold of any series."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe import statistics as stats

DATA = Path(__file__).parent / "data"


def vectors(name: str, key: str) -> list[Any]:
    found: list[Any] = json.loads((DATA / f"{name}.json").read_text())[key]
    assert found
    return found


def close(value: float | None, wanted: float | None) -> bool:
    """To four decimals: the reference is itself rounded to them."""
    if value is None or wanted is None:
        return value is wanted
    return abs(value - wanted) <= 0.5000001e-4


times = st.floats(min_value=0.001, max_value=10_000, allow_nan=False)
series = st.lists(st.one_of(st.none(), times), max_size=80)


@pytest.mark.parametrize("case", vectors("jitter", "series"), ids=lambda case: str(case["rtt_ms"])[:40])
def test_jitter_vectors(case: dict[str, Any]) -> None:
    detail = stats.jitter_detail(case["rtt_ms"])
    assert close(detail.rfc3550, case["rfc3550_ms"])
    assert close(detail.ipdv_mean, case["ipdv_mean_ms"])


@pytest.mark.parametrize("case", vectors("loss", "cases"), ids=lambda case: f"{case['lost']} of {case['sent']}")
def test_loss_vectors(case: dict[str, Any]) -> None:
    loss = stats.packet_loss([None] * case["lost"] + [1.0] * (case["sent"] - case["lost"]))
    assert loss.packet_number == case["lost"]
    assert close(loss.packet_percent, case["percent"])
    assert close(loss.low, case["low"])
    assert close(loss.high, case["high"])


@pytest.mark.parametrize("case", vectors("mos", "r_to_mos"), ids=lambda case: f"R {case['r']}")
def test_rating_to_mos_vectors(case: dict[str, Any]) -> None:
    assert close(stats.mean_opinion(case["r"]), case["mos"])


@pytest.mark.parametrize("case", vectors("mos", "model"), ids=str)
def test_model_vectors(case: dict[str, Any]) -> None:
    codec = stats.Codec("any", concealment=False, ie=case["ie"], bpl=case["bpl"], packet_ms=20)
    r = stats.rating(case["one_way_ms"], case["loss_percent"], codec, case["burst_ratio"])
    assert close(r, case["r"])
    assert close(stats.mean_opinion(r), case["mos"])


@pytest.mark.parametrize("case", vectors("mos", "from_ping"), ids=str)
def test_figures_to_mos_vectors(case: dict[str, Any]) -> None:
    one_way_ms = stats.mouth_to_ear_ms(case["rtt_ms"] or 0, case["jitter_ms"] or 0)
    if case["loss_percent"] == 100:
        mos, detail = stats.voice([None] * 10)
        assert detail is not None
        assert (mos, detail.r) == (case["mos"], case["r"])
        return
    assert close(one_way_ms, case["one_way_ms"])
    r = stats.rating(one_way_ms, case["loss_percent"])
    assert close(r, case["r"])
    assert close(stats.mean_opinion(r), case["mos"])


def test_figures_of_a_known_series() -> None:
    figures = stats.ping_figures((30.0, None, 10.0, 20.0, 40.0))
    assert (figures.min, figures.avg, figures.max, figures.p50) == (10, 25, 40, 25)
    assert figures.p95 == pytest.approx(38.5)
    assert figures.p99 == pytest.approx(39.7)
    assert figures.stdev == pytest.approx(math.sqrt(500 / 3))
    assert figures.samples == (30.0, None, 10.0, 20.0, 40.0)
    assert stats.jitter_detail((30.0, None, 10.0, 20.0, 40.0)).pdv_p95 == pytest.approx(28.5)


def test_voice_is_the_model_on_mean_jitter_and_loss() -> None:
    samples = (20.0, 22.0, 19.0, None, 30.0, 20.0)
    mos, detail = stats.voice(samples)
    assert detail is not None
    assert (detail.model, detail.codec, detail.concealment, detail.burst_ratio) == ("G.107", "G.711", True, 1.0)
    assert detail.one_way_ms is not None
    assert detail.one_way_ms == pytest.approx(22.2 / 2 + 2 * 1.537323 + 20, abs=1e-5)
    assert detail.r is not None
    assert detail.r == pytest.approx(stats.rating(detail.one_way_ms, 100 / 6))
    assert mos == stats.mean_opinion(detail.r)


def test_nothing_received_is_null_times_and_the_worst_call() -> None:
    samples = (None,) * 100
    figures, jitter, loss = stats.ping_figures(samples), stats.jitter_detail(samples), stats.packet_loss(samples)
    assert figures.model_dump(exclude={"samples"}) == dict.fromkeys(("min", "avg", "max", "p50", "p95", "p99", "stdev"))
    assert jitter.model_dump() == {"rfc3550": None, "ipdv_mean": None, "pdv_p95": None}
    assert (loss.packet_number, loss.packet_percent, loss.longest_run, loss.burst_ratio) == (100, 100.0, 100, None)
    mos, detail = stats.voice(samples)
    assert mos == 1.0
    assert detail is not None
    assert (detail.r, detail.one_way_ms) == (0.0, None)


def test_nothing_sent_is_null() -> None:
    loss = stats.packet_loss(())
    assert (loss.packet_percent, loss.low, loss.high, loss.burst_ratio) == (None, None, None, None)
    assert stats.ping_figures(()).avg is None
    assert stats.voice(()) == (None, None)


def test_one_reply_has_no_variation_and_no_mos() -> None:
    assert stats.ping_figures((5.0,)).stdev is None
    assert stats.jitter_detail((None, 5.0)).model_dump() == {"rfc3550": None, "ipdv_mean": None, "pdv_p95": None}
    assert stats.voice((None, 5.0)) == (None, None)


@pytest.mark.parametrize(
    ("pattern", "longest", "ratio"),
    [
        ("....", 0, None),
        ("x...x...", 1, 0.75),  # single losses: no bursts
        ("xxxx....", 4, 2.0),  # one run of 4 where random loss of half makes 2
        ("xx..xx..", 2, 1.0),
        (".xxx.x..", 3, 1.0),
    ],
)
def test_runs_of_loss(pattern: str, longest: int, ratio: float | None) -> None:
    loss = stats.packet_loss([None if mark == "x" else 1.0 for mark in pattern], duplicates=3, late=2)
    assert loss.longest_run == longest
    assert loss.burst_ratio == ratio
    assert (loss.duplicates, loss.late) == (3, 2)


@given(series)
def test_figures_are_in_order_and_never_nan(samples: list[float | None]) -> None:
    figures = stats.ping_figures(samples)
    ladder = [figures.min, figures.p50, figures.p95, figures.p99, figures.max]
    if not stats.received(samples):
        assert set(ladder) == {None}
        return
    known = [step for step in ladder if step is not None]
    assert len(known) == 5
    assert all(a <= b for a, b in pairwise(known))
    assert figures.avg is not None
    assert known[0] <= figures.avg <= known[-1]
    assert figures.stdev is None or 0 <= figures.stdev <= (known[-1] - known[0])


@given(series)
def test_jitter_is_bounded_by_the_largest_step(samples: list[float | None]) -> None:
    found = stats.received(samples)
    detail = stats.jitter_detail(samples)
    assert (detail.rfc3550 is None) == (len(found) < 2)
    if detail.rfc3550 is not None and detail.pdv_p95 is not None:
        spread = max(found) - min(found)
        assert 0 <= detail.rfc3550 <= spread
        assert 0 <= detail.pdv_p95 <= spread


@given(series)
def test_loss_lies_in_its_interval(samples: list[float | None]) -> None:
    loss = stats.packet_loss(samples)
    assert loss.packet_number == sum(sample is None for sample in samples)
    assert loss.longest_run <= loss.packet_number
    if samples:
        assert loss.packet_percent is not None
        assert loss.low is not None
        assert loss.high is not None
        assert 0 <= loss.low <= loss.packet_percent <= loss.high <= 100


@given(series)
def test_mos_is_on_its_scale(samples: list[float | None]) -> None:
    mos, detail = stats.voice(samples)
    if detail is None or mos is None:
        assert len(stats.received(samples)) == 1 or not samples
        return
    assert 1 <= mos <= 4.5
    assert detail.r is not None
    assert math.isfinite(detail.r)


@given(st.floats(20, 20_000), st.floats(0, 100), st.floats(0, 100))
def test_mos_falls_with_loss(one_way_ms: float, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert stats.rating(one_way_ms, less) >= stats.rating(one_way_ms, more)
    assert stats.mean_opinion(stats.rating(one_way_ms, less)) >= stats.mean_opinion(stats.rating(one_way_ms, more))


@given(st.floats(20, 20_000), st.floats(20, 20_000), st.floats(0, 100))  # a packet of speech alone is 20 ms
def test_mos_falls_with_delay(one: float, other: float, loss: float) -> None:
    short, long = sorted((one, other))
    near = stats.mean_opinion(stats.rating(short, loss))
    # The last bit of the logarithms is not the model's.
    assert near >= stats.mean_opinion(stats.rating(long, loss)) - 1e-9
