"""Counts, and labels of cost units and metrics, in tables, messages and plots."""

from __future__ import annotations

_MONEY = {
    "usd": "dollars", "eur": "euros", "gbp": "pounds", "chf": "francs", "jpy": "yen",
    "cny": "yuan", "inr": "rupees",
}  # fmt: skip
"""Names of currencies, whose amounts are told per million calls."""
_LABELS = {"flops": "FLOPs", "executed_flops": "executed FLOPs", "latency_s": "seconds", **_MONEY}

_METRICS = {"f1": "F1", "f1_macro": "macro F1", "matthews": "Matthews"}


def counted(n: int, noun: str) -> str:
    """A number of things, in the singular or the plural.

    Examples:
        >>> counted(1, "sample"), counted(1234, "sample"), counted(2, "batch"), counted(0, "epoch")
        ('1 sample', '1,234 samples', '2 batches', '0 epochs')
    """
    ending = "es" if noun.endswith(("ss", "tch", "x")) else "s"
    return f"{n:,} {noun}{'' if n == 1 else ending}"


def be(n: int) -> str:
    """The verb after a number of things.

    Examples:
        >>> be(1), be(2)
        ('is', 'are')
    """
    return "is" if n == 1 else "are"


def unit_label(unit: str) -> str:
    """Label of a unit of cost.

    Examples:
        >>> unit_label("flops"), unit_label("usd"), unit_label("joules")
        ('FLOPs', 'dollars', 'joules')
    """
    return _LABELS.get(unit, unit)


def is_money(unit: str) -> bool:
    """Whether a unit is a currency, whose costs are told per million calls."""
    return unit in _MONEY


def cost_axis(unit: str) -> str:
    """Label of a cost axis.

    Examples:
        >>> cost_axis("latency_s"), cost_axis("usd")
        ('seconds per sample', 'dollars per million calls')
    """
    if is_money(unit):
        return cost_heading(unit)
    note = " (one multiply-add = 2 FLOPs)" if unit.endswith("flops") else ""
    return f"{unit_label(unit)} per sample{note}"


def cost_heading(unit: str) -> str:
    """Unit of the numbers of `cost_figure`.

    Examples:
        >>> cost_heading("flops"), cost_heading("usd")
        ('FLOPs', 'dollars per million calls')
    """
    return f"{unit_label(unit)} per million calls" if unit in _MONEY else unit_label(unit)


def cost_figure(cost: float, unit: str) -> str:
    """A cost per sample, in the unit of `cost_heading`.

    Examples:
        >>> cost_figure(4.1e9, "flops"), cost_figure(0.0015, "usd"), cost_figure(1e-7, "usd")
        ('4.1 G', '1,500', '0.1')
    """
    return total_figure(1e6 * cost, unit) if unit in _MONEY else quantity(cost)


def total_figure(total: float, unit: str) -> str:
    """A sum of costs: of money in full, of other units with three significant digits.

    Examples:
        >>> total_figure(1234567.8, "usd"), total_figure(2.5, "eur"), total_figure(3.1e15, "flops")
        ('1,234,568', '2.5', '3.1 P')
    """
    if unit not in _MONEY:
        return quantity(total)
    return f"{total:,.0f}" if abs(total) >= 99.95 else f"{float(f'{total:.3g}'):g}"


def cost_change(cost: float, ratio: float, unit: str) -> str:
    """A mean cost beside the one that it is a share of, with their unit; for money alone.

    Args:
        cost: mean cost per sample.
        ratio: of that cost to the other.
        unit: of the cost.

    Examples:
        >>> cost_change(0.00033, 0.33, "usd"), cost_change(3e9, 0.5, "flops")
        ('1,000 -> 330 dollars per million calls', '')
    """
    if unit not in _MONEY or ratio <= 0:
        return ""
    return f"{cost_figure(cost / ratio, unit)} -> {cost_figure(cost, unit)} {cost_heading(unit)}"


def fewer(ratio: float, unit: str) -> str:
    """How much less a cost is, from its ratio to a reference.

    Examples:
        >>> fewer(0.25, "flops"), fewer(0.0, "usd")
        ('4.0x fewer FLOPs', 'no dollars at all')
    """
    what = unit_label(unit)
    return f"{1 / ratio:.1f}x fewer {what}" if ratio > 0 else f"no {what} at all"


def metric_label(metric: str) -> str:
    """Label of a metric.

    Examples:
        >>> metric_label("accuracy"), metric_label("f1_macro")
        ('accuracy', 'macro F1')
    """
    return _METRICS.get(metric, metric)


def metric_axis(metric: str) -> str:
    """Label of a metric's axis.

    Examples:
        >>> metric_axis("f1"), metric_axis("matthews")
        ('F1 (%)', 'Matthews correlation (x 100)')
    """
    if metric == "matthews":  # a correlation, not a share
        return "Matthews correlation (x 100)"
    return f"{metric_label(metric)} (%)"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    Examples:
        >>> percent(0.124)
        '12.4 %'
    """
    return f"{100 * share:.{digits}f} %"


def metric_figure(metric: str, value: float) -> str:
    """The value of a metric to two digits: Matthews' correlation times 100, others in percent.

    Examples:
        >>> metric_figure("f1", 0.9), metric_figure("matthews", 0.543)
        ('90.00 %', '54.30')
    """
    return f"{100 * value:.2f}" if metric == "matthews" else percent(value, 2)


def quantity(value: float) -> str:
    """A count with three significant digits and an SI prefix.

    Examples:
        >>> [quantity(value) for value in (950, 18_944, 4.1e9)]
        ['950', '18.9 k', '4.1 G']
    """
    prefixes = ("", " k", " M", " G", " T", " P")
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value /= 1000
        power += 1
    return f"{float(f'{value:.3g}'):g}{prefixes[power]}"


def times(ratio: float) -> str:
    """A cost relative to a reference, from their ratio.

    Examples:
        >>> times(0.25), times(1.25)
        ('4.0x less', '1.2x more')
    """
    if ratio <= 0:
        return "infinitely less"
    return f"{1 / ratio:.1f}x less" if ratio < 1 else f"{ratio:.1f}x more"
