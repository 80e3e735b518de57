"""Options of the commands that make models and records. Their docstrings are what `--help` prints.

No torch in here; `choosing_options` and `live_options` hold those of the other commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FitOptions", "ImportOptions", "RecordDtype", "RecordOptions", "ScreenOptions"]

RecordDtype = Literal["float16", "float32"]


@dataclass
class FitOptions:
    """Train one stage, from scratch or from other weights, and judge it.

    Args:
        patience: stop when the score on stop_on has not risen for this many validations, which
            there is one of per epoch unless the trainer says otherwise, and keep the weights that
            had the best; by default training goes to its end and the last weights are kept.
        stop_on: the split for that; the score is its official metric, else accuracy.
        out: folder for the checkpoint and its card; by default a new one, runs/fit-N. To go on with
            an interrupted run, give its folder.
        overwrite: replace results that are already in the folder.
    """

    patience: int | None = None
    stop_on: str = "development"
    out: str | None = None
    overwrite: bool = False


@dataclass
class ScreenOptions:
    """List published models worth recording: on the front of accuracy against cost, or near it.

    A model is kept if its published accuracy is at least that of the best model that costs no more,
    less a margin: one that is a little worse alone may be the better partner in a cascade.

    Args:
        results: CSV tables of accuracies, such as timm's results-imagenet.csv: columns model,
            accuracy or top1, and img_size.
        benchmark: CSV tables of costs, such as timm's benchmark-infer-*.csv: columns model,
            infer_img_size, and infer_gmacs or flops, joined to the results by model and image size;
            the first that has a model counts. Not needed if the results hold costs too.
        accuracy: range of published accuracies to keep, such as 0.80:0.90 or 0.80: for no end.
        max_cost: the most that a model may cost per sample: FLOPs, or in the unit of cost.
        margin: how far below the front a model may be, as a share of answers: 0.01 is one point, 0
            keeps the front alone.
        models: patterns of models to consider, such as resnet* or *.fb_in22k_*, of whole names or
            of what is before the dot; by default all.
        exclude: patterns of models to leave out.
        at_most: how many to keep: the front first, then what is nearest to it. If the front alone
            has more, its ends and those between that it would miss most.
        all_sizes: also consider models at smaller image sizes than the largest they are listed at,
            which is the one that record runs them at.
        cost: unit of the cost to screen by: flops, or latency_s, which is 1 / infer_samples_per_sec
            of the benchmark.
        out: folder for screen.csv, screen.png, summary.json and models.yaml, which record takes as
            a config; by default a new one, runs/screen-N.
        overwrite: replace results that are already in the folder.
    """

    results: list[str] | None = None
    benchmark: list[str] | None = None
    accuracy: str | None = None
    max_cost: float | None = None
    margin: float = 0.01
    models: list[str] | None = None
    exclude: list[str] | None = None
    at_most: int | None = None
    all_sizes: bool = False
    cost: str = "flops"
    out: str | None = None
    overwrite: bool = False


@dataclass
class RecordOptions:
    """Run every model of a config over a split and write what each says, one record per model.

    Models run one after the other; each record is written as soon as its model is done. The same
    command again keeps the finished ones and goes on.

    Args:
        split: the split to run on: validation, calibration, or another that the data has.
        only: names of the models to record; by default all of the config.
        dtype: of the logits: float16, or float32 to keep every digit.
        out: folder for the records NAME.safetensors, which may hold some of them already; by
            default a new one, runs/record-N.
        overwrite: replace files in the folder that are not records of these models on these data.
    """

    split: str = "validation"
    only: list[str] | None = None
    dtype: RecordDtype = "float16"
    out: str | None = None
    overwrite: bool = False


@dataclass
class ImportOptions:
    """Make a record from arrays of any framework.

    FILE is .npy, .npz, .csv, .parquet or .safetensors; where it holds several arrays or columns,
    FILE:NAME or FILE:NAME,NAME picks some. What is one value per sample may be .txt too, one per
    line.

    Args:
        name: of the model; names the file.
        logits: FILE of shape (samples, classes).
        probabilities: the same, of class probabilities; their logarithm is kept.
        labels: FILE of the true classes: whole numbers from 0, or names that are among the classes.
            Without it a record will do for check and for select --max_disagreement.
        score: instead of logits, FILE of how sure the model is of each answer, larger is surer.
        correct: instead of logits, FILE of whether each answer is right: 0 or 1, true or false.
        flops: FLOPs per sample, one multiply-add being 2: a number, or FILE.
        cost: NAME=NUMBER or NAME=FILE, a cost per sample in another unit; may be repeated.
        ids: FILE of what tells the samples apart; by default their positions.
        classes: FILE of class names in logit order; by default the names of the logits' columns if
            they have any, else 0, 1, ...
        parameters: of the model.
        data: what to call the data.
        split: of the data.
        source: where the ids are counted, so that overlaps between splits are found.
        dtype: of the logits; float16 arrays stay float16.
        out: folder for NAME.safetensors; by default a new one, runs/import-N.
        overwrite: replace a record that is already in the folder.
    """

    name: str
    logits: str | None = None
    probabilities: str | None = None
    labels: str | None = None
    score: str | None = None
    correct: str | None = None
    flops: str | None = None
    cost: list[str] | None = None
    ids: str | None = None
    classes: str | None = None
    parameters: int = 0
    data: str | None = None
    split: str | None = None
    source: str | None = None
    dtype: RecordDtype = "float32"
    out: str | None = None
    overwrite: bool = False
