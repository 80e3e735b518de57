"""What cascades of commercial services save, chosen on half of the samples, measured on the others.

python -m tests.benchmarks.services [--data ../shared/data/api_predictions] [--names ferplus ...]
    [--choices NAME ...] [--splits 20] [--out FILE.json] [--resume]

For each draw of a half, every choice is made there: the services, their order, the learned scores
and the thresholds, for the least cost at the accuracy of the service that is best there. The
figures are those of the other half. Data: the predictions of the FrugalML authors
(github.com/lchen001/FrugalML), with the dollars per call that the services charged in 2020.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_cascade import Policy, Record
from lit_cascade.analysis import cross_fitted, fit_heads
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.selection import select_thresholds
from lit_cascade.core import LEARNED, Curve, OperatingPoint, StageOutcomes, cheapest
from lit_cascade.core.guarantee import Promise
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

DATA = Path(__file__).parents[3] / "shared" / "data" / "api_predictions"
NAMES = ("ferplus", "rafdb", "command", "waimai", "imdb", "audiomnist")
UNIT = "usd"
BUDGET_SPLITS = 5  # as many as FrugalML's seeds
Chain = tuple[str, ...]
Make = Callable[[Sequence[Record], Tensor], Policy]


class Choice(NamedTuple):
    """A cascade that was chosen on some samples."""

    cost: float
    chain: Chain
    policy: Policy
    thresholds: tuple[float, ...]


def services(data: Path, name: str) -> dict[str, Record]:
    """Records of the services on one data set, cheapest first."""
    table = pd.read_parquet(data / f"{name}.parquet")
    prices = pd.read_csv(data / "prices.csv").query("dataset == @name").set_index("service")
    prices = prices.usd_per_call.sort_values()
    columns = ["label", *(f"{service}_prediction" for service in prices.index)]
    classes = [str(c) for c in range(int(table[columns].to_numpy().max()) + 1)]
    return {
        service: Record.from_arrays(
            service,
            labels=table["label"].to_numpy(copy=True),
            prediction=table[f"{service}_prediction"].to_numpy(copy=True),
            score=table[f"{service}_confidence"].to_numpy(copy=True),
            costs={UNIT: price},
            classes=classes,
        )
        for service, price in prices.items()
    }


def unit(records: Sequence[Record]) -> str:
    """The unit of the records' cost."""
    return next(iter(records[0].costs))


def price(record: Record) -> float:
    """Mean cost of a sample."""
    return float(record.cost(unit([record])).mean())


def accuracy(record: Record, rows: Tensor) -> float:
    return float(record.right[rows].double().mean())


def plain(score: str) -> Make:
    return lambda records, _: Policy(score=score, stages=len(records))


def learned(records: Sequence[Record], rows: Tensor) -> Policy:
    heads = tuple(
        one.head for one in fit_heads(records, Policy(stages=len(records)), rows).values()
    )
    return Policy(score=LEARNED.name, heads=heads, stages=len(records))


def point_at(outcomes: StageOutcomes, target: float) -> OperatingPoint | None:
    """The cheapest thresholds that reach an accuracy on these samples."""
    if outcomes.scores.shape[1] == 1:
        return cheapest(outcomes.curve(), target)
    chosen = select_thresholds(outcomes, Promise.of(None, min_accuracy=target)).empirical
    return chosen and outcomes.at(chosen.thresholds)


def chosen_on(
    zoo: dict[str, Record],
    rows: Tensor,
    make: Make,
    sizes: Sequence[int],
    *,
    loss: float = 0.0,
    crossed: Callable[[Chain], StageOutcomes] | None = None,
) -> Choice:
    """The cheapest cascade for the accuracy of the best service, less a loss, that ends in it.

    A learned score is fitted once to compare cascades, and `crossed`, which fits it on other
    samples than it is judged on, gives the thresholds of the one that is chosen.
    """
    best = max(zoo, key=lambda name: accuracy(zoo[name], rows))
    target = accuracy(zoo[best], rows) - loss
    alone = Choice(price(zoo[best]), (best,), Policy(stages=2), ())
    cheaper = list(zoo)[: list(zoo).index(best)]
    choices = []
    for size in sizes:
        for some in combinations(cheaper, size - 1):
            chain = (*some, best)
            records = [zoo[name] for name in chain]
            policy = make(records, rows)
            outcomes = outcomes_of(records, policy, unit(records)).rows(rows)
            point = point_at(outcomes, target)
            if point is not None:
                choices.append(Choice(point.cost, chain, policy, point.thresholds))
    if not choices:
        return alone
    choice = min(choices, key=lambda one: one.cost)
    if crossed:
        point = point_at(crossed(choice.chain), target)
        if point is None:
            return alone
        choice = choice._replace(thresholds=point.thresholds)
    return choice


def measured(zoo: dict[str, Record], choice: Choice, rows: Tensor) -> tuple[float, float]:
    """Accuracy and mean cost of a choice on some samples."""
    records = [zoo[name].rows(rows) for name in choice.chain]
    if len(records) == 1:
        return accuracy(records[0], torch.arange(len(rows))), price(records[0])
    point = outcomes_of(records, choice.policy, unit(records)).at(choice.thresholds)
    return point.accuracy, point.cost


class Method(NamedTuple):
    """A way to choose: its score, how many services, and the accuracy that may be lost."""

    make: Make
    sizes: tuple[int, ...]
    loss: float = 0.0


METHODS = {
    "confidence, one threshold": Method(plain("recorded"), (2,)),
    "agreement, up to three services": Method(plain("agreement"), (2, 3)),
    "learned, two services": Method(learned, (2,)),
    "learned, two services, 0.2 points may be lost": Method(learned, (2,), 0.002),
    "learned, up to three services": Method(learned, (2, 3)),
}


def halves(n: int, splits: int) -> Iterator[tuple[Tensor, Tensor]]:
    for seed in range(splits):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        yield order[: n // 2].sort().values, order[n // 2 :].sort().values


def once(make: Make) -> Make:
    """Make the policy of a chain once only, for the same samples."""
    found: dict[Chain, Policy] = {}

    def made(records: Sequence[Record], rows: Tensor) -> Policy:
        chain = tuple(record.name for record in records)
        if chain not in found:
            found[chain] = make(records, rows)
        return found[chain]

    return made


def crossed_on(zoo: dict[str, Record], rows: Tensor) -> Callable[[Chain], StageOutcomes]:
    """A function of a chain: what its stages do by cross-fitted scores, computed once only."""

    @cache
    def crossed(chain: Chain) -> StageOutcomes:
        records = [zoo[name].rows(rows) for name in chain]
        return cross_fitted(records, cost=unit(records))

    return crossed


def drawn(
    zoo: dict[str, Record], choices: Sequence[str], here: Tensor, there: Tensor
) -> Iterator[dict[str, Any]]:
    """Saving and accuracy lost of each way to choose on one half, measured on the other.

    `saving_in_reach` is that of the cheapest thresholds of the same cascade for the accuracy that
    was asked for, had they been chosen on the samples that are measured.
    """
    best = max(zoo, key=lambda name: accuracy(zoo[name], here))
    before, dearest, fitted = accuracy(zoo[best], there), price(zoo[best]), once(learned)
    crossed = crossed_on(zoo, here)
    for name in choices:
        make, sizes, loss = METHODS[name]
        fits = {"make": fitted, "crossed": crossed} if make is learned else {"make": make}
        choice = chosen_on(zoo, here, sizes=sizes, loss=loss, **fits)
        reached, cost = measured(zoo, choice, there)
        records = [zoo[one].rows(there) for one in choice.chain]
        point = None
        if len(records) > 1:
            point = point_at(outcomes_of(records, choice.policy, unit(records)), before - loss)
        yield {
            "choice": name,
            "chain": " > ".join(choice.chain),
            "saving": 1 - cost / dearest,
            "accuracy_lost": before - reached,
            "saving_in_reach": 1 - point.cost / dearest if point else 0.0,
        }


def averaged(name: str, draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations of a choice over the draws of the halves."""
    row: dict[str, Any] = {"choice": name}
    for figure in ("saving", "accuracy_lost", "saving_in_reach"):
        values = [one[figure] for one in draws]
        row |= {figure: fmean(values), f"{figure}_sd": stdev(values) if len(values) > 1 else None}
    return row | {"chains": dict(Counter(one["chain"] for one in draws).most_common())}


def published(data: Path) -> dict[float, float]:
    """Mean accuracy of FrugalML on RAF-DB over its seeds, by dollars per call."""
    found: dict[float, list[float]] = {}
    with (data / "frugalml_rafdb_published.csv").open() as file:
        for row in csv.DictReader(file):
            if row["method"] == "FrugalML":
                budget = float(row["usd_per_call"])
                found.setdefault(budget, []).append(float(row["test_accuracy"]))
    return {budget: fmean(values) for budget, values in sorted(found.items())}


def at_budgets(
    zoo: dict[str, Record], budgets: Sequence[float], here: Tensor, there: Tensor
) -> list[float]:
    """Accuracy at each budget of the cascade that is the most accurate on the choosing half.

    A service alone is one of them. Three services share one threshold.
    """
    options: list[tuple[Curve, Callable[[float], float]]] = []
    for chain in (*combinations(zoo, 2), *combinations(zoo, 3)):
        records = [zoo[name] for name in chain]
        whole = outcomes_of(records, learned(records, here), unit(records)).rows(there)
        curve = cross_fitted([one.rows(here) for one in records], cost=unit(records)).curve()
        options.append((curve, partial(_reached, whole)))
    return [_best_within(zoo, options, budget, here, there) for budget in budgets]


def _reached(outcomes: StageOutcomes, threshold: float) -> float:
    return outcomes.at((threshold,) * outcomes.scores.shape[1]).accuracy


def _best_within(
    zoo: dict[str, Record],
    options: Sequence[tuple[Curve, Callable[[float], float]]],
    budget: float,
    here: Tensor,
    there: Tensor,
) -> float:
    """Accuracy on other samples of the best choice within a budget on some."""
    tops = [
        (accuracy(record, here), partial(accuracy, record, there))
        for record in zoo.values()
        if price(record) <= budget
    ]
    for curve, reached in options:
        within = curve.cost <= budget
        if bool(within.any()):
            row = int(torch.where(within, curve.accuracy, -1.0).argmax())
            top, threshold = float(curve.accuracy[row]), float(curve.thresholds[row])
            tops.append((top, partial(reached, threshold)))
    return max(tops, key=lambda one: one[0])[1]()


def measure(
    zoo: dict[str, Record],
    found: dict[str, Any],
    choices: Sequence[str],
    splits: int,
    theirs: dict[float, float],
) -> Iterator[None]:
    """Add the draws that are missing to what was found, one by one; rows of other choices stay."""
    found |= {
        "samples": len(next(iter(zoo.values()))),
        "accuracy": {one: accuracy(zoo[one], torch.arange(len(zoo[one]))) for one in zoo},
    }
    draws, budgets = found.setdefault("draws", {}), found.setdefault("budget_draws", [])
    for k, (here, there) in enumerate(halves(found["samples"], splits)):
        missing = [name for name in choices if len(draws.setdefault(name, [])) <= k]
        for one in drawn(zoo, missing, here, there):
            draws[one["choice"]].append(one)
        if theirs and k >= len(budgets) and k < BUDGET_SPLITS:
            budgets.append(at_budgets(zoo, list(theirs), here, there))
        rows = {one["choice"]: one for one in found.get("rows", [])}
        rows |= {name: averaged(name, some) for name, some in draws.items()}
        found["rows"] = [rows[name] for name in METHODS if name in rows]
        if theirs:
            found["budgets"] = [
                {"usd": budget, "frugalml": theirs[budget], "learned": fmean(values),
                 "learned_sd": stdev(values) if len(values) > 1 else None}
                for budget, *values in zip(theirs, *budgets, strict=True)
            ]  # fmt: skip
        yield


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--choices", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--resume", action="store_true", help="keep what --out holds")
    options = parser.parse_args()
    console, content = Console(width=130), {}
    if options.resume and options.out and options.out.exists():
        content = json.loads(options.out.read_text(encoding="utf-8"))
    content |= {"machine": machine(), "splits": options.splits}
    for name in options.names:
        zoo, found = services(options.data, name), content.setdefault(name, {})
        theirs = published(options.data) if name == "rafdb" else {}
        for _ in measure(zoo, found, options.choices, options.splits, theirs):
            write_results(options.out, content)
        table = Table(name, "saving", "in reach", "accuracy lost", "most often")
        for row in found["rows"]:
            table.add_row(
                row["choice"], f"{row['saving']:.1%}", f"{row['saving_in_reach']:.1%}",
                f"{100 * row['accuracy_lost']:.2f} points", next(iter(row["chains"])),
            )  # fmt: skip
        console.print(table)
        if theirs:
            table = Table("dollars per 1,000 calls", "FrugalML, published", "learned")
            for row in found["budgets"][::5]:
                table.add_row(
                    f"{1000 * row['usd']:.3f}", f"{row['frugalml']:.2%}", f"{row['learned']:.2%}"
                )
            console.print(table)


if __name__ == "__main__":
    main()
