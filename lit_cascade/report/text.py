"""Numbers, notes and tables for the terminal."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from lit_cascade.utilities.units import unit_label


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The content of a CSV file.

    Example:
        >>> csv_text(["stage", "accuracy"], [["small", 0.5]]).splitlines()
        ['stage,accuracy', 'small,0.5']
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def plain(value: Any) -> Any:
    """A value as JSON holds it: dataclasses as objects, NaN as null, infinities as strings.

    Example:
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


def file_size(size: int) -> str:
    """A number of bytes.

    Example:
        >>> file_size(4_520), file_size(85)
        ('4.52 kB', '85 B')
    """
    text = quantity(size)
    return f"{text}B" if " " in text else f"{text} B"


def times(ratio: float) -> str:
    """A cost relative to a reference, from their ratio.

    Example:
        >>> times(0.25), times(1.25)
        ('4.0x less', '1.2x more')
    """
    if ratio <= 0:
        return "all"
    return f"{1 / ratio:.1f}x less" if ratio < 1 else f"{ratio:.1f}x more"


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
        if below < float(np.float32(candidate)) <= threshold:  # the precision of scores
            return f"{candidate:.{digits}f}"
    return repr(threshold)


def show(*parts: Table | str) -> None:
    """Print tables and sentences to stdout; progress and logs go to stderr.

    Sentences are folded by the terminal alone. Where the output is no terminal its width is
    unknown, and tables are up to 150 characters wide.
    """
    width = None if sys.stdout.isatty() else 150
    console = Console(file=sys.stdout, width=width, highlight=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def new_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table


def cost_columns(unit: str) -> list[str]:
    """Headings of a cost; FLOPs are also shown as MACs, which many papers call FLOPs."""
    return ["FLOPs", "MACs"] if unit == "flops" else [unit_label(unit)]


def cost_cells(cost: float, unit: str) -> list[str]:
    """A cost under its headings."""
    return [quantity(cost), quantity(cost / 2)] if unit == "flops" else [quantity(cost)]


_SHOWN = 3


def data_title(data: Mapping[str, Any]) -> str:
    """Name and split of the data of a record."""
    split = data.get("split")
    return (data.get("name") or "records") + (f", split {split!r}" if split else "")


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """Notes on samples that were left out, converted, or not read.

    Args:
        data: the description of the data in a record.

    Example:
        >>> data_notes({"left_out": [["a.jpg", "a.jpg: not an image"]], "remarks": {"blurred": 2}})
        ['Note: 1 sample is left out: a.jpg: not an image.', 'Note: 2 samples: blurred.']
    """
    notes = []
    if data.get("limited_to"):
        notes.append(f"Note: only {data['limited_to']} of the split were read.")
    gone = Counter(str(reason) for _, reason in data.get("left_out", []))
    if gone:
        n = gone.total()
        reasons = [
            reason if times == 1 else f"{reason} ({times:,})"
            for reason, times in gone.most_common(_SHOWN)
        ]
        more = f"; and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        notes.append(
            f"Note: {_samples(n)} {'is' if n == 1 else 'are'} left out: {'; '.join(reasons)}{more}."
        )
    notes += [f"Note: {_samples(n)}: {text}." for text, n in data.get("remarks", {}).items()]
    notes += [f"Note: {finding}." for finding in data.get("findings", [])]
    return notes


def model_notes(models: Sequence[tuple[str, Mapping[str, Any], int]]) -> list[str]:
    """Notes on models whose classes are restricted to those of the data.

    Args:
        models: name, settings as in a record, and number of classes after the restriction.
    """
    known = Counter(
        (int(settings["known_classes"]), answers)
        for _, settings, answers in models
        if settings.get("known_classes", answers) != answers
    )
    return [
        f"Note: {n} of the {len(models)} models {'knows' if n == 1 else 'know'} {width:,} classes "
        f"and {'answers' if n == 1 else 'answer'} among the {answers:,} of the data only."
        for (width, answers), n in known.items()
    ]


def fitting_notes(fitting: Mapping[str, int]) -> list[str]:
    """Notes on models whose whole batches did not fit into memory.

    Args:
        fitting: samples per forward pass, by model.
    """
    return [
        f"Note: batches of {name!r} did not fit into memory; it ran {size} at a time, which may "
        "change the last digits."
        for name, size in fitting.items()
    ]


def _samples(n: int) -> str:
    return f"{n:,} sample{'' if n == 1 else 's'}"
