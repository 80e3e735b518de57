"""Numbers as a person reads them."""

from __future__ import annotations

import math
import struct

__all__ = [
    "file_size",
    "json_number",
    "metric_figure",
    "percent",
    "quantity",
    "readable_threshold",
    "times",
]


def json_number(value: float) -> float | str:
    """A number that JSON can hold: infinite thresholds become "inf" and "-inf".

    Example:
        >>> json_number(0.5), json_number(float("-inf"))
        (0.5, '-inf')
    """
    return value if math.isfinite(value) else str(value)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.124)
        '12.4 %'
    """
    return f"{100 * share:.{digits}f} %"


def metric_figure(metric: str, value: float) -> str:
    """How good something is, to two digits: a Matthews correlation times 100, others in percent.

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


def file_size(size: int) -> str:
    """A number of bytes.

    Example:
        >>> file_size(4_520), file_size(85)
        ('4.52 kB', '85 B')
    """
    text = quantity(size)
    return f"{text}B" if " " in text else f"{text} B"


def times(ratio: float) -> str:
    """How many times less a cost is, from its ratio to the reference.

    Example:
        >>> times(0.25), times(1.25)
        ('4.0x less', '1.2x more')
    """
    if ratio <= 0:
        return "all"
    return f"{1 / ratio:.1f}x less" if ratio < 1 else f"{ratio:.1f}x more"


def _single(value: float) -> float:
    """The value as single precision holds it, the precision of scores."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def readable_threshold(threshold: float, below: float) -> str:
    """The shortest decimal that defers the same samples as `threshold`.

    Any threshold above the next smaller score and up to `threshold` does, so a person can type
    this one and get the same cascade.

    Args:
        threshold: a score.
        below: the next smaller score, or -inf.

    Example:
        >>> readable_threshold(0.87312, below=0.86901)
        '0.87'
    """
    if not math.isfinite(threshold):
        return {math.inf: "inf", -math.inf: "-inf"}[threshold]
    for digits in range(1, 10):
        scale = 10.0**digits
        candidate = math.floor(threshold * scale) / scale
        if below < _single(candidate) <= threshold:
            return f"{candidate:.{digits}f}"
    return repr(threshold)
