"""Whole, valid results for tests: what a probe would send."""

import json
from typing import Any

from schemas import codec
from schemas.result import Result


def result_fields(**changes: Any) -> dict[str, Any]:
    """The JSON fields of a finished ping and speedtest, with `changes`."""
    fields: dict[str, Any] = {
        "v": 1,
        "type": "result",
        "id": "01997b3e-0000-7000-8000-000000000001",
        "number": 814,
        "version": 42,
        "probe_name": "paris",
        "origin": "web",
        "status": "done",
        "measured_at": "2026-11-23T20:15:04.123Z",
        "duration_s": 31.9,
        "packet_number": 4,
        "packet_timeout": 3.0,
        "target": {"host": "lab.example", "address": "192.0.2.7"},
        "ping": {"min": 20.9, "avg": 23.67, "max": 31.2, "p50": 23.1, "samples": [21.0, None, 22.4, 31.2]},
        "jitter": 1.794,
        "packet_loss": {"packet_number": 1, "packet_percent": 25.0, "low": 4.6, "high": 69.9},
        "mos": 4.3,
        "speedtest": {
            "target": {"host": "192.0.2.9", "address": "192.0.2.9", "port": 5201},
            "download": {
                "status": "success",
                "result": {"min": 30e6, "avg": 40e6, "max": 50e6},
                "bytes": 50_000_000,
                "retransmits": 3,
                "json": {"start": {"version": "iperf 3.12"}, "end": {}},
            },
            "upload": {"status": "error", "message": "The iperf3 server was busy."},
        },
        "speedtest_option": {"target": "192.0.2.9", "duration_s": 2, "bitrate": 100_000_000},
        "comment": "first \N{GREEK SMALL LETTER OMEGA} test",
    }
    return fields | changes


def make_result(**changes: Any) -> Result:
    """A `Result` as it arrives from the wire."""
    return codec.parse(Result, json.dumps(result_fields(**changes)).encode())
