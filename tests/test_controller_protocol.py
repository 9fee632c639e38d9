"""The controller on real brokers, against a scripted test double of the probe: commands, results, acks, garbage."""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from netloom.ids import new_id
from schemas import error
from schemas.base import format_instant
from schemas.request import Done
from tests.kit.brokers import BROKERS, BrokerProcess, start_broker
from tests.kit.controllers import Asker, ControllerProcess, client, scripted_probe, start_controller
from tests.kit.results import result_fields
from tests.kit.wait import until


@dataclass
class Stack:
    broker: BrokerProcess
    controller: ControllerProcess
    asker: Asker

    @property
    def url(self) -> str:
        return self.broker.url

    def count(self, name: str) -> int:
        return self.asker.status.counters.get(name, 0)

    def fresh_count(self, name: str) -> int:
        """As `count`, of a status written from now on."""
        seen = len(self.asker.statuses)
        until(lambda: len(self.asker.statuses) >= seen + 2)
        return self.count(name)


@pytest.fixture(scope="module", params=BROKERS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A broker and a controller for all tests of this file; each uses probes of its own names."""
    place = tmp_path_factory.mktemp("stack")
    with (
        start_broker(request.param, place) as broker,
        start_controller(
            broker.url, place / "data", status_period_s=0.1, offline_after_s=60, silent_after_s=0.6
        ) as controller,
        client(broker.url) as asker,
    ):
        asker.wait_controller()
        yield Stack(broker, controller, asker)


@pytest.fixture
def name() -> str:
    """A probe's name of this test's own."""
    return f"p-{new_id()[-12:]}"


@pytest.mark.parametrize("status", ["done", "error", "cancelled"])
def test_a_test_from_request_to_result(stack: Stack, name: str, status: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        ticket = stack.asker.start(name, ping={"target": "192.0.2.7"}, comment="c", origin="web")
        assert (ticket.state, ticket.probe) == ("waiting", name)
        command = probe.wait_command(ticket.id)
        assert (command["number"], command["origin"]) == (ticket.number, "web")
        for state in ("queued", "accepted", "running"):
            probe.progress(ticket.id, state)
            stack.asker.wait_state(ticket.id, state)
        before = stack.asker.status.revisions.archive
        probe.result(ticket.id, status=status, retain=True)
        record = stack.asker.wait_state(ticket.id, status)
        until(lambda: probe.stored == [ticket.id])
        until(lambda: stack.asker.status.revisions.archive > before)
    assert record.parts is not None
    assert record.parts.ping is not None
    assert record.result is not None
    assert (record.result.number, record.result.probe_name) == (ticket.number, name)
    assert record.result.speedtest is not None
    assert record.result.speedtest.download is not None
    assert record.result.speedtest.download.json_ == {"start": {"version": "iperf 3.12"}, "end": {}}


def test_a_command_is_repeated_until_it_is_answered(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        ticket = stack.asker.start(name)
        probe.wait_command(ticket.id, 2)
        probe.progress(ticket.id, "rejected", error=error("probe_busy", probe=name).model_dump())
        record = stack.asker.wait_state(ticket.id, "rejected")
        assert record.summary.error is not None
        assert record.summary.error.code == "probe_busy"
        assert record.result is None


def test_what_nobody_takes_expires(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        ticket = stack.asker.start(name, ping={"target": "192.0.2.7"}, ttl_s=1)
        record = stack.asker.wait_state(ticket.id, "expired")
        assert record.summary.error is not None
        assert record.summary.error.code == "not_answered"
        probe.result(ticket.id)
        assert stack.asker.wait_state(ticket.id, "done").summary.number == ticket.number


def test_a_silent_test_and_a_lost_one(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        lost = new_id()
        probe.progress(lost, "running", eta_s=1.0)
        until(lambda: stack.asker.page(probe=name).rows)
        until(lambda: stack.asker.get(test=lost).summary.silent)
        probe.progress(lost, "running", eta_s=0.2)
        until(lambda: not stack.asker.get(test=lost).summary.silent)
        record = stack.asker.wait_state(lost, "lost")
        assert (record.summary.origin, record.parts) == ("mqtt", None)
        probe.result(lost, status="error")
        stack.asker.wait_state(lost, "error")


def test_double_click_is_one_test(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        request_id = new_id()
        tickets = [stack.asker.start(name, id=request_id, ping={"target": "192.0.2.7"}) for _ in range(3)]
        assert {ticket.id for ticket in tickets} == {tickets[0].id}
        probe.wait_command(tickets[0].id)
        probe.progress(tickets[0].id, "accepted")
        stack.asker.wait_state(tickets[0].id, "accepted")
        assert len(probe.commands) == 1
        assert stack.asker.page(probe=name).matching == 1


def test_cancel_while_running_is_repeated_and_ends_with_the_result(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        ticket = stack.asker.start(name)
        probe.progress(ticket.id, "running")
        stack.asker.wait_state(ticket.id, "running")
        asked = time.monotonic()
        assert stack.asker.call("test.cancel", type(ticket), test=ticket.id).state == "running"
        probe.wait_command(ticket.id, kind="cancel")
        assert time.monotonic() - asked < 1
        probe.wait_command(ticket.id, 2, kind="cancel")
        probe.result(ticket.id, status="cancelled")
        stack.asker.wait_state(ticket.id, "cancelled")


def test_cancel_before_the_probe_answers(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        ticket = stack.asker.start(name)
        assert stack.asker.call("test.cancel", type(ticket), test=ticket.id).state == "cancelled"
        probe.wait_command(ticket.id, kind="cancel")
        assert stack.asker.state(ticket.id) == "cancelled"


# --- results ----------------------------------------------------------------------------------------------------------
def test_a_result_nobody_asked_for_gets_a_number(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name, online=False) as probe:
        first, second = new_id(), new_id()
        probe.result(first, origin="mqtt", comment="by hand", number=123_456)
        probe.result(second, autotest_id="autotest-1", origin="autotest")
        until(lambda: probe.stored == [first, second])
        rows = stack.asker.page(probe=name).rows
        assert [(row.id, row.origin, row.comment) for row in rows][::-1] == [
            (first, "mqtt", "by hand"),
            (second, "autotest", "first \N{GREEK SMALL LETTER OMEGA} test"),
        ]
        record = stack.asker.get(test=first)
        assert record.result is not None
        assert record.result.number == record.summary.number != 123_456
        assert rows[0].autotest_id == "autotest-1"


def test_duplicates_out_of_order_and_odd_times(stack: Stack, name: str) -> None:
    ids = [new_id() for _ in range(10)]
    with scripted_probe(stack.url, name, online=False) as probe:
        for number, test_id in [*enumerate(ids), *reversed(list(enumerate(ids))), *enumerate(ids)]:
            year = {7: "9999", 8: "0001"}.get(number, "2026")
            probe.result(test_id, version=100 - number, measured_at=f"{year}-11-01T00:00:00Z")
        until(lambda: len(probe.stored) == 30)
        page = stack.asker.page(probe=name)
        assert sorted(row.id for row in page.rows) == sorted(ids)
        found = stack.asker.get(test=ids[7])
        assert found.result is not None
        assert found.result.clock_trusted is False
        assert found.summary.measured_at is not None
        assert found.summary.measured_at < datetime.now(UTC) + timedelta(minutes=1)


def test_a_deleted_test_is_acknowledged_and_stays_away(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name, online=False) as probe:
        test_id = new_id()
        probe.result(test_id)
        until(lambda: probe.stored == [test_id])
        stack.asker.call("archive.delete", Done, test=test_id)
        probe.result(test_id)
        probe.progress(test_id, "running")
        until(lambda: probe.stored == [test_id, test_id])
        assert stack.asker.page(probe=name).matching == 0


def test_the_retained_result_is_taken_at_a_start(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name, online=False) as probe:
        test_id = new_id()
        probe.result(test_id, retain=True)
        until(lambda: test_id in probe.stored)
        stack.controller.stop()
        with scripted_probe(stack.url, f"{name}-bad", online=False) as bad:
            bad.raw("result", GARBAGE["version"], retain=True)
            stack.controller.start()
            until(lambda: stack.asker.status.state == "online")
            until(lambda: stack.count("duplicates") > 0 and stack.count("garbage") > 0)
            assert probe.stored.count(test_id) == 2, "its probe may still wait for the ack"
            assert bad.refused == [], "it may be an old one that the probe has put away long ago"
            bad.raw("result", b"", retain=True)
    assert stack.asker.get(test=test_id).summary.probe == name


def test_mosquitto_pub_is_an_equal(stack: Stack, name: str) -> None:
    document = json.dumps(result_fields(id=new_id(), measured_at=format_instant(datetime.now(UTC))))
    arguments = ["-h", stack.broker.host, "-p", str(stack.broker.port), "-q", "1"]
    subprocess.run(["mosquitto_pub", *arguments, "-t", f"probe/{name}/result", "-m", document], check=True, timeout=5)
    until(lambda: stack.asker.page(probe=name).matching == 1)
    listener = subprocess.Popen(
        ["mosquitto_sub", *arguments, "-t", "client/shell/reply", "-C", "1", "-W", "5"], stdout=subprocess.PIPE
    )
    asked = ["-t", "client/shell/request/archive.page", "-m", json.dumps({"id": "from-a-shell", "probe": name})]
    while listener.poll() is None:  # until its subscription stands
        subprocess.run(["mosquitto_pub", *arguments, *asked], check=True, timeout=5)
        time.sleep(0.1)
    out, _ = listener.communicate()
    reply = json.loads(out)
    assert (reply["id"], reply["status"], reply["data"]["matching"]) == ("from-a-shell", "ok", 1)


# --- garbage ----------------------------------------------------------------------------------------------------------
def _broken(**changes: Any) -> bytes:
    return json.dumps(result_fields(id="garbage-1234", **changes)).encode()


GARBAGE = {
    "not json": b"\xff\x00 nonsense",
    "empty object": b"{}",
    "a list": b"[1]",
    "nan": _broken(duration_s=1).replace(b'"duration_s": 1', b'"duration_s": NaN'),
    "1e999": _broken(duration_s=1).replace(b'"duration_s": 1', b'"duration_s": 1e999'),
    "nested": b"[" * 30_000,
    "nested object": b'{"a":' * 6_000 + b"1" + b"}" * 6_000,
    "huge": b'{"id": "garbage-1234", "x": "' + b"x" * 300_000 + b'"}',
    "wrong types": _broken(ping=7, mos="high"),
    "version": _broken(v=999),
    "out of time": _broken(measured_at="0001-01-01T00:00:00+01:00"),
    "lone surrogate": _broken().replace(b"first", b"\\ud800"),
}
REFUSED = {"wrong types": "bad_message", "version": "unsupported_version", "out of time": "bad_message"}


def test_garbage_as_a_result_is_dropped_counted_and_refused(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name, online=False) as probe:
        before = stack.fresh_count("garbage")
        for payload in GARBAGE.values():
            probe.raw("result", payload)
        good = new_id()
        probe.result(good)
        until(lambda: good in probe.stored)
        assert probe.refused == [("garbage-1234", REFUSED[kind]) for kind in GARBAGE if kind in REFUSED]
        assert stack.fresh_count("garbage") == before + len(GARBAGE)
        assert stack.asker.page(probe=name).matching == 1


def test_garbage_everywhere_else_stops_nothing(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        before = stack.fresh_count("garbage")
        for payload in GARBAGE.values():
            for leaf in ("status", "progress"):
                probe.raw(leaf, payload)
            probe.bus.publish("controller/status", payload)
            probe.bus.publish("client/x/request/no-verb", payload)
        probe.bus.publish("probe/not a name/result", b"{}")
        until(lambda: stack.count("garbage") >= before + 4 * len(GARBAGE))
        ticket = stack.asker.start(name)
        probe.progress(ticket.id, "running", number=10**30)
        probe.result(ticket.id, ping={"min": 1.0, "samples": [1e300]}, comment="<script>alert(1)</script>\0")
        record = stack.asker.wait_state(ticket.id, "done")
        assert record.summary.comment == ""
        assert stack.count("handler_errors") == 0
        assert stack.controller.running


def test_the_name_in_a_result_counts_for_nothing(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name, online=False) as probe:
        test_id = new_id()
        probe.result(test_id, probe_name="somebody-else")
        until(lambda: probe.stored == [test_id])
        assert stack.asker.page(probe="somebody-else").matching == 0
        record = stack.asker.get(test=test_id)
        assert record.result is not None
        assert record.result.probe_name == record.summary.probe == name


def test_retained_progress_and_requests_are_not_taken(stack: Stack, name: str) -> None:
    with scripted_probe(stack.url, name) as probe:
        test_id = new_id()
        asked = json.dumps({"id": new_id(), "probe": name, "ping": {"target": "192.0.2.7"}}).encode()
        topic = "client/retainer/request/test.start"
        payload = {"v": 1, "id": test_id, "seq": 1, "at": format_instant(datetime.now(UTC)), "state": "running"}
        stack.controller.stop()
        probe.raw("progress", json.dumps(payload).encode(), retain=True)
        probe.bus.publish(topic, asked, retain=True).wait(5)
        stack.controller.start()
        stack.asker.wait_controller()
        good = new_id()
        probe.result(good)
        until(lambda: good in probe.stored)
        assert [row.id for row in stack.asker.page(probe=name).rows] == [good]
        probe.bus.publish(topic, b"", retain=True).wait(5)
        probe.raw("progress", b"", retain=True)


def test_a_crowd_of_results_is_acknowledged_in_few_messages(stack: Stack, name: str) -> None:
    ids = [new_id() for _ in range(300)]
    with scripted_probe(stack.url, name, online=False) as probe:
        before = stack.fresh_count("commits")
        for test_id in ids:
            probe.result(test_id)
        until(lambda: len(probe.stored) == len(ids), 20)
        assert sorted(probe.stored) == sorted(ids)
        assert stack.fresh_count("commits") - before < 300, "what arrives together is one commit"
        assert stack.asker.page(probe=name).matching == 300
