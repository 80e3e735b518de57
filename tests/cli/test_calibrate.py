"""Calibration from the command line: what it writes, says, and recommends."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from lit_cascade import Record
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.analysis.evidence import ids_from_text
from lit_cascade.analysis.reliability import calibration_metrics
from lit_cascade.cli import main
from lit_cascade.core.policy import Policy
from lit_cascade.options import PolicyOptions

N = 1500


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-cascade"])


def made(names=("small", "large"), *, classes=4, tilt=0.0, seed=0, first=0, folder="a"):
    """Stages that are too sure, the first of which favours some classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (N,), generator=generator)
    hints = torch.nn.functional.one_hot(labels, classes)
    Path(folder).mkdir()
    paths = []
    for k, name in enumerate(names):
        logits = 3 * ((k + 1.5) * hints + torch.randn(N, classes, generator=generator))
        logits = logits + (tilt if k == 0 else 0.0) * torch.linspace(-1, 1, classes)
        Record.from_arrays(
            name, logits, labels, ids=torch.arange(first, first + N), flops=10.0 ** (k + 3),
            data={"name": "made", "split": folder, "source": "made"},
        ).save(f"{folder}/{name}.safetensors")  # fmt: skip
        paths.append(f"{folder}/{name}.safetensors")
    return paths


def calibrate(paths, *words, out="c"):
    return main(["calibrate", "--records", *paths, "--out", out, *map(str, words)])


def overlay(out="c"):
    return yaml.safe_load(Path(out, "calibration.yaml").read_text())["policy"]


def summary(out="c"):
    return json.loads(Path(out, "summary.json").read_text())


def test_what_is_written_is_what_was_judged(capsys):
    pair = made(tilt=4.0)
    assert calibrate(pair, "--share", 0.4, "--seed", 5) == 0
    printed = capsys.readouterr().out
    said, policy = summary(), overlay()
    assert (said["n"], said["fitted_on"], said["judged_on"]) == (N, 600, 900)
    assert "held out" in printed
    used = ids_from_text(policy["evidence"]["temperatures"]["ids"])
    assert len(used) == 600
    # the figures are those of the overlay on the samples that it does not name
    records = [Record.load(path) for path in pair]
    rest = torch.tensor(sorted(set(range(N)) - set(used)))
    left = [
        Record.from_arrays(r.name, r.logits[rest], r.labels[rest], flops=r.cost()[0])
        for r in records
    ]
    options = PolicyOptions(temperatures=policy["temperatures"])
    rule = Policy.from_options(options, ["small", "large"])
    scaled = left[0].logits.double() / rule.temperatures[0]
    found, told = calibration_metrics(scaled, left[0].labels), said["stages"]["small"]["after"]
    for figure in ("nll", "ece", "ece_equal_mass", "brier", "accuracy", "confidence"):
        assert told[figure] == pytest.approx(getattr(found, figure), abs=1e-9)
    assert told["nll"] < said["stages"]["small"]["before"]["nll"]
    curve = curve_of(left, rule)
    assert said["cascade"]["with"]["stage_accuracy"] == curve.stage_accuracy.tolist()
    for value in (told["nll"], told["ece"], told["ece_equal_mass"], told["brier"]):
        assert f"{value:.4f}" in printed
    assert Path("c/calibrate.png").read_bytes().startswith(b"\x89PNG")


def test_a_threshold_is_promised_on_the_samples_that_calibration_left(capsys):
    pair = made()
    assert calibrate(pair, "--share", 0.5) == 0
    used = set(ids_from_text(overlay()["evidence"]["temperatures"]["ids"]))
    words = ["--config", "c/calibration.yaml", "--max_accuracy_drop", "0.03", "--out", "s"]
    assert main(["select", "--records", *pair, *words]) == 0
    assert "750 of the 1,500 samples are left out" in capsys.readouterr().out
    policy = yaml.safe_load(Path("s/policy.yaml").read_text())["policy"]
    chosen = set(ids_from_text(policy["evidence"]["thresholds"]["ids"]))
    assert not used & chosen
    assert used | chosen == set(range(N))
    assert policy["temperatures"] == overlay()["temperatures"]
    others = made(seed=1, first=N, folder="b")
    judge = ["--config", "s/policy.yaml", "--out", "v"]
    assert main(["validate", "--records", *others, *judge]) == 0
    assert main(["check", "--policy", "s/policy.yaml", "--records", *others, "--out", "k"]) == 0
    assert main(["validate", "--records", *pair, *judge, "--overwrite"]) == 1
    assert "that the temperatures were fitted on" in capsys.readouterr().err


def test_the_message_of_select_names_what_helps(capsys):
    pair = made()
    assert calibrate(pair) == 0
    words = ["--config", "c/calibration.yaml", "--max_accuracy_drop", "0.03", "--out", "s"]
    assert main(["select", "--records", *pair, *words]) == 1
    advice = re.search(r"calibrate (--share [\d.]+)", capsys.readouterr().err)[1]
    assert calibrate(pair, "--overwrite", *advice.split()) == 0
    assert main(["select", "--records", *pair, *words]) == 0


def test_none_is_recommended_where_it_does_not_help_and_the_method_where_it_does(capsys):
    straight, tilted = made(seed=1), made(tilt=9.0, folder="t")
    for paths, combine, wanted in (
        (straight, "later", "none"),
        (tilted, "average", "temperature"),  # too sure, the small stage outvotes the large one
    ):
        assert calibrate(paths, "--policy.combine", combine, "--overwrite") == 0
        printed = capsys.readouterr().out
        said = summary()
        assert said["recommended"] == wanted
        assert overlay()["evidence"]["calibration"]["recommended"] == wanted
        assert ("none is recommended" in printed) == (wanted == "none")
        assert ("Apply it." in printed) == (wanted != "none")
        assert said["recommendation"] in printed
        assert said["recommendation"] in Path("c/calibration.yaml").read_text()
        low, high = said["interval"]
        assert low <= said["gain"] <= high
        assert (low > 0) == (wanted != "none")


def test_two_classes_are_told_that_the_curve_is_the_same(capsys):
    assert calibrate(made(classes=2)) == 0
    assert "cannot change the order of the scores" in capsys.readouterr().out
    assert summary()["same_order"]
    assert abs(summary()["gain"]) < 1e-5


def test_none_shows_how_well_confidence_fits_and_takes_calibration_away(capsys):
    pair = made()
    assert calibrate(pair, out="t") == 0
    capsys.readouterr()
    assert calibrate(pair, "--config", "t/calibration.yaml", "--method", "none") == 0
    printed = capsys.readouterr().out
    assert "Nothing was fitted" in printed
    assert "Reliability of 'small'" in printed
    assert overlay()["temperatures"] == {"small": 1.0, "large": 1.0}
    assert summary()["cascade"] is None
    assert "ids" not in overlay()["evidence"]["calibration"]
    assert main(["validate", "--records", *pair, "--config", "c/calibration.yaml"]) == 0


def test_stages_that_are_not_named_keep_their_temperature(capsys):
    triple = made(("a", "b", "c"))
    assert calibrate(triple, out="v") == 0
    words = ("--config", "v/calibration.yaml", "--stages", "a")
    assert calibrate(triple, *words, "--share", 0.5) == 0
    policy, before = overlay(), overlay("v")
    assert policy["temperatures"]["b"] == before["temperatures"]["b"]
    assert policy["temperatures"]["a"] != before["temperatures"]["a"]
    # the evidence keeps what b was fitted on
    assert policy["evidence"]["earlier temperatures"]["n"] == N
    rest = ["select", "--records", *triple, "--config", "c/calibration.yaml", "--deferral_rate"]
    assert main([*rest, "0.5", "--out", "s"]) == 1
    assert "fitted on all of these 1,500 samples" in capsys.readouterr().err


def test_vectors_of_an_old_config_are_an_unknown_option(capsys):
    pair = made()
    Path("old.yaml").write_text("policy: {vectors: {small: {scale: [1.0], bias: [0.0]}}}")
    assert main(["validate", "--records", *pair, "--config", "old.yaml", "--out", "v"]) == 2
    assert "vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--share", 1], 2, "--share: 1 is not a share"),
        (["--share", 0.0001], 2, "that leaves some of the 1,500 samples"),
        (["--method", "platt"], 2, "method"),
        (["--stages", "smal"], 2, "--stages: 'smal' is unknown.*'small'"),
        (["--cost", "usd"], 1, "'small' has no cost 'usd'; it has flops"),
    ],
)
def test_mistakes_are_one_clear_message(capsys, words, code, message):
    assert calibrate(made(), *words) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert re.search(message, said)
    assert not list(Path().glob("c/*"))


def test_the_same_command_writes_the_same_files():
    pair = made(tilt=2.0)
    for out in ("x", "y"):
        assert calibrate(pair, out=out) == 0
    for name in ("calibration.yaml", "summary.json", "calibrate.png"):
        assert Path("x", name).read_bytes() == Path("y", name).read_bytes()
