"""A zoo of models, reduced to what a search needs: scores, correctness and costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_cascade.core import (
    COMBINATIONS,
    Judgement,
    agreement,
    answers_of,
    is_right,
    prefer_later,
)
from lit_cascade.core.search.front import Front, pareto_rows
from lit_cascade.errors import CascadeError, check_name
from lit_cascade.utilities.tabular import described, listed
from lit_cascade.utilities.units import counted


@dataclass(frozen=True)
class Zoo:
    """M models on the same N samples, sorted by mean cost: a stage defers to a later model.

    Attributes:
        names: one per model.
        scores: confidence of each model alone, (M, N) float32.
        correct: whether each model is right, (M, N) bool.
        costs: (M, N) float64, or (M, 1) if each model costs the same on every sample.
        combine: how the stages that ran agree on an answer, a name in
            `lit_cascade.core.combination.COMBINATIONS`.
        probabilities: maps a model number to probabilities (N, C) float32; read by `average`.
        labels: (N,) int64, or (N, L) padded with -1; read by `average`.
        answers: number of the class that each model answers, (M, N) in any type of whole numbers.
            With them a stage's score is its agreement with the stages before it; scores are from 0
            to 1, and the later answer counts.

    Raises:
        CascadeError: shapes do not match, a score is NaN or +inf, a cost is negative or not finite,
            an average lacks probabilities or labels, or agreement has confidences outside 0 to 1 or
            another combination than `later`.
        UsageError: the combination is unknown.
    """

    names: tuple[str, ...]
    scores: Tensor
    correct: Tensor
    costs: Tensor
    combine: str = "later"
    probabilities: Callable[[int], Tensor] | None = None
    labels: Tensor | None = None
    answers: Tensor | None = None

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
        if self.answers is not None:
            self._check_agreement(self.answers)

    def _check_agreement(self, answers: Tensor) -> None:
        if answers.shape != self.scores.shape:
            raise CascadeError(
                f"answers must have the shape of the scores, {tuple(self.scores.shape)}, got "
                f"{tuple(answers.shape)}."
            )
        if self.combine != "later":
            raise CascadeError(f"agreement is searched with combine later, got {self.combine}.")
        outside = ((self.scores < 0) | (self.scores > 1)).any(dim=1)
        if bool(outside.any()):
            model = int(outside.nonzero()[0])
            low, high = map(float, self.scores[model].aminmax())
            raise CascadeError(
                f"agreement needs confidences from 0 to 1, got {low:g} to {high:g} of "
                f"{self.names[model]!r}; convert them to probabilities, or leave them out."
            )

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
    def votes(self) -> bool:
        """Whether stages are told apart by agreement alone: no model says how sure it is."""
        return self.answers is not None and not bool(self.scores.any())

    def score_of(self, earlier: Sequence[int], model: int) -> Tensor:
        """Score of a model in a cascade, (N,) float32.

        Args:
            earlier: the models that ran before it, in order.
            model: number of the model.
        """
        if self.answers is None:
            return self.scores[model]
        ran = [Judgement(self.scores[k], self.answers[k], self.scores[k]) for k in earlier]
        return agreement(self.scores[model], self.answers[model], ran)

    def ranked(self, earlier: Sequence[int], model: int) -> tuple[Tensor, Tensor]:
        """Scores of `score_of` in rising order, and the samples in that order, int64."""
        values, order = (part[model] for part in self.by_score)
        if self.answers is None or not earlier:
            return values, order
        # those that agree follow those that do not, each in order of their confidence
        agreed = (self.score_of(earlier, model) > self.scores[model])[order]
        order = torch.cat([order[~agreed], order[agreed]])
        return self.score_of(earlier, model)[order], order

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
            answers=None if self.answers is None else self.answers[:, rows],
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
            answers=None if self.answers is None else self.answers[kept],
        )
