"""Supervision's JSON view: the same keys and types as the original's, captured from a running one."""

import json
from pathlib import Path
from typing import Any

from schemas import legacy_view
from schemas.command import SpeedtestSpec
from schemas.iperf import arguments, option_text
from tests.kit.results import make_result

CAPTURED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "supervision_json_view.json").read_text("utf-8")
)


def _shape(value: Any) -> Any:
    """Keys and types; int and float are one, for the original itself mixed them."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


def _full() -> dict[str, Any]:
    up = {"status": "success", "result": {"min": 1e6, "avg": 2e6, "max": 3e6}, "json": {"end": {}}}
    speedtest = make_result().model_dump(mode="json")["speedtest"] | {"upload": up}
    return legacy_view(make_result(speedtest=speedtest))


def test_a_full_result_has_the_captured_shape() -> None:
    captured = dict(CAPTURED)
    for direction in ("download", "upload"):  # documented as an object; the original sent it as text
        captured["speedtest"][direction]["json"] = {}
    seen = _full()
    for direction in ("download", "upload"):
        seen["speedtest"][direction]["json"] = {}
    assert _shape(seen) == _shape(captured)


def test_figures_are_as_documented() -> None:
    view = legacy_view(make_result())
    assert view["version"] == 42
    assert view["id"] == 814
    assert view["jitter"] == "1.79"
    assert view["mos"] == "4.30"
    assert view["ping"] == {"min": 20.9, "avg": 23.67, "max": 31.2}
    assert view["packet_loss"] == {"packet_number": 1, "packet_percent": 25.0}
    assert view["speedtest"]["download"]["result"] == {"min": 30e6, "avg": 40e6, "max": 50e6}
    assert view["speedtest"]["upload"] == {"status": "error", "message": "The iperf3 server was busy.", "json": ""}
    assert view["speedtest_option"] == "-t 2 -b 100000000"
    assert view["influxdb"] is False
    assert view["status"] == "done"


def test_absent_parts_are_empty_text() -> None:
    bare: dict[str, Any] = dict.fromkeys(
        ("ping", "jitter", "packet_loss", "mos", "packet_number", "packet_timeout", "speedtest", "speedtest_option")
    )
    view = legacy_view(make_result(**bare))
    assert {view[key] for key in bare} == {""}


def test_a_ping_without_times_is_an_error() -> None:
    reason = {"ping": {"code": "dns_failed", "message": "No such name."}}
    view = legacy_view(make_result(ping=None, jitter=None, packet_loss=None, mos=None, errors=reason, status="error"))
    assert (view["ping"], view["jitter"], view["status"]) == ("error", "", "error")


def test_all_packets_lost_is_measured_but_has_no_times() -> None:
    view = legacy_view(
        make_result(
            ping={"samples": [None, None]},
            jitter=None,
            mos=1.0,
            packet_loss={"packet_number": 2, "packet_percent": 100.0},
            errors={"ping": {"code": "target_silent", "message": "None answered."}},
        )
    )
    assert (view["ping"], view["mos"], view["status"]) == ("error", "1.00", "done")
    assert view["packet_loss"] == {"packet_number": 2, "packet_percent": 100.0}


def test_an_autotest_has_no_archive_id() -> None:
    view = legacy_view(make_result(autotest_id="autotest-1", influxdb=True))
    assert (view["id"], view["influxdb"]) == (0, True)


def test_a_cancelled_test_was_not_performed() -> None:
    assert legacy_view(make_result(status="cancelled"))["status"] == "error"


def test_options_of_a_newer_probe_do_not_break_the_view() -> None:
    assert legacy_view(make_result(speedtest_option={"target": "a.example", "warp": 9}))["speedtest_option"] == ""


def test_arguments_are_those_one_would_type() -> None:
    spec = SpeedtestSpec(target="a.example", streams=4, protocol="udp", bitrate=5_000_000, dscp=46, omit_s=2, family=6)
    tail = ["-u", "-O", "2", "-S", "184", "-b", "5000000", "-6"]
    assert arguments(spec, "upload") == ["-p", "5201", "-t", "10", "-P", "4", *tail]
    assert arguments(spec, "download") == ["-p", "5201", "-t", "10", "-P", "4", "-R", *tail]
    assert option_text(spec) == " ".join(["-P", "4", *tail])
    tcp = SpeedtestSpec(target="a.example", window=65_536, mss=1_400, congestion="bbr")
    assert option_text(tcp) == "-w 65536 -M 1400 -C bbr"
