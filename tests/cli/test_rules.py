"""Combinations, floors, other units and records without logits, from the command line."""

import csv
import json
import math
import re

import pytest
import torch
import yaml

from lit_cascade import Policy, Record
from lit_cascade.cli import main
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import above_floor
from tests.points import point_of_records

N = 60


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])


@pytest.fixture
def pair(tmp_path):
    labels = torch.randint(0, 3, (N,))
    hints = torch.nn.functional.one_hot(labels, 3)
    made = [
        Record.from_arrays(
            name,
            torch.randn(N, 3) + (k + 1) * hints,
            labels,
            costs={"flops": 10.0 ** (k + 3), "latency_s": torch.rand(N) * 1e-4 * (k + 1) ** 3},
        )
        for k, name in enumerate(("small", "large"))
    ]
    for record in made:
        record.save(tmp_path / f"{record.name}.safetensors")
    return made


@pytest.fixture
def scored(tmp_path):
    """Two records without logits; the first is free."""
    made = [
        Record.from_arrays(
            name, score=torch.rand(N), correct=torch.rand(N) < accuracy, costs={"usd": usd}
        )
        for name, accuracy, usd in (("local", 0.7, 0.0), ("api", 0.9, 0.002))
    ]
    for record in made:
        record.save(tmp_path / f"{record.name}.safetensors")
    return made


def validate(*words, names=("small", "large"), out="o"):
    files = [f"{name}.safetensors" for name in names]
    return main(["validate", "--records", *files, "--out", out, *map(str, words)])


def results(tmp_path, out="o"):
    with (tmp_path / out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return json.loads((tmp_path / out / "summary.json").read_text()), rows


def overlay(tmp_path, **policy):
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"policy": policy}))
    return "--config", "policy.yaml"


@pytest.mark.parametrize("unit", ["flops", "latency_s"])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_an_overlay_sets_combination_and_floors(tmp_path, pair, capsys, combine, unit):
    rule = {"combine": combine, "thresholds": {"small": 0.7}, "floors": {"small": 0.45}}
    assert validate(*overlay(tmp_path, **rule), "--cost", unit) == 0
    summary, rows = results(tmp_path)
    assert (summary["unit"], summary["combine"]) == (unit, combine)
    assert summary["floors"] == {"small": 0.45}
    told = point_of_records(pair, Policy((0.7,), combine=combine, floors=(0.45,)), unit)
    found = summary["policy"]
    assert (found["accuracy"], found["deferral_rate"]) == (told.accuracy, told.deferral_rate)
    assert (found[unit], found[f"{unit}_ratio"]) == (told.cost, told.cost_ratio)
    assert found["answered"] == dict(zip(("small", "large"), told.answered, strict=True))
    assert list(rows[0])[-2:] == [unit, f"{unit}_ratio"]
    for row in rows:
        point = Policy(
            (max(float(row["threshold"]), 0.45),), combine=combine, floors=(0.45,)
        )  # below the floor the threshold says nothing
        assert float(row["accuracy"]) == point_of_records(pair, point, unit).accuracy
    table = " ".join(capsys.readouterr().out.split())
    assert "and below its floor (0.45)" in table
    assert ("combined" in table) == (combine != "later")
    assert ("seconds" in table, "MACs" in table) == (unit != "flops", unit == "flops")


def test_floors_and_combination_may_be_typed(tmp_path, pair):
    words = ("--policy.combine", "most_confident", "--policy.thresholds.small", "inf")
    assert validate(*words, "--policy.floors.small", "0.5") == 0
    one, _ = results(tmp_path)
    assert validate(*words, "--policy.floors", "[0.5]", out="p") == 0
    assert results(tmp_path, "p")[0] == one
    assert one["floors"] == {"small": 0.5}
    told = point_of_records(pair, Policy((math.inf,), combine="most_confident", floors=(0.5,)))
    assert one["policy"]["deferral_rate"] == told.deferral_rate < 1


def test_stages_alone_are_listed_with_their_own_accuracy(tmp_path, pair):
    assert validate("--policy.combine", "average") == 0
    summary, _ = results(tmp_path)
    for stage, record in zip(summary["stages"], pair, strict=True):
        right = record.logits.argmax(dim=1) == record.labels
        assert stage["accuracy"] == int(right.sum()) / N


def test_where_all_lie_below_the_floor_nothing_is_deferred(tmp_path, pair, capsys):
    assert validate(*overlay(tmp_path, floors=[math.inf], thresholds=[math.inf])) == 0
    summary, rows = results(tmp_path)
    assert [row["threshold"] for row in rows] == ["-inf"]
    assert summary["floors"] == {"small": "inf"}
    assert summary["policy"]["deferral_rate"] == 0
    assert "below its floor (inf)" in " ".join(capsys.readouterr().out.split())


def test_an_average_at_other_temperatures_is_shown_beside_temperature_1(tmp_path, pair):
    assert validate("--policy.combine", "average", "--policy.temperatures.large", "3") == 0
    summary, _ = results(tmp_path)
    assert summary["temperatures"] == {"small": 1.0, "large": 3.0}
    assert summary["uncalibrated"] is not None
    assert (tmp_path / "o/curve_uncalibrated.csv").is_file()


@pytest.mark.parametrize("combine", ["later", "most_confident"])
def test_scores_without_logits_are_judged(tmp_path, scored, capsys, combine):
    rule = {"combine": combine, "thresholds": {"local": 0.5}, "floors": {"local": 0.2}}
    assert validate(*overlay(tmp_path, **rule), "--cost", "usd", names=("local", "api")) == 0
    summary, rows = results(tmp_path)
    told = point_of_records(scored, Policy((0.5,), combine=combine, floors=(0.2,)), "usd")
    assert summary["policy"]["accuracy"] == told.accuracy
    assert summary["policy"]["usd"] == told.cost
    kept = above_floor(scored[0].score, 0.2)
    assert [float(row["threshold"]) for row in rows[1:-1]] == kept[kept < 2].unique().tolist()[1:]
    assert (tmp_path / "o/curve.png").read_bytes().startswith(b"\x89PNG")
    assert "2,000" in capsys.readouterr().out


def test_a_free_stage_that_is_as_good_saves_all(tmp_path, capsys):
    for name, usd in (("local", 0.0), ("api", 1.0)):
        one = Record.from_arrays(name, score=[0.9, 0.8], correct=[1, 1], costs={"usd": usd})
        one.save(tmp_path / f"{name}.safetensors")
    assert validate("--cost", "usd", names=("local", "api")) == 0
    assert (
        "nothing needs to be deferred and dollars per million calls fall to 0."
        in capsys.readouterr().out
    )


def test_records_of_both_kinds_are_judged_together(tmp_path, pair):
    small = pair[0]
    api = Record.from_arrays(
        "api", labels=small.labels, classes=small.classes, score=torch.rand(N),
        correct=torch.ones(N), flops=1e7,
    )  # fmt: skip
    api.save(tmp_path / "api.safetensors")
    assert validate(names=("small", "api")) == 0
    assert results(tmp_path)[0]["stages"][1]["accuracy"] == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--cost", "usd", "--policy.temperatures.local", "2"), 1, "'local'.*a temperature needs"),
        (("--cost", "usd", "--policy.combine", "average"), 1, "an average of probabilities needs"),
        ((), 1, "record 'local' has no cost 'flops'; it has usd"),
        (("--cost", "latency_s"), 1, "has no cost 'latency_s'; it has usd"),
        (("--cost", "usd", "--policy.combine", "mean"), 2, "later.*average.*most_confident.*mean"),
        (("--cost", "usd", "--policy.floors.big", "0.1"), 2, "policy.floors: 'big' is unknown"),
        (("--cost", "usd", "--policy.floors", "[0.1, 0.2]"), 2, "each of local, got 2"),
        (
            ("--cost", "usd", "--policy.floors.local", "0.6", "--policy.thresholds.local", "0.5"),
            2,
            "floors: 0.6 is above its threshold 0.5",
        ),
    ],
)
def test_what_scores_do_not_allow_is_one_clear_message(tmp_path, scored, capfd, words, code, says):
    assert validate(*words, names=("local", "api")) == code
    message = " ".join(capfd.readouterr().err.split())
    assert re.search(says, message), message
    assert not (tmp_path / "o").exists()


def test_calibrating_scores_is_refused(tmp_path, scored, capsys):
    words = ["calibrate", "--records", "local.safetensors", "api.safetensors", "--cost", "usd"]
    assert main([*words, "--out", "o"]) == 1
    assert (
        "'local' holds scores and no logits, which a temperature needs" in capsys.readouterr().err
    )
    assert not (tmp_path / "o").exists()


def test_recorded_scores_of_any_range_have_thresholds(tmp_path, capsys):
    for name, usd, accuracy in (("local", 0.1, 0.3), ("api", 2.0, 0.8)):
        score = 40 * torch.randn(N) - 10  # log-probabilities, say
        correct = torch.arange(N) < accuracy * N
        Record.from_arrays(name, score=score, correct=correct, costs={"usd": usd}).save(
            tmp_path / f"{name}.safetensors"
        )
    main(["search", "--records", str(tmp_path), "--cost", "usd", "--repeats", "2", "--compare",
          "--out", "found"])  # fmt: skip
    assert "not compared: calibrated" in capsys.readouterr().err
    words = ["validate", "--records", "local.safetensors", "api.safetensors", "--cost", "usd"]
    assert main([*words, "--policy.thresholds.local", "12.5", "--out", "judged"]) == 0
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    local = Record.load(tmp_path / "local.safetensors")
    deferred = sum(score < 12.5 for score in local.score.tolist()) / N
    assert summary["score"] == "recorded"
    assert summary["policy"]["deferral_rate"] == pytest.approx(deferred)
