"""`lit-cascade screen`: which published models are worth recording, before any of them runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_cascade.cli.options import ScreenOptions
from lit_cascade.cli.parsing import accuracy_range, dispatch

if TYPE_CHECKING:
    from lit_cascade.analysis import Criteria, Published, Screen

__all__ = ["main"]

_FILES = ["screen.csv", "screen.png", "summary.json", "models.yaml"]
_NAMED = 5


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("screen", argv, ScreenOptions, None, _run)


def _run(options: ScreenOptions) -> None:
    from lit_cascade.analysis import published_models, screen
    from lit_cascade.cli.output import Output
    from lit_cascade.report import draw_screen, print_screen, screen_csv, screen_summary

    criteria = _criteria(options)
    tables = _tables(options)
    output = Output("screen", options.out, _FILES, overwrite=options.overwrite)
    published = published_models(tables, options.cost, throughput=True)
    found = screen(published.models, criteria, options.cost)
    notes = _notes(options, published, criteria, found)
    print_screen(found, options.cost, notes)
    output.add("screen.csv", screen_csv(found, options.cost))
    output.add("screen.png", draw_screen(published.models, found, options.cost))
    output.add_json(
        "summary.json",
        screen_summary(published, found, criteria, tables, options.cost) | {"notes": notes},
    )
    names = list(dict.fromkeys(kept.model.name for kept in found.kept))
    command = f"lit-cascade record --config imagenet_zoo.yaml --config {output.folder}/models.yaml"
    output.add_yaml(
        "models.yaml",
        {"model": {"timm": {"models": names}}},
        f"{_models(len(names))} worth recording, in order of cost, found by lit-cascade screen.\n"
        f"  {command}",
    )
    output.write()


def _criteria(options: ScreenOptions) -> Criteria:
    from lit_cascade.analysis import Criteria

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
    """The tables by the option that names them.

    Raises:
        UsageError: no results, or the speeds of several machines.
    """
    from lit_cascade.errors import UsageError

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


def _models(count: int) -> str:
    return f"{count:,} model{'' if count == 1 else 's'}"


def _notes(
    options: ScreenOptions, published: Published, criteria: Criteria, found: Screen
) -> list[str]:
    """What the reader must know of where the list comes from and what is not on it."""
    from lit_cascade.analysis import largest_sizes
    from lit_cascade.report import percent

    rows = len(published.models) + published.without_cost
    notes = [
        f"{published.without_cost:,} of {rows:,} models have no cost at their image size in the "
        "benchmark table and are left out."
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
    on_front = sum(kept.on_front for kept in found.kept)
    band = ""
    if options.accuracy is not None:
        ends = f"{percent(criteria.low)} to {percent(criteria.high)}"
        band = f" {found.in_band:,} have an accuracy from {ends}."
    notes.append(
        f"{len(found.pool):,} were considered, of which {len(found.front):,} make the front.{band} "
        f"{len(found.kept) + found.cut:,} of those are on the front ({on_front + found.front_cut}) "
        f"or at most {100 * criteria.margin:.2f} points below it."
    )
    if found.cut:
        least = f", {found.front_cut} of them on the front" if found.front_cut else ""
        notes.append(
            f"{found.cut:,} of these were cut by --at_most {criteria.at_most}{least}; "
            f"{len(found.kept):,} are kept, {on_front:,} on the front."
        )
    below = [kept.model for kept in found.kept if kept.model in smaller]
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
