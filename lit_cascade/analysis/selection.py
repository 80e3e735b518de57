"""Selection of thresholds for a target on records, with or without a guarantee."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from lit_cascade.analysis.check import Verdict, check_promise, references
from lit_cascade.analysis.curve import check_tells_apart, outcomes_of, policy_for
from lit_cascade.analysis.evidence import STAGES, chosen_stages, fitted_on, unused_rows
from lit_cascade.analysis.savings import costs_evidence
from lit_cascade.core import (
    OperatingPoint,
    OperatingPoints,
    Policy,
    PolicyLike,
    StageOutcomes,
    percentile_interval,
    resampled_counts,
)
from lit_cascade.core.guarantee import (
    Candidates,
    Promise,
    Target,
    candidates_of,
    certified,
    joint_thresholds,
    samples_needed,
    shared_candidates,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record, RecordLike, load_records, priced
from lit_cascade.utilities.drawing import BLACK, BLUE, GREY, VERMILION, axes_of, literal, quiet
from lit_cascade.utilities.tabular import Tabular, described, html_of
from lit_cascade.utilities.units import be, counted, unit_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TUNING_SHARE = 0.3
"""Fraction of the samples used to order the combinations of several thresholds."""


_RESAMPLES = 1000
_AT_ONCE = 2**22  # counts in memory at once


@dataclass(frozen=True)
class HeldOutPolicy:
    """A selected policy on samples that it was not selected on.

    Attributes:
        point: accuracy, deferral rate, cost and the value of the target.
        drop: accuracy of the last stage minus that of the cascade; None without labels.
        intervals: 95 % bootstrap intervals of `accuracy` and `drop` (with labels),
            `deferral_rate`, `reach_last`, `cost` and `cost_ratio`.
        verdict: of the promise on these samples.
    """

    point: OperatingPoint
    drop: float | None
    intervals: Mapping[str, tuple[float, float]]
    verdict: Verdict

    def __repr__(self) -> str:
        samples = counted(self.point.n, "sample")
        promise = f"the promise: {self.verdict.outcome}"
        return described("HeldOutPolicy", samples, *self.point.figures(), promise)


@dataclass(frozen=True)
class Selection(Tabular):
    """Selected thresholds and the candidates that they were selected from.

    Attributes:
        promise: what is promised.
        chosen: operating point of the policy; None if no useful candidate is certified.
        empirical: choice without a guarantee, which keeps the limit on these samples; None if no
            useful candidate does.
        candidates: what was tested, in order.
        certified: number of certified candidates.
        n: number of samples tested on.
        tuned_on: number of other samples, used to order the candidates.
        needed: estimated number of samples that would be enough, if none is chosen; None if no
            number would be.
        policy: the policy with the chosen thresholds and the evidence for them; None if no
            useful candidate is certified.
        score: name of the score that the thresholds apply to.
        left_out: number of samples that were left out, as the policy was fitted on them.
        held_out: the policy on the samples that were held out; None without any, or a policy.
        caveats: sentences on what the guarantee depends on that could not be checked.
        notes: what else to know about the samples.
    """

    promise: Promise
    chosen: OperatingPoint | None
    empirical: OperatingPoint | None
    candidates: Candidates
    certified: int
    n: int
    tuned_on: int
    needed: int | None
    policy: Policy | None = None
    score: str = "max_softmax"
    left_out: int = 0
    held_out: HeldOutPolicy | None = None
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(self.candidates.outcomes.names)

    @property
    def unit(self) -> str:
        """Unit of the cost."""
        return self.candidates.outcomes.unit

    @property
    def reason(self) -> str:
        """Why no policy was selected, and what would help; empty if one was."""
        if self.chosen is not None:
            return ""
        what = self.promise.text(self.unit)
        n, last = self.n + self.tuned_on, self.names[-1] if self.names else "the last stage"
        these = "this sample" if n == 1 else f"these {n:,} samples"
        if self.promise.confidence is None:
            return (
                f"no policy keeps {what} on {these} for less than {last!r} alone "
                f"costs. Relax the limit, or run {last!r} alone."
            )
        sure = f"{100 * self.promise.confidence:.3g} % confidence"
        if self.needed is not None:
            help_ = (
                f"About {counted(self.needed, 'sample')} would do if these are representative; or "
                "relax the limit or the confidence."
            )
        elif self.empirical is None:
            help_ = "None keeps it even on these samples: relax the limit."
        elif self.promise.limit == 0:
            help_ = (
                "No sample can show that nothing at all is lost: allow a small loss, such as 0.005."
            )
        else:
            help_ = "A thousand times as many would not do either: relax the limit."
        return (
            f"no policy that costs less than {last!r} alone can be promised to keep {what} with "
            f"{sure} from {counted(n, 'sample')}. {help_}"
        )

    def required_policy(self) -> Policy:
        """The selected policy, where one cannot do without.

        Raises:
            CascadeError: none was selected; the message tells why.
        """
        if self.policy is None:
            raise CascadeError(self.reason)
        return self.policy

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per candidate, in testing order, as `Candidates.columns`, and `certified`."""
        certified = [row < self.certified for row in range(len(self.candidates))]
        return {**self.candidates.columns(), "certified": certified}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the target of every candidate against its cost, and the choices.

        If the cost itself is promised, the accuracy is drawn against it.

        Args:
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes.
        """
        axes, candidates, promise = axes_of(ax), self.candidates, self.promise
        of_spending = promise.target in {"cost", "cost_ratio"}
        value = candidates.accuracy if of_spending else candidates.value
        ratio = candidates.cost_ratio
        order = ratio.sort(stable=True).indices
        axes.plot(
            ratio[order], 100 * value[order], color=GREY, linewidth=1.4,
            label="not certified" if promise.confidence is not None else "all thresholds", zorder=2,
        )  # fmt: skip
        if self.certified:
            kept = order[torch.isin(order, torch.arange(self.certified))]
            label = f"certified at {100 * (promise.confidence or 0):g} %"
            axes.plot(
                ratio[kept], 100 * value[kept], color=BLUE, linewidth=2.4, label=label, zorder=3
            )
        if promise.target == "cost_ratio":
            axes.axvline(promise.limit, color=BLACK, linestyle=":", linewidth=1.2)
        elif not of_spending:
            axes.axhline(100 * promise.limit, color=BLACK, linestyle=":", linewidth=1.2)
            axes.annotate(
                "limit", (1, 100 * promise.limit), xycoords=("axes fraction", "data"),
                xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8,
            )  # fmt: skip
        marks = [(self.empirical, "plain empirical choice", VERMILION, "X")]
        if promise.confidence is not None:
            marks.append((self.chosen, "the policy", BLUE, "*"))
        for choice, label, colour, marker in marks:
            if choice is not None:
                height = choice.accuracy if of_spending else choice.value or 0.0
                axes.plot(
                    choice.cost_ratio, 100 * height, marker, color=colour, markersize=11,
                    markeredgecolor="white", label=label, zorder=5,
                )  # fmt: skip
        axes.axvline(1, color=BLACK, linewidth=0.8, alpha=0.5)
        last = literal(repr(self.names[-1])) if self.names else "the last stage"
        axes.set_xlabel(f"{unit_label(self.unit)} of the cascade / of {last} alone")
        axes.set_ylabel("observed accuracy (%)" if of_spending else _AXES[promise.target])
        axes.legend(frameon=False, fontsize=8)
        quiet(axes)
        return axes

    def __repr__(self) -> str:
        promise, tested = self.promise, counted(len(self.candidates), "candidate")
        sure = (
            "without a guarantee"
            if promise.confidence is None
            else f"with {100 * promise.confidence:.3g} % confidence"
        )
        chosen = ["no policy qualifies"] if self.chosen is None else self.chosen.figures(self.unit)
        held_out = []
        if self.held_out is not None:
            point, outcome = self.held_out.point, self.held_out.verdict.outcome
            samples, accuracy = counted(point.n, "sample"), point.figures()[1]
            held_out = [f"{samples} held out: {accuracy}, the promise: {outcome}"]
        certified = "" if promise.confidence is None else f", {self.certified:,} of them certified"
        return described(
            "Selection",
            f"{promise.text(self.unit)} {sure}",
            *chosen,
            counted(self.n, "sample"),
            f"{tested}{certified}",
            *held_out,
            *(caveat.rstrip(".") for caveat in self.caveats),
        )

    def _repr_html_(self) -> str:
        choices = {"policy": self.chosen, "plain empirical choice": self.empirical}
        if self.held_out is not None:
            choices["policy, on samples held out"] = self.held_out.point
        points = OperatingPoints(choices, self.unit)
        return html_of(repr(self), points.to_pandas())


def select(
    records: Sequence[RecordLike],
    promise: Promise | None = None,
    *,
    policy: PolicyLike = None,
    confidence: float | None = 0.95,
    cost: str = "flops",
    seed: int = 0,
    allow_overlap: bool = False,
    holdout: float = 0.0,
    **target: Unpack[Target],
) -> Selection:
    """Select thresholds that keep a promise on new samples.

    Of the policies that keep the promise the cheapest is selected, or the most accurate if the
    promise limits a cost. Samples that the temperatures or the score of the policy were fitted on,
    or that a search chose its stages on, are left out. They are known by their ids or else by their
    logits; what cannot be checked is among the `caveats` of the result and of its policy.

    Args:
        records: one per stage, cheapest first, on a calibration set; or their files.
        promise: what is promised; or give one `target`.
        policy: score, temperatures, combination and floors; its thresholds are replaced.
        confidence: probability that the target is kept, over the draw of the samples; None for the
            empirical choice, which has no guarantee.
        cost: unit of the cost, or UNIT=FILE with costs that were measured apart.
        seed: seed of the draw of samples that order several thresholds, and of those held out.
        allow_overlap: select even on samples that the policy was fitted on, which breaks the
            promise.
        holdout: share of the samples to hold out: the policy is selected on the others, and
            `held_out` of the result has its figures on these.
        target: one of `max_accuracy_drop`, `min_accuracy`, `max_disagreement` (which needs no
            labels), `deferral_rate`, `max_cost` and `max_cost_ratio`.

    Raises:
        UsageError: no target or several, a policy for other stages, or a share that leaves no
            samples on one side.
        CascadeError: records of different samples, or without what the target needs; or a policy
            that was fitted on all of the samples.

    Examples:
        >>> labels = torch.arange(900) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(900, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k)
        ...     for k, name in ((3, "small"), (9, "large"))
        ... )
        >>> selection = select([small, large], max_accuracy_drop=0.05)
        >>> selection.policy.evidence["promise"]["confidence"]
        0.95
    """
    promise = Promise.of(confidence, **target) if promise is None or target else promise
    loaded, unit = priced(load_records(records), cost)
    check_tells_apart(loaded, policy)
    rule = policy_for(loaded, policy, undecided=True)
    outcomes = outcomes_of(loaded, rule, unit, need_labels=False)
    first = loaded[0]
    unused = unused_rows(rule, loaded, allowed=allow_overlap)
    if len(unused.rows) == 0:
        what, remedy = (
            ("stages were chosen", "Select on samples that the search did not read")
            if STAGES in unused.used_by
            else (
                "temperatures or score were fitted",
                "Fit on some of them (lit-cascade calibrate --share 0.5)",
            )
        )
        raise CascadeError(
            f"this policy's {what} on all of these {len(first):,} samples, and a threshold needs "
            f"others. {remedy} or add --allow_overlap, which breaks the promise."
        )
    left_out = len(first) - len(unused.rows)
    note = (
        f"Note: {left_out:,} of the {counted(len(first), 'sample')} {be(left_out)} left out: "
        f"{unused.reason}."
    )
    caveats = unused.caveats if promise.confidence is not None else ()
    rows, held_rows = _divided(unused.rows, holdout, seed)
    selection = select_thresholds(outcomes.rows(rows), promise, seed)
    selected = held_out = None
    if selection.chosen is not None:
        thresholds = selection.chosen.typed_thresholds
        evidence = _evidence(loaded, rule, selection, unit, rows)
        if caveats:
            evidence["promise"]["caveats"] = list(caveats)
        selected = replace(rule, thresholds=thresholds, evidence=evidence)
        if len(held_rows):
            held_out = _on_held_out(outcomes.rows(held_rows), selected, promise, seed)
    return replace(
        selection, policy=selected, score=rule.score, left_out=left_out, held_out=held_out,
        caveats=caveats, notes=(note,) if left_out else (),
    )  # fmt: skip


def _divided(rows: Tensor, holdout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the rows to hold out of some; the others come first.

    Raises:
        UsageError: no rows on one side.
    """
    n = round(holdout * len(rows))
    if not 0 <= holdout < 1 or n == len(rows) or (holdout and not n):
        raise UsageError(
            f"holdout: expected a share from 0 to below 1 that leaves some of the "
            f"{counted(len(rows), 'sample')} on both sides, got {float(holdout)}."
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[n:].sort().values], rows[order[:n].sort().values]


def _on_held_out(
    outcomes: StageOutcomes, policy: Policy, promise: Promise, seed: int
) -> HeldOutPolicy:
    """Measure a selected policy on other samples."""
    thresholds = policy.required_thresholds()
    stage = outcomes.route(thresholds)
    costs = outcomes.costs.double()
    ran = torch.arange(costs.shape[1]) <= stage[:, None]
    columns = {
        "deferral_rate": (stage > 0).double(),
        "reach_last": (stage == costs.shape[1] - 1).double(),
        "cost": (costs * ran).sum(dim=1),
        "last": costs[:, -1],
    }
    if outcomes.correct is not None and outcomes.alone is not None:
        right = outcomes.correct.gather(1, stage[:, None])[:, 0].double()
        columns |= {"accuracy": right, "drop": outcomes.alone[:, -1].double() - right}
    drawn = _resampled_means(torch.stack(list(columns.values()), dim=1), seed)
    means = dict(zip(columns, drawn.unbind(dim=1), strict=True))
    means["cost_ratio"] = means["cost"] / means.pop("last")
    verdict = check_promise(
        outcomes, promise, thresholds, policy.names, policy.evidence["scores"],
        promise.confidence or 0.95,
    )  # fmt: skip
    return HeldOutPolicy(
        point=replace(outcomes.at(thresholds), value=verdict.value),
        drop=float(columns["drop"].mean()) if "drop" in columns else None,
        intervals={name: percentile_interval(mean) for name, mean in means.items()},
        verdict=replace(verdict, unit=outcomes.unit),
    )


def _resampled_means(values: Tensor, seed: int) -> Tensor:
    """Means of the columns (N, M) over bootstrap resamples, (R, M)."""
    generator, n = torch.Generator().manual_seed(seed), len(values)
    step = max(1, _AT_ONCE // n)
    sizes = [min(step, _RESAMPLES - start) for start in range(0, _RESAMPLES, step)]
    return torch.cat([resampled_counts(n, size, generator) @ values / n for size in sizes])


def _evidence(
    records: Sequence[Record], rule: Policy, selection: Selection, unit: str, rows: Tensor
) -> dict[str, Any]:
    """What a policy was selected on, and what it promises, as plain values."""
    chosen = selection.chosen
    if chosen is None:
        return dict(rule.evidence)
    thresholds, outcomes = chosen.typed_thresholds, selection.candidates.outcomes
    by_name = dict(zip(rule.names, thresholds, strict=False))
    accuracy = None if math.isnan(chosen.accuracy) else chosen.accuracy
    return {
        **rule.evidence,
        **chosen_stages(rule.evidence),
        "thresholds": fitted_on(records, rows),
        "promise": {
            **asdict(selection.promise),
            "cost": unit,
            "stages": list(rule.names),
            "thresholds": {name: _plain(value) for name, value in by_name.items()},
            "n": selection.n,
            "observed": {
                "value": chosen.value,
                "accuracy": accuracy,
                "deferral_rate": chosen.deferral_rate,
                "reach_last": chosen.answered[-1],
                "cost_ratio": chosen.cost_ratio,
            },
        },
        "models": {
            record.name: {"weights": record.model.get("weights"), "classes": len(record.classes)}
            for record in records
        },
        "costs": costs_evidence(unit, rule.names, outcomes.costs.double().mean(dim=0)),
        "scores": references(outcomes, list(thresholds), rule.names),
    }


def _plain(value: float) -> float | str:
    """A number as JSON holds it: infinities as strings."""
    return value if math.isfinite(value) else str(value)


_AXES = {
    "accuracy_drop": "observed accuracy drop (points)",
    "accuracy": "observed accuracy (%)",
    "disagreement": "observed disagreement (%)",
    "deferral_rate": "deferral rate (%)",
}


def select_thresholds(outcomes: StageOutcomes, promise: Promise, seed: int = 0) -> Selection:
    """Select the cheapest policy that keeps a promise, or the most accurate if it limits a cost.

    Args:
        outcomes: of the stages on a calibration set.
        promise: what is promised.
        seed: seed of the draw of samples that order several thresholds.

    Raises:
        CascadeError: labels or answers that the target needs are unknown, or NaN scores.

    Examples:
        >>> right = torch.tensor([[True, True]] * 900 + [[False, True]] * 100)
        >>> scores = torch.linspace(1, 0, 1000)[:, None]
        >>> costs = torch.tensor([[1.0, 9.0]]).expand(1000, 2)
        >>> outcomes = StageOutcomes(scores, right, costs)
        >>> selection = select_thresholds(outcomes, Promise("accuracy_drop", 0.01))
        >>> selection.chosen.deferral_rate, selection.empirical.deferral_rate
        (0.096, 0.09)
    """
    n, tuned_on, guaranteed = len(outcomes), 0, promise.confidence is not None
    if outcomes.scores.shape[1] == 1:
        whole = candidates = shared_candidates(outcomes, promise)
    else:
        whole = candidates = candidates_of(outcomes, promise, joint_thresholds(outcomes, promise))
        if guaranteed:
            tuned_on = max(1, round(TUNING_SHARE * n))
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
            thresholds = joint_thresholds(outcomes.rows(order[:tuned_on]), promise)
            candidates = candidates_of(outcomes.rows(order[tuned_on:]), promise, thresholds)
    empirical = chosen = _best(whole, promise.keeps(whole.value))
    count, needed = 0, None
    if guaranteed:
        count = certified(candidates)
        chosen = _best(candidates, torch.arange(len(candidates)) < count)
        if chosen is None:
            needed = samples_needed(candidates)
        if needed is not None and tuned_on:
            needed = round(needed * n / len(candidates.outcomes))
    return Selection(
        promise=promise,
        chosen=chosen,
        empirical=empirical,
        candidates=candidates,
        certified=count,
        n=len(candidates.outcomes),
        tuned_on=tuned_on,
        needed=needed,
    )


def _best(candidates: Candidates, among: Tensor) -> OperatingPoint | None:
    """Return the best useful candidate among some, (M,) bool."""
    rows = (among & candidates.useful).nonzero().squeeze(1)
    if len(rows) == 0:
        return None
    cost, accuracy = candidates.cost, candidates.accuracy.nan_to_num(0.0)
    of_cost = candidates.promise.of_cost
    columns = (-accuracy, cost) if of_cost else (cost, -accuracy)
    if of_cost and candidates.outcomes.correct is None:
        columns = (-cost, -cost)  # without labels, spend all that is allowed
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    return candidates.point(int(rows[0]))
