"""From the engine's report to the fields of a result: figures, reasons, and what counts as failed."""

import errno
import statistics
import threading
import time
from datetime import UTC, datetime

import pytest

from probe import icmp
from probe.icmp import Fate, Packet, Reason, Report
from probe.kinds import ping as kind
from probe.kinds.base import Outcome
from probe.limits import ProbeLimits
from schemas import codec
from schemas.command import PingSpec
from schemas.errors import Failure
from schemas.result import ProbeFacts, Result
from tests.kit.ping import FakeContext, loss_of, samples_of

REQUEST = PingSpec(target="lab.example", count=4, timeout_s=0.5)
ADDRESS = "192.0.2.7"


def _permitted() -> bool:
    try:
        icmp.ability()
    except Failure:
        return False
    return True


needs_icmp = pytest.mark.skipif(not _permitted(), reason="this user may not send ICMP")


def report(*rtts: float | None, reason: Reason | None = None, cancelled: bool = False) -> Report:
    lost = Fate.REPORTED if reason else Fate.TIMED_OUT
    packets = tuple(
        Packet(number, lost if rtt is None else Fate.ANSWERED, rtt, reason if rtt is None else None)
        for number, rtt in enumerate(rtts)
    )
    return Report(packets, duplicates=1, late=2, cancelled=cancelled, socket="datagram", stamps="kernel")


def result(outcome: Outcome) -> Result:
    """The result an agent makes of an outcome, through the wire and back."""
    made = Result(
        id="0197aaaa-0000",
        version=1,
        probe_name="paris",
        status="error" if outcome.failed else "done",
        measured_at=datetime.now(UTC),
        duration_s=1.0,
        errors=dict(outcome.errors),
        probe=ProbeFacts(**outcome.facts),
        **outcome.fields,
    )
    return codec.parse(Result, codec.encode(made))


def test_every_figure_comes_from_the_samples_of_the_result() -> None:
    outcome = kind._outcome(report(10.00004, 12.5, None, 11.12345678), REQUEST, ADDRESS)
    found = result(outcome)
    assert found.ping is not None
    assert found.ping.samples == (10.0, 12.5, None, 11.1235)
    replies = [sample for sample in found.ping.samples if sample is not None]
    assert found.ping.avg == pytest.approx(statistics.fmean(replies))
    assert found.ping.stdev == pytest.approx(statistics.stdev(replies))
    assert found.jitter_detail is not None
    assert found.jitter == found.jitter_detail.rfc3550 == pytest.approx((2.5 / 16) * 15 / 16 + 1.3765 / 16)
    assert found.packet_loss is not None
    assert (found.packet_loss.packet_number, found.packet_loss.packet_percent) == (1, 25.0)
    assert (found.packet_loss.duplicates, found.packet_loss.late) == (1, 2)
    assert found.mos is not None
    assert found.mos_detail is not None
    assert (found.packet_number, found.packet_timeout) == (4, 0.5)
    assert found.target is not None
    assert (found.target.host, found.target.address) == ("lab.example", ADDRESS)
    assert (found.probe.icmp, found.probe.stamps) == ("datagram", "kernel")
    assert found.errors == {}


def test_a_silent_target_has_been_measured() -> None:
    outcome = kind._outcome(report(None, None, None, None), REQUEST, ADDRESS)
    found = result(outcome)
    assert outcome.failed == frozenset()
    assert found.ping is not None
    assert (found.ping.min, found.ping.avg, found.ping.samples) == (None, None, (None,) * 4)
    assert (found.jitter, found.mos) == (None, 1.0)
    assert loss_of(outcome).packet_percent == 100.0
    assert {part: info.code for part, info in found.errors.items()} == {
        "ping": "target_silent",
        "jitter": "too_few_replies",
    }
    assert "None of 4 packets" in found.errors["ping"].message


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (Reason("host_unreachable", "198.51.100.1"), "198.51.100.1 says that 192.0.2.7 cannot be reached."),
        (Reason("admin_prohibited", "198.51.100.1"), "198.51.100.1 forbids packets to 192.0.2.7."),
        (Reason("ttl_exceeded", "198.51.100.1"), "198.51.100.1 dropped the packets to 192.0.2.7: their time to"),
        (Reason("message_too_big", "198.51.100.1"), "198.51.100.1 cannot pass packets of 84 bytes."),
        (Reason("network_unreachable", text="no"), "There is no route to 192.0.2.7."),
        (Reason("measurement_failed", text="No buffer space"), "ended without figures: No buffer space."),
    ],
)
def test_a_silent_target_with_a_reason_from_the_network(reason: Reason, sentence: str) -> None:
    outcome = kind._outcome(report(None, None, reason=reason), REQUEST, ADDRESS)
    assert outcome.failed == frozenset()
    assert outcome.errors["ping"].code == reason.code
    assert sentence in outcome.errors["ping"].message


def test_the_reason_of_some_lost_packets_is_no_error_of_the_others() -> None:
    outcome = kind._outcome(report(1.0, None, 1.0, reason=Reason("host_unreachable", "x")), REQUEST, ADDRESS)
    assert outcome.errors == {}


def test_one_reply_gives_times_but_neither_jitter_nor_mos() -> None:
    outcome = kind._outcome(report(None, 5.0, None), REQUEST, ADDRESS)
    found = result(outcome)
    assert found.ping is not None
    assert found.ping.avg == 5.0
    assert (found.jitter, found.mos) == (None, None)
    assert {part: info.code for part, info in found.errors.items()} == dict.fromkeys(
        ("jitter", "mos"), "too_few_replies"
    )
    assert outcome.failed == frozenset()


def test_nothing_known_yet_when_cancelled_is_null_not_lost() -> None:
    waiting = Report((Packet(0),), 0, 0, cancelled=True, socket="raw", stamps="user")
    outcome = kind._outcome(waiting, REQUEST, ADDRESS)
    assert outcome.cancelled
    assert outcome.errors == {}
    assert loss_of(outcome).packet_percent is None
    assert (outcome.fields["packet_number"], outcome.fields["mos"]) == (0, None)
    assert result(outcome).ping is not None


@needs_icmp
@pytest.mark.parametrize(
    ("host", "family", "address"), [("127.0.0.1", None, "127.0.0.1"), ("localhost", 4, "127.0.0.1")]
)
def test_a_ping_of_this_machine_with_live_steps(host: str, family: int | None, address: str) -> None:
    context = FakeContext()
    request = PingSpec.model_validate({"target": host, "count": 20, "family": family})
    outcome = kind.ENTRY.run(request, context)
    assert context.asked == [(host, family)]
    assert outcome.fields["target"].address == address
    assert all(sample is not None and 0 < sample < 100 for sample in samples_of(outcome))
    steps = [step for _, step in context.steps]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    last = steps[-1]
    assert (last.part, last.done, last.total) == ("ping", 20, 20)
    assert last.figures.samples == samples_of(outcome)
    assert (last.figures.sent, last.figures.received, last.figures.loss_percent) == (20, 20, 0.0)
    assert last.figures.jitter == outcome.fields["jitter"]
    assert last.figures.mos == outcome.fields["mos"]
    assert last.figures.rtt_ms == samples_of(outcome)[-1]
    assert steps[0].eta_s <= kind.ENTRY.longest_s(request)
    assert len(steps) >= 4


@pytest.mark.parametrize(
    ("target", "limits", "code"),
    [("no-such-host.invalid", ProbeLimits(), "dns_failed"), ("127.0.0.1", ProbeLimits(), "target_denied")],
)
def test_a_target_that_could_not_be_tried_has_no_figures(target: str, limits: ProbeLimits, code: str) -> None:
    class Denying(FakeContext):
        def address(self, host: str, family: int | None) -> str:
            if code == "dns_failed":
                raise Failure("dns_failed", host=host, reason="Name or service not known")
            return super().address(host, family)

    outcome = kind.ENTRY.run(PingSpec(target=target), Denying(granted=limits))
    assert outcome.failed == {"ping"}
    assert outcome.errors["ping"].code == code
    assert set(outcome.fields) == {"target"}
    assert result(outcome).ping is None


@needs_icmp
def test_an_unusable_source_has_no_figures() -> None:
    outcome = kind.ENTRY.run(PingSpec(target="127.0.0.1", source="nosuch0"), FakeContext())
    assert outcome.failed == {"ping"}
    assert outcome.errors["ping"].code == "source_unavailable"


@pytest.mark.parametrize(("source", "family"), [("192.0.2.1", 4), ("2001:db8::1", 6), ("eth0", None), (None, None)])
def test_the_name_is_resolved_to_the_family_of_the_source(source: str | None, family: int | None) -> None:
    class Asked(FakeContext):
        def address(self, host: str, family: int | None) -> str:
            self.asked.append((host, family))
            raise Failure("dns_failed", host=host, reason="enough")

    context = Asked()
    kind.ENTRY.run(PingSpec(target="lab.example", source=source), context)
    assert context.asked == [("lab.example", family)]


@needs_icmp
def test_cancelling_takes_less_than_100_ms_and_loses_nothing() -> None:
    context, ended = FakeContext(), []

    def test() -> None:
        ended.append(kind.ENTRY.run(PingSpec(target="127.0.0.1", count=300, interval_ms=1000), context))

    thread = threading.Thread(target=test)
    thread.start()
    deadline = time.monotonic() + 5
    while not context.steps:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    start = time.monotonic()
    context.cancel.set()
    thread.join(5)
    assert time.monotonic() - start < 0.1
    assert ended[0].cancelled
    assert loss_of(ended[0]).packet_number == 0
    assert len(samples_of(ended[0])) == 1


def test_availability_names_socket_and_stamps_or_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kind.ENTRY.probe()
    if found.available:
        assert found.detail["icmp"] in {"datagram", "raw"}
        assert found.detail["stamps"] in {"kernel", "user"}

    def denied() -> icmp.Ability:
        raise Failure("icmp_not_permitted", reason=PermissionError(errno.EPERM, "no"))

    monkeypatch.setattr(icmp, "ability", denied)
    found = kind.ENTRY.probe()
    assert not found.available
    assert found.error is not None
    assert "net.ipv4.ping_group_range" in found.error.hint


def test_the_longest_a_ping_can_take() -> None:
    assert kind.ENTRY.longest_s(PingSpec(target="192.0.2.7", count=101, timeout_s=3, interval_ms=20)) == 2 + 3 + 5


def test_the_largest_result_stays_small() -> None:
    request = PingSpec(target="lab.example", count=300)
    wide = report(*(1234.56789 + number / 7 for number in range(300)))
    assert len(codec.encode(result(kind._outcome(wide, request, ADDRESS)))) < 8_000
