"""Does a check notice blurred and noisy images? The bundled CIFAR-10 pair, with labels and without.

python -m tests.benchmarks.shift --images FOLDER [--samples 2000] [--out FILE.json]

FOLDER holds CIFAR-10 as Parquet files. A policy is chosen on the calibration record; the checks are
of test images as they are, with noise, and blurred.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torchvision.transforms.v2.functional import gaussian_blur

from lit_cascade import Record, Stage
from lit_cascade.analysis.check import check_promise, references
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core.guarantee.promise import Promise
from lit_cascade.core.policy import Policy
from lit_cascade.data import CifarData
from lit_cascade.models import ResNet
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

ROOT = Path(__file__).parents[2] / "checkpoints" / "cifar10"
STYLE = {"mean": [125.3, 123.0, 113.9], "std": [63.0, 62.1, 66.7], "blocks": [1, 1, 1]}
STAGES = {
    "resnet8-w32-s2": lambda: ResNet(widths=[32, 64, 128], stem_stride=2, **STYLE),
    "resnet8-w64": lambda: ResNet(widths=[64, 128, 256], stem_stride=1, **STYLE),
}


def changes():
    """What is done to images (N, 3, 32, 32) from 0 to 255, by name."""
    yield "as they are", lambda x: x
    for spread in (2, 5, 10, 20):
        generator = torch.Generator().manual_seed(spread)
        yield (
            f"noise of {spread} / 255",
            lambda x, s=spread, g=generator: (
                (x + s * torch.randn(x.shape, generator=g)).round().clamp(0, 255)
            ),
        )
    for sigma in (0.3, 0.5, 1.0):
        yield f"blur of {sigma} pixels", lambda x, s=sigma: gaussian_blur(x, [5, 5], [s, s]).round()


def main() -> None:
    """Check and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--images", required=True)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()

    calibration = [Record.load(ROOT / "calibration" / f"{name}.safetensors") for name in STAGES]
    then = outcomes_of(calibration, Policy(stages=2))
    promise = Promise("accuracy_drop", 0.01)
    chosen = select_thresholds(then, promise).chosen
    thresholds, names = list(chosen.thresholds), list(STAGES)
    reference = references(then, thresholds, names)

    data = CifarData(source=options.images, batch_size=options.samples)
    data.setup("test")
    x, y = next(iter(data.test_dataloader()))[:2]
    flops = [float(record.cost().mean()) for record in calibration]
    nets = [Stage(make, f"cifar10/{name}.safetensors").build(name) for name, make in STAGES.items()]
    rows = []
    table = Table("images", "accuracy", "drop", "deferred", "labels", "promise", "drift", "passed")
    for name, change in changes():
        changed = change(x.float()).to(x.dtype)
        with torch.inference_mode():
            records = [
                Record.from_arrays(key, net(changed), y, flops=cost)
                for key, net, cost in zip(names, nets, flops, strict=True)
            ]
        for labelled in (True, False):
            seen = [r if labelled else replace(r, labels=None) for r in records]
            now = outcomes_of(seen, Policy(stages=2), need_labels=False)
            verdict = check_promise(now, promise, thresholds, names, reference)
            rows.append(
                {
                    "images": name,
                    "labels": labelled,
                    "last_accuracy": None
                    if now.alone is None
                    else float(now.alone[:, -1].double().mean()),
                    "drop": verdict.value,
                    "deferral_rate": verdict.shifts[0].rate,
                    "outcome": verdict.outcome,
                    "scores_p_value": verdict.shifts[0].scores_p_value,
                    "drifted": verdict.drifted,
                    "passed": verdict.passed,
                }
            )
            row = rows[-1]
            table.add_row(
                name,
                "" if row["last_accuracy"] is None else f"{row['last_accuracy']:.1%}",
                "" if row["drop"] is None else f"{row['drop']:.2%}",
                f"{row['deferral_rate']:.1%}", str(labelled), row["outcome"],
                str(row["drifted"]), str(row["passed"]),
            )  # fmt: skip
    Console(width=140).print(table)
    print(f"threshold {thresholds[0]:.5g}, then {chosen.deferral_rate:.1%} deferred")
    write_results(
        options.out,
        {"machine": machine(), "samples": len(y), "thresholds": thresholds, "rows": rows},
    )


if __name__ == "__main__":
    main()
