"""The command line's small parts: conditions, figures, the bar's text, the log, findings."""

import io
import json
import logging
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from netloom import log as logs
from netloom.cli import bar, checks, conditions, figures, listeners, output, ports
from netloom.cli.commands.test import first_error
from netloom.cli.follow import Ended
from schemas.errors import Failure, error
from schemas.progress import Figures, Progress
from schemas.request import TestTicket
from schemas.result import Result
from tests.kit.brokers import LOOPBACK, free_port
from tests.kit.results import result_fields

TICKET = TestTicket(id="0197aaaa", number=7, probe="paris", state="waiting")


def _result(**changes: Any) -> Result:
    return Result.model_validate_json(json.dumps({**result_fields(), **changes}, default=str))


# --- conditions -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "name", "sign", "bound"),
    [
        ("loss>1%", "loss", ">", 1.0),
        ("loss >= 0.5", "loss", ">=", 0.5),
        ("p95>0.05s", "p95", ">", 50.0),
        ("rtt<=20ms", "rtt", "<=", 20.0),
        ("mos<4", "mos", "<", 4.0),
        ("down<100Mbit/s", "down", "<", 1e8),
        ("up<1.5g", "up", "<", 1.5e9),
    ],
)
def test_a_condition_is_read(text: str, name: str, sign: str, bound: float) -> None:
    found = conditions.parse(text)
    assert (found.name, found.sign) == (name, sign)
    assert found.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is not a condition"),
        ("loss", "'loss' is not a condition"),
        ("loss=1", "'loss=1' is not a condition"),
        ("loss>-1", "'loss>-1' is not a condition"),
        ("lag>1", "there is no figure 'lag': it is one of loss, min,"),
        ("loss>1ms", "'ms' is not a unit of loss: it is one of %"),
        ("mos<4%", "'%' is not a unit of mos: it is one of none"),
    ],
)
def test_nonsense_is_no_condition(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="a") as caught:
        conditions.parse(text)
    assert str(caught.value).startswith(sentence)


def test_a_figure_that_is_not_there_meets_the_condition() -> None:
    result = _result(packet_loss=None, mos=None, speedtest=None)
    for text in ("loss>1%", "mos<4", "down<1M", "up>1M"):
        assert conditions.parse(text).why(result) == f"{text}: there is no such figure in this result"


def test_a_bound_itself_is_kept() -> None:
    result = _result(jitter=5.0)
    assert conditions.parse("jitter>5ms").why(result) is None
    assert conditions.parse("jitter>=5ms").why(result) == "jitter>=5ms: it is 5"


# --- exit code of a result ------------------------------------------------------------------------------------------------
def test_the_first_error_of_a_part_decides() -> None:
    silent, few = error("target_silent", sent=3), error("too_few_replies", received=0, sent=3, needed=2)
    both = {"jitter": few.model_dump(), "ping": silent.model_dump()}
    assert first_error(Ended(TICKET, _result(status="done", errors=both))) == silent
    assert first_error(Ended(TICKET, _result(status="done", errors={"jitter": few.model_dump()}))) is None
    assert first_error(Ended(TICKET, _result(status="done", errors={}))) is None
    assert first_error(Ended(TICKET, error=silent)) == silent


# --- figures --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0 bit/s"),
        (999.0, "999 bit/s"),
        (1e6, "1.0 Mbit/s"),
        (941.2e6, "941 Mbit/s"),
        (2.35e9, "2.4 Gbit/s"),
    ],
)
def test_rates(value: float | None, shown: str) -> None:
    assert figures.rate(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.014, "0.01"), (9.84, "9.8"), (184.3, "184")])
def test_milliseconds(value: float | None, shown: str) -> None:
    assert figures.ms(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7_200, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: int, shown: str) -> None:
    now = datetime.now(UTC)
    assert figures.age(now - timedelta(seconds=seconds), now) == shown


def test_a_result_from_elsewhere_cannot_steer_the_terminal() -> None:
    bad = error("measurement_failed", reason="\x1b[2J\x1b]0;gotcha\x07\u202e")
    text = "\n".join(figures.lines(_result(errors={"ping": bad.model_dump()}))) + figures.brief(_result())
    assert not any(character in text for character in "\x1b\x07\u202e")
    assert "gotcha" in text
    assert output.clean("a\nb") == "a\N{REPLACEMENT CHARACTER}b"


def test_a_failed_part_is_told_with_its_next_step() -> None:
    refused = error("target_refused", host="192.0.2.9", port=5201)
    shown = [*figures.lines(_result(status="error", errors={"download": refused.model_dump()}))]
    assert shown[-2:] == [f"  download: {refused.message}", f"    {refused.hint}"]


# --- the bar ----------------------------------------------------------------------------------------------------------------
def _progress(**fields: Any) -> Progress:
    return Progress.model_validate({"id": TICKET.id, "seq": 1, "at": datetime.now(UTC), "state": "running", **fields})


def test_the_bar_shows_part_share_and_figures() -> None:
    ping = Figures(rtt_ms=12.3, loss_percent=0.0)
    shown = bar.text(_progress(part="ping", done=43, total=100, percent=25.0, figures=ping, eta_s=7.2))
    assert shown == "ping       █████░░░░░░░░░░░░░░░   25 %  43/100  12.3 ms  loss 0 %  at most 7 s more"
    down = bar.text(_progress(part="download", done=2.2, total=3, percent=50.0, figures=Figures(bits_per_second=941e6)))
    assert down == "download   ██████████░░░░░░░░░░   50 %  2/3 s  941 Mbit/s"
    assert bar.text(_progress(state="queued")) == "queued"


def test_the_bar_draws_nothing_where_no_terminal_is() -> None:
    stream = io.StringIO()
    with bar.Bar("x", stream) as drawn:
        drawn.say("asking")
        drawn.update(_progress(percent=10.0))
    assert stream.getvalue() == ""


# --- the log ----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def root_logger() -> Iterator[None]:
    """Leave the logging of the test run as it was."""
    root = logging.getLogger()
    handlers, level, loud = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, loud
    root.setLevel(level)


def _logged(level: str, wanted: logs.Format) -> str:
    stream = io.StringIO()
    logs.setup(level, wanted, role="probe", stream=stream)
    log = logging.getLogger("probe.agent")
    log.debug("not shown")
    log.info("connected to %s", "mqtts://paris:s3cret@broker.example:8883/", extra={"test_id": "0197"})
    log.warning("two\x1b[2J lines")
    try:
        int("postgresql://netloom:s3cret@db/x")
    except ValueError:
        log.exception("it failed")
    return stream.getvalue()


@pytest.mark.usefixtures("root_logger")
def test_json_lines_hold_no_secret() -> None:
    text = _logged("info", "json")
    first, second, third = map(json.loads, text.splitlines())
    assert (first["level"], first["role"], first["logger"], first["test_id"]) == (
        "info",
        "probe",
        "probe.agent",
        "0197",
    )
    assert first["event"] == "connected to mqtts://***@broker.example:8883/"
    assert datetime.fromisoformat(first["ts"]).tzinfo is not None
    assert second["event"] == "two\x1b[2J lines"
    assert "ValueError" in third["traceback"]
    assert "s3cret" not in text


@pytest.mark.usefixtures("root_logger")
def test_text_is_for_a_person() -> None:
    text = _logged("warning", "text")
    assert text.splitlines()[0][8:] == " warning probe: two?[2J lines"
    assert "connected" not in text
    assert "s3cret" not in text


def test_auto_is_text_on_a_terminal_only() -> None:
    terminal = SimpleNamespace(isatty=lambda: True)
    assert logs.resolve("auto", terminal) == "text"  # type: ignore[arg-type]  # all that is asked of it
    assert logs.resolve("auto", io.StringIO()) == "json"
    assert logs.resolve("text", io.StringIO()) == "text"


# --- ports ------------------------------------------------------------------------------------------------------------------
def test_a_port_that_is_taken_is_replaced_or_an_error() -> None:
    with socket.create_server((LOOPBACK, 0)) as holder:
        port = holder.getsockname()[1]
        assert ports.taken(LOOPBACK, port)
        assert ports.choose(LOOPBACK, port, strict=False) != port
        with pytest.raises(Failure, match="port_in_use"):
            ports.choose(LOOPBACK, port, strict=True)
        found = listeners.owner(port)
        assert found is not None
        assert found.pid == os.getpid()
    free = free_port()
    assert ports.choose("localhost", free, strict=True) == free
    assert ports.choose(LOOPBACK, 0, strict=True) > 0
    assert listeners.owner(free) is None


# --- what the doctor finds ------------------------------------------------------------------------------------------------
def test_a_clock_that_is_off_is_a_warning_with_its_fix() -> None:
    behind = checks.clock(-6.2)
    assert (behind.level, behind.text) == ("warn", "this clock is 6.2 s behind the controller's")
    assert "timedatectl" in behind.fix
    assert checks.clock(0.3).level == "ok"


def test_no_icmp_is_a_fail_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.kinds import ping  # noqa: PLC0415 - as the check does

    refused = SimpleNamespace(error=error("icmp_not_permitted", reason="for the test"))
    monkeypatch.setattr(ping, "ENTRY", SimpleNamespace(probe=lambda: refused))
    (found,) = checks.icmp()
    assert (found.level, found.code) == ("FAIL", 7)
    assert "net.ipv4.ping_group_range='0 2147483647'" in found.fix


def test_no_iperf3_is_a_fail_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.kinds import speedtest  # noqa: PLC0415 - as the check does

    missing = SimpleNamespace(error=error("iperf3_missing", reason="for the test"))
    monkeypatch.setattr(speedtest, "ENTRY", SimpleNamespace(probe=lambda: missing))
    (found,) = checks.iperf3()
    assert (found.level, found.code, "apt install iperf3" in found.fix) == ("FAIL", 7, True)


@pytest.mark.parametrize(("free", "level"), [(10**12, "ok"), (5 * 10**8, "warn"), (10**6, "FAIL")])
def test_free_space(free: int, level: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (found,) = checks.data_folder(tmp_path / "not" / "yet" / "there")
    assert found.level == level


def test_a_data_folder_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (found,) = checks.data_folder(tmp_path / "file" / "below")
    assert (found.level, found.code) == ("FAIL", 7)


def test_a_foreign_listener_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as holder:
        (found,) = checks.port("page", LOOPBACK, holder.getsockname()[1], "--port")
    assert found.level == "warn"
    assert f"(pid {os.getpid()})" in found.text
    assert "--port" in found.fix
