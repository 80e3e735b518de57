"""How often does the check of a running cascade raise a false alarm, and how soon does it see one?

python -m tests.benchmarks.monitoring [--years 200] [--changes 40] [--out FILE.json]

Scores are uniform. The evidence of the policy is a sample of them, and the threshold its lowest
tenth, so that 10 % are deferred there. A year has 365 windows of 1,000 samples with a look after
each. Without a change, every alarm is false. With one, the share deferred rises in window 101 to 20
or 13 %, or the disagreement that audits find from 2 %, which is promised, to 4 %; how many windows
until the alarm is counted from there. Beside `Monitor` are tests of each window by itself, of the
share deferred (Fisher) and of the scores (chi-squared), as `check` makes them for records: at 5 %
each time, and at 5 % divided by the number of looks in the year, which has to be known.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binom, chi2_contingency, fisher_exact

from lit_cascade import Policy
from lit_cascade.analysis import Checked, Monitor, Window
from lit_cascade.analysis.check import references
from lit_cascade.core import StageOutcomes
from tests.benchmarks.sweep import machine

NAMES = ("small", "large")
CONFIDENCE, PROMISED, DEFERRED = 0.95, 0.02, 0.1
WINDOWS, SIZE, CHANGED = 365, 1000, 100
EVIDENCE = 5000


class Setting(NamedTuple):
    """Evidence and answers of a year.

    Attributes:
        title: in words.
        deferred: share deferred after the change.
        disagreement: of all answers after the change.
        audits: share of the answers of the first stage that are audited.
        evidence: number of samples that the policy was chosen on.
        size: samples of a window.
        windows: number of them.
    """

    title: str
    deferred: float = DEFERRED
    disagreement: float = PROMISED
    audits: float = 0.01
    evidence: int = EVIDENCE
    size: int = SIZE
    windows: int = WINDOWS

    @property
    def changes(self) -> bool:
        """Whether there is something to be seen."""
        return (self.deferred, self.disagreement) != (DEFERRED, PROMISED)


def policy_of(scores: np.ndarray) -> Policy:
    """A policy that defers the lowest tenth of some scores, with the evidence for it."""
    threshold = float(np.sort(scores)[round(DEFERRED * len(scores))])
    costs = torch.ones(len(scores), 2)
    outcomes = StageOutcomes(torch.from_numpy(scores)[:, None], None, costs)
    promise = {"target": "disagreement", "limit": PROMISED, "confidence": CONFIDENCE}
    evidence = {
        "promise": promise | {"stages": list(NAMES), "cost": "flops"},
        "scores": references(outcomes, [threshold], NAMES),
    }
    return Policy(threshold, names=NAMES, evidence=evidence)


class Year:
    """Windows of one year.

    Args:
        setting: what happens in it.
        seed: of everything that is drawn.
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        self._setting, self._random = setting, np.random.default_rng([seed, 19])
        self.policy = policy_of(self._random.random(setting.evidence))
        self.evidence = self.policy.evidence["scores"]["small"]
        (self._threshold,) = self.policy.thresholds or (0.0,)
        edges = np.array(self.evidence["edges"])
        # the threshold cuts one of the bins of the evidence in two
        self._cut = int(np.searchsorted(edges, self._threshold))
        self._cuts = np.insert(edges, self._cut, self._threshold)

    def window(self, number: int) -> tuple[int, np.ndarray, Checked]:
        """Number deferred, numbers below each edge of the evidence, and audits of a window."""
        setting, changed = self._setting, number >= CHANGED
        gone, threshold = self._threshold, self._threshold
        differ = PROMISED
        if changed:
            gone *= setting.deferred / DEFERRED
            differ = setting.disagreement
        lower, upper = gone / threshold, (1 - gone) / (1 - threshold)
        below = np.where(self._cuts <= threshold, lower * self._cuts, 1 - upper * (1 - self._cuts))
        shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
        counts = self._random.multinomial(setting.size, shares).cumsum()[:-1]
        deferred = int(counts[self._cut])
        audits = int(self._random.binomial(setting.size - deferred, setting.audits))
        lost = int(self._random.binomial(audits, differ / (1 - gone)))
        return deferred, np.delete(counts, self._cut), Checked(audits, lost)


def by_monitor(year: Year, setting: Setting) -> int | None:
    """Window of the first alarm of a `Monitor`."""
    monitor = Monitor(year.policy)
    kept = [year.evidence["edges"].index(edge) for edge in monitor.edges[0]]
    for number in range(setting.windows):
        deferred, below, checked = year.window(number)
        checks = {"disagreement": checked}
        rest = setting.size - deferred
        monitor.observe(Window([rest], [deferred], [below[kept].tolist()], checks))
        if not monitor.verdict().passed:
            return number
    return None


def by_windows(level: Callable[[Setting], float]) -> Callable[[Year, Setting], int | None]:
    """Window of the first alarm of tests of each window by itself, all at one level."""

    def first(year: Year, setting: Setting) -> int | None:
        then, n = year.evidence, setting.size
        counts = np.array(then["counts"])
        for number in range(setting.windows):
            deferred, below, checked = year.window(number)
            now = np.diff(np.concatenate([[0], below, [n]]))
            early = setting.size - deferred
            # audits of the first stage alone, at its share of the promise
            share = min(1.0, PROMISED * n / max(1, early))
            rate = [[then["deferred"], then["n"] - then["deferred"]], [deferred, n - deferred]]
            p = min(
                2 * fisher_exact(rate).pvalue,
                2 * chi2_contingency(np.stack([counts, now])).pvalue,
                binom.sf(checked.lost - 1, checked.n, share),
            )
            # as `check`: one level for the two tests of a shift, one for the promise
            if p <= level(setting):
                return number
        return None

    return first


METHODS: dict[str, Callable[[Year, Setting], int | None]] = {
    "check --follow": by_monitor,
    "each window at 5 %": by_windows(lambda _: 1 - CONFIDENCE),
    "each at 5 % / looks": by_windows(lambda setting: (1 - CONFIDENCE) / setting.windows),
}


def settings() -> list[Setting]:
    """What is simulated."""
    return [
        Setting("nothing changes"),
        Setting("nothing changes, evidence of 900", evidence=900),
        Setting("deferred 10 -> 20 %", deferred=0.2),
        Setting("deferred 10 -> 20 %, evidence of 900", deferred=0.2, evidence=900),
        Setting("deferred 10 -> 13 %", deferred=0.13),
        Setting("deferred 10 -> 13 %, evidence of 50,000", deferred=0.13, evidence=50_000),
        Setting("disagreement 2 -> 4 %, audits 1 %", disagreement=0.04),
        Setting("disagreement 2 -> 4 %, audits 10 %", disagreement=0.04, audits=0.1),
        Setting("nothing changes, 20,000 looks at 20 samples", size=20, windows=20_000),
    ]


def measured(setting: Setting, method: str, years: int) -> dict[str, Any]:
    """Alarms of one method in simulated years."""
    first = [METHODS[method](Year(setting, seed), setting) for seed in range(years)]
    alarms = [one for one in first if one is not None]
    row: dict[str, Any] = setting._asdict() | {"method": method, "years": years}
    before = sum(one < CHANGED for one in alarms) if setting.changes else len(alarms)
    row["false_alarms"] = before / years
    row["standard_error"] = math.sqrt(max(before, 1) * (1 - before / years)) / years
    if setting.changes:
        late = [setting.windows if one is None else one for one in first]
        delays = [one - CHANGED + 1 for one in late if one >= CHANGED]
        row["seen"] = sum(one >= CHANGED for one in alarms) / max(1, len(delays))
        row["median_windows"] = float(np.median(delays)) if delays else None
        row["p90_windows"] = float(np.quantile(delays, 0.9)) if delays else None
    return row


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--years", type=int, default=200)
    parser.add_argument("--changes", type=int, default=40, help="years with a change")
    parser.add_argument("--out", type=Path, help="rows that it holds already are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("setting", "check", "false alarm in a year", "seen", "windows", "90 % within")
    rows: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = []
    if options.out and options.out.exists():
        known = json.loads(options.out.read_text())["rows"]
    for setting in settings():
        for method in METHODS:
            years = options.changes if setting.changes else options.years
            if setting.windows > WINDOWS:
                if method != "check --follow":
                    continue  # an exact test takes as long as all bets
                years //= 20
            start = time.process_time()
            what = setting._asdict() | {"method": method, "years": years}
            kept = (row for row in known if what.items() <= row.items())
            row = next(kept, None) or measured(setting, method, years)
            rows.append(row)
            median, most = row.get("median_windows"), row.get("p90_windows")
            table.add_row(
                setting.title, method, f"{row['false_alarms']:.1%} of {years:,}",
                "" if median is None else f"{row['seen']:.0%}",
                "" if median is None else f"{median:g}", "" if most is None else f"{most:g}",
            )  # fmt: skip
            print(f"{setting.title}, {method}: {time.process_time() - start:.0f} s", flush=True)
            if options.out:
                content = {"machine": machine(), "confidence": CONFIDENCE, "rows": rows}
                options.out.write_text(json.dumps(content, indent=1) + "\n")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
