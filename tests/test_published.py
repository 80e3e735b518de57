import pytest

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.published import published_front


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
