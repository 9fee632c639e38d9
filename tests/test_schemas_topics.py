"""Topics are built and parsed in one module, each the inverse of the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import topics

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
CLIENTS = st.from_regex(r"[A-Za-z0-9_.:-]{1,128}", fullmatch=True)


@given(NAMES, st.sampled_from(["cmd", "progress", "result", "ack", "status", "autotests"]))
def test_a_probe_topic_comes_back_as_it_went(name: str, leaf: topics.ProbeLeaf) -> None:
    assert topics.parse(topics.probe(name, leaf)) == topics.ProbeTopic(name, leaf)


@given(CLIENTS, st.sampled_from(["test.start", "archive.page"]))
def test_a_request_topic_comes_back_as_it_went(client_id: str, verb: str) -> None:
    assert topics.parse(topics.request(client_id, verb)) == topics.RequestTopic(client_id, verb)
    assert topics.parse(topics.reply(client_id)) == topics.ReplyTopic(client_id)


def test_the_controllers_topic() -> None:
    assert topics.parse("controller/status") == topics.ControllerTopic()


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "probe",
        "probe/paris",
        "probe/paris/other",
        "probe//cmd",
        "probe/a b/cmd",
        "probe/paris/cmd/x",
        "probe/paris/cmd\n",
        "client/a/request",
        "client/a/request/x",
        "client//reply",
        "$SYS/x",
        "controller",
        "controller/status/x",
        "PROBE/a/cmd",
    ],
)
def test_other_topics_are_none_of_ours(topic: str) -> None:
    assert topics.parse(topic) is None


@pytest.mark.parametrize(
    "name", ["", "a/b", "+", "#", "a b", "x" * 65, "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "a\n"]
)
def test_a_bad_name_makes_no_topic(name: str) -> None:
    assert not topics.valid_name(name)
    with pytest.raises(ValueError, match="not a probe name"):
        topics.probe(name, "cmd")


@pytest.mark.parametrize("prefix", ["", "site-a/", "a/b/"])
def test_a_prefix_is_levels_that_end_in_a_slash(prefix: str) -> None:
    assert topics.check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["a", "/a/", "a//", "+/", "#", "a b/", "$SYS/"])
def test_any_other_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        topics.check_prefix(prefix)
