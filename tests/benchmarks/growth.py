"""Time and memory of the commands over records, as samples, classes, models and stages grow.

python -m tests.benchmarks.growth [--axes samples classes models] [--samples 10000 50000 ...]
    [--classes 10 1000 21841] [--models 4 15 60] [--commands validate ...] [--repeats 1]
    [--before TREE] [--skip_before 1280000x1000] [--folder FOLDER] [--out FILE.json]

Each run is a process of its own, on synthetic records with logits in float16 (`import` reads
float32) that are written for one size and removed before the next: 1.28 million samples of 1,000
classes take 11 GB of disk. With --before the same runs are made with another checkout, in turn.

Memory is the peak less that of the same command on 1,000 samples of 10 classes, over the size of
the records in float32. The exponent is the slope of log(time) on log(size), where the time is the
processor's less that on those 1,000 samples: 1 is linear.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from lit_cascade import Record
from lit_cascade.report.text import Table, show
from lit_cascade.utilities.units import quantity
from tests.benchmarks.commands import run, write_records
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

SMALLEST = (1000, 10)
STRENGTHS = (6.0, 9.0, 11.0)
FITTED = 0.5
"""Least time in seconds, less that of the smallest records, that an exponent is fitted to."""

Words = Callable[[list[str], Path], list[str]]


def _words(name: str, stages: int = 2, *options: str) -> Words:
    return lambda records, _: [name, "--records", *records[:stages], *options]


def _check(records: list[str], folder: Path) -> list[str]:
    policy = folder / "policy" / "policy.yaml"
    if not policy.exists():
        classes = len(Record.load(records[0]).classes)
        others = write_records(folder / "others", STRENGTHS[:2], 4000, classes, seed=1)
        words = ["select", "--max_accuracy_drop", "0.05", "--out", str(policy.parent), "--quiet"]
        run([*words, "--records", *map(str, others)])
    return ["check", "--policy", str(policy), "--records", *records[:2]]


def _import(records: list[str], folder: Path) -> list[str]:
    array = folder / "logits.npy"
    if not array.exists():
        record = Record.load(records[0])
        assert record.logits is not None
        assert record.labels is not None
        n, classes = record.logits.shape
        content = np.lib.format.open_memmap(array, mode="w+", dtype=np.float32, shape=(n, classes))
        for start in range(0, n, 10_000):
            content[start : start + 10_000] = record.logits[start : start + 10_000].numpy()
        np.save(folder / "labels.npy", record.labels.numpy())
    return [
        "import", "--name", "net", "--logits", str(array), "--flops", "1e9",
        "--labels", str(folder / "labels.npy"),
    ]  # fmt: skip


COMMANDS: dict[str, Words] = {
    "validate": _words("validate"),
    "validate, 3 stages": _words("validate", 3),
    "select": _words("select", 2, "--max_accuracy_drop", "0.05"),
    "select, 3 stages": _words("select", 3, "--max_accuracy_drop", "0.05"),
    "select, refused": _words("select", 2, "--max_accuracy_drop", "0.0001"),
    "check": _check,
    "calibrate": _words("calibrate"),
    "compare-scores": _words("compare-scores"),
    "import": _import,
    "search": _words("search", 10**9, "--split", "test"),
    "search, 3 stages": _words("search", 10**9, "--split", "test", "--stages", "3"),
}
REFUSED = {"select, refused"}
OF_ZOOS = {"search", "search, 3 stages"}


class Place:
    """Records of one size in a folder, removed at the end.

    Args:
        parent: where the folder is made.
        samples: N.
        classes: C.
        models: number of records.
    """

    def __init__(self, parent: Path, samples: int, classes: int, models: int) -> None:
        self.samples, self.classes, self.models = samples, classes, models
        self.folder = Path(tempfile.mkdtemp(dir=parent, prefix="growth-"))
        strengths = STRENGTHS[:models] if models <= len(STRENGTHS) else np.linspace(3, 12, models)
        self.records = list(
            map(str, write_records(self.folder, [*map(float, strengths)], samples, classes))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def size_mib(self, command: str) -> float:
        """Size of the records that a command reads, in float32."""
        read = 1 if command == "import" else self.models if command in OF_ZOOS else 2
        read = 3 if command.endswith("3 stages") and command not in OF_ZOOS else read
        return read * self.samples * self.classes * 4 / 2**20

    def measure(self, command: str, tree: Path | None, repeats: int) -> dict[str, float]:
        """Medians of the figures of a command, run with some checkout."""
        words = COMMANDS[command](self.records, self.folder)
        runs = []
        for _ in range(repeats):
            out = self.folder / "out"
            accepted = (0, 1) if command in REFUSED | {"check"} else (0,)
            runs.append(run([*words, "--out", str(out), "--quiet"], None, accepted, tree))
            shutil.rmtree(out, ignore_errors=True)
        figures = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        return figures | {"cpu_s": figures["user_s"] + figures["system_s"]}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log(seconds) on log(size) over the sizes that take long enough; NaN of fewer than 2.

    Examples:
        >>> round(exponent([1, 2, 4], [1, 4, 16]), 6)
        2.0
    """
    pairs = [(a, b) for a, b in zip(sizes, seconds, strict=True) if b >= FITTED]
    if len({a for a, _ in pairs}) < 2:
        return math.nan
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def sizes_of(args: Any, axis: str) -> list[tuple[int, int, int]]:
    """Samples, classes and models of each place along an axis."""
    if axis == "samples":
        return [(n, 1000, 3) for n in args.samples]
    if axis == "classes":
        return [(args.class_samples, classes, 3) for classes in args.classes]
    return [(args.zoo_samples, 1000, models) for models in args.models]


def measured_along(axis: str, args: Any, trees: dict[str, Path | None]) -> list[dict[str, Any]]:
    """Figures of all commands at all sizes of an axis."""
    rows = []
    smallest = (*SMALLEST, 4 if axis == "models" else 3)
    commands = [name for name in args.commands if (name in OF_ZOOS) == (axis == "models")]
    for samples, classes, models in (smallest, *sizes_of(args, axis)):
        with Place(args.folder, samples, classes, models) as place:
            for command in commands:
                for when, tree in trees.items():
                    if when == "before" and f"{samples}x{classes}" in args.skip_before:
                        continue
                    figures = place.measure(command, tree, args.repeats)
                    row = {
                        "axis": axis, "command": command, "when": when, "samples": samples,
                        "classes": classes, "models": models,
                        "records_mib": place.size_mib(command), **figures,
                    }  # fmt: skip
                    rows.append(row)
                    print(json.dumps({k: row[k] for k in SHOWN}), flush=True)
    return rows


SHOWN = ("command", "when", "samples", "classes", "models", "wall_s", "cpu_s", "peak_mib")


def show_table(axis: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print figures and exponents; return the exponents."""
    sizes = list(dict.fromkeys((r["samples"], r["classes"], r["models"]) for r in rows))
    number = {"samples": 0, "classes": 1, "models": 2}[axis]
    heads = [f"{size[number]:,}" for size in sizes[1:]]
    title = f"by {axis}: seconds, MiB (over the records in float32)"
    table = Table(title, "command", "code", *heads, "exponent")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["command"], row["when"]].append(row)
    fits = []
    for (command, when), (base, *others) in groups.items():
        cells = {(r["samples"], r["classes"], r["models"]): r for r in others}
        slope = exponent(
            [r["samples"] * r["classes"] * r["models"] for r in others],
            [r["cpu_s"] - base["cpu_s"] for r in others],
        )
        shown = []
        for size in sizes[1:]:
            one = cells.get(size)
            over = 0.0 if one is None else (one["peak_mib"] - base["peak_mib"]) / one["records_mib"]
            shown.append(
                "" if one is None
                else f"{one['wall_s']:.1f} s, {quantity(one['peak_mib'])} ({over:.2f})"
            )  # fmt: skip
        table.add_row(command, when, *shown, "" if math.isnan(slope) else f"{slope:.2f}")
        fits.append({"axis": axis, "command": command, "when": when, "exponent": slope})
    show(table)
    return [{**fit, "exponent": None} if math.isnan(fit["exponent"]) else fit for fit in fits]


def main() -> None:
    """Measure along each axis, print tables and write all figures."""
    parser = options_parser(__doc__)
    parser.add_argument("--axes", nargs="+", default=["samples", "classes", "models"])
    sizes = [10_000, 50_000, 250_000, 1_280_000]
    parser.add_argument("--samples", type=int, nargs="+", default=sizes)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 21_841])
    parser.add_argument("--class_samples", type=int, default=50_000)
    parser.add_argument("--models", type=int, nargs="+", default=[4, 15, 60])
    parser.add_argument("--zoo_samples", type=int, default=10_000)
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--skip_before", nargs="*", default=[], help="SAMPLESxCLASSES")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    torch.set_num_threads(max(1, (os.cpu_count() or 1)))
    trees: dict[str, Path | None] = {} if args.before is None else {"before": args.before}
    trees["now"] = None
    rows, fits = [], []
    for axis in args.axes:
        along = measured_along(axis, args, trees)
        fits += show_table(axis, along)
        rows += along
    if args.out:
        hidden = {"out", "folder", "before"}
        settings = {name: value for name, value in vars(args).items() if name not in hidden}
        content = {"machine": machine(), "settings": settings, "exponents": fits, "runs": rows}
        write_results(args.out, content)


if __name__ == "__main__":
    main()
