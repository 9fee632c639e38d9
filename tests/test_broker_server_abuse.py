"""Clients that break the protocol: each is closed and counted, nobody else notices, nothing is left behind."""

import contextlib
import random
import struct
from pathlib import Path

import pytest

from broker.server import Limits
from tests.kit.brokers import start_embedded
from tests.kit.embedded import eventually, open_files, resident_kib, serving
from tests.kit.rawmqtt import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    RawMqtt,
    Will,
    connect_packet,
    packet,
    publish_packet,
    text,
)

HEADER = text("MQTT") + b"\x04"
FIRST: dict[str, bytes] = {
    "zeros": b"\0\0",
    "http": b"GET / HTTP/1.1\r\nHost: example\r\nUser-Agent: a browser that took a wrong turn\r\nAccept: */*\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "publish first": publish_packet("a", b"x"),
    "ping first": packet(PINGREQ),
    "type 15": packet(15),
    "header flags": packet(CONNECT, connect_packet("a")[2:], flags=2),
    "empty": packet(CONNECT),
    "other protocol": connect_packet("a", name="MQXX"),
    "reserved flag": connect_packet("a", flags=0x03),
    "will qos 3": packet(CONNECT, HEADER + b"\x1e\0\0" + text("a") + text("w") + text("m")),
    "will promised": connect_packet("a", flags=0x06),
    "will flags without will": connect_packet("a", flags=0x2A),
    "will on a wildcard": connect_packet("a", will=Will("a/#", b"m")),
    "will on nothing": connect_packet("a", will=Will("", b"m")),
    "user promised": connect_packet("a", flags=0x82),
    "password without user": packet(CONNECT, HEADER + b"\x42\0\0" + text("a") + text("secret")),
    "password cut short": packet(CONNECT, HEADER + b"\xc2\0\0" + text("a") + text("user") + b"\0\x09secret"),
    "client id cut short": packet(CONNECT, HEADER + b"\x02\0\0" + b"\0\x09abc"),
    "bytes left over": packet(CONNECT, connect_packet("a")[2:] + b"x"),
    "client id not utf-8": connect_packet(b"\xff\xfe"),
    "client id with a surrogate": connect_packet(b"\xed\xa0\x80"),
    "client id with nul": connect_packet("a\0b"),
    "length of five bytes": b"\x10\xff\xff\xff\xff\x01",
}
LATER: dict[str, bytes] = {
    "connect again": connect_packet("a"),
    "a server's packet": packet(CONNACK, b"\0\0"),
    "another server's packet": packet(SUBACK, b"\0\1\0"),
    "type 0": packet(0),
    "type 15": packet(15),
    "publish qos 3": packet(PUBLISH, text("a") + b"\0\1x", flags=6),
    "publish qos 0 duplicate": packet(PUBLISH, text("a") + b"x", flags=8),
    "publish without topic": publish_packet("", b"x"),
    "publish to a wildcard": publish_packet("a/+/b", b"x"),
    "publish to everything": publish_packet("#", b"x", 1),
    "publish topic with nul": publish_packet("a\0b", b"x"),
    "publish topic not utf-8": publish_packet(b"a\xff", b"x"),
    "publish topic cut short": packet(PUBLISH, b"\0\x09abc"),
    "publish packet id 0": publish_packet("a", b"x", 1, packet_id=0),
    "publish without packet id": packet(PUBLISH, text("a"), flags=2),
    "subscribe flags": packet(SUBSCRIBE, b"\0\1" + text("a") + b"\0"),
    "subscribe to nothing": packet(SUBSCRIBE, b"\0\1", flags=2),
    "subscribe qos 3": packet(SUBSCRIBE, b"\0\1" + text("a") + b"\3", flags=2),
    "subscribe packet id 0": packet(SUBSCRIBE, b"\0\0" + text("a") + b"\0", flags=2),
    "subscribe cut short": packet(SUBSCRIBE, b"\0\1" + text("a"), flags=2),
    "subscribe not utf-8": packet(SUBSCRIBE, b"\0\1" + text(b"\xc3\x28") + b"\0", flags=2),
    "unsubscribe flags": packet(UNSUBSCRIBE, b"\0\1" + text("a")),
    "unsubscribe from nothing": packet(UNSUBSCRIBE, b"\0\1", flags=2),
    "puback too long": packet(PUBACK, b"\0\1\0"),
    "puback too short": packet(PUBACK, b"\0"),
    "puback id 0": packet(PUBACK, b"\0\0"),
    "pubrel flags": packet(PUBREL, b"\0\1"),
    "ping with a body": packet(PINGREQ, b"x"),
    "disconnect with a body": packet(DISCONNECT, b"x"),
    "disconnect flags": packet(DISCONNECT, flags=1),
    "length of five bytes": b"\x30\x80\x80\x80\x80\x01",
}


def test_a_malformed_first_packet_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog) as served:
        assert served.works()
        files = open_files()
        for number, (name, data) in enumerate(FIRST.items(), start=1):
            with RawMqtt(served.broker.port) as client:
                client.send(data)
                assert client.closed(), name
            assert eventually(lambda: served.counters.connections == 0), name
            assert served.counters.malformed == number, name
        assert served.works()
        assert eventually(lambda: open_files() <= files)
        assert served.counters.accepted == 2


def test_a_malformed_later_packet_ends_the_connection_and_sends_the_will(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog) as served:
        watcher = served.client()
        watcher.subscribe(("will", 1))
        for number, (name, data) in enumerate(LATER.items(), start=1):
            with RawMqtt(served.broker.port) as client:
                client.connect("bad", will=Will("will", name.encode(), 1))
                client.send(data)
                assert client.closed(), name
            assert watcher.messages(1)[0].payload == name.encode()
            assert served.counters.malformed == number, name
        assert served.works()
        assert eventually(lambda: served.counters.sessions == 1)


@pytest.mark.parametrize(
    "hello",
    [
        connect_packet("a", level=5),
        packet(CONNECT, text("MQTT") + b"\x05\x02\0\0\x05\x11\0\0\0\x0a" + text("a")),
        connect_packet("a", name="MQIsdp", level=3),
    ],
    ids=["level 5", "level 5 with properties", "3.1"],
)
def test_another_version_is_told_so(caplog: pytest.LogCaptureFixture, hello: bytes) -> None:
    with serving(caplog) as served:
        client = served.dial()
        client.send(hello)
        assert client.expect(CONNACK).body == b"\0\1"
        assert client.closed()
        assert eventually(lambda: served.counters.refused == 1)


def test_a_password_may_be_any_bytes(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog) as served:
        assert served.dial().connect("a", login=("user", b"\xff\x00\xfe")) == (False, 0)


def test_a_topic_with_a_dollar_is_acknowledged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog) as served:
        client = served.client()
        client.subscribe(("$x/#", 1), ("$SYS/#", 1), ("#", 1))
        client.publish("$x/y", b"no", 1)
        client.publish("$SYS/broker", b"no", 2, retain=True)
        assert served.none_but(client)
        assert served.counters.denied == 2
        assert served.counters.retained == 0


@pytest.mark.parametrize("topic_filter", ["", "a#", "a/#/b", "+a", "a/b+", "#/a", "$share/group/a", "a\0"])
def test_a_filter_that_means_nothing_is_refused(caplog: pytest.LogCaptureFixture, topic_filter: str) -> None:
    with serving(caplog) as served:
        client = served.client()
        assert client.subscribe((topic_filter, 1), ("good/+/#", 1)) == [0x80, 1]
        assert served.counters.refused_subscriptions == 1
        assert served.counters.subscriptions == 1


def test_an_oversized_packet_is_refused_by_its_header(tmp_path: Path) -> None:
    with start_embedded(tmp_path) as broker:
        with RawMqtt(broker.port) as client:
            client.connect()
        before = resident_kib(broker.pid)
        huge = b"\x80\x80\x80\x64"  # 200 MiB
        for kind in (CONNECT, PUBLISH, SUBSCRIBE, 0):
            with RawMqtt(broker.port) as client:
                if kind != CONNECT:
                    client.connect()
                client.send(bytes([kind << 4]) + huge)
                with contextlib.suppress(ConnectionError):
                    for _ in range(8):
                        client.send(bytes(1 << 20))
                assert client.closed(1)
        with RawMqtt(broker.port) as client:  # whole and below the limit for packets, but no list of filters is so long
            client.connect()
            client.send(packet(SUBSCRIBE, b"\0\1" + (text("a") + b"\0") * 10_000, flags=2))
            assert client.closed(1)
        with RawMqtt(broker.port) as client:
            client.connect()
            client.ping()
        assert resident_kib(broker.pid) - before < 4 * 1024


def test_the_largest_message_of_the_contract_passes(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog) as served:
        client = served.client()
        client.subscribe(("a", 1))
        client.publish("a", bytes(256 * 1024), 1)
        assert len(client.messages(1)[0].payload) == 256 * 1024
        client.send(publish_packet("a", bytes(Limits().max_packet_bytes)))
        assert client.closed()
        assert served.counters.too_big == 1


def test_silent_and_slow_connections_are_closed_in_time(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog, limits=Limits(connect_timeout_s=0.3)) as served:
        silent = [served.dial() for _ in range(50)]
        trickling = served.dial()
        trickling.send(connect_packet("slow")[:9])
        assert served.works(), "others are served meanwhile"
        assert all(client.closed(2) for client in (*silent, trickling))
        assert eventually(lambda: served.counters.connections == 0)
        assert served.counters.connect_timeout == 51


def test_mutated_packets_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    seed = random.randrange(2**32)  # noqa: S311 - no secret
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)  # noqa: S311 - no secret
    whole = [
        connect_packet("fuzz", keep_alive=5, will=Will("w", b"m"), login=("u", "p")),
        packet(SUBSCRIBE, b"\0\1" + text("a/+") + b"\1", flags=2),
        publish_packet("a/b", b"payload", 1, 5, retain=True),
        publish_packet("a/b", b"payload", 2, 6),
        packet(PUBREL, b"\0\6", flags=2),
        packet(UNSUBSCRIBE, b"\0\2" + text("a/+"), flags=2),
        packet(PINGREQ),
    ]
    with serving(caplog, limits=Limits(connect_timeout_s=0.5)) as served:
        for _ in range(300):
            data = bytearray(b"".join(whole[: 1 + chance.randrange(len(whole))]))
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with contextlib.suppress(OSError), RawMqtt(served.broker.port) as client:
                client.send(bytes(data[: chance.randrange(len(data)) + 1]))
        assert served.works()
        assert eventually(lambda: served.counters.connections == 0)


def test_a_dropped_connection_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(caplog) as served:
        client = served.client("noisy\nforged line")
        caplog.clear()
        client.send(struct.pack("!BB", PUBLISH << 4 | 6, 0))
        assert client.closed()
        assert eventually(lambda: served.counters.connections == 0)
        lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "dropped 'noisy\\nforged line' (127.0.0.1): malformed: PUBLISH: contradictory flags"
    assert not [line for line in lines[1:] if "dropped" in line]
