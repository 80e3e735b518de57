"""Records that a search chooses on and those that it reports on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core import MAX_LOGIT_PNORM
from lit_cascade.core.search import Progress, Zoo
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.records import ModelCosts, RecordedZoo, RecordLike, find_records
from lit_cascade.utilities.units import be, counted

_CALIBRATION = "calibration"


@dataclass(frozen=True)
class DecisionRule:
    """How the cascades of a search decide.

    Attributes:
        score: a name in `lit_cascade.core.scores.SCORES`, or `agreement` or `max_logit_pnorm`.
        combine: a name in `lit_cascade.core.combination.COMBINATIONS`.
        calibrate: fit a temperature per model on the samples of the choice, as a norm is where the
            score has one.
    """

    score: str = "max_softmax"
    combine: str = "later"
    calibrate: bool = False

    @property
    def fitted(self) -> dict[str, bool]:
        """Whether temperatures and norms are fitted on the samples of the choice."""
        return {"temperatures": self.calibrate, "norms": self.score == MAX_LOGIT_PNORM.name}


@dataclass(frozen=True)
class SearchProtocol:
    """Records to choose on and to report on.

    Attributes:
        chosen_on: records on which temperatures, norms, models and thresholds are chosen.
        reported_on: records of the same models in the same order; None to report on the samples of
            the choice, or to hold out parts of them.
        holdout: share of the samples to hold out without `reported_on`; 0 for none.
        repeats: number of times that this share is drawn.
        seed: seed of the draws.
    """

    chosen_on: RecordedZoo
    reported_on: RecordedZoo | None
    holdout: float = 0.5
    repeats: int = 20
    seed: int = 0

    @property
    def holds_out(self) -> bool:
        """Whether `trials` report on other samples than they choose on."""
        return self.reported_on is not None or self.holdout > 0

    def fits(
        self,
        rule: DecisionRule,
        rows: Tensor | None = None,
        read: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return what a rule fits to each model on the samples of the choice, or on some of them.

        Args:
            rule: how the cascades decide.
            rows: positions of the samples to fit on; by default all.
            read: called after each record.

        Returns:
            A tuple with one number per model under `temperatures` and under `norms`; an empty one
            where nothing is fitted.
        """
        chosen_on = self.chosen_on
        methods = {"temperatures": chosen_on.temperatures, "norms": chosen_on.norms}
        return {
            name: methods[name](rows, read) if wanted else ()
            for name, wanted in rule.fitted.items()
        }

    def zoos(self, rule: DecisionRule, reading: Progress | None = None) -> tuple[Zoo, Zoo]:
        """Return the zoo to choose on and the zoo to report on, which may be the same.

        Args:
            rule: how the cascades decide.
            reading: called with the number of records that are read, and of all.
        """
        chosen_on, reported_on = self.chosen_on, self.reported_on
        passes = 1 + sum(rule.fitted.values()) + (reported_on is not None)
        total = passes * len(chosen_on)
        numbers = itertools.count(1)

        def read() -> None:
            if reading is not None:
                reading(next(numbers), total)

        fits = self.fits(rule, read=read)
        chosen = chosen_on.zoo(rule.score, rule.combine, read=read, **fits)
        if reported_on is None:
            return chosen, chosen
        return chosen, reported_on.zoo(rule.score, rule.combine, read=read, **fits)

    def trials(
        self, rule: DecisionRule, zoos: tuple[Zoo, Zoo] | None = None
    ) -> Iterator[tuple[Zoo, Zoo]]:
        """Yield pairs of a zoo to choose on and a zoo to report on.

        Args:
            rule: how the cascades decide.
            zoos: `self.zoos(rule)`, if it is known.
        """
        chosen, reported = zoos or self.zoos(rule)
        if self.reported_on is not None or self.holdout == 0:
            yield chosen, reported
            return
        generator = torch.Generator().manual_seed(self.seed)
        held_out = min(max(1, round(self.holdout * chosen.n)), chosen.n - 1)
        for _ in range(self.repeats):
            order = torch.randperm(chosen.n, generator=generator)
            rows, others = order[held_out:].sort().values, order[:held_out].sort().values
            whole = chosen
            if any(rule.fitted.values()):
                whole = self.chosen_on.zoo(rule.score, rule.combine, **self.fits(rule, rows))
            yield whole.rows(rows), whole.rows(others)


def protocol_of(
    records: Sequence[RecordLike],
    unit: str = "flops",
    split: str | None = None,
    choose_on: str | None = None,
    *,
    allow_overlap: bool = False,
    costs: ModelCosts | None = None,
    **options: Any,
) -> SearchProtocol:
    """Read records and decide which splits to choose and to report on.

    Records of one split serve for both. Of a split `calibration` and one other, the former is
    chosen on and the latter reported on.

    Args:
        records: records, their files, or folders of them.
        unit: unit of the cost.
        split: the split to report on.
        choose_on: the split to choose on.
        allow_overlap: allow samples in common.
        costs: costs measured apart from the records; by default those of the records.
        options: `holdout`, `repeats` and `seed`.

    Raises:
        UsageError: a split is missing, or there are too many to decide.
        CascadeError: the records do not belong together, or samples are in both splits.
    """
    splits = find_records(records)
    for name, argument in ((split, "split"), (choose_on, "choose_on")):
        if name is not None:
            check_name(name, splits, argument)
    if split is None:
        others = [name for name in splits if name not in {_CALIBRATION, choose_on}]
        if len(others) > 1:
            raise UsageError(
                f"split: the records are of the splits {', '.join(splits)}; "
                "choose one to report on."
            )
        split = next(iter([*others, *(name for name in splits if name != choose_on), *splits]))
    if choose_on is None:
        choose_on = _CALIBRATION if _CALIBRATION in splits else split
    chosen = RecordedZoo(splits[choose_on], unit, costs)
    if choose_on == split:
        return SearchProtocol(chosen, None, **options)
    reported = RecordedZoo(splits[split], unit, costs)
    reported.reorder(chosen.names)
    names = f"{chosen.data.get('split')!r} and {reported.data.get('split')!r}"
    one, other = chosen.samples, reported.samples
    if one.classes != other.classes:
        raise CascadeError(f"records of the splits {names} have different classes.")
    source = chosen.data.get("source")
    apart = allow_overlap or source is None or source != reported.data.get("source")
    shared = set() if apart else set(one.ids) & set(other.ids)
    if shared:
        raise CascadeError(
            f"{counted(len(shared), 'sample')} {be(len(shared))} in both splits, "
            f"{names} (first id {min(shared)!r}), but "
            "reported samples must differ from those of the choice. Use other splits, or add "
            "--allow_overlap."
        )
    return SearchProtocol(chosen, reported, **options)
