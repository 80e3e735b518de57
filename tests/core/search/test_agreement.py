"""Searches where a stage's score is its agreement with the stages before it."""

import math

import pytest
import torch

from lit_cascade.core.search.grids import add_grids
from lit_cascade.core.search.heldout import held_out
from lit_cascade.core.search.points import ParetoArchive, evaluate_points
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.core.search.votes import add_votes
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError
from tests.core.search.test_heldout import halves, plain_held_out, wide
from tests.search_oracles import Plain, agreeing_zoo

CONFIDENCES = ("ties", "no ties", "all equal", "unknown", "known of some", "0 and 1")
COSTS = {
    "constant": lambda n: None,
    "equal": lambda n: torch.full((5, 1), 7),
    "two free": lambda n: torch.tensor([[0], [0], [1], [2], [9]]),
    "per sample": lambda n: torch.randint(2, 6, (5, n)) * 2 ** torch.arange(5)[:, None],
    "fractions": lambda n: torch.rand(5, n, dtype=torch.float64),
}


def everything(n, stages):
    """Settings under which every threshold of n samples is tried."""
    cells = n + 1 if stages < 4 else math.ceil((n + 1) ** 1.5) + 1
    return SearchSettings(stages=stages, levels=n + 1, grid=cells, fine=cells)


def check_against_all(zoo, stages):
    """The front is that of loops over all cascades and samples, and each point keeps its word."""
    plain, points = Plain(zoo), search_zoo(zoo, everything(zoo.n, stages)).points
    expected = plain.front(stages)
    assert [point.accuracy for point in points] == [accuracy for _, accuracy in expected]
    assert [point.cost for point in points] == pytest.approx([c for c, _ in expected], rel=1e-9)
    judged = evaluate_points(points, zoo)
    for point, right, cost in zip(points, judged.correct, judged.cost, strict=True):
        does = plain.means(plain.point(point.stages, point.thresholds))
        assert (point.cost, point.accuracy) == (pytest.approx(does[0], rel=1e-12), does[1])
        for i in range(zoo.n):
            ran = plain.ran(point.stages, point.thresholds, point.floors, i)
            assert bool(right[i]) == plain.right(ran, i)
            spent = float(sum(plain.costs[stage][i] for stage in ran) * plain.unit)
            assert float(cost[i]) == pytest.approx(spent, rel=1e-12)
    return points


@pytest.mark.parametrize("confidences", CONFIDENCES)
@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize(("stages", "n"), [(2, 12), (3, 1), (3, 13), (4, 1), (4, 6)])
def test_the_front_equals_brute_force(stages, n, costs, confidences):
    check_against_all(agreeing_zoo(n, confidences=confidences, costs=COSTS[costs](n)), stages)


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stages", [3, 4])
def test_many_predictions_alone_equal_brute_force(stages, seed, costs):
    torch.manual_seed(seed)
    points = check_against_all(
        agreeing_zoo(60, confidences="unknown", costs=COSTS[costs](60)), stages
    )
    assert all(point.thresholds[:1] in {(), (math.inf,)} for point in points)
    if costs == "constant":
        assert stages in {len(point.stages) for point in points}


@pytest.mark.parametrize("answer", [0, 3])
@pytest.mark.parametrize("stages", [3, 4])
def test_all_answers_equal(stages, answer):
    zoo = agreeing_zoo(9, confidences="ties")
    same = Zoo(
        zoo.names,
        zoo.scores,
        torch.arange(9).expand(5, 9) % 4 == answer,
        zoo.costs,
        answers=torch.full((5, 9), answer),
    )
    assert [point.stages for point in check_against_all(same, stages)] == [(0,)]


def test_products_and_grids_agree():
    """Two ways to the same front: products of matrices, and sums over cells of thresholds."""
    for costs in (None, torch.rand(9, 300, dtype=torch.float64)):
        zoo = agreeing_zoo(300, 9, confidences="unknown", costs=costs)
        by_votes, by_grids = ParetoArchive.of_singles(zoo), ParetoArchive.of_singles(zoo)
        add_votes(zoo, by_votes, range(9), 4)
        for stages in (3, 4):
            cascades = torch.combinations(torch.arange(9), stages).tolist()
            add_grids(zoo, by_grids, map(tuple, cascades), levels=(3,) * (stages - 1))
        one, other = by_votes.front().points, by_grids.front().points
        assert [point.accuracy for point in one] == [point.accuracy for point in other]
        assert [p.cost for p in one] == pytest.approx([p.cost for p in other], rel=1e-12)
        assert {len(point.stages) for point in one} > {1, 4}


def test_a_voter_is_worth_its_cost():
    """Two bad models that err apart are right where they agree."""
    answers = torch.tensor([[0, 1, 2, 3, 0, 0], [0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 2, 1]])
    labels = torch.tensor([0, 1, 2, 3, 2, 1])
    zoo = Zoo(
        ("a", "b", "c"),
        torch.zeros(3, 6),
        answers == labels,
        torch.tensor([[1.0], [2.0], [60.0]]).double(),
        answers=answers,
    )
    best = search_zoo(zoo, SearchSettings(stages=3)).points[-1]
    assert best == ((0, 1, 2), (math.inf, 1.0), (-math.inf,) * 2, 33.0, 1.0)


@pytest.mark.parametrize("stages", [3, 4])
@pytest.mark.parametrize("confidences", ["unknown", "no ties", "known of some"])
@pytest.mark.parametrize("vary", [False, True])
def test_held_out_equals_loops(vary, confidences, stages):
    costs = torch.rand(5, 40, dtype=torch.float64) * 2 ** torch.arange(5)[:, None] if vary else None
    zoo = agreeing_zoo(40, confidences=confidences, costs=costs)
    trials, chosen = list(halves(zoo, 2)), {}

    def choose(some):
        chosen[id(some)] = search_zoo(some, everything(8, stages))
        return chosen[id(some)]

    found = held_out(trials, choose, wide, resamples=3)
    rows = plain_held_out([(one, other, chosen[id(one)]) for one, other in trials], wide)
    for number, result in enumerate(found):
        of_band = [row[1:] for row in rows if row[0] == number]
        means = [sum(column) / len(of_band) for column in zip(*of_band, strict=True)]
        assert [
            result.chosen,
            result.reported,
            result.reported_interpolated,
            result.shortfall,
        ] == pytest.approx(means)


@pytest.mark.parametrize("confidences", ["unknown", "ties"])
def test_cascades_taken_one_by_one_or_in_cells_are_the_same(confidences, monkeypatch):
    from lit_cascade.core.search import heldout

    zoo = agreeing_zoo(200, confidences=confidences)
    points = search_zoo(zoo, SearchSettings(stages=4)).points
    counts = torch.randint(4, (5, 200)).float()
    fronts = []
    for few in (0, len(points)):
        monkeypatch.setattr(heldout, "_FEW", few)
        fronts.append(heldout._resampled_points(points, zoo, counts))
    assert torch.equal(fronts[0].accuracy, fronts[1].accuracy)
    assert torch.equal(fronts[0].cost, fronts[1].cost)


# what it refuses, and what it may be made of


def test_scores_of_a_zoo_are_those_of_a_policy():
    from lit_cascade.core import Policy, RecordedAnswers, stage_outputs

    zoo = agreeing_zoo(50, confidences="no ties")
    outputs = [RecordedAnswers(zoo.answers[m].long(), zoo.scores[m]) for m in (0, 2, 3, 4)]
    scores, _, _ = stage_outputs(outputs, Policy(score="agreement", stages=4))
    assert torch.equal(zoo.score_of((), 0), scores[0])
    assert torch.equal(zoo.score_of((0,), 2), scores[1])
    assert torch.equal(zoo.score_of((0, 2), 3), scores[2])


@pytest.mark.parametrize("confidences", CONFIDENCES)
def test_ranks_are_those_of_a_sort(confidences):
    zoo = agreeing_zoo(60, confidences=confidences)
    for earlier, model in (((), 1), ((0,), 1), ((0, 2), 3)):
        values, order = zoo.ranked(earlier, model)
        assert torch.equal(values, zoo.score_of(earlier, model).sort().values)
        assert torch.equal(values, zoo.score_of(earlier, model)[order])
        assert sorted(order.tolist()) == list(range(60))


def test_parts_of_a_zoo_keep_their_answers():
    zoo = agreeing_zoo(10)
    rows = torch.tensor([3, 1])
    assert torch.equal(zoo.rows(rows).answers, zoo.answers[:, rows])
    assert torch.equal(zoo.models([1, 4]).answers, zoo.answers[[1, 4]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": torch.full((2, 3), 1.5)}, "confidences from 0 to 1, got 1.5 to 1.5 of 'a'"),
        ({"scores": torch.tensor([[0.0] * 3, [-1, 0, 1]])}, "got -1 to 1 of 'b'"),
        ({"answers": torch.zeros(2, 4)}, "shape of the scores"),
        ({"combine": "most_confident"}, "combine later"),
    ],
)
def test_what_agreement_refuses(changes, said):
    parts = {
        "names": ("a", "b"),
        "scores": torch.zeros(2, 3),
        "correct": torch.zeros(2, 3, dtype=torch.bool),
        "costs": torch.ones(2, 1).double(),
        "answers": torch.zeros(2, 3),
    }
    with pytest.raises(CascadeError, match=said):
        Zoo(**parts | changes)
