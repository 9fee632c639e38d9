"""The embedded broker's start and stop, and what it refuses to start with."""

import errno
import importlib.metadata
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from amqtt.broker import Broker

from broker.server import (
    Action,
    BrokerServerError,
    BrokerSettings,
    EmbeddedBroker,
    Limits,
    ListenRefusedError,
    PortInUseError,
    SettingError,
    UnsupportedError,
)
from broker.server.retained_store import RetainedStore
from tests.kit.embedded import eventually, open_files, serving
from tests.kit.rawmqtt import RawMqtt, Will, publish_packet

Log = pytest.LogCaptureFixture


# --- where it may listen --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.0.2.1", "10.0.0.1", "example.com", "::ffff:10.0.0.1", "::1%lo", "[::1]", "127.0.0.1:1"],
)
def test_anything_but_loopback_is_refused(host: str) -> None:
    with pytest.raises(ListenRefusedError) as caught:
        BrokerSettings(host=host)
    assert caught.value.code == "listen_refused"
    assert caught.value.info.message.startswith(f"{host} is not a loopback address")


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(SettingError, match=f"broker: port: {port} is not between 0 and 65535"):
        BrokerSettings(port=port)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "literal", "url"),
    [
        ("127.0.0.1", "127.0.0.1", "mqtt://127.0.0.1:{}"),
        ("127.1.2.3", "127.1.2.3", "mqtt://127.1.2.3:{}"),
        ("localhost", "127.0.0.1", "mqtt://127.0.0.1:{}"),
        pytest.param(
            "::1", "::1", "mqtt://[::1]:{}", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")
        ),
    ],
)
def test_it_listens_on_every_loopback(host: str, literal: str, url: str) -> None:
    with EmbeddedBroker(BrokerSettings(host=host, port=0)) as broker:
        assert broker.port > 0
        assert broker.url == url.format(broker.port)
        with RawMqtt(broker.port, literal) as client:
            assert client.connect() == (False, 0)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        broker = EmbeddedBroker(BrokerSettings(port=port))
        with pytest.raises(PortInUseError) as caught:
            broker.start()
        assert caught.value.code == "port_in_use"
        assert caught.value.info.message == f"Port {port} on 127.0.0.1 is taken by another program."
        assert not broker.running
        broker.stop()


def test_another_reason_not_to_listen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_permission(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Broker, "_create_server_instance", no_permission)
    with pytest.raises(SettingError, match=r"cannot listen on 127\.0\.0\.1: .*Permission denied"):
        EmbeddedBroker(BrokerSettings(port=1)).start()


# --- the library underneath -----------------------------------------------------------------------------------------
def test_only_the_pinned_library_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "0.12.2")
    with pytest.raises(UnsupportedError, match=r"amqtt 0\.12\.1 is needed, 0\.12\.2 is installed"):
        EmbeddedBroker(BrokerSettings(port=0)).start()


def test_the_names_it_leans_on_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Broker, "_session_monitor")
    with pytest.raises(UnsupportedError, match=r"lacks amqtt\.broker:Broker\._session_monitor"):
        EmbeddedBroker(BrokerSettings(port=0)).start()


def test_amqtts_own_session_layer_is_out_of_reach() -> None:
    """Its other transports would come in through this door, unguarded."""
    from broker.server.engine import GuardedBroker  # noqa: PLC0415 - what is private is looked at here only

    assert GuardedBroker._client_connected is not Broker._client_connected
    assert GuardedBroker.stream_connected is not Broker.stream_connected


# --- start and stop -------------------------------------------------------------------------------------------------
def test_a_broker_runs_once_and_stops_as_often_as_asked() -> None:
    files, threads = open_files(), threading.active_count()
    broker = EmbeddedBroker(BrokerSettings(port=0))
    broker.stop()
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = broker.port
    broker.start()
    assert broker.running
    with pytest.raises(RuntimeError, match="runs once"):
        broker.start()
    broker.stop()
    broker.stop()
    assert eventually(lambda: not broker.running, timeout_s=0)
    assert threading.active_count() == threads
    assert eventually(lambda: open_files() == files)


def test_ten_in_a_row_leave_nothing_behind(caplog: Log) -> None:
    for _ in range(10):
        with serving(caplog) as served:
            assert served.works()


def test_it_stops_in_time_whatever_its_clients_do(caplog: Log) -> None:
    with serving(caplog) as served:
        silent = [served.dial() for _ in range(20)]
        stalled = served.dial(receive_buffer=4_096)
        stalled.connect()
        stalled.subscribe(("a", 0))
        clients = [served.client(will=Will("will", b"no")) for _ in range(20)]
        flooding = served.client()
        over = threading.Event()

        def flood() -> None:
            packets = publish_packet("a", bytes(10_000)) * 10
            try:
                while not over.is_set():
                    flooding.send(packets)
            except OSError:
                over.set()

        thread = threading.Thread(target=flood)
        thread.start()
        assert eventually(lambda: served.counters.dropped_qos0 > 0)
        began = time.monotonic()
        served.broker.stop()
        took = time.monotonic() - began
        assert not served.broker.running
        assert took < 2
        assert all(client.closed() for client in (*silent, *clients))
        thread.join()
        assert over.is_set(), "the flooding client was cut"


def test_a_stop_is_no_occasion_for_wills(caplog: Log, tmp_path: Path) -> None:
    with serving(caplog, data_dir=tmp_path) as served:
        client = served.client(will=Will("status", b"offline", 1, retain=True))
        client.publish("status", b"online", 1, retain=True)
        served.broker.stop()
    with serving(caplog, data_dir=tmp_path) as served:
        client = served.client()
        client.subscribe(("status", 1))
        assert client.messages(1)[0].payload == b"online"


def test_messages_on_their_way_arrive_before_the_stop(caplog: Log) -> None:
    with serving(caplog) as served:
        client, sender = served.client(), served.client()
        client.subscribe(("a", 0))
        for number in range(100):
            sender.publish("a", b"%d" % number, 1)
        served.broker.stop()
        assert len(client.messages(100)) == 100
        assert client.closed()


def test_a_broker_that_hangs_is_told_and_left(caplog: Log) -> None:
    asked, free = threading.Event(), threading.Event()

    def hang(*_: object) -> bool:
        asked.set()
        return free.wait()

    broker = EmbeddedBroker(BrokerSettings(port=0), authorize=hang)
    broker.start()
    with RawMqtt(broker.port) as client:
        client.connect()
        client.send(publish_packet("a", b"x"))
        assert asked.wait(5)
        broker.stop(timeout_s=0.1)
        assert broker.running
        assert "the broker did not stop within 0.1 s" in caplog.text
        free.set()
        assert eventually(lambda: not broker.running)


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = RetainedStore.open
    free = threading.Event()

    def slow(folder: Path) -> object:
        free.wait()
        return opening(folder)

    monkeypatch.setattr(RetainedStore, "open", slow)
    monkeypatch.setattr(EmbeddedBroker.stop, "__defaults__", (0.05,))
    broker = EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path))
    with pytest.raises(UnsupportedError, match=r"it did not listen within 0\.05 s"):
        broker.start(timeout_s=0.05)
    free.set()
    assert eventually(lambda: not broker.running), "it stops by itself once it can"


def test_a_fault_of_our_own_ends_one_connection_and_is_heard(caplog: Log) -> None:
    def faulty(_client: object, action: Action, topic: str) -> bool:
        if topic == f"bad/{action}":
            raise RuntimeError("a fault in the hook")
        return True

    with EmbeddedBroker(BrokerSettings(port=0), authorize=faulty) as broker:
        with RawMqtt(broker.port) as watcher:
            watcher.connect()
            watcher.subscribe(("#", 0))
            for action in ("publish", "receive"):
                with RawMqtt(broker.port) as client:
                    client.connect(will=Will("will", action.encode()))
                    client.send(publish_packet(f"bad/{action}", b"x"))
                    assert client.closed()
                assert watcher.messages(1)[0].payload == action.encode()
        assert eventually(lambda: broker.counters().sessions == 0)
    assert caplog.text.count("RuntimeError: a fault in the hook") == 2


# --- what it costs to import ----------------------------------------------------------------------------------------
def test_the_client_side_does_not_load_the_server() -> None:
    code = "import sys, broker; sys.exit(any(name.startswith(('amqtt', 'broker.')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0


def test_every_error_is_of_one_tree() -> None:
    for error in (ListenRefusedError("x"), PortInUseError("x", 1), SettingError("x", "y"), UnsupportedError("x")):
        assert isinstance(error, BrokerServerError)
        assert error.info.hint
    with pytest.raises(BrokerServerError):
        Limits(max_retained=0)
