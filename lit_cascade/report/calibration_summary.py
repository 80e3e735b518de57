"""What the summary says of a calibration, and whether it helps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_cascade.analysis import Comparison, Diagram, Method, Plan, StageCalibration
from lit_cascade.core import Curve, OperatingPoint, cheapest
from lit_cascade.records import Record
from lit_cascade.report.summary import provenance

__all__ = [
    "Calibrated",
    "calibration_summary",
    "fit_summary",
    "recommendation",
    "same_accuracy",
    "verdict_summary",
]


class Calibrated(NamedTuple):
    """A calibration of some stages of a cascade.

    Attributes:
        records: of all stages, cheapest first.
        fitted: the calibrations, by stage.
        plan: what they were fitted and judged on.
        method: that they were fitted with.
        comparison: of the cascade with and without; None where nothing was fitted.
        unit: of the cost.
    """

    records: Sequence[Record]
    fitted: Mapping[str, StageCalibration]
    plan: Plan
    method: Method
    comparison: Comparison | None
    unit: str


def recommendation(found: Calibrated) -> str:
    """Whether to apply the calibration, in a sentence or two."""
    compared = found.comparison
    if compared is None:
        return "Nothing was fitted: this is how well confidence fits as it is."
    low, high = (100 * end for end in compared.difference.interval)
    moved = (
        f"{100 * compared.difference.value:+.3f} points of accuracy, averaged over all costs "
        f"(95 %: {low:+.3f} to {high:+.3f})"
    )
    same = (
        " With two classes a temperature cannot change which samples are the surest: the curve is "
        "the same, with other thresholds."
        if compared.same_order
        else ""
    )
    if compared.difference.better:
        return f"Calibration helps this cascade: {moved}. Apply it."
    if compared.difference.worse:
        return f"Calibration makes this cascade worse: {moved}; none is recommended."
    return f"Calibration does not help this cascade: {moved}; none is recommended.{same}"


def same_accuracy(curve: Curve) -> OperatingPoint | None:
    """The cheapest point with the last stage's accuracy."""
    return cheapest(curve, float(curve.stage_accuracy[-1]))


def fit_summary(stage: StageCalibration) -> dict[str, Any]:
    """What was fitted to a stage, and the figures before and after."""
    figures = {}
    for when, found in (("before", stage.before), ("after", stage.after)):
        figures[when] = {
            "nll": found.nll,
            "ece": found.ece,
            "ece_equal_mass": found.ece_equal_mass,
            "brier": found.brier,
            "accuracy": found.accuracy,
            "confidence": found.confidence,
        }
    return {
        "temperature": stage.scaling.temperature,
        "at_bound": stage.scaling.at_bound,
        "n": stage.n,
        "changed": stage.changed,
        **figures,
    }


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _diagram_summary(found: Diagram) -> dict[str, Any]:
    return {
        "edges": list(found.edges),
        "counts": list(found.counts),
        "confidence": _numbers(found.confidence),
        "accuracy": _numbers(found.accuracy),
    }


def _curve_summary(curve: Curve, mean: float, unit: str) -> dict[str, Any]:
    point = same_accuracy(curve)
    return {
        "mean_accuracy": mean,
        "stage_accuracy": curve.stage_accuracy.tolist(),
        "same_accuracy": None
        if point is None
        else {
            "deferral_rate": point.deferral_rate,
            "accuracy": point.accuracy,
            unit: point.cost,
            f"{unit}_ratio": point.cost_ratio,
        },
    }


def verdict_summary(found: Calibrated) -> dict[str, Any]:
    """The recommendation and what it rests on."""
    compared = found.comparison
    if compared is None:
        return {"method": found.method, "recommended": "none"}
    return {
        "method": found.method,
        "recommended": compared.recommended,
        "same_order": compared.same_order,
        "gain": compared.difference.value,
        "interval": list(compared.difference.interval),
        "judged": found.plan.text,
    }


def calibration_summary(found: Calibrated) -> dict[str, Any]:
    """The content of `summary.json`."""
    compared, unit = found.comparison, found.unit
    stages = {
        name: fit_summary(stage)
        | {
            "diagram": {
                "before": _diagram_summary(stage.before.diagram),
                "after": _diagram_summary(stage.after.diagram),
            }
        }
        for name, stage in found.fitted.items()
    }
    return {
        "n": len(found.records[0]),
        "fitted_on": len(found.plan.fitted),
        "judged_on": len(found.plan.judged),
        **verdict_summary(found),
        "unit": unit,
        "stages": stages,
        "cascade": None
        if compared is None
        else {
            "without": _curve_summary(compared.before, compared.difference.before, unit),
            "with": _curve_summary(compared.after, compared.difference.after, unit),
        },
        "recommendation": recommendation(found),
        "provenance": provenance(found.records),
    }
