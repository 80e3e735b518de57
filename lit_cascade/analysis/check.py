"""Check of a policy's promise on new data, and of whether the scores have shifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core import StageOutcomes
from lit_cascade.core.guarantee import Promise, broken_p_value, candidates_of, certified
from lit_cascade.errors import CascadeError
from lit_cascade.utilities.tabular import Tabular, described
from lit_cascade.utilities.units import counted, percent, quantity

_BINS = 20
_LEAST = 5
"""Mean number of samples per bin below which the distributions are not compared."""


@dataclass(frozen=True)
class ScoreShift:
    """Scores of one stage on the data that the policy was chosen on and on new data.

    Attributes:
        stage: name of the stage.
        reference_rate: fraction of samples reaching the stage that it defers, on the old data.
        rate: the same on the new data.
        rate_p_value: of equal rates (Fisher's exact test).
        scores_p_value: of equal distributions of scores (chi-squared test over bins of equal mass);
            None with too few samples.
        n: number of new samples that reach the stage.
    """

    stage: str
    reference_rate: float
    rate: float
    rate_p_value: float
    scores_p_value: float | None
    n: int


def references(
    outcomes: StageOutcomes, thresholds: Sequence[float], names: Sequence[str]
) -> dict[str, Any]:
    """Summarise the scores of each deferring stage, to compare new data with.

    Returns:
        By stage: `n` samples reach it and `deferred` of them are deferred; `edges` divide their
        scores into bins of about equal `counts`.
    """
    summaries = {}
    for name, scores, deferred in _reached(outcomes, thresholds, names):
        finite = scores[scores.isfinite()].double()
        cuts = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
        edges = finite.quantile(cuts).unique() if len(finite) else finite
        summaries[name] = {
            "n": len(scores),
            "deferred": int(deferred.sum()),
            "edges": edges.tolist(),
            "counts": _counts(scores, edges).tolist(),
        }
    return summaries


def score_shifts(
    outcomes: StageOutcomes,
    thresholds: Sequence[float],
    names: Sequence[str],
    reference: Mapping[str, Any],
) -> list[ScoreShift]:
    """Compare the scores of new data with a summary by `references`, stage by stage.

    Raises:
        CascadeError: the reference is damaged or of other stages.
    """
    from scipy.stats import chi2_contingency, fisher_exact  # noqa: PLC0415 - takes half a second

    shifts = []
    for name, scores, deferred in _reached(outcomes, thresholds, names):
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
        shifts.append(
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
    return shifts


def _counts(scores: Tensor, edges: Tensor) -> Tensor:
    bins = torch.searchsorted(edges, scores.double().contiguous(), right=True)
    return bins.bincount(minlength=len(edges) + 1)


def _reached(
    outcomes: StageOutcomes, thresholds: Sequence[float], names: Sequence[str]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each deferring stage, yield the scores that reach it and whether they are deferred."""
    stage = outcomes.route(thresholds)
    for k, (name, scores) in enumerate(zip(names, outcomes.scores.unbind(dim=1), strict=False)):
        yield name, scores[stage >= k], (stage > k)[stage >= k]


@dataclass(frozen=True)
class Verdict(Tabular):
    """Result of checking a promise on new data.

    Attributes:
        promise: what was promised.
        confidence: confidence of each conclusion.
        n: number of new samples.
        value: value of the target on them; None without the labels or answers that it needs.
        outcome: `kept` or `broken`, each with that confidence; `open` with too few samples for
            either; `unknown` without labels.
        shifts: scores then and now, by deferring stage.
        drifted: whether the scores have shifted, with that confidence.
    """

    promise: Promise
    confidence: float
    n: int
    value: float | None
    outcome: str
    shifts: tuple[ScoreShift, ...]
    drifted: bool

    @property
    def passed(self) -> bool:
        """Whether there is no evidence against the policy.

        Shifted scores are evidence even if the promise is kept: it was made for other data, and
        when all stages get worse, the drop from the last one may even shrink.
        """
        return self.outcome != "broken" and not self.drifted

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per deferring stage: the columns of `ScoreShift`."""
        names = [one.name for one in fields(ScoreShift)]
        return {name: [getattr(shift, name) for shift in self.shifts] for name in names}

    def __repr__(self) -> str:
        observed = []
        if self.value is not None:
            of_cost = self.promise.target == "cost"
            observed = [f"observed {quantity(self.value) if of_cost else percent(self.value, 2)}"]
        return described(
            "Verdict",
            f"{self.promise.text('cost')}: {self.outcome}",
            f"{100 * self.confidence:.3g} % confidence",
            counted(self.n, "new sample"),
            *observed,
            "the scores have shifted" if self.drifted else "no shift of the scores",
        )


def promise_in(evidence: Mapping[str, Any] | None) -> tuple[Promise, dict[str, Any]]:
    """Read the promise from the evidence of a policy file, with its stages, cost and thresholds.

    Raises:
        CascadeError: there is none, or it is damaged.
    """
    entry = (evidence or {}).get("promise")
    if not isinstance(entry, Mapping):
        raise CascadeError(
            "policy.evidence.promise: this policy promises nothing; `lit-cascade select` writes "
            "those that do."
        )
    try:
        confidence = entry["confidence"]
        promise = Promise(
            str(entry["target"]),
            float(entry["limit"]),
            None if confidence is None else float(confidence),
        )
        stages = [str(name) for name in entry["stages"]]
        rest = {"stages": stages, "cost": str(entry["cost"]), "thresholds": entry.get("thresholds")}
    except (KeyError, TypeError, ValueError) as error:
        raise CascadeError(f"policy.evidence.promise: it is damaged: {error}.") from error
    return promise, rest


def check_promise(
    outcomes: StageOutcomes,
    promise: Promise,
    thresholds: Sequence[float],
    names: Sequence[str],
    reference: Mapping[str, Any],
    confidence: float = 0.95,
) -> Verdict:
    """Test a promise on new data.

    Args:
        outcomes: of the stages on the new data, with the policy's score and temperatures.
        promise: what was promised.
        thresholds: thresholds of the policy.
        names: names of the stages.
        reference: summary of the old data by `references`.
        confidence: confidence of each conclusion. Repeated checks need a high one: at 0.95, one in
            twenty checks of unchanged data fails.

    Raises:
        CascadeError: a damaged reference.
    """
    shifts = tuple(score_shifts(outcomes, thresholds, names, reference))
    pairs = ((one.rate_p_value, one.scores_p_value) for one in shifts)
    p_values = [p for pair in pairs for p in pair if p is not None]
    value, outcome = None, "unknown"
    renewed = Promise(promise.target, promise.limit, confidence)
    row = torch.tensor([list(thresholds)], dtype=torch.float64)
    try:
        policy = candidates_of(outcomes, renewed, row)
    except CascadeError:  # no labels, or no answers
        policy = None
    if policy is not None:
        value = float(policy.value[0])
        if broken_p_value(policy) <= 1 - confidence:
            outcome = "broken"
        else:
            outcome = "kept" if certified(policy) else "open"
    return Verdict(
        promise=promise,
        confidence=confidence,
        n=len(outcomes),
        value=value,
        outcome=outcome,
        shifts=shifts,
        # one confidence for all tests (Bonferroni)
        drifted=bool(p_values) and min(p_values) * len(p_values) <= 1 - confidence,
    )
