"""The fabric end to end: a real broker, controller, probe and iperf3 server, each a process of its own."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import Failure
from schemas.request import TestSummary, TestTicket
from schemas.result import Result
from tests.kit.brokers import BrokerProcess
from tests.kit.controllers import Asker, ControllerProcess, client, start_controller
from tests.kit.iperf import server
from tests.kit.probes import ProbeProcess, Watcher, start_probe, watch
from tests.kit.wait import until

PING = {"target": "127.0.0.1", "count": 20, "timeout_s": 1, "interval_ms": 10}
SLOW = {"target": "127.0.0.1", "count": 40, "timeout_s": 1, "interval_ms": 50}


@dataclass
class Fabric:
    broker: BrokerProcess
    controller: ControllerProcess
    probe: ProbeProcess
    ask: Asker
    seen: Watcher

    def rows(self) -> tuple[TestSummary, ...]:
        return self.ask.page().rows


@contextmanager
def fabric(broker: BrokerProcess, tmp_path: Path) -> Iterator[Fabric]:
    with (
        start_controller(broker.url, tmp_path / "controller-data", offline_after_s=45) as controller,
        start_probe(broker.url, tmp_path) as probe,
        client(broker.url) as ask,
        watch(broker.url) as seen,
    ):
        status = probe.wait_online(seen)
        if not status.capabilities["ping"].available:
            pytest.skip("this user may not send ICMP")
        ask.wait_controller()
        yield Fabric(broker, controller, probe, ask, seen)


@pytest.fixture
def whole(broker: BrokerProcess, tmp_path: Path) -> Iterator[Fabric]:
    with fabric(broker, tmp_path) as found:
        yield found


@pytest.fixture
def on_mosquitto(mosquitto: BrokerProcess, tmp_path: Path) -> Iterator[Fabric]:
    with fabric(mosquitto, tmp_path) as found:
        yield found


def test_a_test_from_request_to_archive(whole: Fabric) -> None:
    with server() as iperf:
        spec: dict[str, Any] = {"target": "127.0.0.1", "port": iperf.port, "duration_s": 1}
        ticket = whole.ask.start("paris", ping=PING, speedtest=spec, comment="both")
        assert ticket.number == 1
        record = whole.ask.wait_state(ticket.id, "done", 20)
    result = record.result
    assert result is not None
    assert (result.number, result.comment, result.packet_number) == (1, "both", 20)
    assert result.speedtest is not None
    for side in (result.speedtest.download, result.speedtest.upload):
        assert side is not None
        assert side.result is not None
        assert side.result.avg is not None
        assert side.result.avg > 1e6
        assert side.json_ is not None, "the raw document is kept"
    assert record.summary.ping_avg == pytest.approx(result.ping.avg if result.ping else None)
    assert record.summary.download == result.speedtest.download.result.avg  # type: ignore[union-attr]  # checked above
    until(lambda: (found := whole.seen.status()) and found.spool.waiting == 0, what="the result was acknowledged")


def test_any_mqtt_client_starts_a_test_that_is_archived(on_mosquitto: Fabric) -> None:
    program = shutil.which("mosquitto_pub")
    if program is None:
        pytest.skip("mosquitto_pub is not installed")
    port = str(on_mosquitto.broker.port)
    message = '{"ping":{"target":"127.0.0.1"}}'
    subprocess.run([program, "-p", port, "-t", "probe/paris/cmd", "-m", message], check=True, timeout=10)
    until(lambda: on_mosquitto.rows() and on_mosquitto.rows()[0].state == "done", 15)
    row = on_mosquitto.rows()[0]
    assert (row.origin, row.number, row.ping_target) == ("mqtt", 1, "127.0.0.1")
    got = subprocess.run(
        ["mosquitto_sub", "-p", port, "-t", "probe/+/result", "-C", "1", "-W", "5"],
        check=True,
        capture_output=True,
        timeout=10,
    )
    assert json.loads(got.stdout)["id"] == row.id


def test_a_controller_killed_mid_test_archives_it_once(whole: Fabric) -> None:
    ticket = whole.ask.start("paris", ping=SLOW)
    until(lambda: "running" in whole.seen.states(ticket.id))
    whole.controller.kill()
    until(lambda: [found for found in whole.seen.results if found.id == ticket.id], 15)
    whole.controller.start()
    whole.ask.wait_controller()
    record = whole.ask.wait_state(ticket.id, "done", 20)
    assert record.result is not None
    assert record.result.packet_number == 40
    assert [row.id for row in whole.rows()] == [ticket.id]
    until(lambda: (found := whole.seen.status()) and found.spool.waiting == 0, 10)


def test_a_broker_killed_mid_test_loses_nothing(whole: Fabric) -> None:
    ticket = whole.ask.start("paris", ping=SLOW)
    until(lambda: "running" in whole.seen.states(ticket.id))
    before = whole.ask.status.connection
    whole.broker.restart(kill=True)
    until(lambda: whole.ask.statuses[-1].connection != before and whole.ask.requester.controller_online, 15)
    record = whole.ask.wait_state(ticket.id, "done", 20)
    assert record.result is not None
    assert record.result.packet_number == 40, "the test went on without the broker"
    assert [row.id for row in whole.rows()] == [ticket.id]


def test_a_probe_killed_mid_test_ends_it_as_an_error(on_mosquitto: Fabric) -> None:
    ticket = on_mosquitto.ask.start("paris", ping={**SLOW, "count": 300})
    until(lambda: "running" in on_mosquitto.seen.states(ticket.id))
    on_mosquitto.probe.kill9()
    until(lambda: (found := on_mosquitto.seen.status()) and found.state == "offline")
    with pytest.raises(Failure) as caught:
        on_mosquitto.ask.start("paris", ping=PING)
    assert caught.value.code == "probe_offline"
    on_mosquitto.probe.start()
    record = on_mosquitto.ask.wait_state(ticket.id, "error", 20)
    assert record.summary.error is not None
    assert record.summary.error.code == "probe_restarted"


def test_an_unknown_probe_is_named(on_mosquitto: Fabric) -> None:
    with pytest.raises(Failure) as caught:
        on_mosquitto.ask.start("nobody", ping=PING)
    assert caught.value.code == "probe_unknown"
    assert "nobody" in caught.value.info.message


def test_what_the_probe_refuses_is_told_with_its_code(on_mosquitto: Fabric) -> None:
    ticket = on_mosquitto.ask.start("paris", ping={"target": "224.0.0.1"})
    record = on_mosquitto.ask.wait_state(ticket.id, "rejected")
    assert record.summary.error is not None
    assert record.summary.error.code == "target_denied"
    assert record.result is None


def test_a_cancel_reaches_the_probe_within_two_seconds(whole: Fabric) -> None:
    ticket = whole.ask.start("paris", ping={**SLOW, "count": 300})
    until(lambda: whole.ask.state(ticket.id) == "running")
    begin = time.monotonic()
    whole.ask.call("test.cancel", TestTicket, test=ticket.id)
    record = whole.ask.wait_state(ticket.id, "cancelled")
    assert time.monotonic() - begin < 2.5
    assert record.result is not None
    assert record.result.packet_number is not None
    assert record.result.packet_number < 300


def test_a_cancelled_test_that_only_waited_ends_as_cancelled(on_mosquitto: Fabric) -> None:
    with server() as iperf:
        spec = {"target": "127.0.0.1", "port": iperf.port, "duration_s": 20, "direction": "download"}
        first = on_mosquitto.ask.start("paris", speedtest=spec)
        second = on_mosquitto.ask.start("paris", speedtest=spec)
        until(lambda: on_mosquitto.ask.state(second.id) == "queued")
        on_mosquitto.ask.call("test.cancel", TestTicket, test=second.id)
        record = on_mosquitto.ask.wait_state(second.id, "cancelled")
        assert record.result is None
        on_mosquitto.ask.call("test.cancel", TestTicket, test=first.id)
        on_mosquitto.ask.wait_state(first.id, "cancelled")


def test_garbage_on_the_controllers_topic_is_written_over(on_mosquitto: Fabric) -> None:
    on_mosquitto.seen.raw("controller/status", b"garbage", retain=True)
    until(lambda: on_mosquitto.ask.status.state == "online")
    with client(on_mosquitto.broker.url) as newcomer:
        newcomer.wait_controller(3)
        assert newcomer.status.state == "online", "long before the next heartbeat, and retained"


def test_a_double_request_is_one_test(whole: Fabric) -> None:
    fields: dict[str, Any] = {"id": "request-0001", "probe": "paris", "ping": PING}
    first = whole.ask.call("test.start", TestTicket, **fields)
    second = whole.ask.call("test.start", TestTicket, **fields)
    assert (first.id, first.number) == (second.id, second.number)
    whole.ask.wait_state(first.id, "done")
    assert len(whole.rows()) == 1
    assert len({found.version for found in whole.seen.results}) == 1


def test_results_of_an_outage_arrive_afterwards_with_their_own_times(on_mosquitto: Fabric) -> None:
    on_mosquitto.controller.kill()
    ids = [on_mosquitto.seen.command(ping=PING) for _ in range(5)]
    until(lambda: {found.id for found in on_mosquitto.seen.results} >= set(ids), 15)
    measured = {found.id: found.measured_at for found in on_mosquitto.seen.of("result", Result)}
    on_mosquitto.controller.start()
    until(lambda: on_mosquitto.ask.requester.controller_online, 15)
    until(lambda: len(on_mosquitto.rows()) == 5, 15)
    rows = on_mosquitto.rows()
    assert {row.id: row.measured_at for row in rows} == measured
    assert {row.state for row in rows} == {"done"}
