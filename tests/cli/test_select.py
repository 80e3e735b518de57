"""`select`: thresholds with a promise."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Policy, Record
from lit_cascade.cli import main
from lit_cascade.core.contract import replay
from tests.points import point_of_records

N = 1200


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])


def made(n, seed, names=("small", "large"), *, labelled=True, first=0, source="made", noise=1.0):
    """Stages whose logits know more the later they come."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    hints = torch.nn.functional.one_hot(labels, 4)
    shared = torch.randn(n, 4, generator=generator)
    return [
        Record.from_arrays(
            name,
            (k + 2.0) * hints + noise * (0.7 * shared + torch.randn(n, 4, generator=generator)),
            labels if labelled else None,
            ids=torch.arange(first, first + n),
            flops=10.0 ** (k + 3),
            data={"name": "made", "split": f"s{seed}", "source": source},
            model={"weights": name},
        )
        for k, name in enumerate(names)
    ]


def saved(records, folder="."):
    paths = []
    for record in records:
        record.save(f"{folder}/{record.name}.safetensors")
        paths.append(f"{folder}/{record.name}.safetensors")
    return paths


@pytest.fixture
def pair(tmp_path):
    (tmp_path / "a").mkdir()
    return saved(made(N, 0), "a")


def select(paths, *words, out="o"):
    return main(["select", "--records", *paths, "--out", out, *map(str, words)])


def json_in(path):
    return json.loads(Path(path).read_text())


def policy_in(out="o"):
    return yaml.safe_load(Path(out, "policy.yaml").read_text())["policy"]


@pytest.mark.parametrize(
    ("target", "limit"),
    [
        ("max_accuracy_drop", 0.02),
        ("min_accuracy", 0.8),
        ("max_disagreement", 0.1),
        ("deferral_rate", 0.4),
        ("max_cost", 5000),
        ("max_cost_ratio", 0.5),
    ],
)
@pytest.mark.parametrize("confidence", ["0.9", "none"])
def test_the_policy_does_what_the_line_says(pair, capsys, target, limit, confidence):
    assert select(pair, f"--{target}", limit, "--confidence", confidence) == 0
    printed = capsys.readouterr().out
    summary = json_in("o/summary.json")
    policy = policy_in()
    chosen = summary["chosen"]
    assert policy["thresholds"] == chosen["thresholds"]
    assert f"threshold {policy['thresholds']['small']:g}" in printed
    assert ("with 90 % confidence" in printed) == (confidence != "none")
    # its figures are those of the threshold as it is written
    rule = Policy(tuple(policy["thresholds"].values()))
    records = [Record.load(path) for path in pair]
    done = point_of_records(records, rule)
    assert done.accuracy == pytest.approx(chosen["accuracy"])
    assert done.cost == pytest.approx(chosen["flops"])
    assert done.deferral_rate == pytest.approx(chosen["deferral_rate"])
    last = point_of_records(records, Policy((math.inf,))).accuracy
    said = replay([record.logits for record in records], rule).prediction
    kept = {
        "max_accuracy_drop": last - done.accuracy <= limit + 1e-6,
        "min_accuracy": done.accuracy >= limit - 1e-6,
        "max_disagreement": float((said != records[-1].logits.argmax(1)).float().mean())
        <= limit + 1e-6,
        "deferral_rate": done.deferral_rate <= limit,
        "max_cost": done.cost <= limit,
        "max_cost_ratio": done.cost_ratio <= limit,
    }
    assert kept[target]
    plain = summary["empirical"]
    if confidence != "none":
        wanted = (
            "accuracy" if target in {"deferral_rate", "max_cost", "max_cost_ratio"} else "flops"
        )
        assert chosen[wanted] != plain[wanted]  # the price of the promise is there to see
    assert len(policy["evidence"]["scores"]["small"]["counts"]) == 20


def test_validate_takes_the_policy_and_knows_its_samples(pair, tmp_path, capsys):
    assert select(pair, "--max_accuracy_drop", 0.02) == 0
    judge = ["validate", "--config", "o/policy.yaml", "--records"]
    assert main([*judge, *pair, "--out", "v"]) == 1
    assert "among those that the thresholds were fitted on" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    others = saved(made(N, 1, first=N), "b")
    assert main([*judge, *others, "--out", "v"]) == 0
    assert json_in("v/summary.json")["policy"] is not None


def test_too_few_samples_are_an_error_that_says_how_many_would_do(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    few = saved(made(80, 0), "a")
    assert select(few, "--max_accuracy_drop", 0.02) == 1
    said = capsys.readouterr()
    assert "samples would do" in said.err
    assert "plain empirical" in said.out
    assert not (tmp_path / "o" / "policy.yaml").exists()
    assert select(few, "--max_accuracy_drop", 0) == 1
    assert "No sample can show that nothing at all is lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one target of max_accuracy_drop.*got none"),
        (["--min_accuracy", 0.5, "--max_cost", 1], "got min_accuracy and max_cost"),
        (["--max_accuracy_drop", 2], "2 is not a share: for 2 percent write 0.02 or 2%"),
        (["--min_accuracy", 0.5, "--confidence", 0.2], "from 0.5 to below 1"),
        (["--min_accuracy", 0.5, "--confidence", "some"], "confidence"),
    ],
)
def test_mistakes_are_one_clear_message(pair, capsys, words, message):
    assert select(pair, *words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert re.search(message, said)


def test_three_thresholds_are_chosen_jointly(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    triple = saved(made(4000, 0, ("small", "middle", "large")), "a")
    assert select(triple, "--max_accuracy_drop", 0.03) == 0
    found = policy_in()["thresholds"]
    assert list(found) == ["small", "middle"]
    assert found["small"] != found["middle"]
    assert "thresholds" in capsys.readouterr().out
    first = Path("o/policy.yaml").read_text()
    assert select(triple, "--max_accuracy_drop", 0.03, out="again") == 0
    assert Path("again/policy.yaml").read_text() == first


def test_samples_that_temperatures_were_fitted_on_are_left_out(pair, capsys):
    words = ["calibrate", "--records", *pair, "--out", "c"]
    assert main(words) == 0
    everything = ["--config", "c/calibration.yaml", "--max_accuracy_drop", 0.02]
    assert select(pair, *everything) == 1
    assert "a threshold needs others" in capsys.readouterr().err
    assert select(pair, *everything, "--allow_overlap") == 0
    overlay = yaml.safe_load(Path("c/calibration.yaml").read_text())
    overlay["policy"]["evidence"]["temperatures"]["ids"] = "0..599"
    Path("half.yaml").write_text(yaml.safe_dump(overlay))
    assert select(pair, "--config", "half.yaml", "--max_accuracy_drop", 0.03, out="half") == 0
    assert "600 of the 1,200 samples are left out" in capsys.readouterr().out
    evidence = policy_in("half")["evidence"]
    assert evidence["thresholds"]["ids"] == "600..1199"
    assert evidence["temperatures"]["ids"] == "0..599"


def test_fitted_samples_without_a_source_are_left_out_or_said(tmp_path, capsys):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    everything = made(N, 0, source=None)
    part = [
        Record.from_arrays(one.name, one.logits[300:], one.labels[300:], flops=one.cost()[300:])
        for one in everything
    ]
    words = ["--learn_score", "--share", "0.5", "--out", "c"]
    assert main(["calibrate", "--records", *saved(part, "a"), *words]) == 0
    pair = saved(everything, "b")
    words = ["--policy.score", "learned", "--max_accuracy_drop", 0.03]
    assert select(pair, "--config", "c/calibration.yaml", *words) == 0
    printed = capsys.readouterr().out
    assert "450 of the 1,200 samples are left out" in printed
    assert "calibrated on 750" in printed
    assert json_in("o/summary.json")["left_out"] == 450
    assert json_in("o/summary.json")["caveats"] == []
    # a policy that older versions wrote holds no logits to compare with
    overlay = yaml.safe_load(Path("c/calibration.yaml").read_text())
    for fitted in ("temperatures", "heads"):
        del overlay["policy"]["evidence"][fitted]["content"]
    Path("old.yaml").write_text(yaml.safe_dump(overlay))
    assert select(pair, "--config", "old.yaml", *words, out="old") == 0
    caveats = json_in("old/summary.json")["caveats"]
    assert len(caveats) == 1
    assert "the 450 samples that the heads and the temperatures were fitted on" in caveats[0]
    printed, written = capsys.readouterr().out, Path("old/policy.yaml").read_text()
    for caveat in caveats:
        assert caveat in printed.replace("\n", " ")
        assert f"# {caveat}" in written
    assert policy_in("old")["evidence"]["promise"]["caveats"] == caveats
    assert main(["validate", "--config", "old/policy.yaml", "--records", *pair, "--out", "v"]) == 1
    assert main(["select", "--records", *pair, "--policy.temperatures", "[1.5, 1]",
                 "--max_accuracy_drop", "0.03", "--out", "typed"]) == 0  # fmt: skip
    assert "only if the temperatures were set without these samples" in capsys.readouterr().out


def test_agreement_is_promised_without_labels(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    blind = saved(made(N, 0, labelled=False), "a")
    assert select(blind, "--max_disagreement", 0.1) == 0
    assert "unknown" in capsys.readouterr().out
    assert select(blind, "--max_accuracy_drop", 0.1, out="p") == 1
    assert "needs labels" in capsys.readouterr().err
