"""How fast a cascade is, against what its arithmetic allows.

A cascade of which a share p_k of the samples reaches stage k can at best take the sum of p_k t_k
per sample, t_k being what stage k takes alone. Ratios are made within a repeat, in which everything
was timed side by side (`timing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

__all__ = ["Latency", "Pace", "Speed"]


class Pace(NamedTuple):
    """Seconds per sample, one number per repeat.

    Attributes:
        seconds: per sample, in the order of the repeats.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the repeats."""
        return median(self.seconds)


class Latency(NamedTuple):
    """Seconds that single samples take.

    Attributes:
        p50: half of them take no longer.
        p99: of a hundred, all but one.
    """

    p50: float
    p99: float


@dataclass(frozen=True)
class Speed:
    """How fast a cascade was at one policy, and how fast its stages were alone.

    Attributes:
        thresholds: of the policy.
        reached: share of the samples that each stage ran on.
        stages: pace of each stage alone, timed in the same repeats.
        cascade: pace of the cascade.
        latency: of single samples, if that was measured.
    """

    thresholds: tuple[float, ...]
    reached: tuple[float, ...]
    stages: tuple[Pace, ...]
    cascade: Pace
    latency: Latency | None = field(default=None)

    @property
    def deferral_rate(self) -> float:
        """Share of the samples that the first stage deferred."""
        return self.reached[1]

    @property
    def ideal(self) -> Pace:
        """What the cascade would take if it spent time in its stages only."""
        return Pace(
            tuple(
                sum(share * seconds for share, seconds in zip(self.reached, stages, strict=True))
                for stages in zip(*(stage.seconds for stage in self.stages), strict=True)
            )
        )

    @property
    def of_ideal(self) -> tuple[float, float, float]:
        """Ideal over realised time: median, least and greatest of the repeats; 1 is perfect."""
        return _spread(self.ideal.seconds, self.cascade.seconds)

    @property
    def speedup(self) -> tuple[float, float, float]:
        """Time of the last stage alone over that of the cascade: median, least and greatest."""
        return _spread(self.stages[-1].seconds, self.cascade.seconds)

    @property
    def ideal_speedup(self) -> float:
        """The same for the ideal, the median of the repeats."""
        return _spread(self.stages[-1].seconds, self.ideal.seconds)[0]


def _spread(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return median(ratios), ratios[0], ratios[-1]
