"""What a comparison of scores found: how good each is, with intervals and against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_cascade.heads import FittedHead

__all__ = ["Chosen", "Comparison", "Figure", "ScoreFigures"]


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval over draws of the samples.

    Attributes:
        value: on the samples themselves.
        low: 2.5 % of the draws are below.
        high: 2.5 % are above.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Chosen:
    """What the threshold does on the samples reported on that was chosen on the others.

    Attributes:
        threshold: the cheapest with the large model's accuracy there.
        accuracy: here.
        deferral_rate: here.
        cost_ratio: here, to the large model alone.
    """

    threshold: float
    accuracy: float
    deferral_rate: float
    cost_ratio: float


@dataclass(frozen=True)
class ScoreFigures:
    """How good one score is.

    Attributes:
        name: of the score.
        scores: on the samples reported on, (N,).
        area: between random (0) and oracle deferral (1).
        gain: the area less that of the first score, on the same draws.
        aurc: of the small model.
        cost_ratio: the least at the large model's accuracy, read off these very samples.
        chosen: what a threshold chosen on other samples does; None if there is none.
    """

    name: str
    scores: Tensor
    area: Figure
    gain: Figure
    aurc: Figure
    cost_ratio: Figure
    chosen: Chosen | None


@dataclass(frozen=True)
class Comparison:
    """Scores of one model for deferring to another.

    Attributes:
        names: of the two models.
        unit: of the cost.
        figures: of each score.
        correct: whether each model is right on the samples reported on, (N, 2) bool.
        costs: of each model on them, (N, 2).
        fitted_on: number of other samples, for the learned score and the thresholds.
        learned: the fit of the learned score, if there is one.
        missing: why there is none.
        bound: what the oracle costs at the large model's accuracy, to the large model alone.
    """

    names: tuple[str, str]
    unit: str
    figures: Sequence[ScoreFigures]
    correct: Tensor
    costs: Tensor
    fitted_on: int
    learned: FittedHead | None
    missing: str | None
    bound: float

    @property
    def n(self) -> int:
        """Number of samples reported on."""
        return len(self.correct)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Of the two models."""
        small, large = (self.correct.sum(dim=0).double() / self.n).tolist()
        return small, large
