"""What a search of a real zoo takes, through the command, beside reading its records once.

python -m tests.benchmarks.zoo [--models 60] [--samples 50000] [--classes 1000] [--scored 600]
    [--folder FOLDER] [--out FILE.json]

The records, with logits in float16 (6 GB by default), and those with scores alone are written into
a folder and removed at the end. The yardstick reads each file once, by blocks, with one softmax
over it in float32. Each search is a process of its own, with held-out figures and intervals.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lit_cascade import Record
from lit_cascade.core.scores import row_blocks
from lit_cascade.report.text import Table, show
from tests.benchmarks.commands import run, write_records
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine
from tests.zoos import synthetic_zoo


def reading_seconds(paths: list[Path]) -> float:
    """How long one softmax over each file takes."""
    start = time.perf_counter()
    for path in paths:
        logits = Record.load(path).logits
        assert logits is not None
        for rows in row_blocks(logits):
            rows.softmax(dim=1)
    return time.perf_counter() - start


def write_scores(folder: Path, models: int, samples: int) -> None:
    """Write records with scores alone, of a synthetic zoo."""
    folder.mkdir()
    zoo = synthetic_zoo(models, samples)
    for k, name in enumerate(zoo.names):
        Record.from_arrays(
            name, score=zoo.scores[k], correct=zoo.correct[k], flops=float(zoo.costs[k, 0]),
            data={"name": "synthetic", "split": "test"},
        ).save(folder / f"{name}.safetensors")  # fmt: skip


def main() -> None:
    """Write records, search them, print a table and remove them."""
    parser = options_parser(__doc__)
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--scored", type=int, default=600)
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--scored_stages", type=int, nargs="+", default=[2])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=args.folder, prefix="zoo-"))
    rows: list[dict[str, Any]] = []
    trees = {"now": None} | ({} if args.before is None else {"before": args.before})
    try:
        strengths = [float(one) for one in np.linspace(3, 12, args.models)]
        paths = write_records(place / "logits", strengths, args.samples, args.classes)
        write_scores(place / "scores", args.scored, args.samples)
        yardstick = reading_seconds(paths)
        kinds = (("logits", args.models, args.stages), ("scores", args.scored, args.scored_stages))
        for kind, models, most in kinds:
            for stages in most:
                for when, tree in trees.items():
                    words = ["search", "--records", str(place / kind), "--stages", str(stages)]
                    words += ["--out", str(place / "out"), "--overwrite", "--quiet"]
                    figures = run(words, checkout=tree)
                    row = {"records": kind, "models": models, "stages": stages, "code": when}
                    rows.append(row | figures)
                    print(json.dumps(rows[-1]), flush=True)
    finally:
        shutil.rmtree(place)
    title = f"{args.samples:,} samples of {args.classes:,} classes; reading: {yardstick:.1f} s"
    table = Table(title, "records", "stages", "code", "seconds", "less 1.2 readings", "MiB")
    for row in rows:
        more = row["wall_s"] - 1.2 * yardstick if row["records"] == "logits" else row["wall_s"]
        table.add_row(
            f"{row['models']} of {row['records']}", str(row["stages"]), row["code"],
            f"{row['wall_s']:.1f}", f"{more:.1f}", f"{row['peak_mib']:,.0f}",
        )  # fmt: skip
    show(table)
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k not in {"out", "folder", "before"}}
        content = {"machine": machine(), "settings": settings, "reading_s": yardstick}
        write_results(args.out, content | {"runs": rows})


if __name__ == "__main__":
    main()
