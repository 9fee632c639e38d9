"""The controller's life: heartbeats, absent probes, one controller at a time, restarts in the middle, a quick end."""

import json
import os
import signal
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.client import BusClient
from controller.service import run
from netloom.ids import new_id
from netloom.settings import Settings
from netloom.url import BrokerUrl
from schemas import codec, topics
from schemas.base import format_instant
from schemas.errors import Failure
from schemas.status import ControllerStatus
from tests.kit.brokers import BrokerProcess, start_broker
from tests.kit.controllers import FAST, Asker, ControllerProcess, client, scripted_probe, start_controller
from tests.kit.wait import until


def _foreign(**changes: Any) -> ControllerStatus:
    now = format_instant(datetime.now(UTC))
    fields = {"state": "online", "controller_id": "another-one", "connection": "c", "at": now, "started_at": now}
    return codec.validate(ControllerStatus, fields | changes)


def _say(bus: BusClient, status: ControllerStatus, *, retain: bool = True) -> None:
    assert bus.publish(topics.CONTROLLER_STATUS, status, retain=retain).wait(5)


def _ago(seconds: float) -> str:
    return format_instant(datetime.now(UTC) - timedelta(seconds=seconds))


# --- heartbeats -------------------------------------------------------------------------------------------------------
def test_its_status_beats_and_tells_what_it_is(broker: BrokerProcess, tmp_path: Path) -> None:
    with start_controller(broker.url, tmp_path / "data"), client(broker.url) as asker:
        until(lambda: len(asker.statuses) >= 4)
        status = asker.status
        assert (status.state, status.version) == ("online", "0.1.0")
        assert status.controller_id == (tmp_path / "data/controller/instance").read_text()
        assert {found.started_at for found in asker.statuses} == {status.started_at}
        with client(broker.url) as late:
            until(lambda: late.statuses)
            assert late.status.controller_id == status.controller_id, "it is retained"


def test_many_changes_are_told_a_few_times_a_second(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with (
        start_controller(mosquitto.url, tmp_path / "data", status_period_s=60) as controller,
        scripted_probe(mosquitto.url) as probe,
        client(mosquitto.url) as asker,
    ):
        asker.wait_controller()
        began, before = time.monotonic(), len(asker.statuses)
        for number in range(60):
            probe.result(new_id())
            until(lambda count=number: len(probe.stored) > count)  # type: ignore[misc]  # a default binds the loop's value
        until(lambda: asker.status.counters.get("results") == 60)
        told = len(asker.statuses) - before
        assert 1 <= told <= 4 * (time.monotonic() - began) + 2
        assert controller.running


# --- probes that are missed -------------------------------------------------------------------------------------------
def test_a_probe_that_stops_speaking_is_declared_offline(broker: BrokerProcess, tmp_path: Path) -> None:
    with start_controller(broker.url, tmp_path / "data"), client(broker.url) as asker:
        asker.wait_controller()
        with scripted_probe(broker.url) as probe:
            probe.say_online(version="7.7")
            asker.start("paris")
            until(lambda: probe.statuses[-1][0].state == "offline")
            offline = probe.statuses[-1][0]
            assert (offline.reason, offline.version, offline.instance) == ("deadline", "7.7", probe.instance)
            assert offline.connection == probe.bus.connection
            with pytest.raises(Failure) as caught:
                asker.start("paris")
            assert caught.value.code == "probe_offline"
            probe.say_online()
            until(lambda: asker.start("paris"))


def test_a_retained_status_is_no_heartbeat(broker: BrokerProcess, tmp_path: Path) -> None:
    with scripted_probe(broker.url) as probe:
        until(lambda: len(probe.statuses) == 1)
        with start_controller(broker.url, tmp_path / "data"), client(broker.url) as asker:
            asker.wait_controller()
            assert asker.start("paris").state == "waiting", "it has the whole time from the controller's start"
            until(lambda: probe.statuses[-1][0].state == "offline")


def test_an_offline_that_names_an_older_connection_is_ignored(broker: BrokerProcess, tmp_path: Path) -> None:
    with start_controller(broker.url, tmp_path / "data", offline_after_s=60), client(broker.url) as asker:
        asker.wait_controller()
        with scripted_probe(broker.url) as probe:
            asker.start("paris")
            old = probe.status("offline", "an-older-connection", reason="will")
            assert probe.bus.publish("probe/paris/status", old, retain=True).wait(5)
            assert asker.start("paris").state == "waiting"
        # Its own will or goodbye is believed.
        with scripted_probe(broker.url) as probe:
            asker.start("paris")
            probe.bus.publish("probe/paris/status", probe.status("offline", reason="stopped"), retain=True).wait(5)
            with pytest.raises(Failure) as caught:
                asker.start("paris")
            assert caught.value.code == "probe_offline"


def test_a_controller_that_was_paused_judges_nobody_for_it(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with (
        start_controller(mosquitto.url, tmp_path / "data") as controller,
        client(mosquitto.url) as asker,
        scripted_probe(mosquitto.url) as probe,
    ):
        asker.wait_controller()
        ticket = asker.start("paris")
        os.kill(controller.pid, signal.SIGSTOP)
        try:
            time.sleep(2.5)  # the pause itself is what is tested
        finally:
            os.kill(controller.pid, signal.SIGCONT)
        probe.say_online()
        probe.result(ticket.id)
        asker.wait_state(ticket.id, "done")
        assert {status.state for status, _ in probe.statuses} == {"online"}


# --- one controller ---------------------------------------------------------------------------------------------------
def test_one_data_folder_has_one_controller(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with start_controller(mosquitto.url, tmp_path / "data") as controller:
        second = ControllerProcess(mosquitto.url, tmp_path / "data", FAST)
        with pytest.raises(AssertionError, match="store_locked"):
            second.start()
        assert controller.running


def test_the_later_controller_gives_way_at_once(broker: BrokerProcess, tmp_path: Path) -> None:
    slow = {"status_period_s": 30, "offline_after_s": 60}
    with (
        start_controller(broker.url, tmp_path / "first", **slow) as first,
        client(broker.url) as asker,
        scripted_probe(broker.url) as probe,
    ):
        asker.wait_controller()
        second = ControllerProcess(broker.url, tmp_path / "second", slow)
        second.start()
        began = time.monotonic()
        assert second.failure() == "controller_exists"
        assert time.monotonic() - began < 3, "it asked, and did not wait for a heartbeat"
        second.stop()
        ticket = asker.start("paris")
        probe.wait_command(ticket.id)
        assert len(probe.commands) == 1
        assert asker.status.state == "online"
        assert first.running


@pytest.mark.parametrize(("age_s", "at_least_s", "at_most_s"), [(0, 1.5, 5), (3600, 0, 1.5)])
def test_a_status_left_behind_delays_a_start_but_does_not_stop_it(
    mosquitto: BrokerProcess, tmp_path: Path, age_s: float, at_least_s: float, at_most_s: float
) -> None:
    with client(mosquitto.url) as asker:
        _say(asker.bus, _foreign(at=_ago(age_s), started_at=_ago(age_s)))
        began = time.monotonic()
        with start_controller(mosquitto.url, tmp_path / "data", status_period_s=1.0):
            until(lambda: asker.statuses[-1].controller_id != "another-one")
            assert at_least_s <= time.monotonic() - began <= at_most_s


def test_an_ordinary_start_is_not_delayed(broker: BrokerProcess, tmp_path: Path) -> None:
    with client(broker.url) as asker, start_controller(broker.url, tmp_path / "data", status_period_s=15) as controller:
        until(lambda: asker.statuses)
        controller.kill()
        until(lambda: asker.status.state == "offline", what="its will")
        _say(asker.bus, asker.status.model_copy(update={"state": "online", "at": datetime.now(UTC)}))
        controller.start()
        ready = time.monotonic()
        until(lambda: len({status.started_at for status in asker.statuses}) == 2)
        assert time.monotonic() - ready < 1, "what it left behind itself is no rival"


def test_of_two_that_are_at_work_the_later_stops(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with (
        client(mosquitto.url) as asker,
        start_controller(mosquitto.url, tmp_path / "data", status_period_s=60, offline_after_s=90) as controller,
    ):
        asker.wait_controller()
        _say(asker.bus, _foreign())
        until(lambda: any(status.controller_id == "another-one" for status in asker.statuses))
        until(lambda: asker.status.controller_id != "another-one", what="it stays and says so")
        assert controller.running
        _say(asker.bus, _foreign(started_at=_ago(3600)))
        assert controller.failure() == "controller_exists"
        controller.stop()
        assert asker.status.controller_id == "another-one", "it does not write over the one that stays"


# --- restarts ---------------------------------------------------------------------------------------------------------
def test_a_killed_controller_goes_on_where_it_was(broker: BrokerProcess, tmp_path: Path) -> None:
    with (
        start_controller(broker.url, tmp_path / "data", offline_after_s=60) as controller,
        client(broker.url) as asker,
        scripted_probe(broker.url) as probe,
    ):
        asker.wait_controller()
        waiting, running, done = (asker.start("paris") for _ in range(3))
        probe.progress(running.id, "running")
        asker.wait_state(running.id, "running")
        controller.kill()
        sent = probe.wait_command(waiting.id)
        before = len(probe.commands)
        controller.start()
        until(lambda: len([c for c in probe.commands[before:] if c["id"] == waiting.id]) >= 1)
        assert sent in probe.commands[before:], "the very same command"
        assert not [c for c in probe.commands[before:] if c["id"] == running.id]
        until(lambda: asker.status.state == "online")
        for ticket in (waiting, running, done):
            probe.result(ticket.id)
            assert asker.wait_state(ticket.id, "done").summary.number == ticket.number
        assert asker.start("paris").number == done.number + 1


def test_a_broker_that_restarts_costs_nothing(broker: BrokerProcess, tmp_path: Path) -> None:
    with client(broker.url) as asker, scripted_probe(broker.url) as probe:
        progress = {"v": 1, "id": "left-behind", "seq": 1, "at": _ago(60), "state": "running"}
        probe.raw("progress", json.dumps(progress).encode(), retain=True)
        request = {"id": new_id(), "probe": "paris", "ping": {"target": "192.0.2.7"}}
        probe.bus.publish("client/x/request/test.start", json.dumps(request).encode(), retain=True).wait(5)
        with start_controller(broker.url, tmp_path / "data", offline_after_s=8) as controller:
            asker.wait_controller()
            ticket = asker.start("paris", speedtest={"target": "192.0.2.9"})
            probe.progress(ticket.id, "running")
            asker.wait_state(ticket.id, "running")
            if broker.kind == "embedded":
                time.sleep(0.5)  # until it has written down what it retains
            broker.restart(kill=True)
            assert probe.bus.wait_up(10)
            until(lambda: asker.bus.up and asker.requester.controller_online, 10)
            probe.say_online()

            def stored() -> bool:
                probe.result(ticket.id)
                time.sleep(0.1)
                return ticket.id in probe.stored

            until(stored, 10)
            asker.wait_state(ticket.id, "done")
            assert asker.page().total == 1, "what is retained on these topics is never taken"
            assert controller.running


def test_it_waits_for_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    with start_broker("mosquitto", tmp_path) as broker:
        broker.stop()
        with start_controller(broker.url, tmp_path / "data"):
            broker.start()
            with client(broker.url) as asker:
                asker.wait_controller(15)
                assert asker.page().total == 0


# --- the end ----------------------------------------------------------------------------------------------------------
def test_it_ends_quickly_under_load_and_keeps_what_it_acknowledged(broker: BrokerProcess, tmp_path: Path) -> None:
    with (
        start_controller(broker.url, tmp_path / "data", offline_after_s=60) as controller,
        client(broker.url) as asker,
        scripted_probe(broker.url) as probe,
    ):
        asker.wait_controller()
        enough = threading.Event()

        def flood() -> None:
            while not enough.is_set():
                probe.result(new_id())
                time.sleep(0.001)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            until(lambda: len(probe.stored) > 100)
            began = time.monotonic()
            controller.stop()
            took_s = time.monotonic() - began
        finally:
            enough.set()
            flooding.join()
        assert took_s < 2
        until(lambda: asker.status.state == "offline")
        acknowledged = set(probe.stored)
        controller.start()
        until(lambda: asker.status.state == "online")
        known = asker.page()
        assert known.total >= len(acknowledged)
        for test_id in list(acknowledged)[::20]:
            assert asker.get(test=test_id).summary.state == "done"


def test_a_lock_on_the_archive_does_not_hold_up_the_end(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with (
        start_controller(mosquitto.url, tmp_path / "data") as controller,
        client(mosquitto.url) as asker,
        scripted_probe(mosquitto.url) as probe,
    ):
        asker.wait_controller()
        lock = sqlite3.connect(tmp_path / "data/controller/archive.sqlite", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        for _ in range(300):
            probe.result(new_id())
        until(lambda: asker.status.problem is not None)
        began = time.monotonic()
        controller.stop()
        assert time.monotonic() - began < 2
        lock.close()
        assert probe.stored == []


def test_it_runs_inside_another_program(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    stop, ready = threading.Event(), threading.Event()
    details: list[str] = []

    def tell(detail: str) -> None:
        details.append(detail)
        ready.set()

    settings = Settings.model_validate({"data": tmp_path, "broker": {"url": mosquitto.url}, "controller": FAST})
    before = set(threading.enumerate())
    thread = threading.Thread(target=run, args=(settings, stop, tell))
    thread.start()
    assert ready.wait(10)
    with client(mosquitto.url) as asker:
        asker.wait_controller()
        began = time.monotonic()
        stop.set()
        thread.join(5)
        assert time.monotonic() - began < 2
        until(lambda: asker.status.state == "offline")
    assert details == [f"broker {BrokerUrl.parse(mosquitto.url)}, archive {tmp_path}/controller/archive.sqlite"]
    until(lambda: set(threading.enumerate()) <= before, what="no thread is left")


def test_an_asker_is_told_within_its_time_when_there_is_no_controller(mosquitto: BrokerProcess) -> None:
    asker: Asker
    with client(mosquitto.url) as asker:
        began = time.monotonic()
        with pytest.raises(Failure) as caught:
            asker.page()
        assert caught.value.code == "controller_unreachable"
        assert time.monotonic() - began < 3
