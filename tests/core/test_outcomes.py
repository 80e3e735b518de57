"""The table of stage outcomes against loops over samples."""

import math

import pytest
import torch

from lit_cascade.core.curve import operating_points, sweep
from lit_cascade.core.metrics import Answers
from lit_cascade.core.outcomes import StageOutcomes
from lit_cascade.errors import CascadeError
from tests.oracles import stage_of


def drawn(n=50, stages=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    after, alone = (torch.randint(0, 3, (n, stages), generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (n,), generator=generator)
    return StageOutcomes(
        scores=torch.rand(n, stages - 1, generator=generator),
        correct=after == labels[:, None],
        costs=torch.rand(n, stages, generator=generator).double() + 1,
        alone=alone == labels[:, None],
        agrees=after == alone[:, -1:],
        answers=Answers("f1_macro", after, alone, labels, 3),
    )


@pytest.mark.parametrize("thresholds", [(0.3, 0.8), (-math.inf, 0.5), (math.inf, math.inf)])
def test_an_operating_point_equals_a_loop_over_samples(thresholds):
    table = drawn()
    point = table.at(thresholds)
    stage = [stage_of(row, thresholds) for row in table.scores.tolist()]
    spent = [sum(row[: k + 1]) for row, k in zip(table.costs.tolist(), stage, strict=True)]
    right = [row[k] for row, k in zip(table.correct.tolist(), stage, strict=True)]
    assert (point.thresholds, point.n) == (thresholds, 50)
    assert point.accuracy == sum(right) / 50
    assert point.deferral_rate == sum(k > 0 for k in stage) / 50
    assert point.cost == pytest.approx(sum(spent) / 50)
    assert point.answered == tuple(stage.count(k) / 50 for k in range(3))
    assert table.costs_at(thresholds).tolist() == pytest.approx(spent)


def test_points_of_the_curve_are_those_at_its_thresholds():
    table = drawn()
    curve = table.curve()
    for row, threshold in enumerate(curve.thresholds.tolist()):
        point = table.at((threshold,) * 2)
        assert point.accuracy == float(curve.accuracy[row])
        shares = [(table.route((threshold,) * 2) >= k).double().mean().item() for k in (1, 2)]
        assert curve.reached[row].tolist() == shares
        assert point.deferral_rate == float(curve.deferral_rate[row])
        assert point.metric == pytest.approx(float(curve.by_metric[row]))
        assert point.cost == pytest.approx(float(curve.cost[row]))


def test_chosen_points_of_a_curve_are_told_like_measured_ones():
    table = drawn()
    points = [point for point in operating_points(table.curve()).values() if point is not None]
    assert points
    for point in points:
        measured = table.at(point.thresholds)
        assert (point.answered, point.deferral) == (measured.answered, measured.deferral)
        assert point.deferral == f"{100 * point.answered[2]:.1f} % reach the last stage"


def test_some_rows_are_the_table_of_those_samples():
    table, rows = drawn(), torch.tensor([3, 3, 40, 7])
    part = table.rows(rows)
    assert len(part) == 4
    expected = sweep(table.scores[rows], table.correct[rows], table.costs[rows], table.alone[rows])
    curve = part.curve()
    assert torch.equal(curve.accuracy, expected.accuracy)
    assert torch.equal(curve.stage_accuracy, expected.stage_accuracy)
    assert torch.equal(part.answers.labels, table.answers.labels[rows])
    assert torch.equal(part.agrees, table.agrees[rows])


def test_without_labels_costs_and_agreement_are_known():
    known = drawn()
    table = StageOutcomes(known.scores, None, known.costs, agrees=known.agrees).rows(
        torch.arange(20)
    )
    point = table.at((0.5, 0.5))
    assert math.isnan(point.accuracy)
    assert point.cost == pytest.approx(float(table.costs_at((0.5, 0.5)).mean()))
    assert torch.equal(table.losses("disagreement")[0], ~known.agrees[:20])
    with pytest.raises(CascadeError, match="the curve: it needs labels"):
        table.curve()
    with pytest.raises(CascadeError, match="disagreement: it needs the logits of every stage"):
        StageOutcomes(known.scores, known.correct, known.costs).losses("disagreement")
