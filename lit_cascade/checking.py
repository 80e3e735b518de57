"""Does a policy keep its promise on new data? By labels where there are some, and by scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import bdtrc
from torch import Tensor

from lit_cascade.core.bounds import bounded_p_value, paired_p_value
from lit_cascade.core.certifying import certified
from lit_cascade.core.paths import Behaviour, Path, path_of
from lit_cascade.core.promise import Promise
from lit_cascade.drift import Comparison, compare_scores, drifted
from lit_cascade.errors import CascadeError

__all__ = ["Verdict", "check_promise", "promise_in"]


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
    comparisons: tuple[Comparison, ...]
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
        reference: what `lit_cascade.drift.references` kept of the old data.
        confidence: of the verdict. A check that is repeated often needs a high one: of those at
            0.95 one in twenty calls good data bad.

    Raises:
        CascadeError: a reference that is damaged.
    """
    comparisons = tuple(compare_scores(behaviour, thresholds, names, reference))
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
