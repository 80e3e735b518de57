"""Where a command writes: checked before the work, written whole after it, by one process."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_cascade.core import Curve
from lit_cascade.report import print_written
from lit_cascade.utilities.files import main_process, prepare_folder, unused_folder, write_together

__all__ = ["Output", "curve_csv", "folder_of"]

_RUNS = Path("runs")


def folder_of(command: str, out: str | None) -> Path:
    """Where a command writes: the folder given, or a new one under `runs`."""
    return unused_folder(_RUNS, command) if out is None else Path(out)


class Output:
    """The folder of one run.

    Args:
        command: its name, for the folder that is made when none is given.
        out: the folder, or None for a new one under `runs`.
        names: the files that may be written.
        overwrite: whether they may replace older ones.

    Raises:
        UsageError: the folder cannot be written to, or holds results already.
    """

    def __init__(self, command: str, out: str | None, names: list[str], *, overwrite: bool) -> None:
        self._command = command if out is None else None
        self.folder = folder_of(command, out)
        self._announced = names
        self._files: dict[str, bytes] = {}
        self._overwrite = overwrite
        if main_process():
            prepare_folder(self.folder, names, overwrite=overwrite)

    def add(self, name: str, content: bytes | str) -> None:
        """Keep a file for writing."""
        self._files[name] = content.encode() if isinstance(content, str) else content

    def add_json(self, name: str, content: Any) -> None:
        """Keep a JSON file for writing."""
        self.add(name, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def add_yaml(self, name: str, content: Any, comment: str = "") -> None:
        """Keep a YAML file for writing."""
        header = "".join(f"# {line}\n" for line in comment.splitlines())
        self.add(name, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def write(self, beside: Sequence[str] = ()) -> None:
        """Write everything and say so.

        Args:
            beside: files that the work itself has written into the folder.

        Raises:
            UsageError: a file that was not announced is there already, or one cannot be written.
        """
        if self._command is not None and not beside:
            self.folder = unused_folder(_RUNS, self._command)  # another run may have taken it
        prepare_folder(self.folder, list(self._files), overwrite=self._overwrite)
        write_together({self.folder / name: content for name, content in self._files.items()})
        for name in set(self._announced) - {*self._files, *beside}:
            (self.folder / name).unlink(missing_ok=True)  # what an older run said is no longer so
        print_written([str(self.folder / name) for name in (*beside, *self._files)])


def curve_csv(curve: Curve, unit: str = "flops") -> str:
    """The content of `curve.csv`: one row per distinct threshold.

    Columns: `threshold, deferral_rate, accuracy, flops, flops_ratio`, the last two named after
    the unit of the cost; the ratio is to the last stage alone. After `accuracy` comes the curve's
    other metric by its name, if it has one. The first row (threshold -inf) is the first stage
    alone, the last (inf) has every sample deferred to the last stage.
    """
    columns = {
        "threshold": curve.thresholds,
        "deferral_rate": curve.deferral_rate,
        "accuracy": curve.accuracy,
    }
    if curve.metric is not None:
        columns[curve.metric] = curve.judged_by(curve.metric)[0]
    columns |= {unit: curve.cost, f"{unit}_ratio": curve.cost / curve.stage_cost[-1]}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return buffer.getvalue()
