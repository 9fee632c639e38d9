"""The agent over real brokers: a command is run once and answered, a result is kept until it is acknowledged."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netloom.ids import new_id
from probe.service import run
from schemas import codec
from schemas.autotest import AutotestSet
from schemas.errors import Failure
from schemas.progress import Progress
from schemas.result import Result
from schemas.status import ProbeStatus
from tests.kit.brokers import BrokerProcess
from tests.kit.probes import ProbeProcess, Watcher, probe_settings, start_probe, watch
from tests.kit.wait import until

QUICK = {"target": "127.0.0.1", "count": 3, "timeout_s": 1, "interval_ms": 10}
LONG = {"target": "127.0.0.1", "count": 300, "timeout_s": 1, "interval_ms": 100}


@pytest.fixture
def probe(mosquitto: BrokerProcess, tmp_path: Path) -> Iterator[ProbeProcess]:
    with start_probe(mosquitto.url, tmp_path) as started:
        yield started


@pytest.fixture
def seen(mosquitto: BrokerProcess, probe: ProbeProcess) -> Iterator[Watcher]:
    with watch(mosquitto.url) as watcher:
        probe.wait_online(watcher)
        yield watcher


def _ended(seen: Watcher, test_id: str) -> Result:
    until(lambda: [found for found in seen.results if found.id == test_id], 10, f"the result of {test_id}")
    return next(found for found in seen.results if found.id == test_id)


def _more(seen: Watcher, than: int) -> None:
    until(lambda: len(seen.results) > than, what="a result was sent again")


def _rejected(seen: Watcher, test_id: str) -> Progress:
    until(lambda: "rejected" in seen.states(test_id), 8, f"the rejection of {test_id}")
    return seen.progress(test_id)[-1]


def test_a_ping_from_command_to_result(broker: BrokerProcess, tmp_path: Path) -> None:
    with start_probe(broker.url, tmp_path) as probe, watch(broker.url) as seen:
        status = probe.wait_online(seen)
        if not status.capabilities["ping"].available:
            pytest.skip("this user may not send ICMP")
        test_id = seen.command(ping=QUICK, comment="hello", number=7)
        result = _ended(seen, test_id)
        assert (result.status, result.number, result.comment, result.version) == ("done", 7, "hello", 1)
        assert result.packet_loss is not None
        assert result.packet_loss.packet_number == 0
        assert result.ping is not None
        assert result.ping.avg is not None
        assert 0 < result.ping.avg < 100
        assert result.probe_name == "paris"
        assert seen.states(test_id)[0] == "accepted"
        numbers = [found.seq for found in seen.progress(test_id)]
        assert numbers == sorted(set(numbers)), "seq rises"
        order = [
            m.topic.rsplit("/", 1)[1] for m in seen.messages if test_id.encode() in m.payload and b'"seq"' in m.payload
        ]
        assert order
        arrived = [
            i for i, m in enumerate(seen.messages) if m.topic.endswith("/result") and test_id.encode() in m.payload
        ]
        later = [
            m for m in seen.messages[arrived[0] :] if m.topic.endswith("/progress") and test_id.encode() in m.payload
        ]
        assert later == [], "no progress after the result"
        with watch(broker.url) as newcomer:
            until(lambda: newcomer.of("result", Result, retained=True))
            assert newcomer.of("result", Result, retained=True)[0].id == test_id


def test_a_command_without_an_id_gets_one(seen: Watcher) -> None:
    seen.raw("probe/paris/cmd", json.dumps({"ping": QUICK}).encode())
    until(lambda: seen.results)
    assert seen.results[0].origin == "mqtt"
    assert len(seen.results[0].id) == 36


def test_the_same_command_runs_once_also_after_a_restart(seen: Watcher, probe: ProbeProcess) -> None:
    test_id = new_id()
    for _ in range(3):
        seen.command(id=test_id, ping=QUICK)
    first = _ended(seen, test_id)
    seen.ack("paris", test_id)
    until(lambda: (found := seen.status()) and found.spool.waiting == 0 and not found.running)
    seen.command(id=test_id, ping=QUICK)
    until(lambda: "finished" in seen.states(test_id))
    probe.kill9()
    probe.start()
    until(lambda: (found := seen.status()) and found.state == "online" and found.counters.get("results", 0) == 0)
    before = len(seen.progress(test_id))
    seen.command(id=test_id, ping=QUICK)
    until(lambda: len(seen.progress(test_id)) > before)
    again = seen.progress(test_id)[-1]
    assert (again.state, again.outcome) == ("finished", "done")
    assert {found.version for found in seen.results if found.id == test_id} == {first.version}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"ping": {"target": "a b"}}, "bad_message", "ping.target"),
        ({"ping": {"target": "127.0.0.1", "count": 301}}, "bad_message", "ping.count"),
        ({"ping": {"target": "127.0.0.1"}, "colour": 1}, "bad_message", "colour"),
        ({"v": 999, "ping": {"target": "127.0.0.1"}}, "unsupported_version", "v"),
        ({"ping": {"target": "169.254.1.1"}}, "target_denied", "ping.target"),
        ({"ping": {"target": "224.0.0.1"}}, "target_denied", "ping.target"),
        ({"speedtest": {"target": "127.0.0.1"}, "loaded_latency": True}, "unsupported", "loaded_latency"),
        ({"ping": {"target": "127.0.0.1"}, "issued_at": "2001-01-01T00:00:00Z"}, "expired", None),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_field(
    seen: Watcher, fields: dict[str, Any], code: str, field: str | None
) -> None:
    if code == "expired":
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = {"state": "online", "controller_id": "double", "connection": "c", "at": now, "started_at": now}
        seen.raw("controller/status", json.dumps(status).encode())
        until(lambda: (found := seen.status()) and found.clock and found.clock.agrees, 20)
    refusal = _rejected(seen, seen.command(**fields))
    assert refusal.error is not None
    assert (refusal.error.code, refusal.field) == (code, field)
    assert seen.results == []


def test_a_probe_that_is_not_local_may_not_test_loopback(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with start_probe(mosquitto.url, tmp_path, allow_loopback=False) as probe, watch(mosquitto.url) as seen:
        probe.wait_online(seen)
        refusal = _rejected(seen, seen.command(ping=QUICK))
        assert refusal.error is not None
        assert refusal.error.code == "target_denied"
        assert "loopback" in refusal.error.message
        named = _ended(seen, seen.command(ping={"target": "localhost", "count": 3}))
        assert named.errors["ping"].code == "target_denied"
        assert (named.status, named.ping) == ("error", None)


def test_retained_and_stale_commands_are_left_alone(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with watch(mosquitto.url) as seen:
        seen.command(ping=QUICK, retain=True)
        with start_probe(mosquitto.url, tmp_path) as probe:
            probe.wait_online(seen)
            until(lambda: (found := seen.status()) and found.counters.get("retained_commands") == 1)
            assert seen.results == []


def test_garbage_is_counted_and_the_probe_lives(seen: Watcher) -> None:
    garbage = [b"hello", b"[]", b'{"a": NaN}', b"[" * 30_000, b"x" * 100_000, b"\xff"]
    for leaf in ("cmd", "ack", "autotests"):
        for payload in garbage:
            seen.bus.publish(f"probe/paris/{leaf}", payload)
    seen.bus.publish("controller/status", b'{"v": 1, "state": 3}')
    until(lambda: (found := seen.status()) and found.counters.get("garbage", 0) >= 3 * len(garbage) + 1)
    assert _ended(seen, seen.command(ping=QUICK)).status == "done"


def test_cancel_while_running_keeps_what_was_measured(seen: Watcher) -> None:
    test_id = seen.command(ping=LONG)
    until(lambda: "running" in seen.states(test_id))
    begin = time.monotonic()
    seen.command(kind="cancel", id=test_id)
    result = _ended(seen, test_id)
    assert time.monotonic() - begin < 2
    assert result.status == "cancelled"
    assert result.packet_number is not None
    assert 0 < result.packet_number < 300


def test_light_tests_run_side_by_side_up_to_a_limit(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with (
        start_probe(mosquitto.url, tmp_path, limits={"light_tests": 2}) as probe,
        watch(mosquitto.url) as seen,
    ):
        probe.wait_online(seen)
        first, second = seen.command(ping=LONG), seen.command(ping=LONG)
        until(lambda: "running" in seen.states(first) and "running" in seen.states(second))
        refusal = _rejected(seen, seen.command(ping=LONG))
        assert refusal.error is not None
        assert refusal.error.code == "probe_busy"


def test_a_result_is_sent_again_until_it_is_acknowledged(seen: Watcher) -> None:
    test_id = seen.command(ping=QUICK)
    _ended(seen, test_id)
    for start in ("2026-11-23T20:00:00Z", "2026-11-23T21:00:00Z"):
        before = len(seen.results)
        status = {"state": "online", "controller_id": "double", "connection": "c", "at": start, "started_at": start}
        seen.raw("controller/status", json.dumps(status).encode())
        _more(seen, before)
    seen.ack("paris", test_id)
    until(lambda: (found := seen.status()) and found.spool.waiting == 0)
    before = len(seen.results)
    later = seen.command(ping=QUICK)
    _ended(seen, later)
    assert [found.id for found in seen.results[before:]] == [later]


def test_a_refused_result_goes_into_quarantine(seen: Watcher, probe: ProbeProcess) -> None:
    test_id = seen.command(ping=QUICK)
    _ended(seen, test_id)
    seen.ack("paris", refused={test_id: "bad_message"})
    until(lambda: (found := seen.status()) and (found.spool.waiting, found.spool.quarantined) == (0, 1))
    (kept,) = (probe.folder / "spool" / "quarantine").iterdir()
    assert test_id in kept.name


def test_a_backlog_goes_newest_first_and_only_that_is_retained(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with start_probe(mosquitto.url, tmp_path) as probe:
        with watch(mosquitto.url) as seen:
            probe.wait_online(seen)
            for _ in range(3):
                _ended(seen, seen.command(ping=QUICK))
        mosquitto.kill()
        for kept in mosquitto.log.parent.glob("mosquitto.db*"):
            kept.unlink()
        mosquitto.start()
        with watch(mosquitto.url) as seen:
            until(lambda: len({found.version for found in seen.results}) == 3, 15)
            live = [found.version for found in seen.of("result", Result, retained=False)]
            retained = [found.version for found in seen.of("result", Result, retained=True)]
            assert set(retained) <= {3}
            assert live in ([3, 1, 2], [1, 2])
        with watch(mosquitto.url) as newcomer:
            until(lambda: newcomer.of("result", Result, retained=True))
            assert newcomer.of("result", Result, retained=True)[0].version == 3


def test_an_acknowledged_newest_result_is_restored_where_it_is_missing(seen: Watcher, mosquitto: BrokerProcess) -> None:
    test_id = seen.command(ping=QUICK)
    _ended(seen, test_id)
    seen.ack("paris", test_id)
    until(lambda: (found := seen.status()) and found.spool.waiting == 0)
    mosquitto.kill()
    for kept in mosquitto.log.parent.glob("mosquitto.db*"):
        kept.unlink()
    mosquitto.start()
    with watch(mosquitto.url) as newcomer:
        until(lambda: newcomer.results, 15, "the retained result is back")
        assert newcomer.results[0].id == test_id


@pytest.mark.parametrize("payload", [b"", b"garbage"])
def test_a_retained_result_that_was_written_over_is_restored(
    seen: Watcher, mosquitto: BrokerProcess, payload: bytes
) -> None:
    test_id = seen.command(ping=QUICK)
    _ended(seen, test_id)
    seen.ack("paris", test_id)
    until(lambda: (found := seen.status()) and found.spool.waiting == 0)
    before = len([m for m in seen.messages if m.topic == "probe/paris/result"])
    seen.raw("probe/paris/result", payload, retain=True)
    until(lambda: len([m for m in seen.messages if m.topic == "probe/paris/result"]) == before + 2)
    with watch(mosquitto.url) as newcomer:
        until(lambda: newcomer.results)
        assert newcomer.results[0].id == test_id


def test_a_probe_that_lost_its_disk_goes_on_from_the_retained_version(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with watch(mosquitto.url, acks=True) as seen:
        with start_probe(mosquitto.url, tmp_path, data=tmp_path / "one") as probe:
            probe.wait_online(seen)
            _ended(seen, seen.command(ping=QUICK))
            _ended(seen, seen.command(ping=QUICK))
        until(lambda: (found := seen.status()) and found.state == "offline")
        with start_probe(mosquitto.url, tmp_path, data=tmp_path / "two") as probe:
            probe.wait_online(seen)
            assert _ended(seen, seen.command(ping=QUICK)).version == 3


def test_a_kill_mid_test_is_told_after_the_restart(seen: Watcher, probe: ProbeProcess) -> None:
    test_id = seen.command(ping=LONG)
    until(lambda: "running" in seen.states(test_id))
    probe.kill9()
    probe.start()
    result = _ended(seen, test_id)
    assert result.status == "error"
    assert result.errors["ping"].code == "probe_restarted"
    assert result.ping is None


def test_a_stop_ends_tests_and_says_goodbye(seen: Watcher, probe: ProbeProcess) -> None:
    test_id = seen.command(ping=LONG)
    until(lambda: "running" in seen.states(test_id))
    begin = time.monotonic()
    assert probe.stop() == 0
    assert time.monotonic() - begin < 2
    until(lambda: (found := seen.status()) and found.state == "offline")
    status = seen.status()
    assert status is not None
    assert status.reason == "stopped"
    probe.start()
    assert _ended(seen, test_id).status == "cancelled"


def test_a_lost_probe_is_reported_by_its_will(seen: Watcher, probe: ProbeProcess) -> None:
    online = probe.wait_online(seen)
    probe.kill9()
    until(lambda: (found := seen.status()) and found.state == "offline")
    status = seen.status()
    assert status is not None
    assert (status.reason, status.connection) == ("will", online.connection)


def test_two_with_one_name_do_not_flap(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with watch(mosquitto.url, acks=True) as seen, start_probe(mosquitto.url, tmp_path, data=tmp_path / "one") as first:
        online = first.wait_online(seen)
        with start_probe(mosquitto.url, tmp_path, data=tmp_path / "two") as second:
            until(lambda: "another probe is connected" in second.log.read_text())
            test_id = seen.command(ping=QUICK)
            assert _ended(seen, test_id).id == test_id
            time.sleep(1.0)  # long enough for an answer of the second, if it gave one
            assert seen.states(test_id).count("accepted") == 1
            assert {found.instance for found in seen.of("status", ProbeStatus)} == {online.instance}
            first.stop()
            until(
                lambda: (found := seen.status()) and found.state == "online" and found.instance != online.instance, 15
            )
            other = seen.command(ping=QUICK)
            assert _ended(seen, other).status == "done"


def test_the_set_of_autotests_follows_its_revision(seen: Watcher, probe: ProbeProcess) -> None:
    def offer(controller: str, revision: int) -> None:
        fields = {"controller_id": controller, "revision": revision, "autotests": []}
        seen.bus.publish("probe/paris/autotests", codec.validate(AutotestSet, fields))

    def stored() -> tuple[str | None, int]:
        status = seen.status()
        assert status is not None
        return status.autotests.controller_id, status.autotests.revision

    offer("controller-a", 5)
    until(lambda: stored() == ("controller-a", 5))
    offer("controller-a", 4)
    seen.bus.publish("probe/paris/autotests", b"")
    offer("controller-b", 1)
    until(lambda: stored() == ("controller-b", 1))
    probe.kill9()
    probe.start()
    until(lambda: (found := seen.status()) and found.state == "online")
    assert stored() == ("controller-b", 1)


def test_without_a_broker_it_waits_and_comes_up(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    mosquitto.stop()
    with start_probe(mosquitto.url, tmp_path) as probe:
        mosquitto.start()
        with watch(mosquitto.url) as seen:
            probe.wait_online(seen)
            assert _ended(seen, seen.command(ping=QUICK)).status == "done"


def test_a_probe_without_a_name_does_not_start(tmp_path: Path) -> None:
    settings = probe_settings("mqtt://127.0.0.1:1", tmp_path)
    nameless = settings.model_copy(update={"probe": settings.probe.model_copy(update={"name": None})})
    with pytest.raises(Failure) as caught:
        run(nameless, threading.Event(), lambda _: None)
    assert caught.value.code == "config_value"
    assert "probe.name" in caught.value.info.message


def test_one_folder_has_one_probe(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with start_probe(mosquitto.url, tmp_path) as probe:
        with pytest.raises(Failure) as caught:
            run(probe.settings, threading.Event(), lambda _: None)
        assert caught.value.code == "store_locked"
        assert str(probe.pid) in caught.value.info.message
