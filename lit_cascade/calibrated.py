"""A cascade with calibrated stages beside the same without: does it help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lit_cascade.analysis import judge
from lit_cascade.calibrations import Method, Plan, Scaling, StageCalibration
from lit_cascade.core.paired import Difference, Played, paired_difference, ranked_within
from lit_cascade.core.policy import Policy
from lit_cascade.core.sweep import Curve, sweep
from lit_cascade.records import Record, check_alike

__all__ = ["Comparison", "compare_cascades", "with_scalings"]


@dataclass(frozen=True)
class Comparison:
    """A cascade with and without calibration, on samples that no calibration of theirs saw.

    Thresholds of the curves are ranks of the scores among those that were scaled alike, since each
    fold has a fit of its own; they are no thresholds of a policy.

    Attributes:
        method: of the calibration.
        before: the curve without it.
        after: the curve with it.
        difference: of the accuracies, averaged over all costs.
        same_order: the calibration cannot change which samples are deferred first: a temperature
            for two classes and two stages.
    """

    method: Method
    before: Curve
    after: Curve
    difference: Difference
    same_order: bool

    @property
    def recommended(self) -> Method:
        """The method if it helps beyond what the draw of the samples explains, else `none`."""
        return self.method if self.difference.better else "none"


def with_scalings(rule: Policy, names: Sequence[str], scalings: Mapping[str, Scaling]) -> Policy:
    """A policy with other temperatures and vector scalings for some stages.

    Example:
        >>> with_scalings(Policy((0.5,)), ["a", "b"], {"a": Scaling(2.0)}).temperatures
        (2.0, 1.0)
    """
    temperatures, vectors = list(rule.temperatures), list(rule.vectors)
    for k, name in enumerate(names):
        if name in scalings:
            temperatures[k], vectors[k] = scalings[name].temperature, scalings[name].vector
    return replace(rule, temperatures=tuple(temperatures), vectors=tuple(vectors))


def compare_cascades(
    records: Sequence[Record],
    rule: Policy,
    fitted: Mapping[str, StageCalibration],
    plan: Plan,
    method: Method,
    unit: str = "flops",
) -> Comparison:
    """Judge a cascade with and without a calibration of some of its stages.

    Args:
        records: one per stage, cheapest first.
        rule: score and combination, and temperatures and vector scalings of the other stages; its
            thresholds and floors are not read.
        fitted: the calibrations, by stage.
        plan: that they were fitted by.
        method: that they were fitted with.
        unit: of the cost.

    Raises:
        UsageError: as for `judge`.
        CascadeError: as for `judge`.
    """
    check_alike(records)
    names = [record.name for record in records]
    plain = with_scalings(replace(rule, floors=()), names, dict.fromkeys(fitted, Scaling()))
    folds = range(len(plan.folds))
    scaled = [
        with_scalings(plain, names, {name: found.folds[k] for name, found in fitted.items()})
        for k in folds
    ]
    without, before = _played(records, [plain for _ in folds], plan, unit)
    calibrated, after = _played(records, scaled, plan, unit)
    return Comparison(
        method=method,
        before=before,
        after=after,
        difference=paired_difference(without, calibrated),
        same_order=method == "temperature"
        and len(records) == len(records[0].classes) == 2
        and rule.combine == "later",
    )


def _played(
    records: Sequence[Record], rules: Sequence[Policy], plan: Plan, unit: str
) -> tuple[Played, Curve]:
    """The cascade on the samples of every fold, by the fold's own rule."""
    judged = {rule: judge(records, rule, unit) for rule in dict.fromkeys(rules)}
    parts = [(judged[rule], rows) for rule, (_, rows) in zip(rules, plan.folds, strict=True)]
    sizes = [len(rows) for _, rows in parts]
    scores = torch.cat([found.scores[rows] for found, rows in parts])
    played = Played(
        scores=ranked_within(scores, torch.arange(len(scores)).split(sizes)),
        correct=torch.cat([found.correct[rows] for found, rows in parts]),
        costs=torch.cat([found.costs[rows] for found, rows in parts]),
    )
    alone = torch.cat([found.alone[rows] for found, rows in parts])
    return played, sweep(played.scores, played.correct, played.costs, alone)
