"""`lit-cascade benchmark`: how fast a cascade is, next to what its arithmetic allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_cascade.cli.live_options import BenchmarkOptions
from lit_cascade.cli.parsing import dispatch

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("benchmark", argv, BenchmarkOptions, _run_models)


def _run_models() -> None:
    from lit_cascade.cli.lightning import run_command
    from lit_cascade.lit import LitCascade

    run_command("benchmark", LitCascade, BenchmarkOptions, _benchmark)


def _benchmark(cli: Any, model: Any, datamodule: Any) -> None:
    """Measure the speed of a cascade."""
    import torch

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

    trainer, options = cli.trainer, cli.options
    deferring = len(model.names) - 1
    thresholds: tuple[tuple[float, ...], ...] = ()
    if options.at:
        thresholds = tuple((float(value),) * deferring for value in options.at)
    elif model.has_thresholds:
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
    files = ["benchmark.json", "benchmark.png"]
    output = Output("benchmark", options.out, files, overwrite=options.overwrite)
    found = trainer.benchmark(model, datamodule, options.split, plan)
    where = f"{found.device}, precision {trainer.precision}, batches of {found.batch_size}"
    tables = [pace_table(f"The models alone: {where}", found.names, found.model_only)]
    if found.end_to_end:
        title = f"End to end, with loading and preprocessing: {where}"
        tables.append(pace_table(title, found.names, found.end_to_end))
    values = [speed.thresholds for speed in found.model_only]
    tables.append(latency_table(found.names, found.latency, values, found.cascade_latency))
    notes = benchmark_notes(found, options.split)
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
    summary = speed_summary(found, settings) | {"notes": notes, "provenance": run_info()}
    output.add_json("benchmark.json", summary)
    kinds = [("the models alone", found.model_only)]
    kinds += [("end to end", found.end_to_end)] if found.end_to_end else []
    title = f"{' → '.join(found.names)} on {found.device}"
    output.add("benchmark.png", draw_speed(title, kinds))
    output.write()
