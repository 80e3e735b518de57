"""Everything that the terminal says, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_cascade.analysis import (
    Outcome,
    StageCalibration,
    curve_of_records,
    policy_of,
    replay_outcome,
)
from lit_cascade.core.selection import OperatingPoint, operating_points
from lit_cascade.core.sweep import Curve
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record

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
        score: the score's name.
        temperatures: one per stage.
        curve: with these temperatures.
        points: the named operating points of the curve.
        thresholds: those that were given, if any.
        policy: what they do.
        uncalibrated: the curve at temperature 1, if any temperature differs from 1.
    """

    records: Sequence[Record]
    score: str
    temperatures: tuple[float, ...]
    curve: Curve
    points: Mapping[str, OperatingPoint | None]
    thresholds: tuple[float, ...] | None
    policy: Outcome | None
    uncalibrated: Curve | None

    @classmethod
    def of(cls, records: Sequence[Record], options: PolicyOptions) -> Validation:
        """Judge recorded stages at every threshold.

        Args:
            records: one per stage, cheapest first.
            options: score, temperatures and, if there are any, thresholds.

        Raises:
            UsageError: options that do not fit the stages.
            CascadeError: records of different samples, labels or classes.
        """
        names = [record.name for record in records]
        temperatures = options.temperatures_of(names)
        policy = policy_of(options, names)
        curve = curve_of_records(records, options.score, temperatures)
        plain = all(temperature == 1.0 for temperature in temperatures)
        return cls(
            records=records,
            score=options.score,
            temperatures=temperatures,
            curve=curve,
            points=operating_points(curve),
            thresholds=None if policy is None else policy.thresholds,
            policy=None if policy is None else replay_outcome(records, policy),
            uncalibrated=None if plain else curve_of_records(records, options.score),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(record.name for record in self.records)


def _number(value: float) -> float | str:
    """A number that JSON can hold: infinite thresholds become "inf" and "-inf"."""
    return value if math.isfinite(value) else str(value)


def _point(point: OperatingPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "threshold": _number(point.threshold),
        "deferral_rate": point.deferral_rate,
        "accuracy": point.accuracy,
        "flops": point.cost,
        "flops_ratio": point.cost_ratio,
    }


def outcome_summary(
    found: Outcome, names: Sequence[str], thresholds: Sequence[float]
) -> dict[str, Any]:
    """An outcome at given thresholds, by stage name."""
    return {
        "thresholds": {
            name: _number(threshold) for name, threshold in zip(names, thresholds, strict=False)
        },
        "accuracy": found.accuracy,
        "deferral_rate": found.deferral_rate,
        "flops": found.flops,
        "flops_ratio": found.flops_ratio,
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
    curve = found.curve
    plain = found.uncalibrated
    return {
        "n": curve.n,
        "score": found.score,
        "temperatures": dict(zip(found.names, found.temperatures, strict=True)),
        "stages": [
            {
                "name": record.name,
                "accuracy": float(curve.stage_accuracy[k]),
                "flops": float(curve.stage_cost[k]),
                "parameters": record.parameters,
            }
            for k, record in enumerate(found.records)
        ],
        "operating_points": {name: _point(point) for name, point in found.points.items()},
        "policy": None
        if found.policy is None or found.thresholds is None
        else outcome_summary(found.policy, found.names, found.thresholds),
        "uncalibrated": None
        if plain is None
        else {name: _point(point) for name, point in operating_points(plain).items()},
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
