"""`lit-cascade search`: the best cascades of a zoo, from records alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from shlex import quote
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from lit_cascade.analysis import (
    Pick,
    SearchResult,
    Strategy,
    check_calls,
    evaluate_strategies,
    published_front,
    search,
    variants,
)
from lit_cascade.cli.options import SearchOptions
from lit_cascade.cli.output import Output
from lit_cascade.cli.parsing import accuracy_range, check_seed
from lit_cascade.core import AGREEMENT
from lit_cascade.core.search import Band, Progress, search_zoo
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import read_costs
from lit_cascade.report import (
    draw_frontier,
    frontier_csv,
    frontier_summary,
    inform,
    print_comparison,
    print_frontier,
    strategy_summary,
)
from lit_cascade.utilities.allocator import keep_memory
from lit_cascade.utilities.tabular import listed
from lit_cascade.utilities.units import be, counted

_MOST_CONFIGS = 20
_PASSED = (
    "stages", "score", "combine", "calibrate", "window", "split", "choose_on", "cost", "levels",
    "candidates", "holdout", "repeats", "seed", "allow_overlap",
)  # fmt: skip


def _band(text: str) -> Band | tuple[float, None]:
    """A range of accuracies such as 0.80:0.86, or 0.86: for one without an upper end."""
    low, high = accuracy_range(text, "--bands", open_ends=True)
    return (low, None) if text.endswith(":") else Band(low, high, text)


def run_files(options: SearchOptions) -> None:
    """Search the records of many models."""
    if not options.records:
        raise UsageError("records: expected one or more record files or folders of them.")
    check_seed(options.seed)
    check_calls(options.calls_per_month)
    keep_memory()  # each first model takes tables of the same sizes
    unit, _ = read_costs(options.cost)
    published = published_front(options.baseline, unit) if options.baseline else None
    names = ["frontier.csv", "summary.json", "frontier.png"]
    names += [_config_name(number) for number in range(1, _MOST_CONFIGS + 1)]
    output = Output("search", options, names)
    bands = [_band(text.strip()) for text in options.bands or ()]
    same = {name: getattr(options, name) for name in _PASSED}
    with _progress(show=not options.quiet) as (reading, progress):
        frontier = search(options.records, bands=bands, reading=reading, progress=progress, **same)
        strategies = _compare(frontier) if options.compare else []
    cascades = [pick for pick in frontier.picks if len(pick.point.stages) > 1]
    configs = {pick: _config_name(number) for number, pick in enumerate(cascades, start=1)}
    notes = _notes(frontier)
    print_frontier(frontier, configs, notes, options.calls_per_month)
    summary = frontier_summary(frontier, configs, options.calls_per_month) | {"notes": notes}
    if strategies:
        print_comparison(strategies, frontier)
        summary["comparison"] = strategy_summary(strategies)
    output.add("frontier.csv", frontier_csv(frontier))
    output.add("frontier.png", draw_frontier(frontier, published))
    output.add_json("summary.json", summary)
    for pick, name in configs.items():
        output.add_yaml(name, *_config(frontier, pick, name))
    output.write()


@contextmanager
def _progress(*, show: bool) -> Iterator[tuple[Progress, Progress]]:
    """A bar on stderr, first of the records that are read: stdout is for results."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = show and console.is_terminal
    with Bar(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("reading records", total=None)

        def tick(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield partial(tick, "reading records"), partial(tick, "searching")


def _compare(frontier: SearchResult) -> list[Strategy]:
    strategies = []
    for name, (rule, settings) in variants(frontier.settings).items():
        choose = partial(search_zoo, settings=settings)
        try:
            strategies += evaluate_strategies(
                {name: choose}, frontier.protocol, rule, frontier.bands
            )
        except CascadeError as error:  # records without logits allow only some of them
            inform(f"not compared: {name}: {error}")
    return strategies


def _notes(frontier: SearchResult) -> list[str]:
    chosen = frontier.protocol.chosen_on
    singles = frontier.zoo.singles()[1]
    beaten = len(frontier.zoo) - len(singles)
    splits = [zoo.data for zoo in (chosen, frontier.protocol.reported_on) if zoo is not None]
    notes = [
        f"Note: only {data['limited_to']} of a split were recorded."
        for data in splits
        if data.get("limited_to")
    ]
    if norms := frontier.norms:
        plain = norms.count("max_softmax")
        notes.append(
            f"No norm is better than max_softmax for {plain} of {counted(len(norms), 'model')}, "
            "which have this score instead."
        )
    if beaten:
        notes.append(
            f"{beaten} of the {counted(len(frontier.zoo), 'model')} {be(beaten)} no use alone: "
            "another is cheaper and at least as accurate. They may still be of use in a cascade."
        )
    notes += _unsure(frontier)
    if all(len(pick.point.stages) == 1 for pick in frontier.picks):
        notes.append("No cascade beats the single models on these samples.")
    return notes


def _unsure(frontier: SearchResult) -> list[str]:
    """A note on models that do not say how sure they are; the last one need not."""
    zoo = frontier.zoo
    told = zoo.scores[:-1].any(dim=1).tolist()
    names = [name for name, any_told in zip(zoo.names[:-1], told, strict=True) if not any_told]
    if not names or zoo.votes:
        return []
    many = f"{len(names)} of the {counted(len(zoo), 'model')} ({listed(names)})"
    note = f"Note: no confidences are known of {many}, which as a first stage "
    if frontier.rule.score == AGREEMENT.name:
        return [f"{note}only vote."]
    return [f"{note}cannot defer: --score agreement --stages 3 makes cascades of them."]


def _config_name(number: int) -> str:
    return f"cascade-{number}.yaml"


def _config(frontier: SearchResult, pick: Pick, name: str) -> tuple[dict[str, Any], str]:
    """A config of a cascade, and a comment with the commands that take it.

    It is for `validate`, and for `test` too if the records hold the configs of models and data.
    """
    protocol, point = frontier.protocol, pick.point
    chosen, reported = protocol.chosen_on, protocol.reported_on or protocol.chosen_on
    names = [frontier.zoo.names[model] for model in point.stages]
    stages = {chosen.models[k].name: chosen.models[k].model.get("config") for k in point.stages}
    data = reported.data.get("config")
    live = chosen.unit == "flops" and data and all(stages.values())  # live runs count FLOPs alone
    config: dict[str, Any] = {"model": {"stages": stages}, "data": data}
    if not live:
        paths = {model.name: str(model.path) for model in reported.models}
        config = {"records": [paths[name] for name in names]}
    if chosen.unit != "flops":
        config["cost"] = chosen.unit
    config["policy"] = frontier.policy(frontier.cascades.points.index(point)).to_dict()
    split = reported.data.get("split")
    more = f" --split {quote(str(split))}" if live and split else ""
    more += "" if frontier.apart else " --allow_overlap"  # chosen on the same samples
    commands = ("validate", "test") if live else ("validate",)
    lines = [f"  lit-cascade {command} --config {name}{more}" for command in commands]
    return config, "\n".join([f"{' → '.join(names)}, found by lit-cascade search.", *lines])
