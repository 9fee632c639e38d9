"""The checks of Eclipse's interoperability suite for MQTT 3.1.1, on our broker and on the reference one."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.kit.brokers import BROKERS, BrokerProcess, start_embedded, start_mosquitto
from tests.kit.rawmqtt import (
    DISCONNECT,
    PUBREC,
    PUBREL,
    RawMqtt,
    Received,
    Will,
    connect_packet,
    packet,
    publish_packet,
)

FORBIDDEN = "forbidden/topic"
Connecting = Callable[[], RawMqtt]


def differs(reason: str) -> list[object]:
    return ["embedded", pytest.param("mosquitto", marks=pytest.mark.xfail(reason=reason, strict=True))]


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    folder = tmp_path_factory.mktemp("conformance")
    starting = start_embedded(folder, denied=(FORBIDDEN,)) if request.param == "embedded" else start_mosquitto(folder)
    with starting as running:
        yield running


@pytest.fixture
def dial(broker: BrokerProcess) -> Iterator[Connecting]:
    clients: list[RawMqtt] = []

    def connect() -> RawMqtt:
        clients.append(RawMqtt(broker.port))
        return clients[-1]

    yield connect
    for client in clients:
        client.drop()


@pytest.fixture
def base() -> str:
    """A branch of topics of one's own: the brokers are shared by all tests of this module."""
    return f"t{uuid4().hex[:8]}"


def until(client: RawMqtt, topic: str) -> list[Received]:
    """Everything the client is sent before a message it sends itself: what is not among it was not sent."""
    client.subscribe((topic, 0))
    client.publish(topic, b"end")
    before = []
    while (message := client.messages(1)[0]).topic != topic:
        before.append(message)
    return before


def test_connect_publish_subscribe_disconnect(dial: Connecting, base: str) -> None:
    first = dial()
    assert first.connect(f"{base}-a") == (False, 0)
    first.disconnect()
    client = dial()
    assert client.connect(f"{base}-a") == (False, 0)
    assert client.subscribe((f"{base}/a", 2)) == [2]
    for qos in (0, 1, 2):
        client.publish(f"{base}/a", b"qos %d" % qos, qos)
    assert [(m.payload, m.qos, m.retain) for m in client.messages(3)] == [
        (b"qos 0", 0, False),
        (b"qos 1", 1, False),
        (b"qos 2", 2, False),
    ]
    client.send(connect_packet(f"{base}-a"))
    assert client.closed(), "a second CONNECT must end the connection"


def test_a_clean_session_forgets_the_old_one(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect(f"{base}-a", clean=False)
    client.subscribe((f"{base}/a", 1))
    client.disconnect()
    again = dial()
    assert again.connect(f"{base}-a", clean=False) == (True, 0)
    again.disconnect()
    fresh = dial()
    assert fresh.connect(f"{base}-a", clean=True) == (False, 0)
    fresh.publish(f"{base}/a", b"x", 1)
    assert until(fresh, f"{base}/end") == []


def test_retained_messages_reach_new_subscribers(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect()
    for qos in (0, 1, 2):
        client.publish(f"{base}/{qos}", b"kept", qos, retain=True)
    client.subscribe((f"{base}/+", 2))
    assert sorted((m.topic, m.payload, m.qos, m.retain) for m in client.messages(3)) == [
        (f"{base}/{qos}", b"kept", qos, True) for qos in (0, 1, 2)
    ]
    for qos in (0, 1, 2):
        client.publish(f"{base}/{qos}", b"", qos, retain=True)
    assert {(m.payload, m.retain) for m in client.messages(3)} == {(b"", False)}
    client.unsubscribe(f"{base}/+")
    client.subscribe((f"{base}/+", 2))
    assert until(client, f"{base}/end/x") == []


def test_an_empty_client_id_needs_a_clean_session(dial: Connecting) -> None:
    persistent = dial()
    assert persistent.connect("", clean=False) == (False, 2)
    assert persistent.closed()
    assert dial().connect("", clean=True) == (False, 0)


def test_messages_wait_for_an_absent_client(dial: Connecting, base: str) -> None:
    away = dial()
    away.connect(f"{base}-away", clean=False)
    away.subscribe((f"{base}/+", 2))
    away.disconnect()
    sender = dial()
    sender.connect()
    for qos in (0, 1, 2):
        sender.publish(f"{base}/{qos}", b"%d" % qos, qos)
    back = dial()
    assert back.connect(f"{base}-away", clean=False) == (True, 0)
    found = [(m.payload, m.qos) for m in back.messages(2)]
    assert [pair for pair in found if pair[1]] == [(b"1", 1), (b"2", 2)]


def test_the_last_will_is_sent_when_the_link_breaks(dial: Connecting, base: str) -> None:
    watcher = dial()
    watcher.connect()
    watcher.subscribe((f"{base}/will", 2))
    client = dial()
    client.connect(will=Will(f"{base}/will", b"gone", qos=1))
    client.drop()
    assert [(m.payload, m.qos, m.retain) for m in watcher.messages(1)] == [(b"gone", 1, False)]
    polite = dial()
    polite.connect(will=Will(f"{base}/will", b"never"))
    polite.disconnect()
    assert until(watcher, f"{base}/end") == []


@pytest.mark.parametrize("broker", differs("it takes the QoS of the filter it finds first"), indirect=True)
def test_overlapping_subscriptions_deliver_the_highest_qos_once(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect()
    assert client.subscribe((f"{base}/#", 2), (f"{base}/+", 1), (f"{base}/a", 0)) == [2, 1, 0]
    client.publish(f"{base}/a", b"x", 2)
    assert [m.qos for m in until(client, f"{base}-end")] == [2]


def test_a_silent_client_is_declared_gone(dial: Connecting, base: str) -> None:
    watcher = dial()
    watcher.connect()
    watcher.subscribe((f"{base}/will", 0))
    client = dial()
    client.connect(keep_alive=1, will=Will(f"{base}/will", b"silent"))
    assert watcher.messages(1, timeout_s=10)[0].payload == b"silent"
    assert client.closed()


def test_unacknowledged_messages_come_again(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect(f"{base}-a", clean=False)
    client.subscribe((f"{base}/+", 2))
    client.auto_ack = False
    client.send(publish_packet(f"{base}/1", b"1", qos=1, packet_id=1))
    client.send(publish_packet(f"{base}/2", b"2", qos=2, packet_id=2) + packet(PUBREL, b"\0\2", 2))
    first = client.messages(2)
    client.drop()
    again = dial()
    assert again.connect(f"{base}-a", clean=False) == (True, 0)
    found = again.messages(2)
    assert [(m.payload, m.qos, m.packet_id, m.duplicate) for m in found] == [
        (m.payload, m.qos, m.packet_id, True) for m in first
    ]


def test_a_released_message_is_not_sent_again(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect(f"{base}-a", clean=False)
    client.subscribe((f"{base}/2", 2))
    client.auto_ack = False
    client.send(publish_packet(f"{base}/2", b"2", qos=2, packet_id=2) + packet(PUBREL, b"\0\2", 2))
    (message,) = client.messages(1)
    assert message.packet_id is not None
    client.ack(PUBREC, message.packet_id)
    client.expect(PUBREL)
    client.drop()
    again = dial()
    again.connect(f"{base}-a", clean=False)
    first = again.receive()
    assert first is not None
    assert (first.kind, first.packet_id) == (PUBREL, message.packet_id), "a PUBREL, and no second PUBLISH"
    assert until(again, f"{base}/end") == []


@pytest.mark.parametrize("broker", differs("its default configuration forbids nothing"), indirect=True)
def test_a_subscription_may_fail(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect()
    assert client.subscribe((f"{base}/a", 1), (FORBIDDEN, 2)) == [1, 0x80]


def test_wildcards_do_not_match_topics_with_a_dollar(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect()
    client.subscribe(("+/" + base, 2))
    client.publish(f"$x/{base}", b"hidden", 1)
    client.publish(f"x/{base}", b"seen", 1)
    assert [m.payload for m in until(client, f"{base}/end")] == [b"seen"]


def test_unsubscribe_ends_the_flow(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect()
    client.subscribe((f"{base}/a", 2), (f"{base}/b", 2), (f"{base}/c", 2))
    client.unsubscribe(f"{base}/a", "never/held")
    for leaf in "abc":
        client.publish(f"{base}/{leaf}", leaf.encode(), 1)
    assert [m.payload for m in until(client, f"{base}/end")] == [b"b", b"c"]


def test_the_same_client_id_takes_over(dial: Connecting, base: str) -> None:
    watcher = dial()
    watcher.connect()
    watcher.subscribe((f"{base}/will", 1))
    old = dial()
    old.connect(f"{base}-a", will=Will(f"{base}/will", b"old"))
    new = dial()
    assert new.connect(f"{base}-a", will=Will(f"{base}/will", b"new")) == (False, 0)
    assert old.closed()
    assert watcher.messages(1)[0].payload == b"old"
    new.subscribe((f"{base}/x", 1))
    watcher.publish(f"{base}/x", b"heard", 1)
    assert new.messages(1)[0].payload == b"heard"
    assert until(watcher, f"{base}/end") == []


def test_taking_over_a_session_keeps_what_waits(dial: Connecting, base: str) -> None:
    old = dial()
    old.connect(f"{base}-a", clean=False)
    old.subscribe((f"{base}/x", 1))
    old.auto_ack = False
    old.publish(f"{base}/x", b"1", 0)
    old.send(publish_packet(f"{base}/x", b"2", 1, packet_id=9))
    old.messages(2)
    new = dial()
    assert new.connect(f"{base}-a", clean=False) == (True, 0)
    assert old.closed()
    assert [(m.payload, m.duplicate) for m in new.messages(1)] == [(b"2", True)]


@pytest.mark.parametrize(("published", "granted"), [(p, g) for p in (0, 1, 2) for g in (0, 1, 2)])
def test_the_lower_qos_counts(dial: Connecting, base: str, published: int, granted: int) -> None:
    client = dial()
    client.connect()
    client.publish(f"{base}/kept", b"kept", published, retain=True)
    client.subscribe((f"{base}/#", granted))
    client.publish(f"{base}/live", b"live", published)
    assert [(m.payload, m.qos) for m in client.messages(2)] == [
        (b"kept", min(published, granted)),
        (b"live", min(published, granted)),
    ]


def test_an_exactly_once_message_sent_twice_is_delivered_once(dial: Connecting, base: str) -> None:
    client = dial()
    client.connect()
    client.subscribe((f"{base}/a", 0))
    once = publish_packet(f"{base}/a", b"once", 2, packet_id=7)
    client.send(once)
    client.expect(PUBREC)
    client.send(publish_packet(f"{base}/a", b"once", 2, packet_id=7, duplicate=True))
    client.expect(PUBREC)
    client.ack(PUBREL, 7)
    assert [m.payload for m in until(client, f"{base}/end")] == [b"once"]


def test_only_the_subscription_itself_brings_retained_messages(dial: Connecting, base: str) -> None:
    """Not somebody else's subscription, not a new connection, not an unsubscribe."""
    other = dial()
    other.connect()
    other.publish(f"{base}/a", b"kept", 1, retain=True)
    other.subscribe((f"{base}/#", 1))
    assert other.messages(1)[0].retain
    client = dial()
    client.connect(f"{base}-c", clean=False)
    assert until(client, f"{base}-end") == []
    client.subscribe((f"{base}/a", 1))
    assert client.messages(1)[0].retain
    client.send(packet(DISCONNECT))
    assert client.closed()
    again = dial()
    again.connect(f"{base}-c", clean=False)
    assert until(again, f"{base}-end") == []
