"""What may go wrong in a probe: garbage on every topic, stops, bad disks. It goes on, and says so."""

import itertools
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netloom.ids import new_id
from probe.journal import Journal
from probe.kinds.base import Outcome
from probe.spool import Spool
from schemas import codec
from schemas.result import Result
from tests.kit.agents import Kinds, run_agent
from tests.kit.brokers import BrokerProcess
from tests.kit.probes import Watcher, probe_settings, start_probe, watch
from tests.kit.results import make_result
from tests.kit.wait import until

PING = {"target": "192.0.2.7"}
SPEED = {"target": "192.0.2.9"}


def ended(seen: Watcher, test_id: str, timeout_s: float = 8.0) -> Result:
    until(lambda: [found for found in seen.results if found.id == test_id], timeout_s, f"result of {test_id}")
    return next(found for found in seen.results if found.id == test_id)


# --- garbage --------------------------------------------------------------------------------------------------------


def garbage() -> Iterator[bytes]:
    """What a hostile or broken client might send, the same in each run."""
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    whole = json.dumps({"v": 1, "id": new_id(), "ping": PING, "type": "result", "state": "online"}).encode()
    yield from (
        b"",
        b"null",
        b"3",
        b"[]",
        b'""',
        b"{",
        b"\xff\xfe",
        b"\x00",
        b'{"v": 999}',
        b'{"v": true}',
        b'{"v": "1"}',
    )
    yield from (
        b'{"id": NaN}',
        b'{"version": 1e999}',
        b'{"id": ' + b"9" * 5_000 + b"}",
        b'{"a":' * 5_000,
        b"[" * 30_000,
    )
    yield from (
        b"x" * 300_000,
        b'{"id": "\\ud800"}',
        b'{"id": "<script>", "id": {"id": []}}',
        b'{"ping": {"target": "\\u0000"}}',
    )
    yield from (
        b'{"stored": [1, null], "refused": [{}]}',
        b'{"stored": "abc"}',
        b'{"refused": [{"id": "' + b"i" * 9_000 + b'"}]}',
    )
    for _ in range(60):
        bad = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        yield bytes(bad[: chance.randint(1, len(bad))])


def test_garbage_on_every_topic_leaves_the_probe_alive(broker: BrokerProcess, tmp_path: Path) -> None:
    kinds = Kinds(ping_s=0.02)
    with watch(broker.url) as seen, run_agent(broker.url, tmp_path, kinds) as agent:
        until(seen.status)
        threads = {thread.name for thread in threading.enumerate()}
        topics = [f"probe/paris/{leaf}" for leaf in ("cmd", "ack", "status", "result", "autotests")]
        for topic, payload in itertools.product([*topics, "controller/status"], garbage()):
            seen.bus.publish(topic, payload, qos=0)
        seen.messages.clear()
        test_id = seen.command(ping=PING)
        until(
            lambda: any(
                test_id.encode() in message.payload and message.topic.endswith("/result") for message in seen.messages
            ),
            20,
        )
        assert agent.bus.counters["handler_errors"] == 0
        assert agent.bus.counters["garbage"] > 6 * 50
        assert threads <= {thread.name for thread in threading.enumerate()}


def test_garbage_that_is_retained_is_replaced_on_the_next_connection(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    kinds = Kinds(ping_s=0.02)
    with watch(mosquitto.url) as seen:
        with run_agent(mosquitto.url, tmp_path, kinds):
            until(seen.status)
            test_id = seen.command(ping=PING)
            ended(seen, test_id)
            seen.ack("paris", test_id)
            until(lambda: (found := seen.status()) and found.spool.waiting == 0)
        for leaf in ("result", "status", "autotests"):
            seen.raw(f"probe/paris/{leaf}", b"garbage", retain=True)
    with run_agent(mosquitto.url, tmp_path, kinds), watch(mosquitto.url) as seen:

        def newest(leaf: str) -> bytes:
            return next((found.payload for found in reversed(seen.messages) if found.topic.endswith(leaf)), b"")

        until(lambda: test_id.encode() in newest("/result"))
        until(lambda: b'"online"' in newest("/status"))


# --- stops and restarts -----------------------------------------------------------------------------------------------


def test_a_stop_ends_everything_in_time(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    kinds = Kinds()
    with watch(mosquitto.url) as seen:
        with run_agent(mosquitto.url, tmp_path, kinds):
            until(seen.status)
            light, heavy, waiting = (
                seen.command(ping=PING),
                seen.command(speedtest=SPEED),
                seen.command(speedtest=SPEED),
            )
            until(lambda: "queued" in seen.states(waiting) and "running" in seen.states(heavy) + seen.states(light))
            begin = time.monotonic()
        assert time.monotonic() - begin < 2
        until(lambda: "rejected" in seen.states(waiting))
        refusal = seen.progress(waiting)[-1].error
        assert refusal is not None
        assert refusal.code == "probe_stopping"
        assert {ended(seen, light).status, ended(seen, heavy).status} == {"cancelled"}
        until(lambda: (found := seen.status()) and (found.state, found.reason) == ("offline", "stopped"))
        with run_agent(mosquitto.url, tmp_path, kinds):
            until(lambda: (found := seen.status()) and (found.state, found.spool.waiting) == ("online", 2))
    assert seen.results[-1].id in (light, heavy)


def test_a_stop_does_not_wait_for_a_kind_that_hangs(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    kinds, hang = Kinds(ping_s=0.01), threading.Event()
    kinds.ping.outcome = lambda _: Outcome(cancelled=hang.wait(20))
    with watch(mosquitto.url) as seen:
        with run_agent(mosquitto.url, tmp_path, kinds):
            until(seen.status)
            test_id = seen.command(ping=PING)
            until(lambda: "running" in seen.states(test_id))
            begin = time.monotonic()
        assert time.monotonic() - begin < 2
        hang.set()


def test_what_waited_at_a_kill_is_refused_after_the_restart(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    with start_probe(mosquitto.url, tmp_path) as probe, watch(mosquitto.url) as seen:
        probe.wait_online(seen)
        # Its first part, a long ping, keeps the slot of throughput; nothing has to listen for the second.
        running = seen.command(
            ping={"target": "127.0.0.1", "count": 300, "interval_ms": 100}, speedtest={"target": "127.0.0.1"}
        )
        waiting = seen.command(speedtest={"target": "127.0.0.1"})
        until(lambda: "queued" in seen.states(waiting))
        probe.kill9()
        probe.start()
        until(lambda: "rejected" in seen.states(waiting), 15)
        refusal = seen.progress(waiting)[-1].error
        assert refusal is not None
        assert refusal.code == "probe_restarted"
        result = ended(seen, running, 15)
        assert {part: reason.code for part, reason in result.errors.items()} == dict.fromkeys(
            ("ping", "speedtest"), "probe_restarted"
        )
        numbers = [found.seq for found in seen.progress(waiting)]
        assert numbers == sorted(set(numbers))


def test_an_id_is_on_disk_before_it_is_said_to_be_accepted(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    kinds = Kinds()
    with watch(mosquitto.url) as seen, run_agent(mosquitto.url, tmp_path, kinds):
        known: list[bool] = []

        def look(test_id: str) -> None:
            until(lambda: "accepted" in seen.states(test_id))
            known.append(Journal(tmp_path / "probe-paris" / "journal.jsonl").get(test_id) is not None)

        until(seen.status)
        for _ in range(3):
            look(seen.command(ping=PING))
        kinds.release()
    assert known == [True] * 3


# --- the disk -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "netloom-test", folder], check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_probe_goes_on_while_its_disk_is_read_only(mosquitto: BrokerProcess, disk: Path) -> None:
    kinds = Kinds(ping_s=0.02)
    with watch(mosquitto.url) as seen, run_agent(mosquitto.url, disk, kinds):
        until(seen.status)
        ended(seen, seen.command(ping=PING))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        test_id = seen.command(ping=PING)
        assert ended(seen, test_id).status == "done"
        until(lambda: (found := seen.status()) and found.spool.degraded is not None)
        status = seen.status()
        assert status is not None
        assert status.problem is not None
        assert (status.problem.code, status.spool.waiting) == ("spool_degraded", 2)
        seen.command(id=test_id, ping=PING)
        until(lambda: (found := seen.status()) and found.counters.get("duplicates") == 1)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        until(lambda: (found := seen.status()) and (found.spool.degraded, found.problem) == (None, None))
    assert len(kinds.ping.runs) == 2
    assert len(list((disk / "probe-paris" / "spool").glob("0*.json"))) == 2


def test_a_probe_starts_on_a_disk_it_cannot_write_to(mosquitto: BrokerProcess, tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with start_probe(mosquitto.url, tmp_path, data=disk) as probe, watch(mosquitto.url) as seen:
        probe.wait_online(seen)
        result = ended(seen, seen.command(ping={"target": "127.0.0.1", "count": 2, "interval_ms": 10}))
        assert result.version == 1
        until(lambda: (found := seen.status()) and found.problem is not None)


# --- a backlog ------------------------------------------------------------------------------------------------------------


def test_a_backlog_is_delivered_once_each_and_a_live_result_overtakes_it(broker: BrokerProcess, tmp_path: Path) -> None:
    settings = probe_settings(broker.url, tmp_path)
    spool = Spool(tmp_path / "probe-paris" / "spool", settings.probe.spool_max)
    for version in range(1, 301):
        result = make_result(id=f"backlog-{version:04}", version=version)
        spool.add(lambda _, result=result: (result, codec.encode(result)))  # type: ignore[misc]  # bound early
    kinds = Kinds(ping_s=0.01)
    with watch(broker.url, acks=True) as seen, run_agent(broker.url, tmp_path, kinds):
        until(lambda: len(seen.results) >= 20)
        test_id = seen.command(ping=PING)
        begin = time.monotonic()
        ended(seen, test_id)
        assert time.monotonic() - begin < 2
        until(lambda: (found := seen.status()) and found.spool.waiting == 0, 20)
        versions = [found.version for found in seen.results]
        assert sorted(versions) == list(range(1, 302)), "each once"
        assert versions[0] == 300
        backlog = [version for version in versions if version < 300]
        assert backlog == sorted(backlog)
    with watch(broker.url) as newcomer:
        until(lambda: newcomer.results)
        assert newcomer.results[0].id == test_id


def test_settings_of_the_status(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"announce_address": "198.51.100.7", "announce_port": 4242}
    with watch(mosquitto.url) as seen, run_agent(mosquitto.url, tmp_path, Kinds(), **fields):
        until(seen.status)
        status = seen.status()
    assert status is not None
    assert (status.announced.address, status.announced.port) == ("198.51.100.7", 4242)
    assert (status.address, status.version, status.result_version) == ("127.0.0.1", "0.1.0", 0)
    assert status.platform
    assert status.limits["allow_loopback"] is True
