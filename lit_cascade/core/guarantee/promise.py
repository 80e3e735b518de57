"""What a policy is to keep on samples that nobody has seen: a limit for a mean.

A promise is a limit for the mean of something over all samples that will ever come: the accuracy
lost against the last stage, the share of deferred samples, the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lit_cascade.errors import UsageError, check_name

__all__ = ["OF_COST", "TARGETS", "Promise"]

TARGETS = ("accuracy_drop", "accuracy", "disagreement", "deferral_rate", "cost", "cost_ratio")
"""`accuracy_drop`: at most so much below the last stage alone. `accuracy`: at least so much.
`disagreement`: at most that share of answers other than the last stage's. `deferral_rate`: at most
that share of samples that the first stage does not answer. `cost`: at most so much per sample.
`cost_ratio`: at most that share of what the last stage alone costs."""

OF_COST = ("deferral_rate", "cost", "cost_ratio")
"""Targets that limit what is spent: of the policies that keep them the most accurate is chosen, and
of the others' the cheapest."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Promise:
    """What a policy is to keep on samples that nobody has seen.

    Attributes:
        target: one of `TARGETS`.
        limit: of the target.
        confidence: the probability that it is kept, over the draw of the samples that the policy
            is chosen on; None for the plain empirical choice, which promises nothing.

    Raises:
        UsageError: an unknown target, or numbers out of range.
    """

    target: str
    limit: float
    confidence: float | None = 0.95

    def __post_init__(self) -> None:
        """Check every number."""
        check_name(self.target, TARGETS, "target")
        highest = math.inf if self.target in {"cost", "cost_ratio"} else 1.0
        if not 0 <= self.limit <= highest:
            kind = "a number of at least 0" if highest > 1 else "a share from 0 to 1"
            raise UsageError(f"{self.target}: expected {kind}, got {self.limit}.")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise UsageError(
                "confidence: expected a probability from 0.5 to below 1, such as 0.95, or none, "
                f"got {self.confidence}."
            )

    @property
    def of_cost(self) -> bool:
        """Whether it limits what is spent."""
        return self.target in OF_COST

    def keeps(self, value: Tensor) -> Tensor:
        """Whether values of the target are within the limit."""
        slack = _ROUNDING * max(1.0, abs(self.limit))
        return value >= self.limit - slack if self.target == "accuracy" else (
            value <= self.limit + slack
        )  # fmt: skip
