"""Check of a policy's promise on new data, and of whether the scores have shifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from lit_cascade.analysis.curve import outcomes_of, policy_for
from lit_cascade.analysis.evidence import check_overlap
from lit_cascade.core import Policy, StageOutcomes
from lit_cascade.core.guarantee import Promise, broken_p_value, candidates_of, certified
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record, RecordLike, load_records, read_costs, with_costs
from lit_cascade.utilities.tabular import Tabular, described
from lit_cascade.utilities.units import cost_figure, counted, percent

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
        unit: of the cost.
        notes: what else to know about the records.
        outcomes: of the stages on the new data.
        since: where the alarm of a `Monitor` began; None without one.
    """

    promise: Promise
    confidence: float
    n: int
    value: float | None
    outcome: str
    shifts: tuple[ScoreShift, ...]
    drifted: bool
    unit: str = "flops"
    notes: tuple[str, ...] = ()
    outcomes: StageOutcomes | None = field(default=None, repr=False, compare=False)
    since: str | None = None

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
            value = cost_figure(self.value, self.unit) if of_cost else percent(self.value, 2)
            observed = [f"observed {value}"]
        return described(
            "Verdict",
            f"{self.promise.text(self.unit)}: {self.outcome}",
            f"{100 * self.confidence:.3g} % confidence",
            counted(self.n, "new sample"),
            *observed,
            "the scores have shifted" if self.drifted else "no shift of the scores",
        )


def check(
    policy: Policy | PolicyOptions,
    records: Sequence[RecordLike],
    *,
    confidence: float | None = None,
    cost: str | None = None,
) -> Verdict:
    """Test the promise of a policy on new samples, and whether their scores have shifted.

    Args:
        policy: with the evidence that `select` gives it.
        records: of its stages on other samples, cheapest first; or their files.
        confidence: confidence of each conclusion; by default that of the promise.
        cost: the unit that the policy was selected by, which is the default; or UNIT=FILE with
            costs that were measured apart.

    Raises:
        UsageError: a confidence or a cost that does not suit the policy.
        CascadeError: a policy without a promise, records of other stages, or samples that the
            policy was fitted on.

    Examples:
        >>> from lit_cascade.analysis import select
        >>> labels = torch.arange(900) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(900, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k, data={"source": "noise"})
        ...     for k, name in ((3, "small"), (9, "large"))
        ... )
        >>> halves = [[record.rows(rows) for record in (small, large)]
        ...           for rows in (torch.arange(450), torch.arange(450, 900))]
        >>> policy = select(halves[0], max_accuracy_drop=0.1).policy
        >>> check(policy, halves[1]).n
        450
    """
    if confidence is not None and not 0.5 <= confidence < 1:
        raise UsageError(
            f"confidence: expected a probability from 0.5 to below 1, got {confidence}."
        )
    if not isinstance(policy, Policy | PolicyOptions):
        raise UsageError(f"policy: expected a Policy, got {type(policy).__name__}.")
    evidence = policy.evidence or {}
    promise, terms = promise_in(evidence)
    unit = terms["cost"]
    loaded = load_records(records)
    names = [record.name for record in loaded]
    if names != terms["stages"]:
        raise CascadeError(
            f"records: expected those of {', '.join(terms['stages'])}, the policy's stages; "
            f"got {', '.join(names)}."
        )
    rule = policy_for(loaded, policy)
    thresholds, promised = rule.required_thresholds(names), terms["thresholds"]
    if promised is not None and [float(promised[name]) for name in names[:-1]] != list(thresholds):
        raise CascadeError(
            "policy.thresholds: the promise was made for other thresholds; choose again with "
            "lit-cascade select."
        )
    loaded = _priced_as_promised(loaded, cost, unit)
    first = loaded[0]
    notes = check_overlap(evidence, first.samples, first.data, loaded, allowed=None)
    chosen_for = evidence.get("models") or {}
    notes += [
        f"Note: stage {record.name!r} has other weights than the policy was chosen for."
        for record in loaded
        if (chosen_for.get(record.name) or {}).get("weights") != record.model.get("weights")
    ]
    verdict = check_promise(
        outcomes_of(loaded, rule, unit, need_labels=False),
        promise,
        thresholds,
        names,
        evidence.get("scores") or {},
        confidence or promise.confidence or 0.95,
    )
    return replace(verdict, unit=unit, notes=tuple(notes))


def _priced_as_promised(records: Sequence[Record], cost: str | None, unit: str) -> list[Record]:
    """Records with their costs in the unit that a policy was selected by."""
    given = unit if cost is None else cost.partition("=")[0]
    if given != unit:
        raise UsageError(
            f"cost: the policy was chosen by its cost in {unit}; got {given!r}. Give {unit}=FILE, "
            "or choose again with lit-cascade select."
        )
    costed = with_costs(records, *read_costs(cost or unit))
    for record in costed:
        if unit not in record.costs:
            raise UsageError(
                f"cost: the policy was chosen by its cost in {unit}, and the record "
                f"{record.name!r} has only {', '.join(record.costs)}; give {unit}=FILE, as "
                "to select."
            )
    return costed


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
        outcomes=outcomes,
        # one confidence for all tests (Bonferroni)
        drifted=bool(p_values) and min(p_values) * len(p_values) <= 1 - confidence,
    )
