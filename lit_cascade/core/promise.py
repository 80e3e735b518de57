"""Thresholds with a promise: learn, then test (Angelopoulos et al., arXiv:2110.01052).

A promise is a limit for the mean of something over all samples that will ever come: the accuracy
lost against the last stage, the share of deferred samples, the cost. Policies are tested in an
order that no label decides, from the safest on, each at the full level 1 - confidence, and the
first one without enough evidence ends the test. Of those before it, all keep their promise with
the probability `confidence`, over the draw of the samples: an error needs the first policy of the
order that breaks the promise to pass its own test. So many thresholds cost no more than one.

With one threshold the order is that of all numbers from one end to the other, of which only those
at which something changes have to be looked at. `core.joint` makes an order of several thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.bounds import binomial_p_value, bounded_p_value, paired_p_value
from lit_cascade.core.contract import route
from lit_cascade.core.sweep import sweep
from lit_cascade.errors import CascadeError, UsageError, check_name

__all__ = [
    "OF_COST",
    "TARGETS",
    "Behaviour",
    "Path",
    "Promise",
    "certified",
    "path_of",
    "samples_needed",
    "threshold_path",
]

TARGETS = ("accuracy_drop", "accuracy", "disagreement", "deferral_rate", "cost", "cost_ratio")
"""`accuracy_drop`: at most so much below the last stage alone. `accuracy`: at least so much.
`disagreement`: at most that share of answers other than the last stage's. `deferral_rate`: at most
that share of samples that the first stage does not answer. `cost`: at most so much per sample.
`cost_ratio`: at most that share of what the last stage alone costs."""

OF_COST = ("deferral_rate", "cost", "cost_ratio")
"""Targets that limit what is spent: of the policies that keep them the most accurate is chosen, and
of the others' the cheapest."""

_ROUNDING = 1e-9
_MOST = 1000


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


@dataclass(frozen=True)
class Behaviour:
    """What the stages of a cascade do on N samples, each drawn independently.

    Attributes:
        scores: confidence of the deferring stages, (N, K - 1).
        costs: of each stage, (N, K).
        right: whether the cascade is right if it stops after each stage, (N, K) bool; None where
            no labels are known.
        last: whether the last stage alone is right, (N,) bool; None likewise.
        agrees: whether the cascade, if it stops after each stage, answers what the last stage alone
            does, (N, K) bool; None where answers are unknown.
    """

    scores: Tensor
    costs: Tensor
    right: Tensor | None = None
    last: Tensor | None = None
    agrees: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, rows: Tensor) -> Behaviour:
        """Some of the samples."""
        parts = (self.scores, self.costs, self.right, self.last, self.agrees)
        return Behaviour(*(part if part is None else part[rows] for part in parts))  # type: ignore[arg-type]

    def losses(self, target: str) -> tuple[Tensor, Tensor]:
        """What is lost and what is won if the cascade stops after each stage, (N, K) bool each.

        Raises:
            CascadeError: labels or answers that the target needs are unknown.
        """
        if target == "disagreement":
            if self.agrees is None:
                raise CascadeError("disagreement: it needs the logits of every stage.")
            return ~self.agrees, torch.zeros_like(self.agrees)
        if target == "deferral_rate":
            deferred = torch.ones(self.costs.shape, dtype=torch.bool)
            deferred[:, 0] = False
            return deferred, torch.zeros_like(deferred)
        if self.right is None or self.last is None:
            raise CascadeError(f"{target}: it needs labels; disagreement can be had without.")
        if target == "accuracy":
            return ~self.right, torch.zeros_like(self.right)
        last = self.last[:, None]
        return ~self.right & last, self.right & ~last

    @property
    def last_cost(self) -> float:
        """Mean cost of the last stage alone."""
        return float(self.costs[:, -1].double().mean())

    def spent(self, thresholds: Tensor) -> Tensor:
        """What each sample costs at some thresholds, (N,) float64."""
        stage = route(list(self.scores.unbind(dim=1)), thresholds.tolist())
        return self.costs.double().cumsum(dim=1).gather(1, stage[:, None]).squeeze(1)


@dataclass(frozen=True)
class Path:
    """Policies in the order in which they are tested, the safest first, and what N samples say.

    Attributes:
        thresholds: (M, K - 1) float64.
        value: of the target on the samples, (M,) float64.
        cost: mean cost per sample, (M,).
        deferral_rate: (M,).
        accuracy: (M,); NaN without labels.
        lost: number of samples that count against the promise, (M,); None for a cost.
        won: number of those that count for it, (M,); None for a cost.
        behaviour: of the samples.
    """

    thresholds: Tensor
    value: Tensor
    cost: Tensor
    deferral_rate: Tensor
    accuracy: Tensor
    lost: Tensor | None
    won: Tensor | None
    behaviour: Behaviour

    def __len__(self) -> int:
        return len(self.thresholds)


def _counted(flags: Tensor, behaviour: Behaviour) -> Tensor:
    """How many samples have a flag at each distinct threshold, rising, (M,) int64."""
    curve = sweep(behaviour.scores, flags, behaviour.costs)
    return (curve.accuracy * curve.n).round().long()


def threshold_path(behaviour: Behaviour, promise: Promise) -> Path:
    """All thresholds, of one deferring stage or shared by all, from the safe end on.

    Where quality is promised the safe end is that at which everything is deferred; where cost is,
    that at which nothing is.

    Raises:
        CascadeError: as for `sweep`, or what the target needs is unknown.
    """
    deferring = behaviour.scores.shape[1]
    right = behaviour.right
    known = torch.zeros_like(behaviour.costs, dtype=torch.bool) if right is None else right
    curve = sweep(behaviour.scores, known, behaviour.costs)
    lost = won = None
    if promise.target in {"cost", "cost_ratio"}:
        value = curve.cost / (behaviour.last_cost if promise.target == "cost_ratio" else 1.0)
    else:
        flags = behaviour.losses(promise.target)
        lost, won = _counted(flags[0], behaviour), _counted(flags[1], behaviour)
        value = _value(promise.target, lost, won, len(behaviour))
    path = Path(
        thresholds=curve.thresholds[:, None].expand(-1, deferring),
        value=value,
        cost=curve.cost,
        deferral_rate=curve.deferral_rate,
        accuracy=curve.accuracy if right is not None else curve.accuracy * math.nan,
        lost=lost,
        won=won,
        behaviour=behaviour,
    )
    return path if promise.of_cost else _reversed(path)


def _reversed(path: Path) -> Path:
    return Path(
        path.thresholds.flip(0),
        path.value.flip(0),
        path.cost.flip(0),
        path.deferral_rate.flip(0),
        path.accuracy.flip(0),
        None if path.lost is None else path.lost.flip(0),
        None if path.won is None else path.won.flip(0),
        path.behaviour,
    )


def _value(target: str, lost: Tensor, won: Tensor, n: int) -> Tensor:
    share = (lost - won).double() / n
    return 1 - share if target == "accuracy" else share


def path_of(behaviour: Behaviour, promise: Promise, thresholds: Tensor) -> Path:
    """Policies in a given order, judged one by one.

    Args:
        behaviour: of the samples to test on.
        promise: to be kept.
        thresholds: (M, K - 1), the safest policy first, chosen on other samples.
    """
    n, spent = len(behaviour), behaviour.costs.double().cumsum(dim=1)
    paired = promise.target not in {"cost", "cost_ratio"}
    flags = behaviour.losses(promise.target) if paired else None
    columns: dict[str, list[float]] = {
        name: [] for name in ("cost", "deferral_rate", "accuracy", "lost", "won")
    }
    for row in thresholds.tolist():
        stage = route(list(behaviour.scores.unbind(dim=1)), row)[:, None]
        columns["cost"].append(float(spent.gather(1, stage).sum()) / n)
        columns["deferral_rate"].append(int((stage > 0).sum()) / n)
        right = math.nan
        if behaviour.right is not None:
            right = int(behaviour.right.gather(1, stage).sum()) / n
        columns["accuracy"].append(right)
        if flags is not None:
            columns["lost"].append(int(flags[0].gather(1, stage).sum()))
            columns["won"].append(int(flags[1].gather(1, stage).sum()))
    made = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    lost, won = (made[name].long() if paired else None for name in ("lost", "won"))
    if lost is not None and won is not None:
        value = _value(promise.target, lost, won, n)
    else:
        value = made["cost"] / (behaviour.last_cost if promise.target == "cost_ratio" else 1.0)
    return Path(
        thresholds, value, made["cost"], made["deferral_rate"], made["accuracy"], lost, won,
        behaviour,
    )  # fmt: skip


def certified(path: Path, promise: Promise) -> int:
    """How many policies of a path, from its beginning, keep the promise with its confidence.

    Without a confidence it is how many do so on the samples at hand, at the beginning.
    """
    if promise.confidence is None:
        return _leading(len(path), lambda a, b: bool(promise.keeps(path.value[a:b]).all()))
    return _tested(path, promise, 1.0)


def _tested(path: Path, promise: Promise, times: float) -> int:
    """How many would be certified by so many times the samples, if these showed the truth."""
    delta = 1 - (promise.confidence or 0.0)
    n = round(times * len(path.behaviour))
    if path.lost is None or path.won is None:
        return _leading(len(path), _cost_test(path, promise, delta, times))
    lost, won = ((times * part).round().long() for part in (path.lost, path.won))
    paired = promise.target == "accuracy_drop"
    limit = 1 - promise.limit if promise.target == "accuracy" else promise.limit

    def passes(start: int, end: int) -> bool:
        # the p-value grows with the lost and falls with the won: the worst of both is none of them
        worst, best = int(lost[start:end].max()), int(won[start:end].min())
        if paired:
            return paired_p_value(worst, best, n, limit) <= delta
        return binomial_p_value(worst, n, limit) <= delta

    return _leading(len(path), passes)


def _cost_test(
    path: Path, promise: Promise, delta: float, times: float
) -> Callable[[int, int], bool]:
    behaviour, ratio = path.behaviour, promise.target == "cost_ratio"
    last = behaviour.costs[:, -1].double()
    dearest, cheapest = behaviour.costs.double().sum(dim=1), behaviour.costs[:, 0].double()
    less = promise.limit * last if ratio else torch.zeros_like(last)
    low, high = float((cheapest - less).min()), float((dearest - less).max())
    limit = 0.0 if ratio else promise.limit

    def passes(start: int, end: int) -> bool:
        # the dearest of them stands for all: with one threshold it is so for every sample
        at = start + int(path.cost[start:end].argmax())
        values = behaviour.spent(path.thresholds[at]) - less
        kinds = values.unique()
        if len(kinds) <= 2 and low < limit < high and float(kinds[0]) == low:
            above = round(times * int((values > low).sum()))
            share = (limit - low) / (high - low)
            return binomial_p_value(above, round(times * len(values)), share) <= delta
        return bounded_p_value(values, low, high, limit, times) <= delta

    return passes


def _leading(count: int, passes: Callable[[int, int], bool]) -> int:
    """How many of `count` pass before the first that does not, with few questions about ranges."""

    def among(start: int, end: int) -> int:
        if start == end or passes(start, end):
            return end - start
        if end - start == 1:
            return 0
        middle = (start + end) // 2
        first = among(start, middle)
        return first if first < middle - start else first + among(middle, end)

    return among(0, count)


def samples_needed(path: Path, promise: Promise, useful: Tensor) -> int | None:
    """About how many samples would certify a useful policy, if these showed the truth.

    Args:
        path: none of whose useful policies is certified.
        promise: that was to be kept.
        useful: which policies are worth having, (M,) bool.

    Returns:
        Their number; None if a thousand times as many would not do.
    """

    def enough(times: float) -> bool:
        return bool(useful[: _tested(path, promise, times)].any())

    n, high = len(path.behaviour), 1.25
    while not enough(high):
        high *= 1.25
        if high > _MOST:
            return None
    low = high / 1.25
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.ceil(n * high)
