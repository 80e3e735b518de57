"""What a run on a CPU gains where the C library keeps the memory of a batch for the next one.

python -m tests.benchmarks.memory [--images 60] [--batch_size 30] [--repeats 5] [--out FILE.json]

The same `lit-cascade record` runs with LIT_CASCADE_MALLOC=default and without, in turn, each in a
process of its own. Times and the peak of memory are the kernel's, of the process and its workers;
medians are printed, and ratios of a run to the one before it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from lit_cascade.report.text import Table, show
from lit_cascade.utilities.allocator import SWITCH
from lit_cascade.utilities.units import quantity
from tests.benchmarks import commands
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine
from tests.images import image_folder

MODELS = ("efficientnet_lite0.ra_in1k", "tf_efficientnet_lite2.in1k")


def run(folder: Path, out: Path, args: Any, malloc: str | None) -> dict[str, float]:
    """Figures of one recording."""
    words = [
        "record", "--config", "imagenet_zoo.yaml", "--model.timm.models", json.dumps(args.models),
        "--model.timm.pretrained", "false", "--data.init_args.source", str(folder),
        "--data.init_args.batch_size", str(args.batch_size), "--out", str(out), "--quiet",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != SWITCH}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} | ({SWITCH: malloc} if malloc else {})
    return commands.run(words, environment)


def main() -> None:
    """Run in turn, print medians and write all figures."""
    parser = options_parser(__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    args = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"default": [], "kept": []}
    with tempfile.TemporaryDirectory() as place:
        folder = image_folder(Path(place) / "images", args.images)
        for k in range(args.repeats + 1):  # the first, which fills the disk cache, is not counted
            for name, malloc in (("default", "default"), ("kept", None)):
                out = Path(place) / f"{name}-{k}"  # records that exist would be kept
                runs[name].append(run(folder, out, args, malloc))
    runs = {name: figures[1:] for name, figures in runs.items()}
    medians = {
        name: {key: statistics.median(one[key] for one in figures) for key in commands.FIGURES}
        for name, figures in runs.items()
    }
    ratios = {
        key: statistics.median(
            kept[key] / before[key]
            for before, kept in zip(runs["default"], runs["kept"], strict=True)
        )
        for key in commands.FIGURES
    }
    table = Table(
        f"{args.images} images in batches of {args.batch_size}", "memory", *commands.FIGURES
    )
    for name, row in (*medians.items(), ("ratio", ratios)):
        table.add_row(name, *(quantity(row[key]) for key in commands.FIGURES))
    show(table)
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        content = {"machine": machine(), "settings": settings, "medians": medians}
        content |= {"median_ratios": ratios, "runs": runs}
        write_results(args.out, content)


if __name__ == "__main__":
    main()
