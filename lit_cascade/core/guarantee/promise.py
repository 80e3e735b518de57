"""Promises: limits for the mean of a loss or cost over all samples to come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from torch import Tensor

from lit_cascade.errors import UsageError, check_name
from lit_cascade.options import Share
from lit_cascade.utilities.units import cost_figure, cost_heading, unit_label

TARGETS = ("accuracy_drop", "accuracy", "disagreement", "deferral_rate", "cost", "cost_ratio")
"""`accuracy_drop`: largest drop in accuracy from the last stage alone. `accuracy`: least accuracy.
`disagreement`: largest fraction of answers that differ from the last stage's. `deferral_rate`:
largest fraction of samples that the first stage defers. `cost`: largest mean cost per sample.
`cost_ratio`: largest mean cost over that of the last stage alone."""

OF_COST = ("deferral_rate", "cost", "cost_ratio")
"""Targets that limit what is spent. Of the candidates that keep such a limit the most accurate is
chosen, and of those that keep another the cheapest."""

_ROUNDING = 1e-9


class Target(TypedDict, total=False):
    """The target of a promise, one of these.

    Attributes:
        max_accuracy_drop: accuracy is at most this share below the last stage's.
        min_accuracy: accuracy is at least this.
        max_disagreement: at most this share of answers differ from the last stage's; needs no
            labels.
        deferral_rate: at most this share of samples is deferred by the first stage.
        max_cost: the mean cost per sample is at most this, in the unit of cost.
        max_cost_ratio: the mean cost per sample is at most this share of the last stage's.
    """

    max_accuracy_drop: float
    min_accuracy: float
    max_disagreement: float
    deferral_rate: float
    max_cost: float
    max_cost_ratio: float


@dataclass(frozen=True)
class Promise:
    """A limit that a policy keeps on new samples.

    Attributes:
        target: one of `TARGETS`.
        limit: limit of the target; a share such as 0.005 or "0.5%" unless the target is `cost`.
        confidence: probability that the limit is kept, over the draw of the samples that the policy
            is chosen on, such as 0.95 or "95%"; None for the empirical choice, which has no
            guarantee.

    Raises:
        UsageError: an unknown target, or numbers out of range.
    """

    target: str
    limit: float
    confidence: float | None = 0.95

    @classmethod
    def of(cls, confidence: float | None = 0.95, **target: Unpack[Target]) -> Promise:
        """The promise of one target, by the name that options have.

        Args:
            confidence: as for the class.
            target: one of `Target`.

        Raises:
            UsageError: no target, several, or one that is unknown or out of range.

        Examples:
            >>> Promise.of(max_accuracy_drop=0.01)
            Promise(target='accuracy_drop', limit=0.01, confidence=0.95)
        """
        known = list(Target.__annotations__)
        for name in target:
            check_name(name, known, "target")
        if len(target) != 1:
            got = " and ".join(target) or "none"
            raise UsageError(f"expected one target of {', '.join(known)}; got {got}.")
        ((name, value),) = target.items()
        limit: Any = value
        if name != "max_cost":
            limit = Share(limit, name)
        elif isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
            raise UsageError(f"{name}: expected a number of at least 0, got {limit!r}.")
        return cls(name.removeprefix("max_").removeprefix("min_"), float(limit), confidence)

    def __post_init__(self) -> None:
        """Check every number."""
        check_name(self.target, TARGETS, "target")
        if self.target != "cost":
            object.__setattr__(self, "limit", float(Share(self.limit, self.target)))
        elif not 0 <= self.limit <= math.inf:
            raise UsageError(f"{self.target}: expected a number of at least 0, got {self.limit}.")
        if self.confidence is not None:
            confidence = float(Share(self.confidence, "confidence"))
            object.__setattr__(self, "confidence", confidence)
            if not 0.5 <= confidence < 1:
                raise UsageError(
                    "confidence: expected a probability from 0.5 to below 1, such as 0.95 or 95%, "
                    f"or none, got {confidence}."
                )

    @property
    def of_cost(self) -> bool:
        """Whether the target limits what is spent."""
        return self.target in OF_COST

    @property
    def counted(self) -> bool:
        """Whether the target is a rate of samples, and not a mean of costs."""
        return self.target not in {"cost", "cost_ratio"}

    def text(self, unit: str = "flops") -> str:
        """The limit in words.

        Args:
            unit: of the cost.

        Examples:
            >>> Promise("accuracy_drop", 0.005).text(), Promise("accuracy_drop", 0.01).text()
            ('accuracy drop <= 0.5 points', 'accuracy drop <= 1 point')
        """
        share = f"{100 * self.limit:.3g}"
        return {
            "accuracy_drop": f"accuracy drop <= {share} point{'' if share == '1' else 's'}",
            "accuracy": f"accuracy >= {share} %",
            "disagreement": f"disagreement <= {share} %",
            "deferral_rate": f"deferral rate <= {share} %",
            "cost": f"{cost_heading(unit)} <= {cost_figure(self.limit, unit)}",
            "cost_ratio": f"{unit_label(unit)} <= {share} % of the last stage's",
        }[self.target]

    def keeps(self, value: Tensor) -> Tensor:
        """Whether values of the target, any shape, are within the limit."""
        slack = _ROUNDING * max(1.0, abs(self.limit))
        return value >= self.limit - slack if self.target == "accuracy" else (
            value <= self.limit + slack
        )  # fmt: skip
