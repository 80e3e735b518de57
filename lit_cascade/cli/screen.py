"""`lit-cascade screen`: which published models are worth recording, before any of them runs."""

from __future__ import annotations

import math

from lit_cascade.analysis import (
    Criteria,
    PublishedTable,
    Screening,
    largest_sizes,
    published_models,
    screen,
)
from lit_cascade.cli.options import ScreenOptions
from lit_cascade.cli.output import Output
from lit_cascade.cli.parsing import accuracy_range
from lit_cascade.errors import UsageError
from lit_cascade.report import draw_screen, print_screen, screen_csv, screen_summary
from lit_cascade.utilities.units import counted, percent

_FILES = ["screen.csv", "screen.png", "summary.json", "models.yaml"]
_NAMED = 5


def run_files(options: ScreenOptions) -> None:
    """Screening tables of published models."""
    criteria = _criteria(options)
    tables = _tables(options)
    output = Output("screen", options, _FILES)
    published = published_models(tables, options.cost, throughput=True)
    result = screen(published.models, criteria, options.cost)
    notes = _notes(options, published, criteria, result)
    print_screen(result, options.cost, notes)
    output.add("screen.csv", screen_csv(result, options.cost))
    output.add("screen.png", draw_screen(published.models, result, options.cost))
    summary = screen_summary(published, result, criteria, tables, options.cost)
    output.add_json("summary.json", summary | {"notes": notes})
    names = list(dict.fromkeys(kept.model.name for kept in result.kept))
    command = f"lit-cascade record --config imagenet_zoo.yaml --config {output.folder}/models.yaml"
    models = counted(len(names), "model")
    output.add_yaml(
        "models.yaml",
        {"model": {"timm": {"models": names}}},
        f"{models} worth recording, in order of cost, found by lit-cascade screen.\n  {command}",
    )
    output.write()


def _criteria(options: ScreenOptions) -> Criteria:
    low, high = 0.0, 1.0
    if options.accuracy is not None:
        low, high = accuracy_range(options.accuracy, "--accuracy", open_ends=True)
    return Criteria(
        low=low,
        high=high,
        max_cost=math.inf if options.max_cost is None else options.max_cost,
        margin=options.margin,
        models=tuple(options.models or ()),
        exclude=tuple(options.exclude or ()),
        at_most=options.at_most,
        all_sizes=options.all_sizes,
    )


def _tables(options: ScreenOptions) -> dict[str, list[str]]:
    """Paths of the tables, by option."""
    results, benchmark = options.results or [], options.benchmark or []
    if not results:
        raise UsageError(
            "--results: expected one or more CSV tables of published accuracies, such as "
            "timm's results-imagenet.csv."
        )
    if options.cost == "latency_s" and len(benchmark) > 1:
        raise UsageError(
            "--benchmark: expected one table with --cost latency_s, since speeds on several "
            f"machines do not compare; got {len(benchmark)}."
        )
    return {"--results": results} | ({"--benchmark": benchmark} if benchmark else {})


def _notes(
    options: ScreenOptions, published: PublishedTable, criteria: Criteria, result: Screening
) -> list[str]:
    """Notes on the sources of the list, and on models that are not on it."""
    rows = len(published.models) + published.without_cost
    notes = [
        f"{published.without_cost:,} of {counted(rows, 'model')} have no cost at their image size "
        "in the benchmark table and are left out."
        if published.without_cost
        else f"All of {rows:,} models, counted at each image size, have a cost."
    ]
    if published.unreadable:
        notes.append(f"Rows without a number as accuracy are left out: {published.unreadable:,}.")
    largest = largest_sizes(published.models)
    smaller = [model for model in published.models if (model.img_size or 0) < largest[model.name]]
    if smaller and not criteria.all_sizes:
        notes.append(
            "Smaller image sizes than the largest of the same model, the one that record runs it "
            f"at, are left out: {len(smaller):,}; --all_sizes considers them too."
        )
    on_front = sum(kept.on_front for kept in result.kept)
    band = ""
    if options.accuracy is not None:
        ends = f"{percent(criteria.low)} to {percent(criteria.high)}"
        band = f" {result.in_band:,} have an accuracy from {ends}."
    notes.append(
        f"{len(result.pool):,} were considered, of which {len(result.front):,} make the front."
        f"{band} {len(result.kept) + result.cut:,} of those are on the front "
        f"({on_front + result.front_cut}) or at most {100 * criteria.margin:.2f} points below it."
    )
    if result.cut:
        least = f", {result.front_cut} of them on the front" if result.front_cut else ""
        notes.append(
            f"{result.cut:,} of these were cut by --at_most {criteria.at_most}{least}; "
            f"{len(result.kept):,} are kept, {on_front:,} on the front."
        )
    below = [kept.model for kept in result.kept if kept.model in smaller]
    if below:
        shown = ", ".join(f"{model.name} at {model.img_size}" for model in below[:_NAMED])
        more = f" and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
        notes.append(
            "models.yaml names each model once, and record runs it at its largest size, not at the "
            f"smaller one that is listed here: {shown}{more}."
        )
    if options.cost == "latency_s":
        notes.append(
            "Seconds are 1 / infer_samples_per_sec: throughput in batches on the machine of the "
            "benchmark, not the wait for one answer."
        )
    return notes
