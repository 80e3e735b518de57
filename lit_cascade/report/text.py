"""Numbers, notes and tables for the terminal."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from shutil import get_terminal_size
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from lit_cascade.utilities.text import as_cell, in_markdown, json_text, printable, single_line
from lit_cascade.utilities.units import be, cost_figure, cost_heading, counted, quantity


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The content of a CSV file; text is written by `as_cell`.

    Examples:
        >>> csv_text(["stage", "accuracy"], [["small", 0.5]]).splitlines()
        ['stage,accuracy', 'small,0.5']
    """
    buffer = io.StringIO()
    safe = ([as_cell(one) if isinstance(one, str) else one for one in row] for row in rows)
    csv.writer(buffer, lineterminator="\n").writerows([header, *safe])
    return buffer.getvalue()


def columns_csv(columns: Mapping[str, Sequence[Any]]) -> str:
    """The content of a CSV file of columns by name; None is an empty cell."""
    return csv_text(list(columns), zip(*columns.values(), strict=True))


def file_size(size: int) -> str:
    """A number of bytes.

    Examples:
        >>> file_size(4_520), file_size(85)
        ('4.52 kB', '85 B')
    """
    text = quantity(size)
    return f"{text}B" if " " in text else f"{text} B"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: the text above it.
        detail: 0 for a column that decides and is always shown. In a narrow terminal the columns of
            the greatest number are left out first.
        left: whether the cells are aligned to the left.
    """

    heading: str
    detail: int = 0
    left: bool = False


_ARROW = " → "
_INDENT, _GAP = 2, 2
_NARROW = 12
"""Least number of characters of a shortened name."""
_CUTS = (0.5, 0.65, 0.35, 0.8, 0.2)
"""Shares of a shortened name before its ellipsis; the first that keeps names apart is taken."""


class Table:
    """A table whose first column is text and whose others are numbers.

    Args:
        title: the line above the table.
        columns: headings, or columns.
    """

    def __init__(self, title: str, *columns: str | Column) -> None:
        self.title = printable(title)
        self.columns = [Column(one) if isinstance(one, str) else one for one in columns]
        self.rows: list[tuple[str, ...]] = []
        self._sections: set[int] = set()

    def add_row(self, *cells: str) -> None:
        """Add a row, one cell per column; all but the first may have several lines.

        Hidden characters are escaped.
        """
        if len(cells) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} cells, got {len(cells)}.")
        first, *others = cells
        self.rows.append((single_line(first), *map(printable, others)))

    def add_section(self) -> None:
        """Put an empty line between the rows so far and those that follow."""
        self._sections.add(len(self.rows))

    def as_markdown(self) -> str:
        """The table with all its columns, without the title, as Markdown."""
        headings = [column.heading for column in self.columns]
        lines = [headings, ["---"] * len(headings), *self.rows]
        return "\n".join(f"| {' | '.join(map(in_markdown, cells))} |" for cells in lines)

    def fitted(self, width: float = math.inf, *, whole: bool = False) -> tuple[int, list[str]]:
        """Lay the table out for a terminal.

        A table that is too wide has its headings folded, then details left out and names in the
        first column folded at their arrows, then the first column folded at spaces, and last its
        names shortened in the middle. Numbers are never folded or shortened, so that a table may
        still be too wide.

        Args:
            width: characters of a line.
            whole: whether to leave out and shorten nothing.

        Returns:
            The number of lines of the heading, and all lines.
        """
        layout = self._layout(width - _INDENT, whole=whole)
        places = list(layout)
        cut = self._cut(layout[0])
        headings = [_folded(self.columns[k].heading, layout[k]) for k in places]
        height = max(map(len, headings))
        headings = [[""] * (height - len(one)) + one for one in headings]
        lines = self._lines(headings, layout)
        lines.append(" " + "─" * (sum(layout.values()) + _GAP * (len(places) - 1) + 1))
        for number, row in enumerate(self.rows):
            lines += [""] if number and number in self._sections else []
            cells = [row[k].split("\n") for k in places]
            cells[0] = _folded(row[0], layout[0], cut)
            lines += self._lines(cells, layout)
        return height, lines

    def left_out(self, width: float, *, whole: bool) -> list[str]:
        """Headings of the columns that `fitted` leaves out."""
        layout = self._layout(width - _INDENT, whole=whole)
        return [column.heading for k, column in enumerate(self.columns) if k not in layout]

    def _lines(self, cells: Sequence[Sequence[str]], layout: Mapping[int, int]) -> list[str]:
        """Lines of one row, whose cells have several lines each."""
        lines = []
        for parts in zip_longest(*cells, fillvalue=""):
            padded = [
                part + " " * (width - cell_len(part))
                if k == 0 or self.columns[k].left
                else " " * (width - cell_len(part)) + part
                for part, (k, width) in zip(parts, layout.items(), strict=True)
            ]
            lines.append((" " * _INDENT + (" " * _GAP).join(padded)).rstrip())
        return lines

    def _layout(self, room: float, *, whole: bool) -> dict[int, int]:
        """Widths of the columns that are shown, by their place."""
        shortest = math.inf if whole else _NARROW
        cells = [
            max((cell_len(line) for row in self.rows for line in row[k].split("\n")), default=0)
            for k in self._places
        ]
        heads = [[cell_len(w) for w in one.heading.split(" ")] for one in self.columns]
        natural = [max(cells[k], cell_len(self.columns[k].heading)) for k in self._places]
        narrow = [int(max(cells[k], min(max(heads[k]), shortest))) for k in self._places]
        first = [row[0] for row in self.rows]
        pieces = max((cell_len(p) for text in first for p in _pieces(text)), default=0)
        words = max(
            (cell_len(w) for text in first for p in _pieces(text) for w in _words(p, 0)), default=0
        )
        head = int(min(max(heads[0]), shortest))
        choices = [self._places] if whole else self._choices()
        for least, some in (
            *((width, some) for some in choices for width in (narrow[0], max(pieces, head))),
            (max(words, head), choices[-1]),
            (int(max(min(words, shortest), head)), choices[-1]),
        ):
            layout = {k: narrow[k] for k in some} | {0: least}
            spare = room - sum(layout.values()) - _GAP * (len(layout) - 1)
            if spare >= 0:
                break
        for k in layout:
            more = int(max(0, min(natural[k] - layout[k], spare)))
            layout[k] += more
            spare -= more
        return layout

    @property
    def _places(self) -> list[int]:
        return list(range(len(self.columns)))

    def _choices(self) -> list[list[int]]:
        """Places of the columns to show: all of them, then with less and less detail."""
        details = sorted({column.detail for column in self.columns}, reverse=True)
        return [[k for k in self._places if self.columns[k].detail <= most] for most in details]

    def _cut(self, width: int) -> float | None:
        """The share before the ellipsis with which different names stay different, if any."""
        names = {w for row in self.rows for p in _pieces(row[0]) for w in _words(p, width)}
        for cut in _CUTS:
            if len({_shortened(name, width, cut) for name in names}) == len(names):
                return cut
        return None


def _pieces(text: str) -> list[str]:
    """The names of a cascade, each but the last with the arrow behind it."""
    *before, last = text.split(_ARROW)
    return [*(name + _ARROW.rstrip() for name in before), last]


def _folded(text: str, width: int, cut: float | None = _CUTS[0]) -> list[str]:
    """Text in lines of at most some characters: folded at arrows, then at spaces, then shortened.

    Without a place to cut, longer words are broken instead.

    Examples:
        >>> _folded("resnet8 → resnet14", 12), _folded("efficientnet_lite0.ra_in1k", 12)
        (['resnet8 →', 'resnet14'], ['effici…_in1k'])
    """
    lines: list[str] = []
    for piece in _pieces(text):
        for word in _words(piece, width):
            parts = _broken(word, width) if cut is None else [_shortened(word, width, cut)]
            fits = lines and cell_len(f"{lines[-1]} {parts[0]}") <= width
            if fits and len(parts) == 1:
                lines[-1] += f" {parts.pop(0)}"
            lines += parts
    return lines


def _words(piece: str, width: float) -> list[str]:
    """The words of a piece that is too wide; an arrow stays behind its name."""
    if cell_len(piece) <= width:
        return [piece]
    words = piece.removesuffix(_ARROW.rstrip()).split(" ")
    return [*words[:-1], words[-1] + piece[len(" ".join(words)) :]]


def _broken(text: str, width: int) -> list[str]:
    """A long name in several lines, broken behind its punctuation where there is some."""
    lines = [""]
    for part in re.findall(r".*?(?:[._/-]+(?: →)?|$)", text):
        if cell_len(lines[-1] + part) <= width:
            lines[-1] += part
        else:
            lines += [part[k : k + width] for k in range(0, len(part), width)]
    return [line for line in lines if line] or [""]


def _shortened(text: str, width: int, cut: float) -> str:
    if cell_len(text) <= width:
        return text
    before = round(cut * (width - 1))
    return f"{text[:before]}…{text[len(text) - (width - 1 - before) :]}"


@dataclass
class _Terminal:
    """What a command may print, and how."""

    wide: bool = False
    quiet: bool = False
    json: bool = False


_terminal = _Terminal()
_PIPED = 150
"""Characters of a line where the output is no terminal."""


@contextmanager
def printing(*, wide: bool = False, quiet: bool = False, json: bool = False) -> Iterator[None]:
    """Set, for a `with` block, what `show`, `inform` and `show_summary` print.

    Args:
        wide: show all columns of tables, however wide the terminal is.
        quiet: print nothing, except a summary that is asked for.
        json: print summaries, and neither tables nor sentences.
    """
    before = asdict(_terminal)
    vars(_terminal).update(wide=wide, quiet=quiet, json=json)
    try:
        yield
    finally:
        vars(_terminal).update(before)


def show(*parts: Table | str) -> None:
    """Print tables and sentences to stdout; progress and logs go to stderr.

    In a terminal sentences are folded at spaces. Tables are fitted to its width, or to COLUMNS, and
    a line tells which columns are left out; where the output is no terminal, none are.
    """
    if _terminal.quiet or _terminal.json:
        return
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    whole, width, one_line = _terminal.wide, math.inf, not sys.stdout.isatty()
    if not whole:
        known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
        whole, width = not known, get_terminal_size().columns if known else _PIPED
    gone: list[str] = []
    for number, part in enumerate(parts):
        if isinstance(part, Table):
            console.print(Text(f"{part.title}\n", style="bold"), soft_wrap=one_line)
            height, lines = part.fitted(width, whole=whole)
            gone += part.left_out(width, whole=whole)
            for place, line in enumerate(lines):
                style = "bold" if place < height else ""
                console.print(Text(line, style=style), soft_wrap=True, crop=False)
            console.print()
        else:
            console.print(printable(part), soft_wrap=one_line)
        if gone and not any(isinstance(one, Table) for one in parts[number + 1 :]):
            names = ", ".join(dict.fromkeys(gone))
            console.print(f"More columns with --wide: {names}.", soft_wrap=one_line)
            gone = []


def inform(text: str) -> None:
    """Print a line to stderr, on what a command does."""
    if not _terminal.quiet:
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()


def show_summary(content: Any) -> None:
    """Print the summary of a command to stdout as JSON, if it is asked for."""
    if _terminal.json:
        sys.stdout.write(json_text(content))


def cost_columns(unit: str) -> list[str | Column]:
    """Columns of a cost; FLOPs are also shown as MACs, which many papers call FLOPs."""
    return ["FLOPs", Column("MACs", detail=1)] if unit == "flops" else [cost_heading(unit)]


def cost_cells(cost: float, unit: str) -> list[str]:
    """A cost under its headings."""
    cells = [cost_figure(cost, unit)]
    return [*cells, quantity(cost / 2)] if unit == "flops" else cells


_SHOWN = 3


def data_title(data: Mapping[str, Any]) -> str:
    """Name and split of the data of a record."""
    split = data.get("split")
    return (data.get("name") or "records") + (f", split {split!r}" if split else "")


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """Notes on samples that were left out, converted, or not read.

    Args:
        data: the description of the data in a record.

    Examples:
        >>> data_notes({"left_out": [["a.jpg", "a.jpg: not an image"]], "remarks": {"blurred": 2}})
        ['Note: 1 sample is left out: a.jpg: not an image.', 'Note: 2 samples: blurred.']
    """
    notes = []
    if data.get("limited_to"):
        notes.append(f"Note: only {data['limited_to']} of the split were read.")
    gone = Counter(single_line(str(reason)) for _, reason in data.get("left_out", []))
    if gone:
        n = gone.total()
        reasons = [
            reason if times == 1 else f"{reason} ({times:,})"
            for reason, times in gone.most_common(_SHOWN)
        ]
        more = f"; and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        notes.append(f"Note: {counted(n, 'sample')} {be(n)} left out: {'; '.join(reasons)}{more}.")
    notes += [
        f"Note: {counted(n, 'sample')}: {text}." for text, n in data.get("remarks", {}).items()
    ]
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
        f"Note: {n} of the {counted(len(models), 'model')} "
        f"{'knows' if n == 1 else 'know'} {width:,} classes and "
        f"{'answers' if n == 1 else 'answer'} among the {answers:,} of the data only."
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
