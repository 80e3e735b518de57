"""The score `agreement` as a user meets it: over records of predictions, and with live models."""

import csv
import json
import math

import pytest
import torch

from lit_cascade import Policy, Record, compare_scores, deferral_quality, replay
from lit_cascade.cli import main
from lit_cascade.core import score_and_answer
from tests.cli.runs import done, within
from tests.records.test_predictions import predicted

TRIPLE = """
model:
  stages:
    small:
      network:
        class_path: lit_cascade.models.Perceptron
        init_args: {inputs: 64, widths: [128], scale: 16}
      checkpoint: digits/small.safetensors
    untrained:
      network:
        class_path: lit_cascade.models.Perceptron
        init_args: {inputs: 64, widths: [192], scale: 16}
    large:
      network:
        class_path: lit_cascade.models.ConvNet
        init_args: {side: 8, widths: [32, 32, 64], strides: [1, 1, 2], scale: 16}
      checkpoint: digits/large.safetensors
data:
  class_path: lit_cascade.data.DigitsData
seed_everything: 5
"""
CPU = ("--config", "triple.yaml", "--trainer.accelerator", "cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three models of digits, their records, and the records of what they answer."""
    here = tmp_path_factory.mktemp("digits")
    (here / "triple.yaml").write_text(TRIPLE)
    words = ["--policy.score", "agreement", "--save_records"]
    done(within("validate", *CPU, *words, "--out", "v", cwd=here))
    records = [
        Record.load(here / f"v/{name}.safetensors") for name in ("small", "untrained", "large")
    ]
    (here / "answers").mkdir()
    for record in records:
        score, answer = score_and_answer(record.logits)
        given = {"prediction": answer, "score": score, "labels": record.labels, "ids": record.ids}
        Record.from_arrays(
            record.name, **given, classes=record.classes, costs=record.costs, data=record.data
        ).save(here / f"answers/{record.name}.safetensors")
    return here, records


def answers(here):
    return [str(here / f"answers/{name}.safetensors") for name in ("small", "untrained", "large")]


def test_what_runs_is_what_the_replay_says_sample_by_sample(digits):
    here, records = digits
    rule = Policy((0.9, 1.0), "agreement", names=("small", "untrained", "large"))
    rule.save(here / "policy.yaml")
    replayed = replay(records, rule)
    assert int((replayed.stage == 1).sum()) > 0
    words = ["--policy", "policy.yaml", "--format", "csv", "--out", "predicted"]
    done(within("predict", *CPU, *words, cwd=here))
    with (here / "predicted/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == [rule.names[k] for k in replayed.stage.tolist()]
    classes = records[0].classes
    assert [row["class"] for row in rows] == [classes[c] for c in replayed.prediction.tolist()]
    scores = torch.tensor([float(row["score"]) for row in rows])
    assert torch.equal(scores, replayed.score)
    done(within("test", *CPU, "--policy", "policy.yaml", "--out", "tested", cwd=here))
    tested = json.loads((here / "tested/test.json").read_text())
    assert tested["accuracy"] == replayed.point.accuracy
    assert tested["deferral_rate"] == replayed.point.deferral_rate
    assert replay(answers(here), rule).point == replayed.point


def test_a_policy_chosen_on_answers_runs_with_the_models(digits):
    here, records = digits
    promise = ["--deferral_rate", "30%", "--confidence", "none"]
    (here / "prices.csv").write_text("model,usd\nsmall,0.001\nuntrained,0.002\nlarge,0.03\n")
    chosen = ["select", "--records", *answers(here), "--policy.score", "agreement", *promise]
    done(within(*chosen, "--cost", "usd=prices.csv", "--out", "chosen", cwd=here))
    policy = Policy.load(here / "chosen/policy.yaml")
    assert policy.score == "agreement"
    words = ["--policy", "chosen/policy.yaml", "--out", "ran"]
    shown = done(within("test", *CPU, *words, "--allow_overlap", cwd=here)).stdout
    ran = json.loads((here / "ran/test.json").read_text())
    point = replay(records, Policy(policy.thresholds, "agreement")).point
    assert 0 < point.deferral_rate <= 0.3
    assert (ran["accuracy"], ran["deferral_rate"]) == (point.accuracy, point.deferral_rate)
    assert ran["reach_last"] == point.answered[-1] < point.deferral_rate
    first, second, last = point.answered
    bill = 0.001 * first + 0.003 * second + 0.033 * last
    assert (ran["usd"], ran["usd_alone"]) == pytest.approx((bill, 0.03))
    told = f"30,000 -> {1e6 * bill:,.0f} dollars per million calls, {0.03 / bill:.1f}x fewer"
    assert told in shown
    words = ["--policy", "chosen/policy.yaml", "--out", "answered"]
    assert told in done(within("predict", *CPU, *words, cwd=here)).stdout
    predicted_for = json.loads((here / "answered/predict.json").read_text())
    assert predicted_for["usd"] == pytest.approx(bill)
    few = ["--samples", 64, "--singles", 2, "--repeats", 1]
    words = ["--policy", "chosen/policy.yaml", *few, "--out", "b"]
    timed = within("benchmark", *CPU, *words, cwd=here)
    assert done(timed).stdout


def test_a_policy_chosen_on_votes_alone_is_checked_on_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records = [predicted(f"net{k}", k, 2000, score=k == 2) for k in range(3)]
    paths = {part: [f"{part}{k}.safetensors" for k in range(3)] for part in "ab"}
    for part, rows in (("a", slice(0, 1000)), ("b", slice(1000, 2000))):
        for record, path in zip(records, paths[part], strict=True):
            record.rows(torch.arange(2000)[rows]).save(path)
    promise = ["--max_accuracy_drop", "30%", "--policy.score", "agreement", "--out", "s"]
    assert main(["select", "--records", *paths["a"], *promise]) == 0
    shown = capsys.readouterr().out
    assert "'net0' has no confidence, and no stage before it" in shown
    assert Policy.load("s/policy.yaml").thresholds[0] == math.inf
    assert "thresholds votes, " in shown
    assert main(["check", "--policy", "s/policy.yaml", "--records", *paths["b"], "--out", "c"]) == 0
    shown = capsys.readouterr().out
    assert "not tested" in shown
    assert "logits" not in shown


def test_where_stages_agree_is_an_operating_point(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records = [predicted(f"net{k}", k, score=False) for k in range(3)]
    for record in records:
        record.save(f"{record.name}.safetensors")
    paths = [f"net{k}.safetensors" for k in range(3)]
    words = ["validate", "--records", *paths, "--policy.score", "agreement", "--out", "o"]
    assert main(words) == 0
    first, second, last = (record.prediction for record in records)
    agreed = first == second
    right = torch.where(agreed, second, last) == records[0].labels
    found = json.loads((tmp_path / "o/summary.json").read_text())["agreed"]
    assert found["accuracy"] == pytest.approx(float(right.double().mean()))
    assert found["answered"]["net2"] == pytest.approx(float((~agreed).double().mean()))
    assert found["reach_last"] == found["answered"]["net2"] < found["deferral_rate"] == 1
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "stages that agree" in line)
    assert f"{100 * found['reach_last']:.1f} %" in row
    assert "reach last" in shown
    assert "100.0 %" not in row


def said(capsys, *words):
    code = main(["validate", "--overwrite", "--out", "o", "--records", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_what_a_user_may_get_wrong_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        predicted(f"net{k}", k).save(f"net{k}.safetensors")
        predicted(f"mute{k}", k, score=False).save(f"mute{k}.safetensors")
    plain = predicted("wide", 1)
    far = {"prediction": plain.prediction, "score": plain.score * 3, "labels": plain.labels}
    Record.from_arrays("wide", **far, flops=10).save("wide.safetensors")
    scored = {"score": plain.score, "correct": plain.right, "labels": plain.labels}
    Record.from_arrays("scored", **scored, classes=plain.classes, flops=10).save("s.safetensors")
    votes = ("--policy.score", "agreement")
    last = "net2.safetensors"
    code, text = said(capsys, "net0.safetensors", last, *votes)
    assert code == 0
    assert "with two stages agreement is the confidence of the first" in text
    code, text = said(capsys, "mute0.safetensors", last)
    assert code == 0
    assert "'mute0' has predictions without a confidence" in text
    code, text = said(capsys, "net0.safetensors", "wide.safetensors", last, *votes)
    assert code == 1
    assert "a confidence from 0 to 1, and the recorded scores of 'wide' go from 0 to 3." in text
    code, text = said(capsys, "net0.safetensors", "s.safetensors", last, *votes)
    assert code == 1
    assert "'scored' holds which answers are right and not the answers" in text
    code, text = said(capsys, "net0.safetensors", last, "--policy.temperatures.net0", "2")
    assert code == 1
    assert "'net0': its record holds no logits, which a temperature needs" in text
    words = ["--records", "mute0.safetensors", last, "--out", "o2"]
    assert main(["select", "--max_accuracy_drop", "5%", *words]) == 1
    assert "'mute0' has predictions without a confidence, so that" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["max_softmax", "agreement"])
def test_a_search_names_models_without_confidence(score, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        predicted(f"net{k}", k, score=k == 1).save(f"net{k}.safetensors")
    words = ["--score", score, "--stages", "3", "--holdout", "0", "--levels", "9", "--out", "o"]
    assert main(["search", "--records", ".", *words]) == 0
    notes = json.loads((tmp_path / "o/summary.json").read_text())["notes"]
    (note,) = [one for one in notes if "no confidences are known" in one]
    assert "of 1 of the 3 models (net0), which as a first stage" in note
    assert ("--score agreement --stages 3" in note) == (score == "max_softmax")


@pytest.mark.parametrize("kind", ["score", "alone", "logits"])
def test_the_scores_of_a_stage_are_compared_after_the_votes_before_it(kind):
    n, share = 400, 0.5
    records = [
        predicted(f"net{k}", k, n, score=kind == "score", logits=kind == "logits") for k in range(3)
    ]
    found = compare_scores(records, share=share, seed=3)
    assert found.names == ("net1", "net2")
    assert found.voters == ("net0",)
    by_name = {one.name: one for one in found.figures}
    first = "max_softmax" if kind == "logits" else "recorded"
    assert next(iter(by_name)) == first
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    rows = order[200:].sort().values.tolist()
    tables = [record.columns() for record in records]
    scores = [
        tables[1].get("score", [0.0] * n)[i]
        + (tables[1]["prediction"][i] == tables[0]["prediction"][i])
        for i in rows
    ]
    right = [torch.tensor([table["correct"][i] for i in rows]) for table in tables]
    area = deferral_quality(torch.tensor(scores), right[1], right[2])
    assert by_name["agreement"].area.value == pytest.approx(area)
    alone, last = 10.0, 100.0
    for name, before in ((first, 0.0), ("agreement", 1.0)):
        chosen = by_name[name].chosen
        if chosen is not None:
            cost = before + alone + chosen.deferral_rate * last
            assert chosen.cost_ratio == pytest.approx(cost / last)
    assert ("Note: agreement has 2 values" in " ".join(found.notes)) == (kind == "alone")


def test_a_score_with_few_values_is_no_threshold():
    labels = torch.arange(400) % 4
    sure = torch.where(torch.arange(400) % 10 < 9, 0.95, 0.5)
    large = Record.from_arrays("large", prediction=labels, labels=labels, classes="0123", flops=9)
    small = Record.from_arrays(
        "small", prediction=labels % 3, score=sure, labels=labels, classes="0123", flops=1
    )
    (note,) = compare_scores([small, large], share=0).notes
    assert note == (
        "Note: recorded has 2 values, and 90.0 % of the samples share 0.95: no threshold tells "
        "these apart."
    )
