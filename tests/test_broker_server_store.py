"""What the embedded broker keeps over a stop, a kill and a damaged disk."""

import logging
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from broker.server import BrokerSettings, EmbeddedBroker, SettingError
from broker.server.packets import Message
from broker.server.retained_store import FILE_NAME, RetainedStore
from tests.kit.brokers import start_embedded
from tests.kit.embedded import eventually, serving
from tests.kit.rawmqtt import RawMqtt

Log = pytest.LogCaptureFixture


def test_retained_messages_survive_a_stop(caplog: Log, tmp_path: Path) -> None:
    with serving(caplog, data_dir=tmp_path / "new" / "folder") as served:
        client = served.client()
        client.publish("a", b"first", 0, retain=True)
        client.publish("a", b"newest", 2, retain=True)
        client.publish("b", b"cleared", 1, retain=True)
        client.publish("b", b"", 1, retain=True)
        client.ping()
    with serving(caplog, data_dir=tmp_path / "new" / "folder") as served:
        assert served.counters.retained == 1
        client = served.client()
        client.subscribe(("#", 2))
        assert [(m.topic, m.payload, m.qos, m.retain) for m in client.messages(1)] == [("a", b"newest", 2, True)]


def test_retained_messages_survive_a_kill(tmp_path: Path) -> None:
    with start_embedded(tmp_path) as broker:
        with RawMqtt(broker.port) as client:
            client.connect()
            for number in range(1_000):
                client.publish(f"probe/{number}/status", b"old", 0, retain=True)
                client.publish(f"probe/{number}/status", b"%d" % number, 0, retain=True)
            client.publish("probe/7/status", b"", 1, retain=True)
        time.sleep(0.5)  # the promise itself: what is half a second old is on disk
        broker.restart(kill=True)
        with RawMqtt(broker.port) as client:
            client.connect()
            client.subscribe(("probe/+/status", 1))
            found = {message.topic: message.payload for message in client.messages(999)}
        assert found == {f"probe/{number}/status": b"%d" % number for number in range(1_000) if number != 7}


DAMAGED = {
    "not a database": b"this is no database at all" * 100,
    "cut header": b"SQLite format 3\0" + bytes(10),
    "noise": bytes(range(256)) * 32,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_store_is_set_aside(tmp_path: Path, caplog: Log, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path)) as broker, RawMqtt(broker.port) as client:
        client.connect()
        client.publish("a", b"kept", 1, retain=True)
        assert (tmp_path / f"{FILE_NAME}.damaged-1").read_bytes() == content
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "was set aside as" in warnings[0]
    store, messages = RetainedStore.open(tmp_path)
    store.close()
    assert [message.payload for message in messages] == [b"kept"]


def test_a_page_damaged_inside_is_noticed_too(tmp_path: Path, caplog: Log) -> None:
    with serving(caplog, data_dir=tmp_path) as served:
        client = served.client()
        for number in range(500):
            client.publish(f"a/{number}", bytes([number % 256]) * 100, 1, retain=True)
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    for at in range(4_096, len(content), 4_096):
        content[at : at + 64] = b"\xff" * 64
    path.write_bytes(content)
    with EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path)) as broker:
        assert broker.counters().retained == 0
    assert (tmp_path / f"{FILE_NAME}.damaged-1").exists()


def test_damage_that_only_a_check_sees_is_noticed_too(tmp_path: Path) -> None:
    """It would not show when the messages are read, but fail every later write."""
    store, _ = RetainedStore.open(tmp_path)
    store.write({"a": Message("a", b"kept", 1)})
    store.close()
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    content[36:40] = (5).to_bytes(4, "big")  # the header's count of free pages
    (tmp_path / FILE_NAME).write_bytes(content)
    store, messages = RetainedStore.open(tmp_path)
    store.close()
    assert messages == []
    assert (tmp_path / f"{FILE_NAME}.damaged-1").read_bytes() == content


def test_rows_that_are_no_messages_are_left_out(tmp_path: Path) -> None:
    store, _ = RetainedStore.open(tmp_path)
    store.close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    with db:
        db.execute("INSERT INTO retained VALUES('good', x'01', 1)")
        db.execute("INSERT INTO retained VALUES('a/+', x'01', 1)")
        db.execute("INSERT INTO retained VALUES('qos', x'01', 9)")
        db.execute("INSERT INTO retained VALUES('text', 'text', 1)")
        db.execute("INSERT INTO retained VALUES(CAST(x'ff' AS TEXT), x'01', 1)")
    db.close()
    store, messages = RetainedStore.open(tmp_path)
    store.close()
    assert [message.topic for message in messages] == ["good"]


def test_two_brokers_do_not_share_a_folder(tmp_path: Path) -> None:
    with EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path)):
        second = EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path))
        with pytest.raises(SettingError, match=r"broker: data_dir: .*locked"):
            second.start()
    assert not list(tmp_path.glob("*damaged*"))


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"broker: data_dir: .*file"):
        EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path / "file")).start()


def test_a_write_that_fails_is_tried_again(tmp_path: Path, caplog: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    write = RetainedStore.write

    def failing(store: RetainedStore, batch: dict[str, object]) -> None:
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        write(store, batch)  # type: ignore[arg-type] # passed on as it came

    monkeypatch.setattr(RetainedStore, "write", failing)
    with EmbeddedBroker(BrokerSettings(port=0, data_dir=tmp_path)) as broker, RawMqtt(broker.port) as client:
        client.connect()
        client.publish("a", b"kept", 1, retain=True)
        assert eventually(lambda: broker.counters().store_errors >= 2)
        full.clear()
    assert len([record for record in caplog.records if "cannot be stored" in record.getMessage()]) == 1
    store, messages = RetainedStore.open(tmp_path)
    store.close()
    assert [message.payload for message in messages] == [b"kept"]
