"""The choice of a norm for the score `max_logit_pnorm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_cascade.core.metrics import is_right
from lit_cascade.core.quality import aurc
from lit_cascade.core.scores import answers_of, max_logit_pnorm, score_and_answer
from lit_cascade.options import Norm

NORMS: tuple[Norm, ...] = ("max_softmax", *map(float, range(1, 10)))
"""The candidates of the choice."""


@dataclass(frozen=True)
class FittedNorm:
    """A norm and the samples that it was chosen on.

    Attributes:
        norm: p of the norm, or `max_softmax` where none has a smaller AURC.
        n: number of samples.
        aurc: of the score with this norm on them, which is optimistic.
        aurc_before: of `max_softmax` on them.
    """

    norm: Norm
    n: int
    aurc: float
    aurc_before: float

    def summary(self) -> dict[str, Any]:
        """The choice as plain values; its areas are those of the samples that it was made on."""
        return {
            "norm": self.norm,
            "n": self.n,
            "aurc": self.aurc,
            "aurc_max_softmax": self.aurc_before,
        }


def fit_norm(logits: Tensor, labels: Tensor, rows: Tensor | None = None) -> FittedNorm:
    """Choose the norm with the smallest area under the risk-coverage curve of the model.

    The candidates are `max_softmax` at temperature 1 and the whole numbers 1 to 9. Of equal areas
    the first counts, so that a norm must be better than `max_softmax` (arXiv:2305.15508; the
    authors' code also tries 0, which leaves the scale of the logits in the score).

    Args:
        logits: (N, C).
        labels: (N,) int64, or (N, L) padded with -1.
        rows: positions of the samples to choose on; by default all.

    Raises:
        CascadeError: two classes, or no samples.

    Examples:
        >>> import torch
        >>> wrong, right = [9.0, 5.0, 0.0], [2.0, 0.0, 0.0]
        >>> fit_norm(torch.tensor([wrong, right]), torch.tensor([1, 0])).norm
        1.0
    """
    if rows is not None:
        logits, labels = logits[rows], labels[rows]
    right = is_right(answers_of(logits), labels)
    areas = [aurc(score_and_answer(logits, max_logit_pnorm(one))[0], right) for one in NORMS]
    best = min(range(len(NORMS)), key=areas.__getitem__)
    return FittedNorm(NORMS[best], len(right), areas[best], areas[0])
