"""Table of scores, correctness and costs: one row per sample, one column per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_cascade.core.contract import route
from lit_cascade.core.curve import Curve, OperatingPoint, sweep
from lit_cascade.core.metrics import Answers, measure
from lit_cascade.errors import CascadeError
from lit_cascade.utilities.tabular import described, listed
from lit_cascade.utilities.units import counted


@dataclass(frozen=True)
class StageOutcomes:
    """Scores, correctness and costs of K stages on N samples, before thresholds are applied.

    Attributes:
        scores: scores of the deferring stages, (N, K - 1); +inf below a floor.
        correct: whether the cascade is right if it stops after each stage, (N, K) bool; None
            without labels.
        costs: cost of each stage, (N, K).
        alone: whether each stage alone is right, (N, K) bool; by default `correct`.
        agrees: whether the cascade, if it stops after each stage, gives the answer of the last
            stage alone, (N, K) bool; None where answers are unknown.
        answers: answers and labels, for a metric besides accuracy.
        unit: of the costs.
        names: of the stages; empty if they are unknown.
    """

    scores: Tensor
    correct: Tensor | None
    costs: Tensor
    alone: Tensor | None = None
    agrees: Tensor | None = None
    answers: Answers | None = None
    unit: str = "cost"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in `alone`."""
        if self.alone is None:
            object.__setattr__(self, "alone", self.correct)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        n, stages = self.costs.shape
        known = "no labels" if self.correct is None else "labelled"
        names = listed(self.names, " → ") if self.names else counted(stages, "stage")
        return described("StageOutcomes", names, counted(n, "sample"), known, f"cost {self.unit}")

    def rows(self, rows: Tensor) -> StageOutcomes:
        """Return the table of some samples."""
        return replace(
            self,
            scores=self.scores[rows],
            correct=None if self.correct is None else self.correct[rows],
            costs=self.costs[rows],
            alone=None if self.alone is None else self.alone[rows],
            agrees=None if self.agrees is None else self.agrees[rows],
            answers=None if self.answers is None else self.answers.rows(rows),
        )

    @property
    def last_cost(self) -> float:
        """Mean cost per sample of the last stage alone."""
        return float(self.costs[:, -1].double().mean())

    def labelled(self, question: str) -> tuple[Tensor, Tensor]:
        """Return `correct` and `alone`.

        Args:
            question: what needs them, for the message.

        Raises:
            CascadeError: there are no labels.
        """
        if self.correct is None or self.alone is None:
            raise CascadeError(f"{question}: it needs labels; disagreement can be had without.")
        return self.correct, self.alone

    def curve(self) -> Curve:
        """Accuracy and cost at each distinct threshold.

        Raises:
            CascadeError: as for `sweep`, or there are no labels.
        """
        correct, alone = self.labelled("the curve")
        curve = sweep(self.scores, correct, self.costs, alone, self.answers)
        return replace(curve, unit=self.unit, names=self.names)

    def route(self, thresholds: Sequence[float]) -> Tensor:
        """Stage that answers each sample, (N,) int64."""
        return route(list(self.scores.unbind(dim=1)), thresholds)

    def costs_at(self, thresholds: Sequence[float]) -> Tensor:
        """Cost of the cascade on each sample, (N,) float64."""
        return at_stage(self.costs.double().cumsum(dim=1), self.route(thresholds))

    def at(self, thresholds: Sequence[float]) -> OperatingPoint:
        """Measure the cascade at given thresholds.

        Raises:
            CascadeError: the last stage costs nothing, or a threshold is missing.
        """
        stage, answers = self.route(thresholds), self.answers
        ran = torch.arange(self.costs.shape[1], device=stage.device) <= stage[:, None]
        metric = None
        if answers is not None:
            after = at_stage(answers.after, stage)
            metric = measure(answers.metric, after, answers.labels, answers.classes)
        correct = None if self.correct is None else at_stage(self.correct, stage)
        return OperatingPoint.measured(
            thresholds, stage, correct, self.costs * ran, self.costs[:, -1], metric
        )

    def losses(self, target: str) -> tuple[Tensor, Tensor]:
        """Samples that count against and for a promise if the cascade stops after each stage.

        Args:
            target: a name in `lit_cascade.core.guarantee.TARGETS` other than a cost.

        Returns:
            Two tensors (N, K) bool: lost and won.

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
        correct, alone = self.labelled(target)
        if target == "accuracy":
            return ~correct, torch.zeros_like(correct)
        last = alone[:, -1:]
        return ~correct & last, correct & ~last


def at_stage(columns: Tensor, stage: Tensor) -> Tensor:
    """Select from each row (N, K) the column of its stage (N,)."""
    return columns.gather(1, stage[:, None]).squeeze(1)
