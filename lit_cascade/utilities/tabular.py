"""Results in a notebook: a repr of a few lines, a DataFrame, a small HTML table."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_cascade.utilities.units import quantity

if TYPE_CHECKING:
    import pandas as pd

_WIDTH = 88
_ROWS = 12
_LONGEST = 40
_MOST = 4


class Tabular:
    """A result that is a table: `to_pandas`, and HTML in a notebook."""

    def columns(self) -> dict[str, Sequence[Any]]:
        """Values by column."""
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """The table as a DataFrame of pandas."""
        import pandas as pd  # noqa: PLC0415 - takes half a second

        return pd.DataFrame(self.columns())

    def _repr_html_(self) -> str:
        return html_of(repr(self), self.to_pandas())


def html_of(title: str, table: pd.DataFrame) -> str:
    """A title above a table of at most a dozen rows, as HTML; both are escaped."""
    shown = table.map(lambda cell: _joined(cell) if isinstance(cell, tuple) else cell)
    body = shown.to_html(index=False, border=0, max_rows=_ROWS, na_rep="", float_format=_short)
    return f"<div><p>{html.escape(' '.join(title.split()))}</p>{body}</div>"


def _joined(cell: tuple[Any, ...]) -> str:
    return ", ".join(_short(part) if isinstance(part, float) else str(part) for part in cell)


def _short(value: float) -> str:
    return quantity(value) if 1e5 <= abs(value) < float("inf") else f"{value:.4g}"


def described(kind: str, *parts: str) -> str:
    """A repr that names the kind of an object and describes it; folded between parts.

    Examples:
        >>> described("Front", "12 points", "accuracy 91.20 % to 99.10 %")
        'Front(12 points, accuracy 91.20 % to 99.10 %)'
    """
    lines = [f"{kind}("]
    for number, part in enumerate(parts):
        text = part + (")" if number == len(parts) - 1 else ",")
        if number and len(lines[-1]) + 1 + len(text) > _WIDTH:
            lines.append(" " * (len(kind) + 1) + text)
        else:
            lines[-1] += f" {text}" if number else text
    return "\n".join(lines)


def listed(names: Sequence[Any], between: str = ", ") -> str:
    """Names in a line; of many only the first and the last, of long ones only the ends.

    Examples:
        >>> listed(["a", "b"], " → "), listed(range(100))
        ('a → b', '0, 1, 2, ..., 99')
    """
    some = [str(name) for name in (names if len(names) <= _MOST else [*names[:3], names[-1]])]
    short = [shortened(name) for name in some]
    return between.join(short if len(names) <= _MOST else [*short[:3], "...", short[3]])


def shortened(text: str) -> str:
    """A text of at most forty characters; of a longer one the ends.

    Examples:
        >>> shortened("resnet8"), shortened("a" * 30 + "b" * 30)
        ('resnet8', 'aaaaaaaaaaaaaaaaaa...bbbbbbbbbbbbbbbbbb')
    """
    return text if len(text) <= _LONGEST else f"{text[:18]}...{text[-18:]}"


def spanned(low: str, high: str) -> str:
    """A range of two figures as text; one figure where both read the same.

    Examples:
        >>> spanned("1.2 k", "3 M"), spanned("3 M", "3 M")
        ('1.2 k to 3 M', '3 M')
    """
    return low if low == high else f"{low} to {high}"
