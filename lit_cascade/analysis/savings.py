"""What a cascade saves in a month, estimated from samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from lit_cascade.core import StageOutcomes
from lit_cascade.errors import UsageError
from lit_cascade.utilities.tabular import described
from lit_cascade.utilities.units import counted, total_figure, unit_label

_NORMAL = 1.959964


@dataclass(frozen=True)
class MonthlySaving:
    """Costs of a month's calls, by the last stage alone and by a cascade.

    Attributes:
        calls: number of calls in a month.
        last: what they cost if the last stage answers all of them.
        cascade: what they cost by the cascade.
        interval: of the saving, their difference: 95 % of the estimate from N samples, mean +- 1.96
            standard errors. It does not cover that thresholds were chosen on the same samples, nor
            calls that differ from the samples.
        n: number of samples.
        unit: of the costs.
    """

    calls: float
    last: float
    cascade: float
    interval: tuple[float, float]
    n: int
    unit: str

    @classmethod
    def of(
        cls, outcomes: StageOutcomes, thresholds: Sequence[float], calls: float
    ) -> MonthlySaving:
        """Estimate a saving from the costs of samples.

        Args:
            outcomes: of the cascade's stages on N samples.
            thresholds: one per deferring stage.
            calls: number of calls in a month.

        Examples:
            >>> import torch
            >>> scores, costs = torch.tensor([[0.9], [0.1]]), torch.tensor([[1.0, 4.0], [1.0, 4.0]])
            >>> MonthlySaving.of(StageOutcomes(scores, None, costs), [0.5], 100)
            MonthlySaving(100 calls a month, cost: 400 -> 300, 2 samples)
        """
        last, cascade = outcomes.costs[:, -1].double(), outcomes.costs_at(thresholds)
        saved, n = last - cascade, len(outcomes)
        error = float(saved.std()) / math.sqrt(n) if n > 1 else math.inf
        mean = float(saved.mean())
        return cls(
            calls=calls,
            last=calls * float(last.mean()),
            cascade=calls * float(cascade.mean()),
            interval=(calls * (mean - _NORMAL * error), calls * (mean + _NORMAL * error)),
            n=n,
            unit=outcomes.unit,
        )

    @property
    def saved(self) -> float:
        """The saving; below 0 if the cascade costs more."""
        return self.last - self.cascade

    def __repr__(self) -> str:
        change = " -> ".join(total_figure(cost, self.unit) for cost in (self.last, self.cascade))
        calls = f"{self.calls:,.0f} calls a month"
        what = f"{unit_label(self.unit)}: {change}"
        return described("MonthlySaving", calls, what, counted(self.n, "sample"))


class KnownCost(NamedTuple):
    """Mean cost per sample of a cascade that ran, by what its policy knows of the stages' costs.

    Attributes:
        unit: of the costs.
        cost: of the cascade.
        last: of the last stage alone.
    """

    unit: str
    cost: float
    last: float


def costs_evidence(unit: str, names: Sequence[str], means: Tensor) -> dict[str, Any]:
    """Evidence of what each stage costs per sample, as plain values.

    Args:
        unit: of the costs.
        names: of the stages.
        means: mean cost of each, (K,).
    """
    return {"unit": unit, "stages": dict(zip(names, means.tolist(), strict=True))}


def known_cost(
    evidence: Mapping[str, Any] | None, names: Sequence[str], answered: Sequence[float]
) -> KnownCost | None:
    """The cost of a cascade that ran, from the mean costs that its policy was chosen by.

    Args:
        evidence: of the policy.
        names: of the stages.
        answered: share of the samples, or number of them, that each stage answered.

    Returns:
        None if the evidence has no costs of these stages, or nothing was answered.

    Examples:
        >>> evidence = {"costs": {"unit": "usd", "stages": {"small": 0.25, "large": 1.0}}}
        >>> known_cost(evidence, ["small", "large"], [0.75, 0.25])
        KnownCost(unit='usd', cost=0.5, last=1.0)
    """
    costs = (evidence or {}).get("costs")
    if not isinstance(costs, Mapping) or not sum(answered) > 0:
        return None
    try:
        each = [float(costs["stages"][name]) for name in names]
        unit = str(costs["unit"])
    except (KeyError, TypeError, ValueError):
        return None
    total = sum(share * spent for share, spent in zip(answered, accumulate(each), strict=True))
    return KnownCost(unit, total / sum(answered), each[-1])


def check_calls(calls: float | None) -> None:
    """Check the option `--calls_per_month`.

    Raises:
        UsageError: no number of calls.
    """
    if calls is not None and not 0 < calls < math.inf:
        raise UsageError(
            f"--calls_per_month: expected a number above 0, such as 2e6, got {calls:g}."
        )
