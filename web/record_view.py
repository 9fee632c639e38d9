"""What the page of a test shows, worked out from its record in the archive and from what is live."""

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from schemas import limits as lim
from schemas.command import PingSpec, SpeedtestSpec, TestParts
from schemas.errors import ErrorInfo
from schemas.request import FINAL_STATES, TestRecord, TestSummary
from schemas.result import DirectionResult, PacketLoss, PingFigures, Result
from web import format as fmt
from web.cache import Cache, LiveTest
from web.cards import PARTS, live_text

STATES: Final = {
    "waiting": ("Waiting", "wait"),
    "queued": ("Queued", "wait"),
    "accepted": ("Accepted", "run"),
    "running": ("Running", "run"),
    "done": ("Done", "ok"),
    "error": ("Error", "bad"),
    "cancelled": ("Cancelled", "off"),
    "rejected": ("Refused", "bad"),
    "expired": ("Expired", "bad"),
    "lost": ("Lost", "bad"),
}
"""The word and the look of each state."""


@dataclass(frozen=True)
class Card:
    """A figure with its unit, what belongs to it, and why it is not known if it is not."""

    key: str
    title: str
    value: str
    rows: tuple[tuple[str, str], ...] = ()
    why: str | None = None


@dataclass(frozen=True)
class Step:
    """One step of a test: done, now, todo or failed."""

    word: str
    state: str


@dataclass(frozen=True)
class Raw:
    """iperf3's own document of one direction."""

    part: str
    text: str


@dataclass(frozen=True)
class RecordView:
    """A test as the page shows it."""

    summary: TestSummary
    parts: TestParts | None
    result: Result | None
    state: str
    final: bool
    percent: float
    text: dict[str, str]
    samples: tuple[float | None, ...]
    steps: tuple[Step, ...]
    cards: tuple[Card, ...]
    failures: tuple[tuple[str, ErrorInfo], ...]
    raws: tuple[Raw, ...]
    repeatable: bool


def parts_of(record: TestRecord) -> TestParts | None:
    """Return what was asked for; of a test that began without the controller, what its result tells."""
    if record.parts is not None or record.result is None:
        return record.parts
    found, ping, speed = record.result, None, None
    try:
        if found.target is not None:
            ping = PingSpec(
                target=found.target.host,
                count=found.packet_number or lim.PING_COUNT_DEFAULT,
                timeout_s=found.packet_timeout or lim.PING_TIMEOUT_DEFAULT_S,
            )
        if found.speedtest_option:
            speed = SpeedtestSpec.model_validate(found.speedtest_option)
        return TestParts(ping=ping, speedtest=speed)
    except ValidationError:  # a newer probe's options
        return None


def view_record(record: TestRecord, cache: Cache) -> RecordView:
    """Return what is shown of a test. A result that is here already counts before the archive has it."""
    summary = record.summary
    result = record.result or cache.result(summary.probe, summary.id)
    state: str = result.status if result is not None else summary.state
    final = state in FINAL_STATES
    live = None if final else cache.live(summary.probe, summary.id)
    if live is not None:
        state = _live_state(live, state)
    parts = parts_of(record)
    return RecordView(
        summary=summary,
        parts=parts,
        result=result,
        state=state,
        final=final,
        percent=(live.progress.percent or 0.0) if live else 0.0,
        text=live_text(live.progress) if live else {},
        samples=_samples(result, live),
        steps=_steps(parts, state, live, result),
        cards=cards(result) if result else (),
        failures=_failures(summary, result, live),
        raws=_raws(result),
        repeatable=parts is not None,
    )


def _live_state(live: LiveTest, state: str) -> str:
    found = live.progress.state
    return found if found in ("queued", "accepted", "running", "rejected") else state


def _samples(result: Result | None, live: LiveTest | None) -> tuple[float | None, ...]:
    if result is not None:
        return result.ping.samples if result.ping else ()
    seen = live.progress.figures if live else None
    return seen.samples or () if seen else ()


def _failures(summary: TestSummary, result: Result | None, live: LiveTest | None) -> tuple[tuple[str, ErrorInfo], ...]:
    if result is not None:
        return tuple((PARTS.get(part, part.capitalize()), info) for part, info in result.errors.items())
    if summary.error is not None:
        return (("", summary.error),)
    if live is not None and live.progress.error is not None:
        return (("", live.progress.error),)
    return ()


# --- steps ------------------------------------------------------------------------------------------------------------
def _steps(parts: TestParts | None, state: str, live: LiveTest | None, result: Result | None) -> tuple[Step, ...]:
    asked: list[str] = []
    if parts is not None:
        asked += ["ping"] if parts.ping else []
        asked += list(parts.speedtest.directions) if parts.speedtest else []
    final = state in FINAL_STATES
    rank = {"waiting": 0, "queued": 1, "accepted": 2, "running": 2}.get(state, 3)
    taken = result is not None or (final and state not in ("rejected", "expired"))
    found = [
        Step("Sent", "done"),
        Step(
            "Queued" if state == "queued" else "Accepted",
            "now" if rank < 2 else "done" if taken or not final else "failed",  # noqa: PLR2004 - accepted
        ),
    ]
    current = live.progress.part if live and live.progress.state == "running" else None
    found += [Step(PARTS[part], _part_state(part, asked, current, final, result)) for part in asked]
    if not final:
        found.append(Step("Done", "todo"))
    return tuple(found)


def _part_state(part: str, asked: list[str], current: str | None, final: bool, result: Result | None) -> str:  # noqa: FBT001 - read by place, next to its rank
    if result is not None:
        return "failed" if part in result.errors or ("speedtest" in result.errors and part != "ping") else "done"
    if final:
        return "failed"
    if current is None or current not in asked:
        return "todo"
    here, there = asked.index(part), asked.index(current)
    return "now" if here == there else "done" if here < there else "todo"


# --- figures ----------------------------------------------------------------------------------------------------------
def cards(result: Result) -> tuple[Card, ...]:
    """Return the figures of a result, one card for each that was asked for."""
    found: list[Card] = []
    if result.target is not None or result.ping is not None or "ping" in result.errors:
        found += _ping_cards(result)
    speed = result.speedtest
    for part, direction in (
        ("download", speed.download if speed else None),
        ("upload", speed.upload if speed else None),
    ):
        if direction is not None or part in result.errors:
            found.append(_direction_card(part, direction, result.errors.get(part)))
    if speed is None and "speedtest" in result.errors:
        found.append(Card("speedtest", "Speedtest", fmt.DASH, why=result.errors["speedtest"].message))
    return tuple(found)


def _ping_cards(result: Result) -> list[Card]:
    ping, loss = result.ping or PingFigures(), result.packet_loss
    why = {part: info.message for part, info in result.errors.items()}
    trips = (
        ("Minimum", fmt.ms(ping.min)),
        ("Median", fmt.ms(ping.p50)),
        ("P95", fmt.ms(ping.p95)),
        ("P99", fmt.ms(ping.p99)),
        ("Maximum", fmt.ms(ping.max)),
        ("Std deviation", fmt.ms(ping.stdev)),
    )
    found = [Card("rtt", "Round trip, mean", fmt.ms(ping.avg), trips if ping.avg is not None else (), why.get("ping"))]
    detail = result.jitter_detail
    rows = (("Mean IPDV", fmt.ms(detail.ipdv_mean)), ("PDV, P95", fmt.ms(detail.pdv_p95))) if detail else ()
    found.append(Card("jitter", "Jitter", fmt.ms(result.jitter), rows, why.get("jitter")))
    found.append(
        Card("loss", "Packet loss", fmt.percent(loss.packet_percent if loss else None), _loss_rows(loss, result))
    )
    found.append(Card("mos", "MOS", fmt.mos(result.mos), _mos_rows(result), why.get("mos")))
    return found


def _loss_rows(loss: PacketLoss | None, result: Result) -> tuple[tuple[str, str], ...]:
    if loss is None:
        return ()
    rows = [("Lost", f"{loss.packet_number} of {result.packet_number or 0} packets")]
    if loss.low is not None and loss.high is not None:
        rows.append(("95 % interval", f"{loss.low:.2g}{fmt.DASH}{fmt.percent(loss.high)}"))
    if loss.longest_run:
        rows.append(("Longest run", f"{loss.longest_run} in a row"))
    if loss.duplicates:
        rows.append(("Duplicates", str(loss.duplicates)))
    if loss.late:
        rows.append(("Late replies", str(loss.late)))
    return tuple(rows)


def _mos_rows(result: Result) -> tuple[tuple[str, str], ...]:
    detail = result.mos_detail
    if detail is None:
        return ()
    rows = [("Model", f"{detail.model}, {detail.codec}")]
    if detail.r is not None:
        rows.append(("R factor", f"{detail.r:.1f}"))
    if detail.one_way_ms is not None:
        rows.append(("One way", fmt.ms(detail.one_way_ms)))
    return tuple(rows)


def _direction_card(part: str, found: DirectionResult | None, error: ErrorInfo | None) -> Card:
    why = error.message if error else None
    if found is None or found.result is None:
        return Card(part, PARTS[part], fmt.DASH, (), why or (found.message if found else None))
    rows = [
        ("Minimum", fmt.rate(found.result.min)),
        ("Maximum", fmt.rate(found.result.max)),
        ("Received", fmt.size(found.bytes)),
    ]
    if found.retransmits is not None:
        rows.append(("Retransmits", str(found.retransmits)))
    if found.loss_percent is not None:
        rows.append(("Loss", fmt.percent(found.loss_percent)))
    if found.jitter_ms is not None:
        rows.append(("Jitter", fmt.ms(found.jitter_ms)))
    if found.rtt_ms is not None:
        rows.append(("Round trip", fmt.ms(found.rtt_ms)))
    if found.congestion:
        rows.append(("Congestion", found.congestion))
    if found.probe_limited:
        rows.append(("Note", "the probe's CPU was the limit"))
    return Card(part, PARTS[part], fmt.rate(found.result.avg), tuple(rows), why)


def _raws(result: Result | None) -> tuple[Raw, ...]:
    if result is None or result.speedtest is None:
        return ()
    found: list[Raw] = []
    for part, direction in (("download", result.speedtest.download), ("upload", result.speedtest.upload)):
        document: Any = direction.json_ if direction else None
        if document is not None:
            found.append(Raw(part, json.dumps(document, indent=2, ensure_ascii=False)))
    return tuple(found)
