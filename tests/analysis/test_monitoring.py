"""`Monitor`: the tests of a running cascade, against plain loops and simulated streams."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lit_cascade import Policy
from lit_cascade.analysis import Checked, Monitor, Tally, Window
from lit_cascade.analysis.check import references
from lit_cascade.analysis.monitoring import _as_drawn_from_all
from lit_cascade.core import StageOutcomes
from lit_cascade.core.guarantee import rate_bounds
from lit_cascade.core.guarantee.bounds import bets_up_to
from lit_cascade.core.guarantee.monitoring import unspent
from lit_cascade.errors import CascadeError, UsageError

NAMES = ("small", "medium", "large")


def policy_of(scores, thresholds, target="disagreement", limit=0.05, confidence=0.95, **rest):
    """A policy whose evidence are these scores (N, K - 1)."""
    scores = torch.as_tensor(scores, dtype=torch.float64).reshape(len(scores), -1)
    names = NAMES[: scores.shape[1]] + NAMES[-1:]
    outcomes = StageOutcomes(scores, None, torch.ones(len(scores), len(names)))
    promise = {"target": target, "limit": limit, "confidence": confidence, "cost": "flops"}
    evidence = {
        "promise": promise | {"stages": list(names)},
        "scores": references(outcomes, list(thresholds), names),
    }
    return Policy(thresholds, names=names, evidence=evidence, **rest)


def lines_of(scores, thresholds, **more):
    """What a cascade answers on samples with these scores (N, K - 1)."""
    lines = []
    for row in np.asarray(scores).reshape(len(scores), -1).tolist():
        stage = next((k for k, s in enumerate(row) if s >= thresholds[k]), len(row))
        lines.append({"stage": stage} | ({"score": row[stage]} if stage < len(row) else {}) | more)
    return lines


def fed(monitor, lines, every):
    tally = Tally(monitor)
    for number, line in enumerate(lines, 1):
        tally.add(json.dumps(line), "here", number)
        if len(tally) == every:
            monitor.observe(tally.window, tally.mark)
            tally.begin()
    return monitor


def slow_e(policy, scores, every, stage):
    """E-value of a shift of one stage: bets sample by sample, a bet for each start."""
    threshold, summary = policy.thresholds[stage], policy.evidence["scores"][policy.names[stage]]
    stages = len(policy.thresholds)
    kept = [k for k, edge in enumerate(summary["edges"]) if edge >= threshold]
    cuts = [(lambda s: s < threshold, summary["deferred"], 0.5 if kept else 1.0)]
    for k in kept:
        edge = summary["edges"][k]
        count = sum(summary["counts"][: k + 1])
        cuts.append((lambda s, edge=edge: s < edge, count, 0.5 / len(kept)))
    windows = [scores[at : at + every] for at in range(0, len(scores), every)]
    total = 0.0
    for inside, count, weight in cuts:
        low, high = rate_bounds(count, summary["n"], 0.05 * 0.5 / stages * weight)
        for sign, limit, lowest in ((1, high, 0), (-1, -low, -1)):
            for bet in bets_up_to(limit - lowest, 16, 1e-3):
                for start in range(len(windows)):
                    capital = 1.0
                    for window in windows[start:]:
                        for row in window:
                            if all(
                                s < t for s, t in zip(row[:stage], policy.thresholds, strict=False)
                            ):
                                capital *= 1 + bet * (sign * inside(row[stage]) - limit)
                    stake = unspent(start) - unspent(start + 1)
                    total += weight / 2 * stake * capital / 16
    return total + unspent(len(windows))


@pytest.mark.parametrize("kind", ["random", "ties", "equal"])
def test_evidence_of_a_shift_is_that_of_plain_bets(kind):
    generator = np.random.default_rng(3)
    then, now = generator.random((90, 2)), generator.random((60, 2)) ** 1.5
    if kind == "ties":
        then, now = then.round(1), now.round(1)
    elif kind == "equal":
        then[:], now[:] = 0.5, 0.5
    policy = policy_of(then, (0.3, 0.5))
    monitor = fed(Monitor(policy), lines_of(now, (0.3, 0.5)), 20)
    each = [slow_e(policy, now.tolist(), 20, stage) for stage in range(2)]
    assert monitor.e_values[1] == pytest.approx(np.mean(each), rel=1e-8)


def test_counts_of_three_stages_are_those_of_the_route():
    generator = np.random.default_rng(1)
    scores, thresholds = generator.random((500, 2)), (0.4, 0.6)
    policy = policy_of(generator.random((400, 2)), thresholds)
    monitor = Monitor(policy)
    tally = Tally(monitor)
    for number, line in enumerate(lines_of(scores, thresholds), 1):
        tally.add(json.dumps(line), "here", number)
    window = tally.window
    first, second = scores[:, 0] < 0.4, (scores < [0.4, 0.6]).all(axis=1)
    assert window.deferred == [first.sum(), second.sum()]
    assert window.ends == [500 - first.sum(), first.sum() - second.sum(), second.sum()]
    assert window.early == pytest.approx(1 - second.mean())
    for k, reached in enumerate((scores[:, 0], scores[first, 1])):
        assert window.below[k] == [int((reached < edge).sum()) for edge in monitor.edges[k]]
        assert min(monitor.edges[k]) >= thresholds[k]


def test_floors_keep_the_edges_below_them():
    scores = np.random.default_rng(1).random((500, 1))
    policy = policy_of(scores, (0.5,), floors=(0.2,))
    edges = Monitor(policy).edges[0]
    assert min(edges) <= 0.2
    assert max(edges) >= 0.5
    assert not any(0.2 < edge < 0.5 for edge in edges)
    tally = Tally(Monitor(policy))
    tally.add('{"stage": "small", "score": 0.1}', "here", 1)
    with pytest.raises(UsageError, match=r"line 2 of here: score: 'small' answers from 0\.5 on"):
        tally.add('{"stage": "small", "score": 0.3}', "here", 2)


def test_false_alarms_of_all_tests_together_are_as_seldom_as_stated():
    """Evidence, scores and audits are drawn anew for each of 120 streams of 30 looks."""
    runs, alpha, alarms = 120, 0.4, 0
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        policy = policy_of(generator.random(300), (0.2,), limit=0.1, confidence=1 - alpha)
        monitor = Monitor(policy)
        for _ in range(30):
            scores = generator.random(40)
            deferred = int((scores < 0.2).sum())
            audits = int(generator.binomial(40 - deferred, 0.5))
            lost = int(generator.binomial(audits, 0.1 / 0.8))
            below = [int((scores < edge).sum()) for edge in monitor.edges[0]]
            checked = {"disagreement": Checked(audits, lost)}
            monitor.observe(Window([40 - deferred], [deferred], [below], checked))
        alarms += not monitor.verdict().passed
    assert alarms <= binom.ppf(0.999, runs, alpha)


def test_audits_of_early_answers_have_the_mean_of_all():
    generator = np.random.default_rng(0)
    means = []
    for seed in range(4000):
        early = int(generator.binomial(200, 0.7))
        lost = int(generator.binomial(20, 0.1))
        window = Window([early], [200 - early])
        losses, counts = _as_drawn_from_all(Checked(20, lost), window, seed)
        assert counts.sum() == 20
        assert 0 <= losses.min() <= losses.max() <= 1
        means.append(float(losses @ counts) / 20)
    spread = np.std(means) / math.sqrt(len(means))
    assert np.mean(means) == pytest.approx(0.07, abs=4 * spread)


def test_audits_that_lag_behind_are_no_more_than_there_are_answers():
    losses, counts = _as_drawn_from_all(Checked(50, 50), Window([3], [7]), 0)
    assert counts.sum() == 3
    assert len(losses) == len(counts)
    for window in (Window([0], [10]), Window([0], [0])):
        assert _as_drawn_from_all(Checked(50, 50), window, 0)[1].sum() == 0


@pytest.mark.parametrize(
    ("target", "limit", "checked", "outcome"),
    [
        ("accuracy", 0.9, {"accuracy": Checked(900, 150)}, "broken"),
        ("accuracy", 0.7, {"accuracy": Checked(900, 150)}, "kept"),
        ("accuracy", 0.84, {"accuracy": Checked(900, 150)}, "open"),
        ("accuracy", 0.9, {"disagreement": Checked(900, 150)}, "unknown"),
        ("accuracy_drop", 0.02, {"accuracy_drop": Checked(900, 80, 20)}, "broken"),
        ("accuracy_drop", 0.02, {"accuracy_drop": Checked(900, 80, 80)}, "open"),
        ("accuracy_drop", 0.05, {"accuracy_drop": Checked(900, 20, 20)}, "kept"),
        ("accuracy_drop", 0.05, {"disagreement": Checked(900, 5)}, "kept"),
        ("accuracy_drop", 0.02, {"disagreement": Checked(900, 300)}, "unknown"),
        ("disagreement", 0.1, {"disagreement": Checked(900, 300)}, "broken"),
        ("disagreement", 0.3, {"disagreement": Checked(900, 100)}, "kept"),
        ("disagreement", 0.0, {"disagreement": Checked(900, 1)}, "broken"),
        ("deferral_rate", 0.05, {}, "broken"),
        ("deferral_rate", 0.2, {}, "kept"),
        ("cost", 1.5, {}, "broken"),
        ("cost", 2.5, {}, "kept"),
        ("cost_ratio", 0.1, {}, "broken"),
        ("cost_ratio", 0.4, {}, "kept"),
    ],
)
def test_verdicts(target, limit, checked, outcome):
    scores = np.linspace(0, 1, 1000, endpoint=False)
    policy = policy_of(scores, (0.1,), target, limit)
    monitor = Monitor(policy, costs={"small": 1.0, "large": 9.0})
    below = [round(1000 * edge) for edge in monitor.edges[0]]
    for _ in range(3):
        monitor.observe(Window([900], [100], [below], copy.deepcopy(checked)))
    verdict = monitor.verdict()
    assert verdict.outcome == outcome
    assert not verdict.drifted
    assert verdict.n == 3000
    value = {"deferral_rate": 0.1, "cost": 1.9, "cost_ratio": 1.9 / 9}.get(target)
    if target in checked:
        one = checked[target]
        value = (one.lost - one.won) / 900 * (1 if target == "accuracy" else 0.9)
        value = 1 - value if target == "accuracy" else value
    assert verdict.value == (None if value is None else pytest.approx(value))
    again = Monitor(policy, costs={"small": 1.0, "large": 9.0})
    again.restore(json.loads(json.dumps(monitor.state())))
    assert again.verdict() == verdict
    assert again.state() == monitor.state()


@pytest.mark.parametrize("combine", ["average", "most_confident"])
def test_where_answers_are_combined_the_last_stage_is_audited_too(combine):
    policy = policy_of(np.linspace(0, 1, 100), (0.5,), combine=combine)
    monitor = Monitor(policy)
    tally = Tally(monitor)
    tally.add('{"stage": "large", "prediction": 1, "audit": 2}', "here", 1)
    assert tally.window.checked == {"disagreement": Checked(1, 1)}
    for _ in range(20):
        monitor.observe(Window([50], [50], [None], {"disagreement": Checked(100, 50)}))
    assert monitor.value == 0.5
    assert monitor.verdict().outcome == "broken"
    later = Tally(Monitor(policy_of(np.linspace(0, 1, 100), (0.5,))))
    later.add('{"stage": "large", "prediction": 1, "audit": 1}', "here", 1)
    assert later.window.checked == {}


def test_a_look_within_a_window_changes_nothing_but_alarms():
    policy = policy_of(np.linspace(0, 1, 1000), (0.1,))
    monitor = Monitor(policy)
    calm, wild = Window([90], [10], [None]), Window([0], [100], [None])
    monitor.observe(calm)
    before = monitor.state()
    assert monitor.look(calm).n == 200
    assert monitor.state() == before
    assert not monitor.look(wild, "noon").verdict().passed
    assert monitor.e_values == (1.0 * monitor.e_values[0], monitor.e_values[1])
    assert monitor.n == 100
    assert (monitor.verdict().drifted, monitor.verdict().since) == (True, "noon")


def test_what_a_monitor_cannot_take_is_refused():
    policy = policy_of(np.linspace(0, 1, 100), (0.5,))
    with pytest.raises(UsageError, match="confidence: expected a probability"):
        Monitor(policy, confidence=0.2)
    with pytest.raises(CascadeError, match="promises nothing"):
        Monitor(Policy(0.5, names=("small", "large")))
    for change in ({"small": {}}, {"other": 1}, {"small": {"n": 5, "deferred": 1, "edges": [0.5],
                                                           "counts": [1, 2]}}):  # fmt: skip
        damaged = Policy(
            0.5, names=("small", "large"), evidence={**policy.evidence, "scores": change}
        )
        with pytest.raises(CascadeError, match=r"policy\.evidence\.scores"):
            Monitor(damaged)
    monitor = Monitor(policy)
    state = monitor.state()
    for key, value, says in (
        ("policy", "x", "of policy x"), ("format", 9, "another version"), ("tests", [], "damaged"),
        ("seen", 3, "damaged"), ("marks", None, "damaged"),
    ):  # fmt: skip
        with pytest.raises(CascadeError, match=says):
            Monitor(policy).restore(state | {key: value})


def test_the_state_does_not_grow_with_the_windows():
    policy = policy_of(np.linspace(0, 1, 1000), (0.1,))
    monitor = Monitor(policy)
    sizes = []
    for _ in range(300):
        monitor.observe(Window([90], [10], [[0] * len(monitor.edges[0])]), "a mark")
        sizes.append(len(json.dumps(monitor.state())))
    assert sizes[-1] < 1.3 * sizes[20]
