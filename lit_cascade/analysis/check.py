"""Is this still the data that a policy was chosen on? Tests of scores, which need no labels.

Does a policy keep its promise on new data? By labels where there are some, and by scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import bdtrc
from torch import Tensor

from lit_cascade.core import answers_here
from lit_cascade.core.guarantee import (
    Behaviour,
    Path,
    Promise,
    bounded_p_value,
    certified,
    paired_p_value,
    path_of,
)
from lit_cascade.errors import CascadeError

__all__ = [
    "ScoreShift",
    "Verdict",
    "check_promise",
    "drifted",
    "promise_in",
    "references",
    "score_shifts",
]


_BINS = 20
_LEAST = 5
"""Samples per bin below which a test of the distribution says nothing."""


@dataclass(frozen=True)
class ScoreShift:
    """One stage on the data of the policy and on new data.

    Attributes:
        stage: its name.
        reference_rate: share of the samples that reached it and that it deferred, then.
        rate: the same on the new data.
        rate_p_value: of an equal rate (Fisher's exact test).
        scores_p_value: of an equal distribution of scores (chi-squared, over bins that held equally
            many); None where there are too few samples.
        n: number of new samples that reached it.
    """

    stage: str
    reference_rate: float
    rate: float
    rate_p_value: float
    scores_p_value: float | None
    n: int


def references(
    behaviour: Behaviour, thresholds: Sequence[float], names: Sequence[str]
) -> dict[str, Any]:
    """What new data will be compared with, by deferring stage.

    `edges` cut the scores of the samples that reached a stage into `counts` of about equal size;
    `deferred` of them went on.
    """
    found = {}
    for name, scores, deferred in _reached(behaviour, thresholds, names):
        finite = scores[scores.isfinite()].double()
        cuts = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
        edges = finite.quantile(cuts).unique() if len(finite) else finite
        found[name] = {
            "n": len(scores),
            "deferred": int(deferred.sum()),
            "edges": edges.tolist(),
            "counts": _counts(scores, edges).tolist(),
        }
    return found


def score_shifts(
    behaviour: Behaviour,
    thresholds: Sequence[float],
    names: Sequence[str],
    reference: Mapping[str, Any],
) -> list[ScoreShift]:
    """Compare new data with what `references` kept, stage by stage.

    Raises:
        CascadeError: the reference is damaged or of other stages.
    """
    from scipy.stats import chi2_contingency, fisher_exact  # noqa: PLC0415 - takes half a second

    made = []
    for name, scores, deferred in _reached(behaviour, thresholds, names):
        try:
            then = reference[name]
            n, gone, counts = int(then["n"]), int(then["deferred"]), list(map(int, then["counts"]))
            edges = torch.tensor(list(map(float, then["edges"])), dtype=torch.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise CascadeError(
                f"policy.evidence.scores: expected n, deferred, edges and counts of {name!r}."
            ) from error
        here = int(deferred.sum())
        now = _counts(scores, edges)
        if len(now) != len(counts) or n < 1:
            raise CascadeError(f"policy.evidence.scores: the counts of {name!r} are damaged.")
        table = [[gone, n - gone], [here, len(scores) - here]]
        bins = [column for column in zip(counts, now.tolist(), strict=True) if sum(column)]
        enough = len(bins) > 1 and min(n, len(scores)) >= _LEAST * len(bins)
        made.append(
            ScoreShift(
                stage=name,
                reference_rate=gone / n,
                rate=here / max(1, len(scores)),
                rate_p_value=float(fisher_exact(table).pvalue),
                scores_p_value=float(chi2_contingency(list(zip(*bins, strict=True))).pvalue)
                if enough
                else None,
                n=len(scores),
            )
        )
    return made


def drifted(comparisons: Sequence[ScoreShift], confidence: float) -> bool:
    """Whether any of some comparisons shows other data, at one confidence for all (Bonferroni).

    Example:
        >>> drifted([ScoreShift("small", 0.2, 0.5, 1e-9, None, 100)], 0.95)
        True
    """
    values = [
        p for one in comparisons for p in (one.rate_p_value, one.scores_p_value) if p is not None
    ]
    return bool(values) and min(values) * len(values) <= 1 - confidence


def _counts(scores: Tensor, edges: Tensor) -> Tensor:
    bins = torch.searchsorted(edges, scores.double().contiguous(), right=True)
    return bins.bincount(minlength=len(edges) + 1)


def _reached(
    behaviour: Behaviour, thresholds: Sequence[float], names: Sequence[str]
) -> list[tuple[str, Tensor, Tensor]]:
    """Of each deferring stage the scores of the samples that reach it, and whether it defers."""
    found, left = [], torch.ones(len(behaviour), dtype=torch.bool)
    for name, column, threshold in zip(
        names, behaviour.scores.unbind(dim=1), thresholds, strict=False
    ):
        deferred = ~answers_here(column, threshold)
        found.append((name, column[left], deferred[left]))
        left = left & deferred
    return found


@dataclass(frozen=True)
class Verdict:
    """What new data say of a promise.

    Attributes:
        promise: that was made.
        confidence: of the verdict.
        n: number of new samples.
        value: of the target on them; None without what it needs.
        outcome: `kept` or `broken`, each with that confidence, or `open`: too few samples to say;
            or `unknown` without labels.
        comparisons: of the scores, then and now.
        drifted: whether these show other data, with that confidence.
    """

    promise: Promise
    confidence: float
    n: int
    value: float | None
    outcome: str
    comparisons: tuple[ScoreShift, ...]
    drifted: bool

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the policy.

        A promise that happens to be kept on other data was not made for them: when both stages
        get worse, the drop from the last one may even shrink.
        """
        return self.outcome != "broken" and not self.drifted


def promise_in(evidence: Mapping[str, Any] | None) -> tuple[Promise, dict[str, Any]]:
    """The promise in the evidence of a policy, and what belongs to it.

    Raises:
        CascadeError: there is none, or it is damaged.
    """
    told = (evidence or {}).get("promise")
    if not isinstance(told, Mapping):
        raise CascadeError(
            "policy.evidence.promise: this policy promises nothing; `lit-cascade select` writes "
            "those that do."
        )
    try:
        confidence = told["confidence"]
        promise = Promise(
            str(told["target"]),
            float(told["limit"]),
            None if confidence is None else float(confidence),
        )
        stages = [str(name) for name in told["stages"]]
        rest = {"stages": stages, "cost": str(told["cost"]), "thresholds": told.get("thresholds")}
    except (KeyError, TypeError, ValueError) as error:
        raise CascadeError(f"policy.evidence.promise: it is damaged: {error}.") from error
    return promise, rest


def check_promise(
    behaviour: Behaviour,
    promise: Promise,
    thresholds: Sequence[float],
    names: Sequence[str],
    reference: Mapping[str, Any],
    confidence: float = 0.95,
) -> Verdict:
    """Test a promise on new data.

    Args:
        behaviour: of the stages on the new data, with the policy's score and temperatures.
        promise: that was made.
        thresholds: of the policy.
        names: of the stages.
        reference: what `lit_cascade.analysis.check.references` kept of the old data.
        confidence: of the verdict. A check that is repeated often needs a high one: of those at
            0.95 one in twenty calls good data bad.

    Raises:
        CascadeError: a reference that is damaged.
    """
    comparisons = tuple(score_shifts(behaviour, thresholds, names, reference))
    value, outcome = None, "unknown"
    try:
        path = path_of(behaviour, promise, torch.tensor([list(thresholds)], dtype=torch.float64))
    except CascadeError:  # no labels, or no answers
        path = None
    if path is not None:
        value = float(path.value[0])
        kept = Promise(promise.target, promise.limit, confidence)
        if _against(path, promise) <= 1 - confidence:
            outcome = "broken"
        else:
            outcome = "kept" if certified(path, kept) else "open"
    return Verdict(
        promise=promise,
        confidence=confidence,
        n=len(behaviour),
        value=value,
        outcome=outcome,
        comparisons=comparisons,
        drifted=drifted(comparisons, confidence),
    )


def _against(path: Path, promise: Promise) -> float:
    """P-value for a promise that is kept: small where it is broken."""
    n = len(path.behaviour)
    if path.lost is not None and path.won is not None:
        lost, won = int(path.lost[0]), int(path.won[0])
        if promise.target == "accuracy_drop":
            return paired_p_value(won, lost, n, -promise.limit)
        limit = 1 - promise.limit if promise.target == "accuracy" else promise.limit
        # the chance of so many losses or more if their share were the limit
        return 1.0 if lost == 0 else float(bdtrc(lost - 1, n, limit))
    values, low, high, limit = _excess(path, promise)
    return bounded_p_value(-values, -high, -low, -limit)


def _excess(path: Path, promise: Promise) -> tuple[Tensor, float, float, float]:
    behaviour = path.behaviour
    last = behaviour.costs[:, -1].double()
    ratio = promise.target == "cost_ratio"
    less = promise.limit * last if ratio else torch.zeros_like(last)
    low = float((behaviour.costs[:, 0].double() - less).min())
    high = float((behaviour.costs.double().sum(dim=1) - less).max())
    return behaviour.spent(path.thresholds[0]) - less, low, high, 0.0 if ratio else promise.limit
