"""Echo messages to bytes and back, against packets written down byte by byte."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.icmp import codec

PACKETS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/icmp/packets.json").read_text())["packets"]


def rfc1071(data: bytes) -> int:
    even = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: packet["name"])
def test_packets_as_written_down(packet: dict[str, Any]) -> None:
    echo = codec.parse(packet["family"], bytes.fromhex(packet["hex"]))
    if echo is None:
        assert packet["echo"] is None
        return
    assert {**dataclasses.asdict(echo), "payload": echo.payload.hex()} == packet["echo"]


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=200))
def test_a_request_is_in_network_order_with_its_checksum(ident: int, sequence: int, payload: bytes) -> None:
    message = codec.build(4, ident, sequence, payload)
    kind, code, _, wire_ident, wire_sequence = struct.unpack_from("!BBHHH", message)
    assert (kind, code, wire_ident, wire_sequence, message[8:]) == (8, 0, ident, sequence, payload)
    assert rfc1071(message) == 0xFFFF
    assert codec.parse(4, message) == codec.Echo("request", ident, sequence, payload, intact=True)


def test_a_request_of_icmpv6_has_its_own_number() -> None:
    assert codec.build(6, 1, 2, b"netloom!")[:2] == bytes((128, 0))


@given(st.sampled_from((4, 6)), st.binary(max_size=100))
def test_no_bytes_break_the_parser(family: Literal[4, 6], data: bytes) -> None:
    echo = codec.parse(family, data)
    assert echo is None or echo.kind in {"request", "reply"}
