"""A policy that is selected on a part of the samples and measured on the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lit_cascade.analysis import check, select
from lit_cascade.analysis.evidence import ids_from_text
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records import Record
from tests.cli.runs import done, within

N = 1200


def pair(labelled=True):
    """Records of a small and a large model; the small one costs more for some samples."""
    torch.manual_seed(3)
    labels = torch.arange(N) % 4
    eye = torch.eye(4)[labels]
    flops = torch.where(torch.arange(N) % 3 == 0, 5.0, 2.0)
    return [
        Record.from_arrays(
            name, torch.randn(N, 4) + sure * eye, labels if labelled else None, flops=cost,
            data={"name": "noise", "source": "noise", "split": "calibration"},
        )
        for name, sure, cost in (("small", 2.0, flops), ("large", 3.5, 30.0))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def selected():
    records = pair()
    return records, select(records, max_accuracy_drop=0.04, holdout=0.25, seed=1)


def parts(records, selection):
    chosen = torch.tensor(ids_from_text(selection.policy.evidence["thresholds"]["ids"]))
    rest = torch.tensor(sorted(set(range(N)) - set(chosen.tolist())))
    return [[record.rows(rows) for record in records] for rows in (chosen, rest)]


def test_the_figures_are_those_of_the_samples_held_out(selected):
    records, selection = selected
    held = selection.held_out
    _, (small, large) = parts(records, selection)
    assert len(small) == held.point.n == N // 4
    assert selection.n == N - N // 4
    scores = small.logits.softmax(dim=1).amax(dim=1).numpy()
    deferred = scores < np.float32(selection.policy.thresholds[0])
    answers = np.where(deferred, large.logits.argmax(dim=1), small.logits.argmax(dim=1))
    right = answers == small.labels.numpy()
    last = (large.logits.argmax(dim=1) == large.labels).numpy()
    cost = small.costs["flops"].numpy() + 30 * deferred
    assert held.point.accuracy == pytest.approx(right.mean())
    assert held.drop == pytest.approx(last.mean() - right.mean())
    assert held.point.value == pytest.approx(held.drop)
    assert held.point.deferral_rate == pytest.approx(deferred.mean())
    assert held.point.cost == pytest.approx(cost.mean())
    draws = np.random.default_rng(0).integers(0, len(cost), (2000, len(cost)))
    columns = {
        "accuracy": right, "drop": last * 1.0 - right, "deferral_rate": deferred,
        "reach_last": deferred, "cost": cost, "cost_ratio": cost / 30,
    }  # fmt: skip
    assert set(held.intervals) == set(columns)
    for name, values in columns.items():
        means = values[draws].mean(axis=1)
        assert held.intervals[name] == pytest.approx(
            np.quantile(means, [0.025, 0.975]), abs=means.std() / 3
        )


def test_the_rest_passes_the_protection_and_the_choice_does_not(selected):
    records, selection = selected
    chosen, rest = parts(records, selection)
    verdict = check(selection.policy, rest)
    assert (verdict.outcome, verdict.value, verdict.n) == (
        selection.held_out.verdict.outcome, selection.held_out.point.value, N // 4,
    )  # fmt: skip
    with pytest.raises(CascadeError, match="were fitted on"):
        check(selection.policy, chosen)


def test_the_choice_is_that_of_the_other_samples_alone(selected):
    records, selection = selected
    chosen, _ = parts(records, selection)
    alone = select(chosen, max_accuracy_drop=0.04)
    assert alone.held_out is None
    assert selection.policy.thresholds == alone.policy.thresholds
    again = select(records, max_accuracy_drop=0.04, holdout=0.25, seed=2)
    assert again.policy.evidence["thresholds"] != selection.policy.evidence["thresholds"]


def test_without_labels_there_is_no_accuracy():
    held = select(pair(labelled=False), max_disagreement=0.2, holdout=0.5).held_out
    assert held.drop is None
    assert set(held.intervals) == {"deferral_rate", "reach_last", "cost", "cost_ratio"}


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.9999, 0.0001])
def test_shares_that_leave_nothing_are_refused(share):
    with pytest.raises(UsageError, match=r"holdout: .* some of the 1,200 samples on both sides"):
        select(pair(), max_accuracy_drop=0.04, holdout=share)


def test_the_command_reports_both(tmp_path):
    for record in pair():
        record.save(tmp_path / f"{record.name}.safetensors")
    words = ("select", "--records", "small.safetensors", "large.safetensors", "--out", "o")
    run = done(within(*words, "--max_accuracy_drop", "0.04", "--holdout", "25%", cwd=tmp_path))
    held = json.loads((tmp_path / "o" / "summary.json").read_text(encoding="utf-8"))["held_out"]
    assert held["n"] == N // 4
    assert (
        held["intervals_95"]["drop"][0] <= held["accuracy_drop"] <= held["intervals_95"]["drop"][1]
    )
    (row,) = (line for line in run.stdout.splitlines() if line.startswith("  held out"))
    assert f"{100 * held['accuracy']:.2f} %" in row
    assert "Held out, on 300 samples that nothing was chosen on: accuracy " in run.stdout
    assert f"drop {100 * held['accuracy_drop']:+.2f} points (" in run.stdout
