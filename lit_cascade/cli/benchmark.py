"""`lit-cascade benchmark`: the speed of a cascade, next to the ideal that its stages allow."""

from __future__ import annotations

import torch

from lit_cascade.cli.lightning import CascadeCLI
from lit_cascade.cli.options import BenchmarkOptions
from lit_cascade.cli.output import Output
from lit_cascade.errors import UsageError
from lit_cascade.lit import SpeedPlan
from lit_cascade.report import (
    benchmark_notes,
    draw_speed,
    latency_table,
    pace_table,
    show,
    speed_summary,
)
from lit_cascade.utilities.versions import run_info


def run_models(cli: CascadeCLI, options: BenchmarkOptions) -> None:
    """Measure the speed of a cascade."""
    trainer, model = cli.trainer, cli.model
    thresholds: tuple[tuple[float, ...], ...] = ()
    if options.at:
        thresholds = tuple((float(value),) * (len(model.names) - 1) for value in options.at)
    elif model.cascade.policy.thresholds is not None:
        thresholds = (model.cascade.policy.thresholds,)
    if options.threads is not None:
        if options.threads < 1:
            raise UsageError(f"threads: expected at least 1, got {options.threads}.")
        torch.set_num_threads(options.threads)
    plan = SpeedPlan(
        thresholds=thresholds,
        rates=tuple(options.deferral_rates),
        samples=options.samples,
        singles=options.singles,
        repeats=options.repeats,
        gather=options.gather,
        end_to_end=options.end_to_end,
    )
    if not thresholds and not plan.rates:
        raise UsageError("deferral_rates: give at least one, or thresholds by --at or a policy.")
    output = Output("benchmark", options, ["benchmark.json", "benchmark.png"])
    progress = None if cli.progress is None else cli.progress.report
    result = trainer.benchmark(model, cli.datamodule, options.split, plan, progress)
    where = f"{result.device}, precision {trainer.precision}, batches of {result.batch_size}"
    kinds = [("the models alone", "The models alone", result.model_only)]
    if result.end_to_end:
        title = "End to end, with loading and preprocessing"
        kinds.append(("end to end", title, result.end_to_end))
    tables = [pace_table(f"{title}: {where}", result.names, speeds) for _, title, speeds in kinds]
    values = [speed.thresholds for speed in result.model_only]
    tables.append(latency_table(result.names, result.latency, values, result.cascade_latency))
    notes = benchmark_notes(result, options.split)
    show(*tables, *notes)
    settings = {
        "split": options.split,
        "repeats": options.repeats,
        "gather": options.gather,
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "channels_last": model.channels_last,
        "compiled": model.compiled,
    }
    summary = speed_summary(result, settings) | {"notes": notes, "provenance": run_info()}
    output.add_json("benchmark.json", summary)
    title = f"{' → '.join(result.names)} on {result.device}"
    output.add("benchmark.png", draw_speed(title, [(name, speeds) for name, _, speeds in kinds]))
    output.write()
