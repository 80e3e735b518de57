"""Options of the commands that run a cascade for real. Their docstrings are what `--help` prints.

Nothing here imports torch, so that help stays fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lit_cascade.options import PolicyOptions

__all__ = ["BenchmarkOptions", "PredictOptions", "TestOptions"]


@dataclass
class TestOptions:
    """Run a cascade for real at given thresholds.

    Args:
        split: the split to run on: validation, or another that the data has.
        metric: report this beside accuracy, as for validate.
        gather: batches whose deferred samples are gathered into full batches for the next stage;
            more keeps a GPU busier, fewer takes less memory.
        allow_overlap: report even on samples that the temperatures were fitted on.
        out: folder for test.json; by default a new one, runs/test-N.
        overwrite: replace results that are already in the folder.
        policy: score, temperatures and thresholds of the cascade.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    split: str = "validation"
    metric: str | None = None
    gather: int = 8
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class PredictOptions:
    """Answer every sample of a split with a cascade and write the answers.

    One row per sample, in the order of the data: id, class, probability, stage, score. Answers are
    written while the cascade runs; the same command again goes on where it was interrupted and
    writes the same file.

    Args:
        split: the split to answer; by default predict if the data has it, else validation. Labels
            are not looked at.
        format: parquet or csv.
        gather: batches whose deferred samples are gathered into full batches for the next stage,
            and whose answers are written together.
        out: folder for predictions.parquet or predictions.csv and predict.json; by default a new
            one, runs/predict-N. To go on with an interrupted run, give its folder.
        overwrite: replace results that are already in the folder.
        policy: score, temperatures and thresholds of the cascade.
    """

    split: str | None = None
    format: Literal["parquet", "csv"] = "parquet"
    gather: int = 8
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class BenchmarkOptions:
    """Measure how fast a cascade is, next to its stages alone and to what its arithmetic allows.

    Batch size, precision, device, compilation and memory layout are those of the config:
    --data.init_args.batch_size, --trainer.precision, --trainer.accelerator, --model.compiled,
    --model.channels_last. The thresholds are those of the policy, of at, or set to defer given
    shares.

    Args:
        at: thresholds to run at, each shared by all deferring stages; instead of the policy's.
        deferral_rates: where there are no thresholds, shares of samples that each stage is to
            defer of those that it is given.
        split: the split to run on.
        samples: run on so many of its samples at most; they are kept in memory.
        singles: run so many of them one at a time too, for the latency.
        repeats: how often everything is timed, side by side.
        gather: batches whose deferred samples are gathered, as for test.
        end_to_end: also time everything with loading and preprocessing.
        threads: of the CPU for the models; by default as many as torch takes.
        out: folder for benchmark.json and benchmark.png; by default a new one, runs/benchmark-N.
        overwrite: replace results that are already in the folder.
        policy: score, temperatures and thresholds of the cascade.
    """

    at: list[float] | None = None
    deferral_rates: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.4, 0.8])
    split: str = "validation"
    samples: int = 2048
    singles: int = 64
    repeats: int = 5
    gather: int = 8
    end_to_end: bool = True
    threads: int | None = None
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)
