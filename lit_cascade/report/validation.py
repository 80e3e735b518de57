"""The result of `validate`: a cascade at every threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_cascade.analysis import (
    official_metric,
    outcomes_of,
    policy_for,
)
from lit_cascade.core import (
    AGREEMENT,
    LEARNED,
    MAX_LOGIT_PNORM,
    Curve,
    OperatingPoint,
    Policy,
    operating_points,
    oracle_deferral,
)
from lit_cascade.core.guarantee import rate_bounds
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record
from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.points import point_cells, point_headings, point_summary, shown_thresholds
from lit_cascade.report.text import (
    Column,
    Table,
    columns_csv,
    cost_cells,
    cost_columns,
    data_title,
    show,
)
from lit_cascade.utilities.drawing import BLACK, BLUE, GREY, VERMILION, literal
from lit_cascade.utilities.units import (
    cost_change,
    cost_figure,
    cost_heading,
    counted,
    metric_figure,
    metric_label,
    percent,
    quantity,
    unit_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Validation:
    """A cascade judged at every threshold on one split.

    Attributes:
        records: one record per stage.
        rule: score, temperatures, combination and floors; its thresholds are undecided.
        unit: of the cost.
        curve: the curve at these temperatures.
        policy: operating point of the given thresholds, if any.
        uncalibrated: the curve at temperature 1, if the rule has others.
        agreed: operating point where stages answer that agree with one before, whatever their
            confidence; None unless the score is agreement of three stages or more.
    """

    records: Sequence[Record]
    rule: Policy
    unit: str
    curve: Curve
    policy: OperatingPoint | None
    uncalibrated: Curve | None
    agreed: OperatingPoint | None = None

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        options: PolicyOptions,
        unit: str = "flops",
        metric: str | None = None,
    ) -> Validation:
        """Evaluate recorded stages at every threshold.

        Args:
            records: one per stage, cheapest first.
            options: score, temperatures, combination, floors and, if there are any, thresholds.
            unit: of the cost.
            metric: to judge by beside accuracy; by default that of the data.

        Raises:
            UsageError: options that do not fit the stages, or a metric that does not fit the data.
            CascadeError: records of different samples, labels or classes, or without what the
                options or the metric need.
        """
        described = [record.data for record in records]
        metric = official_metric(described, metric)
        policy = policy_for(records, options)
        rule = replace(policy, thresholds=None)
        outcomes = outcomes_of(records, rule, unit, metric)
        votes = rule.score == AGREEMENT.name and len(records) > 2
        plain = replace(rule, temperatures=())
        if rule.score in (LEARNED.name, MAX_LOGIT_PNORM.name) and rule.combine != "average":
            plain = rule  # a temperature moves nothing
        return cls(
            records=records,
            rule=rule,
            unit=unit,
            curve=outcomes.curve(),
            policy=None
            if policy.thresholds is None
            else outcomes_of(records, policy, unit, metric).at(policy.thresholds),
            uncalibrated=None
            if plain == rule
            else outcomes_of(records, plain, unit, metric).curve(),
            agreed=outcomes.at((1.0,) * (len(records) - 1)) if votes else None,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(record.name for record in self.records)

    @property
    def metrics(self) -> list[str]:
        """Accuracy, and the curve's other metric if it has one."""
        return ["accuracy", *([] if self.curve.metric is None else [self.curve.metric])]


def _points(curve: Curve | None, unit: str, by: str = "accuracy") -> dict[str, Any] | None:
    if curve is None:
        return None
    return {
        name: None
        if point is None
        else {"threshold": point.threshold, **point_summary(point, unit, curve.metric)}
        for name, point in operating_points(curve, by).items()
    }


def outcome_summary(
    point: OperatingPoint, names: Sequence[str], unit: str = "flops", metric: str | None = None
) -> dict[str, Any]:
    """An operating point with its thresholds and the share of answers by stage name."""
    return {
        "thresholds": dict(zip(names, point.thresholds, strict=False)),
        **point_summary(point, unit, metric),
        "answered": dict(zip(names, point.answered, strict=True)),
    }


def provenance(records: Sequence[Record]) -> dict[str, Any]:
    """The data, models and recordings behind the figures."""
    return {
        "data": dict(records[0].data),
        "fingerprint": records[0].samples.fingerprint,
        "models": {record.name: dict(record.model) for record in records},
        "recorded": {record.name: dict(record.info) for record in records},
    }


def curve_csv(curve: Curve) -> str:
    """The content of `curve.csv`: the columns of the curve, one row per distinct threshold."""
    return columns_csv(curve.columns())


def validation_summary(result: Validation) -> dict[str, Any]:
    """The content of `summary.json`."""
    curve, unit, metric = result.curve, result.unit, result.curve.metric
    summary = {
        "n": curve.n,
        "unit": unit,
        **({} if metric is None else {"metric": metric}),
        "score": result.rule.score,
        "combine": result.rule.combine,
        "temperatures": dict(zip(result.names, result.rule.temperatures, strict=True)),
        "floors": dict(zip(result.names, result.rule.floors, strict=False)),
        "stages": [
            {
                "name": record.name,
                **{by: float(curve.judged_by(by)[1][k]) for by in result.metrics},
                unit: float(curve.stage_cost[k]),
                "parameters": record.parameters,
            }
            for k, record in enumerate(result.records)
        ],
        "operating_points": _points(curve, unit),
        "policy": None
        if result.policy is None
        else outcome_summary(result.policy, result.names, unit, metric),
        "uncalibrated": _points(result.uncalibrated, unit),
    }
    if result.agreed is not None:
        summary["agreed"] = outcome_summary(result.agreed, result.names, unit, metric)
    if metric is not None:
        summary["operating_points_by_metric"] = _points(curve, unit, metric)
        summary["uncalibrated_by_metric"] = _points(result.uncalibrated, unit, metric)
    return summary | {"provenance": provenance(result.records)}


def _labels(by: str) -> dict[str, str]:
    """Labels of the operating points by a metric."""
    what, of = metric_label(by), "" if by == "accuracy" else f" of {metric_label(by)}"
    return {
        f"same_{by}": f"same {what} as last stage",
        f"best_{by}": f"best {what}",
        "drop_0.5": f"at most 0.5 points{of} below",
        "drop_1.0": f"at most 1.0 points{of} below",
    }


def _rule_of(result: Validation) -> str:
    """The rule by which a stage answers, in words."""
    parts = ["a stage answers at its threshold or above"]
    if any(floor > -math.inf for floor in result.rule.floors):
        floors = (f"{floor:.6g}" for floor in result.rule.floors)
        parts.append(f"and below its floor ({', '.join(floors)})")
    if result.rule.combine != "later":
        parts.append(f"answers combined: {result.rule.combine}")
    return ", ".join(parts)


def verdict(curve: Curve, names: Sequence[str], unit: str = "flops") -> str:
    """The verdict in one sentence, by the curve's other metric if it has one."""
    first, last, what = names[0], names[-1], cost_heading(unit)
    by = curve.metric or "accuracy"
    good = "Matthews correlation" if by == "matthews" else metric_label(by)
    point = operating_points(curve, by)[f"same_{by}"]
    if point is None:
        return (
            f"No threshold keeps the {good} of {last!r} for fewer {unit_label(unit)} than {last!r} "
            f"alone: on this split the cascade does not pay without losing {good}."
        )
    fall = f"{1 / point.cost_ratio:.1f}x" if point.cost_ratio else "to 0"
    if cost_change(point.cost, point.cost_ratio, unit):
        alone = point.cost / point.cost_ratio
        fall += f", from {cost_figure(alone, unit)} to {cost_figure(point.cost, unit)}"
    if point.cost_ratio > 0.9:
        fall = f"by {percent(1 - point.cost_ratio)} only: it hardly pays"
    if point.deferral_rate == 0:
        as_good = "is as accurate as" if by == "accuracy" else f"has at least the {good} of"
        return (
            f"{first!r} alone {as_good} {last!r} on this split: "
            f"nothing needs to be deferred and {what} fall {fall}."
        )
    shared, gone = "", "are deferred"
    if len(names) > 2:
        shared, gone = " at every stage but the last", f"reach {last!r}"
    return (
        f"For the {good} of {last!r}, defer below {shown_thresholds(point)}{shared}: "
        f"{percent(point.answered[-1])} of inputs {gone} and {what} fall {fall}."
    )


_GIVEN = "Given thresholds that were chosen on these samples are optimistic, too."


def print_validation(result: Validation, notes: Sequence[str] = ()) -> None:
    """Print the stages, the operating points, the verdict and the notes."""
    shared = ["Each listed threshold is shared by all stages but the last."]
    show(
        _stages_table(result),
        _points_table(result),
        *(shared if len(result.names) > 2 else []),
        verdict(result.curve, result.names, result.unit),
        "The operating points were chosen on these samples, so they are optimistic.",
        "Choose a threshold on one split (--split calibration), evaluate it on another.",
        *([] if result.policy is None else [_GIVEN]),
        *notes,
    )


def _stages_table(result: Validation) -> Table:
    curve, unit = result.curve, result.unit
    table = Table(
        f"Stages on {data_title(result.records[0].data)}: {counted(curve.n, 'sample')}",
        "stage", *map(metric_label, result.metrics), *cost_columns(unit),
        Column("parameters", detail=1), "temperature",
    )  # fmt: skip
    for k, record in enumerate(result.records):
        table.add_row(
            record.name,
            *(metric_figure(by, float(curve.judged_by(by)[1][k])) for by in result.metrics),
            *cost_cells(float(curve.stage_cost[k]), unit),
            quantity(record.parameters) if record.parameters else "unknown",
            f"{result.rule.temperatures[k]:.3f}" if k < len(result.records) - 1 else "",
        )
    return table


def _points_table(result: Validation) -> Table:
    metric, unit = result.curve.metric, result.unit
    table = Table(
        f"The cascade by {result.rule.score}, {_rule_of(result)}",
        "operating point", "threshold", *point_headings(unit, len(result.names), metric),
    )  # fmt: skip
    curves = [(result.curve, "")]
    if result.uncalibrated is not None:
        curves.append((result.uncalibrated, " (T = 1)"))
    for curve, note in curves:
        for by in result.metrics:
            table.add_section()
            labels = _labels(by)
            for name, point in operating_points(curve, by).items():
                shown = "none" if point is None else shown_thresholds(point)
                cells = point_cells(point, unit, curve.metric)
                table.add_row(labels[name] + note, shown, *cells)
    others = {"stages that agree": result.agreed, "the thresholds given": result.policy}
    for name, point in others.items():
        if point is not None:
            table.add_section()
            shown = shown_thresholds(point, result.rule.score)
            table.add_row(name, shown, *point_cells(point, unit, metric))
    return table


def draw_curve(result: Validation) -> bytes:
    """Accuracy against FLOPs as a PNG: stages, cascade, random deferral and the oracle's bound.

    Random and oracle deferral are drawn for two stages and for accuracy, for which they are
    defined. If the curve has another metric, a second panel shows it.
    """
    metrics = result.metrics
    width = 6.4 if len(metrics) == 1 else 10.4
    figure = figure_of(width, 4.2)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, by in zip(panels, metrics, strict=True):
        if by == "accuracy" and len(result.names) == 2:
            _comparisons(axes, result)
        _panel(axes, result, by)
    panels[0].legend(frameon=False, loc="best", fontsize=8)
    data, curve = result.records[0].data, result.curve
    if data.get("name"):
        title = f"{' → '.join(result.names)} on {data_title(data)} ({counted(curve.n, 'sample')})"
        if len(metrics) == 1:
            panels[0].set_title(literal(title), fontsize=10)
        else:
            figure.suptitle(literal(title), fontsize=10)
    return png_of(figure)


def _comparisons(axes: Axes, result: Validation) -> None:
    outcomes = outcomes_of(result.records, result.rule, result.unit)
    oracle = oracle_deferral(outcomes.labelled("the oracle")[0], outcomes.costs)
    axes.plot(
        oracle.cost, 100 * oracle.accuracy, ":", color=BLACK, linewidth=1.2,
        label="oracle deferral (bound)",
    )  # fmt: skip
    # expected accuracy of deferring at random: from the first stage alone to everything deferred
    cost, accuracy = result.curve.cost, result.curve.accuracy
    share = np.linspace(0, 1, 200)
    axes.plot(
        float(cost[0]) + share * float(cost[-1] - cost[0]),
        100 * (float(accuracy[0]) + share * float(accuracy[-1] - accuracy[0])),
        "--", color=GREY, linewidth=1.2, label="random deferral",
    )  # fmt: skip


def _panel(axes: Axes, result: Validation, by: str) -> None:
    curve, label = result.curve, f"cascade, {result.rule.score}"
    if by == "accuracy" and curve.n < _FEW:
        _band(axes, curve)
    if result.uncalibrated is not None:
        result.uncalibrated.plot(
            axes, by=by, stages=False, label=f"{label}, T = 1", color=VERMILION, linestyle="-."
        )
        label += ", calibrated"
    curve.plot(axes, by=by, label=label)
    if result.policy is not None:
        reached = result.policy.accuracy if by == "accuracy" else result.policy.metric
        axes.plot(
            result.policy.cost, 100 * (reached or 0.0), "*", color=VERMILION, markersize=13,
            markeredgecolor="white", zorder=6, label="the thresholds given",
        )  # fmt: skip


_FEW = 2000
"""Number of samples from which on the band of an accuracy is about as thin as its curve."""


def _band(axes: Axes, curve: Curve) -> None:
    """Shade where the accuracy on new samples is, at each threshold by itself."""
    right = (curve.n * curve.accuracy).round().long()
    bounds = {count: rate_bounds(count, curve.n, 0.05) for count in set(right.tolist())}
    low, high = zip(*(bounds[count] for count in right.tolist()), strict=True)
    axes.fill_between(
        curve.cost.numpy(), 100 * np.array(low), 100 * np.array(high), step="post", color=BLUE,
        alpha=0.12, linewidth=0, label=f"95 % interval from {counted(curve.n, 'sample')}",
    )  # fmt: skip
