"""Samples on which the first and the last stage of a cascade give other answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lit_cascade.core import AGREEMENT, LEARNED, MAX_LOGIT_PNORM, Judgement, Policy
from lit_cascade.errors import UsageError
from lit_cascade.records import Record, check_alike


class Disagreements(NamedTuple):
    """Samples on which two models disagree, and what the models say.

    Attributes:
        rows: positions of the samples, those that the first model is surest of at the top.
        first: what the first model says of all samples.
        last: what the last model says of all samples.
    """

    rows: Tensor
    first: Judgement
    last: Judgement


def check_disagreements(score: str) -> None:
    """Check that a score needs the output of one model alone.

    Raises:
        UsageError: it needs more.
    """
    if score in {AGREEMENT.name, LEARNED.name, MAX_LOGIT_PNORM.name}:
        raise UsageError(
            f"disagreements: expected a score of one model's logits, such as max_softmax, got "
            f"{score}."
        )


def disagreements(
    records: Sequence[Record], score: str, temperatures: Sequence[float]
) -> Disagreements:
    """Find the samples on which the first and the last of some records disagree.

    Args:
        records: of the same samples.
        score: that tells how sure the first model is, a name in `lit_cascade.core.SCORES`.
        temperatures: of the first and of the last model.

    Raises:
        UsageError: a score that needs more than the first model's output.
        CascadeError: records of other samples, or without answers.
    """
    check_disagreements(score)
    ends = records[0], records[-1]
    check_alike(ends)
    policy = Policy(score=score, temperatures=temperatures)
    says, other = (policy.judge(k, one.output("its disagreements")) for k, one in enumerate(ends))
    rows = (says.answer != other.answer).nonzero()[:, 0]
    return Disagreements(rows[says.score[rows].argsort(descending=True, stable=True)], says, other)
