"""What libiperf says at its end, recorded from real failures, to the codes of the catalogue."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from probe.iperf.errors import failure, system_error
from probe.iperf.events import Ending, Phase, Report
from schemas.errors import CATALOGUE

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "iperf3" / "errors.json").read_text())


@pytest.mark.parametrize("row", ROWS, ids=[row["situation"] for row in ROWS])
def test_recorded_failures_have_their_codes(row: dict[str, Any]) -> None:
    found = failure(Report(row["ending"], row["phase"], row["code"], row["text"]), "lab.example", 5201, tries=4)
    assert found is not None
    assert found.code == row["expected"]
    assert "?" not in found.message  # every value of the sentence was given
    assert ".." not in found.message


@pytest.mark.parametrize(
    ("ending", "phase", "code"),
    [
        ("cancelled", "running", "cancelled"),
        ("missing", "connecting", "iperf3_missing"),
        ("died", "running", "measurement_failed"),
        ("stalled", "connecting", "target_timeout"),
        ("stalled", "waiting", "target_timeout"),
        ("late", "waiting", "target_timeout"),
        ("stalled", "running", "connection_lost"),
        ("late", "running", "connection_lost"),
    ],
)
def test_every_ending_has_its_code(ending: Ending, phase: Phase, code: str) -> None:
    found = failure(Report(ending, phase, text="why"), "lab.example", 5201)
    assert found is not None
    assert found.code == code


def test_a_good_end_is_no_failure() -> None:
    assert failure(Report("finished", "running"), "lab.example", 5201) is None


@pytest.mark.parametrize("code", range(-1, 310))
def test_every_number_of_libiperf_has_a_code(code: int) -> None:
    found = failure(Report("finished", "running", code, "something: odd"), "lab.example", 5201)
    assert (found is None) == (code == 0)
    assert found is None or found.code in CATALOGUE


def test_the_tries_are_named() -> None:
    found = failure(Report("finished", "connecting", 121, "busy"), "lab.example", 5201, tries=4)
    assert found is not None
    assert "4 tries" in found.message


def test_hostile_text_is_short_and_printable() -> None:
    found = failure(Report("finished", "running", 134, "\x1b[31m\n" + "x" * 10_000), "lab.example", 5201)
    assert found is not None
    assert found.message.isprintable()
    assert len(found.message) < 300


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("unable to connect to server: Connection refused", errno.ECONNREFUSED),
        ("unable to connect to server: No route to host", errno.EHOSTUNREACH),
        ("unable to connect to server: ", None),
        ("no error", None),
        ("", None),
    ],
)
def test_the_system_error_is_read_from_the_end(text: str, number: int | None) -> None:
    assert system_error(text) == number
