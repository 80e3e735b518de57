"""Fitting of deferral heads: learned scores of what is gained by going on to the last stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.core import (
    FEATURES,
    RECORDED_FEATURES,
    DeferralHead,
    Judgement,
    LogOdds,
    Policy,
    RecordedAnswers,
    StageOutput,
    deferral_quality,
    features_of,
)
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record
from lit_cascade.utilities.units import counted

FEWEST = 5
"""Smallest number of samples of the rarer kind: one for each fold of the cross-validation."""

_STRENGTHS = np.logspace(-3, 1, 5)
_SPREADS = (0.3, 1.0, 3.0)
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_FOLDS = 5


@dataclass(frozen=True)
class FittedHead:
    """A deferral head and the data that it was fitted to.

    Attributes:
        head: learned score of a stage.
        n: number of samples.
        fixed: number of samples that the stage gets wrong and the last stage right.
        broken: number of samples that the stage gets right and the last stage wrong.
        area: `deferral_quality` of the head on the samples that it was fitted on.
        area_before: `deferral_quality` of the stage's confidence on the same samples.
        strength: inverse regularisation strength of the features, chosen by cross-validation.
        spread: standard deviation to which the effects of the answers were shrunk, chosen too; 0
            for none.
        unseen: number of classes that the stage never answers on these samples; they have no
            effect.
    """

    head: DeferralHead
    n: int
    fixed: int
    broken: int
    area: float
    area_before: float
    strength: float
    spread: float
    unseen: int

    def summary(self) -> dict[str, Any]:
        """The fit as plain values; its areas are those of the samples that it was fitted on."""
        return {
            "n": self.n,
            "fixed": self.fixed,
            "broken": self.broken,
            "area": self.area,
            "area_confidence": self.area_before,
            "inverse_penalty": self.strength,
            "spread_of_answers": self.spread,
            "classes_never_answered": self.unseen,
        }


def fit_head(
    output: StageOutput,
    correct_here: Tensor,
    correct_later: Tensor,
    rows: Tensor | None = None,
    *,
    earlier: Sequence[Judgement] = (),
    classes: int = 0,
) -> FittedHead:
    """Fit logistic regressions of where going on to the last stage puts an answer right, or wrong.

    A post-hoc deferral rule (Jitkrittum et al., arXiv:2307.02764). Features are standardised and
    have an L2 penalty. The effects of the answers have one of their own, that of a normal prior:
    classes that are answered rarely are shrunk to no effect. A recorded confidence may have any
    scale, so that its log-odds may bend at five quantiles. The penalties, and whether there are
    bends, are chosen by 5-fold cross-validation of the likelihood. The result is deterministic.

    Where fewer than 5 samples would be put wrong, the probability of this is taken to be 0.

    Args:
        output: of the stage: logits (N, C), or recorded answers.
        correct_here: whether the cascade is right if it stops at the stage, (M,) bool.
        correct_later: whether it is right if it continues to the last stage, (M,) bool.
        rows: positions of the M samples to fit on among the N; by default all.
        earlier: the stages before, on the N samples.
        classes: number of classes C of recorded answers; 0 for no effects of them.

    Raises:
        CascadeError: too few samples are put right, or too few are not.

    Examples:
        >>> logits = torch.randn(400, 3)
        >>> right = logits.max(dim=1).values > torch.randn(400)
        >>> fitted = fit_head(logits, right, torch.ones(400).bool())
        >>> fitted.n, fitted.head.judge(logits[:2]).score.shape
        (400, torch.Size([2]))
    """
    fixed, broken = correct_later & ~correct_here, correct_here & ~correct_later
    count, n = int(fixed.sum()), len(fixed)
    if min(count, n - count) < FEWEST:
        raise CascadeError(
            f"the last stage puts {count} of {n} answers right: a learned score needs at least "
            f"{FEWEST} such samples and {FEWEST} others. Fit on more samples, or use another score."
        )
    recorded = isinstance(output, RecordedAnswers)
    if not isinstance(output, RecordedAnswers):
        classes = output.shape[1]
    features, answer, confidence = features_of(output, earlier, rows)
    table = torch.stack(features, dim=1).numpy()
    log_odds = len(RECORDED_FEATURES if recorded else FEATURES) - 1
    knots = np.unique(np.quantile(table[:, log_odds], _QUANTILES)) if recorded else np.array([])

    def fit(event: Tensor) -> tuple[float, float, LogOdds]:
        return _fit(table, log_odds, knots, answer.numpy(), event.numpy(), classes)

    strength, spread, of_fixed = fit(fixed)
    of_broken = fit(broken)[2] if int(broken.sum()) >= FEWEST else None
    head = DeferralHead(of_fixed, of_broken, recorded=recorded, earlier=len(earlier))
    return FittedHead(
        head=head,
        n=n,
        fixed=count,
        broken=int(broken.sum()),
        area=deferral_quality(head.judge(output, earlier, rows).score, correct_here, correct_later),
        area_before=deferral_quality(confidence, correct_here, correct_later),
        strength=strength,
        spread=spread,
        unseen=classes - len(answer.unique()) if classes else 0,
    )


def _fit(
    table: np.ndarray,
    log_odds: int,
    knots: np.ndarray,
    answer: np.ndarray,
    event: np.ndarray,
    classes: int,
) -> tuple[float, float, LogOdds]:
    """Fit the log-odds of an event; return also the strength and the spread that were chosen.

    The features are fitted without and with bends in the log-odds of the confidence, the feature at
    position `log_odds`. Each answer has an intercept, and slopes of the confidence, which is the
    first feature, and of its log-odds. They are columns of a sparse matrix beside the features,
    multiplied by s for a prior of standard deviation s, and fitted together with the features.
    """
    # imported here: scikit-learn takes a second, and only this question needs it
    from scipy import sparse  # noqa: PLC0415 - as scikit-learn below
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415 - as above

    above = np.maximum(table[:, [log_odds]] - knots, 0)
    width, table = table.shape[1], np.hstack([table, above])
    centre, deviation = table.mean(axis=0), table.std(axis=0)
    # a constant feature gets weight 0
    deviation[deviation <= 1e-12 * (1 + np.abs(centre))] = np.inf
    table = (table - centre) / deviation
    folds = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(event, event))
    sign = np.where(event, -1.0, 1.0)

    def likelihood(model: LogisticRegression, columns: Any) -> float:
        found = [  # a third faster than `cross_val_score`, whose fits of small data are overhead
            -np.logaddexp(0, sign[kept] * (columns[kept] @ fit.coef_[0] + fit.intercept_[0])).mean()
            for fitted, kept in folds
            for fit in [model.fit(columns[fitted], event[fitted])]
        ]
        return float(np.mean(found))

    plain = [
        (LogisticRegression(C=strength, solver="newton-cholesky", max_iter=1000, tol=1e-8), columns)
        for columns in ([table[:, :width], table] if len(knots) else [table])
        for strength in _STRENGTHS
    ]
    likelihoods = [likelihood(*one) for one in plain]
    # ties: without bends, strongest penalty
    chosen, scaled = plain[int(np.argmax(likelihoods))]
    strength, columns = float(chosen.C), scaled

    n = len(event)
    seen, place = np.unique(answer, return_inverse=True)
    spread = 0.0
    for candidate in _SPREADS if classes and len(seen) > 1 else ():
        # the penalty is that of the features: scaled columns give the effects another one
        scale, where = candidate / np.sqrt(strength), (np.arange(n), place)
        shown = [
            sparse.csr_array((scale * values, where), shape=(n, len(seen)))
            for values in (np.ones(n), scaled[:, 0], scaled[:, log_odds])
        ]
        both = sparse.hstack([sparse.csr_array(scaled), *shown], format="csr")
        # each fold starts at the optimum of the one before
        model = LogisticRegression(
            C=strength, solver="newton-cg", max_iter=1000, tol=1e-5, warm_start=True
        )
        found = likelihood(model, both)
        if found > max(likelihoods):
            likelihoods.append(found)
            spread, columns, chosen = candidate, both, model
    chosen.fit(columns, event)
    own, effects = np.split(chosen.coef_[0], [scaled.shape[1]])
    bent = len(own) > width
    own = own / deviation[: len(own)]
    lists = np.zeros((3, classes * bool(spread)))
    if spread:
        lists[:, seen] = np.split(effects * spread / np.sqrt(strength), 3)
        lists[1] /= deviation[0]
        lists[2] /= deviation[log_odds]
        lists[0] -= lists[1] * centre[0] + lists[2] * centre[log_odds]
    event_odds = LogOdds(
        bias=float(chosen.intercept_[0] - own @ centre[: len(own)]),
        weights=tuple(own[:width].tolist()),
        by_answer=tuple(lists[0].tolist()),
        confidence_by_answer=tuple(lists[1].tolist()),
        log_odds_by_answer=tuple(lists[2].tolist()),
        knots=tuple(knots.tolist()) if bent else (),
        bends=tuple(own[width:].tolist()),
    )
    return strength, spread, event_odds


def fit_heads(
    records: Sequence[Record], rule: Policy, rows: Tensor | None = None
) -> dict[str, FittedHead]:
    """Fit a deferral head for each deferring stage.

    Each reads what its own stage and all stages before it say.

    Args:
        records: one per stage, cheapest first, with logits or predictions.
        rule: combination of answers and its temperatures; its score is not used.
        rows: samples to fit on; by default all.

    Returns:
        Fitted heads by stage name.

    Raises:
        CascadeError: records without answers or labels, or of different samples, or too few samples
            that the last stage puts right.
    """
    outputs = [record.output("a learned score") for record in records[:-1]]
    plain = replace(rule, score="max_softmax", heads=(), thresholds=None)
    units = [unit for unit in records[0].costs if all(unit in one.costs for one in records)]
    outcomes = outcomes_of(records, plain, *units[:1])
    correct, _ = outcomes.labelled("a learned score")
    chosen = slice(None) if rows is None else rows
    heads: dict[str, FittedHead] = {}
    earlier: list[Judgement] = []
    for k, (record, output) in enumerate(zip(records, outputs, strict=False)):
        try:
            heads[record.name] = fit_head(
                output, correct[chosen, k], correct[chosen, -1], rows,
                earlier=earlier, classes=len(record.classes),
            )  # fmt: skip
        except CascadeError as error:
            raise CascadeError(f"stage {record.name!r}: {error}") from error
        if k + 1 < len(outputs):
            earlier.append(heads[record.name].head.judge(output, earlier))
    return heads


def head_notes(heads: Mapping[str, FittedHead]) -> list[str]:
    """A note for each stage that never answers some classes on the samples of its fit."""
    return [
        f"Note: {name!r} never answers {one.unseen:,} of {one.head.classes:,} classes on the "
        f"{counted(one.n, 'sample')} that its learned score was fitted on: they have no effect."
        for name, one in heads.items()
        if one.unseen and one.head.classes
    ]
