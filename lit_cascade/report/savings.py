"""The saving of a month, in a sentence and for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from lit_cascade.analysis import KnownCost, MonthlySaving
from lit_cascade.core.guarantee import Promise
from lit_cascade.utilities.units import (
    cost_figure,
    cost_heading,
    counted,
    fewer,
    times,
    total_figure,
    unit_label,
)


def saving_line(saving: MonthlySaving, seen: str, promise: Promise | None = None) -> str:
    """The saving of a month beside what is promised, which is not the saving.

    Args:
        saving: the estimate.
        seen: what the samples of the estimate are, such as `the samples it was chosen on`.
        promise: of the policy, if it has one.
    """
    last, cascade, saved, low, high = (
        total_figure(value, saving.unit)
        for value in (saving.last, saving.cascade, abs(saving.saved), *sorted(saving.interval))
    )
    saves = "saves" if saving.saved >= 0 else "costs more, by"
    text = (
        f"At {saving.calls:,.0f} calls a month: {last} -> {cascade} {unit_label(saving.unit)}, "
        f"which {saves} {saved} a month (95 % interval of the saving: {low} to {high}), an "
        f"estimate from {counted(saving.n, 'sample')} ({seen}). "
    )
    if promise is None or promise.confidence is None:
        return text + "Nothing is promised here; select promises."
    sure = f"{100 * promise.confidence:.3g} % confidence"
    but = "" if promise.of_cost else ", and not the saving"
    return text + f"Promised, with {sure}, is: {promise.text(saving.unit)}{but}."


def known_cost_lines(known: KnownCost | None) -> list[str]:
    """The cost of a cascade that ran, in a sentence; none where it is unknown."""
    if known is None:
        return []
    last, cost = (cost_figure(value, known.unit) for value in (known.last, known.cost))
    ratio = known.cost / known.last if known.last else math.inf
    change = fewer(ratio, known.unit) if ratio < 1 else times(ratio)
    chosen = "By the costs that its thresholds were chosen with"
    return [f"{chosen}: {last} -> {cost} {cost_heading(known.unit)}, {change}."]


def known_cost_summary(known: KnownCost | None) -> dict[str, float]:
    """The same cost for JSON, named after its unit; nothing where it is unknown."""
    return {} if known is None else {known.unit: known.cost, f"{known.unit}_alone": known.last}


def saving_summary(saving: MonthlySaving | None) -> dict[str, Any]:
    """The saving under the key `per_month`; nothing without one."""
    return {} if saving is None else {"per_month": asdict(saving) | {"saved": saving.saved}}
