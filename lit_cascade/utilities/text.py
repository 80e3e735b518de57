"""Text of users and files where it is shown: no control codes, no markup, no formulas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

# control codes, marks that change the direction of writing (https://trojansource.codes), breaks of
# lines and paragraphs, and bytes of file names that are no UTF-8
_HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def printable(text: str) -> str:
    r"""Text with hidden characters escaped, so that a terminal shows them; lines stay lines.

    Examples:
        >>> printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def single_line(text: str) -> str:
    """Printable text with line breaks escaped too."""
    return printable(text).replace("\n", r"\n")


def plain(value: Any) -> Any:
    """A value as JSON holds it: dataclasses as objects, NaN as null, infinities as strings.

    Examples:
        >>> plain({"threshold": float("-inf"), "accuracy": float("nan"), "edges": (0, 1)})
        {'threshold': '-inf', 'accuracy': None, 'edges': [0, 1]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def json_text(content: Any) -> str:
    """The content of a JSON file without hidden characters; see `plain` for what it may hold."""
    text = json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_cell(text: str) -> str:
    """Text for a CSV file that no spreadsheet runs as a formula; numbers stay as they are.

    An apostrophe is put before text that begins with `=`, `+`, `-`, `@`, a tab or a carriage
    return (https://owasp.org/www-community/attacks/CSV_Injection), and before text that begins as
    if that had been done, so that `from_cell` is the inverse.

    Examples:
        >>> as_cell("=1+1"), as_cell("small"), as_cell("-0.5")
        ("'=1+1", 'small', '-0.5')
    """
    return f"'{text}" if _FORMULA.match(text) and not _numbers(text) else text


def from_cell(text: str) -> str:
    """Inverse of `as_cell`."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text


def in_markdown(text: str) -> str:
    r"""Text in a line of Markdown, whose marks are shown.

    Examples:
        >>> print(in_markdown("a*b* <i>"))
        a\*b\* \<i\>
    """
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", single_line(text))


def _numbers(text: str) -> bool:
    """Whether text is a number, or several with semicolons between."""
    try:
        return bool([float(part) for part in text.split(";")])
    except ValueError:
        return False
