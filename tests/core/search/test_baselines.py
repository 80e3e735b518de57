import itertools
import math

import pytest
import torch

from lit_cascade.core.curve import oracle_deferral
from lit_cascade.core.search.baselines import (
    neighbour_pairs,
    oracle_pairs,
    random_pairs,
    shared_threshold,
)
from lit_cascade.core.search.front import Band, default_bands
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.core.search.zoo import Zoo
from tests.search_oracles import Plain, latent_zoo, least, plain_zoo, points_of, undominated

COMBINED = ("later", "most_confident")
SEEDS = range(6)


def some_zoo(seed, *, n=40, models=4, varying=False, combine="later"):
    """A zoo with ties among its scores and, if asked, with costs of each sample's own."""
    zoo = latent_zoo(models, n, seed, poor=1)
    scores = (zoo.scores * 12).round() / 12
    costs = zoo.costs
    if varying:
        generator = torch.Generator().manual_seed(seed)
        costs = costs * (0.5 + torch.rand(models, n, generator=generator, dtype=torch.float64))
    return plain_zoo(scores, zoo.correct, costs, combine=combine)


def same_points(front, expected):
    got = points_of(front)
    assert len(got) == len(expected)
    for (cost, accuracy), (other_cost, other_accuracy) in zip(got, expected, strict=True):
        assert cost == pytest.approx(other_cost, rel=1e-9)
        assert accuracy == pytest.approx(other_accuracy, abs=1e-12)


def never_beats(front, better):
    """For every point of a front the better one has one as accurate that costs no more."""
    for cost, accuracy in points_of(front):
        enough = [c for c, a in points_of(better) if a >= accuracy - 1e-12]
        assert enough, accuracy
        assert min(enough) <= cost * (1 + 1e-9)


def singles_of(plain):
    return [plain.means(plain.point((model,), ())) for model in range(plain.size)]


def alone_on_the_front(plain):
    """The models that no other dominates, cheapest first."""
    means = singles_of(plain)
    kept = undominated(means)
    return [means.index(point) for point in kept]


def after(plain, first, second, i):
    """Whether a cascade of two is right on a sample that it defers."""
    return plain.right((first, second), i)


# neighbouring pairs


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_neighbouring_pairs_equal_brute_force(seed, varying, combine):
    zoo = some_zoo(seed, varying=varying, combine=combine)
    plain = Plain(zoo)
    models = alone_on_the_front(plain)
    points = singles_of(plain)
    for pair in itertools.pairwise(models):
        points += [plain.means(plain.point(pair, (t,))) for t in plain.thresholds((), pair[0])]
    found = neighbour_pairs(zoo, zoo.n)
    same_points(found.front, undominated(points))
    for point in found.points:
        assert plain.means(plain.point(point.stages, point.thresholds)) == (
            pytest.approx(point.cost, rel=1e-12),
            point.accuracy,
        )
        assert len(point.stages) == 1 or point.stages in set(itertools.pairwise(models))


def test_one_model_that_beats_all_has_no_neighbour():
    correct = torch.tensor([[True, True, False], [True, False, False]])
    zoo = plain_zoo(torch.rand(2, 3), correct, torch.tensor([[1.0], [2.0]]).double())
    assert [point.stages for point in neighbour_pairs(zoo, 10).points] == [(0,)]


# one threshold for all


def shared_points(plain, threshold):
    """Single models, and all pairs under one threshold."""
    pairs = itertools.combinations(range(plain.size), 2)
    return singles_of(plain) + [plain.means(plain.point(pair, (threshold,))) for pair in pairs]


def reduction(singles, points, band):
    """Average compute reduction in plain loops."""
    total = 0.0
    for k in range(1000):
        wanted = band.low + (band.high - band.low) * k / 999
        total += least(singles, wanted) / least(points, wanted)
    return total / 1000


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("seed", range(3))
def test_the_shared_threshold_is_the_best_of_all(seed, combine):
    zoo = some_zoo(seed, n=20, combine=combine)
    plain = Plain(zoo)
    singles = undominated(singles_of(plain))
    band = default_bands(zoo.singles()[0])[0]
    found, threshold = shared_threshold(zoo, band)
    assert all(t == threshold for point in found.points for t in point.thresholds)
    same_points(found.front, undominated(shared_points(plain, threshold)))
    got = reduction(singles, points_of(found.front), band)
    every = {score for row in plain.scores for score in row}
    best = max(reduction(singles, undominated(shared_points(plain, t)), band) for t in every)
    assert got == pytest.approx(best, rel=1e-9)
    assert got > 1


def test_a_band_beyond_reach_is_cut_for_the_shared_threshold():
    zoo = some_zoo(0)
    top = float(zoo.singles()[0].accuracy[-1])
    assert top < 0.99
    cut = shared_threshold(zoo, Band(top - 0.1, top))
    assert shared_threshold(zoo, Band(top - 0.1, 1.0)) == cut
    assert shared_threshold(zoo, Band(0.99, 1.0))[0].points[-1].accuracy >= top


# deferral by chance


def expected_at(plain, first, second, count):
    """Mean (cost, accuracy) over all sets of so many deferred samples."""
    costs, accuracies = [], []
    for deferred in itertools.combinations(range(plain.n), count):
        spent = sum(plain.costs[first])
        right = 0
        for i in range(plain.n):
            if i in deferred:
                spent += plain.costs[second][i]
                right += after(plain, first, second, i)
            else:
                right += plain.correct[first][i]
        costs.append(float(spent * plain.unit / plain.n))
        accuracies.append(right / plain.n)
    return sum(costs) / len(costs), sum(accuracies) / len(accuracies)


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_deferral_by_chance_is_the_mean_over_all_choices(seed, varying, combine):
    zoo = some_zoo(seed, n=10, models=2, varying=varying, combine=combine)
    plain = Plain(zoo)
    found = points_of(random_pairs(zoo))
    expected = undominated([expected_at(plain, 0, 1, count) for count in range(11)])
    singles = undominated(singles_of(plain))
    for cost, accuracy in undominated(expected + singles):  # each is on the front, or beaten there
        assert any(c <= cost * (1 + 1e-9) and a >= accuracy - 1e-12 for c, a in found)
    tenths = 0
    for cost, accuracy in found:
        at = [a for c, a in expected + singles if c == pytest.approx(cost, rel=1e-9)]
        tenths += len(at) > 0
        if at:
            assert accuracy == pytest.approx(max(at), abs=1e-12)
    assert tenths >= 3


def test_deferral_by_chance_by_hand():
    """50 % right for 1, 100 % right for 4: each hundredth deferred adds 0.04 and half a point."""
    correct = torch.tensor([[True, False], [True, True]])
    zoo = plain_zoo(torch.rand(2, 2), correct, torch.tensor([[1.0], [4.0]]).double())
    expected = [(1 + 0.04 * k, 0.5 + 0.005 * k) for k in range(75)] + [(4.0, 1.0)]
    same_points(random_pairs(zoo), expected)


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_deferral_by_chance_of_many_pairs_equals_loops(seed, varying, combine):
    zoo = some_zoo(seed, varying=varying, combine=combine)
    plain = Plain(zoo)
    singles = singles_of(plain)
    points = list(singles)
    for first, second in itertools.combinations(range(plain.size), 2):
        cost, accuracy = singles[first]
        right = sum(after(plain, first, second, i) for i in range(plain.n)) / plain.n
        for k in range(1, 101):
            share = k / 100
            points.append(
                (cost + share * singles[second][0], accuracy + share * (right - accuracy))
            )
    same_points(random_pairs(zoo), undominated(points))


def test_where_the_surer_answers_deferral_by_chance_may_cost_both_by_hand():
    correct = torch.tensor([[True, False], [False, True]])
    scores = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    costs = torch.tensor([[1.0], [4.0]]).double()
    zoo = plain_zoo(scores, correct, costs, combine="most_confident")
    same_points(random_pairs(zoo), [(1 + 0.04 * k, 0.5 + 0.005 * k) for k in range(101)])


def test_a_score_of_no_worth_defers_by_chance_on_average():
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(2, dtype=torch.float64)
    zoo = some_zoo(1, n=60, models=2)
    for _ in range(200):
        scores = torch.rand(2, 60, generator=generator)
        drawn = Zoo(zoo.names, scores, zoo.correct, zoo.costs)
        half = float(scores[0].sort().values[30])
        done = Plain(drawn).means(Plain(drawn).point((0, 1), (half,)))
        total += torch.tensor(done, dtype=torch.float64)
    cost, accuracy = (total / 200).tolist()
    first, second = zoo.accuracy.tolist()
    assert cost == pytest.approx(float(zoo.costs[0, 0] + 0.5 * zoo.costs[1, 0]), rel=1e-12)
    assert accuracy == pytest.approx((first + second) / 2, abs=0.01)


# the bound


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_of_one_pair_is_that_of_the_sweep(seed, combine):
    zoo = some_zoo(seed, models=2, combine=combine)
    right = torch.stack([zoo.correct[0], zoo.correct_after([0], [1])[0]], dim=1)
    costs = zoo.costs.expand(-1, zoo.n).t()
    curve = oracle_deferral(right, costs)
    points = list(zip(curve.cost.tolist(), curve.accuracy.tolist(), strict=True))
    same_points(oracle_pairs(zoo), undominated(points + singles_of(Plain(zoo))))


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_equals_loops_over_cheapest_samples(seed, combine):
    zoo = some_zoo(seed, varying=True, combine=combine)
    plain = Plain(zoo)
    points = singles_of(plain)
    for first, second in itertools.combinations(range(plain.size), 2):
        gains = sum(
            after(plain, first, second, i) and not plain.correct[first][i] for i in range(plain.n)
        )
        cheapest = sorted(plain.costs[second])
        for count in range(gains + 1):
            spent = sum(plain.costs[first]) + sum(cheapest[:count])
            points.append(plain.means((spent, sum(plain.correct[first]) + count)))
    same_points(oracle_pairs(zoo), undominated(points))


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("gains", [1, 7, 99, 100, 101, 102, 199, 250, 1000])
def test_no_cascade_beats_the_bound_however_many_samples_can_be_put_right(gains, varying):
    """The first model is wrong on `gains` samples, and the less sure of each the cheaper it is."""
    n = gains + 50
    correct = torch.ones(2, n, dtype=torch.bool)
    correct[0, :gains] = False
    costs = torch.tensor([[1.0], [10.0]]).double().expand(2, n).clone()
    if varying:
        costs[1] += torch.arange(n) / n
    scores = torch.stack([torch.arange(n) / n, torch.ones(n)])
    zoo = plain_zoo(scores, correct, costs if varying else costs[:, :1])
    bound, found = oracle_pairs(zoo), search_zoo(zoo, SearchSettings(levels=n)).front
    never_beats(found, bound)
    if gains <= 100:
        same_points(bound, points_of(found))  # a perfect score reaches it
    else:
        assert len(bound) > 90
    spared = (math.ceil(gains / 100) - 1) / n  # no more than that is given away
    assert (found.least_cost(bound.accuracy - spared) <= bound.cost * (1 + 1e-9)).all()


# all of them


@pytest.mark.parametrize("combine", COMBINED)
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_none_is_better_than_theory_lets_it_be(seed, varying, combine):
    zoo = some_zoo(seed, varying=varying, combine=combine)
    found = search_zoo(zoo, SearchSettings(levels=zoo.n)).front
    singles, _ = zoo.singles()
    neighbours = neighbour_pairs(zoo, zoo.n).front
    shared = shared_threshold(zoo, default_bands(singles)[0])[0].front
    chance, bound = random_pairs(zoo), oracle_pairs(zoo)
    for front in (found, neighbours, shared, chance, bound):
        never_beats(singles, front)
        if front is not chance:
            never_beats(front, bound)
        assert (front.cost.diff() > 0).all()
        assert (front.accuracy.diff() > 0).all()
    never_beats(neighbours, found)
    never_beats(shared, found)
    mixtures = [  # chance defers parts of a sample, as it were
        (cost, accuracy, other_cost, other_accuracy)
        for (cost, accuracy), (other_cost, other_accuracy) in itertools.combinations(
            points_of(bound), 2
        )
    ]
    for cost, accuracy in points_of(chance)[1:-1]:
        assert any(
            c <= cost * (1 + 1e-9)
            and accuracy <= a + (b - a) * min(1, (cost - c) / (d - c)) + 1e-12
            for c, a, d, b in mixtures
        )
