"""Calibration of recorded stages, and its effect on a cascade."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lit_cascade.analysis.curve import outcomes_of, policy_for
from lit_cascade.analysis.deferral_head import FittedHead, fit_heads, head_notes
from lit_cascade.analysis.evidence import chosen_stages, fitted_on
from lit_cascade.analysis.reliability import CalibrationMetrics, calibration_metrics
from lit_cascade.core import (
    LEARNED,
    MAX_LOGIT_PNORM,
    AccuracyDifference,
    Curve,
    FittedNorm,
    Policy,
    PolicyLike,
    StageOutcomes,
    cheapest,
    cross_fit,
    fit_norm,
    fit_temperature,
    paired_difference,
    ranked_within,
)
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.options import Share
from lit_cascade.records import Record, RecordLike, check_alike, load_records, priced
from lit_cascade.utilities.drawing import BLUE, VERMILION, axes_of, axes_row, literal
from lit_cascade.utilities.tabular import Tabular, described, listed, shortened, spanned
from lit_cascade.utilities.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Method = Literal["temperature", "none"]
METHODS: tuple[Method, ...] = ("temperature", "none")

FOLDS = 5

_BLOCK_ELEMENTS = 2**24

_PURPOSES = {"temperature": "a temperature", "none": "a calibration error"}


@dataclass(frozen=True)
class CalibrationPlan:
    """Rows to fit a calibration on and rows to evaluate it on.

    Attributes:
        fitted: rows that the reported calibration is fitted on, (M,) int64.
        folds: pairs of rows to fit on and rows to evaluate that fit on; no row is evaluated twice.
        held_out: whether the evaluated rows are excluded from `fitted`.
    """

    fitted: Tensor
    folds: tuple[tuple[Tensor, Tensor], ...]
    held_out: bool = False

    @classmethod
    def of(cls, n: int, share: float | str | None = None, seed: int = 0) -> CalibrationPlan:
        """Draw a plan for n samples.

        Args:
            n: number of samples.
            share: fraction of the samples to fit on; the others are held out. By default the fit is
                on all, and the evaluation is cross-fitted in 5 folds.
            seed: seed of the draw.

        Raises:
            UsageError: a share that leaves nothing to fit on, or nothing to evaluate.

        Examples:
            >>> plan = CalibrationPlan.of(10, share=0.3)
            >>> len(plan.fitted), [len(rows) for _, rows in plan.folds], plan.held_out
            (3, [7], True)
            >>> [len(rows) for _, rows in CalibrationPlan.of(12).folds]
            [3, 3, 2, 2, 2]
        """
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        if share is not None:
            share = Share(share, "share")
            m = round(share * n)
            if not 0 < m < n:
                raise UsageError(
                    f"share: expected a share between 0 and 1 that leaves some of the {n:,} "
                    f"samples to fit on and some to evaluate on, got {share}."
                )
            fitted, held_out = order[:m].sort().values, order[m:].sort().values
            return cls(fitted, ((fitted, held_out),), held_out=True)
        everything = torch.arange(n)
        if n == 1:  # no other sample to evaluate on
            return cls(everything, ((everything, everything),))
        parts = [part.sort().values for part in order.tensor_split(min(FOLDS, n))]
        others = [torch.ones(n, dtype=torch.bool).index_fill_(0, part, 0) for part in parts]
        folds = zip((everything[other] for other in others), parts, strict=True)
        return cls(everything, tuple(folds))

    @property
    def evaluated(self) -> Tensor:
        """All evaluated rows, in the order of the folds."""
        return torch.cat([rows for _, rows in self.folds])

    @property
    def text(self) -> str:
        """Description of the evaluated samples."""
        if self.held_out:
            return f"on the {counted(len(self.evaluated), 'sample')} held out from the fit"
        if len(self.folds) == 1:
            return "on the one sample that it was fitted on, so they flatter"
        return f"cross-fitted in {len(self.folds)} folds: each sample by a fit on the others"

    def __repr__(self) -> str:
        return described(
            "CalibrationPlan", f"fitted on {counted(len(self.fitted), 'sample')}", self.text
        )


@dataclass(frozen=True)
class StageCalibration(Tabular):
    """Temperature of a stage, and calibration metrics before and after.

    Attributes:
        temperature: fitted T; 1 with method `none`.
        at_bound: whether the fit ended at a bound of its range.
        folds: temperature fitted for each fold of the plan.
        n: number of samples that `temperature` was fitted on.
        before: metrics of the raw confidence on the evaluated samples.
        after: metrics after calibration, each sample by a fit on others.
    """

    temperature: float
    at_bound: bool
    folds: tuple[float, ...]
    n: int
    before: CalibrationMetrics
    after: CalibrationMetrics

    def summary(self, *, diagrams: bool = False) -> dict[str, Any]:
        """The fit as plain values, with the reliability diagrams on request."""
        before, after = asdict(self.before), asdict(self.after)
        pair = {"before": before.pop("diagram"), "after": after.pop("diagram")}
        return {
            "temperature": self.temperature,
            "at_bound": self.at_bound,
            "n": self.n,
            "before": before,
            "after": after,
            **({"diagram": pair} if diagrams else {}),
        }

    def columns(self) -> dict[str, Sequence[Any]]:
        """Two rows, `before` and `after`, with the calibration metrics."""
        names = [one.name for one in fields(CalibrationMetrics) if one.name != "diagram"]
        pair = (self.before, self.after)
        return {"": ("before", "after")} | {
            name: [getattr(one, name) for one in pair] for name in names
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the reliability diagrams before and, where a temperature was fitted, after.

        Args:
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes.
        """
        axes = axes_of(ax)
        looks = [(self.before, "before", VERMILION, "-.")]
        if {self.temperature, *self.folds} != {1.0}:
            looks.append((self.after, "after", BLUE, "-"))
        for one, when, color, line in looks:
            label = f"{when}: ECE {one.ece:.3f}"
            one.diagram.plot(axes, color=color, linestyle=line, label=label)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return axes

    def __repr__(self) -> str:
        pairs = {name: [getattr(one, name) for one in (self.before, self.after)] for name in _SHOWN}
        return described(
            "StageCalibration",
            f"temperature {self.temperature:.4g}{' at its bound' if self.at_bound else ''}",
            f"fitted on {counted(self.n, 'sample')}",
            *(f"{_SHOWN[name]} {spanned(*map('{:.4f}'.format, pairs[name]))}" for name in pairs),
        )


_SHOWN = {"nll": "NLL", "ece": "ECE", "brier": "Brier"}


def calibrate_record(
    record: Record, method: Method = "temperature", plan: CalibrationPlan | None = None
) -> StageCalibration:
    """Fit a temperature to a record and evaluate it on other samples.

    Args:
        record: record of one stage.
        method: `temperature`, or `none` to evaluate the raw confidence only.
        plan: samples to fit on and to evaluate on; by default all, cross-fitted.

    Raises:
        UsageError: an unknown method.
        CascadeError: a record without logits or labels.

    Examples:
        >>> record = Record.from_arrays("net", [[4.0, 0.0]] * 8, [0, 0, 0, 1] * 2, flops=1)
        >>> fitted = calibrate_record(record)
        >>> round(fitted.temperature, 3), round(fitted.before.ece, 3)
        (3.641, 0.232)
    """
    check_name(method, METHODS, "method")
    logits, labels = record.logits_for(_PURPOSES[method])
    plan = plan or CalibrationPlan.of(len(record))
    temperature, at_bound = 1.0, False
    folds = (temperature,) * len(plan.folds)
    if method == "temperature":
        fit = fit_temperature(logits, labels, rows=plan.fitted)
        temperature, at_bound = fit.temperature, fit.at_bound
        parts = [fitted for fitted, _ in plan.folds]
        if all(torch.equal(part, plan.fitted) for part in parts):
            folds = (temperature,) * len(parts)
        else:
            folds = cross_fit(logits, labels, parts, temperature)
    # in the order of the file
    order = plan.evaluated.argsort()
    rows = plan.evaluated[order]
    sizes = torch.tensor([len(evaluated) for _, evaluated in plan.folds])
    divisors = torch.tensor(folds, dtype=torch.float64).repeat_interleave(sizes)[order]
    return StageCalibration(
        temperature=temperature,
        at_bound=at_bound,
        folds=folds,
        n=len(plan.fitted),
        before=calibration_metrics(logits, labels, 1.0, rows),
        after=calibration_metrics(logits, labels, divisors, rows),
    )


@dataclass(frozen=True)
class CalibrationEffect(Tabular):
    """A cascade with and without calibration, on samples that the calibration was not fitted on.

    Thresholds of the curves are ranks of the scores within each fold, since each fold has its own
    fit; they are not thresholds of a policy.

    Attributes:
        method: calibration method, or `learned` for a learned score.
        before: curve without calibration.
        after: curve with calibration.
        difference: of the accuracies, averaged over all costs.
        same_order: whether the calibration cannot change which samples are deferred first, as a
            temperature for two classes and two stages.
    """

    method: str
    before: Curve
    after: Curve
    difference: AccuracyDifference
    same_order: bool

    @property
    def recommended(self) -> str:
        """The method if the interval of the difference is above 0, else `none`."""
        return self.method if self.difference.better else "none"

    def columns(self) -> dict[str, Sequence[Any]]:
        """Two rows, without and with the calibration.

        The accuracy averaged over all costs, and deferral rate, cost and its ratio to that of the
        last stage alone at the cheapest threshold with the last stage's accuracy.
        """
        unit, curves = self.after.unit, (self.before, self.after)
        points = [cheapest(curve, float(curve.stage_accuracy[-1])) for curve in curves]
        figures = {"deferral_rate": "deferral_rate", unit: "cost", f"{unit}_ratio": "cost_ratio"}
        return {
            "": ("without", f"with {self.method}"),
            "mean_accuracy": (self.difference.before, self.difference.after),
        } | {
            f"{name}_at_equal_accuracy": [
                math.nan if point is None else getattr(point, column) for point in points
            ]
            for name, column in figures.items()
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw accuracy against cost, with and without calibration.

        Args:
            ax: axes to draw on; by default those of a new figure.

        Returns:
            The axes.
        """
        axes = self.before.plot(
            ax, stages=False, label="without", color=VERMILION, linestyle="-.", linewidth=1.6
        )
        self.after.plot(axes, label=f"with {self.method}", linewidth=1.6)
        axes.margins(x=0.16, y=0.1)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return axes

    def __repr__(self) -> str:
        low, high = (100 * end for end in self.difference.interval)
        return described(
            "CalibrationEffect",
            f"{self.method}: {100 * self.difference.value:+.3f} points of accuracy over all costs",
            f"95 % interval {low:+.3f} to {high:+.3f}",
            f"recommended: {self.recommended}",
        )


@dataclass(frozen=True)
class Calibration(Tabular):
    """Calibration of some stages of a recorded cascade, and whether it helps.

    Attributes:
        records: of all stages, cheapest first.
        fitted: calibrations by stage name.
        plan: samples that they were fitted on, and those that they were evaluated on.
        method: method of the fit.
        comparison: the cascade with and without calibration; None where nothing was fitted.
        unit: unit of the cost.
        policy: the policy with the temperatures, with the learned score if one was fitted, and
            without thresholds, which were chosen at another calibration.
        heads: fitted learned scores by stage name; empty if none were asked for.
        norms: norms of the score `max_logit_pnorm` by stage name; empty if none were asked for.
        learned: the cascade by the score of the given policy and by the fitted one, learned or with
            norms, on samples that it was not fitted on; None if none was asked for, or if a fold
            has too few samples.
        notes: what else to know about the learned scores.
    """

    records: Sequence[Record]
    fitted: Mapping[str, StageCalibration]
    plan: CalibrationPlan
    method: Method
    comparison: CalibrationEffect | None
    unit: str
    policy: Policy
    heads: Mapping[str, FittedHead]
    norms: Mapping[str, FittedNorm]
    learned: CalibrationEffect | None = None
    notes: tuple[str, ...] = ()

    @property
    def learned_verdict(self) -> str:
        """Whether the fitted score helps, in a sentence; empty if none was asked for."""
        if not (self.heads or self.norms):
            return ""
        if self.learned is None:
            return (
                "Whether the learned score helps is unknown: a part of the samples has too few "
                "that the last stage puts right."
            )
        subject = "The learned score" if self.heads else f"The score {MAX_LOGIT_PNORM.name}"
        difference = self.learned.difference
        low, high = (100 * end for end in difference.interval)
        moved = (
            f"{100 * difference.value:+.3f} points of accuracy, averaged over all costs "
            f"(95 %: {low:+.3f} to {high:+.3f}), against the stage's own confidence"
        )
        if difference.better:
            return f"{subject} helps this cascade: {moved}."
        if difference.worse:
            return f"{subject} makes this cascade worse: {moved}. Do not use it."
        return f"{subject} does not help this cascade beyond chance: {moved}."

    @property
    def recommendation(self) -> str:
        """Whether to apply the calibration, in a sentence or two."""
        compared = self.comparison
        if compared is None:
            return "Nothing was fitted: the figures describe the models as they are."
        low, high = (100 * end for end in compared.difference.interval)
        moved = (
            f"{100 * compared.difference.value:+.3f} points of accuracy, averaged over all costs "
            f"(95 %: {low:+.3f} to {high:+.3f})"
        )
        same = (
            " With two classes a temperature cannot change the order of the scores: the curve is "
            "the same at other thresholds."
            if compared.same_order
            else ""
        )
        if compared.difference.better:
            return f"Calibration helps this cascade: {moved}. Apply it."
        if compared.difference.worse:
            return f"Calibration makes this cascade worse: {moved}; none is recommended."
        return f"Calibration does not help this cascade: {moved}; none is recommended.{same}"

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per stage: its temperature, and metrics before and after."""
        columns: dict[str, Sequence[Any]] = {
            "stage": list(self.fitted),
            "temperature": [stage.temperature for stage in self.fitted.values()],
        }
        for metric in ("nll", "ece", "ece_equal_mass", "brier"):
            for when in ("before", "after"):
                figures = (getattr(stage, when) for stage in self.fitted.values())
                columns[f"{metric}_{when}"] = [getattr(one, metric) for one in figures]
        return columns

    def plot(self, axes: Sequence[Axes] | None = None) -> list[Axes]:
        """Draw the reliability diagrams of the stages, and the cascade with and without.

        Args:
            axes: one per calibrated stage, and one for the cascade with each of what was fitted:
                temperatures and learned scores; by default those of a new figure.

        Returns:
            The axes.
        """
        effects = [one for one in (self.comparison, self.learned) if one is not None]
        count = max(1, len(self.fitted) + len(effects))
        panels = list(axes_row(count) if axes is None else axes)
        for panel, (name, stage) in zip(panels, self.fitted.items(), strict=False):
            stage.plot(panel).set_title(literal(f"reliability of {name!r}"), fontsize=10)
        for panel, effect in zip(panels[len(self.fitted) :], effects, strict=False):
            low, high = (100 * end for end in effect.difference.interval)
            gain = f"{100 * effect.difference.value:+.3f} points ({low:+.3f} to {high:+.3f})"
            effect.plot(panel).set_title(f"the cascade: {gain}", fontsize=10)
        return panels

    def __repr__(self) -> str:
        fitted = {name: f"{stage.temperature:.4g}" for name, stage in self.fitted.items()}
        texts = [f"{shortened(name)} {temperature}" for name, temperature in fitted.items()]
        return described(
            "Calibration",
            f"temperature of {listed(texts)}" if self.method != "none" else listed(list(fitted)),
            f"fitted on {counted(len(self.plan.fitted), 'sample')}",
            "nothing was compared"
            if self.comparison is None
            else f"recommended: {self.comparison.recommended}",
        )

    @property
    def verdict(self) -> dict[str, Any]:
        """The recommendation and the figures behind it, as plain values."""
        return _verdict(self.method, self.plan, self.comparison)


def _verdict(
    method: str, plan: CalibrationPlan, compared: CalibrationEffect | None
) -> dict[str, Any]:
    if compared is None:
        return {"method": method, "recommended": "none"}
    return {
        "method": method,
        "recommended": compared.recommended,
        "same_order": compared.same_order,
        "gain": compared.difference.value,
        "interval": list(compared.difference.interval),
        "judged": plan.text,
    }


def calibrate(
    records: Sequence[RecordLike],
    *,
    policy: PolicyLike = None,
    stages: Sequence[str] | None = None,
    method: Method = "temperature",
    share: float | str | None = None,
    seed: int = 0,
    learn_score: bool = False,
    choose_norms: bool = False,
    cost: str = "flops",
) -> Calibration:
    """Fit temperatures to recorded stages, and test whether they help the cascade.

    Args:
        records: one per stage, cheapest first, on a calibration set; or their files.
        policy: score, combination and temperatures of the other stages.
        stages: names of the stages to calibrate; by default all but the last, or those of them
            that have logits where a learned score is fitted.
        method: `temperature`, or `none` to report the calibration as it is.
        share: share of the samples to fit on; the others are evaluated on, and `select` may choose
            thresholds on them. By default all are fitted on, and the evaluation is cross-fitted.
        seed: seed of the draw of the samples to fit on.
        learn_score: also fit a learned score (see `fit_heads`), with the same samples.
        choose_norms: also choose the norm of each deferring stage for the score `max_logit_pnorm`
            (see `fit_norm`), with the same samples.
        cost: unit of the cost to compare cascades by, or UNIT=FILE.

    Raises:
        UsageError: an unknown stage or method, a share out of range, both kinds of scores, or one
            of them with `most_confident`.
        CascadeError: records of different samples, or without logits, labels or the unit; or norms
            for two classes.

    Examples:
        >>> labels = torch.arange(300) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(300, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k)
        ...     for k, name in ((3, "small"), (9, "large"))
        ... )
        >>> list(calibrate([small, large], share=0.5).fitted)
        ['small']
    """
    check_name(method, METHODS, "method")
    loaded, unit = priced(load_records(records), cost)
    names, first = [record.name for record in loaded], loaded[0]
    deferring = [one.name for one in loaded[:-1] if one.logits is not None or not learn_score]
    chosen = [check_name(name, names, "stages") for name in stages or deferring]
    rule = policy_for(loaded, policy, undecided=True)
    if not learn_score and all(one.logits is None and one.knows_answers for one in loaded[:-1]):
        raise CascadeError(
            f"record {names[0]!r} holds predictions and no logits, which a temperature needs. A "
            "learned score is fitted to predictions too: --learn_score."
        )
    check_fitted_score(rule.combine, learn_score=learn_score, choose_norms=choose_norms)
    plan = CalibrationPlan.of(len(first), share, seed)
    fitted = {
        record.name: calibrate_record(record, method, plan)
        for record in loaded
        if record.name in chosen
    }
    comparison = None
    if method != "none" and chosen:
        comparison = compare_cascades(loaded, rule, fitted, plan, method, unit)
    old, samples = rule.evidence, fitted_on(loaded, plan.fitted)
    evidence: dict[str, Any] = {"calibration": _verdict(method, plan, comparison)}
    evidence |= chosen_stages(old)
    kept = zip(names, rule.temperatures, strict=True)
    if "temperatures" in old and any(t != 1 and name not in fitted for name, t in kept):
        evidence["earlier temperatures"] = old["temperatures"]
    if method == "temperature" and chosen:
        fits = {name: stage.summary() for name, stage in fitted.items()}
        evidence["temperatures"] = samples | {"fits": fits}
    new = {name: stage.temperature for name, stage in fitted.items()}
    calibrated = replace(
        with_temperatures(rule, names, new), floors=(-math.inf,) * (len(names) - 1)
    )
    heads: dict[str, FittedHead] = {}
    norms: dict[str, FittedNorm] = {}
    effect: CalibrationEffect | None = None
    if learn_score or choose_norms:
        if learn_score:
            heads, part, score = fit_heads(loaded, calibrated, plan.fitted), "heads", LEARNED
        else:
            norms, part, score = fit_norms(loaded, plan.fitted), "norms", MAX_LOGIT_PNORM
        calibrated = _fitted_score(calibrated, heads, norms)
        fits = {name: one.summary() for name, one in (heads or norms).items()}
        evidence[part] = samples | {"fits": fits}
        effect = _gain_of_fitting(loaded, rule, plan, unit, score.name)
        if effect is not None:
            evidence[part]["held_out"] = _verdict(score.name, plan, effect)
    else:
        evidence |= {part: old[part] for part in ("heads", "norms") if part in old}
    return Calibration(
        records=loaded,
        fitted=fitted,
        plan=plan,
        method=method,
        comparison=comparison,
        unit=unit,
        policy=replace(calibrated, evidence=evidence),
        heads=heads,
        norms=norms,
        learned=effect,
        notes=tuple(head_notes(heads)),
    )


def with_temperatures(
    rule: Policy, names: Sequence[str], temperatures: Mapping[str, float]
) -> Policy:
    """Return a policy with other temperatures for some stages."""
    kept = dict(zip(names, rule.temperatures, strict=True))
    return replace(rule, temperatures=tuple((kept | dict(temperatures)).values()))


def compare_cascades(
    records: Sequence[Record],
    rule: Policy,
    fitted: Mapping[str, StageCalibration],
    plan: CalibrationPlan,
    method: Method,
    unit: str = "flops",
) -> CalibrationEffect:
    """Compare a cascade with and without the calibration of some of its stages.

    Args:
        records: one per stage, cheapest first.
        rule: score, combination and temperatures of the other stages; its thresholds and floors
            are not used.
        fitted: calibrations by stage name.
        plan: plan that they were fitted by.
        method: method that they were fitted with.
        unit: unit of the cost.

    Raises:
        UsageError: as for `outcomes_of`.
        CascadeError: as for `outcomes_of`.
    """
    check_alike(records)
    names = [record.name for record in records]
    plain = with_temperatures(replace(rule, floors=()), names, dict.fromkeys(fitted, 1.0))
    folds = range(len(plan.folds))
    scaled = [
        with_temperatures(plain, names, {name: stage.folds[k] for name, stage in fitted.items()})
        for k in folds
    ]
    without = _by_folds(records, [plain for _ in folds], plan, unit)
    calibrated = _by_folds(records, scaled, plan, unit)
    return CalibrationEffect(
        method=method,
        before=without.curve(),
        after=calibrated.curve(),
        difference=paired_difference(without, calibrated),
        same_order=method == "temperature"
        and len(records) == len(records[0].classes) == 2
        and rule.combine == "later",
    )


def check_fitted_score(combine: str, *, learn_score: bool, choose_norms: bool) -> None:
    """Check that a calibration can fit the score that it is asked for.

    Raises:
        UsageError: it cannot.
    """
    if learn_score and choose_norms:
        raise UsageError(
            "choose_norms: learn_score fits another score, and a policy has one; leave one out."
        )
    if (learn_score or choose_norms) and combine == "most_confident":
        option = "learn_score" if learn_score else "choose_norms"
        raise UsageError(
            f"{option}: policy.combine is most_confident, which compares scores of stages, and "
            "this score differs between them; expected later or average."
        )


def fit_norms(records: Sequence[Record], rows: Tensor | None = None) -> dict[str, FittedNorm]:
    """Choose a norm for each deferring stage, by stage name; see `fit_norm`.

    Args:
        records: one per stage, cheapest first.
        rows: samples to choose on; by default all.

    Raises:
        CascadeError: records without logits or labels, or two classes.
    """
    purpose = f"the score {MAX_LOGIT_PNORM.name}"
    return {one.name: fit_norm(*one.logits_for(purpose), rows) for one in records[:-1]}


def _fitted_score(
    rule: Policy, heads: Mapping[str, FittedHead], norms: Mapping[str, FittedNorm]
) -> Policy:
    """Return a policy with another score: that of the heads, or else that of the norms."""
    return replace(
        rule,
        score=LEARNED.name if heads else MAX_LOGIT_PNORM.name,
        heads=tuple(one.head for one in heads.values()),
        norms=tuple(one.norm for one in norms.values()),
    )


def _gain_of_fitting(
    records: Sequence[Record], rule: Policy, plan: CalibrationPlan, unit: str, score: str
) -> CalibrationEffect | None:
    """Compare a fitted score with the plain score, cross-fitted.

    None where a fold has too few samples for a fit.
    """
    plain = replace(rule, floors=())
    if rule.heads or rule.norms:
        plain = replace(plain, score=policy_for(records).score, heads=(), norms=())
    try:
        rules = _fitted_by_folds(records, plain, plan, score)
    except CascadeError:
        return None
    without = _by_folds(records, [plain for _ in rules], plan, unit)
    learned = _by_folds(records, rules, plan, unit)
    return CalibrationEffect(
        method=score,
        before=without.curve(),
        after=learned.curve(),
        difference=paired_difference(without, learned),
        same_order=False,
    )


def _fitted_by_folds(
    records: Sequence[Record], rule: Policy, plan: CalibrationPlan, score: str = LEARNED.name
) -> list[Policy]:
    """Policies with a fitted score, one per fold, each fitted on the other folds."""
    learned = score == LEARNED.name
    return [
        _fitted_score(
            rule,
            fit_heads(records, rule, fitted) if learned else {},
            {} if learned else fit_norms(records, fitted),
        )
        for fitted, _ in plan.folds
    ]


def cross_fitted(
    records: Sequence[Record],
    policy: PolicyLike = None,
    *,
    cost: str = "flops",
    seed: int = 0,
) -> StageOutcomes:
    """Outcomes by learned scores, each sample's by heads that were fitted on other samples.

    For a choice of thresholds, or of a cascade, on the samples that the heads of `fit_heads` are
    fitted on: their own scores there would flatter. A choice on them has no guarantee, for which
    `calibrate` with a share and `select` keep samples apart.

    Args:
        records: one per stage, cheapest first, with logits or predictions, and labels.
        policy: combination of answers and its temperatures.
        cost: unit of the cost.
        seed: seed of the draw of the 5 folds.

    Returns:
        Of all samples, in the order of the folds.

    Raises:
        CascadeError: as for `fit_heads`, for a fold.

    Examples:
        >>> labels = torch.arange(300) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(300, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k)
        ...     for k, name in ((1, "small"), (9, "large"))
        ... )
        >>> len(cross_fitted([small, large]))
        300
    """
    rule = replace(policy_for(records, policy, undecided=True), floors=(), heads=())
    plan = CalibrationPlan.of(len(records[0]), seed=seed)
    rules = _fitted_by_folds(records, rule, plan)
    return _by_folds(records, rules, plan, cost, ranked=False)


def _by_folds(
    records: Sequence[Record],
    rules: Sequence[Policy],
    plan: CalibrationPlan,
    unit: str,
    *,
    ranked: bool = True,
) -> StageOutcomes:
    """Outcomes on the evaluated rows of all folds, each by the fold's rule; scores are ranks."""
    size = max(1, _BLOCK_ELEMENTS // len(records[0].classes or "?"))
    parts = [
        outcomes_of([record.rows(some) for record in records], rule, unit)
        for rule, (_, rows) in zip(rules, plan.folds, strict=True)
        for some in rows.split(size)
    ]
    scores = torch.cat([part.scores for part in parts])
    sizes = [len(rows) for _, rows in plan.folds]
    columns = zip(*((*part.labelled("a comparison"), part.costs) for part in parts), strict=True)
    correct, alone, costs = map(torch.cat, columns)
    if ranked:
        scores = ranked_within(scores, torch.arange(len(scores)).split(sizes))
    return replace(
        parts[0],
        scores=scores, correct=correct, costs=costs, alone=alone, agrees=None, answers=None,
    )  # fmt: skip
