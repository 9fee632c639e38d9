"""A context as the agent gives it to a kind, and what its outcome holds, typed."""

import threading
import time
from dataclasses import dataclass, field

from probe.icmp import Packet
from probe.kinds.base import Context, Outcome, Step
from probe.limits import ProbeLimits, check_address
from probe.resolve import resolve
from schemas.result import PacketLoss, PingFigures


@dataclass
class FakeContext(Context):
    """Collects steps; `cancel` ends the test."""

    granted: ProbeLimits = field(default_factory=lambda: ProbeLimits(allow_loopback=True))
    steps: list[tuple[float, Step]] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, int | None]] = field(default_factory=list)

    @property
    def limits(self) -> ProbeLimits:
        return self.granted

    def cancelled(self) -> bool:
        return self.cancel.is_set()

    def step(self, step: Step) -> None:
        self.steps.append((time.monotonic(), step))

    def address(self, host: str, family: int | None) -> str:
        self.asked.append((host, family))
        address = resolve(host, family)
        check_address(host, address, self.granted)
        return address


class Quiet:
    """A watcher that only lets the ping run."""

    def sent(self, number: int) -> None:
        pass

    def decided(self, packet: Packet) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def samples_of(outcome: Outcome) -> tuple[float | None, ...]:
    figures = outcome.fields["ping"]
    assert isinstance(figures, PingFigures)
    return figures.samples


def loss_of(outcome: Outcome) -> PacketLoss:
    loss = outcome.fields["packet_loss"]
    assert isinstance(loss, PacketLoss)
    return loss
