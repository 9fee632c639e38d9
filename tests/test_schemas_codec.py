"""Whatever bytes arrive, the only error is a Failure with a code; whatever leaves is bounded and finite."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, limits
from schemas.command import CancelCommand, RunCommand
from schemas.errors import Failure
from schemas.request import ArchivePage
from schemas.result import Result
from tests.kit.results import make_result, result_fields

GARBAGE: list[tuple[bytes, str]] = [
    (b"", "bad_json"),
    (b"hello", "bad_json"),
    (b"\xff\xfe", "bad_json"),
    (b"[1]", "bad_json"),
    (b"null", "bad_json"),
    (b'"text"', "bad_json"),
    (b'{"a": NaN}', "bad_json"),
    (b'{"a": -Infinity}', "bad_json"),
    (b'{"a": [{"b": 1e999}]}', "bad_json"),
    (b"[" * 30_000, "bad_json"),
    (b'{"a":' * 5_000, "bad_json"),
    (b"[" * 100_000, "too_large"),
    (b'{"a": "' + b"x" * limits.MESSAGE_MAX_BYTES + b'"}', "too_large"),
]


@pytest.mark.parametrize(("payload", "code"), GARBAGE, ids=lambda value: str(value)[:24])
def test_garbage_is_one_typed_failure(payload: bytes, code: str) -> None:
    with pytest.raises(Failure) as caught:
        codec.decode(payload)
    assert caught.value.code == code
    assert "?" not in caught.value.info.message


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(payload: bytes) -> None:
    with pytest.raises(Failure) as caught:
        codec.command(codec.decode(payload))
    assert caught.value.code in {"bad_json", "bad_message", "unsupported_version"}


def test_the_smallest_useful_command_is_whole() -> None:
    command = codec.command(codec.decode(b'{"ping": {"target": "192.0.2.7"}}'))
    assert isinstance(command, RunCommand)
    assert command.id is None
    assert command.origin == "mqtt"
    assert command.ping is not None
    assert (command.ping.count, command.ping.timeout_s, command.ping.interval_ms) == (100, 3.0, 20)


def test_a_cancel_is_known_by_its_kind() -> None:
    command = codec.command({"kind": "cancel", "id": "0197-abcdef"})
    assert isinstance(command, CancelCommand)


# field, what a person or a program may send, the sentence that answers it
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "the test asks for nothing"),
    ("kind", {"kind": "stop"}, "run or cancel"),
    ("foo", {"ping": {"target": "a.example"}, "foo": 1}, "there is no such field"),
    ("ping.target", {"ping": {}}, "this field is needed"),
    ("ping.target", {"ping": {"target": ""}}, "a target is needed"),
    ("ping.target", {"ping": {"target": "a b"}}, "neither an IP address nor a host name"),
    ("ping.target", {"ping": {"target": "-x.example"}}, "neither an IP address nor a host name"),
    ("ping.target", {"ping": {"target": "; reboot"}}, "neither an IP address nor a host name"),
    ("ping.target", {"ping": {"target": "999.1.1.1"}}, "looks like an IPv4 address but is not one"),
    ("ping.target", {"ping": {"target": "127.1"}}, "looks like an IPv4 address but is not one"),
    ("ping.target", {"ping": {"target": "0x7f000001"}}, "looks like an IPv4 address but is not one"),
    ("ping.target", {"ping": {"target": "2130706433"}}, "looks like an IPv4 address but is not one"),
    ("ping.target", {"ping": {"target": "\uff11.1.1.1"}}, "plain ASCII"),
    ("ping.target", {"ping": {"target": "a" * 300}}, "neither an IP address nor a host name"),
    ("ping.count", {"ping": {"target": "a.example", "count": 301}}, "a whole number from 1 to 300"),
    ("ping.count", {"ping": {"target": "a.example", "count": 0}}, "a whole number from 1 to 300"),
    ("ping.count", {"ping": {"target": "a.example", "count": "10"}}, "a whole number from 1 to 300"),
    ("ping.count", {"ping": {"target": "a.example", "count": 10.5}}, "a whole number from 1 to 300"),
    ("ping.count", {"ping": {"target": "a.example", "count": True}}, "a whole number from 1 to 300"),
    ("ping.timeout_s", {"ping": {"target": "a.example", "timeout_s": -1}}, "a number from 0.1 to 10.0 s"),
    ("ping.interval_ms", {"ping": {"target": "a.example", "interval_ms": 1}}, "a whole number from 10 to"),
    ("ping.size", {"ping": {"target": "a.example", "size": 65_000}}, "a whole number from 16 to"),
    ("ping.family", {"ping": {"target": "a.example", "family": 5}}, "4, 6 or nothing"),
    ("ping.source", {"ping": {"target": "a.example", "source": "--x y"}}, "an address or the name of an interface"),
    ("ping.dscp", {"ping": {"target": "a.example", "dscp": 64}}, "a whole number from 0 to 63"),
    ("speedtest.port", {"speedtest": {"target": "a.example", "port": 0}}, "a whole number from 1 to 65535"),
    ("speedtest.direction", {"speedtest": {"target": "a.example", "direction": "up"}}, "both, download or upload"),
    ("speedtest.duration_s", {"speedtest": {"target": "a.example", "duration_s": 61}}, "a whole number from 1 to 60 s"),
    ("speedtest.streams", {"speedtest": {"target": "a.example", "streams": 17}}, "a whole number from 1 to 16"),
    ("speedtest.protocol", {"speedtest": {"target": "a.example", "protocol": "sctp"}}, "tcp or udp"),
    ("speedtest.bitrate", {"speedtest": {"target": "a.example", "bitrate": 1}}, "a whole number from 1"),
    (
        "speedtest.congestion",
        {"speedtest": {"target": "a.example", "congestion": "a b"}},
        "the name of a TCP congestion",
    ),
    ("speedtest", {"speedtest": {"target": "a.example", "protocol": "udp", "mss": 900}}, "does not go with UDP"),
    ("", {"ping": {"target": "a.example"}, "loaded_latency": True}, "needs a speedtest"),
    ("comment", {"ping": {"target": "a.example"}, "comment": "x" * 501}, "at most 500 characters"),
    ("comment", {"ping": {"target": "a.example"}, "comment": "a\x00b"}, "control characters are not allowed"),
    ("id", {"ping": {"target": "a.example"}, "id": "short"}, "8 to 64 letters"),
    ("ttl_s", {"ping": {"target": "a.example"}, "ttl_s": 0}, "a whole number from 1"),
    ("issued_at", {"ping": {"target": "a.example"}, "issued_at": "2026-11-23T20:15:04"}, "needs its zone"),
    ("origin", {"ping": {"target": "a.example"}, "origin": "Not A Word"}, "a short word in small letters"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), REFUSED, ids=lambda value: str(value)[:60])
def test_every_field_of_a_command_has_its_own_sentence(field: str, value: dict[str, Any], sentence: str) -> None:
    with pytest.raises(codec.Invalid) as caught:
        codec.command(value)
    assert sentence in caught.value.fields[field]
    assert caught.value.field == (field or None)
    assert caught.value.code == "bad_message"
    assert not any(word in caught.value.fields[field].lower() for word in ("valid", "pydantic", "input"))


def test_all_faults_of_a_message_are_named_at_once() -> None:
    with pytest.raises(codec.Invalid) as caught:
        codec.command({"ping": {"target": "a b", "count": 0}, "comment": "\x07"})
    assert set(caught.value.fields) == {"ping.target", "ping.count", "comment"}


@pytest.mark.parametrize("version", [0, 2, 999, "1", None, True, 1.5])
def test_another_version_is_named(version: object) -> None:
    with pytest.raises(Failure) as caught:
        codec.command({"v": version, "ping": {"target": "a.example"}})
    assert caught.value.code == "unsupported_version"


@pytest.mark.parametrize(
    "host", ["192.0.2.7", "2001:db8::1", "lab.example", "lab.example.", "nas", "my_host-1.lan", "a1"]
)
def test_addresses_and_names_are_taken_as_they_are(host: str) -> None:
    command = codec.command({"ping": {"target": host}})
    assert isinstance(command, RunCommand)
    assert command.ping is not None
    assert command.ping.target == host


@pytest.mark.parametrize("comment", ["a/b-c;#", "\N{LATIN SMALL LETTER E WITH CIRCUMFLEX}", "two\nlines", "\N{ROCKET}"])
def test_comments_may_hold_what_supervision_refused(comment: str) -> None:
    command = codec.command({"ping": {"target": "a.example"}, "comment": comment})
    assert isinstance(command, RunCommand)
    assert command.comment == comment


def test_a_result_keeps_fields_it_does_not_know() -> None:
    result = make_result(colour="blue")
    assert json.loads(codec.encode(result))["colour"] == "blue"


def test_every_key_of_a_result_is_always_there() -> None:
    bare = codec.validate(
        Result,
        {
            "id": "0197-abcdef",
            "version": 1,
            "probe_name": "paris",
            "status": "error",
            "measured_at": "2026-11-23T20:15:04Z",
            "duration_s": 0.1,
        },
    )
    sent = json.loads(codec.encode(bare))
    assert set(sent) == set(Result.model_fields)
    assert sent["ping"] is None
    assert sent["mos"] is None
    assert sent["measured_at"] == "2026-11-23T20:15:04.000Z"


def test_a_result_survives_the_round_trip() -> None:
    result = make_result()
    assert codec.parse(Result, codec.encode(result)) == result
    assert json.loads(codec.encode(result))["speedtest"]["download"]["json"]["start"]["version"] == "iperf 3.12"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_never_leaves_even_in_a_document_that_is_passed_through(value: float) -> None:
    result = make_result().model_copy(update={"granted": {"x": value}})
    assert json.loads(codec.encode(result))["granted"] == {"x": None}


def test_a_figure_that_cannot_be_is_refused() -> None:
    with pytest.raises(codec.Invalid) as caught:
        codec.validate(Result, result_fields(jitter=-1.0))
    assert caught.value.field == "jitter"


def test_a_message_too_large_does_not_leave() -> None:
    result = make_result().model_copy(update={"comment": "x" * limits.MESSAGE_MAX_BYTES})
    with pytest.raises(Failure) as caught:
        codec.encode(result)
    assert caught.value.code == "too_large"


def test_udp_is_measured_with_a_rate_that_is_said() -> None:
    udp = codec.command({"speedtest": {"target": "a.example", "protocol": "udp"}})
    tcp = codec.command({"speedtest": {"target": "a.example"}})
    assert isinstance(udp, RunCommand)
    assert isinstance(tcp, RunCommand)
    assert udp.speedtest is not None
    assert tcp.speedtest is not None
    assert (udp.speedtest.bitrate, tcp.speedtest.bitrate) == (limits.SPEEDTEST_UDP_BITRATE_DEFAULT_BPS, None)


def test_a_state_that_is_none_has_its_sentence() -> None:
    with pytest.raises(codec.Invalid) as caught:
        codec.validate(ArchivePage, {"id": "request-1", "state": "bogus"})
    assert caught.value.fields["state"].startswith("one of waiting, queued")
