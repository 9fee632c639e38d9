"""Runs of the real iperf3 in their own processes: watched, ended, and nothing left behind."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from probe.iperf import child, runner
from probe.iperf.errors import failure
from probe.iperf.events import Report, Sample
from schemas.command import Direction, SpeedtestSpec
from tests.kit import iperf
from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[1]
QUICK = runner.Deadlines(connect_s=1.0, stall_s=0.8, extra_s=3.0)


def go(port: int, direction: Direction = "upload", host: str = iperf.LOOPBACK, **options: Any) -> Report:
    """One run of a second, to its end."""
    keep = {name: options.pop(name) for name in ("deadlines", "on_samples") if name in options}
    spec = SpeedtestSpec(target=host, port=port, **{"duration_s": 1, **options})
    return runner.run(runner.Plan(spec, direction, host), cancelled=lambda: False, **keep)


def code(report: Report) -> str | None:
    found = failure(report, "lab.example", 5201)
    return None if found is None else found.code


# --- a good run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["download", "upload"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_samples_follow_the_delivered_bytes(direction: Direction, protocol: str) -> None:
    with iperf.server() as server:
        report = go(server.port, direction, protocol=protocol, bitrate=50_000_000)
    assert (report.ending, report.phase, code(report)) == ("finished", "running", None)
    assert report.version == iperf.installed_version()
    flowing = [sample for sample in report.samples if sample.at_s is not None and sample.streams]
    assert [sample.at_s for sample in flowing][:5] == pytest.approx([0, 0.25, 0.5, 0.75, 0.98], abs=0.1)
    counts = [sample.bytes for sample in flowing]
    assert counts == sorted(counts)
    assert report.document is not None
    total = report.document["end"]["sum_received"]["bytes"]
    assert counts[-1] == pytest.approx(total, rel=0.1)  # the last look is 20 ms before the end


def test_the_library_names_its_version() -> None:
    assert runner.version().version == iperf.installed_version()


def test_two_runs_at_once_to_two_servers() -> None:
    with iperf.server() as one, iperf.server() as two, ThreadPoolExecutor(2) as pool:
        start = time.monotonic()
        reports = list(pool.map(go, (one.port, two.port), ("upload", "download")))
        assert time.monotonic() - start < 2.0
    for report, server in zip(reports, (one, two), strict=True):
        assert code(report) is None
        assert report.document is not None
        assert report.document["start"]["connecting_to"]["port"] == server.port


# --- endings ----------------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_at_once() -> None:
    with iperf.refusing() as port:
        start = time.monotonic()
        assert code(go(port)) == "target_refused"
        assert time.monotonic() - start < 1.0


def test_a_refusal_over_ipv6() -> None:
    with iperf.refusing(iperf.LOOPBACK6) as port:
        assert code(go(port, host=iperf.LOOPBACK6)) == "target_refused"


def test_a_black_hole_takes_less_than_six_seconds() -> None:
    with iperf.black_hole() as port:
        start = time.monotonic()
        report = go(port)
        assert 4.5 < time.monotonic() - start < 6.0
    assert (report.phase, code(report)) == ("connecting", "target_timeout")


def test_a_silent_listener_is_given_up() -> None:
    with iperf.answering(None) as port:
        start = time.monotonic()
        report = go(port)
        assert 4.5 < time.monotonic() - start < 6.5
    assert (report.ending, report.phase, code(report)) == ("stalled", "waiting", "target_timeout")


@pytest.mark.parametrize("payload", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"", b"\x00" * 64])
def test_junk_is_no_iperf3(payload: bytes) -> None:
    with iperf.answering(payload) as port:
        report = go(port, deadlines=QUICK)
    assert code(report) in ("target_protocol_error", "target_timeout")
    assert code(report) == "target_protocol_error" or report.ending == "stalled"


def test_results_of_gigabytes_end_the_child_alone() -> None:
    # Parameter exchange, and then - where the client reads JSON - a length of almost 4 GiB.
    with iperf.answering(b"\x09\x0d\xff\xff\xff\xf0" + b"{" * 100_000) as port:
        report = go(port, deadlines=QUICK)
    assert code(report) is not None


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_a_server_killed_in_mid_test(direction: Direction) -> None:
    with iperf.server() as server:

        def on_samples(samples: list[Sample]) -> None:
            if samples[-1].at_s and server.process.poll() is None:
                server.kill()

        start = time.monotonic()
        report = go(server.port, direction, duration_s=20, on_samples=on_samples)
        assert time.monotonic() - start < 3.0
    assert (report.phase, code(report)) == ("running", "connection_lost")


@pytest.mark.parametrize(
    ("direction", "protocol"), [("download", "tcp"), ("upload", "tcp"), ("download", "udp"), ("upload", "udp")]
)
def test_a_frozen_server_is_given_up(direction: Direction, protocol: str) -> None:
    with iperf.server() as server:

        def on_samples(samples: list[Sample]) -> None:
            if samples[-1].at_s:
                server.freeze()

        report = go(server.port, direction, duration_s=2, protocol=protocol, deadlines=QUICK, on_samples=on_samples)
    assert (report.ending, report.phase, code(report)) == ("stalled", "running", "connection_lost")


def test_the_deadline_ends_what_still_moves() -> None:
    with iperf.server() as server:
        start = time.monotonic()
        report = go(server.port, duration_s=30, deadlines=dataclasses.replace(QUICK, extra_s=-29.5))
        assert time.monotonic() - start < 3.0
    assert (report.ending, code(report)) == ("late", "connection_lost")


def test_a_low_bitrate_is_no_stall() -> None:
    with iperf.server() as server:
        report = go(server.port, duration_s=2, bitrate=300_000, deadlines=dataclasses.replace(QUICK, stall_s=0.5))
    assert code(report) is None


# --- cancel ---------------------------------------------------------------------------------------------------------------


def test_cancel_in_mid_test_leaves_no_process() -> None:
    before = iperf.children()
    stop = threading.Event()
    with iperf.server() as server:
        started: list[int] = []

        def on_samples(samples: list[Sample]) -> None:
            if samples[-1].at_s and not stop.is_set():
                started.extend(iperf.children() - before - {server.process.pid})
                stop.set()

        spec = SpeedtestSpec(target=iperf.LOOPBACK, port=server.port, duration_s=30)
        start = time.monotonic()
        report = runner.run(runner.Plan(spec, "download", iperf.LOOPBACK), cancelled=stop.is_set, on_samples=on_samples)
        assert time.monotonic() - start < 2.0
        assert code(report) == "cancelled"
        assert len(started) == 1
        assert not iperf.alive(started[0])
        # The server is free for the next one.
        time.sleep(0.2)
        assert code(go(server.port)) is None


def test_cancel_while_connecting() -> None:
    with iperf.black_hole() as port:
        spec = SpeedtestSpec(target=iperf.LOOPBACK, port=port)
        start = time.monotonic()
        report = runner.run(
            runner.Plan(spec, "download", iperf.LOOPBACK), cancelled=lambda: time.monotonic() - start > 0.2
        )
        assert time.monotonic() - start < 1.0
    assert code(report) == "cancelled"


def test_the_child_dies_with_its_parent() -> None:
    program = (
        "import sys\n"
        "from probe.iperf import runner\n"
        "from schemas.command import SpeedtestSpec\n"
        "spec = SpeedtestSpec(target='127.0.0.1', port=int(sys.argv[1]), duration_s=30)\n"
        "plan = runner.Plan(spec, 'upload', '127.0.0.1')\n"
        "runner.run(plan, cancelled=lambda: False, on_samples=lambda found: print(found[-1].at_s, flush=True))\n"
    )
    with iperf.server() as server:
        words = [sys.executable, "-c", program, str(server.port)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}) as parent:
            assert parent.stdout is not None
            while parent.stdout.readline() in (b"None\n", b"0.0\n"):
                pass
            (pid,) = iperf.children(parent.pid)
            assert os.getpgid(pid) == pid  # a group of its own
            parent.kill()
        until(lambda: not iperf.alive(pid), 2.0, "the child is gone")


def test_sigterm_ends_the_child() -> None:
    with iperf.server() as server:
        before = iperf.children()
        ended: list[int] = []

        def on_samples(samples: list[Sample]) -> None:
            if samples[-1].at_s and not ended:
                ended.extend(iperf.children() - before)
                os.kill(ended[0], signal.SIGTERM)

        report = go(server.port, duration_s=30, on_samples=on_samples)
    assert (report.ending, report.text) == ("died", "iperf3 was ended by signal 15")
    assert code(report) == "measurement_failed"


# --- what is missing --------------------------------------------------------------------------------------------------------


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIBRARIES", ("libiperf-nowhere.so.0",))
    report = runner.version()
    assert (report.ending, code(report)) == ("missing", "iperf3_missing")
    assert "libiperf-nowhere.so.0" in report.text
    assert go(1).ending == "missing"


def test_another_library_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIBRARIES", ("libc.so.6",))
    report = runner.version()
    assert (report.ending, code(report)) == ("missing", "iperf3_missing")


def test_the_next_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIBRARIES", ("libiperf-nowhere.so.0", "libiperf.so.0"))
    assert runner.version().version == iperf.installed_version()


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    report = go(1)
    assert (report.ending, code(report)) == ("died", "measurement_failed")


def test_a_child_that_falls_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    program.write_text("print('not json'); print('{\"event\": \"sample\"}'); raise SystemExit(3)")
    monkeypatch.setattr(child, "__file__", str(program))
    report = go(1)
    assert (report.ending, report.text) == ("died", "iperf3 ended with status 3")


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    program.write_text("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    monkeypatch.setattr(child, "__file__", str(program))
    monkeypatch.setattr(runner, "LINE_MAX_BYTES", 100_000)
    monkeypatch.setattr(runner, "REAP_S", 0.3)
    assert go(1).ending == "died"


# --- nothing is left ----------------------------------------------------------------------------------------------------------


def _from(at: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > at


def test_ten_runs_leave_nothing_open() -> None:
    with iperf.server() as server, iperf.refusing() as refused:
        go(server.port)
        before = (iperf.children(), iperf.open_descriptors(), threading.active_count())
        for number in range(10):
            if number % 3:
                go(refused)
            else:
                spec = SpeedtestSpec(target=iperf.LOOPBACK, port=server.port)
                ends = time.monotonic() + 0.4
                runner.run(runner.Plan(spec, "upload", iperf.LOOPBACK), cancelled=_from(ends))
        assert (iperf.children(), iperf.open_descriptors(), threading.active_count()) == before


def test_the_library_stays_out_of_this_process() -> None:
    program = "import probe.kinds.speedtest as s; s.availability(); print('iperf' in open('/proc/self/maps').read())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        check=True,
    )
    assert done.stdout == "False\n"


def test_the_child_imports_nothing_of_ours() -> None:
    source = Path(child.__file__).read_text()
    program = (
        f"import sys; sys.argv = ['child']; exec(compile({source!r}, 'child', 'exec'), {{'__name__': 'child'}})\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'probe', 'schemas', 'pydantic', 'logging'}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- what reaches the argument list ---------------------------------------------------------------------------------------------

HOSTILE = [
    "; id",
    "-f",
    "--logfile",
    "/etc/x",
    "a\nb",
    "a\x00b",
    "x" * 10_000,
    "\u0661\u0662",
    "-1",
    "NaN",
    "$(id)",
    "-F/etc/passwd",
]
hostile = st.sampled_from(HOSTILE) | st.text(max_size=20) | st.integers() | st.floats() | st.booleans() | st.none()
NUMBER = re.compile(r"[0-9]{1,12}")
FLAGS = {"-c", "-J", "-p", "-t", "-P", "-R", "-u", "-O", "-S", "-b", "-w", "-M", "-C", "-4", "-6"}
BARE = {"-J", "-R", "-u", "-4", "-6"}


@given(st.dictionaries(st.sampled_from([name for name in SpeedtestSpec.model_fields if name != "target"]), hostile))
def test_no_free_text_reaches_the_arguments(fields: dict[str, Any]) -> None:
    try:
        spec = SpeedtestSpec.model_validate({"target": "lab.example", **fields})
    except ValidationError:
        return
    words = runner.Plan(spec, "download", "192.0.2.9").request(runner.DEADLINES)["arguments"]
    rest = iter(words)
    for flag in rest:
        assert flag in FLAGS
        if flag in BARE:
            continue
        value = next(rest)
        if flag == "-c":
            assert value == "192.0.2.9"
        elif flag == "-C":
            assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,14}", value)
        else:
            assert NUMBER.fullmatch(value)


@pytest.mark.parametrize("address", ["lab.example", "127.1", "-f", "127.0.0.1 -R", "", "192.0.2.9\n"])
def test_only_literal_addresses_reach_the_arguments(address: str) -> None:
    plan = runner.Plan(SpeedtestSpec(target="lab.example"), "download", address)
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        runner.run(plan, cancelled=lambda: False)


@pytest.mark.parametrize("name", ["--logfile", "-f", "_x", "a b", "Cubic"])
def test_a_congestion_control_named_like_an_option_is_none(name: str) -> None:
    with pytest.raises(ValidationError, match="congestion"):
        SpeedtestSpec(target="lab.example", congestion=name)
