"""`lit-cascade search`: the cascades of a zoo worth having, from records alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lit_cascade.cli.choosing_options import SearchOptions
from lit_cascade.cli.parsing import accuracy_range, dispatch

if TYPE_CHECKING:
    from lit_cascade.analysis import Frontier, Pick
    from lit_cascade.core.search import Front, Progress

__all__ = ["main"]

_WINDOW = 64
_MOST_CONFIGS = 20


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    dispatch("search", argv, SearchOptions, None, _run)


def _run(options: SearchOptions) -> None:
    from lit_cascade.analysis import Rule, frontier_of, protocol_of, published_front
    from lit_cascade.cli.output import Output
    from lit_cascade.core.search import SearchSettings
    from lit_cascade.records import prices_from
    from lit_cascade.report import (
        contest_summary,
        draw_frontier,
        frontier_csv,
        frontier_summary,
        print_comparison,
        print_frontier,
    )

    _check(options)
    unit, prices = prices_from(options.cost)
    settings = SearchSettings(
        stages=options.stages,
        levels=options.levels,
        window=_WINDOW if options.window else 0,
        candidates=options.candidates,
    )
    bands = _bands(options.bands)
    published = published_front(options.baseline, unit) if options.baseline else None
    names = ["frontier.csv", "summary.json", "frontier.png"]
    names += [_config_name(number) for number in range(1, _MOST_CONFIGS + 1)]
    output = Output("search", options.out, names, overwrite=options.overwrite)
    protocol = protocol_of(
        options.records or [],
        unit,
        options.split,
        options.choose_on,
        allow_overlap=options.allow_overlap,
        prices=prices,
        holdout=options.holdout,
        repeats=options.repeats,
        seed=options.seed,
    )
    rule = Rule(options.score, options.combine, options.calibrate)
    with _progress() as progress:
        found = frontier_of(protocol, rule, settings, bands, progress)
        compared = _compare(found, bands) if options.compare else []
    configs = {
        pick: _config_name(number)
        for number, pick in enumerate(
            (pick for pick in found.picks if len(pick.point.stages) > 1), start=1
        )
    }
    notes = _notes(found)
    print_frontier(found, configs, notes)
    if compared:
        print_comparison(compared, found)
    summary = frontier_summary(found, configs) | {"notes": notes}
    if compared:
        summary["comparison"] = contest_summary(compared)
    output.add("frontier.csv", frontier_csv(found))
    output.add("frontier.png", draw_frontier(found, published))
    output.add_json("summary.json", summary)
    for pick, name in configs.items():
        output.add_yaml(name, _config(found, pick), _comment(found, pick, name))
    output.write()


def _check(options: SearchOptions) -> None:
    from lit_cascade.errors import UsageError

    if not options.records:
        raise UsageError("--records: expected one or more record files or folders of them.")
    if options.score == "learned":
        raise UsageError(
            "--score: learned is fitted to one pair of models, and a search tries all; expected "
            "max_softmax, margin or negative_entropy. For one cascade: lit-cascade calibrate "
            "--learn_score."
        )
    if not 0 <= options.holdout < 1:
        raise UsageError(f"--holdout: expected a share from 0 to below 1, got {options.holdout}.")
    if options.repeats < 1:
        raise UsageError(f"--repeats: expected at least 1, got {options.repeats}.")
    if not 0 <= options.seed < 2**63:
        raise UsageError(f"--seed: expected a number from 0 to below 2^63, got {options.seed}.")


def _bands(given: list[str] | None) -> Any:
    """What makes bands of a front of single models."""
    from lit_cascade.core.search import Band, default_bands

    if not given:
        return default_bands
    bands = [Band(*accuracy_range(text, "--bands"), text) for text in given]

    def fixed(singles: Front) -> list[Band]:
        del singles
        return bands

    return fixed


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr: stdout is for results."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching")

        def tick(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tick


def _compare(found: Frontier, bands: Any) -> list[Any]:
    from functools import partial

    from lit_cascade.analysis import contest_of, variants
    from lit_cascade.core.search import search
    from lit_cascade.errors import CascadeError

    compared = []
    for name, (rule, settings) in variants(found.settings).items():
        choose = partial(search, settings=settings)
        try:
            compared.append(contest_of(name, found.protocol, rule, choose, bands))
        except CascadeError as error:  # records without logits allow only some of them
            sys.stderr.write(f"not compared: {name}: {error}\n")
    return compared


def _notes(found: Frontier) -> list[str]:
    chosen = found.protocol.chosen_on
    singles = found.zoo.singles()[1]
    beaten = len(found.zoo) - len(singles)
    splits = [zoo.data for zoo in (chosen, found.protocol.reported_on) if zoo is not None]
    notes = [
        f"Note: only {data['limited_to']} of a split were recorded."
        for data in splits
        if data.get("limited_to")
    ]
    if beaten:
        are = "is" if beaten == 1 else "are"
        notes.append(
            f"{beaten} of the {len(found.zoo)} models {are} no use alone: another is cheaper and "
            "at least as accurate. They may still be of use in a cascade."
        )
    if all(len(pick.point.stages) == 1 for pick in found.picks):
        notes.append("No cascade beats the single models on these samples.")
    return notes


def _config_name(number: int) -> str:
    return f"cascade-{number}.yaml"


def _comment(found: Frontier, pick: Pick, name: str) -> str:
    live = _stage_configs(found, pick) is not None
    commands = ("validate", "test") if live else ("validate",)
    names = " → ".join(found.zoo.names[model] for model in pick.point.stages)
    more = f" --split {_split(found)}" if live and _split(found) else ""
    more += "" if found.apart else " --allow_overlap"  # these were chosen on
    return f"{names}, found by lit-cascade search.\n" + "\n".join(
        f"  lit-cascade {command} --config {name}{more}" for command in commands
    )


def _split(found: Frontier) -> str | None:
    reported = found.protocol.reported_on or found.protocol.chosen_on
    split = reported.data.get("split")
    return None if split is None else str(split)


def _stage_configs(found: Frontier, pick: Pick) -> dict[str, Any] | None:
    """How to build the stages, if the records remember and what runs live can be told its cost."""
    if found.protocol.chosen_on.unit != "flops":
        return None
    models = [found.protocol.chosen_on.models[model] for model in pick.point.stages]
    stages = {model.name: model.model.get("config") for model in models}
    data = (found.protocol.reported_on or found.protocol.chosen_on).data.get("config")
    return stages if data and all(stages.values()) else None


def _config(found: Frontier, pick: Pick) -> dict[str, Any]:
    """A config that `validate` runs, and `test` too if the records say how the models are made."""
    from lit_cascade.analysis import fitted_on
    from lit_cascade.records import Record

    protocol, point = found.protocol, pick.point
    reported = protocol.reported_on or protocol.chosen_on
    names = [found.zoo.names[model] for model in point.stages]
    config: dict[str, Any] = {}
    stages = _stage_configs(found, pick)
    if stages is not None:
        config["model"] = {"stages": stages}
        config["data"] = reported.data["config"]
    else:
        paths = {model.name: str(model.path) for model in reported.models}
        config["records"] = [paths[name] for name in names]
    if protocol.chosen_on.unit != "flops":
        config["cost"] = protocol.chosen_on.unit
    evidence = fitted_on(Record.load(protocol.chosen_on.models[0].path))
    policy: dict[str, Any] = {
        "score": found.rule.score,
        "combine": found.rule.combine,
        "thresholds": dict(zip(names, point.thresholds, strict=False)),
        "evidence": {"thresholds": evidence},
    }
    if any(floor > -math.inf for floor in point.floors):
        policy["floors"] = dict(zip(names, point.floors, strict=False))
    if found.rule.calibrate:
        temperatures: Mapping[str, float] = dict(
            zip(found.zoo.names, found.temperatures, strict=True)
        )
        policy["temperatures"] = {name: temperatures[name] for name in names}
        policy["evidence"]["temperatures"] = dict(evidence)
    config["policy"] = policy
    return config
