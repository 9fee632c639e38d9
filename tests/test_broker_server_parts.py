"""Filters and their index against a plain model; back-pressure and queues without a network."""

import asyncio
import time
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.server import Counters, Limits, allow_all, outbox
from broker.server.authorize import Gate
from broker.server.connection import Connection, Hub
from broker.server.outbox import Delivery, Outbox
from broker.server.packets import Frame, Message
from broker.server.retained import RetainedTable
from broker.server.router import Router
from broker.server.sessions import Session, Sessions
from broker.server.subscriptions import SubscriptionIndex
from broker.server.topics import matches, split, valid_filter, valid_topic

if TYPE_CHECKING:
    from broker.server.streams import Link

LEVEL = st.sampled_from(["a", "b", "", "$x"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(valid_topic)
FILTER = st.lists(LEVEL | st.sampled_from(["+", "#"]), min_size=1, max_size=4).map("/".join).filter(valid_filter)

# filter, topics it matches, topics it does not (section 4.7 of the standard)
TABLE = [
    ("sport/tennis/player1/#", ["sport/tennis/player1", "sport/tennis/player1/ranking"], ["sport/tennis/player2"]),
    ("#", ["a", "/a", "a/b/c", "/"], ["$SYS", "$SYS/a"]),
    ("+", ["a"], ["/a", "a/b", "$SYS"]),
    ("+/+", ["/finance", "a/b", "/"], ["a", "$SYS/a"]),
    ("/+", ["/finance"], ["finance", "/a/b"]),
    ("sport/+", ["sport/", "sport/a"], ["sport", "sport/a/b"]),
    ("$SYS/#", ["$SYS", "$SYS/a"], ["a"]),
    ("$SYS/+", ["$SYS/a"], ["$SYS"]),
    ("probe/+/status", ["probe/paris/status"], ["probe/status", "probe/a/b/status", "probe/paris/statu"]),
    ("a", ["a"], ["A", "a/", "/a"]),
]


def test_filters_match_as_the_standard_says() -> None:
    for wanted, hits, misses in TABLE:
        assert valid_filter(wanted)
        assert [topic for topic in hits if not matches(split(wanted), split(topic))] == []
        assert [topic for topic in misses if matches(split(wanted), split(topic))] == []


def test_invalid_filters_and_topics() -> None:
    assert [f for f in ("", "a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "a\0", "##", "++") if valid_filter(f)] == []
    assert [t for t in ("", "a/+", "#", "a\0b") if valid_topic(t)] == []


Step = tuple[str, str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove", "drop"]), FILTER, st.integers(0, 2), st.integers(0, 2))
)


@given(STEPS, TOPIC)
def test_the_index_agrees_with_a_plain_list(steps: list[Step], topic: str) -> None:
    index: SubscriptionIndex[int] = SubscriptionIndex()
    model: dict[tuple[str, int], int] = {}
    for what, name, who, qos in steps:
        if what == "add":
            index.add(name, who, qos)
            model[name, who] = qos
        elif what == "remove":
            index.remove(name, who)
            model.pop((name, who), None)
        else:
            index.drop(who)
            model = {key: value for key, value in model.items() if key[1] != who}
    best: dict[int, int] = {}
    for (name, who), qos in model.items():
        if matches(split(name), split(topic)):
            best[who] = max(qos, best.get(who, 0))
    assert index.matching(topic) == best
    assert len(index) == len(model)
    for who in range(3):
        assert index.filters(who) == {name for name, holder in model if holder == who}
        index.drop(who)
    assert not index._literal
    assert not index._wildcard
    assert not index._filters


# --- one connection over a link of our own --------------------------------------------------------------------------
class FakeLink:
    """Sends a CONNECT and then pings for ever; takes nothing until `reading` is set."""

    address = "192.0.2.1"
    congested = True

    def __init__(self) -> None:
        self.frames = 0
        self.reading = asyncio.Event()

    async def read_frame(self) -> Frame:
        self.frames += 1
        await asyncio.sleep(0)
        return Frame(12, 0, b"") if self.frames > 1 else Frame(1, 0, b"\0\4MQTT\4\2\0\0\0\1a")

    def write(self, _data: bytes) -> None:
        pass

    async def drain(self) -> None:
        await self.reading.wait()

    def abort(self) -> None:
        pass

    async def close(self) -> None:
        pass


def hub() -> Hub:
    limits, counters = Limits(), Counters()
    gate = Gate(allow_all, counters)
    index: SubscriptionIndex[Session] = SubscriptionIndex()
    sessions = Sessions(limits, counters, index, time.monotonic)
    return Hub(limits, counters, gate, sessions, Router(limits, counters, gate, index, RetainedTable(limits, counters)))


def test_a_client_that_reads_no_answers_is_read_no_further() -> None:
    async def run() -> tuple[int, int]:
        link = FakeLink()
        task = asyncio.create_task(Connection(cast("Link", link), hub()).run())
        for _ in range(200):
            await asyncio.sleep(0)
        held = link.frames
        link.reading.set()
        for _ in range(200):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return held, link.frames

    held, after = asyncio.run(run())
    assert held == 2, "the CONNECT and one ping"
    assert after > 20


def test_a_fault_while_sending_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(_: Outbox, _max_bytes: int) -> bytes:
        raise RuntimeError("a fault of ours")

    async def run() -> None:
        link = FakeLink()
        link.congested = False
        aborted = asyncio.Event()
        monkeypatch.setattr(link, "abort", aborted.set)
        task = asyncio.create_task(Connection(cast("Link", link), hub()).run())
        await asyncio.wait_for(aborted.wait(), 5)
        task.cancel()
        await task

    monkeypatch.setattr(outbox.Outbox, "take", faulty)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        asyncio.run(run())


def test_retained_messages_of_a_repeated_subscription_start_over() -> None:
    box = Outbox(Limits(), Counters())
    old = [Delivery(Message("a", b"old", 0), 0, retain=True)]
    box.offer_retained("a", old)
    box.offer_retained("b", old)
    box.offer_retained("a", [])
    box.withdraw_retained("b")
    assert box.take(1_000) == b""
    assert len(box) == 0
