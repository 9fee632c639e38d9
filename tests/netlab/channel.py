"""One direction of the emulated link: it decides the fate of each packet."""

import random
import statistics
from typing import Any, Final

from tests.netlab.link import Link

_KINDS: Final = ("loss", "jitter", "dup", "reorder")


class Channel:
    """Takes packets from one tun device (`source`) for the other (`sink`)."""

    def __init__(self, name: str, source: int, sink: int, seed: int) -> None:
        self.name, self.source, self.sink = name, source, sink
        # One random stream per decision: the loss pattern of a seed does not depend on jitter.
        self._rng = {kind: random.Random(f"{seed}/{name}/{kind}") for kind in _KINDS}  # noqa: S311 - repeatable on purpose
        self.link = Link()
        self._in_burst = False
        self._last_due = 0
        self._busy_until = 0  # when the bottleneck has sent all it holds
        self.count = dict.fromkeys(("packets", "bytes", "lost", "sent", "duplicated", "reordered", "overflow"), 0)
        self.late_ns: list[int] = []  # emulator lateness against schedule, capped

    def _loses(self) -> bool:
        link, draw = self.link, self._rng["loss"].random()
        if link.loss >= 1:
            return True
        if link.burst <= 1:
            return draw < link.loss
        # Gilbert: P(stay in burst) = 1 - 1/burst; the entry rate is chosen to give the mean loss.
        leave = 1 / link.burst
        enter = min(1.0, leave * link.loss / (1 - link.loss))
        self._in_burst = draw >= leave if self._in_burst else draw < enter
        return self._in_burst

    def _delay(self) -> float:
        link = self.link
        if not link.jitter:
            return link.delay
        if link.distribution == "uniform":
            return link.delay + self._rng["jitter"].uniform(-link.jitter, link.jitter)
        return self._rng["jitter"].gauss(link.delay, link.jitter)

    def _bottleneck(self, now: int, size: int) -> int | None:
        """When the bottleneck has sent the packet, or None if its queue is full."""
        start = max(now, self._busy_until)
        if start - now > self.link.queue * 1e9:
            return None
        self._busy_until = start + size * 8_000_000_000 // self.link.rate
        return self._busy_until

    def fate(self, now: int, size: int) -> tuple[list[int], bool]:
        """Return the due times of the copies to deliver (none: lost), and whether it is held back."""
        link = self.link
        # Every draw is made for every packet, so that each stream stays in step with the packets.
        lost, delay = self._loses(), self._delay()
        duplicated = link.duplicate > 0 and self._rng["dup"].random() < link.duplicate
        reordered = link.reorder > 0 and self._rng["reorder"].random() < link.reorder
        if lost:
            self.count["lost"] += 1
            return [], False
        sent = self._bottleneck(now, size) if link.rate else now
        if sent is None:
            self.count["overflow"] += 1
            return [], False
        due = sent + int(max(0.0, delay) * 1e9)
        if reordered:
            due += int(link.reorder_by * 1e9)
        elif link.ordered:
            due = self._last_due = max(due, self._last_due)
        return [due] * (2 if duplicated else 1), reordered

    def stats(self) -> dict[str, Any]:
        """Counters, and how late packets were delivered against the schedule."""
        late = sorted(self.late_ns) or [0]
        return {
            **self.count,
            "late_us_mean": round(statistics.fmean(late) / 1e3, 1),
            "late_us_p99": round(late[int(len(late) * 0.99)] / 1e3, 1),
            "late_us_max": round(late[-1] / 1e3, 1),
        }
