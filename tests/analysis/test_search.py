import importlib
import math

import pytest
import torch

from lit_cascade.analysis.curve import replay
from lit_cascade.analysis.protocol import DecisionRule, SearchProtocol, protocol_of
from lit_cascade.analysis.search import evaluate_strategies, frontier_of, search, variants
from lit_cascade.core.search.front import Band, default_bands
from lit_cascade.core.search.points import CascadeFront, CascadePoint
from lit_cascade.core.search.search import SearchSettings, search_zoo
from lit_cascade.core.search.zoo import Zoo
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.record import Record
from tests.search_oracles import Plain

searching = importlib.import_module("lit_cascade.analysis.search")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(searching, "_RESAMPLES", 3)
    monkeypatch.setattr(searching, "_RESAMPLES_ALONE", 5)


def write(
    folder, split, *, n=48, seed=0, skills=(0.4, 0.2, 1.0, 1.6), first=0, vary=False, **changes
):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    easy = torch.rand(n, 1, generator=generator) * 3
    folder.mkdir(exist_ok=True, parents=True)
    for k, skill in enumerate(skills):
        noise = torch.randn(n, 3, generator=generator)
        logits = skill * (0.3 + easy) * torch.eye(3)[labels] + 0.8 * noise
        flops = 5.0**k * (1 + torch.rand(n, generator=generator) if vary else 1)
        parts = {"flops": flops, "ids": list(range(first, first + n))} | changes
        Record.from_arrays(
            f"m{k}", logits, labels, data={"name": "toy", "split": split, "source": "s"}, **parts
        ).save(folder / f"m{k}-{split}.safetensors")
    return str(folder)


def found_in(place, rule=None, settings=None, bands=default_bands, **options):
    protocol = protocol_of([place], **({"repeats": 2} | options))
    return frontier_of(protocol, rule, settings, bands)


NAMES = {
    (2, 0): ["cascades of up to 2"],
    (2, 8): ["cascades of up to 2, window", "cascades of up to 2, no window"],
    (3, 0): ["cascades of up to 3", "cascades of up to 2"],
}
BASELINES = [
    "neighbouring pairs only",
    "one threshold for all pairs",
    "random deferral",
    "oracle deferral (bound)",
]


@pytest.mark.parametrize(("stages", "window"), NAMES)
def test_the_search_comes_first_and_its_baselines_after_it(tmp_path, stages, window):
    found = found_in(
        write(tmp_path, "test"), settings=SearchSettings(stages=stages, window=window, grid=8)
    )
    assert [one.name for one in found.strategies] == NAMES[stages, window] + BASELINES
    reductions = {one.name: [r.chosen for r in one.reductions] for one in found.strategies}
    first, *others, bound = reductions.values()
    for band in range(2):
        assert all(first[band] >= other[band] - 1e-12 for other in others)
        assert bound[band] >= reductions[NAMES[stages, window][-1]][band] or window
        assert all(other[band] >= 1 - 1e-12 for other in others)
    for one in found.strategies:
        assert [r.band for r in one.reductions] == default_bands(found.singles)
        for reduction in one.reductions:
            assert (reduction.held_out is None) == (one.name in BASELINES[2:])
    assert found.strategies[0].points.cost.equal(found.reported.cost)
    assert not found.apart


def test_on_one_split_what_is_reported_is_what_was_promised(tmp_path):
    found = found_in(write(tmp_path, "test"))
    assert found.reported.cost.tolist() == [point.cost for point in found.cascades.points]
    assert found.reported.accuracy.tolist() == [p.accuracy for p in found.cascades.points]


@pytest.mark.parametrize("combine", ["later", "most_confident"])
def test_on_two_splits_the_points_of_the_choice_are_reported_as_they_are(tmp_path, combine):
    write(tmp_path, "calibration")
    place = write(tmp_path, "test", seed=1, first=100)
    found = found_in(place, DecisionRule(combine=combine))
    assert found.apart
    plain = Plain(found.zoo)
    points = zip(found.cascades.points, found.reported.cost, found.reported.accuracy, strict=True)
    for point, cost, accuracy in points:
        expected = plain.means(plain.point(point.stages, point.thresholds, point.floors))
        assert (float(cost), float(accuracy)) == pytest.approx(expected, rel=1e-12)
    assert found.singles.accuracy.tolist() == found.zoo.singles()[0].accuracy.tolist()
    names = [one.name for one in found.strategies]
    for one in found.strategies[: len(names) - 2]:
        for reduction in one.reductions:
            assert reduction.held_out.repeats == 1
            assert reduction.held_out.spread is None
            assert reduction.held_out.chosen == pytest.approx(reduction.chosen, rel=1e-12)
    chance = found.strategies[-2].points
    assert chance.cost[0] == found.zoo.mean_cost[0]
    assert chance.accuracy[0] == found.zoo.accuracy[0]


def test_points_are_reported_in_the_order_of_the_choice():
    correct = torch.tensor([[True, False], [True, True]])
    costs = torch.tensor([[1.0], [10.0]]).double()
    zoo = Zoo(("a", "b"), torch.tensor([[0.9, 0.2], [0.9, 0.9]]), correct, costs)
    other = Zoo(("a", "b"), torch.tensor([[0.1, 0.2], [0.9, 0.9]]), ~correct, costs)
    found = CascadeFront(
        (
            CascadePoint((0,), (), (), 1.0, 0.5),
            CascadePoint((0, 1), (0.5,), (-math.inf,), 6.0, 1.0),
        )
    )

    def points(reported, **options):
        protocol = SearchProtocol(None, **options)
        parts = (DecisionRule(), lambda _: [Band(0.4, 0.5)], (zoo, reported))
        (strategy,) = evaluate_strategies({"x": lambda _: found}, protocol, *parts)
        return strategy.points

    reported = points(other, reported_on="another split")
    assert reported.cost.tolist() == [1, 11]
    assert reported.accuracy.tolist() == [0.5, 0]
    assert points(zoo, reported_on=None, holdout=0).cost.tolist() == [1, 6]


def test_picks_are_the_cheapest_that_are_as_accurate_as_some_model(tmp_path):
    write(tmp_path, "calibration", vary=True)
    found = found_in(write(tmp_path, "test", seed=1, first=100, vary=True))
    chosen = found.protocol.zoos(DecisionRule())[0]
    plain, judge = Plain(chosen), Plain(found.zoo)
    alone = [plain.means(plain.point((m,), ())) for m in range(4)]
    front = [m for m in range(4) if not any(
        c <= alone[m][0] and a >= alone[m][1] and (c, a) != alone[m] for c, a in alone
    )]  # fmt: skip
    points = [(p, p.cost, p.accuracy) for p in found.cascades.points]
    expected = {}
    for model in front:
        enough = [p for p, _, accuracy in points if accuracy >= alone[model][1] - 1e-9]
        expected.setdefault(min(enough, key=lambda p: p.cost), model)
    expected.setdefault(found.cascades.points[-1], front[-1])
    assert [pick.point for pick in found.picks] == list(expected)
    for pick, model in zip(found.picks, expected.values(), strict=True):
        cost, accuracy = judge.means(judge.point(pick.point.stages, pick.point.thresholds))
        single = judge.means(judge.point((model,), ()))
        assert pick.single == f"m{model}"
        assert (pick.cost, pick.accuracy) == pytest.approx((cost, accuracy), rel=1e-12)
        assert pick.saving == pytest.approx(single[0] / cost, rel=1e-12)
        assert pick.difference == pytest.approx(accuracy - single[1], abs=1e-12)
    assert any(len(pick.point.stages) == 2 for pick in found.picks)


def test_a_pick_that_is_as_accurate_as_two_models_is_set_against_the_cheaper(tmp_path):
    """Deferring the two that it is unsure of makes A as accurate as C, and cheaper than B."""
    right = {"a": "1111100000", "b": "1111110000", "c": "1111100011"}
    for (name, row), flops in zip(right.items(), (1.0, 25.0, 100.0), strict=True):
        score = [0.9] * 8 + [0.1 if name == "a" else 0.9] * 2
        Record.from_arrays(name, score=score, correct=list(map(int, row)), flops=flops).save(
            tmp_path / f"{name}.safetensors"
        )
    found = found_in(str(tmp_path), holdout=0)
    assert found.singles.accuracy.tolist() == [0.5, 0.6, 0.7]
    assert [(p.point.stages, p.single) for p in found.picks] == [((0,), "a"), ((0, 2), "b")]
    assert (found.picks[1].cost, found.picks[1].saving) == (21, pytest.approx(25 / 21))


def test_of_many_models_a_dozen_picks_are_kept_from_end_to_end(tmp_path):
    skills = [0.1 + 0.12 * k for k in range(20)]
    write(tmp_path, "test", skills=skills, n=300)
    found = found_in(str(tmp_path), holdout=0)
    assert len(found.singles) > 12
    assert 6 < len(found.picks) <= 12
    assert found.picks[-1].point == found.cascades.points[-1]
    assert found.picks[0].single == "m0"


@pytest.mark.parametrize("way", ["later", "average"])
def test_a_contest_is_the_same_whatever_is_at_hand(tmp_path, way):
    protocol = protocol_of([write(tmp_path, "test")], repeats=2)
    rule = DecisionRule(combine=way, calibrate=True)
    zoos = protocol.zoos(rule)
    choices = {"x": search_zoo, "y": search_zoo}
    one, same = evaluate_strategies(choices, protocol, rule, default_bands)
    (two,) = evaluate_strategies(
        {"x": search_zoo}, protocol, rule, default_bands, zoos, {"x": search_zoo(zoos[0])}
    )
    assert one.reductions == same.reductions
    assert one.reductions == two.reductions
    assert one.points.cost.equal(two.points.cost)
    assert one.reductions[0].held_out.repeats == 2


def test_the_default_rule_and_settings(tmp_path):
    place = write(tmp_path, "test")
    one, two = found_in(place), found_in(place, DecisionRule(), SearchSettings())
    assert (one.rule, one.settings) == (DecisionRule(), SearchSettings())
    assert one.temperatures == (1, 1, 1, 1)
    assert one.cascades == two.cascades
    warm = found_in(place, DecisionRule(calibrate=True))
    assert warm.temperatures == warm.protocol.chosen_on.temperatures()
    assert warm.cascades != one.cascades


def test_the_shared_threshold_is_named(tmp_path):
    found = found_in(write(tmp_path, "test"))
    (shared,) = (one for one in found.strategies if one.name == BASELINES[1])
    plain = Plain(found.zoo)
    costs = {cost for cost, _ in (plain.means(plain.point((m,), ())) for m in range(4))}
    for first in range(3):
        for second in range(first + 1, 4):
            costs.add(plain.means(plain.point((first, second), (found.shared,)))[0])
    for cost in shared.points.cost.tolist():
        assert any(cost == pytest.approx(known, rel=1e-9) for known in costs)


# bands


def test_a_band_out_of_reach_is_said_before_the_work(tmp_path, monkeypatch):
    place = write(tmp_path, "test")
    monkeypatch.setattr(searching, "search", lambda *_: pytest.fail("searched"))
    with pytest.raises(
        UsageError, match=r"0\.9 to 1 reaches above the most accurate of the single"
    ):
        found_in(place, bands=lambda _: [Band(0.5, 0.6), Band(0.9, 1.0)])


def test_a_band_without_an_upper_end_ends_at_the_most_accurate_model(tmp_path):
    place = write(tmp_path, "test")
    best = float(search([place]).singles.accuracy[-1])
    until, (low, high) = best - 0.1, (best - 0.2, best - 0.05)
    options = {"repeats": 4, "stages": 2}
    found = search([place], bands=[(until, None), (low, high)], **options)
    same = search([place], bands=[Band(until, best), Band(low, high)], **options)
    assert [one.band for one in found.strategies[0].reductions] == [
        Band(until, best),
        Band(low, high),
    ]
    for one, other in zip(found.strategies, same.strategies, strict=True):
        assert [r.chosen for r in one.reductions] == [r.chosen for r in other.reductions]
    with pytest.raises(UsageError, match="reaches above the most accurate of the single"):
        search([place], bands=[(best, None)], **options)
    with pytest.raises(UsageError, match=r"0 <= low < high <= 1, got 1\.2 to 1"):
        search([place], bands=[(1.2, None)])


def test_a_band_up_to_the_best_model_may_be_beyond_some_of_the_halves(tmp_path):
    place = write(tmp_path, "test")
    best = max(m for m in found_in(place).zoo.accuracy.tolist())
    found = found_in(place, bands=lambda _: [Band(best - 0.1, best)], repeats=6)
    for one in found.strategies[:-2]:
        assert one.reductions[0].held_out.repeats == 6
        assert math.isfinite(one.reductions[0].held_out.reported)


def test_in_some_halves_the_cheapest_model_may_be_the_most_accurate(tmp_path):
    """One sample tells the models apart, and it is in one half or in the other."""
    labels = torch.arange(20) % 2
    for k, name in enumerate(("small", "large")):
        logits = 3 * torch.eye(2)[labels] + torch.arange(20)[:, None] / 100
        if name == "small":
            logits[7] = torch.tensor([0.4, 0.2])
        Record.from_arrays(name, logits, labels, flops=1 + 9.0 * k).save(
            tmp_path / f"{name}.safetensors"
        )
    found = found_in(str(tmp_path), repeats=8)
    for one in found.strategies[:-2]:
        for reduction in one.reductions:
            assert reduction.held_out.repeats == 8
            assert math.isfinite(reduction.held_out.reported)


def test_one_model_that_beats_all_is_nothing_to_trade(tmp_path):
    place = write(tmp_path, "test", skills=(9.0, 0.1))
    with pytest.raises(CascadeError, match="both the cheapest and the most accurate"):
        found_in(place)


# other ways


def test_variants_change_one_thing_at_a_time():
    found = variants(SearchSettings(levels=7, stages=3, candidates=5))
    rules = {name: rule for name, (rule, _) in found.items()}
    assert rules["max softmax, later answer (default)"] == DecisionRule()
    assert rules["score: margin"] == DecisionRule(score="margin")
    assert rules["combine: most confident, calibrated"] == DecisionRule(
        combine="most_confident", calibrate=True
    )
    for name, (rule, settings) in found.items():
        assert settings.levels == 7
        assert (settings.stages == 3) == ("3 stages" in name)
        assert (settings.window > 0) == (name == "window")
        assert rule.calibrate == ("calibrated" in name)
        assert (rule.combine == "average") == ("average" in name)
        assert settings.candidates == (5 if settings.stages == 3 else 96)
    assert len({(rule, settings) for rule, settings in found.values()}) == len(found) == 13


def test_what_costs_nothing_is_searched_too(tmp_path):
    """A free model, as at hand where the others are paid for."""
    for k, skill in enumerate((0.4, 1.0, 1.6)):
        write(tmp_path, "test", skills=(skill,), flops=10.0 * k)
        (tmp_path / "m0-test.safetensors").rename(tmp_path / f"{k}.safetensors")
        record = Record.load(tmp_path / f"{k}.safetensors")
        Record.from_arrays(
            f"m{k}", record.logits, record.labels, flops=record.cost(), data=record.data
        ).save(tmp_path / f"{k}.safetensors")
    found = found_in(str(tmp_path))
    assert found.picks[0].saving == math.inf
    for one in found.strategies:
        for reduction in one.reductions:
            assert reduction.chosen >= 1
            assert math.isfinite(reduction.chosen)
            assert math.isfinite(reduction.interpolated)
    low = float(found.singles.accuracy[0])
    cheap = found_in(str(tmp_path), bands=lambda _: [Band(low - 0.1, low)])
    assert cheap.strategies[0].reductions[0].chosen == 1


@pytest.mark.parametrize("calibrate", [False, True])
def test_progress_counts_the_records_that_are_read_and_then_the_models(tmp_path, calibrate):
    places = [write(tmp_path / "c", "calibration", first=100), write(tmp_path / "t", "test")]
    read, searched = [], []
    searching.search(
        places,
        calibrate=calibrate,
        reading=lambda *tick: read.append((*tick, len(searched))),
        progress=lambda *tick: searched.append(tick),
    )
    total = (3 if calibrate else 2) * 4
    assert read == [(done, total, 0) for done in range(1, total + 1)]
    assert searched[-1] == (3, 3)


# norms


def test_norms_are_chosen_where_the_models_are_and_are_in_the_policies(tmp_path):
    place = write(tmp_path, "calibration", n=200)
    write(tmp_path, "test", n=150, seed=1, first=1000)
    found = search([place], score="max_logit_pnorm", repeats=2)
    chosen = found.protocol.chosen_on
    assert found.norms == chosen.norms()
    row = next(k for k, point in enumerate(found.cascades.points) if len(point.stages) == 2)
    point, policy = found.cascades.points[row], found.policy(row)
    assert policy.norms == (found.norms[point.stages[0]],)
    assert policy.evidence["norms"]["ids"] == policy.evidence["thresholds"]["ids"] == "0..199"
    records = [
        Record.load(tmp_path / f"{found.zoo.names[model]}-test.safetensors")
        for model in point.stages
    ]
    replayed = replay(records, policy)
    assert float(found.reported.cost[row]) == pytest.approx(replayed.point.cost)
    assert float(found.reported.accuracy[row]) == pytest.approx(replayed.point.accuracy)
    with pytest.raises(CascadeError, match="fitted on"):
        replay([chosen.record(chosen.models[model]) for model in point.stages], policy)


def test_norms_that_no_cascade_can_have_are_refused(tmp_path):
    place = write(tmp_path, "test")
    with pytest.raises(UsageError, match="combine: the score max_logit_pnorm has another norm"):
        search([place], score="max_logit_pnorm", combine="most_confident")
    pair = [
        Record.from_arrays(name, torch.randn(9, 2), torch.zeros(9).long(), flops=k)
        for k, name in enumerate("ab", start=1)
    ]
    with pytest.raises(CascadeError, match="max_logit_pnorm needs three or more classes"):
        search(pair, score="max_logit_pnorm")
