"""Filters and their index against a plain model."""

from hypothesis import given
from hypothesis import strategies as st

from broker.server.subscriptions import SubscriptionIndex
from broker.server.topics import matches, split, valid_filter, valid_topic

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
