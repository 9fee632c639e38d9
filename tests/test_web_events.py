"""The event streams: what a page gets first, what it missed, how many there may be, and how they end."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.errors import Failure
from tests.kit.brokers import BrokerProcess, start_mosquitto
from tests.kit.controllers import scripted_probe, start_controller
from tests.kit.pages import EventStream, Running, serve, site, web_settings
from tests.kit.wait import until
from web.events import RING, STREAM_MAX_BYTES, Hub
from web.server import listen


def take(hub: Hub, since: str = "", count: int = 1) -> list[str]:
    """The first `count` events of a stream, as "kind data"."""
    found: list[str] = []
    stream = hub.open(since)
    try:
        for chunk in stream:
            for line in chunk.decode().split("\n"):
                if line.startswith("event: "):
                    found.append(line[7:])
                if line.startswith("data: "):
                    found[-1] += " " + line[6:]
            if len(found) >= count:
                return found
    finally:
        stream.close()
    return found


# --- the ring ---------------------------------------------------------------------------------------------------------
def test_a_new_page_gets_a_snapshot_first() -> None:
    hub = Hub(lambda: {"probes": []})
    hub.publish("probe", {"name": "paris"})
    assert take(hub) == ['snapshot {"probes":[]}']


def test_a_page_gets_what_it_missed_and_nothing_else() -> None:
    hub = Hub(dict)
    hub.publish("probe", {"n": 1})
    here = hub.last_id
    hub.publish("probe", {"n": 2})
    hub.publish("result", {"n": 3})
    assert take(hub, here, 2) == ['probe {"n":2}', 'result {"n":3}']


@pytest.mark.parametrize("since", ["x", "-", "999", "0123456789ab-1", "-5", "\u0661"])
def test_an_id_that_is_not_ours_gets_a_snapshot(since: str) -> None:
    assert take(Hub(dict), since) == ["snapshot {}"]


def test_an_id_of_the_future_gets_a_snapshot() -> None:
    hub = Hub(dict)
    assert take(hub, hub.last_id.replace("-0", "-7")) == ["snapshot {}"]


def test_whoever_fell_out_of_the_ring_gets_a_snapshot() -> None:
    hub = Hub(dict)
    here = hub.last_id
    for n in range(RING):
        hub.publish("probe", {"n": n})
    assert take(hub, here)[0] == 'probe {"n":0}'
    hub.publish("probe", {"n": "one more"})
    assert take(hub, here) == ["snapshot {}"]


def test_the_number_of_streams_is_bounded_and_slots_come_back() -> None:
    hub = Hub(dict, streams_max=2)
    streams = [hub.open(), hub.open()]
    with pytest.raises(Failure) as caught:
        hub.open()
    assert caught.value.code == "too_many_streams"
    streams[0].close()
    streams[0].close()
    assert hub.streams == 1
    hub.open().close()


def test_an_idle_stream_says_something_and_ends_when_told() -> None:
    hub = Hub(dict, comment_every_s=0.0)
    chunks = iter(hub.open(hub.last_id))
    assert [next(chunks), next(chunks)] == [b": hello\n\n", b": still here\n\n"]
    threading.Timer(0.1, hub.close).start()
    began = time.monotonic()
    list(chunks)
    assert time.monotonic() - began < 2
    with pytest.raises(Failure):
        hub.open()


def test_a_stream_whose_page_is_gone_ends() -> None:
    hub = Hub(dict)
    gone = threading.Event()
    chunks = iter(hub.open(hub.last_id, gone.is_set))
    next(chunks)
    gone.set()
    assert list(chunks) == []


def test_a_stream_ends_before_an_unread_one_could_block() -> None:
    hub = Hub(lambda: {"x": "y" * 1_000_000})
    sizes = [len(chunk) for _ in range(3) for chunk in _some(hub)]
    assert sum(sizes) > 3_000_000
    hub = Hub(dict)
    stream = iter(hub.open(hub.last_id))
    sent = 0
    for chunk in stream:
        sent += len(chunk)
        hub.publish("probe", {"x": "y" * 100_000})
    assert STREAM_MAX_BYTES < sent < STREAM_MAX_BYTES + 200_000


def _some(hub: Hub) -> Iterator[bytes]:
    stream = hub.open()
    for chunk in stream:
        yield chunk
        if len(chunk) > 1_000:
            break
    stream.close()


# --- over the wire ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with start_mosquitto(tmp_path_factory.mktemp("events"), extra_conf="set_tcp_nodelay true") as found:
        yield found


@pytest.fixture(scope="module")
def page(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serve(broker.url, tmp_path_factory.mktemp("web"), threads=16) as running:
        yield running


def get(url: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def streams(url: str) -> int:
    return int(json.loads(get(url, "/healthz")[2])["streams"])


def test_a_message_on_the_bus_is_on_the_page_at_once(broker: BrokerProcess, page: Running) -> None:
    with scripted_probe(broker.url, "oslo") as probe:
        stream = EventStream(page.url)
        kind, snapshot, first = stream.next()
        assert kind == "snapshot"
        assert set(snapshot) == {"away", "archive", "probes"}
        began = time.monotonic()
        probe.progress("test-0001", "running", part="ping", done=43, total=100, percent=43, figures={"rtt_ms": 21.4})
        found = stream.until("progress")
        assert time.monotonic() - began < 0.5
        assert (found["id"], found["probe"], found["percent"]) == ("test-0001", "oslo", 43)
        assert found["text"]["step"] == "Ping 43 of 100"
        assert found["text"]["rtt"] == "21.4\u00a0ms"
        probe.result("test-0001")
        assert stream.until("result")["status"] == "done"
        assert stream.until("probe") == {"name": "oslo", "state": "free", "label": "oslo"}
        stream.close()
        again = EventStream(page.url, since=first)
        assert "snapshot" not in {again.next()[0] for _ in range(3)}, "what was missed, not everything"
        again.close()


def test_a_restarted_broker_is_told_on_the_open_page(tmp_path: Path) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data"),
        serve(broker.url, tmp_path) as page,
    ):
        stream = EventStream(page.url)
        stream.next()
        until(lambda: b'"ok"' in get(page.url, "/healthz")[2], what="the page reaches all")
        began = time.monotonic()
        broker.kill()
        while stream.until("fabric")["away"] != "broker":
            pass
        assert time.monotonic() - began < 3
        broker.start()
        while stream.until("fabric", 20)["away"] is not None:
            pass
        stream.close()


def test_beyond_the_cap_there_is_503_and_pages_still_come(page: Running) -> None:
    until(lambda: streams(page.url) == 0)
    open_streams = [EventStream(page.url) for _ in range(8)]
    assert [stream.begin() for stream in open_streams] == [200] * 8
    try:
        status, headers, body = get(page.url, "/events")
        assert status == 503
        assert headers["Retry-After"] == "5"
        assert b"too_many_streams" in body
        began = time.monotonic()
        assert get(page.url, "/", Accept="text/html")[0] == 200
        assert time.monotonic() - began < 1.5, "pages have threads of their own"
    finally:
        for stream in open_streams:
            stream.close()
    until(lambda: streams(page.url) == 0, 5, "the slots of closed pages come back")


def test_a_page_that_reads_nothing_holds_up_nobody(broker: BrokerProcess, page: Running) -> None:
    until(lambda: streams(page.url) == 0)
    frozen = EventStream(page.url, receive_buffer=4096)
    with scripted_probe(broker.url, "rio") as probe:
        reader = EventStream(page.url)
        reader.next()
        for seq in range(600):
            figures = {"samples": [float(seq)] * 300}
            probe.progress("test-rio-1", "running", percent=seq / 6, figures=figures)
        while reader.until("progress")["percent"] < 99:
            pass
        began = time.monotonic()
        probe.progress("test-rio-1", "running", percent=100)
        while reader.until("progress")["percent"] < 100:
            pass
        assert time.monotonic() - began < 1
        reader.close()
    frozen.close()
    until(lambda: streams(page.url) == 0, 5)


# --- the role ---------------------------------------------------------------------------------------------------------
def test_it_stops_at_once_with_open_streams(broker: BrokerProcess, tmp_path: Path) -> None:
    running = Running(web_settings(broker.url, tmp_path))
    running.start()
    opened = [EventStream(running.url) for _ in range(6)]
    for stream in opened:
        stream.next()
    assert running.end() < 2
    assert running.failed is None
    for stream in opened:
        stream.close()


def test_it_stops_at_once_without_a_broker(tmp_path: Path) -> None:
    running = Running(web_settings("mqtt://127.0.0.1:9", tmp_path))
    running.start()
    assert get(running.url, "/", Accept="text/html")[0] == 200
    assert running.end() < 2


def test_a_port_in_use_is_named(broker: BrokerProcess, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Failure) as caught:
            Running(web_settings(broker.url, tmp_path, port=other.getsockname()[1])).start()
    assert caught.value.code == "port_in_use"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", "127.1"])
def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(Failure) as caught:
        listen(host, 0)
    assert caught.value.code == "listen_refused"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9", "::1"])
def test_every_loopback_address_will_do(broker: BrokerProcess, tmp_path: Path, host: str) -> None:
    try:
        listen(host, 0).close()
    except Failure:
        pytest.skip(f"{host} is not there")
    with serve(broker.url, tmp_path, host=host) as running:
        assert get(running.url, "/healthz")[0] == 200


def test_a_slow_or_huge_request_does_not_hold_up_a_page(page: Running) -> None:
    parts = urlsplit(page.url)
    slow = [socket.create_connection((parts.hostname or "", parts.port or 0)) for _ in range(40)]
    for connection in slow:
        connection.sendall(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nprobe=")
    began = time.monotonic()
    assert get(page.url, "/healthz")[0] == 200
    assert time.monotonic() - began < 1
    for connection in slow:
        connection.close()
    huge = socket.create_connection((parts.hostname or "", parts.port or 0))
    huge.sendall(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000000\r\n\r\n")
    huge.settimeout(5)
    assert b" 413 " in huge.recv(100)
    huge.close()
    wide = socket.create_connection((parts.hostname or "", parts.port or 0))
    wide.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 600_000)
    wide.settimeout(5)
    try:
        answer = wide.recv(100)
    except ConnectionError:
        answer = b""
    assert answer == b"" or b" 431 " in answer
    wide.close()


def test_the_page_serves_in_its_test_client_too(broker: BrokerProcess) -> None:
    with site(broker.url) as alone:
        with alone.client.get("/events") as response:
            assert response.content_type == "text/event-stream; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-store"
            assert next(iter(response.response)) == b": hello\n\n"
        assert alone.fabric.hub.streams == 0
