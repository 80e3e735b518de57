"""Tables of published models, and the screening of models worth recording against plain loops."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from lit_cascade.analysis.screening import (
    Criteria,
    PublishedModel,
    front_of,
    largest_sizes,
    least_missed,
    published_front,
    published_models,
    screen,
)
from lit_cascade.errors import CascadeError, UsageError


def table(folder, name, *rows):
    path = folder / name
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


def points(paths, unit="flops"):
    front = published_front(paths, unit)
    return [
        (pytest.approx(cost), pytest.approx(accuracy))
        for cost, accuracy in zip(front.cost.tolist(), front.accuracy.tolist(), strict=True)
    ]


def test_columns_of_its_own(tmp_path):
    path = table(
        tmp_path, "own.csv",
        "model,accuracy,flops,note", "small,0.5,1e6,", "large,0.9,5e7,", "silly,0.4,9e9,x",
        "late,0.6,4e6,", "worse,0.55,5e6,", "unknown,,3,", "uncounted,0.95,,", "free,0.99,0,",
    )  # fmt: skip
    assert points([path]) == [(1e6, 0.5), (4e6, 0.6), (5e7, 0.9)]


@pytest.mark.parametrize(
    ("column", "factor"), [("flops", 1), ("gmacs", 2e9), ("infer_gmacs", 2e9), ("macs", 2)]
)
def test_macs_are_two_flops(tmp_path, column, factor):
    path = table(tmp_path, "t.csv", f"model,top1,{column}", "a,75.5,3", "b,80,4")
    assert points([path]) == [(3 * factor, 0.755), (4 * factor, 0.8)]


def test_flops_come_before_macs_and_shares_before_percent(tmp_path):
    path = table(tmp_path, "t.csv", "macs,top1,model,accuracy,flops", "3,10,a,0.5,8", "3,10,b,,")
    assert points([path]) == [(6, 0.1), (8, 0.5)]


def test_another_unit_has_a_column_of_its_own(tmp_path):
    path = table(tmp_path, "t.csv", "model,top1,latency_s,gmacs", "a,50,0.25,1", "b,70,0.5,2")
    assert points([path], "latency_s") == [(0.25, 0.5), (0.5, 0.7)]
    with pytest.raises(CascadeError, match=r"no model of .* and a cost \(usd\)"):
        points([path], "usd")


TIMM = (
    "model,img_size,top1,top1_err,top5,param_count,crop_pct,interpolation",
    "vit_small_patch16_224.augreg_in21k_ft_in1k,224,81.386,18.614,96.13,22.05,0.9,bicubic",
    "vit_small_patch16_384.augreg_in21k_ft_in1k,384,83.802,16.198,97.1,22.2,1,bicubic",
    "resnet50.a1_in1k,224,80.2,19.8,94.6,25.56,0.95,bicubic",
    "resnet50.a1_in1k,288,81.2,18.8,95.1,25.56,1,bicubic",
    "resnet50.tv_in1k,224,76.1,23.9,92.8,25.56,0.875,bilinear",
    "unmeasured.x,224,99,1,100,1,1,bicubic",
)
BENCHMARK = (
    "model,infer_samples_per_sec,infer_step_time,infer_img_size,infer_gmacs,param_count",
    "vit_small_patch16_224,4000.1,25.0,224,4.61,22.05",
    "vit_small_patch16_384,1000.1,99.0,384,15.52,22.2",
    "resnet50,3000.1,30.0,224,4.11,25.56",
    "resnet50,2000.1,50.0,288,6.8,25.56",
    "resnet50,100.1,50.0,512,20,25.56",
    "unknown,1,1,224,0.001,1",
)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_tables_of_timm_are_joined_by_model_and_size(tmp_path, order):
    paths = [table(tmp_path, "results.csv", *TIMM), table(tmp_path, "benchmark.csv", *BENCHMARK)]
    assert points([paths[i] for i in order]) == [
        (2 * 4.11e9, 0.802),
        (2 * 4.61e9, 0.81386),
        (2 * 15.52e9, 0.83802),
    ]


def test_a_cost_of_the_whole_name_comes_before_that_of_its_beginning(tmp_path):
    one = table(tmp_path, "one.csv", "model,top1", "net.a,50", "net.b,60")
    two = table(tmp_path, "two.csv", "model,gmacs", "net,1", "net.b,3")
    assert points([one, two]) == [(2e9, 0.5), (6e9, 0.6)]


def test_another_size_is_another_model(tmp_path):
    one = table(tmp_path, "one.csv", "model,img_size,top1", "net,224,50", "net,320,60")
    two = table(tmp_path, "two.csv", "model,infer_img_size,gmacs", "net,224,1", "net,288,3")
    assert points([one, two]) == [(2e9, 0.5)]


def test_a_table_as_a_spreadsheet_saves_it(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_bytes(b'\xef\xbb\xbfmodel,accuracy,flops\r\n"a, the first",0.5,7\r\n\r\nb,0.6,8\r\n')
    assert points([str(path)]) == [(7, 0.5), (8, 0.6)]


def test_a_row_without_its_end_or_with_more_is_no_trouble(tmp_path):
    path = table(tmp_path, "t.csv", "accuracy,flops,model", "0.5,7,a", "0.9", "0.6,8,b,what,else")
    assert points([path]) == [(7, 0.5), (8, 0.6)]


@pytest.mark.parametrize("cost", ["nan", "inf", "-3", "many"])
def test_what_is_no_cost_is_passed_over(tmp_path, cost):
    path = table(tmp_path, "t.csv", "model,accuracy,flops", f"a,0.9,{cost}", "b,0.5,2")
    assert points([path]) == [(2, 0.5)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "needs a header with a column 'model' and at least one row"),
        ("model,accuracy,flops\n", "needs a header with a column 'model' and at least one row"),
        ("name,accuracy,flops\na,0.5,1\n", "needs a header with a column 'model'"),
        (
            "model,acc,flops\na,0.5,1\n",
            r"no model of '.*t\.csv' has both an accuracy \(accuracy or",
        ),
        ("model,accuracy\na,0.5\n", r"and a cost \(flops or gmacs or infer_gmacs or macs\)"),
        ("model,accuracy,flops\na,50,1\n", "shares from 0 to 1 .*percent, in a column 'top1'"),
        ("model,top1,flops\na,-3,1\n", "shares from 0 to 1"),
        ("model,accuracy,flops\na,nan,1\n", "shares from 0 to 1"),
        (b"\xff\xfe\x00m", r"'.*t\.csv' cannot be read as CSV"),
    ],
)
def test_a_table_that_is_none(tmp_path, content, says):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CascadeError, match=f"--baseline: .*{says}") as error:
        published_front([str(path)])
    assert error.value.exit_code == 1


def test_a_table_that_is_not_there(tmp_path):
    for place in (tmp_path / "t.csv", tmp_path):
        with pytest.raises(UsageError, match=r"--baseline: there is no file '.*'"):
            published_front([str(place)])


def tables(folder, **contents):
    made = {}
    for name, rows in contents.items():
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
        made[f"--{name}"] = [str(folder / f"{name}.csv")]
    return made


def test_models_are_read_with_size_and_parameters(tmp_path):
    given = tables(
        tmp_path,
        results=[
            "model,img_size,top1,param_count", 'big.x,448,89.790,"1,013.01"', "big.x,224,80.1,7",
            "none.y,224,70,1", "lost.z,224,many,1", "blank.z,224,,1", "own,224,75,",
        ],
        benchmark=[
            "model,infer_img_size,infer_gmacs,infer_samples_per_sec,param_count",
            'big,448,"1,906.76",4,1', "big,224,1.07,500,2", "own,224,2,0,3", "none,320,2,9,3",
            "other,224,2,9,3",
        ],
    )  # fmt: skip
    found = published_models(given)
    assert found.models == (
        PublishedModel("big.x", 448, 0.8979, 3813.52e9, 1013.01e6),
        PublishedModel("big.x", 224, 0.801, 2.14e9, 7e6),
        PublishedModel("own", 224, 0.75, 4e9, 3e6),
    )
    assert (found.without_cost, found.unreadable) == (1, 2)
    fast = published_models(given, "latency_s", throughput=True)
    assert [(m.img_size, m.cost) for m in fast.models] == [(448, 0.25), (224, 0.002)]
    assert fast.without_cost == 2
    with pytest.raises(CascadeError, match=r"--results, --benchmark: no model of .*\(latency_s\)"):
        published_models(given, "latency_s")


@pytest.mark.parametrize("number", ["0,8", "1,01", "1,0000", "0,800", "1,013,5", ",800", "1 000"])
def test_a_comma_that_groups_no_thousands_makes_no_number(tmp_path, number):
    given = tables(tmp_path, results=["model,top1,flops", f'a,50,"{number}"', "b,60,7"])
    found = published_models(given)
    assert [model.name for model in found.models] == ["b"]
    assert found.without_cost == 1


@pytest.mark.parametrize(("text", "value"), [("1,013.01", 1013.01), ("12,345,678", 12345678)])
def test_commas_between_thousands_are_left_out(tmp_path, text, value):
    given = tables(tmp_path, results=["model,top1,flops", f'a,50,"{text}"'])
    assert published_models(given).models[0].cost == value


def test_the_same_row_twice_is_one_model_and_another_accuracy_is_a_mistake(tmp_path):
    rows = ["model,img_size,accuracy,flops", "a,224,0.5,7", "a,224,0.5,9", "a,288,0.6,8"]
    found = published_models(tables(tmp_path, results=rows))
    assert [(m.img_size, m.cost) for m in found.models] == [(224, 7), (288, 8)]
    given = tables(tmp_path, results=rows, more=["model,img_size,top1", "a,224,51"])
    with pytest.raises(CascadeError, match=r"--more: 'a' at size 224 has two accuracies, 0.5 and"):
        published_models(given)


def test_of_two_costs_the_first_table_counts(tmp_path):
    given = tables(
        tmp_path, results=["model,top1", "a,50", "b,60"], one=["model,gmacs", "a,1"],
        two=["model,gmacs", "a,9", "b,3"],
    )  # fmt: skip
    assert [m.cost for m in published_models(given).models] == [2e9, 6e9]


@pytest.mark.parametrize(("argument", "rows"), [("--benchmark", ["name,gmacs", "a,1"])])
def test_a_message_names_the_option_that_the_table_came_by(tmp_path, argument, rows):
    given = tables(tmp_path, results=["model,top1", "a,50"], benchmark=rows)
    with pytest.raises(CascadeError, match=f"{argument}: .*needs a header with a column 'model'"):
        published_models(given)
    with pytest.raises(UsageError, match=f"{argument}: there is no file"):
        published_models(given | {argument: ["nix.csv"]})


# screening


def made(*rows):
    """Models from (cost, accuracy) or (cost, accuracy, name, size)."""
    found = []
    for number, (cost, accuracy, *more) in enumerate(rows):
        name, size = (*more, *(f"m{number}", None)[len(more) :])
        found.append(PublishedModel(name, size, accuracy, cost))
    return found


def plain_below(models, model):
    return max(m.accuracy for m in models if m.cost <= model.cost) - model.accuracy


def plain_on_front(models, model):
    return not any(
        (m.cost < model.cost and m.accuracy >= model.accuracy)
        or (m.cost <= model.cost and m.accuracy > model.accuracy)
        for m in models
    )


def names(found):
    return [kept.model.name for kept in found.kept]


@pytest.mark.parametrize("seed", range(30))
def test_the_front_and_the_margin_are_what_plain_loops_say(seed):
    draw = random.Random(seed)  # noqa: S311 - no secret
    # few values, so that costs and accuracies are often equal
    models = made(
        *((draw.randint(1, 9), draw.randint(60, 75) / 100) for _ in range(draw.randint(1, 40)))
    )
    margin = draw.choice([0.0, 0.01, 0.03, 0.2])
    low, high = draw.choice([(0.0, 1.0), (0.64, 1.0), (0.0, 0.7), (0.62, 0.71)])
    max_cost = draw.choice([math.inf, 5])
    pool = [m for m in models if m.cost <= max_cost]
    band = [m for m in pool if low <= m.accuracy <= high]
    expected = [m for m in band if round(100 * plain_below(pool, m)) <= round(100 * margin)]
    criteria = Criteria(low, high, max_cost, margin)
    if not expected:
        with pytest.raises(UsageError, match="none of"):
            screen(models, criteria)
        return
    found = screen(models, criteria)
    assert sorted(names(found)) == sorted(m.name for m in expected)
    assert list(found.pool) == pool
    assert found.in_band == len(band)
    assert (found.cut, found.front_cut) == (0, 0)
    for kept in found.kept:
        assert kept.below == pytest.approx(plain_below(pool, kept.model), abs=1e-12)
        assert kept.on_front == plain_on_front(pool, kept.model)
    costs = [kept.model.cost for kept in found.kept]
    assert costs == sorted(costs)
    front = {(m.cost, m.accuracy) for m in pool if plain_on_front(pool, m)}
    assert (
        list(zip(found.front.cost.tolist(), found.front.accuracy.tolist(), strict=True))
    ) == sorted(front)


def test_one_model_is_its_own_front():
    found = screen(made((5, 0.7)), Criteria(margin=0))
    assert [(kept.below, kept.on_front) for kept in found.kept] == [(0, True)]


def test_equal_models_are_both_on_the_front_and_dearer_ones_of_equal_accuracy_are_not():
    found = screen(made((1, 0.7), (1, 0.7), (2, 0.7)), Criteria(margin=0))
    assert [(kept.model.cost, kept.below, kept.on_front) for kept in found.kept] == [
        (1, 0, True),
        (1, 0, True),
        (2, 0, False),
    ]


@pytest.mark.parametrize(("best", "worse"), [(0.81, 0.80), (0.85088, 0.84088), (0.3, 0.29)])
def test_just_the_margin_below_is_near_enough(best, worse):
    assert len(screen(made((1, best), (2, worse)), Criteria()).kept) == 2
    assert len(screen(made((1, best), (2, worse - 1e-5)), Criteria()).kept) == 1


def test_the_front_is_of_all_models_and_not_of_those_in_the_band():
    models = made((1, 0.6), (2, 0.91), (3, 0.895), (9, 0.9))
    found = screen(models, Criteria(low=0.5, high=0.9, margin=0.012))
    assert [(kept.model.cost, round(kept.below, 3)) for kept in found.kept] == [(1, 0), (9, 0.01)]


SIZES = made((2, 0.7, "a.x", 224), (3, 0.72, "a.x", 288), (1, 0.6, "b", 224), (4, 0.73, "c", 384))


def test_a_model_is_considered_at_its_largest_size():
    assert largest_sizes(SIZES) == {"a.x": 288, "b": 224, "c": 384}
    found = screen(SIZES, Criteria(margin=0))
    assert [(k.model.name, k.model.img_size) for k in found.kept] == [
        ("b", 224), ("a.x", 288), ("c", 384),
    ]  # fmt: skip
    everything = screen(SIZES, Criteria(margin=0, all_sizes=True))
    assert [(k.model.name, k.model.img_size) for k in everything.kept] == [
        ("b", 224), ("a.x", 224), ("a.x", 288), ("c", 384),
    ]  # fmt: skip


def test_the_largest_size_counts_even_if_it_is_too_dear():
    assert names(screen(SIZES, Criteria(max_cost=2.5))) == ["b"]


NAMED = made(
    (1, 0.5, "resnet18.a1_in1k"), (2, 0.6, "resnet50.a1_in1k"), (3, 0.7, "vit_small.in21k"),
    (4, 0.8, "resnet50.tv_in1k"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), "0123"),
        (("resnet*",), (), "013"),
        (("resnet50",), (), "13"),
        (("resnet50", "vit_*"), (), "123"),
        (("*.a1_in1k",), (), "01"),
        ((), ("*.a1_*", "vit_small"), "3"),
        (("resnet*",), ("resnet50.tv*",), "01"),
    ],
)
def test_patterns_are_of_names_or_architectures(include, exclude, left):
    found = screen(NAMED, Criteria(models=include, exclude=exclude))
    assert names(found) == [NAMED[int(k)].name for k in left]
    assert len(found.front) == len(left)


@pytest.mark.parametrize("seed", range(20))
def test_at_most_keeps_the_front_first_then_the_nearest(seed):
    draw = random.Random(seed)  # noqa: S311 - no secret
    models = made(*((draw.randint(1, 20), draw.randint(600, 700) / 1000) for _ in range(30)))
    everything = screen(models, Criteria(margin=0.05))
    front = [kept for kept in everything.kept if kept.on_front]
    for count in range(len(front), len(everything.kept) + 3):
        found = screen(models, Criteria(margin=0.05, at_most=count))
        assert len(found.kept) == min(count, len(everything.kept))
        assert found.cut == len(everything.kept) - len(found.kept)
        assert found.front_cut == 0
        assert {kept.model.name for kept in front} <= set(names(found))
        others = [kept.below for kept in found.kept if not kept.on_front]
        left_out = [k.below for k in everything.kept if k.model.name not in names(found)]
        assert max(others, default=0) <= min(left_out, default=1) + 1e-12
    for count in range(1, len(front)):
        found = screen(models, Criteria(margin=0.05, at_most=count))
        assert len(found.kept) == count
        assert found.front_cut == len(front) - count
        assert set(names(found)) <= {kept.model.name for kept in front}


def test_of_a_front_that_is_too_long_the_ends_and_the_great_steps_stay():
    points = [(1, 0.5), (2, 0.51), (4, 0.7), (4.1, 0.701), (8, 0.8), (9, 0.81)]
    assert least_missed(points, 6) == [0, 1, 2, 3, 4, 5]
    assert least_missed(points, 5) == [0, 1, 2, 4, 5]
    assert least_missed(points, 3) == [0, 2, 5]
    assert least_missed(points, 2) == [0, 5]
    assert least_missed(points, 1) == [5]
    assert least_missed(points[:1], 1) == [0]


@pytest.mark.parametrize(
    ("criteria", "says"),
    [
        ({"max_cost": 0.5}, "--max_cost: none of 4 .* 0.5 FLOPs; .* 'resnet18.a1_in1k', costs 1"),
        ({"models": ("resnt*",)}, "--models: 'resnt.' matches none of 4 published models, such as"),
        ({"exclude": ("mixer*",)}, "--exclude: 'mixer.' matches none"),
        ({"exclude": ("*",)}, "--exclude: no model is left"),
        ({"low": 0.9}, r"--accuracy: none of 4 .* from 0.9 to 1; they reach from 0.5000 to 0.8000"),
        ({"low": 0.61, "high": 0.69}, "none between 0.6000 and 0.7000"),
    ],
)  # fmt: skip
def test_where_nothing_qualifies_the_message_says_what_would(criteria, says):
    with pytest.raises(UsageError, match=says):
        screen(NAMED, Criteria(**criteria))


def test_the_margin_that_is_named_is_enough():
    models = made((1, 0.9), (2, 0.86543, "near", None), (3, 0.8))
    with pytest.raises(UsageError, match=r"the nearest, 'near', would be with --margin 0.0346"):
        screen(models, Criteria(low=0.7, high=0.88))
    assert names(screen(models, Criteria(low=0.7, high=0.88, margin=0.0346))) == ["near"]


@pytest.mark.parametrize(
    ("criteria", "says"),
    [
        ({"low": 80, "high": 90}, "--accuracy: .*got 80 to 90"),
        ({"low": 0.8, "high": 0.8}, "--accuracy: .*low < high"),
        ({"low": math.nan}, "--accuracy"),
        ({"max_cost": 0}, "--max_cost: expected a cost above 0, got 0"),
        ({"max_cost": math.nan}, "--max_cost"),
        ({"margin": 1}, "--margin: .*0.01 for one point, got 1"),
        ({"margin": -0.1}, "--margin"),
        ({"at_most": 0}, "--at_most: expected at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(criteria, says):
    with pytest.raises(UsageError, match=says):
        Criteria(**criteria)


# the tables of timm

REAL = Path(__file__).parents[3] / "shared" / "data" / "timm_results"
RESULTS = str(REAL / "results-imagenet.csv")
REAL_BENCHMARK = str(REAL / "benchmark-infer-amp-nchw-pt291-cu130-5090.csv")

real = pytest.mark.skipif(
    not (Path(RESULTS).is_file() and Path(REAL_BENCHMARK).is_file()),
    reason="the published tables of timm are not there",
)


@real
def test_all_models_of_the_real_tables_find_a_cost():
    found = published_models({"--results": [RESULTS], "--benchmark": [REAL_BENCHMARK]})
    assert len(found.models) == 1556  # lines of results-imagenet.csv without its header
    assert (found.without_cost, found.unreadable) == (0, 0)
    assert len(largest_sizes(found.models)) == 1266
    for one, two in itertools.pairwise(found.models):
        assert one.accuracy >= two.accuracy - 1e-9  # as the file is sorted
    front, published = front_of(found.models), published_front([RESULTS, REAL_BENCHMARK])
    assert front.cost.equal(published.cost)


@real
def test_the_ends_of_the_real_front():
    """Read off the files by hand.

    results-imagenet.csv, line 1543: tinynet_e.in1k at 106 has top1 59.874; the benchmark's line 9:
    tinynet_e at 106 has 0.03 infer_gmacs, 2.04 M parameters. Of the five architectures beside it at
    0.03, the least there is, mobilenetv3_small_050 has 57.918 (line 1544) and test_byobnet 45.858
    (line 1552); the others, lcnet_035, test_convnext and test_mambaout, are less accurate or not in
    the results.
    results-imagenet.csv, line 2, the first: eva02_large_patch14_448.mim_m38m_ft_in22k_in1k at 448
    has 90.056; the benchmark's line 1579: 362.33 infer_gmacs. Line 415 and line 798:
    tf_efficientnet_b3.ns_jft_in1k at 300 has 84.054 and 1.87.
    """
    found = screen(
        published_models({"--results": [RESULTS], "--benchmark": [REAL_BENCHMARK]}).models,
        Criteria(margin=0),
    )
    rows = [(k.model.name, k.model.img_size, k.model.cost, k.model.accuracy) for k in found.kept]
    assert rows[0] == ("tinynet_e.in1k", 106, 0.06e9, 0.59874)
    assert found.kept[0].model.parameters == 2.04e6
    assert rows[-1] == ("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", 448, 724.66e9, 0.90056)
    assert ("tf_efficientnet_b3.ns_jft_in1k", 300, 3.74e9, 0.84054) in rows
    pool = list(found.pool)
    assert len(pool) == 1266
    assert {r[0] for r in rows} == {
        m.name for m in pool if plain_below(pool, m) < 1e-9
    }  # fmt: skip
