"""Test of a policy's promise, and of a shift of the scores, on answers that keep coming."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lit_cascade.analysis.check import ScoreShift, Verdict, promise_in
from lit_cascade.core import Policy
from lit_cascade.core.guarantee import RunningTests, rate_bounds
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import PolicyOptions
from lit_cascade.utilities.units import counted, percent

_OF_ALARM, _OF_EVIDENCE = 0.25, 0.5
"""Parts of the probability of a false alarm: bets on the promise and bets on a shift have each the
first, bounds of what the evidence says the second."""

_FORMAT = 1


@dataclass
class Checked:
    """Answers that were compared with labels or audits, for one target.

    Attributes:
        n: number of them.
        lost: those that count against the promise.
        won: those that count for it.
    """

    n: int = 0
    lost: int = 0
    won: int = 0

    def add(self, other: Checked) -> None:
        """Add those of another window."""
        self.n, self.lost, self.won = (
            self.n + other.n, self.lost + other.lost, self.won + other.won,
        )  # fmt: skip


@dataclass
class Window:
    """Counts of the samples in a window, of K stages.

    Attributes:
        answered: number of samples that each deferring stage answers, (K - 1,).
        deferred: number of those that it defers, (K - 1,).
        below: for each deferring stage, the number of samples that reach it and have a score below
            each of `Monitor.edges`; None where the scores are unknown.
        checked: answers that were compared, by target. Those of `accuracy` are drawn from all
            answers; others from those of the stages before the last, or from all where an answer of
            the last stage may not be the cascade's (`Monitor.checks_all`).
    """

    answered: list[int]
    deferred: list[int]
    below: list[list[int] | None] = field(default_factory=list)
    checked: dict[str, Checked] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.reached(0)

    def add(self, other: Window) -> None:
        """Add the counts of another window, but for its scores."""
        self.answered = [a + b for a, b in zip(self.answered, other.answered, strict=True)]
        self.deferred = [a + b for a, b in zip(self.deferred, other.deferred, strict=True)]
        for target, checked in other.checked.items():
            self.checked.setdefault(target, Checked()).add(checked)

    def reached(self, stage: int) -> int:
        """Number of samples that reach a deferring stage."""
        return self.answered[stage] + self.deferred[stage]

    @property
    def ends(self) -> list[int]:
        """Number of samples that each stage answers, or is to answer, (K,)."""
        return [*self.answered, self.deferred[-1]]

    @property
    def early(self) -> float:
        """Share of the samples that a stage before the last answers."""
        return 1 - self.deferred[-1] / max(1, sum(self.ends))


class Monitor:
    """Test of a policy's promise, and of a shift of its scores, that may be repeated at will.

    With probability `confidence`, it never raises a false alarm, however many windows it sees and
    however often it is asked: a promise that is kept is never called broken, and scores are never
    called shifted while each sample's probability to be deferred, and to score below each edge of
    the evidence, is one that the evidence's own sample allows. Tests are bets
    (`core.guarantee.RunningTests`); the bounds of the evidence are exact (`rate_bounds`).

    Args:
        policy: with the evidence that `select` gives it.
        confidence: probability of no false alarm, ever; by default that of the promise.
        costs: cost per sample of each stage, for a promise of a cost.

    Attributes:
        edges: for each deferring stage the scores at which distributions are compared: edges of the
            evidence that are at least the threshold, or at most the floor. What lies between is
            deferred, and its rate is compared.
        windows: number of windows seen.

    Raises:
        UsageError: a confidence out of range.
        CascadeError: a policy without a promise, or with damaged evidence.

    Examples:
        >>> evidence = {
        ...     "promise": {"target": "deferral_rate", "limit": 0.2, "confidence": 0.95,
        ...                 "stages": ["small", "large"], "cost": "flops"},
        ...     "scores": {"small": {"n": 1000, "deferred": 100, "edges": [0.5, 0.9],
        ...                          "counts": [100, 500, 400]}},
        ... }
        >>> monitor = Monitor(Policy(0.5, names=("small", "large"), evidence=evidence))
        >>> for deferred in (100, 310):
        ...     monitor.observe(Window([1000 - deferred], [deferred], [[deferred, 600]]))
        >>> verdict = monitor.verdict()
        >>> verdict.outcome, verdict.drifted, verdict.since
        ('broken', True, 'window 2')
    """

    def __init__(
        self,
        policy: Policy | PolicyOptions,
        *,
        confidence: float | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        evidence = policy.evidence or {}
        self.promise, terms = promise_in(evidence)
        self.names, self.unit = tuple(terms["stages"]), terms["cost"]
        self.policy = Policy.of(policy, self.names)
        self.thresholds = self.policy.required_thresholds(self.names)
        self.confidence = confidence or self.promise.confidence or 0.95
        if not 0.5 <= self.confidence < 1:
            raise UsageError(
                f"confidence: expected a probability from 0.5 to below 1, got {confidence}."
            )
        alpha, stages = 1 - self.confidence, len(self.thresholds)
        self._costs = None if costs is None else np.array([costs[name] for name in self.names])
        scores = evidence.get("scores") or {}
        self._stages = [
            _StageTest(scores, name, threshold, floor, alpha * _OF_EVIDENCE / stages)
            for name, threshold, floor in zip(
                self.names, self.thresholds, self.policy.floors, strict=False
            )
        ]
        self.edges = [one.edges for one in self._stages]
        self._losses = self._losses_test()
        self.windows = 0
        self._seen = Window([0] * stages, [0] * stages)
        self._marks: dict[int, str] = {}
        self._peaks = [0.0, 0.0]
        self._since: list[str | None] = [None, None]

    @property
    def checks_all(self) -> bool:
        """Whether an answer of the last stage may differ from the cascade's."""
        return self.policy.combine != "later"

    def _losses_test(self) -> RunningTests | None:
        """Tests that the mean loss is at most the promised one, and that it is at least that."""
        low, high, limit = 0.0, 1.0, self.promise.limit
        if self.promise.target == "accuracy":
            limit = 1 - limit
        elif self.promise.target == "accuracy_drop":
            low = -1.0
        elif not self.promise.counted:
            if self._costs is None:
                return None
            values = self._spent()
            low, high = float(values.min()), float(values.max())
            limit = 0.0 if self.promise.target == "cost_ratio" else limit
        return RunningTests(np.array([limit, -limit]), np.array([low, -high]))

    def _spent(self) -> np.ndarray:
        """Cost of an answer of each stage, beyond what a ratio allows."""
        costs = np.zeros(len(self.names)) if self._costs is None else self._costs
        allowed = self.promise.limit * costs[-1] if self.promise.target == "cost_ratio" else 0.0
        spent: np.ndarray = costs.cumsum() - allowed
        return spent

    def observe(self, window: Window, mark: str = "") -> None:
        """Take the answers of the next window.

        Args:
            window: their counts.
            mark: where or when it starts, for `Verdict.since`; by default its number.
        """
        self._marks[self.windows] = mark or f"window {self.windows + 1}"
        for k, test in enumerate(self._stages):
            test.update(window.reached(k), window.deferred[k], window.below[k])
        if self._losses is not None:
            values, counts = self._loss_counts(window)
            against = counts
            if self._only_audits(window):  # a drop is at most that: it can be kept, never broken
                against = np.zeros_like(counts)
            self._losses.update(np.array([values, -values]), np.array([against, counts]))
        self.windows += 1
        self._seen.add(window)
        for k, (log_e, since) in enumerate((self._broken(), self._shifted())):
            self._peaks[k] = max(self._peaks[k], log_e)
            if self._since[k] is None and log_e >= math.log(self.alarm_at):
                self._since[k] = self._marks.get(since)
        used = {start for test in self._tests() for start in test.starts}
        self._marks = {start: mark for start, mark in self._marks.items() if start in used}

    def look(self, window: Window, mark: str = "") -> Monitor:
        """The monitor as it is in the midst of a window, which is observed again when it is full.

        An alarm of it is one of this monitor too.

        Args:
            window: the answers so far.
            mark: as for `observe`.
        """
        ahead = copy.deepcopy(self)
        ahead.observe(window, mark)
        self._peaks, self._since = list(ahead._peaks), list(ahead._since)  # noqa: SLF001 - a copy
        return ahead

    def _loss_counts(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Losses of a window, and how many samples have each."""
        target = self.promise.target
        if target == "deferral_rate":
            return np.array([0.0, 1.0]), np.array([window.answered[0], window.deferred[0]])
        if not self.promise.counted:
            return self._spent(), np.array(window.ends)
        if self._only_audits(window):
            target = "disagreement"
        one = window.checked.get(target, Checked())
        if target != "accuracy" and not self.checks_all:
            return _as_drawn_from_all(one, window, self.windows)
        counts = np.array([one.n - one.lost - one.won, one.lost, one.won])
        kinds = 3 if target == "accuracy_drop" else 2  # of others no answer can be won
        return np.array([0.0, 1.0, -1.0])[:kinds], counts[:kinds]

    def _only_audits(self, window: Window) -> bool:
        """Whether a drop can be told from audits alone, without labels."""
        return self.promise.target == "accuracy_drop" and "accuracy_drop" not in window.checked

    def _tests(self) -> list[RunningTests]:
        own = [] if self._losses is None else [self._losses]
        return [*own, *(stage.tests for stage in self._stages)]

    def _broken(self) -> tuple[float, int]:
        """Evidence against the promise, and the window since when."""
        if self._losses is None:
            return 0.0, 0
        return float(self._losses.log_e()[0]), int(self._losses.since()[0])

    def _shifted(self) -> tuple[float, int]:
        """Evidence for a shift in any stage, and the window since when."""
        found = [one.shift() for one in self._stages]
        mixed = np.logaddexp.reduce([log_e for log_e, _ in found]) - math.log(len(found))
        return float(mixed), max(found)[1]

    @property
    def e_values(self) -> tuple[float, float]:
        """Present evidence against the promise and for a shift: what a bet of 1 has become."""
        broken, shifted = (min(700.0, one[0]) for one in (self._broken(), self._shifted()))
        return math.exp(broken), math.exp(shifted)

    @property
    def alarm_at(self) -> float:
        """E-value at which the promise is called broken, or the scores shifted."""
        return 1 / ((1 - self.confidence) * _OF_ALARM)

    @property
    def n(self) -> int:
        """Number of samples seen."""
        return len(self._seen)

    @property
    def value(self) -> float | None:
        """Value of the promised target on all samples; None where nothing was compared."""
        target, n = self.promise.target, self.n
        if target == "deferral_rate":
            return self._seen.deferred[0] / n if n else None
        if not self.promise.counted:
            if self._costs is None or not n:
                return None
            ends = np.array(self._seen.ends)
            mean = float(self._costs.cumsum() @ ends) / max(1, int(ends.sum()))
            return mean / float(self._costs[-1]) if target == "cost_ratio" else mean
        one = self._seen.checked.get(target)
        if one is None or not one.n:
            return None
        share = (one.lost - one.won) / one.n
        if target == "accuracy":
            return 1 - share
        return share if self.checks_all else share * self._seen.early

    def verdict(self) -> Verdict:
        """The state of the tests. An alarm stays, whatever comes after it."""
        value, alpha = self.value, 1 - self.confidence
        broken, drifted = (peak >= math.log(self.alarm_at) for peak in self._peaks)
        outcome, notes = "unknown" if value is None else "open", list[str]()
        if broken:
            outcome = "broken"
        elif self._losses is not None and self._losses.log_e()[1] >= -math.log(alpha):
            outcome = "kept"
        if value is None and self.promise.target == "accuracy_drop":
            notes += self._bound_by_audits()
        if not self.promise.counted and self._costs is None:
            notes.append("Note: the costs of the stages are unknown, so the price is not tested.")
        since = [mark for mark in self._since if mark is not None]
        return Verdict(
            promise=self.promise,
            confidence=self.confidence,
            n=self.n,
            value=value,
            outcome=outcome,
            shifts=tuple(
                stage.described(name, self._seen.reached(k), self._seen.deferred[k])
                for k, (name, stage) in enumerate(zip(self.names, self._stages, strict=False))
            ),
            drifted=drifted,
            unit=self.unit,
            notes=tuple(notes),
            since=since[0] if since else None,
        )

    def _bound_by_audits(self) -> list[str]:
        """What audits without labels say of an accuracy drop."""
        one = self._seen.checked.get("disagreement")
        if one is None or not one.n:
            return []
        share = one.lost / one.n
        if not self.checks_all:
            share *= self._seen.early
        told = (
            f"Note: {percent(share, 2)} of the answers differ from the last stage's "
            f"({counted(one.n, 'audit')}); the drop is at most that, and labels would tell."
        )
        return [told]

    def state(self) -> dict[str, Any]:
        """What has been seen, as plain JSON, for `restore`."""
        return {
            "format": _FORMAT,
            "policy": self.policy.fingerprint,
            "confidence": self.confidence,
            "windows": self.windows,
            "seen": {
                "answered": self._seen.answered,
                "deferred": self._seen.deferred,
                "checked": {name: vars(one) for name, one in self._seen.checked.items()},
            },
            "marks": {str(start): mark for start, mark in self._marks.items()},
            "peaks": self._peaks,
            "since": self._since,
            "tests": [test.state() for test in self._tests()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave.

        Raises:
            CascadeError: it is damaged, or of another policy or confidence.
        """
        for name, own in (("policy", self.policy.fingerprint), ("confidence", self.confidence)):
            if state.get(name) != own:
                raise CascadeError(
                    f"state: it is of {name} {state.get(name)}, not {own}; begin another file."
                )
        if state.get("format") != _FORMAT:
            raise CascadeError("state: another version wrote it; begin another file.")
        try:
            for test, given in zip(self._tests(), state["tests"], strict=True):
                test.restore(given)
            self.windows = int(state["windows"])
            seen = state["seen"]
            answered, deferred = ([int(n) for n in seen[name]] for name in ("answered", "deferred"))
            self._seen = Window(answered, deferred)
            self._seen.checked = {name: Checked(**one) for name, one in seen["checked"].items()}
            self._marks = {int(start): str(mark) for start, mark in state["marks"].items()}
            self._peaks = [float(peak) for peak in state["peaks"]]
            self._since = list(state["since"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CascadeError(f"state: it is damaged ({error}); begin another file.") from error


def _as_drawn_from_all(one: Checked, window: Window, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of audits of the stages before the last, as if they were of all answers.

    The answers of a window are dealt at random to as many groups as there are audits. The share of
    early answers in a group times the loss of its audit has the mean loss of all answers as its
    expectation, whatever the share of audits is, and the groups are independent.
    """
    total, early = sum(window.ends), sum(window.answered)
    n = min(one.n, early)  # audits may lag behind
    if n < 1:
        return np.zeros(1), np.zeros(1)
    generator = np.random.default_rng(seed)
    kinds = [one.lost, one.won, one.n - one.lost - one.won]
    lost, won, _ = generator.multivariate_hypergeometric(kinds, n)
    sizes = np.full(n, total // n)
    sizes[: total % n] += 1
    generator.shuffle(sizes)
    # marginals: numpy's other method takes memory for each sample
    shares = generator.multivariate_hypergeometric(sizes, early, method="marginals") / sizes
    losses = np.concatenate([shares[:lost], -shares[lost : lost + won], np.zeros(1)])
    return losses, np.concatenate([np.ones(lost + won), [n - lost - won]])


class _StageTest:
    """Tests that the scores of a stage stay within what the evidence says of them.

    Half of the bets are on the share that is deferred, the others on the shares of scores below
    each edge; half of each that it rises, half that it falls.

    Args:
        scores: `policy.evidence.scores`.
        name: of the stage.
        threshold: of the stage.
        floor: of the stage.
        delta: probability that one of the bounds of the evidence is wrong.

    Raises:
        CascadeError: damaged evidence.
    """

    def __init__(
        self, scores: Mapping[str, Any], name: str, threshold: float, floor: float, delta: float
    ) -> None:
        try:
            then = scores[name]
            self._n, self._deferred = int(then["n"]), int(then["deferred"])
            edges, counts = list(map(float, then["edges"])), list(map(int, then["counts"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CascadeError(
                f"policy.evidence.scores: expected n, deferred, edges and counts of {name!r}."
            ) from error
        if len(counts) != len(edges) + 1 or sum(counts) != self._n or self._deferred > self._n:
            raise CascadeError(f"policy.evidence.scores: the counts of {name!r} are damaged.")
        below = np.cumsum(counts)[:-1].tolist()
        kept = [k for k, edge in enumerate(edges) if edge >= threshold or edge <= floor]
        self.edges = [edges[k] for k in kept]
        cuts = [self._deferred, *(below[k] for k in kept)]
        half = 0.5 if kept else 1.0
        weights = np.array([half, *[(1 - half) / max(1, len(kept))] * len(kept)])
        bounds = np.array(
            [
                rate_bounds(cut, self._n, delta * weight)
                for cut, weight in zip(cuts, weights, strict=True)
            ]
        )
        self._weights = np.concatenate([weights, weights]) / 2
        self.tests = RunningTests(
            np.concatenate([bounds[:, 1], -bounds[:, 0]]),
            np.concatenate([np.zeros(len(cuts)), -np.ones(len(cuts))]),
        )

    def update(self, reached: int, deferred: int, below: Sequence[int] | None) -> None:
        """Take the samples of the next window."""
        known = below is not None
        cuts = np.array([deferred, *(below if below is not None else [0] * len(self.edges))])
        n = np.array([reached, *[reached if known else 0] * len(self.edges)])
        counts = np.stack([np.maximum(n - cuts, 0), cuts], axis=1)
        zeros, ones = np.zeros(len(cuts)), np.ones(len(cuts))
        values = np.stack([zeros, ones], axis=1)
        self.tests.update(np.concatenate([values, -values]), np.concatenate([counts, counts]))

    def shift(self) -> tuple[float, int]:
        """Evidence of a shift, and the window since when."""
        return float(self.tests.log_e(self._weights)), int(self.tests.since(self._weights))

    def described(self, name: str, reached: int, deferred: int) -> ScoreShift:
        """The shift as `check` tells it, with p-values that hold at any time."""
        spent = self.tests.log_e()
        half = len(spent) // 2
        rate = max(spent[0], spent[half]) - math.log(2)
        others = np.delete(np.arange(2 * half), [0, half])
        scores = None
        if len(others):
            mixed = np.logaddexp.reduce(spent[others]) - math.log(len(others))
            scores = math.exp(-max(0.0, float(mixed)))
        return ScoreShift(
            stage=name,
            reference_rate=self._deferred / max(1, self._n),
            rate=deferred / max(1, reached),
            rate_p_value=math.exp(-max(0.0, float(rate))),
            scores_p_value=scores,
            n=reached,
        )
