"""What one direction of the emulated link does to packets."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Link:
    """Impairments of one direction (times in seconds, ratios 0..1)."""

    delay: float = 0.0
    jitter: float = 0.0
    """Half width (uniform) or standard deviation (normal) of the delay."""
    distribution: Literal["uniform", "normal"] = "uniform"
    loss: float = 0.0
    burst: float = 1.0
    """Mean length of a loss burst in packets; above 1 the loss is a Gilbert model."""
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of packets held back by `reorder_by` and so overtaken by later ones."""
    reorder_by: float = 0.030
    ordered: bool = True
    """Keep first-in first-out under jitter, as a real queue does (`reorder` is exempt)."""
    rate: int = 0
    """Bottleneck in bit/s, counting IP packets; 0 for none."""
    queue: float = 0.100
    """Length of the bottleneck's drop-tail queue, as time at that rate."""

    def __post_init__(self) -> None:
        if self.distribution not in {"uniform", "normal"}:
            raise ValueError(f"unknown distribution {self.distribution!r}")
        if min(self.delay, self.jitter, self.reorder_by, self.queue, self.rate) < 0 or self.burst < 1:
            raise ValueError("times and rates must not be negative and burst must be at least 1")
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0..1")
