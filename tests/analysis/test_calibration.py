"""Samples that a calibration is fitted and evaluated on, and its effect on a cascade."""

from dataclasses import replace

import pytest
import torch

from lit_cascade.analysis.calibration import (
    CalibrationPlan,
    calibrate_record,
    compare_cascades,
    with_temperatures,
)
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.core.calibration import fit_temperature, negative_log_likelihood
from lit_cascade.core.policy import Policy
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.record import Record


def stages(n=600, classes=4, seed=0, names=("small", "large"), tilt=0.0):
    """Stages whose logits know more the later they come; `tilt` favours some classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    hints = torch.nn.functional.one_hot(labels, classes)
    lean = tilt * torch.linspace(-1, 1, classes)
    return [
        Record.from_arrays(
            name,
            2 * ((k + 1.5) * hints + torch.randn(n, classes, generator=generator)) + lean,
            labels,
            flops=10.0 ** (k + 3),
        )
        for k, name in enumerate(names)
    ]


@pytest.mark.parametrize("n", [2, 3, 5, 7, 103])
def test_every_sample_is_evaluated_once_by_a_fit_on_others(n):
    plan = CalibrationPlan.of(n)
    assert plan.fitted.tolist() == list(range(n))
    assert sorted(plan.evaluated.tolist()) == list(range(n))
    for fitted, evaluated in plan.folds:
        assert not set(fitted.tolist()) & set(evaluated.tolist())
        assert len(fitted) + len(evaluated) == n
    assert not plan.held_out
    assert "cross-fitted" in plan.text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_held_out_samples_are_excluded_from_the_fit(share):
    plan = CalibrationPlan.of(200, share, seed=3)
    ((fitted, evaluated),) = plan.folds
    assert fitted.tolist() == plan.fitted.tolist()
    assert len(fitted) == round(200 * share)
    assert sorted([*fitted.tolist(), *evaluated.tolist()]) == list(range(200))
    assert torch.equal(CalibrationPlan.of(200, share, seed=3).fitted, fitted)
    assert not torch.equal(CalibrationPlan.of(200, share, seed=4).fitted, fitted)
    assert "held out" in plan.text


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 2, 0.001])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(UsageError, match=r"^share: "):
        CalibrationPlan.of(100, share)


@pytest.mark.parametrize("share", [None, 0.4])
def test_metrics_are_of_samples_outside_the_fit(share):
    record = stages()[0]
    logits, labels = record.logits_for("a test")
    plan = CalibrationPlan.of(len(record), share, seed=1)
    found = calibrate_record(record, plan=plan)
    total = 0.0
    for fitted, evaluated in plan.folds:
        t = fit_temperature(logits[fitted], labels[fitted]).temperature
        total += len(evaluated) * negative_log_likelihood(logits[evaluated], labels[evaluated], t)
    assert found.after.nll == pytest.approx(total / len(plan.evaluated), rel=1e-12)
    whole = fit_temperature(logits[plan.fitted], labels[plan.fitted])
    assert found.temperature == whole.temperature
    rows = plan.evaluated
    assert found.before.nll == pytest.approx(negative_log_likelihood(logits[rows], labels[rows]))
    assert found.n == len(plan.fitted)


def test_method_none_changes_nothing():
    found = calibrate_record(stages()[0], "none")
    assert replace(found.before, diagram=None) == replace(found.after, diagram=None)
    assert found.before.diagram.counts == found.after.diagram.counts
    assert (found.temperature, found.at_bound) == (1.0, False)


def test_one_sample_and_unknown_methods():
    one = Record.from_arrays("net", [[2.0, 0.0]], [0], flops=1)
    for method in ("temperature", "none"):
        assert calibrate_record(one, method).n == 1
    with pytest.raises(UsageError, match="method: 'platt' is unknown; known are temperature"):
        calibrate_record(one, "platt")
    scores = Record.from_arrays("api", score=[0.5], correct=[1], flops=1)
    with pytest.raises(CascadeError, match="no logits, which a temperature needs"):
        calibrate_record(scores)


def test_held_out_curves_are_those_of_the_records_held_out():
    records = stages(tilt=2.0)
    plan = CalibrationPlan.of(600, 0.5)
    fitted = {"small": calibrate_record(records[0], plan=plan)}
    found = compare_cascades(records, Policy(stages=2), fitted, plan, "temperature")
    rest = [
        Record.from_arrays(r.name, r.logits[plan.evaluated], r.labels[plan.evaluated], flops=f)
        for r, f in zip(records, (1e3, 1e4), strict=True)
    ]
    rule = with_temperatures(
        Policy(stages=2), ["small", "large"], {"small": fitted["small"].temperature}
    )
    plain, scaled = curve_of(rest), curve_of(rest, rule)
    for one, other in ((found.before, plain), (found.after, scaled)):
        assert torch.equal(one.accuracy, other.accuracy)
        assert torch.equal(one.cost, other.cost)
        assert torch.equal(one.stage_accuracy, other.stage_accuracy)


def test_two_classes_have_the_same_curve_at_any_temperature():
    records = stages(classes=2)
    for share in (None, 0.5):
        plan = CalibrationPlan.of(600, share)
        fitted = {"small": calibrate_record(records[0], plan=plan)}
        found = compare_cascades(records, Policy(stages=2), fitted, plan, "temperature")
        assert found.same_order
        assert found.difference.value == pytest.approx(0, abs=1e-9)
        assert found.recommended == "none"
    three = stages(classes=2, names=("a", "b", "c"))
    fitted = {"a": calibrate_record(three[0]), "b": calibrate_record(three[1])}
    found = compare_cascades(
        three, Policy(stages=3), fitted, CalibrationPlan.of(600), "temperature"
    )
    assert not found.same_order


def test_other_stages_keep_their_temperatures():
    rule = Policy((0.5, 0.5), temperatures=(2.0, 3.0, 4.0))
    changed = with_temperatures(rule, ["a", "b", "c"], {"b": 7.0})
    assert changed == replace(rule, temperatures=(2.0, 7.0, 4.0))
