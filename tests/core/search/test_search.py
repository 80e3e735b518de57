import importlib
import itertools
import math
from dataclasses import replace

import pytest
import torch

from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES
from lit_cascade.core.search.front import average_compute_reduction, default_bands
from lit_cascade.core.search.points import evaluate_points
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError, UsageError
from tests.search_oracles import Plain, latent_zoo, plain_zoo, zoo_of_logits

# the package has a function of that name
searching = importlib.import_module("lit_cascade.core.search.search")
COMBINED_SCORES = ("later", "most_confident")


def everything(n, stages=2, **settings):
    """Settings under which every threshold of n samples is tried."""
    return SearchSettings(stages=stages, levels=n + 1, grid=n + 1, fine=n + 1, **settings)


def tied(models, n, values):
    return torch.randint(values, (models, n)) / values


def random_zoo(n=12, models=5, *, values=7, costs=None, scores=None, combine="later"):
    """The dearer a model the oftener it is right, and the surer the oftener."""
    scores = tied(models, n, values) if scores is None else scores
    costs = (
        3 ** torch.arange(models)[:, None] + torch.arange(models)[:, None]
        if costs is None
        else costs
    )
    sure = scores.argsort(dim=1).argsort(dim=1) / n
    ability = torch.linspace(0, 0.5, models)[:, None]
    correct = torch.rand(models, n) < ability + 0.6 * sure
    correct[1:] &= (sure[0] > 0.3) | (torch.rand(models - 1, n) < 0.5)  # some are hopeless
    return plain_zoo(scores, correct, costs.double(), combine=combine)


def check_points(points, zoo, plain):
    """Each point does what it says, sample by sample."""
    judged = evaluate_points(points, zoo)
    for point, right, cost in zip(points, judged.correct, judged.cost, strict=True):
        does = plain.means(plain.point(point.stages, point.thresholds, point.floors))
        assert (point.cost, point.accuracy) == (pytest.approx(does[0], rel=1e-12), does[1])
        assert right.sum().item() / zoo.n == point.accuracy
        assert cost.sum().item() / zoo.n == pytest.approx(does[0], rel=1e-12)
        for i in range(zoo.n):
            ran = plain.ran(point.stages, point.thresholds, point.floors, i)
            assert bool(right[i]) == plain.right(ran, i)
            assert cost[i].item() == pytest.approx(
                float(sum(plain.costs[stage][i] for stage in ran) * plain.unit), rel=1e-12
            )


def check_against_all(zoo, settings, plain=None):
    plain = plain or Plain(zoo)
    points = search_zoo(zoo, settings).points
    expected = plain.front(settings.stages, window=settings.window > 0)
    assert [point.accuracy for point in points] == [accuracy for _, accuracy in expected]
    assert [point.cost for point in points] == pytest.approx([c for c, _ in expected], rel=1e-9)
    check_points(points, zoo, plain)
    return points


KINDS = {
    "many ties": lambda n: {"values": 3},
    "few ties": lambda n: {"values": 20},
    "no ties": lambda n: {"scores": torch.randn(5, n)},
    "all scores equal": lambda n: {"scores": torch.full((5, n), 0.3)},
    "one model without an opinion": lambda n: {
        "scores": torch.cat([tied(2, n, 5), torch.ones(1, n), tied(2, n, 5)])
    },
    "no certainty at all": lambda n: {"scores": tied(5, n, 4).log()},  # -inf where it was 0
    "equal costs": lambda n: {"costs": torch.tensor([[2], [2], [3], [3], [3]])},
    "all costs equal": lambda n: {"costs": torch.full((5, 1), 7)},
    "costs per sample": lambda n: {
        "costs": torch.randint(2, 6, (5, n)) * 2 ** torch.arange(5)[:, None]
    },
    "costs of 0 on some samples": lambda n: {"costs": torch.randint(0, 3, (5, n))},
    "fractions": lambda n: {"costs": torch.rand(5, n, dtype=torch.float64)},
    "one fraction each": lambda n: {"costs": torch.rand(5, 1, dtype=torch.float64) * 1e9},
    "two models free": lambda n: {"costs": torch.tensor([[0], [0], [1], [2], [9]])},
    "all models free": lambda n: {"costs": torch.zeros(5, 1)},
}


@pytest.mark.parametrize("combine", COMBINED_SCORES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stages", "n"), [(2, 33), (2, 1), (3, 1), (3, 2), (3, 11)])
def test_the_front_equals_brute_force(stages, n, kind, combine):
    check_against_all(random_zoo(n, **KINDS[kind](n), combine=combine), everything(n, stages))


@pytest.mark.parametrize("combine", COMBINED_SCORES)
@pytest.mark.parametrize("seed", range(4))
def test_three_stages_of_many_samples_equal_brute_force(seed, combine):
    torch.manual_seed(seed)
    costs = torch.randint(2, 6, (5, 40)) * 4 ** torch.arange(5)[:, None]
    zoo = random_zoo(40, values=6, costs=costs, combine=combine)
    points = check_against_all(zoo, everything(40, 3))
    assert {len(point.stages) for point in points} == {1, 2, 3}


@pytest.mark.parametrize("stages", [2, 3])
def test_dominated_models_may_still_be_stages(stages):
    """Each is cheap and bad, or dear and bad, but right where the others are wrong."""
    rank = torch.arange(20)
    scores = torch.stack([rank, rank, rank, rank, rank]) / 20
    correct = torch.stack([rank > 9, rank < 4, rank % 20 > 7, rank < 8, rank < 9])
    zoo = plain_zoo(scores, correct, torch.tensor([[4.0], [5.0], [6.0], [7.0], [8.0]]).double())
    points = check_against_all(zoo, everything(20, stages))
    _, alone = zoo.singles()
    assert alone == [0, 2]
    assert {model for point in points for model in point.stages} >= {1, 4}


def test_equal_costs_that_round_apart_make_one_point():
    """3 of 10 samples at 2 cost what 2 of 10 at 3 do, but 0.3 * 2 < 0.2 * 3 in floating point."""
    scores = torch.ones(3, 10)
    scores[0, :3], scores[1, :2] = 0.0, 0.0
    correct = torch.zeros(3, 10, dtype=torch.bool)
    correct[0, 5:], correct[1, :2], correct[2, :3] = True, True, True
    costs = torch.tensor([[1e-9], [2.0], [3.0]]).double()
    scores[0, 2] = 0.5
    points = check_against_all(plain_zoo(scores, correct, costs), everything(10))
    assert len(points) == len({round(point.cost, 9) for point in points})


@pytest.mark.parametrize("models", [33, 34, 70])
def test_many_models_equal_brute_force(models):
    zoo = random_zoo(6, models, values=3, costs=torch.randint(1, 10**6, (models, 1)))
    check_against_all(zoo, everything(6))


@pytest.mark.parametrize("second", [1, 2])
@pytest.mark.parametrize("models", [31, 32, 33, 34, 65, 66, 67])
def test_the_last_models_of_many_take_part(models, second):
    """Of them only the last three are ever right."""
    correct = torch.zeros(models, 5, dtype=torch.bool)
    correct[-3, :3], correct[-2, 3], correct[-1, 4] = True, True, True
    scores = torch.ones(models, 5)
    scores[-3, 3:], scores[-3, 2 + second] = 0.5, 0.25
    scores[-2] = torch.tensor([1, 1, 1, 1, 0.5])
    zoo = plain_zoo(scores, correct, torch.arange(models).double()[:, None] + 10)
    points = search_zoo(zoo, everything(5)).points
    assert [point.stages for point in points] == [
        (0,),
        (models - 3,),
        (models - 3, models - 3 + second),
    ]
    kept = [0, models - 3, models - 2, models - 1]
    last = plain_zoo(zoo.scores[kept], zoo.correct[kept], zoo.costs[kept])
    assert [point.stages for point in search_zoo(last, everything(5, 3)).points][-1] == (1, 2, 3)


# scores of real logits


def tied_logits(n, models=5, classes=4):
    """Logits of which each row comes about three times, mostly with the same label."""
    rows = torch.arange(n) % (n // 3 + 1)
    labels = rows % classes
    skill = torch.linspace(0.5, 2.5, models)[:, None, None]
    logits = 2 * skill * torch.eye(classes)[labels] + 1.5 * torch.randn(models, n, classes)[:, rows]
    return logits, torch.where(torch.rand(n) < 0.1, (labels + 1) % classes, labels)


def check_replay(point, logits, labels, zoo, score, temperatures):
    policy = Policy(
        point.thresholds,
        score,
        tuple(temperatures[stage] for stage in point.stages),
        zoo.combine,
        point.floors,
    )
    done = replay([logits[stage] for stage in point.stages], policy)
    costs = zoo.costs.expand(-1, zoo.n).tolist()
    spent = sum(
        costs[stage][i]
        for i, last in enumerate(done.stage.tolist())
        for stage in point.stages[: last + 1]
    )
    pairs = zip(done.prediction.tolist(), labels.tolist(), strict=True)
    assert sum(answer == label for answer, label in pairs) / zoo.n == point.accuracy
    assert spent / zoo.n == pytest.approx(point.cost, rel=1e-12)


@pytest.mark.parametrize("combine", ["later", "average", "most_confident"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("stages", "n", "constant", "window"),
    [(2, 36, True, False), (2, 36, False, True), (3, 18, False, False), (3, 18, True, False)],
)
def test_a_search_of_logits_equals_brute_force(stages, n, constant, window, score, combine, warm):
    logits, labels = tied_logits(n)
    temperatures = [0.5, 1.7, 1.0, 3.0, 0.8] if warm else [1.0] * 5
    costs = torch.linspace(1, 20, 5).double()[:, None]
    if not constant:
        costs = costs * (0.5 + torch.rand(5, n, dtype=torch.float64))
    parts = {"score": score, "temperatures": temperatures, "combine": combine}
    zoo = zoo_of_logits(logits, labels, costs, **parts)
    plain = Plain(zoo, logits, temperatures, labels)
    settings = everything(n, stages, window=n + 1 if window else 0)
    points = check_against_all(zoo, settings, plain)
    cascades = [point for point in points if len(point.stages) > 1]
    assert cascades
    for point in cascades:
        check_replay(point, logits, labels, zoo, score, temperatures)


# windows


@pytest.mark.parametrize("combine", COMBINED_SCORES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 14])
def test_windows_equal_brute_force(n, kind, combine):
    zoo = random_zoo(n, **KINDS[kind](n), combine=combine)
    check_against_all(zoo, everything(n, window=n + 1))


@pytest.mark.parametrize("window", [1, 3, 9])
def test_a_window_saves_hopeless_samples(window):
    zoo = plain_zoo(
        torch.tensor([[0.1, 0.2, 0.5, 0.9], [1.0, 1.0, 1.0, 1.0]]),
        torch.tensor([[False, False, False, True], [False, False, True, True]]),
        torch.tensor([[1.0], [8.0]]).double(),
    )
    best = search_zoo(zoo, everything(4, window=window)).points[-1]
    assert best == ((0, 1), (0.8999999761581421,), (0.5,), 3.0, 0.5)
    assert search_zoo(zoo, everything(4)).points[-1] == (
        (0, 1),
        (0.8999999761581421,),
        (-math.inf,),
        7.0,
        0.5,
    )


@pytest.mark.parametrize("window", [2, 5, 20])
def test_few_floors_are_exact_and_no_better_than_all(window):
    zoo = random_zoo(50, scores=torch.randn(5, 50))
    points = search_zoo(zoo, everything(50, window=window)).points
    check_points(points, zoo, Plain(zoo))
    check_no_better(points, search_zoo(zoo, everything(50, window=51)))
    check_no_better(
        search_zoo(zoo, everything(50)).points, search_zoo(zoo, everything(50, window=window))
    )
    assert any(max(point.floors, default=-math.inf) > -math.inf for point in points)
    distinct = {}
    for point in points:
        distinct.setdefault(point.stages[0], set()).update(point.floors)
    assert all(len(found - {-math.inf}) <= window for found in distinct.values())


# fewer thresholds than there are


def check_no_better(points, exact):
    for point in points:
        assert exact.cheapest(point.accuracy).cost <= point.cost * (1 + 1e-12)


@pytest.mark.parametrize("combine", COMBINED_SCORES)
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("levels", [1, 2, 7, 30])
def test_few_levels_are_exact_and_no_better_than_all(levels, stages, combine):
    zoo = random_zoo(60, scores=torch.randn(5, 60), combine=combine)
    settings = SearchSettings(stages=stages, levels=levels, grid=levels, fine=2 * levels)
    found = search_zoo(zoo, settings)
    check_points(found.points, zoo, Plain(zoo))
    check_no_better(found.points, search_zoo(zoo, everything(60, stages)))
    used = {}
    for point in found.points:
        for model, threshold in zip(point.stages, point.thresholds, strict=False):
            used.setdefault(model, set()).add(threshold)
    assert all(len(some) <= levels * (1 if stages == 2 else 4) for some in used.values())


def test_levels_are_used_to_the_full():
    """With as many levels as scores every threshold is there; with one fewer, one is not."""
    n = 40
    scores = torch.stack([torch.randperm(n), torch.zeros(n)]) / n
    ranks = scores[0].sort().indices
    correct = torch.zeros(2, n, dtype=torch.bool)
    correct[1] = True
    zoo = plain_zoo(scores, correct, torch.tensor([[1.0], [100.0]]).double())
    assert len(search_zoo(zoo, SearchSettings(levels=n))) == 1 + n - 1 + 1
    assert len(search_zoo(zoo, SearchSettings(levels=n - 1))) == 1 + n - 2 + 1
    assert len(ranks) == n


def test_by_default_every_threshold_of_a_small_zoo_is_tried():
    zoo = random_zoo(1500, 3, scores=torch.randn(3, 1500))
    assert search_zoo(zoo).points == search_zoo(zoo, SearchSettings(levels=1500)).points
    assert search_zoo(zoo).points != search_zoo(zoo, SearchSettings(levels=1000)).points


def test_the_second_look_at_three_stages_equals_brute_force():
    zoo = random_zoo(25, scores=torch.randn(5, 25))
    settings = SearchSettings(stages=3, levels=26, grid=3, fine=26, slack=1e9)
    check_against_all(zoo.rows(torch.arange(12)), replace(settings, fine=13))
    assert search_zoo(zoo, settings).points == search_zoo(zoo, everything(25, 3)).points


def test_slack_decides_who_gets_a_second_look():
    zoo = latent_zoo(6, 200, 0)
    coarse, fronts = SearchSettings(stages=3, grid=4, fine=4), []
    for slack in (0.0, 0.05, 1e9):
        settings = SearchSettings(stages=3, grid=4, fine=100, slack=slack)
        fronts.append(search_zoo(zoo, settings))
    for worse, better in itertools.pairwise([search_zoo(zoo, coarse), *fronts]):
        check_no_better(worse.points, better)
    sums = [sum(point.cost for point in found.points) / len(found) for found in fronts]
    assert fronts[0].points != fronts[2].points, sums


def test_the_nearest_get_a_second_look_first():
    zoo = latent_zoo(6, 200, 0)
    settings = [
        SearchSettings(stages=3, grid=4, fine=100, slack=1e9, nearest=k) for k in (0, 3, 99)
    ]
    fronts = [search_zoo(zoo, one) for one in settings]
    plain = fronts[0].points
    assert plain == search_zoo(zoo, SearchSettings(stages=3, grid=4, fine=4)).points
    for worse, better in itertools.pairwise(fronts):
        check_no_better(worse.points, better)
        assert worse.points != better.points
    looked_at = {p.stages for p in fronts[1].points if p not in plain and len(p.stages) == 3}
    assert 1 <= len(looked_at) <= 3


@pytest.mark.parametrize(
    ("cells", "fine", "grids"),
    [(10 * 60**2, 512, [60, 512]), (1, 512, [48, 512]), (2**40, 70, [70]), (1, 30, [30])],
)
def test_by_default_the_grid_is_what_can_be_afforded(cells, fine, grids, monkeypatch):
    seen = []

    def spy(zoo, best, triples, *, levels, progress):
        seen.append(levels[0])
        return dict.fromkeys(triples, 1.0)

    monkeypatch.setattr(searching, "_CELLS", cells)
    monkeypatch.setattr(searching, "add_grids", spy)
    search_zoo(random_zoo(600), SearchSettings(stages=3, levels=2, fine=fine))
    assert seen == grids


def test_a_large_zoo_gets_a_thousand_thresholds(monkeypatch):
    zoo = random_zoo(1500, 3, scores=torch.randn(3, 1500))
    monkeypatch.setattr(searching, "_POINTS", 9 * 1200)
    assert search_zoo(zoo).points == search_zoo(zoo, SearchSettings(levels=1200)).points
    monkeypatch.setattr(searching, "_POINTS", 9)
    assert search_zoo(zoo).points == search_zoo(zoo, SearchSettings(levels=1000)).points


@pytest.mark.parametrize("kind", ["many ties", "no ties", "costs per sample"])
@pytest.mark.parametrize("combine", COMBINED_SCORES)
@pytest.mark.parametrize("n", [1, 6])
def test_four_stages_equal_brute_force(n, kind, combine):
    zoo = random_zoo(n, **KINDS[kind](n), combine=combine)
    cells = math.ceil((n + 1) ** 1.5) + 1  # as many for three thresholds as for two
    check_against_all(zoo, SearchSettings(stages=4, levels=n + 1, grid=cells, fine=cells))


# which models triples are made of


def two_stage_part(found):
    return [point for point in found.points if len(point.stages) < 3]


def test_candidates_are_told_apart_by_many_thresholds(monkeypatch):
    asked = []

    def spy(zoo, best, count, levels):
        asked.append((count, levels >= 100))
        return [1, 2, 4]

    monkeypatch.setattr(searching, "nearest_in_pairs", spy)
    points = search_zoo(random_zoo(40), SearchSettings(stages=3, candidates=3)).points
    assert asked == [(3, True)]
    assert {point.stages for point in points if len(point.stages) == 3} <= {(1, 2, 4)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("poor", "candidates", "least"),
    # measured over 16 seeds; with no more candidates than able models it loses some
    [(6, 10, 0.99), (0, 12, 0.97), (0, 8, 0.75)],
)
def test_fewer_models_for_triples_lose_little(poor, candidates, least, seed):
    zoo = latent_zoo(14, 600, seed, poor=poor)
    settings = {"stages": 3, "levels": 100, "grid": 12, "fine": 24}
    pairs = search_zoo(zoo, SearchSettings(levels=100))
    few = search_zoo(zoo, SearchSettings(candidates=candidates, **settings))
    every = search_zoo(zoo, SearchSettings(candidates=14, **settings))
    singles, _ = zoo.singles()
    for band in default_bands(singles):
        gain = average_compute_reduction(singles, every.front, band)
        assert gain > 1.04 * average_compute_reduction(singles, pairs.front, band)
        kept = average_compute_reduction(singles, few.front, band)
        assert least * gain <= kept <= 1.0001 * gain
    assert set(two_stage_part(every)) <= set(two_stage_part(few)) <= set(pairs.points)
    assert len({model for point in few.points for model in point.stages[2:]}) > 0
    check_no_better(few.points, every)
    check_no_better(pairs.points, few)
    check_points(few.points[::25], zoo, Plain(zoo))


# what must not matter


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINED_SCORES)
def test_the_same_input_gives_the_same_front(stages, combine):
    zoo = random_zoo(50, costs=torch.rand(5, 50), combine=combine)
    settings = SearchSettings(stages=stages, levels=4, grid=4, fine=6)
    first = search_zoo(zoo, settings).points
    assert first == search_zoo(zoo, settings).points
    assert first == search_zoo(replace(zoo, scores=zoo.scores.clone()), settings).points


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINED_SCORES)
def test_permuting_samples_changes_nothing(stages, combine, constant):
    zoo = random_zoo(
        64, values=9, costs=torch.randint(1, 50, (5, 1 if constant else 64)), combine=combine
    )
    for settings in (everything(64, stages), SearchSettings(stages, levels=4, grid=3, fine=6)):
        assert search_zoo(zoo, settings) == search_zoo(zoo.rows(torch.randperm(64)), settings)


@pytest.mark.parametrize("stages", [2, 3])
def test_what_scores_say_is_their_order(stages):
    zoo = random_zoo(30)
    other = replace(zoo, scores=zoo.scores.double().exp().float() * 3 - 1)
    one, two = search_zoo(zoo, everything(30, stages)), search_zoo(other, everything(30, stages))
    assert [p[:1] + p[3:] for p in one.points] == [p[:1] + p[3:] for p in two.points]


def test_doubling_samples_changes_nothing():
    zoo = random_zoo(16)
    twice = zoo.rows(torch.arange(16).repeat(2))
    assert search_zoo(zoo, everything(16, 3)).points == search_zoo(twice, everything(32, 3)).points


@pytest.mark.parametrize("unit", [1e-12, 3e9, 1e300])
def test_the_unit_of_cost_does_not_matter(unit):
    zoo = random_zoo(16)
    points = search_zoo(replace(zoo, costs=zoo.costs * unit), everything(16, 3)).points
    expected = search_zoo(zoo, everything(16, 3)).points
    assert [p[:3] for p in points] == [p[:3] for p in expected]
    assert [p.cost for p in points] == pytest.approx([p.cost * unit for p in expected], rel=1e-12)


def test_of_equal_points_the_fewest_stages_and_the_first_models_stay():
    scores, correct = torch.rand(1, 20).expand(4, 20), (torch.rand(1, 20) < 0.5).expand(4, 20)
    zoo = plain_zoo(scores, correct, torch.tensor([[1.0], [1.0], [2.0], [2.0]]).double())
    assert [point.stages for point in search_zoo(zoo, everything(20, 3)).points] == [(0,)]
    better = correct.clone()
    better[2:] = True
    zoo = plain_zoo(scores, better, zoo.costs)
    points = search_zoo(zoo, everything(20, 3)).points
    assert {point.stages for point in points} <= {(0,), (0, 2), (2,)}


def test_progress_is_told():
    told = []
    search_zoo(random_zoo(10), everything(10, 3), lambda done, of: told.append((done, of)))
    assert told == [*((i, 4) for i in range(1, 5)), *((i, 6) for i in range(1, 7))]


# errors


def test_one_model_is_no_zoo_to_search():
    zoo = Zoo(("a",), torch.rand(1, 3), torch.ones(1, 3).bool(), torch.ones(1, 1).double())
    with pytest.raises(CascadeError, match="at least 2 models, got 1"):
        search_zoo(zoo)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": 1}, "stages: expected 2, 3 or 4, got 1"),
        ({"stages": 5}, "stages: expected 2, 3 or 4, got 5"),
        ({"stages": 3, "window": 1}, "window: floors are searched for with 2 stages only"),
        ({"window": -1}, "window: expected at least 0, got -1"),
        ({"levels": 0}, "levels: expected at least 1 threshold per stage, got 0"),
        ({"levels": -5}, "levels: expected at least 1 threshold per stage, got -5"),
        ({"grid": 0}, "grid: expected at least 1 threshold per stage, got 0"),
        ({"fine": 0}, "fine: expected at least 1 threshold per stage, got 0"),
        ({"candidates": 2}, "candidates: a triple needs at least 3, got 2"),
        ({"slack": -0.1}, "slack: expected at least 0, got -0.1"),
        ({"slack": math.nan}, "slack: expected at least 0, got nan"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        SearchSettings(**settings)


def test_the_least_settings_are_fine():
    settings = SearchSettings(stages=3, levels=1, grid=1, fine=1, candidates=3, slack=0.0)
    zoo = random_zoo(10)
    check_points(search_zoo(zoo, settings).points, zoo, Plain(zoo))
