"""Every request: what it answers, and every refusal with its code and its sentence at its field."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.requests import Refusal
from controller.answers import RECORD_MAX_BYTES, fitting
from netloom.ids import new_id
from schemas import request as ask
from schemas.base import format_instant
from tests.kit.brokers import BrokerProcess, start_broker
from tests.kit.controllers import Asker, ScriptedProbe, client, scripted_probe, start_controller
from tests.kit.results import make_result
from tests.kit.wait import until


@dataclass
class House:
    broker: BrokerProcess
    asker: Asker
    probe: ScriptedProbe

    def ended(self) -> str:
        """The id of a test that has ended."""
        test_id = new_id()
        self.probe.result(test_id)
        until(lambda: test_id in self.probe.stored)
        return test_id

    def running(self) -> str:
        test_id = new_id()
        self.probe.progress(test_id, "running", eta_s=60)
        until(lambda: any(row.id == test_id for row in self.asker.page(state="running").rows))
        return test_id

    def refused(self, verb: str, code: str, field: str | None = None, **fields: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.asker.call(verb, ask.Done, **fields)
        assert caught.value.code == code
        assert caught.value.field == field
        if field is not None:
            assert caught.value.fields[field]
        return caught.value


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    place = tmp_path_factory.mktemp("house")
    with (
        start_broker("embedded", place) as broker,
        start_controller(broker.url, place / "data", offline_after_s=300, status_period_s=0.1),
        client(broker.url) as asker,
        scripted_probe(broker.url, "paris") as probe,
    ):
        asker.wait_controller()
        yield House(broker, asker, probe)


def _name() -> str:
    return f"target {new_id()}"


# --- tests ------------------------------------------------------------------------------------------------------------
def test_start_refuses_what_cannot_be_done(house: House) -> None:
    ping = {"target": "192.0.2.7"}
    house.refused("test.start", "probe_unknown", "probe", probe="tokyo", ping=ping)
    with scripted_probe(house.broker.url, "napping", online=False) as napping:
        napping.bus.publish(
            "probe/napping/status", napping.status("offline", reason="stopped", since="2026-11-23T19:00:00Z")
        ).wait(5)
        why = house.refused("test.start", "probe_offline", "probe", probe="napping", ping=ping)
    assert why.info.message == "napping has been offline since 2026-11-23T19:00:00.000Z. The test was not sent."
    assert house.asker.page(probe="napping").total == house.asker.page().total
    assert house.asker.page(probe="napping").matching == 0


def test_cancel(house: House) -> None:
    assert house.asker.call("test.cancel", ask.TestTicket, test=house.running()).state == "running"
    house.refused("test.cancel", "test_not_found", "test", test=new_id())
    why = house.refused("test.cancel", "test_final", "test", test=house.ended())
    assert "has already ended: done" in why.info.message


# --- the archive ------------------------------------------------------------------------------------------------------
def test_get_by_id_and_by_number(house: House) -> None:
    test_id = house.ended()
    by_id = house.asker.get(test=test_id)
    assert house.asker.get(number=by_id.summary.number) == by_id
    assert by_id.result is not None
    assert by_id.result.packet_number == 4
    house.refused("archive.get", "test_not_found", "test", test=new_id())
    house.refused("archive.get", "test_not_found", "number", number=10**9)
    house.refused("archive.get", "test_not_found", "number", number=10**40)


def test_page(house: House) -> None:
    for _ in range(3):
        house.ended()
    first = house.asker.page(rows=2, target="LAB.example", probe="paris", state="done")
    assert len(first.rows) == 2
    assert first.newer_than is None
    assert first.older_than == first.rows[-1].number
    second = house.asker.page(rows=2, target="lab", state="done", older_than=first.older_than)
    assert second.rows[0].number < first.rows[-1].number
    assert house.asker.page(rows=2, target="lab", state="done", newer_than=second.newer_than).rows == first.rows
    assert house.asker.page(text="nothing reads like this").rows == ()


def test_comment_in_any_state(house: House) -> None:
    for test_id in (house.ended(), house.running()):
        done = house.asker.call(
            "archive.comment", ask.Done, test=test_id, comment="caf\N{LATIN SMALL LETTER E WITH ACUTE} #1\n%"
        )
        assert done.revision
        record = house.asker.get(test=test_id)
        assert record.summary.comment == "caf\N{LATIN SMALL LETTER E WITH ACUTE} #1\n%"
        assert record.result is None or record.result.comment == record.summary.comment
        assert test_id in [row.id for row in house.asker.page(text="CAF\N{LATIN CAPITAL LETTER E WITH ACUTE}").rows]
    house.refused("archive.comment", "test_not_found", "test", test=new_id(), comment="")


def test_delete(house: House) -> None:
    test_id = house.ended()
    total = house.asker.page().total
    done = house.asker.call("archive.delete", ask.Done, test=test_id)
    until(lambda: house.asker.status.revisions.archive >= (done.revision or 0))
    assert house.asker.page().total == total - 1
    house.refused("archive.get", "test_not_found", "test", test=test_id)
    house.refused("archive.delete", "test_not_found", "test", test=test_id)
    why = house.refused("archive.delete", "test_not_final", "test", test=house.running())
    assert "is still running" in why.info.message


# --- targets ----------------------------------------------------------------------------------------------------------
def test_targets_from_add_to_delete(house: House) -> None:
    name = _name()
    added = house.asker.call("target.add", ask.TargetChanged, name=name, host="192.0.2.9", speedtest=True, port=5202)
    assert (added.target.name, added.target.port, added.target.standard_test) == (name, 5202, True)
    until(lambda: house.asker.status.revisions.targets == added.revision)
    changed = house.asker.call(
        "target.update", ask.TargetChanged, target_id=added.target.target_id, name=name.upper(), host="a.example"
    )
    assert changed.revision == added.revision + 1
    assert (changed.target.speedtest, changed.target.port) == (False, 5201), "every field is replaced"
    listed = house.asker.call("target.list", ask.Targets)
    assert changed.target in listed.targets
    assert listed.revision == changed.revision
    assert (
        house.asker.call("target.delete", ask.Done, target_id=added.target.target_id).revision == changed.revision + 1
    )
    assert changed.target not in house.asker.call("target.list", ask.Targets).targets
    again = house.asker.call("target.add", ask.TargetChanged, name=name, host="192.0.2.9")
    assert again.target.target_id > added.target.target_id, "an id is never used again"


def test_targets_refuse(house: House) -> None:
    name = _name()
    first = house.asker.call("target.add", ask.TargetChanged, name=name, host="192.0.2.9").target
    other = house.asker.call("target.add", ask.TargetChanged, name=_name(), host="192.0.2.9").target
    house.refused("target.add", "target_exists", "name", name=name.upper(), host="192.0.2.9")
    house.refused("target.update", "target_exists", "name", target_id=other.target_id, name=name, host="192.0.2.9")
    house.refused("target.update", "target_not_found", "target_id", target_id=10**9, name=_name(), host="192.0.2.9")
    house.refused("target.delete", "target_not_found", "target_id", target_id=10**40)
    assert first in house.asker.call("target.list", ask.Targets).targets


# --- probes -----------------------------------------------------------------------------------------------------------
def test_forget(house: House) -> None:
    house.refused("probe.forget", "probe_online", "probe", probe="paris")
    house.refused("probe.forget", "probe_unknown", "probe", probe="tokyo")
    with scripted_probe(house.broker.url, "old") as old:
        test_id = new_id()
        old.result(test_id, retain=True)
        until(lambda: test_id in old.stored)
        old.bus.publish("probe/old/status", old.status("offline", reason="stopped"), retain=True).wait(5)
        assert house.asker.call("probe.forget", ask.Done, probe="old").revision is None
    house.refused("test.start", "probe_unknown", "probe", probe="old", ping={"target": "192.0.2.7"})
    with scripted_probe(house.broker.url, "old", online=False) as again:
        again.say_online()
        until(lambda: len(again.statuses) == 1)
        assert [retained for _, retained in again.statuses] == [False], "nothing is retained of it"
    assert house.asker.get(test=test_id).summary.probe == "old", "the archive stays"


# --- the envelope -----------------------------------------------------------------------------------------------------
BAD = [
    ("test.start", {}, {"probe": "this field is needed"}),
    ("test.start", {"probe": "paris"}, {"": "the test asks for nothing: give it a ping, a speedtest or both"}),
    ("test.start", {"probe": "a b", "ping": {"target": "x y", "count": 0, "colour": 1}}, None),
    ("archive.page", {"rows": 0}, {"rows": "a whole number from 1 to 100"}),
    ("archive.page", {"state": "sleeping"}, None),
    ("archive.get", {}, {"": "give the test's id or its number"}),
    ("archive.comment", {"test": "12345678", "comment": "x" * 501}, None),
    ("target.add", {"name": " a", "host": "127.1"}, None),
    ("target.list", {"extra": 1}, {"extra": "there is no such field"}),
    ("probe.forget", {"probe": 7}, {"probe": "choose a probe: letters, digits, - and _, at most 64"}),
]


@pytest.mark.parametrize(("verb", "fields", "expected"), BAD)
def test_bad_fields_are_named_one_by_one(
    house: House, verb: str, fields: dict[str, Any], expected: dict[str, str] | None
) -> None:
    request_id = new_id()
    reply = house.asker.raw(verb, json.dumps({"id": request_id, **fields}).encode())
    assert (reply["id"], reply["status"], reply["data"]) == (request_id, "error", None)
    assert reply["error"]["code"] == "bad_message"
    if expected is not None:
        assert reply["fields"] == expected
    elif verb == "test.start":
        assert set(reply["fields"]) == {"probe", "ping.target", "ping.count", "ping.colour"}
    else:
        assert reply["fields"]


@pytest.mark.parametrize(
    ("verb", "payload", "code"),
    [
        ("archive.page", b"nonsense", "bad_json"),
        ("archive.page", b"", "bad_json"),
        ("archive.page", b"[" * 30_000, "bad_json"),
        ("archive.page", b'{"id": "' + b"x" * 40_000 + b'"}', "too_large"),
        ("archive.page", b'{"id": "12345678", "v": 2}', "unsupported_version"),
        ("archive.page", b'{"id": "short"}', "bad_message"),
        ("archive.page", b"{}", "bad_message"),
        ("archive.burn", b'{"id": "12345678"}', "unknown_verb"),
        ("credential.add", b'{"id": "12345678"}', "unknown_verb"),
    ],
)
def test_whatever_arrives_is_answered(house: House, verb: str, payload: bytes, code: str) -> None:
    reply = house.asker.raw(verb, payload)
    assert (reply["status"], reply["error"]["code"]) == ("error", code)
    assert reply["error"]["message"]


def test_every_verb_has_a_handler(house: House) -> None:
    for verb in ask.VERBS:
        assert house.asker.raw(verb, b'{"id": "12345678", "nonsense": 1}')["error"]["code"] == "bad_message"


@pytest.mark.parametrize("verb", ["target.add", "archive.comment", "archive.page"])
def test_what_comes_too_late_changes_nothing(house: House, verb: str) -> None:
    test_id, name = house.ended(), _name()
    late = format_instant(datetime.now(UTC) - timedelta(seconds=2))
    fields = {
        "target.add": {"name": name, "host": "192.0.2.9"},
        "archive.comment": {"test": test_id, "comment": "too late"},
        "archive.page": {},
    }[verb]
    reply = house.asker.raw(verb, json.dumps({"id": new_id(), "not_after": late, **fields}).encode())
    assert reply["error"]["code"] == "request_expired"
    assert house.asker.get(test=test_id).summary.comment != "too late"
    assert name not in [target.name for target in house.asker.call("target.list", ask.Targets).targets]


def test_a_changing_request_that_comes_twice_is_answered_as_before(house: House) -> None:
    payload = json.dumps({"id": new_id(), "name": _name(), "host": "192.0.2.9"}).encode()
    first, second = (house.asker.raw("target.add", payload) for _ in range(2))
    assert first["status"] == "ok"
    assert second == first
    gone = json.dumps({"id": new_id(), "test": house.ended()}).encode()
    replies = [house.asker.raw("archive.delete", gone) for _ in range(2)]
    assert replies[0] == replies[1]
    assert replies[0]["status"] == "ok"


def test_a_refused_request_may_be_mended_under_its_id(house: House) -> None:
    request_id, name = new_id(), _name()
    house.asker.call("target.add", ask.TargetChanged, name=name, host="192.0.2.9")
    house.refused("target.add", "target_exists", "name", id=request_id, name=name, host="192.0.2.9")
    mended = house.asker.call("target.add", ask.TargetChanged, id=request_id, name=_name(), host="192.0.2.9")
    assert mended.target.target_id


def test_a_record_that_is_too_large_loses_iperf3s_own_json_first() -> None:
    result = make_result()
    assert result.speedtest is not None
    assert result.speedtest.download is not None
    big = result.speedtest.download.model_copy(update={"json_": {"x": "y" * RECORD_MAX_BYTES}})
    speedtest = result.speedtest.model_copy(update={"download": big})
    summary = ask.TestSummary(
        id=result.id, number=1, probe="paris", state="done", origin="web", created_at=result.measured_at
    )
    record = ask.TestRecord(summary=summary, result=result)
    assert fitting(record) == record
    found = fitting(record.model_copy(update={"result": result.model_copy(update={"speedtest": speedtest})}))
    assert found.model_dump()["left_out"] == ["json"]
    assert found.result is not None
    assert found.result.speedtest is not None
    assert found.result.speedtest.download is not None
    assert found.result.speedtest.download.json_ is None
    assert found.result.speedtest.download.bytes == 50_000_000
