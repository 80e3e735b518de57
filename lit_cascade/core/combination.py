"""What a cascade answers, given what each of the stages that ran has said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lit_cascade.core.scores import answers_of
from lit_cascade.errors import check_name

__all__ = ["COMBINATIONS", "answers_after", "check_combination", "prefer_later"]

COMBINATIONS = ("later", "average", "most_confident")
"""`later`: the last stage that ran answers. `average`: the mean of the probabilities of all stages
that ran, each at its temperature. `most_confident`: the stage that ran with the highest score, the
later one on a tie."""


def check_combination(name: str) -> str:
    """Return `name` if it is one of `COMBINATIONS`.

    Raises:
        UsageError: it is not; the message lists those there are.
    """
    return check_name(name, COMBINATIONS, "combine")


def prefer_later(earlier: Tensor, later: Tensor) -> Tensor:
    """Where the later of two scores counts: unless the earlier is strictly higher.

    Args:
        earlier: scores (N,).
        later: scores (N,).

    Example:
        >>> prefer_later(torch.tensor([0.9, 0.5, float("nan")]), torch.tensor([0.5, 0.5, 0.1]))
        tensor([False,  True,  True])
    """
    return ~(earlier > later)


def answers_after(
    combine: str,
    scores: Sequence[Tensor],
    answers: Sequence[Tensor],
    probabilities: Iterable[Tensor] = (),
) -> list[Tensor]:
    """What a cascade would answer if it stopped after each of its stages.

    Args:
        combine: one of `COMBINATIONS`.
        scores: of each stage, (N,); read by `most_confident`.
        answers: of each stage, (N,) int64.
        probabilities: of each stage, (N, C); read by `average`, one after the other.

    Returns:
        One tensor (N,) int64 per stage. The first is the first stage's own answer.

    Example:
        >>> small, large = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
        >>> answers_after("average", [], [answers_of(small)], [small, large])
        [tensor([0]), tensor([0])]
    """
    check_combination(combine)
    if combine == "later":
        return list(answers)
    after = [answers[0]]
    if combine == "average":
        total = None
        for stage in probabilities:
            if total is None:
                total = stage
                continue
            total = total + stage
            after.append(answers_of(total))
        return after
    best = scores[0]
    for score, answer in zip(scores[1:], answers[1:], strict=True):
        chosen = prefer_later(best, score)
        after.append(torch.where(chosen, answer, after[-1]))
        best = torch.where(chosen, score, best)
    return after
