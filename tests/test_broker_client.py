"""The bus client over real brokers: it comes back, it queues nothing, and no handler's fault spreads."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from broker.client import BusClient, Message, Will, matches
from broker.requests import Refusal, Requester
from netloom.ids import new_id
from netloom.url import BrokerUrl
from schemas import codec, error, topics
from schemas.ack import Ack
from schemas.errors import Failure
from schemas.request import Done, Reply, Targets
from schemas.status import ControllerStatus
from tests.kit.brokers import BrokerProcess, free_port
from tests.kit.wait import until


@contextmanager
def client(
    url: str, name: str = "t:1", *, prepare: Callable[[BusClient], object] = id, **options: object
) -> Iterator[BusClient]:
    made = BusClient(BrokerUrl.parse(url), name, **options)  # type: ignore[arg-type]  # forwarded as they are
    prepare(made)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_a_message_arrives_with_its_retained_copy(broker: BrokerProcess) -> None:
    got: list[Message] = []
    with client(broker.url, prepare=lambda c: c.subscribe("probe/+/result", got.append)) as bus:
        assert bus.wait_up(5)
        assert bus.publish("probe/paris/result", b'{"a":1}', retain=True).wait(5)
        until(lambda: len(got) == 1)
    assert got == [Message("probe/paris/result", b'{"a":1}', 1, retain=False)]
    late: list[Message] = []
    with client(broker.url, "t:2", prepare=lambda c: c.subscribe("probe/paris/result", late.append)):
        until(lambda: len(late) == 1)
    assert late[0].retain


def test_a_prefix_stands_before_every_topic(broker: BrokerProcess) -> None:
    inside: list[str] = []
    outside: list[str] = []
    with (
        client(
            f"{broker.url}/site-a/",
            "t:1",
            prepare=lambda c: c.subscribe("probe/+/cmd", lambda m: inside.append(m.topic)),
        ),
        client(broker.url, "t:2", prepare=lambda c: c.subscribe("#", lambda m: outside.append(m.topic))) as plain,
        client(f"{broker.url}/site-a/", "t:3") as bus,
    ):
        assert bus.wait_up(5)
        assert plain.wait_up(5)
        until(lambda: bus.up)
        bus.publish("probe/paris/cmd", b"{}")
        plain.publish("probe/paris/cmd", b"{}")
        until(lambda: inside and len(outside) == 2)
    assert inside == ["probe/paris/cmd"]
    assert sorted(outside) == ["probe/paris/cmd", "site-a/probe/paris/cmd"]


def test_it_comes_back_and_replays_nothing(broker: BrokerProcess) -> None:
    ups: list[str] = []
    got: list[bytes] = []
    bus = BusClient(BrokerUrl.parse(broker.url), "t:1", on_up=lambda: ups.append(bus.connection))
    bus.subscribe("probe/paris/cmd", lambda message: got.append(message.payload))
    bus.start()
    try:
        until(lambda: len(ups) == 1)
        broker.kill()
        until(lambda: not bus.up)
        with pytest.raises(Failure) as caught:
            bus.publish("probe/paris/cmd", b"while down")
        assert caught.value.code == "broker_unreachable"
        assert bus.problem is not None
        assert bus.down_s is not None
        broker.start()
        until(lambda: len(ups) == 2, timeout_s=12)
        assert ups[0] != ups[1], "a connection has an id of its own"
        assert bus.publish("probe/paris/cmd", b"after").wait(5)
        until(lambda: bool(got))
        assert got == [b"after"]
        assert bus.problem is None
    finally:
        bus.stop()


def test_the_will_names_the_connection_and_a_goodbye_sends_none(broker: BrokerProcess) -> None:
    wills: list[bytes] = []
    with client(
        broker.url, "watcher", prepare=lambda c: c.subscribe("probe/+/status", lambda m: wills.append(m.payload))
    ) as watcher:
        assert watcher.wait_up(5)
        polite = BusClient(BrokerUrl.parse(broker.url), "t:1", will=lambda c: Will("probe/a/status", c.encode()))
        polite.start()
        assert polite.wait_up(5)
        polite.stop()
        cut = BusClient(BrokerUrl.parse(broker.url), "t:2", will=lambda c: Will("probe/b/status", c.encode()))
        cut.start()
        assert cut.wait_up(5)
        connection = cut.connection
        # The same id elsewhere: the broker closes the first connection without a goodbye.
        with client(broker.url, "t:2") as other:
            until(lambda: bool(wills))
            assert other.wait_up(5)
            cut.stop()
    assert wills == [connection.encode()]


def test_a_handler_that_raises_stops_nobody(broker: BrokerProcess) -> None:
    got: list[bytes] = []

    def bad(_: Message) -> None:
        raise RuntimeError("on purpose")

    def prepare(bus: BusClient) -> None:
        bus.subscribe("probe/paris/cmd", bad)
        bus.subscribe("probe/+/cmd", lambda message: got.append(message.payload))

    with client(broker.url, prepare=prepare) as bus:
        assert bus.wait_up(5)
        bus.publish("probe/paris/cmd", b"1")
        bus.publish("probe/paris/cmd", b"2")
        until(lambda: {b"1", b"2"} <= set(got))
        assert bus.counters["handler_errors"] >= 2


def test_garbage_is_counted_and_logged_once(mosquitto: BrokerProcess, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Ack] = []

    def prepare(bus: BusClient) -> None:
        bus.subscribe_to("probe/+/ack", Ack, lambda _, ack, __: got.append(ack))

    garbage = [b"hello", b"[]", b"{" * 5000, b'{"v": 9}', b'{"stored": 3}', b'{"stored": [NaN]}', b"x" * 50_000]
    with client(mosquitto.url, prepare=prepare) as bus:
        assert bus.wait_up(5)
        for _ in range(3):
            for payload in garbage:
                bus.publish("probe/paris/ack", payload)
        bus.publish("probe/paris/ack", b"")
        bus.publish("probe/paris/ack", Ack(stored=("one",)))
        until(lambda: bool(got))
        assert [ack.stored for ack in got] == [("one",)]
        assert bus.counters["garbage"] == 3 * len(garbage)
    logged = [record for record in caplog.records if "dropped a message" in record.message]
    assert len(logged) == 4, "once for each cause: bad_json, too_large, unsupported_version, bad_message"


def test_it_stops_at_once_connected_or_not(broker: BrokerProcess) -> None:
    for url in (broker.url, f"mqtt://127.0.0.1:{free_port()}"):
        bus = BusClient(BrokerUrl.parse(url), "t:1")
        bus.start()
        bus.wait_up(0.5)
        start = time.monotonic()
        bus.stop()
        assert time.monotonic() - start < 2
        until(lambda: not [t for t in threading.enumerate() if t.name.startswith("bus-")])


def test_a_port_that_accepts_and_closes_is_no_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_each() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=close_each, daemon=True).start()
        with client(f"mqtt://127.0.0.1:{listener.getsockname()[1]}") as bus:
            until(lambda: bus.problem and "not connected yet" not in bus.problem.message)
            assert bus.problem is not None
            assert bus.problem.code == "broker_unreachable", "a proxy whose broker is away is worth trying again soon"
            assert not bus.up
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_filters_match_as_mqtt_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


# --- requests -----------------------------------------------------------------------------------------------------------
class Double:
    """A test double of the controller: it says that it is there and answers with `answer`."""

    def __init__(self, url: str, answer: Callable[[str, dict[str, object]], Reply | None]) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self._answer = answer
        self.bus = BusClient(BrokerUrl.parse(url), "controller:double", on_up=self._hello)
        self.bus.subscribe(topics.every_request(), self._on_request)

    def status(self, state: str = "online") -> ControllerStatus:
        now = "2026-11-23T20:15:04Z"
        fields = {"state": state, "controller_id": "double", "connection": "c", "at": now, "started_at": now}
        return codec.validate(ControllerStatus, fields)

    def _hello(self) -> None:
        self.bus.publish(topics.CONTROLLER_STATUS, self.status(), retain=True)

    def _on_request(self, message: Message) -> None:
        topic = topics.parse(message.topic)
        assert isinstance(topic, topics.RequestTopic)
        value = codec.decode(message.payload)
        self.asked.append((topic.verb, value))
        if reply := self._answer(str(value["id"]), value):
            self.bus.publish(topics.reply(topic.client_id), reply)


@contextmanager
def fabric(url: str, answer: Callable[[str, dict[str, object]], Reply | None]) -> Iterator[tuple[Double, Requester]]:
    double = Double(url, answer)
    double.bus.start()
    bus = BusClient(BrokerUrl.parse(url), f"cli:{new_id()}")
    requester = Requester(bus)
    bus.start()
    try:
        assert double.bus.wait_up(5)
        yield double, requester
    finally:
        bus.stop()
        double.bus.stop()


def test_a_request_gets_its_answer(broker: BrokerProcess) -> None:
    def answer(request_id: str, _: object) -> Reply:
        return Reply(id=request_id, status="ok", data={"targets": [], "revision": 3})

    with fabric(broker.url, answer) as (double, requester):
        assert requester.call("target.list", Targets) == Targets(targets=(), revision=3)
        assert double.asked[0][0] == "target.list"


def test_a_refusal_names_the_fields(mosquitto: BrokerProcess) -> None:
    def answer(request_id: str, _: object) -> Reply:
        return Reply(
            id=request_id, status="error", error=error("target_exists", name="lab"), fields={"name": "already taken"}
        )

    with fabric(mosquitto.url, answer) as (_, requester), pytest.raises(Refusal) as caught:
        requester.call("target.add", Done, name="lab", host="192.0.2.7")
    assert caught.value.code == "target_exists"
    assert caught.value.fields == {"name": "already taken"}


def test_nonsense_is_refused_before_it_is_sent(mosquitto: BrokerProcess) -> None:
    with fabric(mosquitto.url, lambda *_: None) as (double, requester):
        with pytest.raises(codec.Invalid) as caught:
            requester.call("target.add", Done, name="lab", host="a b")
        assert caught.value.field == "host"
        assert double.asked == []


def test_a_silent_controller_is_a_time_out_and_the_request_says_until_when(mosquitto: BrokerProcess) -> None:
    with fabric(mosquitto.url, lambda *_: None) as (double, requester):
        until(lambda: requester.controller_online)
        double.bus.publish(topics.CONTROLLER_STATUS, double.status(), retain=True)
        until(lambda: requester._offset is not None)
        start = time.monotonic()
        with pytest.raises(Failure) as caught:
            requester.call("target.list", Targets, timeout_s=0.4)
        assert time.monotonic() - start < 2
        assert caught.value.code == "request_timeout"
        # The double's clock stands at 20:15:04: the deadline is told by the controller's clock, not by ours.
        assert str(double.asked[0][1]["not_after"]).startswith("2026-11-23T20:15:0")


def test_without_a_controller_nothing_is_sent(mosquitto: BrokerProcess) -> None:
    with fabric(mosquitto.url, lambda *_: None) as (double, requester):
        until(lambda: requester.controller_online)
        double.bus.publish(topics.CONTROLLER_STATUS, double.status("offline"), retain=True)
        until(lambda: not requester.controller_online)
        with pytest.raises(Failure) as caught:
            requester.call("target.list", Targets)
        assert caught.value.code == "controller_unreachable"
        assert double.asked == []


def test_without_a_broker_the_answer_comes_in_time() -> None:
    bus = BusClient(BrokerUrl.parse(f"mqtt://127.0.0.1:{free_port()}"), "cli:1")
    requester = Requester(bus)
    bus.start()
    start = time.monotonic()
    with pytest.raises(Failure) as caught:
        requester.call("target.list", Targets, timeout_s=0.5)
    assert time.monotonic() - start < 3
    assert caught.value.code == "broker_unreachable"
    bus.stop()
