"""Topic names and filters of MQTT 3.1.1 (section 4.7)."""

from typing import TypeAlias

Levels: TypeAlias = tuple[str, ...]


def is_wildcard(topic_filter: str) -> bool:
    """Whether the filter can match more than the topic of the same name."""
    return "+" in topic_filter or "#" in topic_filter


def valid_topic(topic: str) -> bool:
    """Whether a message can be published to this name (MQTT-3.3.2-2, MQTT-4.7.3-1, MQTT-4.7.3-2)."""
    return bool(topic) and not is_wildcard(topic) and "\0" not in topic


def valid_filter(topic_filter: str) -> bool:
    """Whether wildcards stand alone in their level and `#` comes last (MQTT-4.7.1-2, MQTT-4.7.1-3)."""
    if not topic_filter or "\0" in topic_filter:
        return False
    *parents, last = topic_filter.split("/")
    return all(level == "+" or not is_wildcard(level) for level in parents) and (
        last in ("+", "#") or not is_wildcard(last)
    )


def split(topic: str) -> Levels:
    """The levels of a name or filter."""
    return tuple(topic.split("/"))


def matches(wanted: Levels, topic: Levels) -> bool:
    """Whether a valid filter matches a topic name, both split. `a/#` matches `a` too (MQTT-4.7.2-1)."""
    if topic[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(topic) or level not in ("+", topic[index]):
            return False
    return len(wanted) == len(topic)
