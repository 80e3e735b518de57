import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from lit_cascade.core.search.front import (
    Band,
    Front,
    average_compute_reduction,
    default_bands,
    held_out_reduction,
)
from lit_cascade.core.search.heldout import held_out, held_out_each
from lit_cascade.core.search.points import CascadeFront
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError
from tests.search_oracles import (
    Plain,
    between,
    doubles,
    latent_zoo,
    least,
    plain_zoo,
    points_of,
    undominated,
)


def random_front(size):
    cost, accuracy = torch.rand(2, size, dtype=torch.float64).sort(dim=1).values
    return Front(cost * 100 + 1, accuracy)


# in plain loops


def plain_reduction(singles, chosen, reported, band, *, interpolated=False):
    """What is promised is paid for and delivered elsewhere: (reduction, mean shortfall)."""
    total = shortfall = 0.0
    for k in range(1000):
        wanted = band.low + (band.high - band.low) * k / 999
        row = next((r for r, (_, a) in enumerate(chosen) if a >= wanted - 1e-9), len(chosen) - 1)
        missing = chosen[row][1] - reported[row][1]
        shortfall += missing
        if interpolated:
            alone = between(singles, wanted - missing)
        else:
            alone = min(least(singles, wanted - missing), singles[-1][0])
        total += alone / reported[row][0]
    return total / 1000, shortfall / 1000


@pytest.mark.parametrize("interpolated", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_the_reported_reduction_equals_loops(seed, interpolated):
    torch.manual_seed(seed)
    singles, chosen = random_front(6), random_front(25)
    reported = Front(chosen.cost * (1 + torch.rand(25) / 5), chosen.accuracy - torch.rand(25) / 9)
    low = torch.rand(1).item() / 2
    band = Band(low, low + 0.4)
    got = float(held_out_reduction(singles, chosen, reported, band, interpolated=interpolated))
    parts = map(points_of, (singles, chosen, reported))
    assert got == pytest.approx(plain_reduction(*parts, band, interpolated=interpolated)[0])


@pytest.mark.parametrize("interpolated", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_on_the_same_samples_it_is_the_average_compute_reduction(seed, interpolated):
    zoo = latent_zoo(5, 80, seed)
    singles, found = zoo.singles()[0], search_zoo(zoo).front
    for band in default_bands(singles):
        got = held_out_reduction(singles, found, found, band, interpolated=interpolated)
        assert got == average_compute_reduction(singles, found, band, interpolated=interpolated)


def test_what_costs_nothing():
    """A free model is as good as itself, infinitely better than another, and no worse than 0."""
    free, paid = Front(doubles(0, 4), doubles(0.5, 0.9)), Front(doubles(2, 4), doubles(0.5, 0.9))
    low, whole = Band(0.1, 0.5), Band(0.5, 0.9)
    for interpolated in (False, True):
        assert average_compute_reduction(free, free, low, interpolated=interpolated) == 1
        assert held_out_reduction(free, free, free, low, interpolated=interpolated) == 1
        assert average_compute_reduction(free, paid, low, interpolated=interpolated) == 0
        assert average_compute_reduction(paid, free, low, interpolated=interpolated) == math.inf
    assert average_compute_reduction(free, free, whole) == 1
    # for free and for 4 there lies nothing between but what costs next to nothing
    assert average_compute_reduction(free, free, whole, interpolated=True) == pytest.approx(0.002)
    assert free.interpolated_cost(doubles(0.5, 0.7, 0.9, 1)).tolist() == [0, 0, 4, 4]


# choosing and reporting


def plain_held_out(trials, bands):
    """Reduction, chosen and reported, interpolated, and shortfall of one band, trial by trial."""
    rows = []
    for chosen_on, reported_on, cascades in trials:
        one, other = Plain(chosen_on), Plain(reported_on)
        singles = undominated([one.means(one.point((m,), ())) for m in range(one.size)])
        models = undominated([other.means(other.point((m,), ())) for m in range(one.size)])
        chosen, reported = [], []
        for point in cascades.points:
            parts = point.stages, point.thresholds, point.floors
            chosen.append(one.means(one.point(*parts)))
            reported.append(other.means(other.point(*parts)))
        for number, band in enumerate(bands(chosen_on.singles()[0])):
            high = min(band.high, singles[-1][1], chosen[-1][1])
            cut = Band(max(0, min(band.low, high - 1e-6)), high)
            promised, _ = plain_reduction(singles, chosen, chosen, cut)
            delivered, missing = plain_reduction(models, chosen, reported, cut)
            smooth, _ = plain_reduction(models, chosen, reported, cut, interpolated=True)
            rows.append((number, promised, delivered, smooth, missing))
    return rows


def halves(zoo, repeats, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(repeats):
        order = torch.randperm(zoo.n, generator=generator)
        yield zoo.rows(order[: zoo.n // 2]), zoo.rows(order[zoo.n // 2 :])


def wide(singles):
    """A band that ends above what half of the samples reach."""
    return [Band(0.5, 1.0, "wide"), *default_bands(singles)]


def varying(zoo):
    generator = torch.Generator().manual_seed(7)
    return replace(zoo, costs=zoo.costs * (0.5 + torch.rand(zoo.scores.shape, generator=generator)))


@pytest.mark.parametrize("settings", [{}, {"window": 5}, {"stages": 3}], ids=str)
@pytest.mark.parametrize("change", [lambda zoo: zoo, varying], ids=["constant", "varying"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_held_out_equals_loops(repeats, change, settings):
    zoo = change(latent_zoo(4, 60, 5))
    trials = list(halves(zoo, repeats))
    by_zoo = {}  # trials run side by side, in any order

    def choose(some):
        by_zoo[id(some)] = search_zoo(some, SearchSettings(**settings))
        return by_zoo[id(some)]

    found = held_out(trials, choose, wide, resamples=3)
    chosen = [by_zoo[id(chosen_on)] for chosen_on, _ in trials]
    longest = max(len(point.stages) for one in chosen for point in one.points)
    assert longest == settings.get("stages", 2)
    rows = plain_held_out([(*trial, one) for trial, one in zip(trials, chosen, strict=True)], wide)
    assert len(found) == 3
    for number, one in enumerate(found):
        mine = [row[1:] for row in rows if row[0] == number]
        means = [statistics.fmean(column) for column in zip(*mine, strict=True)]
        got = (one.chosen, one.reported, one.reported_interpolated, one.shortfall)
        assert got == pytest.approx(means, rel=1e-9, abs=1e-12)
        assert one.optimism == one.chosen - one.reported
        assert one.repeats == repeats
        if repeats == 1:
            assert one.spread is None
        else:
            assert one.spread == pytest.approx(statistics.stdev([row[1] for row in mine]))
    assert [one.band for one in found] == wide(trials[0][0].singles()[0])


def test_any_number_of_threads_finds_the_same():
    """Torch has as many threads afterwards as before, and so have threads to come."""
    zoo, before = latent_zoo(4, 60, 5), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(held_out(halves(zoo, 5), search_zoo, wide, resamples=3))
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_the_interval_is_of_bootstrap_resamples():
    """Drawn again in plain loops, each resample gives its reduction; the middle 95 % remains."""
    zoo = latent_zoo(4, 40, 2)
    ((chosen_on, reported_on),) = halves(zoo, 1)
    cascades = search_zoo(chosen_on)
    band = default_bands(chosen_on.singles()[0])[0]
    (found, _) = held_out(
        [(chosen_on, reported_on)], search_zoo, default_bands, resamples=40, seed=9
    )
    drawn = torch.randint(20, (40, 20), generator=torch.Generator().manual_seed(9))
    values = sorted(
        plain_held_out([(chosen_on, reported_on.rows(rows), cascades)], lambda _: [band])[0][2]
        for rows in drawn
    )
    assert found.interval == (
        pytest.approx(values[0] + 0.975 * (values[1] - values[0])),  # 0.025 of the way over 39
        pytest.approx(values[38] + 0.025 * (values[39] - values[38])),
    )
    assert found.interval[0] < found.reported < found.interval[1]


def test_where_resampling_changes_nothing_the_interval_has_no_width():
    """All samples are alike: one model is always wrong, the other always right."""
    scores, costs = torch.full((2, 20), 0.5), doubles(1, 10)[:, None]
    correct = torch.tensor([[False], [True]]).expand(2, 20)
    one = plain_zoo(scores, correct, costs)
    other = plain_zoo(scores, torch.ones(2, 20, dtype=torch.bool), costs)
    for reported_on, expected in ((one, 1.0), (other, 0.1)):  # there the cheap one would do
        (found,) = held_out([(one, reported_on)] * 2, search_zoo, lambda _: [Band(0.4, 1.0)])
        assert found.interval == pytest.approx((expected, expected), rel=1e-12)
        assert (found.reported, found.spread) == pytest.approx((expected, 0), rel=1e-12)
        assert found.chosen == 1


@pytest.mark.slow
def test_an_interval_holds_what_more_samples_say():
    """Of many zoos, the interval of one half mostly holds what a large sample finds."""
    inside = 0
    for seed in range(20):
        zoo = latent_zoo(4, 2400, seed)
        chosen_on, rest = zoo.rows(torch.arange(300)), zoo.rows(torch.arange(600, 2400))
        reported_on = zoo.rows(torch.arange(300, 600))
        cascades = search_zoo(chosen_on)
        small, large = (
            held_out([(chosen_on, other)], lambda _, c=cascades: c, default_bands, resamples=r)[0]
            for other, r in ((reported_on, 200), (rest, 1))
        )
        inside += small.interval[0] <= large.reported <= small.interval[1]
    assert inside >= 16


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_figures(seed):
    zoo = latent_zoo(4, 60, seed)
    one, two = (held_out(halves(zoo, 2), search_zoo, default_bands, seed=seed) for _ in range(2))
    other = held_out(halves(zoo, 2), search_zoo, default_bands, seed=seed + 1)
    assert one == two
    assert [found.reported for found in one] == [found.reported for found in other]
    assert [found.interval for found in one] != [found.interval for found in other]


def test_the_order_of_the_samples_changes_no_figure():
    zoo = latent_zoo(4, 60, 1)
    ((chosen_on, reported_on),) = halves(zoo, 1)
    mixed = [(part.rows(torch.randperm(30))) for part in (chosen_on, reported_on)]
    one = held_out([(chosen_on, reported_on)], search_zoo, default_bands, resamples=1)
    two = held_out([(mixed[0], mixed[1])], search_zoo, default_bands, resamples=1)
    for a, b in zip(one, two, strict=True):
        assert (a.chosen, a.reported) == pytest.approx((b.chosen, b.reported))
        assert a.shortfall == pytest.approx(b.shortfall, abs=1e-12)


# honesty


def test_nothing_is_chosen_on_the_samples_of_the_report():
    """Whatever they say, the same cascades are chosen, and the same is promised."""
    zoo = latent_zoo(4, 60, 3)
    ((chosen_on, reported_on),) = halves(zoo, 1)
    flipped = replace(reported_on, correct=~reported_on.correct)
    guessed = replace(reported_on, scores=torch.rand(4, 30))
    dear = replace(reported_on, costs=reported_on.costs.flip(0))
    kept = []

    def choose(some):
        kept.append((some, search_zoo(some)))
        return kept[-1][1]

    figures = [
        held_out([(chosen_on, other)], choose, default_bands, resamples=2)
        for other in (reported_on, flipped, guessed, dear)
    ]
    assert all(some is chosen_on for some, _ in kept)
    assert all(cascades == kept[0][1] for _, cascades in kept)
    for number in range(2):
        assert len({found[number].chosen for found in figures}) == 1
        assert len({found[number].band for found in figures}) == 1
        assert len({found[number].reported for found in figures}) == 4


def noise(seed, n=60, models=6):
    """Models that are right half of the time, whatever they cost and however sure they are."""
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(models, n, generator=generator) < 0.5
    scores = torch.rand(models, n, generator=generator)
    return Zoo(
        tuple(f"model-{m}" for m in range(models)),
        scores,
        correct,
        2.0 ** torch.arange(models, dtype=torch.float64)[:, None],
    )


def test_luck_is_taken_for_merit_where_it_is_chosen_and_not_where_it_is_held_out():
    """In pure noise no cascade is worth more than the cheapest model; where it is chosen it seems.

    On other samples the same cascades are no better than any model, and cost more than the
    cheapest: the reduction falls below 1.
    """
    optimism, shortfall, chosen, reported, naive = [], [], [], [], []
    for seed in range(40):
        chosen_on, reported_on = noise(seed), noise(seed + 1000)
        if len(chosen_on.singles()[0]) < 2:
            continue
        found = held_out([(chosen_on, reported_on)], search_zoo, default_bands, resamples=1)[0]
        same = held_out([(chosen_on, chosen_on)], search_zoo, default_bands, resamples=1)[0]
        assert same.reported == pytest.approx(same.chosen, rel=1e-12)
        assert same.shortfall == pytest.approx(0, abs=1e-12)
        optimism.append(found.optimism)
        shortfall.append(found.shortfall)
        chosen.append(found.chosen)
        reported.append(found.reported)
        naive.append(same.optimism)
    assert len(chosen) > 25
    assert statistics.fmean(chosen) > 2
    assert statistics.fmean(reported) < 1
    assert statistics.fmean(optimism) > 1
    assert sum(one > 0 for one in optimism) > 0.9 * len(optimism)
    assert 0.05 < statistics.fmean(shortfall) < 0.12
    assert max(map(abs, naive)) < 1e-9


@pytest.mark.parametrize("change", [lambda zoo: zoo, varying], ids=["constant", "varying"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_savings_over_a_model_equal_loops(repeats, change):
    zoo = change(latent_zoo(4, 60, 3))
    models = zoo.singles()[1]
    expected = {model: [] for model in models}
    for chosen_on, reported_on in halves(zoo, repeats):
        one, other = Plain(chosen_on), Plain(reported_on)
        cascades = search_zoo(chosen_on)
        for model in models:
            _, promised = one.means(one.point((model,), ()))
            enough = [p for p in cascades.points if p.accuracy >= promised - 1e-9]
            point = (enough or cascades.points[-1:])[0]
            cost, accuracy = other.means(other.point(point.stages, point.thresholds))
            alone, reached = other.means(other.point((model,), ()))
            expected[model].append((alone - cost, accuracy - reached))
    choices = [search_zoo, lambda zoo: search_zoo(zoo, SearchSettings(levels=1))]
    results, savings = held_out_each(
        halves(zoo, repeats), choices, default_bands, resamples=200, models=models
    )
    assert [len(of_bands) for of_bands in results] == [2, 2]
    assert len(savings) == len(models) > 1
    for found, trials in zip(savings, expected.values(), strict=True):
        saved, difference = (statistics.fmean(values) for values in zip(*trials, strict=True))
        assert (found.saved, found.difference) == pytest.approx((saved, difference))
        assert found.saved_interval[0] <= found.saved <= found.saved_interval[1]
        assert found.difference_interval[0] <= difference <= found.difference_interval[1]


def test_what_is_chosen_beforehand_is_not_flattered():
    """One fixed cascade of a zoo that is no noise: promised and delivered agree on average."""
    shortfall = []
    for seed in range(60):
        zoo = latent_zoo(3, 400, 11)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(400, generator=generator)
        one, other = zoo.rows(order[:200]), zoo.rows(order[200:])
        point = search_zoo(zoo).points[-1]
        plain = Plain(one)
        cost, accuracy = plain.means(plain.point(point.stages, point.thresholds))
        fixed = CascadeFront((point._replace(cost=cost, accuracy=accuracy),))
        shortfall += [
            found.shortfall
            for found in held_out(
                [(one, other)], lambda _, c=fixed: c, lambda _: [Band(0.1, 0.2)], resamples=1
            )
        ]
    assert abs(statistics.fmean(shortfall)) < 2 * statistics.stdev(shortfall) / math.sqrt(60)


# bands


def test_bands_are_cut_at_what_both_fronts_reach():
    low, high = Front(doubles(1, 2), doubles(0.2, 0.6)), Front(doubles(1, 2), doubles(0.3, 0.8))
    band = Band(0.5, 0.9, "name")
    assert band.within(low) == Band(0.5, 0.6, "name")
    assert band.within(high) == Band(0.5, 0.8, "name")
    assert band.within(low, high) == band.within(high, low) == band.within(low)
    assert Band(0.1, 0.3, "low").within(low, high) == Band(0.1, 0.3, "low")
    assert Band(0.7, 0.9).within(low) == Band(0.6 - 1e-6, 0.6)
    nothing = Front(doubles(1), doubles(0))
    assert Band(0.7, 0.9).within(nothing).high < 1e-9
    assert average_compute_reduction(nothing, nothing, Band(0.7, 0.9).within(nothing)) == 1


def test_a_band_above_every_model_of_a_part_is_its_top():
    zoo = latent_zoo(4, 60, 0)
    ((chosen_on, reported_on),) = halves(zoo, 1)
    top = float(chosen_on.singles()[0].accuracy[-1])
    beyond = held_out([(chosen_on, reported_on)], search_zoo, lambda _: [Band(0.999, 1)])[0]
    tip = held_out([(chosen_on, reported_on)], search_zoo, lambda _: [Band(top - 1e-6, top)])[0]
    assert beyond.band == Band(0.999, 1)
    assert replace(beyond, band=tip.band) == tip


def test_trials_without_a_band_to_report_on_are_an_error():
    zoo = latent_zoo(3, 20, 0)
    best = replace(zoo, correct=torch.ones(3, 20, dtype=torch.bool))
    with pytest.raises(CascadeError, match="nothing to trade off"):
        held_out([(best, zoo)], search_zoo, default_bands)
