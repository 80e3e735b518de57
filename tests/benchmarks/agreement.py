"""What cascades of agreement save, beside those of max softmax: ImageNet, CIFAR-10 and GLUE.

python -m tests.benchmarks.agreement [--predictions FILE.parquet] [--names NAME ...]
    [--repeats 20] [--out FILE.json]

Searches of the bundled records. Of one split, half of the samples are drawn 20 times to choose
cascades on, which are reported on the other half; of two, they are chosen on `calibration` and
reported on the other. A cascade that is off its promise by e is compared with single models at the
promise less e; beside it stands the reduction against the interpolated front of single models.

FILE is a table of the published ImageNet answers, in the order of the records. Its column
`real_labels` has the labels of ReaL (arXiv:2006.07159), by which the models are judged too; images
without any are left out. Its column `imagenetx_ResNet50_probability` has the confidence of
ResNet-50 (github.com/facebookresearch/imagenetx), the only model of which one is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lit_cascade import Record, search
from lit_cascade.analysis import SearchResult
from lit_cascade.records import RecordLike
from lit_cascade.report.text import Table, show
from lit_cascade.utilities.units import percent
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

ROOT = Path(__file__).parents[2]
PREDICTIONS = ROOT.parent / "shared/data/imagenet_predictions/validation.parquet"
RECORDS = ROOT / "checkpoints"


def column(path: Path, name: str, records: list[Record]) -> list[Any]:
    """A column of the table of published answers.

    Raises:
        ValueError: the table is of other images than the records, or in another order.
    """
    import pyarrow.parquet as pq  # the bundled records need it not

    table = pq.read_table(path, columns=["label", name]).to_pydict()
    if torch.tensor(table["label"]).tolist() != records[0].labels.tolist():  # type: ignore[union-attr]
        raise ValueError(f"{path}: its labels are not those of the records, in their order.")
    return table[name]


def with_confidence(records: list[Record], path: Path) -> list[Record]:
    """The records, that of ResNet-50 with its confidence."""
    score = torch.tensor(column(path, "imagenetx_ResNet50_probability", records))
    return [replace(one, score=score) if one.name == "resnet50" else one for one in records]


def with_real_labels(records: list[Record], path: Path) -> list[Record]:
    """The records of the images that have labels of ReaL, with these."""
    several = column(path, "real_labels", records)
    most = max(map(len, several))
    labels = torch.tensor([[*some, *[-1] * (most - len(some))] for some in several])
    rows = (labels[:, 0] >= 0).nonzero().squeeze(1)
    return [replace(record.rows(rows), labels=labels[rows]) for record in records]


def cases(predictions: Path) -> Iterator[tuple[str, list[RecordLike], tuple[str, ...]]]:
    """Name, records and scores of each search; models without confidences have agreement alone."""
    imagenet, both = RECORDS / "imagenet", ("max_softmax", "agreement")
    yield "ImageNet", [imagenet], ("agreement",)
    if predictions.exists():
        records = [Record.load(path) for path in sorted(imagenet.rglob("*.safetensors"))]
        yield "ImageNet, ReaL", [*with_real_labels(records, predictions)], ("agreement",)
        sure = [*with_confidence(records, predictions)]
        yield "ImageNet, confidence of ResNet-50", sure, ("max_softmax",)
    yield "CIFAR-10", [RECORDS / "cifar10"], both
    for task in sorted(folder for folder in (RECORDS / "glue").iterdir() if folder.is_dir()):
        yield f"GLUE, {task.name}", [task], both


def measured(records: list[RecordLike], score: str, repeats: int) -> dict[str, Any]:
    """A search of up to four stages: reductions by the most stages, and the front."""
    found = search(records, score=score, stages=4, repeats=repeats)
    return {
        "models": len(found.zoo),
        "chosen_on": found.protocol.chosen_on.n,
        "reported_on": found.zoo.n,
        "apart": found.apart,
        "reductions": {
            stages: reductions(found, f"cascades of up to {stages}")
            for stages in range(2 if score != "agreement" else 3, 5)
        },
        "front": [
            {
                "stages": [found.zoo.names[model] for model in point.stages],
                "thresholds": list(map(str, point.thresholds)),
                "flops": point.cost,
                "accuracy": point.accuracy,
            }
            for point in found.cascades.points[:: max(1, len(found.cascades) // 20)]
        ],
        "singles": found.singles.columns(),
    }


def reductions(found: SearchResult, name: str) -> list[dict[str, Any]]:
    """Average compute reductions of a strategy, by band."""
    (strategy,) = (one for one in found.strategies if one.name == name)
    return [
        {
            "band": one.band.name,
            "low": one.band.low,
            "high": one.band.high,
            "chosen": one.held_out.chosen,
            "held_out": one.held_out.reported,
            "interval_95": one.held_out.interval,
            "spread": one.held_out.spread,
            "held_out_interpolated": one.held_out.reported_interpolated,
            "shortfall": one.held_out.shortfall,
        }
        for one in strategy.reductions
        if one.held_out is not None
    ]


def main() -> None:
    """Search, print a table and write the figures."""
    parser = options_parser(__doc__)
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    parser.add_argument("--names", nargs="+", help="data to search; by default all")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    table = Table(
        "Average compute reduction at equal accuracy, held out",
        "data", "samples", "score", "stages",
        "top half", "95 %", "interpolated", "top quarter", "95 %", "interpolated", "shortfall",
    )  # fmt: skip
    results: dict[str, Any] = {}
    for name, records, scores in cases(options.predictions):
        for score in scores if name in (options.names or [name]) else ():
            found = measured(records, score, options.repeats)
            results.setdefault(name, {})[score] = found
            for stages, bands in found["reductions"].items():
                cells = [name, f"{found['reported_on']:,}", score, str(stages)]
                for band in bands:
                    low, high = band["interval_95"]
                    cells += [f"{band['held_out']:.2f}x", f"{low:.2f} to {high:.2f}"]
                    cells += [f"{band['held_out_interpolated']:.2f}x"]
                table.add_row(*cells, percent(bands[-1]["shortfall"], 2))
                print(*cells, flush=True)
    show(table)
    if options.out:
        if options.names and options.out.exists():  # the other data keep their figures
            results = json.loads(options.out.read_text(encoding="utf-8"))["searches"] | results
        content = {"machine": machine(), "repeats": options.repeats, "searches": results}
        write_results(options.out, content)


if __name__ == "__main__":
    main()
