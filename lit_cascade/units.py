"""Units of cost: their names in files, and how a person reads them."""

from __future__ import annotations

__all__ = ["cost_axis", "unit_label"]

_LABELS = {"flops": "FLOPs", "latency_s": "seconds"}


def unit_label(unit: str) -> str:
    """What tables and messages call a unit.

    Example:
        >>> unit_label("flops"), unit_label("usd")
        ('FLOPs', 'usd')
    """
    return _LABELS.get(unit, unit)


def cost_axis(unit: str) -> str:
    """The label of a cost axis.

    Example:
        >>> cost_axis("latency_s")
        'seconds per sample'
    """
    note = " (one multiply-add = 2 FLOPs)" if unit == "flops" else ""
    return f"{unit_label(unit)} per sample{note}"
