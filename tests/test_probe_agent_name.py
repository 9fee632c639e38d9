"""Two probes with one name: on paper with the clock in hand, and in fast motion over real brokers."""

from datetime import timedelta
from pathlib import Path

from probe.guard import NameGuard
from probe.timing import Periods
from schemas.status import ProbeStatus
from tests.kit.agents import FAST, FakeClock, Kinds, run_agent
from tests.kit.brokers import BrokerProcess
from tests.kit.probes import Watcher, watch
from tests.kit.wait import until

PERIODS = Periods()


class Bench:
    """This probe's guard, and what another instance says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.guard = NameGuard("paris", "ours", self.clock.now(), clock=self.clock, periods=PERIODS)

    def hear(
        self,
        instance: str = "other",
        state: str = "online",
        *,
        retained: bool = False,
        started_s: float = -100,
        connection: str = "c1",
    ) -> bool:
        """Hear a status of a probe that started so many seconds after this one's clock began."""
        begin = FakeClock().now()
        fields = {
            "state": state,
            "instance": instance,
            "connection": connection,
            "at": self.clock.now(),
            "since": begin,
            "started_at": begin + timedelta(seconds=started_s),
            "address": "192.0.2.9",
        }
        return self.guard.on_status(ProbeStatus.model_validate(fields), "ours-1", retained=retained)


def test_without_a_connection_it_is_not_active() -> None:
    bench = Bench()
    assert (bench.guard.wait_s, bench.guard.active, bench.guard.held) == (None, False, False)
    bench.guard.on_up()
    assert bench.guard.wait_s == PERIODS.settle
    bench.clock.move(PERIODS.settle)
    assert bench.guard.active
    bench.guard.on_down()
    assert not bench.guard.active


def test_its_own_retained_status_settles_at_once() -> None:
    bench = Bench()
    bench.guard.on_up()
    assert bench.hear("ours", retained=True), "an older connection's: to be written over"
    assert bench.guard.active
    assert not bench.hear("ours", connection="ours-1")


def test_an_offline_that_hides_it_is_answered() -> None:
    bench = Bench()
    bench.guard.on_up()
    bench.clock.move(1)
    assert bench.hear("ours", "offline", connection="ours-0"), "a will that came late"
    assert bench.hear("ours", "offline", connection="ours-1"), "a controller that missed a heartbeat"
    assert bench.hear("other", "offline")
    assert bench.guard.active


def test_a_retained_other_is_waited_for_until_it_speaks_or_is_gone() -> None:
    bench = Bench()
    bench.guard.on_up()
    assert not bench.hear(retained=True)
    assert bench.guard.held
    assert bench.guard.problem is None, "a retained status is not a heartbeat"
    bench.clock.move(PERIODS.silent - 1)
    assert bench.guard.held
    bench.clock.move(1 + PERIODS.jitter)
    assert bench.guard.active
    assert not bench.guard.held


def test_a_living_other_holds_the_name_for_as_long_as_it_speaks() -> None:
    bench = Bench()
    bench.guard.on_up()
    bench.hear(retained=True)
    for _ in range(20):
        bench.clock.move(PERIODS.status)
        bench.hear()
        assert bench.guard.held
    problem = bench.guard.problem
    assert problem is not None
    assert problem.code == "duplicate_name"
    assert "192.0.2.9" in problem.message
    bench.hear(state="offline", connection="c0")
    bench.clock.move(PERIODS.jitter)
    assert bench.guard.held, "an older connection's will"
    bench.hear(state="offline")
    bench.clock.move(PERIODS.jitter)
    assert bench.guard.active


def test_the_one_that_was_there_first_goes_on_and_names_the_other() -> None:
    bench = Bench()
    bench.guard.on_up()
    bench.clock.move(60)
    assert bench.hear(started_s=30), "its own status is said again"
    assert bench.guard.active
    problem = bench.guard.problem
    assert problem is not None
    assert problem.code == "duplicate_name"
    bench.clock.move(PERIODS.silent + 1)
    assert bench.guard.problem is None


def test_of_two_that_speak_at_once_exactly_one_goes_on() -> None:
    for started_s, instance in ((-1, "zzz"), (1, "aaa"), (0, "aaa"), (0, "zzz")):
        bench = Bench()
        bench.guard.on_up()
        bench.clock.move(1)
        bench.hear(instance, started_s=started_s)
        later = (started_s, instance) > (0, "ours")
        assert bench.guard.active is later, (started_s, instance)


def test_silence_while_disconnected_proves_nothing() -> None:
    bench = Bench()
    bench.guard.on_up()
    bench.hear()
    bench.guard.on_down()
    bench.clock.move(10 * PERIODS.silent)
    bench.guard.on_up()
    bench.clock.move(PERIODS.silent - 1)
    assert bench.guard.held


def test_one_that_came_later_keeps_the_name_it_holds() -> None:
    bench = Bench()
    bench.guard.on_up()
    bench.hear(retained=True, started_s=30)
    for _ in range(10):
        bench.clock.move(PERIODS.status)
        assert not bench.hear(started_s=30)
        assert bench.guard.held


def test_a_newer_retained_status_is_a_sign_of_life() -> None:
    bench = Bench()
    bench.guard.on_up()
    bench.hear(retained=True)
    assert bench.guard.problem is None
    bench.clock.move(1)
    bench.hear(retained=True)
    assert bench.guard.problem is not None


def test_waiting_probes_do_not_wake_in_step() -> None:
    waits = set()
    for _ in range(20):
        bench = Bench()
        bench.guard.on_up()
        bench.hear()
        waits.add(bench.guard.wait_s)
    assert len(waits) > 1
    assert all(PERIODS.silent <= (wait or 0) <= PERIODS.silent + PERIODS.jitter for wait in waits)


def instances(seen: Watcher, *, state: str = "online") -> list[str]:
    return [status.instance for status in seen.of("status", ProbeStatus) if status.state == state]


def test_two_that_start_together_end_with_one_at_work(broker: BrokerProcess, tmp_path: Path) -> None:
    kinds, others = Kinds(ping_s=0.05), Kinds(ping_s=0.05)
    with (
        watch(broker.url, acks=True) as seen,
        run_agent(broker.url, tmp_path / "one", kinds),
        run_agent(broker.url, tmp_path / "two", others),
    ):
        until(lambda: instances(seen))

        def settled() -> bool:
            newest = instances(seen)[-4:]
            return len(newest) == 4 and len(set(newest)) == 1

        until(settled, 15, "only one speaks")
        ids = [seen.command(ping={"target": f"192.0.2.{number}"}) for number in range(1, 6)]
        until(lambda: {found.id for found in seen.results} >= set(ids))
        assert {len(kinds.ping.runs), len(others.ping.runs)} == {0, 5}
        assert all(seen.states(test_id).count("accepted") == 1 for test_id in ids)


def test_the_name_passes_on_when_its_holder_leaves(broker: BrokerProcess, tmp_path: Path) -> None:
    kinds, others = Kinds(ping_s=0.05), Kinds(ping_s=0.05)
    with watch(broker.url, acks=True) as seen:
        with run_agent(broker.url, tmp_path / "one", kinds):
            until(lambda: instances(seen))
            with run_agent(broker.url, tmp_path / "two", others):
                test_id = seen.command(ping={"target": "192.0.2.1"})
                until(lambda: [found for found in seen.results if found.id == test_id])
                assert len(set(instances(seen))) == 1
            # It left without a word: what it said would have been taken for the other's.
            assert instances(seen, state="offline") == []
            status = seen.status()
            assert status is not None
            assert status.state == "online"
        until(lambda: instances(seen, state="offline"))
        with run_agent(broker.url, tmp_path / "two", others):
            until(lambda: len(set(instances(seen))) == 2, 4 * FAST.silent)
            test_id = seen.command(ping={"target": "192.0.2.2"})
            until(lambda: [found for found in seen.results if found.id == test_id])
    assert (len(kinds.ping.runs), len(others.ping.runs)) == (1, 1)
