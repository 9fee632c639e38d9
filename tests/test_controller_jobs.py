"""The job table in slow motion: every test ends in one final state, whatever the probe, the clock or the disk does."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from controller import deadlines
from schemas import error
from schemas import request as ask
from schemas.command import PingSpec, SpeedtestSpec
from schemas.command import TestParts as Parts
from schemas.errors import Failure
from schemas.status import ProbeStatus
from tests.kit.jobbench import GRACE_S, Bench

PING_S = 10 * 0.02 + 3.0 + deadlines.RESOLVE_S


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.database.close()


# --- commands ---------------------------------------------------------------------------------------------------------
def test_a_command_says_everything_and_is_sent_until_it_is_answered(bench: Bench) -> None:
    ticket = bench.start(comment="first", origin="web", ttl_s=30)
    bench.pass_time(5)
    assert [topic for topic, _ in bench.wire.sent] == ["probe/paris/cmd"] * 3, "every 2 s"
    assert len({message.model_dump_json() for message in bench.runs}) == 1
    command = bench.runs[0]
    assert (command.id, command.number, command.origin, command.comment) == (ticket.id, 1, "web", "first")
    assert (command.ttl_s, command.issued_at) == (30, datetime(2026, 11, 23, 20, 0, tzinfo=UTC))
    assert command.ping == PingSpec(target="192.0.2.7", count=10)
    bench.say(ticket.id, "accepted")
    bench.pass_time(10)
    assert len(bench.runs) == 3
    assert bench.state(ticket.id) == "accepted"


def test_the_same_request_is_the_same_test(bench: Bench) -> None:
    first = bench.start()
    bench.say(first.id, "running")
    again = bench.start(ping=PingSpec(target="192.0.2.99"))
    assert (again.id, again.number, again.state) == (first.id, first.number, "running")
    assert len(bench.runs) == 1
    assert bench.start("request-2").number == 2


def test_the_request_of_a_deleted_test_starts_nothing(bench: Bench) -> None:
    ticket = bench.start()
    bench.cancel(ticket.id)

    def delete(conn: Connection) -> None:
        row = bench.archive.by_id(conn, ticket.id)
        assert row is not None
        bench.archive.delete(conn, row, bench.clock.now())

    bench.do(delete)
    with pytest.raises(Failure) as caught:
        bench.start()
    assert caught.value.code == "test_not_found"


def test_an_unknown_or_absent_probe_gets_nothing(bench: Bench) -> None:
    with pytest.raises(Failure) as unknown:
        bench.start(probe="tokyo")
    bench.online("paris", state="offline", since="2026-11-23T19:00:00Z")
    with pytest.raises(Failure) as offline:
        bench.start()
    assert (unknown.value.code, unknown.value.field) == ("probe_unknown", "probe")
    assert (offline.value.code, offline.value.field) == ("probe_offline", "probe")
    assert "since 2026-11-23T19:00:00.000Z" in offline.value.info.message
    assert bench.wire.sent == []
    assert len(bench.jobs) == 0


# --- to the end -------------------------------------------------------------------------------------------------------
def test_a_test_nobody_takes_expires_and_a_late_result_replaces_that_once(bench: Bench) -> None:
    ticket = bench.start(ttl_s=7)
    bench.pass_time(6.5)
    assert bench.state(ticket.id) == "waiting"
    bench.pass_time(1)
    row = bench.row(ticket.id)
    assert row.state == "expired"
    assert row.error is not None
    assert (row.error.code, row.ended_at) == ("not_answered", bench.clock.now() - timedelta(seconds=0.5))
    sent = len(bench.wire.sent)
    bench.pass_time(5)
    assert len(bench.wire.sent) == sent
    bench.say(ticket.id, "running")
    assert bench.state(ticket.id) == "expired", "only a result replaces it"
    bench.result(ticket.id)
    bench.result(ticket.id, status="error")
    assert bench.state(ticket.id) == "done"


def test_states_only_move_on(bench: Bench) -> None:
    ticket = bench.start()
    seen = []
    for state in ("queued", "queued", "accepted", "queued", "running", "accepted", "running"):
        bench.say(ticket.id, state)
        seen.append(bench.state(ticket.id))
    assert seen == ["queued", "queued", "accepted", "accepted", "running", "running", "running"]
    bench.say(ticket.id, "rejected", error=error("probe_busy", probe="paris").model_dump())
    assert bench.state(ticket.id) == "running", "what runs is ended by its result"


@pytest.mark.parametrize("before", [[], ["queued"], ["queued", "accepted"]])
def test_a_refusal_is_final(bench: Bench, before: list[str]) -> None:
    ticket = bench.start()
    for state in before:
        bench.say(ticket.id, state)
    bench.say(ticket.id, "rejected", error=error("probe_busy", probe="paris", running=1, queued=4).model_dump())
    row = bench.row(ticket.id)
    assert row.state == "rejected"
    assert row.error is not None
    assert row.error.code == "probe_busy"
    bench.say(ticket.id, "running")
    bench.pass_time(5)
    assert bench.state(ticket.id) == "rejected"
    assert len(bench.runs) == 1


def test_a_silent_test_is_flagged_until_it_speaks(bench: Bench) -> None:
    ticket = bench.start(speedtest=SpeedtestSpec(target="192.0.2.9"))
    bench.say(ticket.id, "running")
    bench.pass_time(9)
    assert not bench.row(ticket.id).silent
    bench.pass_time(2)
    assert bench.row(ticket.id).silent
    bench.say(ticket.id, "running")
    assert not bench.row(ticket.id).silent
    bench.pass_time(11)
    assert bench.row(ticket.id).silent
    bench.result(ticket.id)
    assert not bench.row(ticket.id).silent


def test_a_test_without_a_result_is_lost_at_its_deadline_and_comes_back_late(bench: Bench) -> None:
    ticket = bench.start()
    bench.say(ticket.id, "running")
    bench.online("paris", state="offline")
    bench.pass_time(PING_S + GRACE_S - 1)
    assert bench.state(ticket.id) == "running", "offline is not lost"
    bench.pass_time(2)
    row = bench.row(ticket.id)
    assert row.state == "lost"
    assert row.error is not None
    assert row.error.code == "lost"
    assert len(bench.jobs) == 0
    bench.result(ticket.id, status="cancelled")
    bench.result(ticket.id, status="done")
    assert bench.state(ticket.id) == "cancelled"


@pytest.mark.parametrize("state", ["queued", "accepted"])
def test_a_test_that_never_begins_is_lost_too(bench: Bench, state: str) -> None:
    ticket = bench.start()
    bench.say(ticket.id, state)
    bench.pass_time(PING_S + GRACE_S + 5)
    assert bench.state(ticket.id) == state, "it may wait for others"
    bench.clock.run(deadlines.QUEUE_S)
    bench.tick()
    assert bench.state(ticket.id) == "lost"


def test_the_probe_knows_better_how_long_it_takes(bench: Bench) -> None:
    ticket = bench.start()
    bench.say(ticket.id, "running", eta_s=100)
    bench.pass_time(50)
    bench.say(ticket.id, "running", eta_s=90)
    bench.pass_time(95)
    assert bench.state(ticket.id) == "running"
    bench.pass_time(10)
    assert bench.state(ticket.id) == "lost"
    endless = bench.start("request-2")
    bench.say(endless.id, "running", eta_s=1e300)
    bench.clock.run(deadlines.ANY_S + deadlines.QUEUE_S + GRACE_S + 1)
    bench.tick()
    assert bench.state(endless.id) == "lost"


def test_a_restarted_probe_has_a_moment_to_explain_itself(bench: Bench) -> None:
    bench.online("paris", started_at="2026-11-23T19:00:00Z")
    ticket = bench.start(speedtest=SpeedtestSpec(target="192.0.2.9", duration_s=60))
    bench.say(ticket.id, "running")
    assert not bench.online("paris", started_at="2026-11-23T19:00:00Z")
    assert bench.online("paris", started_at="2026-11-23T20:00:05Z")
    bench.do(lambda conn: bench.jobs.restarted(conn, "paris"))
    bench.pass_time(deadlines.RESTARTED_S + GRACE_S - 1)
    assert bench.state(ticket.id) == "running"
    bench.pass_time(2)
    assert bench.state(ticket.id) == "lost"


def test_finished_waits_for_the_result_a_while(bench: Bench) -> None:
    ticket = bench.start()
    bench.say(ticket.id, "finished", outcome="done")
    bench.pass_time(60)
    assert len(bench.runs) == 1
    assert bench.state(ticket.id) == "accepted"
    bench.pass_time(deadlines.FINISHED_S + GRACE_S - 59)
    assert bench.state(ticket.id) == "lost"


# --- cancelling -------------------------------------------------------------------------------------------------------
def test_cancelling_what_waits_ends_it_at_once(bench: Bench) -> None:
    ticket = bench.start()
    assert bench.cancel(ticket.id).state == "cancelled"
    bench.pass_time(10)
    assert (len(bench.runs), len(bench.cancels)) == (1, 1)
    assert bench.cancels[0].id == ticket.id
    bench.say(ticket.id, "running")
    bench.pass_time(1)
    assert len(bench.cancels) == 2, "the probe had it already"
    bench.result(ticket.id, status="cancelled")
    bench.pass_time(5)
    assert len(bench.cancels) == 2
    assert bench.row(ticket.id).duration_s is not None, "what it measured until then is kept"


def test_cancelling_what_runs_is_asked_until_it_ends(bench: Bench) -> None:
    ticket = bench.start()
    bench.say(ticket.id, "running")
    assert bench.cancel(ticket.id).state == "running"
    bench.pass_time(5)
    assert len(bench.cancels) == 3
    bench.restart()
    bench.pass_time(1)
    assert len(bench.cancels) == 4, "a restart forgets no wish"
    bench.result(ticket.id, status="cancelled")
    bench.pass_time(5)
    assert len(bench.cancels) == 4
    with pytest.raises(Failure) as caught:
        bench.cancel(ticket.id)
    assert caught.value.code == "test_final"


# --- tests of others --------------------------------------------------------------------------------------------------
def test_a_test_begun_elsewhere_is_seen_and_ended(bench: Bench) -> None:
    bench.say("elsewhere-1", "running", eta_s=20)
    row = bench.row("elsewhere-1")
    assert (row.state, row.origin, row.number, row.probe) == ("running", "mqtt", 1, "paris")
    bench.say("elsewhere-1", "running", eta_s=60, probe="berlin")
    assert len(bench.jobs) == 2, "the id belongs to the probe"
    bench.pass_time(29)
    bench.say("elsewhere-1", "running", eta_s=1)
    assert bench.state("elsewhere-1") == "running"
    bench.pass_time(2)
    assert bench.state("elsewhere-1") == "lost"
    bench.say("elsewhere-2", "accepted")
    bench.restart()
    assert bench.state("elsewhere-2") == "accepted"
    bench.cancel("elsewhere-2")
    bench.tick()
    assert bench.cancels[-1].id == "elsewhere-2"


@pytest.mark.parametrize("state", ["rejected", "finished"])
def test_refusals_and_echoes_of_unknown_tests_leave_nothing(bench: Bench, state: str) -> None:
    bench.say("elsewhere-1", state)
    assert len(bench.jobs) == 0
    assert bench.do(lambda conn: bench.archive.by_id(conn, "elsewhere-1")) is None


# --- restarts, clocks, disks ------------------------------------------------------------------------------------------
def test_a_restart_goes_on_sending_within_the_time_to_live(bench: Bench) -> None:
    ticket = bench.start(ttl_s=30, comment="c")
    bench.restart(after_s=10)
    bench.pass_time(3)
    assert len(bench.runs) == 3
    assert bench.runs[0] == bench.runs[-1], "the very same command"
    bench.restart(after_s=20)
    sent = len(bench.runs)
    bench.pass_time(GRACE_S - 1)
    assert len(bench.runs) == sent, "too old to be sent"
    assert bench.state(ticket.id) == "waiting", "but its probe may have taken it meanwhile"
    bench.pass_time(2)
    assert bench.state(ticket.id) == "expired"


def test_a_deadline_survives_a_restart(bench: Bench) -> None:
    ticket = bench.start()
    bench.say(ticket.id, "running")
    bench.restart(after_s=5)
    bench.pass_time(PING_S + GRACE_S - 5 - 1)
    assert bench.state(ticket.id) == "running"
    bench.pass_time(2)
    assert bench.state(ticket.id) == "lost"


def test_after_a_long_absence_results_get_a_moment_to_arrive(bench: Bench) -> None:
    ticket = bench.start()
    bench.say(ticket.id, "running")
    bench.restart(after_s=3600)
    bench.pass_time(GRACE_S - 1)
    assert bench.state(ticket.id) == "running"
    bench.pass_time(2)
    assert bench.state(ticket.id) == "lost"


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-20_000)])
def test_a_clock_that_jumps_ends_no_test_and_keeps_none_for_ever(bench: Bench, jump: timedelta) -> None:
    waiting, running = bench.start("request-1"), bench.start("request-2")
    bench.say(running.id, "running")
    bench.clock.wall += jump
    bench.pass_time(10)
    assert (bench.state(waiting.id), bench.state(running.id)) == ("waiting", "running")
    bench.restart()
    bench.clock.run(60 + deadlines.ANY_S + deadlines.QUEUE_S + GRACE_S)
    bench.tick()
    assert (bench.state(waiting.id), bench.state(running.id)) == ("expired", "lost")


def test_nobody_is_judged_while_this_side_is_cut_off(bench: Bench) -> None:
    waiting, running = bench.start("request-1", ttl_s=5), bench.start("request-2")
    bench.say(running.id, "running")
    bench.wire.up = False
    bench.pass_time(60)
    assert (bench.state(waiting.id), bench.state(running.id)) == ("waiting", "running")
    assert not bench.row(running.id).silent
    bench.wire.up = True
    bench.jobs.excuse()
    bench.pass_time(GRACE_S - 1)
    assert (bench.state(waiting.id), bench.state(running.id)) == ("expired", "running")
    bench.pass_time(2)
    assert bench.state(running.id) == "lost"


def test_a_failed_commit_takes_memory_back_to_the_archive(bench: Bench) -> None:
    kept = bench.start("request-1")

    def half(conn: Connection) -> None:
        bench.jobs.start(conn, ask.TestStart(id="request-2", probe="paris", ping=PingSpec(target="192.0.2.8")))
        bench.jobs.cancel(conn, ask.TestCancel(id="request-3", test=kept.id))
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        bench.do(half)
    bench.do(bench.jobs.load)
    bench.pass_time(3)
    assert {command.id for command in bench.runs} == {kept.id}
    assert bench.state(kept.id) == "waiting"


# --- the registry -----------------------------------------------------------------------------------------------------
def test_a_missing_probe_is_declared_offline_as_it_was(bench: Bench) -> None:
    said: list[tuple[str, ProbeStatus]] = []
    bench.online("paris", connection="c2", version="1.0", address="192.0.2.1")
    before = bench.registry.get("paris")
    bench.clock.run(44)
    bench.registry.declare_missing(lambda name, status: said.append((name, status)))
    assert said == []
    bench.clock.run(2)
    bench.registry.declare_missing(lambda name, status: said.append((name, status)))
    bench.registry.declare_missing(lambda name, status: said.append((name, status)))
    assert [name for name, _ in said] == ["paris"]
    offline = said[0][1]
    assert before is not None
    now = bench.clock.now()
    assert offline == before.model_copy(update={"state": "offline", "reason": "deadline", "at": now, "since": now})
    assert bench.registry.get("paris") == offline


def test_a_declaration_that_cannot_be_sent_is_sent_later(bench: Bench) -> None:
    bench.clock.run(50)
    bench.wire.up = False
    with pytest.raises(Failure):
        bench.registry.declare_missing(bench.wire.publish)
    found = bench.registry.get("paris")
    assert found is not None
    assert found.state == "online"
    bench.registry.excuse()
    bench.wire.up = True
    bench.registry.declare_missing(bench.wire.publish)
    assert bench.wire.sent == [], "after a gap everybody has the whole time again"


def test_an_offline_of_an_older_connection_is_ignored(bench: Bench) -> None:
    bench.online("paris", connection="new")
    bench.online("paris", state="offline", connection="old", reason="will")
    found = bench.registry.get("paris")
    assert found is not None
    assert found.state == "online"
    bench.online("paris", state="offline", connection="new", reason="will")
    found = bench.registry.get("paris")
    assert found is not None
    assert found.state == "offline"


def test_nothing_takes_longer_than_the_longest() -> None:
    parts = Parts(
        ping=PingSpec(target="a", count=300, interval_ms=10_000, timeout_s=10),
        speedtest=SpeedtestSpec(target="a", duration_s=60, omit_s=10, busy_retries=10),
        loaded_latency=True,
    )
    assert 3000 < deadlines.longest_s(parts) <= deadlines.ANY_S
    assert deadlines.longest_s(Parts(ping=PingSpec(target="a", count=10))) == pytest.approx(PING_S)
