"""A context as the agent gives it to a kind, and a command line to run one ping as another user."""

import json
import sys
import threading
import time
from dataclasses import dataclass, field

from pydantic import BaseModel

from probe.kinds.base import Context, Outcome, Step
from probe.kinds.ping import ENTRY
from probe.limits import ProbeLimits, check_address
from probe.resolve import resolve
from schemas.command import PingSpec
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


def samples_of(outcome: Outcome) -> tuple[float | None, ...]:
    figures = outcome.fields["ping"]
    assert isinstance(figures, PingFigures)
    return figures.samples


def loss_of(outcome: Outcome) -> PacketLoss:
    loss = outcome.fields["packet_loss"]
    assert isinstance(loss, PacketLoss)
    return loss


def main(command: str) -> None:
    """Run the PingSpec in `command` and print the outcome as JSON."""
    outcome = ENTRY.run(PingSpec.model_validate_json(command), FakeContext())
    plain = {
        name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in outcome.fields.items()
    }
    errors = {part: info.model_dump() for part, info in outcome.errors.items()}
    print(json.dumps({"fields": plain, "errors": errors, "facts": dict(outcome.facts)}))  # noqa: T201 - its output


if __name__ == "__main__":
    main(sys.argv[1])
