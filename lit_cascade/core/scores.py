"""Confidence scores of a stage.

A larger score is more confident. A score is a function of one row of logits, or of a recorded
answer, and of what the stages that ran before said of the same sample. It does not depend on the
batch that the row came in: recorded and live logits give the same score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, check_name
from lit_cascade.options import Norm, norm_of
from lit_cascade.utilities.mapped import row_slices

# Rows are handled in blocks of about a megabyte, which stay in the cache of one core.
_BLOCK_ELEMENTS = 2**18
_LONG_ROW = 2**14


@dataclass(frozen=True)
class Score:
    """A confidence score with its range.

    Attributes:
        name: the name used in configs, tables and files.
        low: the least value.
        high: the greatest value.
        function: maps `(shifted, answers)` to scores of shape (N,). `shifted` holds
            `(logits - max) / T` in float32 of shape (N, C) and may be overwritten; `answers` is
            the argmax of each row.
    """

    name: str
    low: float
    high: float
    function: Callable[[Tensor, Tensor], Tensor]


def _max_softmax(shifted: Tensor, answers: Tensor) -> Tensor:  # noqa: ARG001 - one signature for all
    return shifted.exp_().sum(dim=1).reciprocal_()


def _margin(shifted: Tensor, answers: Tensor) -> Tensor:
    weights = shifted.exp_()
    total = weights.sum(dim=1)
    second = weights.scatter_(1, answers.unsqueeze(1), -1.0).amax(dim=1)
    return (1 - second).div_(total)


def _negative_entropy(shifted: Tensor, answers: Tensor) -> Tensor:  # noqa: ARG001 - the same
    weights = shifted.exp()
    shifted.clamp_(min=torch.finfo(shifted.dtype).min)  # a probability of 0 adds 0, not 0 * -inf
    total = weights.sum(dim=1)
    # clamp: rounding must not lift a one-hot distribution above its entropy of 0
    return (weights.mul_(shifted).sum(dim=1).div_(total) - total.log()).clamp_(max=0.0)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("max_softmax", 0.0, 1.0, _max_softmax),
        Score("margin", 0.0, 1.0, _margin),
        Score("negative_entropy", -math.inf, 0.0, _negative_entropy),
    )
}
"""With class probabilities p = softmax(logits / T), the largest of which are p1 >= p2:
`max_softmax` is p1 (arXiv:1610.02136), `margin` is p1 - p2, and `negative_entropy` is the sum of
p log p in nats (the exit rule of BranchyNet, arXiv:1709.01686)."""


def _not_of_logits(shifted: Tensor, answers: Tensor) -> Tensor:
    del shifted, answers
    raise CascadeError("this score is no function of the logits alone.")


def _max_logit_pnorm(shifted: Tensor, answers: Tensor, p: float) -> Tensor:
    del answers
    if shifted.shape[1] == 2:
        raise CascadeError(TWO_CLASSES)
    spread = shifted.amin(dim=1, keepdim=True).neg_()  # from the largest logit to the least
    above = shifted.div_(spread).sum(dim=1).div_(-shifted.shape[1])  # of the largest to the mean
    largest = above.maximum(1 - above)
    # logarithms: `pow` may round otherwise at the end of a block
    logs = shifted.add_(above[:, None]).abs_().div_(largest[:, None]).log_()
    norm = largest * logs.mul_(p).exp_().sum(dim=1).log_().div_(p).exp_()
    score = above / norm
    return score.masked_fill_(spread.squeeze(1) == 0, 0.0)


RECORDED = Score("recorded", -math.inf, math.inf, _not_of_logits)
"""The score that a record without logits holds, of any range."""

LEARNED = Score("learned", -1.0, 1.0, _not_of_logits)
"""Minus the estimated gain of going on to the last stage, in accuracy: the score of a
`lit_cascade.core.deferral_head.DeferralHead`."""

AGREEMENT = Score("agreement", 0.0, 2.0, _not_of_logits)
"""The stage's own confidence, from 0 to 1, plus 1 where a stage before it gave the same answer
(agreement-based cascading, arXiv:2407.02348)."""

MAX_LOGIT_PNORM = Score("max_logit_pnorm", 0.0, 1.0, _not_of_logits)
"""The largest logit over a norm of all, which differs between stages: see `max_logit_pnorm`."""

TWO_CLASSES = (
    f"the score {MAX_LOGIT_PNORM.name} needs three or more classes: with two it is the same number "
    "for every sample. Use max_softmax."
)

_KNOWN = SCORES | {one.name: one for one in (RECORDED, LEARNED, AGREEMENT, MAX_LOGIT_PNORM)}


@lru_cache(maxsize=64)
def max_logit_pnorm(norm: Norm) -> Score:
    """MaxLogit-pNorm (Cattelan and Silva, arXiv:2305.15508): the largest logit over a p-norm.

    With logits z of C classes and u = z - mean(z), the score is max(u) / (sum of |u|^p)^(1/p). It
    is above 0 and at most (1 + (C - 1)^(1 - p))^(-1/p) < 1, whatever the scale of the logits, so
    that a temperature does not change it. Equal logits have a score of 0, and a logit of -inf makes
    it NaN. With two classes it would be 2^(-1/p) for every sample.

    Args:
        norm: p, or `max_softmax` for that score instead, where no norm is better.

    Raises:
        UsageError: a p below 1 or not finite.

    Examples:
        >>> score_and_answer(torch.tensor([[3.0, 0.0, 0.0]]), max_logit_pnorm(1))[0]
        tensor([0.5000])
    """
    p = norm_of(norm)
    if p == "max_softmax":
        return SCORES[p]
    function = partial(_max_logit_pnorm, p=p)
    return Score(MAX_LOGIT_PNORM.name, MAX_LOGIT_PNORM.low, MAX_LOGIT_PNORM.high, function)


class RecordedAnswers(NamedTuple):
    """Answers of a stage to N samples where its logits are unknown.

    Attributes:
        answer: number of a class, (N,) int64.
        confidence: larger is surer, (N,) float32; 0 where it is unknown.
    """

    answer: Tensor
    confidence: Tensor


StageOutput = Tensor | RecordedAnswers
"""What is known of a stage: its logits (N, C), or its recorded answers."""


class Judgement(NamedTuple):
    """What a stage says of N samples: the contract reads its score, later stages the rest.

    Attributes:
        score: compared with the threshold of the stage, (N,) float32.
        answer: of the stage alone, (N,) int64.
        confidence: of the stage alone, (N,) float32.
    """

    score: Tensor
    answer: Tensor
    confidence: Tensor


def agreement(confidence: Tensor, answer: Tensor, earlier: Sequence[Judgement]) -> Tensor:
    """Confidence plus 1 where one of the earlier stages gave the same answer.

    One threshold up to 1 lets a stage answer that is sure or agreed with, one above 1 only a stage
    that is agreed with and sure.

    Args:
        confidence: of the stage alone, from 0 to 1, (N,).
        answer: of the stage alone, (N,) int64.
        earlier: the stages before it, on the same samples.

    Examples:
        >>> first = Judgement(torch.tensor([0.5, 0.5]), torch.tensor([3, 4]), torch.zeros(2))
        >>> agreement(torch.tensor([0.25, 0.75]), torch.tensor([3, 3]), [first])
        tensor([1.2500, 0.7500])
    """
    if not earlier:
        return confidence
    agreed = earlier[0].answer == answer
    for stage in earlier[1:]:
        agreed = agreed | (stage.answer == answer)
    return confidence + agreed


def row_blocks(logits: Tensor, rows: Tensor | None = None) -> Iterator[Tensor]:
    """Blocks of rows in float32, small enough that sums over a row do not depend on the batch.

    Args:
        logits: shape (N, C).
        rows: positions of the rows to read; by default all.

    Raises:
        CascadeError: logits that are not of shape (N, C).
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise CascadeError(
            f"logits must have shape (N, C) with at least 2 classes, got {tuple(logits.shape)}."
        )
    classes = logits.shape[1]
    # torch may split one long row over threads, but several rows by row, and rounds differently
    size = 1 if classes > _LONG_ROW else max(1, _BLOCK_ELEMENTS // classes)
    return (block.float().contiguous() for block in row_slices(logits, size, rows))


def check_logits(logits: Tensor, what: str) -> None:
    """Check that `logits` are finite floating point numbers of shape (N, C) with N >= 1, C >= 2.

    Args:
        logits: the tensor to check.
        what: owner of the logits, for the message.

    Raises:
        CascadeError: other logits; the message names the first offending sample.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise CascadeError(
            f"{what}: logits must be a floating point tensor of shape (samples, classes), "
            f"got {logits.dtype} of shape {tuple(logits.shape)}."
        )
    n, classes = logits.shape
    if n == 0:
        raise CascadeError(f"{what}: no samples: the data set or split is empty.")
    if classes < 2:
        raise CascadeError(f"{what}: a classifier needs at least 2 classes, got {classes}.")
    size = max(1, _BLOCK_ELEMENTS // classes)
    # without a temporary; NaN propagates
    ends = [torch.stack(block.aminmax()) for block in row_slices(logits, size)]
    if not bool(torch.stack(ends).isfinite().all()):
        rows = (~logits.isfinite()).any(dim=1).nonzero().flatten()
        raise CascadeError(
            f"{what}: NaN or infinite logits in {len(rows)} of {n} samples, "
            f"first at row {int(rows[0])}. "
            "A model in half precision may overflow: try --trainer.precision 32."
        )


def score_named(name: str) -> Score:
    """Return the score called `name`, one of `SCORES` or of the four beside them.

    Raises:
        UsageError: an unknown name; the message lists the known ones.
    """
    return _KNOWN.get(name) or SCORES[check_name(name, SCORES, "score")]


def score_and_answer(
    logits: Tensor, score: str | Score = "max_softmax", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Confidence score and answer of every row of logits.

    The answer is the argmax of the raw logits (the first class on a tie), so a temperature never
    changes it. A row with NaN or +inf has a score of NaN, which reaches no threshold.

    Args:
        logits: shape (N, C), floating point, any precision; computed in float32.
        score: a name in `SCORES`, or a score, such as `max_logit_pnorm(5)`.
        temperature: T > 0; the score is that of `logits / T`.

    Returns:
        Scores (N,) float32 and answers (N,) int64.

    Raises:
        UsageError: an unknown score.
        CascadeError: logits that are not of shape (N, C), a temperature that is not a positive
            finite number, or a score that is no function of logits.

    Examples:
        >>> scores, answers = score_and_answer(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
        >>> scores
        tensor([0.8808, 0.6225])
        >>> answers
        tensor([0, 1])
    """
    function = (score if isinstance(score, Score) else score_named(score)).function
    few = 0 < logits.numel() <= _BLOCK_ELEMENTS
    if logits.ndim == 2 and 1 < logits.shape[1] <= _LONG_ROW and few:  # single samples are urgent
        shifted, answer = shift(logits.float().contiguous(), temperature)
        return function(shifted, answer), answer
    # filled in place: many small results among large temporaries would fragment the memory
    n = logits.shape[0] if logits.ndim else 0
    scores = torch.empty(n, device=logits.device)
    answers = torch.empty(n, dtype=torch.int64, device=logits.device)
    start = 0
    for rows in row_blocks(logits):
        shifted, answer = shift(rows, temperature)
        end = start + len(answer)
        scores[start:end], answers[start:end] = function(shifted, answer), answer
        start = end
    return scores, answers


def shift(logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """What the function of a `Score` takes: `(logits - max) / T`, and the argmax of each row.

    Args:
        logits: float32 of shape (N, C).
        temperature: T > 0.

    Raises:
        CascadeError: a temperature that is not a positive finite number.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise CascadeError(f"temperature must be a finite number above 0, got {temperature}.")
    best, answer = logits.max(dim=1, keepdim=True)
    shifted = logits - best
    if temperature != 1.0:
        shifted /= temperature
    return shifted, answer.squeeze(1)


def probabilities_of(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax of `logits / T`, the same for a row in any batch.

    Args:
        logits: shape (N, C), floating point, any precision; computed in float32.
        temperature: T > 0.

    Returns:
        Shape (N, C) float32.

    Raises:
        CascadeError: as for `score_and_answer`.

    Examples:
        >>> probabilities_of(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
    """
    blocks = []
    for rows in row_blocks(logits):
        weights = shift(rows, temperature)[0].exp_()
        blocks.append(weights / weights.sum(dim=1, keepdim=True))
    return _joined(blocks)


def answers_of(logits: Tensor) -> Tensor:
    """Argmax of every row, the first class on a tie.

    Args:
        logits: shape (N, C).

    Returns:
        Shape (N,) int64.
    """
    return _joined([rows.max(dim=1).indices for rows in row_blocks(logits)])


def _joined(blocks: list[Tensor]) -> Tensor:
    """Concatenate the results of blocks; that of a single one as it is."""
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)
