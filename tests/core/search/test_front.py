import math

import pytest
import torch

from lit_cascade.core.search.front import (
    Band,
    Front,
    average_compute_reduction,
    default_bands,
    pareto_rows,
)
from lit_cascade.errors import CascadeError, UsageError
from tests.search_oracles import between, doubles, least, points_of


def front_of(*points):
    return Front(doubles(*(cost for cost, _ in points)), doubles(*(a for _, a in points)))


def random_front(size, most=1.0):
    cost, accuracy = torch.rand(2, size, dtype=torch.float64).sort(dim=1).values
    return Front(cost * 100 + 1, accuracy / accuracy[-1] * most)


# pareto


def undominated_rows(cost, accuracy):
    """Positions of the points that no other is as good as in both, the first of equal ones."""
    kept = []
    for i, (c, a) in enumerate(zip(cost, accuracy, strict=True)):
        rivals = [(d, b, j) for j, (d, b) in enumerate(zip(cost, accuracy, strict=True)) if j != i]
        if not any(d <= c and b >= a and ((d, b) != (c, a) or j < i) for d, b, j in rivals):
            kept.append(i)
    return sorted(kept, key=cost.__getitem__)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("size", "values"), [(1, 3), (2, 2), (9, 3), (40, 6), (40, 1000)])
def test_pareto_equals_loops(size, values, seed):
    torch.manual_seed(seed)
    cost, accuracy = torch.randint(values, (2, size)).double()
    assert pareto_rows(cost, accuracy).tolist() == undominated_rows(
        cost.tolist(), accuracy.tolist()
    )


@pytest.mark.parametrize(
    ("cost", "accuracy", "kept"),
    [
        ([1, 1, 1], [5, 5, 5], [0]),
        ([1, 1, 1], [5, 6, 6], [1]),
        ([2, 1, 3], [5, 5, 5], [1]),
        ([3, 2, 1], [3, 2, 1], [2, 1, 0]),
        ([1, 2, 3], [3, 2, 1], [0]),
        ([0, 0, 5], [0, 1, 1], [1]),
        ([math.inf, 1, 2], [9, 1, 2], [1, 2, 0]),
        ([], [], []),
    ],
)
def test_pareto_by_hand(cost, accuracy, kept):
    assert pareto_rows(doubles(*cost), doubles(*accuracy)).tolist() == kept


def test_pareto_rises_strictly_and_of_equal_points_keeps_the_first():
    cost, accuracy = torch.randint(5, (2, 200)).double()
    kept = pareto_rows(cost, accuracy)
    assert (cost[kept].diff() > 0).all()
    assert (accuracy[kept].diff() > 0).all()
    for i in kept.tolist():
        assert i == ((cost == cost[i]) & (accuracy == accuracy[i])).nonzero()[0].item()


# the cost of an accuracy


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_costs_equal_loops(size):
    front = random_front(size)
    wanted = torch.cat([torch.rand(200, dtype=torch.float64) * 1.2, front.accuracy, doubles(0, 1)])
    assert front.least_cost(wanted).tolist() == [
        least(points_of(front), a) for a in wanted.tolist()
    ]
    assert front.interpolated_cost(wanted).tolist() == pytest.approx(
        [between(points_of(front), a) for a in wanted.tolist()], rel=1e-12
    )
    assert len(front) == size


def test_a_point_is_enough_for_its_own_accuracy():
    """A share of 7 out of 10 that was computed otherwise is still 7 out of 10."""
    front = front_of((1, 0.6), (2, 0.7), (3, 0.8))
    wanted = doubles(0.1 * 7, 7 / 10, 1 - 0.3, math.nextafter(0.7, 1), 0.7 + 1e-8)
    assert front.least_cost(wanted).tolist() == [2, 2, 2, 2, 3]


def test_interpolated_costs_by_hand():
    front = front_of((1, 0.5), (100, 0.7), (400, 0.8))
    wanted = doubles(0.1, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
    assert front.interpolated_cost(wanted).tolist() == pytest.approx([1, 1, 10, 100, 200, 400, 400])
    assert front.least_cost(wanted).tolist() == [1, 1, 100, 100, 400, 400, math.inf]


def test_the_interpolation_is_never_above_the_steps():
    front = random_front(20)
    wanted = torch.linspace(0, 1, 500, dtype=torch.float64)
    assert (front.interpolated_cost(wanted) <= front.least_cost(wanted) * (1 + 1e-12)).all()


# average compute reduction


@pytest.mark.parametrize("interpolated", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_reduction_equals_loops(seed, interpolated):
    torch.manual_seed(seed)
    singles, cascades = random_front(12, 0.9), random_front(40, 0.95)
    band = Band(0.35, 0.88)
    total = 0.0
    for k in range(1000):
        wanted = 0.35 + (0.88 - 0.35) * k / 999
        single = (between if interpolated else least)(points_of(singles), wanted)
        total += single / least(points_of(cascades), wanted)
    found = average_compute_reduction(singles, cascades, band, interpolated=interpolated)
    assert found == pytest.approx(total / 1000, rel=1e-12)


def test_the_reduction_by_hand():
    """Of the band from 0.6 to 0.8 one half costs 8 against 2, the other 32 against 4."""
    singles, cascades = front_of((1, 0.5), (8, 0.7), (32, 0.8)), front_of((2, 0.7), (4, 0.8))
    band = Band(0.6, 0.8)
    assert average_compute_reduction(singles, cascades, band) == pytest.approx((4 + 8) / 2)
    assert average_compute_reduction(singles, singles, band) == 1
    assert average_compute_reduction(cascades, singles, band) == pytest.approx((1 / 4 + 1 / 8) / 2)


def test_the_interpolated_reduction_by_hand():
    """The mean of 4^x for x from 0 to 1 is 3 / log(4)."""
    singles, cascades = front_of((2, 0.5), (8, 0.9)), front_of((2, 0.9))
    found = average_compute_reduction(singles, cascades, Band(0.5, 0.9), interpolated=True)
    assert found == pytest.approx(3 / math.log(4), rel=1e-3)
    assert average_compute_reduction(singles, cascades, Band(0.5, 0.9)) == pytest.approx(
        (999 * 4 + 1) / 1000
    )


def test_a_single_point_has_a_reduction_too():
    one, other = front_of((6, 0.8)), front_of((2, 0.9))
    for interpolated in (False, True):
        found = average_compute_reduction(one, other, Band(0.1, 0.8), interpolated=interpolated)
        assert found == pytest.approx(3)


def test_the_unit_of_cost_does_not_matter():
    singles, cascades = random_front(9), random_front(9)
    many = [Front(front.cost * 3e9, front.accuracy) for front in (singles, cascades)]
    for interpolated in (False, True):
        options = {"band": Band(0.3, 0.9), "interpolated": interpolated}
        assert average_compute_reduction(*many, **options) == pytest.approx(
            average_compute_reduction(singles, cascades, **options)
        )


@pytest.mark.parametrize(
    ("singles", "cascades", "message"),
    [
        (0.8, 0.9, "bands: 0.5 to 0.85 reaches above the most accurate of the single models, 0.80"),
        (0.9, 0.8, "bands: 0.5 to 0.85 reaches above the most accurate of the cascades, 0.8000"),
    ],
)
def test_a_band_above_every_model_is_refused(singles, cascades, message):
    with pytest.raises(UsageError, match=message):
        average_compute_reduction(front_of((1, singles)), front_of((1, cascades)), Band(0.5, 0.85))


def test_a_band_may_end_at_the_best_model_whatever_the_rounding():
    front = front_of((1, 0.5), (2, 0.7))
    assert average_compute_reduction(front, front, Band(0.5, math.nextafter(0.7, 1))) == 1


# bands


def test_default_bands_by_hand():
    half, quarter = default_bands(front_of((1, 0.2), (5, 0.9), (6, 1.0)))
    assert (half.low, half.high, half.name) == (pytest.approx(0.6), 1.0, "top half")
    assert (quarter.low, quarter.high, quarter.name) == (pytest.approx(0.8), 1.0, "top quarter")


def test_default_bands_always_fit_their_front():
    for n in range(3, 60):
        front = front_of((1, 1 / n), (2, (n - 1) / n))
        for band in default_bands(front):
            assert average_compute_reduction(front, front, band) == 1


def test_one_model_leaves_no_band():
    with pytest.raises(CascadeError, match="both the cheapest and the most accurate"):
        default_bands(front_of((1, 0.5)))


@pytest.mark.parametrize(
    ("low", "high"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (math.nan, 1), (0, math.nan)]
)
def test_bands_out_of_range_are_refused(low, high):
    with pytest.raises(UsageError, match=f"0 <= low < high <= 1, got {low:g} to {high:g}"):
        Band(low, high)


def test_a_band_is_spaced_equally_from_end_to_end():
    assert Band(0, 1).accuracies(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert Band(0.2, 0.3).accuracies().shape == (1000,)
    assert Band(0.2, 0.3).accuracies()[[0, -1]].tolist() == [0.2, 0.3]


def test_what_is_within_reach_of_a_band():
    low, high = front_of((1, 0.1), (2, 0.7)), front_of((1, 0.4), (2, 0.9))
    band = Band(0.5, 0.8, "some")
    assert band.within(high) == band
    assert band.within(high, low) == Band(0.5, 0.7, "some")
    assert Band(0.75, 0.8).within(low).low == pytest.approx(0.7 - 1e-6, abs=1e-9)
    assert Band(0.75, 0.8).within(low).high == 0.7
    assert Band(0.1, 0.8).within(front_of((1, 0.0))).high < 1e-9


def test_a_free_model_is_as_cheap_as_a_free_cascade():
    free, cascades = front_of((0, 0.5), (4, 0.9)), front_of((0, 0.5), (2, 0.9))
    assert average_compute_reduction(free, cascades, Band(0.1, 0.5)) == 1
    assert average_compute_reduction(free, cascades, Band(0.6, 0.9)) == 2
