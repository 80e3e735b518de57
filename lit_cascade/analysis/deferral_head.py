"""Fitting of deferral heads: learned scores of the samples that the last stage puts right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.core import FEATURES, DeferralHead, Policy, deferral_quality, features_of
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record

MOST_CLASSES = 50
"""Largest number of classes for which a head has a weight per answer; with more, each is rare."""

FEWEST = 5
"""Smallest number of samples of the rarer kind: one for each fold of the cross-validation."""

_STRENGTHS = np.logspace(-4, 2, 7)
_FOLDS = 5


@dataclass(frozen=True)
class FittedHead:
    """A deferral head and the data that it was fitted to.

    Attributes:
        head: learned score of a stage.
        n: number of samples.
        fixed: number of samples that the stage gets wrong and the last stage right.
        area: `deferral_quality` of the head on the samples that it was fitted on.
        area_before: `deferral_quality` of the largest class probability on the same samples.
        strength: inverse regularisation strength chosen by cross-validation.
    """

    head: DeferralHead
    n: int
    fixed: int
    area: float
    area_before: float
    strength: float

    def summary(self) -> dict[str, Any]:
        """The fit as plain values; its areas are those of the samples that it was fitted on."""
        return {
            "n": self.n,
            "fixed": self.fixed,
            "area": self.area,
            "area_max_softmax": self.area_before,
            "inverse_penalty": self.strength,
        }


def fit_head(
    logits: Tensor, correct_here: Tensor, correct_later: Tensor, rows: Tensor | None = None
) -> FittedHead:
    """Fit a logistic regression that predicts where deferring puts an answer right.

    A post-hoc deferral rule (Jitkrittum et al., arXiv:2307.02764). Features are standardised. The
    L2 penalty is chosen by 5-fold cross-validation of the likelihood, since calibration sets have
    from a dozen to thousands of mistakes. The result is deterministic.

    Args:
        logits: logits of the stage, (N, C).
        correct_here: whether the cascade is right if it stops at the stage, (M,) bool.
        correct_later: whether it is right if it continues to the last stage, (M,) bool.
        rows: positions of the M samples to fit on in the logits; by default all.

    Raises:
        CascadeError: too few samples are put right, or too few are not.

    Example:
        >>> logits = torch.randn(400, 3)
        >>> right = logits.max(dim=1).values > torch.randn(400)
        >>> fitted = fit_head(logits, right, torch.ones(400).bool())
        >>> fitted.n, fitted.head.scores(logits[:2]).shape
        (400, torch.Size([2]))
    """
    fixed = correct_later & ~correct_here
    count, n = int(fixed.sum()), len(fixed)
    if min(count, n - count) < FEWEST:
        raise CascadeError(
            f"the last stage puts {count} of {n} answers right: a learned score needs at least "
            f"{FEWEST} such samples and {FEWEST} others. Fit on more samples, or use another score."
        )
    features, answers = features_of(logits, rows)
    classes = logits.shape[1] if logits.shape[1] <= MOST_CLASSES else 0
    shown = [(answers == c).double() for c in range(classes)]
    table = torch.stack([*features, *shown], dim=1)
    centre, spread = table.mean(dim=0), table.std(dim=0, correction=0)
    # a constant feature gets weight 0
    spread = torch.where(spread > 1e-12 * (1 + centre.abs()), spread, torch.inf)
    strength, weights, bias = _regression(((table - centre) / spread).numpy(), fixed.numpy())
    weights = weights / spread
    head = DeferralHead(
        bias=float(bias - weights @ centre),
        weights=tuple(weights[: len(FEATURES)].tolist()),
        by_answer=tuple(weights[len(FEATURES) :].tolist()),
    )
    return FittedHead(
        head=head,
        n=n,
        fixed=count,
        area=deferral_quality(head.scores(logits, rows), correct_here, correct_later),
        area_before=deferral_quality(features[0], correct_here, correct_later),
        strength=strength,
    )


def _regression(table: np.ndarray, wanted: np.ndarray) -> tuple[float, Tensor, float]:
    """Fit a regularised logistic regression; return its strength, weights and intercept."""
    # imported here: scikit-learn takes a second, and only this question needs it
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # noqa: PLC0415

    models = [LogisticRegression(C=strength, max_iter=2000, tol=1e-8) for strength in _STRENGTHS]
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    likelihoods = [
        cross_val_score(model, table, wanted, cv=folds, scoring="neg_log_loss").mean()
        for model in models
    ]
    best = int(np.argmax(likelihoods))  # ties: strongest penalty
    strength, model = float(_STRENGTHS[best]), models[best].fit(table, wanted)
    return strength, torch.from_numpy(model.coef_[0]), float(model.intercept_[0])


def fit_heads(
    records: Sequence[Record], rule: Policy, rows: Tensor | None = None
) -> dict[str, FittedHead]:
    """Fit a deferral head for each deferring stage.

    Args:
        records: one per stage, cheapest first.
        rule: combination of answers and its temperatures; its score is not used.
        rows: samples to fit on; by default all.

    Returns:
        Fitted heads by stage name.

    Raises:
        CascadeError: records without logits or labels, or of different samples, or too few samples
            that the last stage puts right.
    """
    for record in records:
        record.logits_for("a learned score")
    outcomes = outcomes_of(records, replace(rule, score="max_softmax", heads=()))
    correct, _ = outcomes.labelled("a learned score")
    chosen = slice(None) if rows is None else rows
    heads = {}
    for k, record in enumerate(records[:-1]):
        logits, _ = record.logits_for("a learned score")
        try:
            heads[record.name] = fit_head(logits, correct[chosen, k], correct[chosen, -1], rows)
        except CascadeError as error:
            raise CascadeError(f"stage {record.name!r}: {error}") from error
    return heads
