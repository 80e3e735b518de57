import math

import pytest
import torch

from lit_cascade.core.search.grids import add_grids, nearest_in_pairs
from lit_cascade.core.search.pairs import add_pairs, pair_sums
from lit_cascade.core.search.points import (
    CascadeFront,
    CascadePoint,
    ParetoArchive,
    evaluate_points,
)
from lit_cascade.core.search.search import SearchSettings, search_zoo
from tests.search_oracles import Plain, latent_zoo, plain_zoo

INF = math.inf


def offer(archive, *points):
    """Offer (correct, cost) as cascades of one stage, numbered."""
    correct = torch.tensor([[right] for right, _ in points], dtype=torch.int32)
    cost = torch.tensor([[price] for _, price in points], dtype=torch.float64)
    rows, ratio = archive.compare(correct, cost)
    offered = archive.offer(correct, cost, lambda rows: (rows[:, None], torch.zeros(len(rows), 0)))
    assert offered.equal(ratio)
    return rows.tolist(), ratio.tolist()


def front_of(archive):
    return [(point.cost, point.accuracy) for point in archive.front().points]


# the archive


def test_the_archive_by_hand():
    archive = ParetoArchive(10)
    assert archive.least.tolist() == [INF] * 12
    assert offer(archive, (5, 2.0)) == ([0], [0.0])
    assert archive.least.tolist() == [2.0] * 6 + [INF] * 6
    assert offer(archive, (5, 2.0), (4, 2.0), (4, 3.0)) == ([], [1.0])
    assert offer(archive, (5, 3.0), (4, 1.0), (10, 8.0)) == ([1, 2], [0.0])
    assert archive.least.tolist() == [1.0] * 5 + [2.0] + [8.0] * 5 + [INF]
    assert front_of(archive) == [(1.0, 0.4), (2.0, 0.5), (8.0, 1.0)]
    offer(archive, (7, 0.5))
    assert front_of(archive) == [(0.5, 0.7), (8.0, 1.0)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("times", "size"), [(1, 30), (5, 12), (30, 1)])
def test_what_is_offered_makes_the_front_whatever_the_order(times, size, seed):
    torch.manual_seed(seed)
    archive, seen = ParetoArchive(9), []
    for _ in range(times):
        points = list(
            zip(
                torch.randint(10, (size,)).tolist(),
                torch.randint(1, 20, (size,)).tolist(),
                strict=True,
            )
        )
        offer(archive, *points)
        seen += points
    expected = sorted(
        {
            (cost, right / 9)
            for right, cost in seen
            if not any(c <= cost and r >= right and (c, r) != (cost, right) for r, c in seen)
        }
    )
    assert front_of(archive) == expected


def test_of_equal_points_the_first_stays():
    archive = ParetoArchive(4)
    offer(archive, (1, 9.0), (2, 5.0), (2, 5.0))
    offer(archive, (3, 5.0), (2, 5.0), (3, 5.0))
    assert [point.stages for point in archive.front().points] == [(0,)]
    assert [(point.cost, point.accuracy) for point in archive.front().points] == [(5.0, 0.75)]


def test_rounding_makes_no_cascade_better():
    archive = ParetoArchive(4)
    offer(archive, (2, 1.0))
    assert offer(archive, (2, 1 - 1e-13), (1, 1 - 1e-13)) == ([], [1 - 1e-13])
    assert offer(archive, (2, 1 - 1e-11))[0] == [0]
    assert front_of(archive) == [(1 - 1e-11, 0.5)]


def test_a_point_that_only_rounding_makes_cheaper_is_not_on_the_front():
    archive = ParetoArchive(4)
    offer(archive, (2, 1.0))
    offer(archive, (3, math.nextafter(1, 2)))
    assert front_of(archive) == [(math.nextafter(1, 2), 0.75)]
    offer(archive, (4, 1 + 1e-11))
    assert len(front_of(archive)) == 2


def test_what_costs_nothing_hides_nothing():
    archive = ParetoArchive(4)
    offer(archive, (1, 0.0))
    assert offer(archive, (1, 0.0), (0, 0.0), (1, 2.0), (2, 0.0), (4, 3.0)) == ([3, 4], [0.0])
    assert front_of(archive) == [(0.0, 0.5), (3.0, 1.0)]
    assert offer(archive, (0, 0.0))[1] == [1.0]
    assert offer(archive, (1, 7.0))[1] == [INF]


@pytest.mark.parametrize("columns", [1, 7, 70_000])
def test_many_points_are_compared_as_few_are(columns):
    rows = 200_000 // columns + 3
    correct = torch.randint(50, (rows, columns), dtype=torch.int32)
    cost = torch.rand(rows, columns, dtype=torch.float64) + 1
    archive = ParetoArchive(50)
    offer(archive, (20, 1.2), (30, 1.6))
    found, ratio = archive.compare(correct, cost)
    least = torch.tensor([1.2] * 21 + [1.6] * 10 + [INF] * 20, dtype=torch.float64)
    assert found.tolist() == (cost < least[correct.long()]).flatten().nonzero().squeeze(1).tolist()
    assert torch.equal(ratio, (cost / least[correct.long()]).amin(dim=0))


# the points of a search


def test_the_cheapest_point_of_an_accuracy():
    points = tuple(CascadePoint((k,), (), (), float(k + 1), (k + 5) / 10) for k in range(3))
    cascades = CascadeFront(points)
    assert len(cascades) == 3
    assert cascades.cheapest(0.1) is points[0]
    assert cascades.cheapest(0.5) is points[0]
    assert cascades.cheapest(0.51) is points[1]
    assert cascades.cheapest(1 - 0.3) is points[2]
    assert cascades.cheapest(math.nextafter(0.7, 1)) is points[2]
    assert cascades.cheapest(0.71) is None
    assert cascades.front.cost.tolist() == [1, 2, 3]
    assert cascades.front.accuracy.tolist() == [0.5, 0.6, 0.7]
    assert cascades.front.cost.dtype == cascades.front.accuracy.dtype == torch.float64


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("combine", ["later", "most_confident"])
def test_cascades_do_to_samples_what_loops_do(combine, constant):
    """Also such as no search finds: four stages, floors in three, thresholds on no score."""
    n = 30
    zoo = plain_zoo(
        torch.randint(6, (5, n)) / 6,
        torch.rand(5, n) < 0.5,
        torch.randint(1, 9, (5, 1 if constant else n)).double(),
        combine=combine,
    )
    plain, sixth = Plain(zoo), torch.tensor(1 / 6).item()
    points = [
        CascadePoint((3,), (), (), 0, 0),
        CascadePoint((0, 1), (0.5,), (-INF,), 0, 0),
        CascadePoint((0, 4), (INF,), (sixth,), 0, 0),
        CascadePoint((0, 4), (-INF,), (-INF,), 0, 0),
        CascadePoint((1, 2, 4), (0.5, INF), (sixth, 0.3), 0, 0),
        CascadePoint((0, 1, 2, 4), (0.9, 0.5, INF), (-INF, sixth, 0.1), 0, 0),
    ]
    judged = evaluate_points(points, zoo)
    assert judged.correct.shape == judged.cost.shape == (len(points), n)
    for point, right, cost in zip(points, judged.correct, judged.cost, strict=True):
        ran = [plain.ran(point.stages, point.thresholds, point.floors, i) for i in range(n)]
        assert right.tolist() == [plain.right(own, i) for i, own in enumerate(ran)]
        assert cost.tolist() == [
            sum(plain.costs[stage][i] for stage in own) for i, own in enumerate(ran)
        ]


def test_cascades_may_meet_other_samples_than_they_were_found_on():
    zoo = latent_zoo(5, 300, 0)
    points = search_zoo(
        zoo.rows(torch.arange(100)), SearchSettings(stages=3, grid=5, fine=9)
    ).points
    other = zoo.rows(torch.arange(100, 300))
    judged, plain = evaluate_points(points, other), Plain(other)
    for point, right, cost in zip(points, judged.correct, judged.cost, strict=True):
        expected = plain.means(plain.point(point.stages, point.thresholds, point.floors))
        assert cost.mean().item() == pytest.approx(expected[0], rel=1e-12)
        assert right.sum().item() / 200 == expected[1]


# parts of a search


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("combine", ["later", "most_confident"])
@pytest.mark.parametrize("chosen", [None, [(0, 1), (2, 4), (0, 3), (0, 3)], []])
@pytest.mark.parametrize("given", [False, True])
def test_pair_sums_equal_loops(given, chosen, combine, constant):
    n = 20
    costs = torch.randint(1, 9, (5, 1 if constant else n)).double()
    zoo = plain_zoo(torch.randint(6, (5, n)) / 6, torch.rand(5, n) < 0.5, costs, combine=combine)
    plain, pairs = Plain(zoo), []
    thresholds = torch.tensor([-INF, 0.0, 1 / 6, 0.4, 0.5, 2, INF], dtype=torch.float64)
    for sums in pair_sums(zoo, thresholds if given else 3, chosen):
        if given:
            assert torch.equal(sums.thresholds, thresholds)
        for j, second in enumerate(sums.seconds.tolist()):
            pairs.append((sums.first, second))
            for t, threshold in enumerate(sums.thresholds.tolist()):
                limit = torch.tensor(threshold, dtype=torch.float32).item()  # as the scores are
                cost, right = plain.means(plain.point(pairs[-1], (limit,)))
                assert sums.correct[t, j].item() / n == right
                assert sums.cost[t, j].item() == pytest.approx(cost, rel=1e-12)
    every = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    assert pairs == (every if chosen is None else sorted(set(chosen)))


def test_only_the_pairs_that_are_named_take_part():
    zoo = latent_zoo(6, 100, 1)
    archive = ParetoArchive(zoo.n)
    add_pairs(zoo, archive, levels=50, pairs=[(1, 3), (0, 5)])
    assert {point.stages for point in archive.front().points} == {(1, 3), (0, 5)}


def test_a_ratio_says_how_near_a_triple_comes_to_the_front():
    zoo = latent_zoo(5, 40, 2)
    plain, archive = Plain(zoo), ParetoArchive.of_singles(zoo)
    triples = [(0, 1, 2), (0, 1, 4), (1, 3, 4)]
    least = archive.least.clone()
    for triple in triples:
        before = archive.least.clone()
        ratios = add_grids(zoo, archive, [triple], levels=(40, 40))
        expected = min(
            plain.means((cost, right))[0] / before[right].item()
            for one in plain.thresholds((), triple[0])[2:]
            for two in plain.thresholds((), triple[1])[2:]
            for cost, right in [plain.point(triple, (one, two))]
        )
        assert ratios == {triple: pytest.approx(expected, rel=1e-12)}
    assert (archive.least <= least).all()
    assert (archive.least < least).any()
    together = ParetoArchive.of_singles(zoo)
    assert list(add_grids(zoo, together, triples[::-1], levels=(40, 40))) == triples
    assert torch.equal(together.least, archive.least)


@pytest.mark.parametrize("seed", range(5))
def test_the_models_nearest_to_the_front_equal_loops(seed):
    zoo = latent_zoo(7, 50, seed, poor=3)
    plain, archive = Plain(zoo), ParetoArchive.of_singles(zoo)
    add_pairs(zoo, archive, levels=50)
    least = archive.least.tolist()

    def ratio(stages, thresholds):
        cost, right = plain.point(stages, thresholds)
        return plain.means((cost, right))[0] / least[right]

    distance = [ratio((model,), ()) for model in range(7)]
    for one in range(7):
        for two in range(one + 1, 7):
            nearest = min(ratio((one, two), (t,)) for t in plain.thresholds((), one)[2:])
            distance[one] = min(distance[one], nearest)
            distance[two] = min(distance[two], nearest)
    order = sorted(range(7), key=lambda model: (round(distance[model], 12), model))
    for count in (1, 3, 6):
        cut = round(distance[order[count - 1]], 12) < round(distance[order[count]], 12)
        found = nearest_in_pairs(zoo, archive, count, 50)
        assert found == sorted(order[:count]) or not cut
        assert len(found) == count
    assert nearest_in_pairs(zoo, archive, 7, 50) == list(range(7))
    assert nearest_in_pairs(zoo, archive, 99, 50) == list(range(7))


def nearest_of(scores, right, costs, count):
    """Which models are nearest if model k is right on the first `right[k]` of ten samples."""
    correct = torch.arange(10) < torch.tensor(right)[:, None]
    zoo = plain_zoo(scores, correct, torch.tensor(costs)[:, None].double())
    archive = ParetoArchive.of_singles(zoo)
    add_pairs(zoo, archive, levels=50)
    return nearest_in_pairs(zoo, archive, count, 50)


def test_a_model_that_is_near_alone_counts():
    """The first can only defer everything; the second defers a little, but is dearer."""
    scores = torch.ones(3, 10)
    scores[1, 9] = 0.0
    assert nearest_of(scores, [5, 4, 4], [10.0, 11.0, 11.0], 1) == [0]


def test_a_model_that_is_near_as_a_first_stage_counts():
    """The third knows when it is wrong; alone, and after another, it is further than the second."""
    scores = torch.ones(4, 10)
    scores[2, 4:] = 0.0
    assert nearest_of(scores, [5, 5, 4, 10], [10.0, 10.5, 11.0, 100.0], 3) == [0, 2, 3]


def test_rows_of_pair_sums_are_offered_with_their_threshold():
    zoo = latent_zoo(5, 60, 3)
    plain, archive = Plain(zoo), ParetoArchive.of_singles(zoo)
    thresholds = torch.tensor([-INF, 0.5, 0.6, 0.7, INF], dtype=torch.float64)
    for sums in pair_sums(zoo, thresholds):
        for row in (2, 3):
            sums.offer_to(archive, row, row + 1)
    points = archive.front().points
    assert {point.thresholds for point in points} == {(), (0.6,), (0.7,)}
    for point in points:
        limits = tuple(torch.tensor(t, dtype=torch.float32).item() for t in point.thresholds)
        does = plain.means(plain.point(point.stages, limits))
        assert (point.cost, point.accuracy) == (pytest.approx(does[0], rel=1e-12), does[1])


def test_a_free_model_is_near_to_the_front():
    zoo = latent_zoo(6, 50, 0)
    costs = zoo.costs.clone()
    costs[:2] = 0
    zoo = plain_zoo(zoo.scores, zoo.correct, costs)
    archive = ParetoArchive.of_singles(zoo)
    add_pairs(zoo, archive, levels=50)
    assert {0, 1} < set(nearest_in_pairs(zoo, archive, 4, 50))
