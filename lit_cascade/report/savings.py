"""The saving of a month, in a sentence and for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lit_cascade.analysis import MonthlySaving
from lit_cascade.core.guarantee import Promise
from lit_cascade.utilities.units import counted, total_figure, unit_label


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


def saving_summary(saving: MonthlySaving | None) -> dict[str, Any]:
    """The saving under the key `per_month`; nothing without one."""
    return {} if saving is None else {"per_month": asdict(saving) | {"saved": saving.saved}}
