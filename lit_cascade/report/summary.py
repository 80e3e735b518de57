"""Everything that the terminal says, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_cascade.analysis import (
    Outcome,
    curve_of_records,
    official_metric,
    replay_outcome,
    without_logits,
)
from lit_cascade.core import (
    LEARNED,
    Curve,
    OperatingPoint,
    Policy,
    operating_points,
    policy_of,
    rule_of,
)
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record
from lit_cascade.report.text import json_number

__all__ = [
    "Validation",
    "outcome_summary",
    "provenance",
    "validation_summary",
]


Points = Mapping[str, OperatingPoint | None]


@dataclass(frozen=True)
class Validation:
    """A cascade judged at every threshold on one split.

    Attributes:
        records: what was judged, one record per stage.
        rule: score, temperatures, combination and floors; it defers everything.
        unit: of the cost.
        curve: with these temperatures.
        points: the named operating points of the curve.
        metric_points: the same by the curve's metric, if it has one beside accuracy.
        thresholds: those that were given, if any.
        policy: what they do.
        uncalibrated: the curve at temperature 1 and without vector scaling, if the rule has any.
    """

    records: Sequence[Record]
    rule: Policy
    unit: str
    curve: Curve
    points: Points
    metric_points: Points | None
    thresholds: tuple[float, ...] | None
    policy: Outcome | None
    uncalibrated: Curve | None

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        options: PolicyOptions,
        unit: str = "flops",
        metric: str | None = None,
    ) -> Validation:
        """Judge recorded stages at every threshold.

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
        names = [record.name for record in records]
        policy = policy_of(options, names, recorded=without_logits(records))
        rule = rule_of(options, names, recorded=without_logits(records))
        curve = curve_of_records(records, rule, unit, metric)
        plain = replace(rule, temperatures=(), vectors=())
        if rule.score == LEARNED.name and rule.combine != "average":
            plain = rule  # it was fitted to these very logits: a temperature moves nothing
        return cls(
            records=records,
            rule=rule,
            unit=unit,
            curve=curve,
            points=operating_points(curve),
            metric_points=None if metric is None else operating_points(curve, metric),
            thresholds=None if policy is None else policy.thresholds,
            policy=None if policy is None else replay_outcome(records, policy, unit, metric),
            uncalibrated=None if plain == rule else curve_of_records(records, plain, unit, metric),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(record.name for record in self.records)


def _goodness(accuracy: float, metric: str | None, value: float | None) -> dict[str, float]:
    """Accuracy, and the other metric by its name if there is one."""
    return {"accuracy": accuracy} | ({} if metric is None or value is None else {metric: value})


def _points(points: Points, metric: str | None, unit: str) -> dict[str, Any]:
    return {
        name: None if point is None else _point(point, metric, unit)
        for name, point in points.items()
    }


def _point(point: OperatingPoint, metric: str | None, unit: str) -> dict[str, Any]:
    return {
        "threshold": json_number(point.threshold),
        "deferral_rate": point.deferral_rate,
        **_goodness(point.accuracy, metric, point.metric),
        unit: point.cost,
        f"{unit}_ratio": point.cost_ratio,
    }


def outcome_summary(
    found: Outcome,
    names: Sequence[str],
    thresholds: Sequence[float],
    unit: str = "flops",
    metric: str | None = None,
) -> dict[str, Any]:
    """An outcome at given thresholds, by stage name."""
    return {
        "thresholds": {
            name: json_number(threshold) for name, threshold in zip(names, thresholds, strict=False)
        },
        **_goodness(found.accuracy, metric, found.metric),
        "deferral_rate": found.deferral_rate,
        unit: found.cost,
        f"{unit}_ratio": found.cost_ratio,
        "answered": dict(zip(names, found.answered, strict=True)),
    }


def provenance(records: Sequence[Record]) -> dict[str, Any]:
    """What the figures were made from."""
    return {
        "data": dict(records[0].data),
        "fingerprint": records[0].samples.fingerprint,
        "models": {record.name: dict(record.model) for record in records},
        "recorded": {record.name: dict(record.info) for record in records},
    }


def _vectors(found: Validation) -> dict[str, Any]:
    """Vector scalings by stage, if there are any."""
    pairs = zip(found.names, found.rule.vectors, strict=True)
    vectors = {name: vector.as_options() for name, vector in pairs if vector is not None}
    return {"vectors": vectors} if vectors else {}


def validation_summary(found: Validation) -> dict[str, Any]:
    """The content of `summary.json`."""
    curve, unit, metric, plain = found.curve, found.unit, found.curve.metric, found.uncalibrated
    stage_metric = [None] * len(found.names)
    if curve.stage_by_metric is not None:
        stage_metric = curve.stage_by_metric.tolist()
    summary = {
        "n": curve.n,
        "unit": unit,
        **({} if metric is None else {"metric": metric}),
        "score": found.rule.score,
        "combine": found.rule.combine,
        "temperatures": dict(zip(found.names, found.rule.temperatures, strict=True)),
        **_vectors(found),
        "floors": dict(zip(found.names, map(json_number, found.rule.floors), strict=False)),
        "stages": [
            {
                "name": record.name,
                **_goodness(float(curve.stage_accuracy[k]), metric, stage_metric[k]),
                unit: float(curve.stage_cost[k]),
                "parameters": record.parameters,
            }
            for k, record in enumerate(found.records)
        ],
        "operating_points": _points(found.points, metric, unit),
        "policy": None
        if found.policy is None or found.thresholds is None
        else outcome_summary(found.policy, found.names, found.thresholds, unit, metric),
        "uncalibrated": None if plain is None else _points(operating_points(plain), metric, unit),
    }
    if metric is not None and found.metric_points is not None:
        summary["operating_points_by_metric"] = _points(found.metric_points, metric, unit)
        summary["uncalibrated_by_metric"] = (
            None if plain is None else _points(operating_points(plain, metric), metric, unit)
        )
    return summary | {"provenance": provenance(found.records)}
