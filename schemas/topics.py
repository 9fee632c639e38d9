"""Topics, built and parsed here and nowhere else. The bus client puts an optional prefix before each and strips it again."""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

ProbeLeaf = Literal["cmd", "progress", "result", "ack", "status", "autotests"]
CONTROLLER_STATUS: Final = "controller/status"

_LEAVES: Final = frozenset(get_args(ProbeLeaf))
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_CLIENT: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
_VERB: Final = re.compile(r"[a-z]{1,32}\.[a-z_]{1,32}\Z")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,64}/){1,8}\Z")


@dataclass(frozen=True)
class ProbeTopic:
    """`probe/<name>/<leaf>`."""

    name: str
    leaf: ProbeLeaf


@dataclass(frozen=True)
class RequestTopic:
    """`client/<client id>/request/<verb>`."""

    client_id: str
    verb: str


@dataclass(frozen=True)
class ReplyTopic:
    """`client/<client id>/reply`."""

    client_id: str


@dataclass(frozen=True)
class ControllerTopic:
    """`controller/status`."""


Topic = ProbeTopic | RequestTopic | ReplyTopic | ControllerTopic


def valid_name(name: str) -> bool:
    """Tell whether `name` can be a probe's name."""
    return _NAME.match(name) is not None


def valid_client_id(client_id: str) -> bool:
    """Tell whether `client_id` can stand in a topic."""
    return _CLIENT.match(client_id) is not None


def check_prefix(prefix: str) -> str:
    """Return `prefix` ("" or levels that end in "/") or raise ValueError."""
    if prefix and not _PREFIX.match(prefix):
        raise ValueError("a topic prefix is made of levels of letters, digits, _ and -, and ends in '/': site-a/")
    return prefix


def probe(name: str, leaf: ProbeLeaf) -> str:
    """Return the topic of one probe. Raise ValueError for a name that is not one."""
    if not valid_name(name):
        raise ValueError(f"not a probe name: {name!r}")
    return f"probe/{name}/{leaf}"


def every_probe(leaf: ProbeLeaf) -> str:
    """Return the filter for `leaf` of all probes."""
    return f"probe/+/{leaf}"


def request(client_id: str, verb: str) -> str:
    """Return the topic on which `client_id` asks for `verb`."""
    if not valid_client_id(client_id):
        raise ValueError(f"not a client id: {client_id!r}")
    return f"client/{client_id}/request/{verb}"


def every_request() -> str:
    """Return the filter for every request of every client."""
    return "client/+/request/+"


def reply(client_id: str) -> str:
    """Return the topic on which `client_id` gets its replies."""
    if not valid_client_id(client_id):
        raise ValueError(f"not a client id: {client_id!r}")
    return f"client/{client_id}/reply"


def parse(topic: str) -> Topic | None:
    """Return what `topic` (without prefix) names, or None if it is none of ours."""
    if topic == CONTROLLER_STATUS:
        return ControllerTopic()
    match topic.split("/"):
        case ["probe", name, leaf] if leaf in _LEAVES and valid_name(name):
            return ProbeTopic(name, leaf)  # type: ignore[arg-type]  # membership in _LEAVES was just checked
        case ["client", client_id, "request", verb] if valid_client_id(client_id) and _VERB.match(verb):
            return RequestTopic(client_id, verb)
        case ["client", client_id, "reply"] if valid_client_id(client_id):
            return ReplyTopic(client_id)
    return None
