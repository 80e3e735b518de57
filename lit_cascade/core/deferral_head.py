"""A learned score: how unlikely it is that the last stage corrects the answer of a stage.

Like every score it is a function of one row of logits. Features are summed one by one, not by a
product of matrices, whose rounding depends on the batch: recorded and live logits give the same
score to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core.scores import SCORES, row_blocks
from lit_cascade.errors import CascadeError, UsageError, check_name

FEATURES = ("max_softmax", "margin", "negative_entropy", "gap", "log_odds")
"""Features of a row of logits: the scores by these names; `gap`, the largest logit minus the
second; `log_odds`, the logarithm of p / (1 - p) for the largest class probability p, which still
differs where p itself is rounded to 1."""


def features_of(logits: Tensor, rows: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """Features and answer of every row of logits.

    Args:
        logits: shape (N, C), floating point, any precision; computed in float32.
        rows: positions of the M rows to read; by default all.

    Returns:
        One tensor (M,) float64 per name in `FEATURES`, and the answers (M,) int64.

    Example:
        >>> features, answers = features_of(torch.tensor([[0.0, 2.0, 0.0]]))
        >>> [round(float(feature), 3) for feature in features], answers.tolist()
        ([0.787, 0.68, -0.666, 2.0, 1.307], [1])
    """
    columns: list[list[Tensor]] = []
    for block in row_blocks(logits, rows):
        best, answer = block.max(dim=1, keepdim=True)
        shifted, answer = block - best, answer.squeeze(1)
        scores = [score.function(shifted.clone(), answer) for score in SCORES.values()]
        others = shifted.scatter(1, answer[:, None], -math.inf)
        second = others.amax(dim=1)
        # relative to the second: relative to the answer, classes far below it would round to 0
        rest = (others - second[:, None]).exp_().sum(dim=1)
        columns.append([*scores, -second, -(second + rest.log()), answer])
    *features, answers = (torch.cat(parts) for parts in zip(*columns, strict=True))
    return [feature.double() for feature in features], answers


@dataclass(frozen=True)
class DeferralHead:
    """A logistic regression on the features of a stage's logits.

    Its score is -P from -1 to 0, where P is the estimated probability that this stage is wrong and
    the last one right (post-hoc deferral, arXiv:2307.02764). It reads raw logits, so that a
    temperature does not change it.

    Attributes:
        bias: intercept of the log-odds of P.
        weights: coefficients of the features, in the order of `FEATURES`.
        by_answer: intercept added for each of the C classes that the stage may answer, or empty.

    Raises:
        UsageError: another number of weights, or numbers that are not finite.

    Example:
        >>> head = DeferralHead(bias=1.0, weights=(-2.0, 0.0, 0.0, 0.0, 0.0))
        >>> head.scores(torch.tensor([[0.0, 0.0], [0.0, 9.0]]))
        tensor([-0.5000, -0.2690])
    """

    bias: float
    weights: tuple[float, ...]
    by_answer: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check every number."""
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        object.__setattr__(self, "by_answer", tuple(map(float, self.by_answer)))
        if len(self.weights) != len(FEATURES):
            raise UsageError(
                f"heads: expected one weight for each of {', '.join(FEATURES)}, "
                f"got {len(self.weights)}."
            )
        for number in (self.bias, *self.weights, *self.by_answer):
            if not math.isfinite(number):
                raise UsageError(f"heads: expected finite numbers, got {number}.")

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any], argument: str) -> DeferralHead:
        """The head of a config: `bias`, a number per feature, and `by_answer`.

        Args:
            numbers: plain numbers, as the property `numbers` returns them.
            argument: the name of the option, for messages.

        Raises:
            UsageError: a missing or unknown name, or a value that is no number.

        Example:
            >>> head = DeferralHead(0.5, (1.0, 2.0, 3.0, 4.0, 5.0), (0.25, -0.25))
            >>> DeferralHead.from_numbers(head.numbers, "heads") == head
            True
        """
        wanted = ("bias", *FEATURES)
        for name in numbers:
            check_name(name, (*wanted, "by_answer"), argument)
        missing = [name for name in wanted if name not in numbers]
        if missing:
            raise UsageError(
                f"{argument}: nothing is given for {', '.join(missing)}; `lit-cascade calibrate "
                "--learn_score` writes a whole head."
            )
        try:
            bias, *weights = (float(numbers[name]) for name in wanted)
            by_answer = tuple(float(value) for value in numbers.get("by_answer") or ())
        except (TypeError, ValueError) as error:
            raise UsageError(f"{argument}: expected numbers: {error}.") from error
        return cls(bias, tuple(weights), by_answer)

    @property
    def numbers(self) -> dict[str, Any]:
        """The head as plain numbers, for a config."""
        weights = dict(zip(FEATURES, self.weights, strict=True))
        by_answer = {"by_answer": list(self.by_answer)} if self.by_answer else {}
        return {"bias": self.bias} | weights | by_answer

    def scores(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores (N,) float32 of logits (N, C), or those of the rows at some positions.

        A row with NaN or +inf has a score of NaN, which reaches no threshold.

        Raises:
            CascadeError: logits of other classes than the head was fitted for.
        """
        if self.by_answer and logits.shape[1:] != (len(self.by_answer),):
            raise CascadeError(
                f"the learned score was fitted for {len(self.by_answer)} classes, got logits of "
                f"shape {tuple(logits.shape)}."
            )
        features, answers = features_of(logits, rows)
        total = torch.full_like(features[0], self.bias)
        for weight, feature in zip(self.weights, features, strict=True):
            total = total + weight * feature  # even at weight 0: NaN must stay NaN
        if self.by_answer:
            total = total + total.new_tensor(self.by_answer)[answers]
        return -total.sigmoid().float()
