"""The command as a user runs it, on small tables of which the answers are plain."""

import csv
import json
import struct
from pathlib import Path

import pytest
import yaml

from lit_cascade.analysis.screening import Criteria, published_models, screen
from lit_cascade.cli import main
from lit_cascade.report.screen import draw_screen

REAL = Path(__file__).parents[3] / "shared" / "data" / "timm_results"
PNG = b"\x89PNG\r\n\x1a\n"
FILES = {"screen.csv", "screen.png", "summary.json", "models.yaml"}
# below the front at their cost, in points: tiny 0, small 0, twin 0.5, small.b 1, poor 6, big 0
RESULTS = """\
model,img_size,top1,top1_err,param_count
big.a_in1k,288,86.000,14.0,"1,013.01"
small.a_in1k,224,80.000,20.0,25.56
twin.a_in1k,224,79.500,20.5,
small.b_in1k,224,79.000,21.0,25.56
big.a_in1k,224,84.000,16.0,"1,013.01"
poor.a_in1k,224,74.000,26.0,30
tiny,160,70.000,30.0,1.5
lost.a_in1k,224,99.000,1.0,9
broken.a_in1k,224,n/a,1.0,9
"""
BENCHMARK = """\
model,infer_img_size,infer_samples_per_sec,infer_gmacs
tiny,160,1000,0.5
small,224,500,4
twin,224,800,5
poor,224,400,6
big,224,100,20
big,288,50,40
lost,256,50,40
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with two tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])
    Path("results.csv").write_text(RESULTS)
    Path("benchmark.csv").write_text(BENCHMARK)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take most of the time and are looked at elsewhere."""
    monkeypatch.setattr("lit_cascade.report.screen.draw_screen", lambda *_: PNG)


GIVEN = ("--results", "results.csv", "--benchmark", "benchmark.csv")


def run(*words, out="o", given=GIVEN):
    assert main(["screen", *given, "--out", out, *map(str, words)]) == 0
    assert {path.name for path in Path(out).iterdir()} == FILES
    return json.loads(Path(out, "summary.json").read_text())


def rows_of(out="o"):
    with Path(out, "screen.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def listed(out="o"):
    return yaml.safe_load(Path(out, "models.yaml").read_text())["model"]["timm"]["models"]


def test_table_files_and_notes_say_the_same(capsys):
    summary = run()
    out = " ".join(capsys.readouterr().out.split())
    expected = [
        {"model": "tiny", "img_size": "160", "accuracy": "0.7", "flops": "1000000000.0",
         "parameters": "1500000", "below_front": "0.0"},
        {"model": "small.a_in1k", "img_size": "224", "accuracy": "0.8", "flops": "8000000000.0",
         "parameters": "25560000", "below_front": "0.0"},
        {"model": "small.b_in1k", "img_size": "224", "accuracy": "0.79", "flops": "8000000000.0",
         "parameters": "25560000", "below_front": "0.01"},
        {"model": "twin.a_in1k", "img_size": "224", "accuracy": "0.795", "flops": "10000000000.0",
         "parameters": "", "below_front": "0.005"},
        {"model": "big.a_in1k", "img_size": "288", "accuracy": "0.86", "flops": "80000000000.0",
         "parameters": "1013010000", "below_front": "0.0"},
    ]  # fmt: skip
    assert rows_of() == expected
    assert listed() == [row["model"] for row in expected]
    assert [
        {key: "" if value is None else str(value) for key, value in model.items()}
        for model in summary["models"]
    ] == [row | {"on_front": str(row["below_front"] == "0.0")} for row in expected]
    for line in (
        "Published models worth recording: 5",
        "tiny 160 70.00 % 1 G 500 M 1.5 M front",
        "small.b_in1k 224 79.00 % 8 G 4 G 25.6 M 1.00",
        "twin.a_in1k 224 79.50 % 10 G 5 G unknown 0.50",
        "big.a_in1k 288 86.00 % 80 G 40 G 1.01 G front",
    ):
        assert line in out
    notes = [
        "1 of 8 models have no cost at their image size in the benchmark table and are left out.",
        "Rows without a number as accuracy are left out: 1.",
        "Smaller image sizes than the largest of the same model, the one that record runs it at,",
        "6 were considered, of which 3 make the front. 5 of those are on the front (3) or at most",
    ]
    assert len(summary["notes"]) == len(notes)
    for note, said in zip(notes, summary["notes"], strict=True):
        assert said.startswith(note)
        assert said in out
    assert [(point["flops"], point["accuracy"]) for point in summary["front"]] == [
        (1e9, 0.7), (8e9, 0.8), (80e9, 0.86),
    ]  # fmt: skip
    counts = {"published": 7, "without_cost": 1, "unreadable": 1, "considered": 6, "in_band": 6}
    counts |= {"kept": 5, "kept_on_front": 3, "cut": 0}
    assert {key: summary[key] for key in counts} == counts
    assert summary["tables"] == {"results": ["results.csv"], "benchmark": ["benchmark.csv"]}
    assert summary["settings"]["max_cost"] == "inf"


def test_the_overlay_names_the_command_that_takes_it(undrawn):
    run(out="new/folder")
    header = Path("new/folder/models.yaml").read_text().splitlines()[:2]
    assert header == [
        "# 5 models worth recording, in order of cost, found by lit-cascade screen.",
        "#   lit-cascade record --config imagenet_zoo.yaml --config new/folder/models.yaml",
    ]


def test_band_budget_patterns_and_count(capsys, undrawn):
    run("--accuracy", "0.75:0.85", "--margin", "0.07")
    assert [row["model"] for row in rows_of()] == [
        "small.a_in1k", "small.b_in1k", "twin.a_in1k",
    ]  # fmt: skip
    run("--accuracy", ":0.75", "--margin", "0.07", out="low")
    assert listed("low") == ["tiny", "poor.a_in1k"]
    run("--accuracy", "0.80:", out="high")
    assert listed("high") == ["small.a_in1k", "big.a_in1k"]
    assert "2 have an accuracy from 80.0 % to 100.0 %." in capsys.readouterr().out
    summary = run("--max_cost", "2e10", "--margin", 0, out="cheap")
    assert listed("cheap") == ["tiny", "small.a_in1k"]
    assert summary["settings"]["max_cost"] == 2e10
    run("--models", "small*", "big", "--exclude", "*.b_in1k", out="named")
    assert listed("named") == ["small.a_in1k", "big.a_in1k"]
    summary = run("--at_most", 4, out="four")
    assert listed("four") == ["tiny", "small.a_in1k", "twin.a_in1k", "big.a_in1k"]
    assert summary["cut"] == 1
    assert "1 of these were cut by --at_most 4; 4 are kept, 3 on the front." in summary["notes"]
    summary = run("--at_most", 2, out="two")
    assert listed("two") == ["tiny", "big.a_in1k"]
    assert (
        "3 of these were cut by --at_most 2, 1 of them on the front; 2 are kept, 2 on the front."
        in summary["notes"]
    )


def test_all_sizes_lists_both_and_names_the_model_once(capsys, undrawn):
    summary = run("--all_sizes", "--margin", 0)
    assert [(row["model"], row["img_size"]) for row in rows_of()][-2:] == [
        ("big.a_in1k", "224"),
        ("big.a_in1k", "288"),
    ]
    assert listed() == ["tiny", "small.a_in1k", "big.a_in1k"]
    assert Path("o/models.yaml").read_text().startswith("# 3 models worth")
    assert summary["notes"][-1].endswith("the smaller one that is listed here: big.a_in1k at 224.")


def test_seconds_are_the_inverse_of_throughput(capsys, undrawn):
    summary = run("--cost", "latency_s", "--margin", 0, "--max_cost", 0.015)
    rows = rows_of()
    assert [(row["model"], float(row["latency_s"])) for row in rows] == [
        ("tiny", 0.001),
        ("twin.a_in1k", 0.00125),
        ("small.a_in1k", 0.002),
    ]
    out = capsys.readouterr().out
    assert "seconds" in out
    assert "throughput in batches" in out
    assert "throughput in batches" in summary["notes"][-1]
    assert summary["unit"] == "latency_s"


def test_a_table_of_its_own_needs_no_other(capsys, undrawn):
    Path("own.csv").write_text("model,accuracy,flops\na,0.5,10\nb,0.6,20\n")
    summary = run(given=("--results", "own.csv"))
    assert rows_of()[0] == {
        "model": "a", "img_size": "", "accuracy": "0.5", "flops": "10.0", "parameters": "",
        "below_front": "0.0",
    }  # fmt: skip
    assert summary["notes"][0] == "All of 2 models, counted at each image size, have a cost."
    assert summary["tables"] == {"results": ["own.csv"]}


def test_the_picture_is_one_and_shows_what_was_chosen():
    run()
    content = Path("o/screen.png").read_bytes()
    assert content.startswith(PNG)
    assert struct.unpack(">II", content[16:24]) == (1720, 1120)
    run("--margin", 0, out="front")
    assert Path("front/screen.png").read_bytes() != content
    run(out="again")
    assert Path("again/screen.png").read_bytes() == content


def texts(monkeypatch, models, criteria):
    """What is written in the picture, and the boxes of the names."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, buffer, **_: drawn.append(figure), raising=True
    )
    draw_screen(models, screen(models, criteria), "flops")
    (figure,) = drawn
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [text for text in axes.texts if text.get_text()]
    return axes, [(text.get_text(), text.get_window_extent()) for text in names]


def test_names_in_the_picture_do_not_overlap(monkeypatch):
    lines = ["model,accuracy,flops"]
    lines += [
        f"name_of_model_{k}.tag,{0.5 + 0.001 * k + 0.2 * (k > 40)},{1.05**k}" for k in range(80)
    ]
    Path("own.csv").write_text("\n".join(lines))
    models = published_models({"--results": ["own.csv"]}).models
    axes, names = texts(monkeypatch, models, Criteria())
    assert "80 of 80" in axes.get_title()
    assert 3 <= len(names) < 31
    assert {"name_of_model_79", "name_of_model_0", "name_of_model_41"} <= {n for n, _ in names}
    for at, (_, box) in enumerate(names):
        assert not any(box.overlaps(other) for _, other in names[at + 1 :])


def test_the_picture_has_all_models_their_front_and_the_chosen_ones(monkeypatch):
    models = published_models(
        {"--results": ["results.csv"], "--benchmark": ["benchmark.csv"]}
    ).models
    axes, _ = texts(monkeypatch, models, Criteria(low=0.75))
    drawn = {
        line.get_label(): sorted(zip(*map(list, line.get_data()), strict=True))
        for line in axes.lines
    }
    assert drawn["published models at each size (7)"] == sorted(
        (model.cost, 100 * model.accuracy) for model in models
    )
    assert drawn["front of the 6 considered"] == [(1e9, 70), (8e9, 80), (80e9, 86)]
    assert drawn["worth recording (4)"] == [(8e9, 79), (8e9, 80), (10e9, 79.5), (80e9, 86)]
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("rows", [["a,0.5,10"], ["a,0.5,10", "b,0.5,10"], ["a,0,1", "b,1,1e30"]])
def test_hardly_any_models_are_drawn_too(rows):
    Path("own.csv").write_text("\n".join(["model,accuracy,flops", *rows]))
    run(given=("--results", "own.csv"))
    assert Path("o/screen.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "expected --results FILE ...; for example"),
        (["--results", "nix.csv"], 2, "--results: there is no file 'nix.csv'"),
        ([*GIVEN[:2], "--benchmark", "nix.csv"], 2, "--benchmark: there is no file 'nix.csv'"),
        (["--results", "results.csv"], 1, "--results: no model of 'results.csv' has both"),
        ([*GIVEN, "--accuracy", "80:90"], 2, "--accuracy: 80 is not a share: for 80 percent"),
        ([*GIVEN, "--accuracy", "0.8"], 2, "expected two accuracies with a colon between"),
        ([*GIVEN, "--accuracy", ":"], 2, "expected two accuracies, such as 0.80:0.86 or 0.80:"),
        ([*GIVEN, "--accuracy", "0.9:"], 2, "they reach from 0.7000 to 0.8600"),
        ([*GIVEN, "--max_cost", "5"], 2, "the cheapest, 'tiny', costs 1e+09"),
        ([*GIVEN, "--margin", "1"], 2, "--margin: 1 is not a share"),
        ([*GIVEN, "--at_most", "0"], 2, "--at_most: expected at least 1, got 0"),
        ([*GIVEN, "--models", "resnet*"], 2, "--models: 'resnet*' matches none of 7"),
        ([*GIVEN, "--cost", "usd"], 1, "--results, --benchmark: no model of"),
        ([*GIVEN, "--at_most", "few"], 2, "at_most"),
        (
            [*GIVEN, "benchmark.csv", "--cost", "latency_s"], 2,
            "--benchmark: expected one table with --cost latency_s",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line_and_nothing_is_written(capsys, words, code, says):
    assert main(["screen", *words, "--out", "o"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("lit-cascade screen: error: ")
    assert says in captured.err
    assert captured.err.count("\n") == (1 if words else 2)
    assert captured.out == ""
    assert not Path("o").exists()


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_overwritten_unless_asked(capsys, name, undrawn):
    Path("o").mkdir()
    Path("o", name).write_text("mine")
    assert main(["screen", *GIVEN, "--out", "o"]) == 2
    assert f"--out: 'o' already holds {name}" in capsys.readouterr().err
    assert {path.name for path in Path("o").iterdir()} == {name}
    run("--overwrite")
    assert Path("o", name).read_bytes() != b"mine"


def test_results_go_to_a_new_folder(undrawn):
    for number in (1, 2):
        assert main(["screen", *GIVEN]) == 0
        assert {path.name for path in Path(f"runs/screen-{number}").iterdir()} == FILES
    assert "--config runs/screen-2/models.yaml" in Path("runs/screen-2/models.yaml").read_text()


def test_options_may_stand_in_a_config(undrawn):
    Path("my.yaml").write_text(
        "results: [results.csv]\nbenchmark: [benchmark.csv]\naccuracy: '0.8:'\nmargin: 0\n"
    )
    run(given=("--config", "my.yaml"))
    assert listed() == ["small.a_in1k", "big.a_in1k"]


@pytest.mark.skipif(
    not (REAL / "results-imagenet.csv").is_file(),
    reason="the published tables of timm are not there",
)
def test_the_real_tables():
    given = (
        "--results", str(REAL / "results-imagenet.csv"),
        "--benchmark", str(REAL / "benchmark-infer-amp-nchw-pt291-cu130-5090.csv"),
    )  # fmt: skip
    summary = run("--accuracy", "0.80:0.90", "--max_cost", "2e10", given=given)
    rows = rows_of()
    # by hand: results-imagenet.csv line 843 (81.388 at 240), benchmark line 390 (0.71 at 240)
    assert list(rows[0].values()) == [
        "tf_efficientnet_b1.ns_jft_in1k", "240", "0.81388", "1420000000.0", "7790000", "0.0",
    ]  # fmt: skip
    assert all(0.8 <= float(row["accuracy"]) <= 0.9 for row in rows)
    assert all(float(row["flops"]) <= 2e10 for row in rows)
    assert summary["notes"][0] == "All of 1,556 models, counted at each image size, have a cost."
    assert listed() == [row["model"] for row in rows]
    assert len(set(listed())) == len(rows)
