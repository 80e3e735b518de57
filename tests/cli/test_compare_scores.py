"""Scores compared, and one learned, from the command line."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Policy, Record
from lit_cascade.analysis.deferral_head import fit_head
from lit_cascade.cli import main
from lit_cascade.core.contract import answers_here, replay
from lit_cascade.core.curve import operating_points
from lit_cascade.core.deferral_head import DeferralHead
from lit_cascade.core.norms import fit_norm
from lit_cascade.core.quality import aurc, deferral_quality
from lit_cascade.core.scores import SCORES, max_logit_pnorm, score_and_answer
from lit_cascade.options import PolicyOptions
from lit_cascade.report.validation import Validation
from tests.points import point_of_records

ALL = [*SCORES, "learned", "max_logit_pnorm"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])


def made(n, seed, names=("small", "large"), first=0, source="made"):
    """Stages that know a little more each; the first is often sure and wrong about class 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    hints = torch.nn.functional.one_hot(labels, 3)
    found = []
    for k, name in enumerate(names):
        logits = (2 + 0.2 * k) * hints + torch.randn(n, 3, generator=generator)
        if k == 0:
            blind = (labels == 0) & (torch.rand(n, generator=generator) < 0.3)
            logits[blind] = logits[blind].roll(1, dims=1)
        found.append(
            Record.from_arrays(
                name, logits, labels, ids=torch.arange(first, first + n), flops=10.0**k,
                data={"name": "made", "split": f"s{seed}", "source": source},
            )
        )  # fmt: skip
    return found


def saved(records, folder):
    Path(folder).mkdir(exist_ok=True)
    paths = [f"{folder}/{record.name}.safetensors" for record in records]
    for record, path in zip(records, paths, strict=True):
        record.save(path)
    return paths


@pytest.fixture
def fitted():
    return saved(made(400, 0), "fit")


@pytest.fixture
def judged():
    return saved(made(300, 1, first=1000), "judge")


def compare(paths, *words, out="o"):
    return main(["compare-scores", "--records", *paths, "--out", out, *map(str, words)])


def json_in(path):
    return json.loads(Path(path).read_text())


def rows_in(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def columns(records):
    """Whether each model is right, (N, 2)."""
    return torch.stack([one.logits.argmax(1) == one.labels for one in records], dim=1)


def test_every_figure_is_of_the_samples_that_nothing_was_fitted_on(fitted, judged, capsys):
    assert compare(judged, "--fit_on", *fitted) == 0
    printed, told, rows = (
        capsys.readouterr().out,
        json_in("o/summary.json"),
        rows_in("o/scores.csv"),
    )
    assert (told["n"], told["fitted_on"]) == (300, 400)
    assert list(told["scores"]) == [row["score"] for row in rows] == ALL
    others, records = made(400, 0), made(300, 1, first=1000)
    known, correct = columns(others), columns(records)
    head = fit_head(others[0].logits, known[:, 0], known[:, 1]).head
    assert DeferralHead.from_numbers(told["learned"]["head"], "head") == head
    norm = fit_norm(others[0].logits, others[0].labels).norm
    assert any(note.startswith("max_logit_pnorm: ") for note in told["notes"])
    for name, row in zip(ALL, rows, strict=True):
        scores = (
            head.judge(records[0].logits).score
            if name == "learned"
            else score_and_answer(
                records[0].logits,
                max_logit_pnorm(norm) if name == "max_logit_pnorm" else name,
            )[0]
        )
        figures = told["scores"][name]
        area = deferral_quality(scores, *correct.T)
        assert figures["area"]["value"] == float(row["area"]) == area
        assert figures["area"]["low"] < area < figures["area"]["high"]
        assert figures["aurc"]["value"] == aurc(scores, correct[:, 0])
        assert f"{area:.3f}" in printed
        chosen = figures["chosen"]
        deferred = ~answers_here(scores, chosen["threshold"])
        assert chosen["deferral_rate"] == float(deferred.double().mean())
        right = torch.where(deferred, correct[:, 1], correct[:, 0])
        assert chosen["accuracy"] == pytest.approx(float(right.double().mean()))
        assert chosen["flops_ratio"] == pytest.approx(0.1 + chosen["deferral_rate"])
    # a model that is sure and wrong about a class is what a learned score is for
    gain = told["scores"]["learned"]["area_less_max_softmax"]
    assert gain["low"] > 0.02
    first = told["scores"]["max_softmax"]["area"]["value"]
    learned = told["scores"]["learned"]["area"]["value"]
    assert gain["value"] == pytest.approx(learned - first)
    assert Path("o/scores.png").read_bytes().startswith(b"\x89PNG")


def test_the_ratio_at_equal_accuracy_is_what_validate_finds(fitted, judged):
    assert compare(judged, "--fit_on", *fitted) == 0
    told = json_in("o/summary.json")["scores"]
    for name in SCORES:
        found = Validation.of(made(300, 1, first=1000), PolicyOptions(score=name))
        expected = operating_points(found.curve)["same_accuracy"].cost_ratio
        assert told[name]["flops_ratio_at_equal_accuracy"]["value"] == pytest.approx(expected)


def test_a_share_is_fitted_on_and_the_rest_reported(judged):
    assert compare(judged, "--share", 0.4) == 0
    assert compare(judged, "--share", 0.4, out="again") == 0
    assert compare(judged, "--share", 0.4, "--seed", 1, out="other") == 0
    told, again, other = (json_in(f"{out}/summary.json") for out in ("o", "again", "other"))
    assert (told["n"], told["fitted_on"]) == (180, 120)
    assert told == again
    assert told["scores"] != other["scores"]
    records, rows = (
        made(300, 1, first=1000),
        torch.randperm(300, generator=torch.Generator().manual_seed(0)),
    )
    correct = columns(records)
    kept, rest = rows[:120].sort().values, rows[120:].sort().values
    head = fit_head(records[0].logits[kept], *correct[kept].T).head
    area = deferral_quality(head.judge(records[0].logits[rest]).score, *correct[rest].T)
    assert told["scores"]["learned"]["area"]["value"] == area


def test_without_samples_to_fit_on_there_is_no_learned_score(judged, capsys):
    assert compare(judged, "--share", 0) == 0
    told = json_in("o/summary.json")
    assert (told["n"], told["fitted_on"], told["learned"]) == (300, 0, None)
    assert list(told["scores"]) == list(SCORES)
    assert told["scores"]["margin"]["chosen"] is None
    assert "No learned score: there are no samples" in capsys.readouterr().out


def test_records_with_scores_of_their_own(tmp_path, capsys):
    records = made(200, 2)
    correct = columns(records)
    scores = torch.rand(200)
    paths = saved(
        [
            Record.from_arrays(name, score=scores, correct=correct[:, k], costs={"usd": k + 1})
            for k, name in enumerate(("api", "better"))
        ],
        "own",
    )
    assert compare(paths, "--cost", "usd", "--share", 0) == 0
    told = json_in("o/summary.json")
    assert list(told["scores"]) == ["recorded"]
    assert told["scores"]["recorded"]["area"]["value"] == deferral_quality(scores, *correct.T)
    assert "'api' holds which answers are right and not the answers" in capsys.readouterr().out


def test_models_that_agree_leave_nothing_to_choose(tmp_path, capsys):
    small, _ = made(100, 3)
    same = Record.from_arrays(
        "large", small.logits, small.labels, ids=small.ids, flops=9, data=small.data
    )
    assert compare(saved([small, same], "same")) == 0
    figures = json_in("o/summary.json")["scores"]["max_softmax"]
    assert figures["area"] == {"value": None, "low": None, "high": None}
    printed = capsys.readouterr().out
    assert "undefined" in printed
    assert "No learned score: the last stage puts 0 of 50 answers right" in printed


def test_an_overlap_is_refused_or_said(fitted, judged, capsys):
    assert compare(judged, "--fit_on", *judged) == 1
    assert "300 of these 300 samples are among those that the learned score" in (
        capsys.readouterr().err
    )
    assert not Path("o").exists()
    assert compare(judged, "--fit_on", *judged, "--allow_overlap") == 0
    assert "the figures are optimistic" in json_in("o/summary.json")["notes"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--records", "fit/small.safetensors"], "needs at least 2 stages, got 1"),
        ([], "expected --records FILE ...; for example"),
        (["--records", *["fit/small.safetensors"] * 3], "the name .small. occurs twice"),
        (["--records", "PAIR", "--share", "1"], "--share: 1 is not a share"),
        (["--records", "PAIR", "--share", "0.999"], "--share: expected .* leaves some of the 400"),
        (["--records", "PAIR", "--seed", "-1"], "--seed: expected"),
        (
            ["--records", "PAIR", "--fit_on", "judge/large.safetensors", "judge/small.safetensors"],
            "--fit_on: expected records of small and large, got large and small",
        ),
    ],
)
def test_mistakes_are_one_clear_message(fitted, judged, capsys, words, message):
    given = [w for word in words for w in (fitted if word == "PAIR" else [word])]
    assert main(["compare-scores", *given, "--out", "o"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert re.search(message, said)
    assert not Path("o").exists()


def test_nothing_is_overwritten_unasked(judged, capsys):
    assert compare(judged) == 0
    before = Path("o/scores.csv").read_text()
    assert compare(judged, "--seed", 5) == 2
    assert "already holds" in capsys.readouterr().err
    assert Path("o/scores.csv").read_text() == before
    assert compare(judged, "--seed", 5, "--overwrite") == 0
    assert Path("o/scores.csv").read_text() != before


def learn(paths, *words, out="c"):
    return main(["calibrate", "--learn_score", "--records", *paths, "--out", out, *words])


def policy_in(path):
    text = Path(path).read_text()
    assert "!!" not in text  # nothing but plain YAML: no tag that would make an object
    return yaml.safe_load(text)["policy"]


def test_calibrate_writes_a_score_that_validate_reads_to_the_last_digit(fitted, judged, capsys):
    assert learn(fitted) == 0
    assert "only last right" in capsys.readouterr().out
    policy = policy_in("c/calibration.yaml")
    assert policy["score"] == "learned"
    assert set(policy["evidence"]) == {"calibration", "temperatures", "heads"}
    others, records = made(400, 0), made(300, 1, first=1000)
    head = fit_head(others[0].logits, *columns(others).T).head
    assert DeferralHead.from_numbers(policy["heads"]["small"], "heads") == head
    words = ["validate", "--config", "c/calibration.yaml", "--records"]
    assert main([*words, *fitted, "--out", "v"]) == 1
    assert "the heads were fitted on" in re.sub("temperatures", "heads", capsys.readouterr().err)
    assert main([*words, *judged, "--out", "v"]) == 0
    told, rows = json_in("v/summary.json"), rows_in("v/curve.csv")
    assert told["score"] == "learned"
    assert told["uncalibrated"] is None  # a temperature does not move it
    scores = head.judge(records[0].logits).score.double().unique()
    assert [float(row["threshold"]) for row in rows[1:-1]] == scores[1:].tolist()
    for row in rows[:: len(rows) // 5]:
        policy = Policy((float(row["threshold"]),), "learned", heads=(head,))
        assert float(row["accuracy"]) == point_of_records(records, policy).accuracy
    # and another score may be had from the same config
    assert main([*words, *judged, "--policy.score", "margin", "--out", "m"]) == 0
    assert json_in("m/summary.json")["score"] == "margin"


def test_heads_alone_count_as_fitted_on(fitted, capsys):
    assert learn(fitted) == 0
    overlay = yaml.safe_load(Path("c/calibration.yaml").read_text())
    del overlay["policy"]["evidence"]["temperatures"]
    Path("heads.yaml").write_text(yaml.safe_dump(overlay))
    words = ["--config", "heads.yaml", "--records", *fitted]
    assert main(["validate", *words, "--out", "v"]) == 1
    assert "that the heads were fitted on" in capsys.readouterr().err
    assert main(["select", *words, "--max_accuracy_drop", "0.05", "--out", "s"]) == 1
    assert "score were fitted on all of these" in capsys.readouterr().err


def test_temperatures_fitted_anew_keep_the_learned_score_and_its_evidence(fitted, capsys):
    assert learn(fitted) == 0
    again = saved(made(200, 7, first=5000), "again")
    words = ["calibrate", "--config", "c/calibration.yaml", "--records", *again, "--out", "t"]
    assert main(words) == 0
    evidence = policy_in("t/calibration.yaml")["evidence"]
    assert evidence["heads"]["ids"] == "0..399"
    assert evidence["temperatures"]["ids"] == "5000..5199"


def services(n, seed):
    """Saved records of predictions: the first is often wrong where it answers class 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    right = torch.rand(n, generator=generator) < torch.tensor([0.95, 0.9, 0.4])[labels]
    answer = torch.where(right, labels, 1)
    wrong = torch.rand(n, generator=generator) < 0.05
    last = torch.where(wrong, (labels + 1) % 3, labels)
    ids, data = torch.arange(n) + 10_000 * seed, {"name": "t", "split": str(seed), "source": "t"}
    return [
        Record.from_arrays(
            name, labels=labels, prediction=said, score=score, costs={"usd": usd}, ids=ids,
            data=data,
        )
        for name, said, score, usd in (
            ("free", answer, torch.rand(n, generator=generator), 0.001), ("paid", last, None, 1.0)
        )
    ]  # fmt: skip


def test_a_score_is_learned_from_predictions_and_says_what_it_gains(capsys):
    fit, choose = saved(services(900, 0), "fit"), saved(services(900, 1), "choose")
    assert learn(fit, "--cost", "usd") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "The learned score helps this cascade" in printed
    assert "cross-fitted in 5 folds" in printed
    policy = policy_in("c/calibration.yaml")
    assert set(policy["evidence"]) == {"calibration", "heads"}
    held_out = policy["evidence"]["heads"]["held_out"]
    assert held_out["recommended"] == "learned"
    assert 0 < held_out["interval"][0] < held_out["gain"] < held_out["interval"][1]
    assert Path("c/calibrate.png").read_bytes().startswith(b"\x89PNG")
    words = ["select", "--policy", "c/calibration.yaml", "--max_accuracy_drop", "0.05"]
    words += ["--cost", "usd", "--records"]
    # what the score was fitted on is kept apart by the tool
    assert main([*words, *fit, "--out", "s"]) == 1
    assert "score were fitted on all of these 900 samples" in capsys.readouterr().err
    assert main([*words, *choose, "--out", "s"]) == 0
    rule = Policy.load("s/policy.yaml")
    records = services(900, 1)
    stage = replay([one.output("a test") for one in records], rule).stage
    assert json_in("s/summary.json")["chosen"]["deferral_rate"] == pytest.approx(
        float(stage.double().mean())
    )


def test_a_score_that_gains_nothing_says_so(capsys):
    labels = torch.arange(600) % 3
    noise = torch.Generator().manual_seed(0)
    small, large = (
        Record.from_arrays(
            name, k * torch.eye(3)[labels] + torch.randn(600, 3, generator=noise), labels, flops=k
        )
        for name, k in (("small", 2.0), ("large", 5.0))
    )
    assert learn(saved([small, large], "fit")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "The learned score does not help this cascade beyond chance" in printed


@pytest.mark.parametrize("names", [("small", "large"), ("small", "middle", "large")])
def test_a_learned_score_is_selected_checked_and_replayed(names, capsys):
    fit, choose, new = (
        saved(made(n, seed, names, first=10_000 * seed), folder)
        for n, seed, folder in ((500, 0, "fit"), (3000, 1, "choose"), (4000, 2, "new"))
    )
    assert learn(fit) == 0
    config = ["--config", "c/calibration.yaml", "--max_accuracy_drop", "0.05", "--out", "s"]
    assert main(["select", "--records", *choose, *config]) == 0
    policy = policy_in("s/policy.yaml")
    learned = policy_in("c/calibration.yaml")
    assert policy["score"] == "learned"
    assert policy["heads"] == learned["heads"]
    assert list(policy["heads"]) == list(names[:-1])
    heads = tuple(DeferralHead.from_numbers(policy["heads"][name], name) for name in names[:-1])
    rule = Policy(tuple(policy["thresholds"].values()), "learned", heads=heads)
    chosen = json_in("s/summary.json")["chosen"]
    if len(names) == 2:  # of three, some of the samples put thresholds in order
        done = point_of_records(made(3000, 1, names, first=10_000), rule)
        assert done.deferral_rate == pytest.approx(chosen["deferral_rate"])
        assert done.accuracy == pytest.approx(chosen["accuracy"])
    capsys.readouterr()
    assert main(["check", "--policy", "s/policy.yaml", "--records", *new, "--out", "k"]) == 0
    assert json_in("k/check.json")["outcome"] in {"kept", "open"}
    assert not json_in("k/check.json")["drifted"]
    fresh = made(4000, 2, names, first=20_000)
    said = replay([record.logits for record in fresh], rule)
    assert json_in("k/check.json")["stages"][0]["rate"] == pytest.approx(
        float((said.stage > 0).double().mean())
    )


def test_what_cannot_be_learned(fitted, capsys):
    assert learn(fitted, "--policy.combine", "most_confident") == 2
    assert "--learn_score: policy.combine is most_confident" in capsys.readouterr().err
    small, _ = made(100, 3)
    same = Record.from_arrays(
        "large", small.logits, small.labels, ids=small.ids, flops=9, data=small.data
    )
    assert learn(saved([small, same], "same")) == 1
    assert "stage 'small': the last stage puts 0 of 100 answers right" in capsys.readouterr().err
    assert not Path("c").exists()


def test_a_search_takes_no_learned_score(fitted, capsys):
    assert main(["search", "--records", "fit", "--score", "learned", "--out", "o"]) == 2
    assert "--score: a learned score is fitted to one cascade" in capsys.readouterr().err


def test_a_learned_score_without_heads(fitted, capsys):
    words = ["validate", "--records", *fitted, "--policy.score", "learned", "--out", "o"]
    assert main(words) == 2
    assert "needs a head for small; `lit-cascade calibrate --learn_score`" in (
        capsys.readouterr().err
    )


CONFIG = """
model:
  stages:
    small: {network: {class_path: tests.toys.Net, init_args: {width: 4, seed: 0}}}
    large: {network: {class_path: tests.toys.Net, init_args: {width: 16, seed: 3}}}
data: {class_path: tests.toys.SharedPoints}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}
"""


def test_a_cascade_runs_for_real_by_a_learned_score():
    Path("pair.yaml").write_text(CONFIG)
    config = ["--config", "pair.yaml"]
    words = ["calibrate", *config, "--learn_score", "--allow_overlap", "--out", "c"]
    assert main(words) == 0
    config += ["--config", "c/calibration.yaml", "--allow_overlap"]
    logged = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    assert main(["validate", *config, *logged, "--out", "v"]) == 0
    thresholds = [float(row["threshold"]) for row in rows_in("v/curve.csv")[1:-1]]
    config += ["--policy.thresholds.small", repr(thresholds[len(thresholds) // 2])]
    assert main(["validate", *config, "--out", "p"]) == 0
    assert main(["test", *config, "--out", "t"]) == 0
    told, done = json_in("p/summary.json")["policy"], json_in("t/test.json")
    assert done["score"] == "learned"
    assert 0 < done["deferral_rate"] < 1
    for figure in ("accuracy", "deferral_rate", "answered"):
        assert done[figure] == told[figure]


def scaled(records, seed):
    """The same models, where the size of a sample's logits says nothing of how sure they are."""
    factors = (
        torch.rand(len(records[0]), 1, generator=torch.Generator().manual_seed(seed)) * 9 + 0.3
    )
    return [replace(one, logits=one.logits * factors) for one in records]


@pytest.mark.parametrize("names", [("small", "large"), ("small", "middle", "large")])
def test_norms_are_chosen_selected_checked_and_replayed(names, capsys):
    fit, choose, new = (
        saved(scaled(made(n, seed, names, first=10_000 * seed), seed), folder)
        for n, seed, folder in ((800, 0, "fit"), (3000, 1, "choose"), (4000, 2, "new"))
    )
    assert main(["calibrate", "--choose_norms", "--records", *fit, "--out", "c"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Norms of the score max_logit_pnorm" in printed
    assert "The score max_logit_pnorm" in printed
    policy = policy_in("c/calibration.yaml")
    others = [Record.load(path) for path in fit]
    fitted = [fit_norm(one.logits, one.labels) for one in others[:-1]]
    assert policy["norms"] == {one.name: f.norm for one, f in zip(others, fitted, strict=False)}
    assert policy["evidence"]["norms"]["ids"] == "0..799"
    held_out = policy["evidence"]["norms"]["held_out"]
    assert held_out["interval"][0] <= held_out["gain"] <= held_out["interval"][1]
    assert json_in("c/summary.json")["norms"]["small"] == fitted[0].summary()
    words = ["--config", "c/calibration.yaml", "--records"]
    assert main(["validate", *words, *fit, "--out", "v"]) == 1
    assert "were fitted on" in capsys.readouterr().err
    words += [*choose, "--max_accuracy_drop", "0.05"]
    assert main(["select", *words, "--out", "s"]) == 0
    rule = Policy.load("s/policy.yaml")
    assert (rule.score, rule.norms) == ("max_logit_pnorm", tuple(f.norm for f in fitted))
    records = [Record.load(path) for path in choose]
    if len(names) == 2:
        done = point_of_records(records, rule)
        assert done.accuracy == pytest.approx(json_in("s/summary.json")["chosen"]["accuracy"])
    capsys.readouterr()
    assert main(["check", "--policy", "s/policy.yaml", "--records", *new, "--out", "k"]) == 0
    stage = replay([Record.load(path).logits for path in new], rule).stage
    assert json_in("k/check.json")["stages"][0]["rate"] == pytest.approx(
        float((stage > 0).double().mean())
    )
    # temperatures fitted anew keep the norms and what they were chosen on
    again = saved(made(200, 7, names, first=90_000), "again")
    assert main(["calibrate", *words[:3], *again, "--out", "t"]) == 0
    assert policy_in("t/calibration.yaml")["evidence"]["norms"]["ids"] == "0..799"


def test_norms_that_cannot_be_chosen(fitted, capsys):
    words = ["calibrate", "--choose_norms", "--out", "c", "--records"]
    two = made(50, 0)
    two = saved([replace(one, logits=one.logits[:, :2], labels=one.labels % 2, classes=("a", "b"))
                 for one in two], "two")  # fmt: skip
    for given, says in (
        ([*fitted, "--learn_score"], "--choose_norms: learn_score fits another score"),
        ([*fitted, "--policy.combine", "most_confident"], "--choose_norms: policy.combine is"),
        (two, "the score max_logit_pnorm needs three or more classes: with two it is the same"),
        ([*saved(services(50, 0), "own"), "--method", "none", "--cost", "usd"], "no logits"),
    ):
        assert main([*words, *given]) > 0
        said = capsys.readouterr().err
        assert says in said
        assert "Traceback" not in said
    for score in ("0", "0.5"):
        asked = ["--policy.score", "max_logit_pnorm", "--policy.norms", f"[{score}]"]
        assert main(["validate", "--records", *fitted, *asked, "--out", "v"]) == 2
        assert "norms: expected a finite p of at least 1" in capsys.readouterr().err
    asked = ["--policy.score", "max_logit_pnorm", "--policy.norms", "[3]", "--cost", "usd"]
    assert main(["validate", "--records", *saved(services(50, 0), "own"), *asked]) == 1
    assert "holds no logits, which the score max_logit_pnorm needs" in capsys.readouterr().err
    assert main(["validate", "--records", *two, *asked[:-2]]) == 1
    assert "the score max_logit_pnorm needs three or more classes" in capsys.readouterr().err
