"""A zoo of models, reduced to what a search needs: scores, correctness and costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_cascade.core import COMBINATIONS, answers_of, is_right, prefer_later
from lit_cascade.core.search.front import Front, pareto_rows
from lit_cascade.errors import CascadeError, check_name
from lit_cascade.utilities.tabular import described, listed
from lit_cascade.utilities.units import counted


@dataclass(frozen=True)
class Zoo:
    """M models on the same N samples, sorted by mean cost: a stage defers to a later model.

    Attributes:
        names: one per model.
        scores: confidence of each model, (M, N) float32.
        correct: whether each model is right, (M, N) bool.
        costs: (M, N) float64, or (M, 1) if each model costs the same on every sample.
        combine: how the stages that ran agree on an answer, a name in
            `lit_cascade.core.combination.COMBINATIONS`.
        probabilities: maps a model number to probabilities (N, C) float32; read by `average`.
        labels: (N,) int64, or (N, L) padded with -1; read by `average`.

    Raises:
        CascadeError: shapes do not match, a score is NaN or +inf, a cost is negative or not finite,
            or an average lacks probabilities or labels.
        UsageError: the combination is unknown.
    """

    names: tuple[str, ...]
    scores: Tensor
    correct: Tensor
    costs: Tensor
    combine: str = "later"
    probabilities: Callable[[int], Tensor] | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        check_name(self.combine, COMBINATIONS, "combine")
        if self.scores.ndim != 2:
            raise CascadeError(
                f"scores must have shape (models, samples), got {tuple(self.scores.shape)}."
            )
        models, samples = self.scores.shape
        costs = {(models, samples), (models, 1)}
        if self.correct.shape != self.scores.shape or self.costs.shape not in costs:
            raise CascadeError(
                f"a zoo of {models} models on {samples} samples needs correctness of that shape "
                f"and costs of it or of {(models, 1)}, got {tuple(self.correct.shape)} and "
                f"{tuple(self.costs.shape)}."
            )
        if samples == 0 or len(self.names) != models:
            raise CascadeError(f"expected names of {models} models and at least one sample.")
        if not bool((self.scores < math.inf).all()):  # +inf would answer at every threshold
            raise CascadeError("a score is NaN or +inf: scores must have an order below +inf.")
        if not bool((self.costs.isfinite() & (self.costs >= 0)).all()):
            raise CascadeError("costs must be finite numbers of at least 0.")
        if self.combine == "average" and (self.probabilities is None or self.labels is None):
            raise CascadeError("an average needs the probabilities of every model, and labels.")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        singles, _ = self.singles()
        _, *ranges = singles.figures()
        return described(
            "Zoo",
            f"{counted(len(self), 'model')}: {listed(self.names)}",
            counted(self.n, "sample"),
            f"front of {counted(len(singles), 'single model')}: {', '.join(ranges)}",
        )

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.scores.shape[1]

    @property
    def constant(self) -> bool:
        """Whether each model costs the same on every sample."""
        return self.costs.shape[1] == 1

    @property
    def mean_cost(self) -> Tensor:
        """Mean cost per sample of each model, (M,) float64."""
        return self.costs.mean(dim=1)

    @functools.cached_property
    def right(self) -> Tensor:
        """Number of correct answers of each model, (M,) int64."""
        return self.correct.sum(dim=1)

    @property
    def accuracy(self) -> Tensor:
        """Fraction of correct answers of each model, (M,) float64."""
        return self.right.double() / self.n

    @functools.cached_property
    def by_score(self) -> tuple[Tensor, Tensor]:
        """Scores of each model in rising order, (M, N), and the samples in that order, int64."""
        ordered, order = self.scores.sort(dim=1)
        return ordered, order

    def singles(self) -> tuple[Front, list[int]]:
        """Return the Pareto front of the single models and their numbers, cheapest first."""
        cost, accuracy = self.mean_cost, self.accuracy
        rows = pareto_rows(cost, accuracy)
        return Front(cost[rows], accuracy[rows]), rows.tolist()

    def correct_after(self, stages: Sequence[int], last: Sequence[int]) -> Tensor:
        """Return whether cascades are right on samples that reach their last stage.

        Args:
            stages: the models that ran before it, in order.
            last: the last model of each cascade.

        Returns:
            Shape (len(last), N) bool.
        """
        correct = self.correct[list(last)]
        if self.combine == "later" or not stages:
            return correct
        if self.probabilities is not None and self.labels is not None and self.combine == "average":
            # in stage order, so that sums round as in a policy
            total = functools.reduce(torch.add, map(self.probabilities, stages))
            answers = (answers_of(total + self.probabilities(stage)) for stage in last)
            return torch.stack([is_right(answer, self.labels) for answer in answers])
        best, right = self.scores[stages[0]], self.correct[stages[0]]
        for stage in stages[1:]:
            later = prefer_later(best, self.scores[stage])
            right = torch.where(later, self.correct[stage], right)
            best = torch.where(later, self.scores[stage], best)
        return torch.where(prefer_later(best, self.scores[list(last)]), correct, right)

    def rows(self, rows: Tensor) -> Zoo:
        """Return the same models on some of the samples."""
        whole = self.probabilities
        return replace(
            self,
            scores=self.scores[:, rows],
            correct=self.correct[:, rows],
            costs=self.costs if self.constant else self.costs[:, rows],
            probabilities=None if whole is None else lambda model: whole(model)[rows],
            labels=None if self.labels is None else self.labels[rows],
        )

    def models(self, chosen: Sequence[int]) -> Zoo:
        """Return some of the models, in the same order, on all samples."""
        whole, kept = self.probabilities, list(chosen)
        return replace(
            self,
            names=tuple(self.names[model] for model in kept),
            scores=self.scores[kept],
            correct=self.correct[kept],
            costs=self.costs[kept],
            probabilities=None if whole is None else lambda model: whole(kept[model]),
        )
