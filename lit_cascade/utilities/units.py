"""Counts, and labels of cost units and metrics, in tables, messages and plots."""

from __future__ import annotations

_LABELS = {"flops": "FLOPs", "executed_flops": "executed FLOPs", "latency_s": "seconds"}

_METRICS = {"f1": "F1", "f1_macro": "macro F1", "matthews": "Matthews"}


def counted(n: int, noun: str) -> str:
    """A number of things, in the singular or the plural.

    Example:
        >>> counted(1, "sample"), counted(1234, "sample"), counted(2, "batch"), counted(0, "epoch")
        ('1 sample', '1,234 samples', '2 batches', '0 epochs')
    """
    ending = "es" if noun.endswith(("ss", "tch", "x")) else "s"
    return f"{n:,} {noun}{'' if n == 1 else ending}"


def be(n: int) -> str:
    """The verb after a number of things.

    Example:
        >>> be(1), be(2)
        ('is', 'are')
    """
    return "is" if n == 1 else "are"


def unit_label(unit: str) -> str:
    """Label of a unit of cost.

    Example:
        >>> unit_label("flops"), unit_label("usd")
        ('FLOPs', 'usd')
    """
    return _LABELS.get(unit, unit)


def cost_axis(unit: str) -> str:
    """Label of a cost axis.

    Example:
        >>> cost_axis("latency_s")
        'seconds per sample'
    """
    note = " (one multiply-add = 2 FLOPs)" if unit.endswith("flops") else ""
    return f"{unit_label(unit)} per sample{note}"


def metric_label(metric: str) -> str:
    """Label of a metric.

    Example:
        >>> metric_label("accuracy"), metric_label("f1_macro")
        ('accuracy', 'macro F1')
    """
    return _METRICS.get(metric, metric)


def metric_axis(metric: str) -> str:
    """Label of a metric's axis.

    Example:
        >>> metric_axis("f1"), metric_axis("matthews")
        ('F1 (%)', 'Matthews correlation (x 100)')
    """
    if metric == "matthews":  # a correlation, not a share
        return "Matthews correlation (x 100)"
    return f"{metric_label(metric)} (%)"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.124)
        '12.4 %'
    """
    return f"{100 * share:.{digits}f} %"


def metric_figure(metric: str, value: float) -> str:
    """The value of a metric to two digits: Matthews' correlation times 100, others in percent.

    Example:
        >>> metric_figure("f1", 0.9), metric_figure("matthews", 0.543)
        ('90.00 %', '54.30')
    """
    return f"{100 * value:.2f}" if metric == "matthews" else percent(value, 2)


def quantity(value: float) -> str:
    """A count with three significant digits and an SI prefix.

    Example:
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

    Example:
        >>> times(0.25), times(1.25)
        ('4.0x less', '1.2x more')
    """
    if ratio <= 0:
        return "all"
    return f"{1 / ratio:.1f}x less" if ratio < 1 else f"{ratio:.1f}x more"
