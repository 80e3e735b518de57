"""`lit-cascade flops`: its table, and what it leaves out."""

import csv
import json

from lit_cascade.models import Architecture, architecture_cost
from lit_cascade.records import read_costs
from tests.cli.runs import done, within

HEADLESS = "eva02_tiny_patch14_224"


def test_the_table_holds_what_can_be_counted(tmp_path):
    words = ["flops", "resnet10t", HEADLESS, "torchvision:alexnet", "--img_size", 64]
    run = done(within(*words, "--out", "o", cwd=tmp_path))
    assert run.stderr.startswith(f"Not counted: the timm model '{HEADLESS}' has no classifier")
    assert "1 architecture could not be counted" in run.stdout
    path = tmp_path / "o/flops.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == ["model", "flops", "parameters", "img_size", "source"]
    expected = architecture_cost(Architecture("timm", "resnet10t"), 64)
    assert rows[0] == {name: str(value) for name, value in vars(expected).items()}
    assert [row["model"] for row in rows] == ["resnet10t", "alexnet"]
    _, costs = read_costs(f"flops={path}")
    assert costs == {row["model"]: float(row["flops"]) for row in rows}


def test_json_has_the_same_figures(tmp_path):
    words = ["flops", "resnet10t", HEADLESS, "--img_size", 32, "--json", "--out", "o"]
    summary = json.loads(done(within(*words, cwd=tmp_path)).stdout)
    assert summary["models"] == [vars(architecture_cost(Architecture("timm", "resnet10t"), 32))]
    assert list(summary["not_counted"]) == [HEADLESS]


def test_nothing_that_can_be_counted_is_a_failure(tmp_path):
    run = within("flops", HEADLESS, "--out", "o", cwd=tmp_path)
    assert run.returncode == 1
    assert "no FLOPs: 1 architecture could not be counted" in run.stderr
    assert not (tmp_path / "o").exists()


def test_wrong_names_and_sizes_are_usage_errors(tmp_path):
    for words, message in (
        (["resnet19"], "error: names: 'resnet19' is unknown"),
        (["resnet10t", "--img_size", "0"], "--img_size: expected at least 1 pixel, got 0"),
        ([], "expected NAME ...; for example\n  lit-cascade flops "),
    ):
        run = within("flops", *words, cwd=tmp_path)
        assert run.returncode == 2
        assert message in run.stderr
