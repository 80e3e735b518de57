"""Comparison of the scores of a small model, on samples that none of them was fitted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.deferral_head import FittedHead, fit_head
from lit_cascade.analysis.evidence import check_overlap, fitted_on
from lit_cascade.core import (
    AGREEMENT,
    LEARNED,
    MAX_LOGIT_PNORM,
    RECORDED,
    SCORES,
    TWO_CLASSES,
    OperatingPoint,
    Policy,
    Quality,
    StageOutcomes,
    cheapest,
    fit_norm,
    oracle_deferral,
    percentile_interval,
    quality_of,
    resampled_counts,
    stage_outputs,
    sweep,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import Share
from lit_cascade.records import Record, RecordLike, load_records, priced
from lit_cascade.utilities.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY_BLUE,
    VERMILION,
    axes_of,
    mark,
    quiet,
)
from lit_cascade.utilities.tabular import Tabular, described, html_of, listed
from lit_cascade.utilities.units import counted, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 1000
"""Number of bootstrap resamples."""

_MANY = 0.1
"""Share of the samples with one score above which they are worth a note."""

_BLOCK = 2**21  # weights in memory at once


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap percentile interval.

    Attributes:
        value: on the samples themselves.
        low: 2.5 % quantile over the resamples.
        high: 97.5 % quantile over the resamples.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreFigures:
    """Quality of one score.

    Attributes:
        name: name of the score.
        scores: on the reported samples, (N,).
        area: area under accuracy against deferral rate, from random (0) to oracle deferral (1).
        gain: area minus that of the first score, on the same resamples.
        aurc: area under the risk-coverage curve of the small model.
        cost_ratio: smallest at the large model's accuracy, chosen on the reported samples.
        chosen: held-out operating point: the cheapest threshold with the large model's accuracy on
            the fitting samples, measured on the reported samples; None if there is none.
    """

    name: str
    scores: Tensor
    area: Estimate
    gain: Estimate
    aurc: Estimate
    cost_ratio: Estimate
    chosen: OperatingPoint | None

    def __repr__(self) -> str:
        figures = {"area": self.area, "AURC": self.aurc, "cost ratio": self.cost_ratio}
        return described(
            "ScoreFigures",
            self.name,
            *(
                f"{name} {one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
                for name, one in figures.items()
            ),
        )


@dataclass(frozen=True)
class ScoreComparison(Tabular):
    """Scores of one model for deferring to another.

    Attributes:
        names: names of the two models.
        voters: names of models before them, which an agreement is with.
        unit: unit of the cost.
        figures: quality of each score.
        correct: whether each model is right on the reported samples, (N, 2) bool.
        costs: cost of each model on the reported samples, (N, 2).
        fitted_on: number of other samples, for the learned score and the thresholds.
        learned: fitted learned score, or None.
        missing: why there is no learned score.
        bound: cost of the oracle at the large model's accuracy, over that of the large model.
        notes: what else to know about the samples.
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
    notes: tuple[str, ...] = ()
    voters: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of reported samples."""
        return len(self.correct)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Accuracy of each model."""
        small, large = (self.correct.sum(dim=0).double() / self.n).tolist()
        return small, large

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per score, as in `scores.csv`: each figure with its 95 % interval."""
        columns: dict[str, Sequence[Any]] = {"score": [one.name for one in self.figures]}
        ratio = f"{self.unit}_ratio"
        kinds = {"area": "area", "gain": "gain", "aurc": "aurc", ratio: "cost_ratio"}
        for name, kind in kinds.items():
            for end, column in (("value", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                columns[column] = [getattr(getattr(one, kind), end) for one in self.figures]
        for name in ("threshold", "accuracy", "deferral_rate", "cost_ratio"):
            columns[f"chosen_{name.removeprefix('cost_')}"] = [
                None if one.chosen is None else getattr(one.chosen, name) for one in self.figures
            ]
        return columns

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw accuracy against deferral rate of every score, with random and oracle deferral.

        Args:
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes.
        """
        axes = axes_of(ax)
        # with these costs the mean cost is the deferral rate; only corners of the bound are drawn
        oracle = oracle_deferral(self.correct, torch.tensor([[0.0, 1.0]]).expand(self.n, 2))
        gain = self.correct.long().diff(dim=1)
        corners = [0, int((gain > 0).sum()), self.n - int((gain < 0).sum()), self.n]
        axes.plot(
            100 * oracle.cost[corners], 100 * oracle.accuracy[corners], ":", color=BLACK,
            linewidth=1.2, label="oracle deferral (1)",
        )  # fmt: skip
        for one, (colour, style) in zip(self.figures, _LINES, strict=False):
            curve = sweep(one.scores, self.correct, self.costs)
            axes.plot(
                100 * curve.deferral_rate, 100 * curve.accuracy, linestyle=style, color=colour,
                linewidth=1.6, label=f"{one.name} ({one.area.value:.3f})", zorder=3,
            )  # fmt: skip
        small, large = (100 * accuracy for accuracy in self.accuracy)
        axes.plot(
            [0, 100], [small, large], "--", color=GREY, linewidth=1.2, label="random deferral (0)"
        )
        sides = ((0, small, "left"), (100, large, "right"))
        for (rate, accuracy, side), name in zip(sides, self.names, strict=True):
            mark(axes, name, (rate, accuracy), side)
        axes.set_xlabel("deferral rate (%)")
        axes.set_ylabel("accuracy (%)")
        axes.legend(frameon=False, loc="best", fontsize=8)
        quiet(axes)
        axes.margins(x=0.04, y=0.1)
        return axes

    def __repr__(self) -> str:
        return described(
            "ScoreComparison",
            listed(self.names, " → "),
            counted(self.n, "sample"),
            f"area of {self.figures[0].name} {self.figures[0].area.value:.3f}",
            *(f"{one.name} {one.area.value:.3f}" for one in self.figures[1:]),
        )

    def _repr_html_(self) -> str:
        table = self.to_pandas()
        ends = [name for name in table if str(name).endswith(("_low", "_high"))]
        return html_of(repr(self), table.drop(columns=ends))


# line styles tell curves apart where they coincide
_LINES = (
    (BLUE, "-"),
    (ORANGE, "--"),
    (GREEN, "-."),
    (VERMILION, (0, (1, 1))),
    (SKY_BLUE, (0, (5, 1))),
    (BLACK, (0, (3, 1, 1, 1))),
)


def compare_scores(
    records: Sequence[RecordLike],
    *,
    fit_on: Sequence[RecordLike] | None = None,
    share: float | str = 0.5,
    seed: int = 0,
    cost: str = "flops",
    allow_overlap: bool = False,
) -> ScoreComparison:
    """Compare all scores of a small model for deferring to a large one.

    Args:
        records: records of the two models, the small one first; or their files. Records before
            these two are of models whose answers the score `agreement` compares.
        fit_on: records of the same models on other samples, for the learned score and thresholds;
            by default a part of the samples of `records`, and the rest is reported on.
        share: fraction of the samples in that part; 0 for no learned score and no thresholds.
        seed: seed of the draw of that part and of the bootstrap.
        cost: unit of the cost, or UNIT=FILE with costs that were measured apart.
        allow_overlap: whether samples of `fit_on` may be among those that are reported on.

    Raises:
        UsageError: fewer than two records, other models in `fit_on`, or a share out of range.
        CascadeError: records of different samples, or without labels, scores or the unit;
            confidences outside of 0 to 1 where agreement adds to them; or samples of `fit_on` among
            those that are reported on.

    Examples:
        >>> labels = torch.arange(300) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(300, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k)
        ...     for k, name in ((1, "small"), (9, "large"))
        ... )
        >>> [score.name for score in compare_scores([small, large]).figures]
        ['max_softmax', 'margin', 'negative_entropy', 'learned', 'max_logit_pnorm']
    """
    records, unit = priced(load_records(records), cost)
    notes: list[str] = []
    if fit_on is None:
        fitting, fit_rows, rows = records, *_split(len(records[0]), share, seed)
    else:
        fitting, _ = priced(load_records(fit_on), cost)
        names, others = ([record.name for record in some] for some in (records, fitting))
        if names != others:
            raise UsageError(
                f"fit_on: expected records of {' and '.join(names)}, got {' and '.join(others)}."
            )
        if records[0].classes != fitting[0].classes:
            raise UsageError("fit_on: its records have other classes than those of records.")
        evidence = {"learned score and thresholds": fitted_on(fitting)}
        samples, data = records[0].samples, records[0].data
        notes += check_overlap(evidence, samples, data, records, allowed=allow_overlap)
        fit_rows, rows = (torch.arange(len(some[0])) for some in (fitting, records))
    here, there = _tables(records, rows, unit), _tables(fitting, fit_rows, unit)
    voters = tuple(record.name for record in records[:-2])
    records, fitting = records[-2:], fitting[-2:]
    learned, missing = None, None
    try:
        learned = _learned(fitting, fit_rows, there)
    except CascadeError as error:
        missing = str(error).rstrip(".")
    else:
        for tables, (record, some) in ((here, (records[0], rows)), (there, (fitting[0], fit_rows))):
            output = record.output("a learned score")
            scores = learned.head.judge(output, rows=some).score[:, None]
            tables[LEARNED.name] = replace(next(iter(tables.values())), scores=scores)
    classes = len(fitting[0].classes)
    if fitting[0].logits is not None and len(fit_rows) and classes > 2:
        norm = fit_norm(*fitting[0].logits_for(f"the score {MAX_LOGIT_PNORM.name}"), fit_rows).norm
        rule = Policy(score=MAX_LOGIT_PNORM.name, norms=(norm,), stages=2)
        here[rule.score] = outcomes_of(records, rule, unit).rows(rows)
        there[rule.score] = outcomes_of(fitting, rule, unit).rows(fit_rows)
        p = "max_softmax in its place" if isinstance(norm, str) else f"p = {norm:g}"
        notes.append(f"{rule.score}: {p}, chosen on the fitting samples.")
    elif fitting[0].logits is not None and classes == 2:
        notes.append(f"Not compared: {TWO_CLASSES}")
    first = next(iter(here.values()))
    correct, _ = first.labelled("a comparison of scores")
    gain = correct[:, 1].double() - correct[:, 0].double()
    figures = _figures(here, there, seed)
    return ScoreComparison(
        names=(records[0].name, records[1].name),
        voters=voters,
        unit=unit,
        figures=figures,
        correct=correct,
        costs=first.costs,
        fitted_on=len(fit_rows),
        learned=learned,
        missing=missing,
        bound=float(quality_of(-gain, correct, first.costs).cost_ratio),
        notes=(*notes, *filter(None, map(_tie_note, figures))),
    )


def _tie_note(one: ScoreFigures) -> str:
    """A sentence on a score that many samples share, so that no threshold tells them apart."""
    values, counts = one.scores.unique(return_counts=True)
    most = int(counts.argmax())
    share = int(counts[most]) / len(one.scores)
    if share < _MANY:
        return ""
    return (
        f"Note: {one.name} has {counted(len(values), 'value')}, and {percent(share)} of the "
        f"samples share {float(values[most]):.6g}: no threshold tells these apart."
    )


def _split(n: int, share: float | str, seed: int) -> tuple[Tensor, Tensor]:
    """Draw rows to fit on and rows to report on."""
    share = Share(share, "share")
    count = round(share * n)
    if count >= n:
        raise UsageError(
            f"share: expected a share from 0 to below 1 that leaves some of the "
            f"{counted(n, 'sample')} to report on, got {share}."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values, order[count:].sort().values


def _tables(records: Sequence[Record], rows: Tensor, unit: str) -> dict[str, StageOutcomes]:
    """Outcomes of the last two of the records on some rows, by score.

    An agreement is that with the records before, which are then paid for too.
    """
    *voters, small, large = records
    names = [RECORDED.name] if small.logits is None else list(SCORES)
    tables = {
        name: outcomes_of([small, large], Policy(score=name, stages=2), unit).rows(rows)
        for name in names
    }
    if not voters:
        return tables
    first = next(iter(tables.values()))
    rule = Policy.of({"score": AGREEMENT.name}, [record.name for record in records])
    scores = stage_outputs([one.output("agreement") for one in records], rule).scores[-2]
    costs = first.costs.clone()
    costs[:, 0] += torch.stack([voter.cost(unit)[rows] for voter in voters]).sum(dim=0)
    tables[AGREEMENT.name] = replace(first, scores=scores[rows, None], costs=costs)
    return tables


def _learned(
    fitting: Sequence[Record], fit_rows: Tensor, there: dict[str, StageOutcomes]
) -> FittedHead:
    """Fit a learned score; raise CascadeError if it cannot be fitted."""
    output = fitting[0].output("a learned score")
    if len(fit_rows) == 0:
        raise CascadeError("there are no samples to fit it on")
    correct, _ = next(iter(there.values())).labelled("a learned score")
    return fit_head(output, correct[:, 0], correct[:, 1], fit_rows, classes=len(fitting[0].classes))


def _figures(
    here: dict[str, StageOutcomes], there: dict[str, StageOutcomes], seed: int
) -> list[ScoreFigures]:
    """Measure each score on the reported samples, with bootstrap intervals."""
    n = len(next(iter(here.values())))
    whole = {name: _quality(table) for name, table in here.items()}
    drawn: dict[str, list[Quality]] = {name: [] for name in here}
    generator = torch.Generator().manual_seed(seed)
    per_block = max(1, _BLOCK // n)
    for start in range(0, DRAWS, per_block):
        weights = resampled_counts(n, min(per_block, DRAWS - start), generator, torch.int64)
        for name, table in here.items():
            drawn[name].append(_quality(table, weights))

    def figure(name: str, column: str, less: str | None = None) -> Estimate:
        value = getattr(whole[name], column)
        draws = torch.cat([getattr(part, column) for part in drawn[name]])
        if less is not None:
            value = value - getattr(whole[less], column)
            draws = draws - torch.cat([getattr(part, column) for part in drawn[less]])
        kept = draws[~draws.isnan()]
        interval = percentile_interval(kept) if len(kept) else (math.nan, math.nan)
        return Estimate(float(value), *interval)

    first = next(iter(here))
    return [
        ScoreFigures(
            name=name,
            scores=table.scores[:, 0],
            area=figure(name, "area"),
            gain=figure(name, "area", less=first),
            aurc=figure(name, "aurc"),
            cost_ratio=figure(name, "cost_ratio"),
            chosen=_held_out(there[name], table),
        )
        for name, table in here.items()
    ]


def _quality(table: StageOutcomes, weights: Tensor | None = None) -> Quality:
    correct, _ = table.labelled("a comparison of scores")
    return quality_of(table.scores[:, 0], correct, table.costs, weights)


def _held_out(there: StageOutcomes, here: StageOutcomes) -> OperatingPoint | None:
    """Choose the cheapest threshold with the last stage's accuracy there and measure it here."""
    if len(there) == 0:
        return None
    curve = there.curve()
    point = cheapest(curve, float(curve.stage_accuracy[-1]))
    return None if point is None else here.at(point.thresholds)
