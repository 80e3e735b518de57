"""What recording a model costs, next to a plain loop over the same loader and the same model.

python -m tests.benchmarks.record [--images 384] [--repeats 3] [--models NAME ...] [--out FILE.json]

A third way is a plain loop over timm's own loader. All read the same JPEG files, decode and
preprocess them in as many workers, and keep the logits; the recording also counts FLOPs, keeps the
logits on disk and writes a record. Each runs over all images and over a quarter of them, in turn:
the difference is the cost of images, and the rest is what a run costs once (building and
fingerprinting the model, FLOPs, Lightning's set-up), however many there are. Medians are printed.

On Linux the C library gives memory back after every batch and asks for it anew, which costs small
models on a CPU a fifth of their time, and more with one loader than with another. To compare
without that: MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 python -m ...
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import warnings
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader, resolve_data_config

from lit_cascade import LitZoo
from lit_cascade.data import EvaluationData, ImageData
from lit_cascade.lit import TimmModels
from lit_cascade.live.batch import forward_logits
from lit_cascade.models import Timm
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine, seconds
from tests.images import image_folder
from tests.lit.cascades import trainer

MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
MODELS = ("mobilenetv3_small_100.lamb_in1k", "resnet18.a1_in1k")


def plain(name: str, folder: Path, batch_size: int, workers: int) -> torch.Tensor:
    """Logits by a plain loop over the loader that a recording has."""
    network = Timm(name, pretrained=False).eval()
    data = ImageData(str(folder), classes="imagenet-1k", batch_size=batch_size, num_workers=workers)
    loader = EvaluationData(data, "validation", None, [network.preprocessing]).val_dataloader()
    with torch.inference_mode():
        return torch.cat([forward_logits(network, batch.batch[0]) for batch in loader])


def by_timm(name: str, folder: Path, batch_size: int, workers: int) -> torch.Tensor:
    """Logits by timm alone."""
    model = timm.create_model(name, pretrained=False).eval()
    config = resolve_data_config({}, model=model, use_test_size=True)
    data = create_dataset("", root=str(folder))
    loader = create_loader(
        data,
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=False,
        device=torch.device("cpu"),
        **config,
    )
    with torch.inference_mode():
        return torch.cat([model(images) for images, _ in loader])


def recorded(name: str, folder: Path, batch_size: int, workers: int) -> None:
    """The same by `record`."""
    with tempfile.TemporaryDirectory() as out:
        data = ImageData(
            str(folder), classes="imagenet-1k", batch_size=batch_size, num_workers=workers
        )
        done = trainer().record_zoo(LitZoo(timm=TimmModels([name], pretrained=False)), data, out)
        if done.failed:
            raise SystemExit(str(done.failed))


WAYS = {"timm": by_timm, "plain": plain, "record": recorded}


def measured(
    name: str, folders: tuple[Path, Path], options: argparse.Namespace
) -> dict[str, float]:
    """Seconds of each way over few and over all images, in turn."""
    times: dict[str, list[float]] = {f"{way} {k}": [] for way in WAYS for k in (0, 1)}
    for repeat in range(options.repeats + 1):
        for k, folder in enumerate(folders):
            for way, work in WAYS.items():
                gc.collect()
                took = seconds(
                    lambda w=work, f=folder: w(name, f, options.batch_size, options.workers)
                )
                if repeat:  # the first round warms up
                    times[f"{way} {k}"].append(took)
    few, all_of_them = options.images // 4, options.images
    found: dict[str, float] = {}
    for way in WAYS:
        each = [
            (whole - part) / (all_of_them - few)
            for part, whole in zip(times[f"{way} 0"], times[f"{way} 1"], strict=True)
        ]
        found[f"{way}_ms_per_image"] = 1000 * statistics.median(each)
        found[f"{way}_seconds_once"] = statistics.median(
            whole - all_of_them * one for whole, one in zip(times[f"{way} 1"], each, strict=True)
        )
    for way in ("plain", "timm"):
        pairs = zip(times["record 1"], times[f"{way} 1"], strict=True)
        found[f"whole_run_to_{way}"] = statistics.median(one / other for one, other in pairs)
        found[f"per_image_to_{way}"] = found["record_ms_per_image"] / found[f"{way}_ms_per_image"]
    return found


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=MODELS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the rest of the machine is for the workers

    with tempfile.TemporaryDirectory() as place:
        folders = (Path(place) / "few", Path(place) / "all")
        image_folder(folders[1], options.images, spread=1)
        files = sorted(folders[1].rglob("*.JPEG"))
        for file in files[: options.images // 4]:
            there = folders[0] / file.relative_to(folders[1])
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, there)
        results = {name: measured(name, folders, options) for name in options.models}

    table = Table(title=f"Recording {options.images} images, beside plain loops")
    for column in ("model", "timm's loader", "same loader", "record", "to same", "to timm's",
                   "same, once", "record, once", "whole run to same"):  # fmt: skip
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, found in results.items():
        table.add_row(
            name,
            *[f"{found[f'{way}_ms_per_image']:.2f} ms" for way in ("timm", "plain", "record")],
            *[f"{found[f'per_image_to_{way}']:.3f}" for way in ("plain", "timm")],
            *[f"{found[f'{way}_seconds_once']:.2f} s" for way in ("plain", "record")],
            f"{found['whole_run_to_plain']:.3f}",
        )
    Console(width=150).print(table)
    if options.out:
        settings = {
            name: value for name, value in vars(options).items() if name not in {"out", "models"}
        }
        settings["malloc"] = {key: os.environ.get(key) for key in MALLOC}
        content = {"machine": machine(), "settings": settings, "models": results}
        write_results(options.out, content)


if __name__ == "__main__":
    main()
