"""The digits pair as files: the same 450 answers without torch, and what the files say."""

import hashlib
import json
import runpy

import numpy as np
import pytest
import torch

from lit_cascade.export import export_cascade
from tests.cli.runs import done, within
from tests.export.conftest import same, without_torch


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    words = ("--config", "digits_pair.yaml", "--out", "exported", "--verify", "450")
    return folder / "exported", done(within("export", *words, cwd=folder))


def test_the_runner_without_torch_gives_the_450_answers_of_the_cascade(exported, digits, tmp_path):
    _, _, images, answers = digits
    np.savez(tmp_path / "inputs.npz", input=images.numpy())
    lines = without_torch(exported[0] / "run_cascade.py", tmp_path / "inputs.npz").splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["prediction"] for one in found] == answers.prediction.tolist()
    names = ("small", "large")
    assert [one["stage"] for one in found] == [names[k] for k in answers.stage.tolist()]
    assert [one["class"] for one in found] == [str(k) for k in answers.prediction.tolist()]
    scores = torch.tensor([one["score"] for one in found])
    torch.testing.assert_close(scores, answers.score, rtol=0, atol=5e-6)


def test_the_command_says_what_it_verified(exported):
    folder, run = exported
    found = json.loads((folder / "verify.json").read_text())
    assert found["samples"] == 450
    assert found["batch_sizes"] == [1, 7, 450]
    deferred = found["deferred"]
    assert deferred["none"] == 0 < deferred["policy"] < deferred["some"] < deferred["all"] == 450
    assert 0 < found["largest_score_difference"] < 5e-6
    assert found["nearest_score_to_threshold"]["small"] > 1e-4
    assert "450 samples in batches of 1, 7, 450: all decisions are equal." in " ".join(
        run.stdout.split()
    )


def test_the_policy_file_has_numbers_and_hashes(exported, digits):
    folder, _ = exported
    policy = json.loads((folder / "policy.json").read_text())
    assert policy["format"] == "lit-cascade/1"
    assert policy["classes"] == [str(k) for k in range(10)]
    small, large = policy["stages"]
    assert np.float32(small["threshold"]) == small["threshold"] == np.float32(0.92)
    assert small["chosen_threshold"] == 0.92
    assert (small["flops"], large["flops"]) == (18944, 1826816)
    assert small["inputs"] == [
        {"name": "input", "dtype": "float32", "shape": [None, 1, 8, 8], "range": [0.0, 16.0]}
    ]
    assert "threshold" not in large
    assert policy["fingerprint"] == digits[1].fingerprint
    names = {path.name for path in folder.iterdir()}
    assert set(policy["sha256"]) == names - {"policy.json", "verify.json", "README.md"}
    for name, digest in policy["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_files_hold_no_paths_and_any_number_of_samples(exported):
    import onnx

    for path in exported[0].glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert b".py" not in path.read_bytes()
        (given,) = model.graph.input
        assert given.type.tensor_type.shape.dim[0].dim_param == "n"
        assert [one.name for one in model.graph.output] == ["logits", "score", "prediction"]
        for one in model.graph.output:
            assert one.type.tensor_type.shape.dim[0].dim_param == "n"


def test_it_replaces_older_files_only_when_asked(exported, digits):
    folder, _ = exported
    before = {path: path.read_bytes() for path in folder.iterdir()}
    words = ("--config", "digits_pair.yaml", "--out", str(folder))
    refused = within("export", *words, cwd=folder.parent)
    assert refused.returncode == 2
    assert "already holds" in refused.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    stages, policy, images, _ = digits
    with pytest.raises(Exception, match="already holds"):
        export_cascade(stages, policy, images, folder)


def test_one_sample_and_no_samples(exported, digits):
    _, _, images, answers = digits
    cascade = runpy.run_path(str(exported[0] / "run_cascade.py"))["Cascade"](exported[0])
    assert same(cascade({"input": images[:1].numpy()}), type(answers)(*(a[:1] for a in answers)))
    assert [len(column) for column in cascade({"input": images[:0].numpy()})] == [0, 0, 0]
