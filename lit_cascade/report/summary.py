"""Everything that the terminal says, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_cascade.analysis import (
    Outcome,
    StageCalibration,
    curve_of_records,
    policy_of,
    replay_outcome,
    without_logits,
)
from lit_cascade.core.policy import Policy, always_defer
from lit_cascade.core.scores import RECORDED
from lit_cascade.core.selection import OperatingPoint, operating_points
from lit_cascade.core.sweep import Curve
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record
from lit_cascade.report.text import json_number

__all__ = [
    "Validation",
    "calibration_summary",
    "outcome_summary",
    "provenance",
    "validation_summary",
]


@dataclass(frozen=True)
class Validation:
    """A cascade judged at every threshold on one split.

    Attributes:
        records: what was judged, one record per stage.
        rule: score, temperatures, combination and floors; it defers everything.
        unit: of the cost.
        curve: with these temperatures.
        points: the named operating points of the curve.
        thresholds: those that were given, if any.
        policy: what they do.
        uncalibrated: the curve at temperature 1, if any temperature differs from 1.
    """

    records: Sequence[Record]
    rule: Policy
    unit: str
    curve: Curve
    points: Mapping[str, OperatingPoint | None]
    thresholds: tuple[float, ...] | None
    policy: Outcome | None
    uncalibrated: Curve | None

    @classmethod
    def of(
        cls, records: Sequence[Record], options: PolicyOptions, unit: str = "flops"
    ) -> Validation:
        """Judge recorded stages at every threshold.

        Args:
            records: one per stage, cheapest first.
            options: score, temperatures, combination, floors and, if there are any, thresholds.
            unit: of the cost.

        Raises:
            UsageError: options that do not fit the stages.
            CascadeError: records of different samples, labels or classes, or without what the
                options need.
        """
        names = [record.name for record in records]
        policy = policy_of(options, names, recorded=without_logits(records))
        rule = always_defer(
            len(names),
            score=RECORDED.name if without_logits(records) else options.score,
            temperatures=options.temperatures_of(names),
            combine=options.combine,
            floors=options.floors_of(names),
        )
        curve = curve_of_records(records, rule, unit)
        plain = replace(rule, temperatures=())
        return cls(
            records=records,
            rule=rule,
            unit=unit,
            curve=curve,
            points=operating_points(curve),
            thresholds=None if policy is None else policy.thresholds,
            policy=None if policy is None else replay_outcome(records, policy, unit),
            uncalibrated=None if plain == rule else curve_of_records(records, plain, unit),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(record.name for record in self.records)


def _point(point: OperatingPoint | None, unit: str) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "threshold": json_number(point.threshold),
        "deferral_rate": point.deferral_rate,
        "accuracy": point.accuracy,
        unit: point.cost,
        f"{unit}_ratio": point.cost_ratio,
    }


def outcome_summary(
    found: Outcome, names: Sequence[str], thresholds: Sequence[float], unit: str = "flops"
) -> dict[str, Any]:
    """An outcome at given thresholds, by stage name."""
    return {
        "thresholds": {
            name: json_number(threshold) for name, threshold in zip(names, thresholds, strict=False)
        },
        "accuracy": found.accuracy,
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


def validation_summary(found: Validation) -> dict[str, Any]:
    """The content of `summary.json`."""
    curve, unit = found.curve, found.unit
    plain = found.uncalibrated
    return {
        "n": curve.n,
        "unit": unit,
        "score": found.rule.score,
        "combine": found.rule.combine,
        "temperatures": dict(zip(found.names, found.rule.temperatures, strict=True)),
        "floors": dict(zip(found.names, map(json_number, found.rule.floors), strict=False)),
        "stages": [
            {
                "name": record.name,
                "accuracy": float(curve.stage_accuracy[k]),
                unit: float(curve.stage_cost[k]),
                "parameters": record.parameters,
            }
            for k, record in enumerate(found.records)
        ],
        "operating_points": {name: _point(point, unit) for name, point in found.points.items()},
        "policy": None
        if found.policy is None or found.thresholds is None
        else outcome_summary(found.policy, found.names, found.thresholds, unit),
        "uncalibrated": None
        if plain is None
        else {name: _point(point, unit) for name, point in operating_points(plain).items()},
        "provenance": provenance(found.records),
    }


def calibration_summary(found: Mapping[str, StageCalibration]) -> dict[str, Any]:
    """Temperatures with their figures, by stage name."""
    return {
        name: {
            "temperature": stage.fit.temperature,
            "n": stage.n,
            "nll_before": stage.fit.nll_before,
            "nll_after": stage.fit.nll_after,
            "ece_before": stage.ece_before,
            "ece_after": stage.ece_after,
        }
        for name, stage in found.items()
    }
