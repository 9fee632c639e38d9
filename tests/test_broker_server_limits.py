"""What one client may cost: every bound is met, counted, and leaves the others alone."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.server import Action, ClientIdentity, Limits, SettingError
from tests.kit.brokers import start_embedded
from tests.kit.embedded import eventually, resident_kib, serving
from tests.kit.rawmqtt import PINGREQ, PUBACK, PUBREC, RawMqtt, Will, packet, publish_packet

Log = pytest.LogCaptureFixture


def test_connections_beyond_the_limit_are_turned_away(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_connections=3)) as served:
        kept = [served.client() for _ in range(3)]
        assert served.dial().closed()
        assert served.counters.refused == 1
        kept.pop().disconnect()
        assert eventually(lambda: served.counters.connections == 2)
        served.client().ping()


def test_a_full_offline_queue_drops_the_oldest(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_offline=5)) as served:
        away = served.client("away", clean=False)
        away.subscribe(("a", 1))
        away.disconnect()
        sender = served.client()
        for number in range(12):
            sender.publish("a", b"%d" % number, 1)
            sender.publish("a", b"qos 0", 0)
        back = served.client("away", clean=False)
        assert [message.payload for message in back.messages(5)] == [b"7", b"8", b"9", b"10", b"11"]
        assert served.counters.dropped_offline == 7
        assert served.none_but(back)


def test_a_queue_is_bounded_in_bytes_too(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_queued_bytes=10_000)) as served:
        away = served.client("away", clean=False)
        away.subscribe(("a", 1))
        away.disconnect()
        sender = served.client()
        for number in range(9):
            sender.publish("a", bytes([number]) * 3_000, 1)
        back = served.client("away", clean=False)
        assert [message.payload[0] for message in back.messages(3)] == [6, 7, 8]
        assert served.none_but(back)


def test_only_a_window_of_messages_is_unacknowledged(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_inflight=3)) as served:
        slow = served.client()
        slow.subscribe(("a", 2))
        slow.auto_ack = False
        sender = served.client()
        for number in range(8):
            sender.publish("a", b"%d" % number, 1 + number % 2)
        first = slow.messages(3)
        assert slow.receive(0.1) is None, "the window is full"
        for message in first:
            assert message.packet_id is not None
            slow.ack(PUBACK if message.qos == 1 else PUBREC, message.packet_id)
        slow.auto_ack = True
        rest = slow.messages(5)
        assert [message.payload for message in first + rest] == [b"%d" % number for number in range(8)]


def test_a_client_has_so_many_subscriptions(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_subscriptions=2)) as served:
        client = served.client()
        assert client.subscribe(("a", 0), ("b", 0), ("c", 0)) == [0, 0, 0x80]
        assert client.subscribe(("a", 1)) == [1], "one that is held may change"
        client.unsubscribe("b")
        assert client.subscribe(("c", 2)) == [2]
        assert served.counters.refused_subscriptions == 1
        assert served.counters.subscriptions == 2


def test_a_full_retained_table_keeps_what_it_has(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_retained=2, max_retained_bytes=100)) as served:
        client = served.client()
        for topic, size in (("a", 10), ("b", 10), ("c", 10), ("a", 20), ("b", 90)):
            client.publish(topic, topic.encode() * size, 1, retain=True)
        assert (served.counters.retained, served.counters.retained_bytes) == (2, 30)
        assert served.counters.refused_retained == 2
        client.publish("a", b"", 1, retain=True)
        client.publish("b", b"b" * 90, 1, retain=True)
        client.subscribe(("+", 0))
        assert [len(message.payload) for message in client.messages(1)] == [90]
        assert served.none_but(client)


def test_open_exchanges_are_bounded(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_ingress=4)) as served:
        client = served.client()
        for packet_id in range(1, 5):
            client.send(publish_packet("a", b"x", 2, packet_id))
            client.expect(PUBREC)
        client.send(publish_packet("a", b"x", 2, 5))
        assert client.closed()
        assert eventually(lambda: served.counters.malformed == 1)


def test_the_longest_absent_session_makes_room(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_sessions=2)) as served:
        for name in ("first", "second"):
            client = served.client(name, clean=False)
            client.disconnect()
        third = served.client("third")
        assert served.counters.evicted_sessions == 1
        second = served.dial()
        assert second.connect("second", clean=False) == (True, 0)
        refused = served.dial()
        refused.send(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05first")
        assert refused.closed(), "everybody is present: nobody makes room"
        third.ping()
        second.ping()


def test_an_absent_session_expires(caplog: Log) -> None:
    with serving(caplog, limits=Limits(session_expiry_s=0.2)) as served:
        client = served.client("away", clean=False)
        client.subscribe(("a", 1))
        client.disconnect()
        assert eventually(lambda: served.counters.sessions == 0)
        assert served.counters.subscriptions == 0
        assert served.dial().connect("away", clean=False) == (False, 0)


def test_qos_0_does_not_wait_for_an_absent_client(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_inflight=1)) as served:
        client = served.client("shaky", clean=False)
        client.subscribe(("a", 1))
        client.auto_ack = False
        sender = served.client()
        for number, qos in enumerate((1, 1, 0, 1)):
            sender.publish("a", b"%d" % number, qos)
        client.messages(1)
        client.drop()
        again = served.client("shaky", clean=False)
        assert [(m.payload, m.duplicate) for m in again.messages(3)] == [(b"0", True), (b"1", False), (b"3", False)]
        assert served.none_but(again)


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_client_that_does_not_read_costs_little_and_harms_nobody(tmp_path: Path) -> None:
    count, size = 6_000, 4_096  # 24 MB
    with (
        start_embedded(tmp_path, limits={"max_pending": 100, "max_offline": 100}) as broker,
        RawMqtt(broker.port, receive_buffer=4_096) as stalled,
        RawMqtt(broker.port) as reader,
        RawMqtt(broker.port) as sender,
    ):
        for client in (stalled, reader, sender):
            client.connect()
        stalled.subscribe(("a", 1))
        reader.subscribe(("a", 1))
        before = resident_kib(broker.pid)
        received = 0

        def read() -> None:
            nonlocal received
            while received < count:
                received += len(reader.messages(1))

        reading = in_thread(read)
        for number in range(count):
            sender.publish("a", bytes(size), number % 2)
            assert eventually(lambda sent=number: sent - received < 50)  # type: ignore[misc] # bound now
        reading.join()
        assert received == count
        assert resident_kib(broker.pid) - before < 10 * 1024


def test_drops_of_a_client_that_does_not_read_are_counted(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_pending=10, max_offline=20, max_inflight=5)) as served:
        stalled = served.dial(receive_buffer=4_096)
        stalled.connect()
        stalled.subscribe(("a", 1))
        sender = served.client()
        for _ in range(300):
            sender.publish("a", bytes(60_000), 0)
        for _ in range(100):
            sender.publish("a", bytes(1_000), 1)
        counters = served.counters
        assert counters.dropped_qos0 > 100
        assert counters.dropped_offline > 50


def test_a_flood_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with start_embedded(tmp_path) as broker, RawMqtt(broker.port) as flooding, RawMqtt(broker.port) as other:
        for client in (flooding, other):
            client.connect()
        flooding.send(publish_packet("a", b"x" * 20) * 50_000 + packet(PINGREQ))
        waits = []
        while flooding.receive(0) is None:
            began = time.monotonic()
            other.ping()
            waits.append(time.monotonic() - began)
        assert len(waits) > 10, "it had its turn all the while"
        assert sorted(waits)[len(waits) // 2] < 0.05


def test_subscribing_and_unsubscribing_loses_nobody_a_message(caplog: Log) -> None:
    count = 2_000
    with serving(caplog, limits=Limits(max_pending=count, max_offline=count)) as served:
        steady = [served.client() for _ in range(2)]
        steady[0].subscribe(("a", 1))
        steady[1].subscribe(("+", 1))
        over = threading.Event()
        turns = [0] * 4

        def churn(index: int) -> None:
            client = served.client()
            while not over.is_set():
                filters = [(f"churn/{index}/{number}", 1) for number in range(18)] + [("a", 0), ("+", 0)]
                assert client.subscribe(*filters) == [qos for _, qos in filters]
                client.unsubscribe(*(name for name, _ in filters))
                turns[index] += 1

        churning = [in_thread(lambda index=index: churn(index)) for index in range(4)]  # type: ignore[misc] # bound now
        sender = served.client()
        for number in range(count):
            sender.publish("a", b"%d" % number, 1 if number % 10 == 0 else 0)
        over.set()
        for thread in churning:
            thread.join()
        wanted = [b"%d" % number for number in range(count)]
        for client in steady:
            assert [message.payload for message in client.messages(count)] == wanted
        assert min(turns) > 0
        assert eventually(lambda: served.counters.subscriptions == 2)


def test_a_link_that_breaks_again_and_again_loses_nothing(caplog: Log) -> None:
    count = 1_000
    with serving(caplog) as served:
        client = served.client("shaky", clean=False)
        client.subscribe(("a", 1))
        sender = served.client()

        def send() -> None:
            for number in range(count):
                sender.publish("a", b"%d" % number, 1)

        sending = in_thread(send)
        got: set[bytes] = set()
        breaks = 0
        while len(got) < count:
            client.auto_ack = breaks % 2 == 0
            waiting = min(40, count - len(got))
            got.update(message.payload for message in client.messages(waiting))
            client.drop()
            breaks += 1
            client = served.client("shaky", clean=False)
        sending.join()
        assert got == {b"%d" % number for number in range(count)}
        assert breaks > 10
        assert served.counters.dropped_offline == 0


def test_many_retained_messages_reach_a_subscriber_whole(caplog: Log) -> None:
    with serving(caplog, limits=Limits(max_pending=10, max_offline=10, max_inflight=10)) as served:
        sender = served.client()
        for number in range(500):
            sender.publish(f"probe/{number}/status", b"old", number % 2, retain=True)
        client = served.client()
        client.auto_ack = False
        client.subscribe(("probe/+/status", 1))
        sender.publish("probe/499/status", b"new", 1, retain=True)
        client.auto_ack = True
        for message in client.inbox:
            if message.packet_id is not None:
                client.ack(PUBACK, message.packet_id)
        found = [(message.topic, message.payload) for message in client.messages(501)]
        assert len({topic for topic, _ in found}) == 500
        assert [payload for topic, payload in found if topic == "probe/499/status"] == [b"old", b"new"]


# --- rights ---------------------------------------------------------------------------------------------------------
def only_own(client: ClientIdentity, action: Action, topic: str) -> bool:
    """Publish under one's own name, subscribe to anything but `secret/#`, receive nothing secret."""
    if action is Action.PUBLISH:
        return topic.startswith(f"{client.client_id}/") or client.client_id == "root"
    return not topic.startswith("secret/")


def test_a_publish_that_is_not_allowed_is_delivered_to_nobody(caplog: Log) -> None:
    with serving(caplog, authorize=only_own) as served:
        client = served.client("me")
        client.subscribe(("#", 1))
        for qos in (0, 1, 2):
            client.publish("you/a", b"no", qos, retain=True)
        client.publish("me/a", b"yes", 1)
        assert [message.payload for message in client.messages(1)] == [b"yes"]
        client.ping()
        assert served.counters.denied == 3
        assert served.counters.retained == 0
        told = [record.getMessage() for record in caplog.records if "may not" in record.getMessage()]
        assert told == ["'me' (127.0.0.1) may not publish 'you/a'"], "once, not for every message"


def test_a_subscription_that_is_not_allowed_fails(caplog: Log) -> None:
    with serving(caplog, authorize=only_own) as served:
        client = served.client("me")
        assert client.subscribe(("secret/#", 1), ("secretive", 1)) == [0x80, 1]
        assert served.counters.denied == 1
        assert served.counters.subscriptions == 1


def test_a_wildcard_does_not_reach_what_may_not_be_received(caplog: Log) -> None:
    with serving(caplog, authorize=only_own) as served:
        root, client = served.client("root"), served.client("me")
        root.publish("secret/kept", b"no", 1, retain=True)
        root.publish("open/kept", b"kept", 1, retain=True)
        client.subscribe(("#", 1))
        assert client.messages(1)[0].payload == b"kept"
        root.publish("secret/live", b"no", 1)
        root.publish("open/live", b"live", 1)
        assert client.messages(1)[0].payload == b"live"
        assert client.receive(0.05) is None
        assert served.counters.withheld == 2


def test_a_will_that_is_not_allowed_is_no_way_in(caplog: Log) -> None:
    with serving(caplog, authorize=only_own) as served:
        intruder = served.dial()
        assert intruder.connect("me", will=Will("you/a", b"no")) == (False, 5)
        assert intruder.closed()
        assert served.counters.denied == 1
        assert served.counters.sessions == 0
        root = served.client("root")
        root.subscribe(("me/#", 1))
        served.client("me", will=Will("me/gone", b"yes", retain=True)).drop()
        assert root.messages(1)[0].payload == b"yes"


def test_a_refused_login_leaves_the_session_alone(caplog: Log) -> None:
    """Whoever is turned away at the door has not touched the client whose name it used."""
    with serving(caplog, authorize=only_own) as served:
        client = served.client("me", clean=False)
        client.subscribe(("me/a", 1))
        intruder = served.dial()
        assert intruder.connect("me", will=Will("you/a", b"no")) == (False, 5)
        client.publish("me/a", b"still here", 1)
        assert client.messages(1)[0].payload == b"still here"
        assert served.counters.taken_over == 0


def test_the_hook_is_told_who_asks(caplog: Log) -> None:
    asked: list[tuple[ClientIdentity, Action, str]] = []

    def note(client: ClientIdentity, action: Action, topic: str) -> bool:
        asked.append((client, action, topic))
        return True

    with serving(caplog, authorize=note) as served:
        client = served.dial()
        client.connect("me", login=("user", "secret"), will=Will("w", b""))
        client.subscribe(("a/+", 0))
        client.publish("a/b", b"x", 1)
        client.messages(1)
        client.drop()
        assert eventually(lambda: served.counters.gone == 1)
    me = ClientIdentity("me", "user", "127.0.0.1")
    assert asked == [
        (me, Action.PUBLISH, "w"),
        (me, Action.SUBSCRIBE, "a/+"),
        (me, Action.PUBLISH, "a/b"),
        (me, Action.RECEIVE, "a/b"),
        (me, Action.PUBLISH, "w"),
    ]


@pytest.mark.parametrize("name", ["max_connections", "connect_timeout_s", "max_inflight"])
def test_a_limit_below_its_least_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=rf"broker: limits\.{name}: it must be more than 0"):
        Limits(**{name: 0})
