"""What a comparison of scores found: how good each is, with intervals and against the others.

Every score of a small model side by side, on samples that none of them was fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.analysis.curve import Judged, judge
from lit_cascade.analysis.deferral_head import FittedHead, fit_head
from lit_cascade.core import (
    LEARNED,
    RECORDED,
    SCORES,
    Policy,
    Quality,
    answers_here,
    cheapest,
    quality_of,
    sweep,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record, check_alike

__all__ = ["DRAWS", "Chosen", "Figure", "ScoreComparison", "ScoreFigures", "compare_scores"]


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval over draws of the samples.

    Attributes:
        value: on the samples themselves.
        low: 2.5 % of the draws are below.
        high: 2.5 % are above.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Chosen:
    """What the threshold does on the samples reported on that was chosen on the others.

    Attributes:
        threshold: the cheapest with the large model's accuracy there.
        accuracy: here.
        deferral_rate: here.
        cost_ratio: here, to the large model alone.
    """

    threshold: float
    accuracy: float
    deferral_rate: float
    cost_ratio: float


@dataclass(frozen=True)
class ScoreFigures:
    """How good one score is.

    Attributes:
        name: of the score.
        scores: on the samples reported on, (N,).
        area: between random (0) and oracle deferral (1).
        gain: the area less that of the first score, on the same draws.
        aurc: of the small model.
        cost_ratio: the least at the large model's accuracy, read off these very samples.
        chosen: what a threshold chosen on other samples does; None if there is none.
    """

    name: str
    scores: Tensor
    area: Figure
    gain: Figure
    aurc: Figure
    cost_ratio: Figure
    chosen: Chosen | None


@dataclass(frozen=True)
class ScoreComparison:
    """Scores of one model for deferring to another.

    Attributes:
        names: of the two models.
        unit: of the cost.
        figures: of each score.
        correct: whether each model is right on the samples reported on, (N, 2) bool.
        costs: of each model on them, (N, 2).
        fitted_on: number of other samples, for the learned score and the thresholds.
        learned: the fit of the learned score, if there is one.
        missing: why there is none.
        bound: what the oracle costs at the large model's accuracy, to the large model alone.
    """

    names: tuple[str, str]
    unit: str
    figures: Sequence[ScoreFigures]
    correct: Tensor
    costs: Tensor
    fitted_on: int
    learned: FittedHead | None
    missing: str | None
    bound: float

    @property
    def n(self) -> int:
        """Number of samples reported on."""
        return len(self.correct)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Of the two models."""
        small, large = (self.correct.sum(dim=0).double() / self.n).tolist()
        return small, large


DRAWS = 1000
_BLOCK = 2**21  # numbers of a block of draws, a few of which are at hand at a time


def compare_scores(
    records: Sequence[Record],
    fit_on: Sequence[Record] | None = None,
    share: float = 0.5,
    seed: int = 0,
    unit: str = "flops",
) -> ScoreComparison:
    """Judge every score of a small model for deferring to a large one.

    Args:
        records: of the two models, the small one first.
        fit_on: of the same models on other samples, for the learned score and for thresholds; by
            default a part of the samples of `records`, and everything is reported on the rest.
        share: of the samples in that part; 0 for no learned score and no thresholds.
        seed: of the drawing of that part, and of the draws for the intervals.
        unit: of the cost.

    Raises:
        UsageError: not two records, other models in `fit_on`, or a share below 0 or too near to 1.
        CascadeError: records of different samples, or without labels, scores or the unit.

    Example:
        >>> labels = torch.arange(300) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(300, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k)
        ...     for k, name in ((1, "small"), (9, "large"))
        ... )
        >>> [score.name for score in compare_scores([small, large]).figures]
        ['max_softmax', 'margin', 'negative_entropy', 'learned']
    """
    if len(records) != 2:
        raise UsageError(
            f"--records: expected two, of a small model and a large one, got {len(records)}."
        )
    check_alike(records)
    divided = _divided(records, fit_on, share, seed)
    here = _columns(records, unit)
    there = here if fit_on is None else _columns(divided.fit_records, unit)
    try:
        learned, missing = _learned(records, divided, here, there), None
    except CascadeError as error:
        learned, missing = None, str(error).rstrip(".")
    names = records[0].name, records[1].name
    return _compared(here, there, divided, names, unit, seed, learned, missing)


@dataclass(frozen=True)
class _Divided:
    """Samples to fit on, as rows of their records, and rows of the samples to report on."""

    fit_records: Sequence[Record]
    fit_rows: Tensor
    rows: Tensor


def _divided(
    records: Sequence[Record], fit_on: Sequence[Record] | None, share: float, seed: int
) -> _Divided:
    n = len(records[0])
    if fit_on is not None:
        check_alike(fit_on)
        _check_models(records, fit_on)
        return _Divided(fit_on, torch.arange(len(fit_on[0])), torch.arange(n))
    if not 0 <= share < 1 or round(share * n) >= n:
        raise UsageError(
            f"--share: expected a share from 0 to below 1 that leaves some of the {n} samples to "
            f"report on, got {share}."
        )
    order, count = (
        torch.randperm(n, generator=torch.Generator().manual_seed(seed)),
        round(share * n),
    )
    return _Divided(records, order[:count].sort().values, order[count:].sort().values)


def _learned(
    records: Sequence[Record], divided: _Divided, here: _Columns, there: _Columns
) -> FittedHead:
    """Fit a learned score and add it to the scores.

    Raises:
        CascadeError: it cannot be fitted.
    """
    reported, fitted = records[0].logits, divided.fit_records[0].logits
    if reported is None or fitted is None:
        raise CascadeError(f"the record of {records[0].name!r} holds no logits")
    rows = divided.fit_rows
    if len(rows) == 0:
        raise CascadeError("there are no samples to fit it on")
    correct = there.judged.correct[rows]
    found = fit_head(fitted[rows], correct[:, 0], correct[:, 1])
    here.scores[LEARNED.name] = found.head.scores(reported)
    there.scores[LEARNED.name] = found.head.scores(fitted)
    return found


def _check_models(records: Sequence[Record], fit_on: Sequence[Record]) -> None:
    names, others = ([record.name for record in some] for some in (records, fit_on))
    if names != others:
        raise UsageError(
            f"--fit_on: expected records of {' and '.join(names)}, got {' and '.join(others)}."
        )
    if records[0].classes != fit_on[0].classes:
        raise UsageError("--fit_on: its records have other classes than those of --records.")


@dataclass(frozen=True)
class _Columns:
    scores: dict[str, Tensor]
    judged: Judged


def _columns(records: Sequence[Record], unit: str) -> _Columns:
    """Every score there is, and what is right and what it costs."""
    names = [RECORDED.name] if records[0].logits is None else list(SCORES)
    judged = {name: judge(records, Policy(score=name, stages=2), unit) for name in names}
    scores = {name: found.scores[:, 0] for name, found in judged.items()}
    return _Columns(scores, judged[names[0]])


def _compared(
    here: _Columns,
    there: _Columns,
    divided: _Divided,
    names: tuple[str, str],
    unit: str,
    seed: int,
    learned: FittedHead | None,
    missing: str | None,
) -> ScoreComparison:
    rows, fit_rows = divided.rows, divided.fit_rows
    correct, costs = here.judged.correct[rows], here.judged.costs[rows]
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: _Draws() for name in here.scores}
    whole = {name: quality_of(some[rows], correct, costs) for name, some in here.scores.items()}
    per_block = max(1, _BLOCK // len(rows))
    for start in range(0, DRAWS, per_block):
        shape = (min(per_block, DRAWS - start), len(rows))
        picked = torch.randint(len(rows), shape, generator=generator)
        weights = torch.zeros_like(picked).scatter_add_(1, picked, torch.ones_like(picked))
        for name, some in here.scores.items():
            drawn[name].append(quality_of(some[rows], correct, costs, weights))
    first = next(iter(here.scores))
    figures = []
    for name, some in here.scores.items():
        own, of_first = drawn[name], drawn[first]
        figures.append(
            ScoreFigures(
                name=name,
                scores=some[rows],
                area=_figure(whole[name].area, own.column("area")),
                gain=_figure(
                    whole[name].area - whole[first].area,
                    own.column("area") - of_first.column("area"),
                ),
                aurc=_figure(whole[name].aurc, own.column("aurc")),
                cost_ratio=_figure(whole[name].cost_ratio, own.column("cost_ratio")),
                chosen=_chosen(there, fit_rows, name, some[rows], correct, costs),
            )
        )
    gain = correct[:, 1].double() - correct[:, 0].double()
    bound = float(quality_of(-gain, correct, costs).cost_ratio)
    return ScoreComparison(
        names, unit, figures, correct, costs, len(fit_rows), learned, missing, bound
    )


class _Draws(list[Quality]):
    """What a score reaches on draws of the samples."""

    def column(self, name: str) -> Tensor:
        """A figure on every draw."""
        return torch.cat([getattr(found, name) for found in self])


def _figure(value: Tensor, draws: Tensor) -> Figure:
    kept = draws[~draws.isnan()]
    if len(kept) == 0:
        return Figure(float(value), float("nan"), float("nan"))
    ends = torch.tensor([0.025, 0.975], dtype=kept.dtype)
    low, high = kept.quantile(ends).tolist()
    return Figure(float(value), low, high)


def _chosen(
    there: _Columns, fit_rows: Tensor, name: str, scores: Tensor, correct: Tensor, costs: Tensor
) -> Chosen | None:
    if len(fit_rows) == 0:
        return None
    judged = there.judged
    curve = sweep(there.scores[name][fit_rows], judged.correct[fit_rows], judged.costs[fit_rows])
    point = cheapest(curve, float(curve.stage_accuracy[-1]))
    if point is None:
        return None
    here = answers_here(scores, point.threshold)
    n, last = len(scores), float(costs[:, 1].sum())
    right = torch.where(here, correct[:, 0], correct[:, 1])
    spent = costs[:, 0].sum() + costs[~here, 1].sum()
    return Chosen(
        threshold=point.threshold,
        accuracy=int(right.sum()) / n,
        deferral_rate=int((~here).sum()) / n,
        cost_ratio=float(spent) / last,
    )
