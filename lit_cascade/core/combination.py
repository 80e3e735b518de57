"""The answer of a cascade, combined from the answers of the stages that ran."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lit_cascade.core.scores import answers_of
from lit_cascade.errors import check_name

COMBINATIONS = ("later", "average", "most_confident")
"""`later`: the answer of the last stage that ran. `average`: the argmax of the mean class
probabilities of all stages that ran, each at its temperature, as in a deep ensemble
(arXiv:1612.01474). `most_confident`: the answer of the stage with the highest score among those
that ran, the later one on a tie."""


def prefer_later(earlier: Tensor, later: Tensor) -> Tensor:
    """Whether the later of two stages is the more confident: unless the earlier is strictly so.

    Args:
        earlier: scores of the earlier stage, (N,).
        later: scores of the later stage, (N,).

    Examples:
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
    """Answers of a cascade if it stopped after each of its stages.

    Args:
        combine: one of `COMBINATIONS`.
        scores: one tensor (N,) per stage; read by `most_confident`.
        answers: one tensor (N,) int64 per stage.
        probabilities: one tensor (N, C) per stage; read by `average`, one at a time.

    Returns:
        One tensor (N,) int64 per stage. The first is the first stage's own answer.

    Raises:
        UsageError: an unknown combination.

    Examples:
        >>> small, large = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
        >>> answers_after("average", [], [answers_of(small)], [small, large])
        [tensor([0]), tensor([0])]
    """
    check_name(combine, COMBINATIONS, "combine")
    if combine == "later":
        return list(answers)
    after = [answers[0]]
    if combine == "average":
        totals = itertools.accumulate(probabilities, torch.add)
        return after + [answers_of(total) for total in itertools.islice(totals, 1, None)]
    best = scores[0]
    for score, answer in zip(scores[1:], answers[1:], strict=True):
        chosen = prefer_later(best, score)
        after.append(torch.where(chosen, answer, after[-1]))
        best = torch.where(chosen, score, best)
    return after
