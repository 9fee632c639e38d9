"""The probe's clock against the controller's."""

from datetime import timedelta

from probe.clock import ControllerClock
from tests.kit.agents import FakeClock


def test_nothing_is_known_before_the_controller_spoke() -> None:
    found = ControllerClock(FakeClock())
    assert (found.offset_s, found.agrees) == (None, None)
    assert (found.status().offset_s, found.status().agrees) == (None, None)


def test_the_offset_is_probe_minus_controller_and_stays_while_time_passes() -> None:
    clock = FakeClock()
    found = ControllerClock(clock)
    for ahead_s, agrees in ((0, True), (4.9, True), (-4.9, True), (5.1, False), (-3_600, False)):
        found.heard(clock.now() - timedelta(seconds=ahead_s))
        clock.move(1_000)
        assert (found.offset_s, found.agrees) == (ahead_s, agrees)
        assert found.status().now == clock.now()


def test_a_jump_of_the_probes_clock_shows_at_once() -> None:
    clock = FakeClock()
    found = ControllerClock(clock)
    found.heard(clock.now())
    clock.wall -= timedelta(hours=1)
    assert (found.offset_s, found.agrees) == (-3_600, False)
    found.heard(clock.now())
    assert found.agrees
