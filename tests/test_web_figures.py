"""How figures, times and states read: pure functions, without a bus."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from markupsafe import Markup

from schemas import codec
from schemas.progress import Progress
from schemas.request import TestRecord
from schemas.status import ProbeStatus
from tests.kit.results import make_result
from web import format as fmt
from web.cache import Cache
from web.cards import live_event, probe_card
from web.record_view import STATES, parts_of, view_record

NOW = "2026-11-23T20:15:04.123Z"
ID = make_result().id


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (fmt.ms(None), fmt.DASH),
        (fmt.ms(0), "0 ms"),
        (fmt.ms(0.0213), "0.021 ms"),
        (fmt.ms(1.794), "1.79 ms"),
        (fmt.ms(23.67), "23.7 ms"),
        (fmt.ms(999.96), "1000 ms"),
        (fmt.ms(3012.4), "3012 ms"),
        (fmt.percent(None), fmt.DASH),
        (fmt.percent(0), "0 %"),
        (fmt.percent(100.0), "100 %"),
        (fmt.percent(0.334), "0.33 %"),
        (fmt.percent(99.96), "100.0 %"),
        (fmt.rate(None), fmt.DASH),
        (fmt.rate(0), "0 bit/s"),
        (fmt.rate(999), "999 bit/s"),
        (fmt.rate(64_000), "64.0 kbit/s"),
        (fmt.rate(941.2e6), "941 Mbit/s"),
        (fmt.rate(24.6e9), "24.6 Gbit/s"),
        (fmt.size(None), fmt.DASH),
        (fmt.size(12), "12 bytes"),
        (fmt.size(1_176_500_000), "1.18 GB"),
        (fmt.mos(None), fmt.DASH),
        (fmt.mos(4.3), "4.30"),
        (fmt.seconds(31.9), "31.9 s"),
        (fmt.seconds(10), "10 s"),
        (fmt.seconds(125), "2 min 5 s"),
        (fmt.seconds(7_300), "2 h 1 min"),
        (fmt.whole_seconds(23.2), "24 s"),
        (fmt.sentence(" a b"), "A b."),
        (fmt.sentence("Why?"), "Why?"),
    ],
)
def test_a_figure_reads_as_a_person_reads_it(shown: str, text: str) -> None:
    assert shown.replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("gone", "text"),
    [(-60, "just now"), (4, "just now"), (5, "5 s ago"), (59, "59 s ago"), (60, "1 min ago"), (3_600, "1 h ago"),
     (86_400, "1 day ago"), (200_000, "2 days ago")],
)  # fmt: skip
def test_an_age_reads_as_a_person_reads_it(gone: int, text: str) -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    assert fmt.age(now - timedelta(seconds=gone), now).replace("\u00a0", " ") == text


def test_code_in_a_sentence_is_marked_and_escaped() -> None:
    assert fmt.codes("run `a <b>` & go") == Markup("run <code>a &lt;b&gt;</code> &amp; go")
    assert fmt.codes("one ` alone <i>") == Markup("one ` alone &lt;i&gt;")


# --- tests ------------------------------------------------------------------------------------------------------------
BOTH = {"ping": {"target": "192.0.2.7"}, "speedtest": {"target": "192.0.2.9"}}


def record(state: str, parts: dict[str, Any] | None = BOTH, **changes: Any) -> TestRecord:
    summary = {"id": ID, "number": 5, "probe": "paris", "state": state, "origin": "web", "created_at": NOW}
    return codec.validate(TestRecord, {"summary": summary, "parts": parts, **changes})


def progress(cache: Cache, state: str, **changes: Any) -> None:
    fields = {"id": ID, "seq": 1, "at": NOW, "state": state, **changes}
    cache.take_progress("paris", codec.validate(Progress, fields))


def steps(found: TestRecord, cache: Cache | None = None) -> str:
    return " ".join(f"{step.word}:{step.state}" for step in view_record(found, cache or Cache()).steps)


def test_the_steps_follow_the_test() -> None:
    todo = "Ping:todo Download:todo Upload:todo Done:todo"
    assert steps(record("waiting")) == f"Sent:done Accepted:now {todo}"
    assert steps(record("queued")) == f"Sent:done Queued:now {todo}"
    assert steps(record("accepted")) == f"Sent:done Accepted:done {todo}"
    cache = Cache()
    progress(cache, "running", part="download")
    running = "Sent:done Accepted:done Ping:done Download:now Upload:todo Done:todo"
    assert steps(record("waiting"), cache) == running, "what the probe says is newer than the archive"
    failed = "Ping:failed Download:failed Upload:failed"
    assert steps(record("expired")) == f"Sent:done Accepted:failed {failed}"
    assert steps(record("rejected")) == f"Sent:done Accepted:failed {failed}"
    assert steps(record("lost")) == f"Sent:done Accepted:done {failed}"


def test_a_part_that_failed_is_marked_and_the_others_are_kept() -> None:
    busy = {"code": "target_busy", "message": "It was busy.", "hint": ""}
    result = make_result(status="error", errors={"upload": busy})
    found = view_record(record("running").model_copy(update={"result": result}), Cache())
    assert [step.state for step in found.steps] == ["done"] * 4 + ["failed"]
    assert found.state == "error"
    shown = {card.key: card for card in found.cards}
    assert shown["upload"].value == fmt.DASH
    assert shown["upload"].why == "It was busy."
    assert shown["download"].value == "40.0\u00a0Mbit/s"


def test_a_result_counts_before_the_archive_has_it() -> None:
    cache = Cache()
    progress(cache, "running", part="ping")
    cache.take_result("paris", make_result())
    found = view_record(record("running"), cache)
    assert (found.state, found.final) == ("done", True)
    assert found.samples == (21.0, None, 22.4, 31.2)


def test_progress_of_another_probe_with_this_id_is_not_this_test() -> None:
    cache = Cache()
    cache.take_progress("rome", codec.validate(Progress, {"id": ID, "seq": 1, "at": NOW, "state": "running"}))
    assert view_record(record("waiting"), cache).state == "waiting"


def test_every_state_has_a_word_and_a_look() -> None:
    for state in (
        "waiting",
        "queued",
        "accepted",
        "running",
        "done",
        "error",
        "cancelled",
        "rejected",
        "expired",
        "lost",
    ):
        word, look = STATES[state]
        assert word
        assert look in ("ok", "run", "wait", "bad", "off")
        assert view_record(record(state), Cache()).steps


def test_a_test_from_elsewhere_can_be_run_again_from_its_result() -> None:
    found = parts_of(record("done", None).model_copy(update={"result": make_result()}))
    assert found is not None
    assert found.ping is not None
    assert found.speedtest is not None
    assert (found.ping.target, found.ping.count, found.ping.timeout_s) == ("lab.example", 4, 3.0)
    assert (found.speedtest.target, found.speedtest.bitrate) == ("192.0.2.9", 100_000_000)
    newer = make_result(speedtest_option={"target": "192.0.2.9", "quantum": True})
    assert parts_of(record("done", None).model_copy(update={"result": newer})) is None
    assert parts_of(record("expired", None)) is None


# --- probes -----------------------------------------------------------------------------------------------------------
def card(**changes: Any) -> Any:
    fields = {"state": "online", "instance": "i", "connection": "c", "at": NOW, "since": NOW, **changes}
    cache = Cache()
    cache.take_status("paris", codec.validate(ProbeStatus, fields))
    return probe_card(cache.probes()[0], cache, datetime.fromisoformat(NOW) + timedelta(minutes=3))


@pytest.mark.parametrize(
    ("changes", "state", "label"),
    [
        ({}, "free", "paris"),
        ({"running": [{"id": "test-0001", "number": 7}]}, "busy", "paris (busy: Test 7)"),
        ({"running": [{"id": "test-0001", "autotest_id": "a"}]}, "busy", "paris (busy: Autotest)"),
        ({"state": "offline", "reason": "will"}, "offline", "paris (offline since 3\u00a0min)"),
    ],
)
def test_a_probe_says_in_the_list_why_it_may_not_start(changes: dict[str, Any], state: str, label: str) -> None:
    found = card(**changes)
    assert (found.state, found.label) == (state, label)


def test_what_a_person_should_see_to_comes_with_its_remedy() -> None:
    full = {"code": "spool_full", "message": "It is full.", "hint": "Empty it."}
    found = card(
        spool={"degraded": full, "quarantined": 2},
        clock={"now": NOW, "offset_s": -7.5, "agrees": False},
        capabilities={"speedtest": {"available": False}},
    )
    assert [(problem.title, problem.message) for problem in found.problems] == [
        ("Speedtests are not possible on paris", "This probe cannot do 'speedtest'."),
        ("Results are kept in memory only", "It is full."),
        ("Results were refused", "The controller did not take 2 of them."),
        ("The clock is wrong", "It is 7.50\u00a0s behind the controller's."),
    ]
    assert card(state="offline", spool={"degraded": full}).problems == (), "an old complaint of one that is gone"


def test_progress_reaches_the_page_with_its_texts() -> None:
    fields = {
        "id": ID, "seq": 3, "at": NOW, "state": "running", "part": "download", "done": 2.5, "total": 10, "percent": 60,
        "eta_s": 8.1, "figures": {"bits_per_second": 941e6},
    }  # fmt: skip
    event = live_event("paris", codec.validate(Progress, fields))
    assert event["text"] == {
        "step": "Download 2.5 of 10\u00a0s",
        "eta": "at most 9\u00a0s left",
        "download": "941\u00a0Mbit/s",
    }
    assert event["samples"] is None
