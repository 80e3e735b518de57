"""Every score, combination and form of a policy, in files of the stages and in one file."""

import runpy

import numpy as np
import pytest
import torch
from torch import nn

from lit_cascade import Policy, UsageError
from lit_cascade.core import DeferralHead, LogOdds
from lit_cascade.export import export_cascade
from lit_cascade.export.policy_file import NEAR, decision_point
from lit_cascade.live import Cascade
from tests.export.conftest import same

N = 60


def nets(k, classes=5):
    """Linear layers, the later the surer; some of their answers agree."""
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn(classes, 4, generator=generator)
    for stage in range(k):
        net = nn.Linear(4, classes)
        with torch.no_grad():
            net.weight.copy_((stage + 1) * shared + torch.randn(classes, 4, generator=generator))
            net.bias.zero_()
        yield net


HEAD = DeferralHead(LogOdds(1.0, (-2.0, 0.0, 0.0, 0.0, 0.0)))
INPUTS = torch.randn(N, 4, generator=torch.Generator().manual_seed(5))

POLICIES = {
    "margin": Policy(0.3, "margin", (1.7, 0.8)),
    "entropy": Policy((-0.7, -0.4), "negative_entropy", (1.0, 2.0, 1.5)),
    "agreement": Policy((0.9, 1.1, 1.3), "agreement", (1.0, 2.0, 1.0, 1.0)),
    "window": Policy((0.8, 0.7), floors=(0.4, 0.5)),
    "average": Policy((0.6, 0.8), temperatures=(2.0, 1.0, 1.5), combine="average"),
    "norm": Policy((0.7, 0.9), "max_logit_pnorm", norms=(3.0, "max_softmax"), combine="average"),
    "agreement and average": Policy((0.9, 1.1), "agreement", combine="average"),
    "never": Policy((-np.inf, 0.5)),
    "always": Policy((np.inf, 0.5)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_files_decide_as_the_cascade(name, tmp_path):
    """The export itself verifies; here the numbers are compared apart from it."""
    import onnxruntime

    policy = POLICIES[name]
    stages = list(nets(policy.stages))
    done = export_cascade(stages, policy, INPUTS, tmp_path / "out", one_file=True)
    with torch.inference_mode():
        expected = Cascade(stages, policy)(INPUTS)
    tables = expected.logits
    if policy.combine == "average":
        each = [
            (net(INPUTS) / temperature).softmax(dim=1).detach()
            for net, temperature in zip(stages, policy.temperatures, strict=True)
        ]
        tables = torch.stack(
            [torch.stack(each[: k + 1]).mean(0)[i] for i, k in enumerate(expected.stage.tolist())]
        )
    if name not in {"never", "always"}:
        assert len(set(expected.stage.tolist())) == policy.stages  # every stage answers some
    runner = runpy.run_path(str(tmp_path / "out/run_cascade.py"))["Cascade"](tmp_path / "out")
    whole = onnxruntime.InferenceSession(tmp_path / "out/cascade.onnx")
    for size in (1, 13, N):
        for start in range(0, N, size):
            rows = slice(start, start + size)
            part = type(expected)(*(column[rows] for column in expected))
            feeds = {"input": INPUTS[rows].numpy()}
            found = runner(feeds)
            assert same(found, part)
            np.testing.assert_allclose(found[2], part.score, rtol=0, atol=2e-6)
            table, score, prediction, stage = whole.run(None, feeds)
            assert same((prediction, stage), part)
            np.testing.assert_allclose(score, part.score, rtol=0, atol=2e-6)
            np.testing.assert_allclose(table, tables[rows], rtol=1e-5, atol=1e-5)
    assert done.verification["files"] == ["files of the stages", "cascade.onnx"]
    assert [len(one) for one in whole.run(None, {"input": INPUTS[:0].numpy()})] == [0] * 4


def test_nan_is_deferred(tmp_path):
    stages = list(nets(2))
    export_cascade(stages, 0.0, INPUTS, tmp_path / "out", one_file=True)
    runner = runpy.run_path(str(tmp_path / "out/run_cascade.py"))["Cascade"](tmp_path / "out")
    inputs = INPUTS[:2].clone()
    inputs[1] = torch.nan
    assert runner({"input": inputs.numpy()})[1].tolist() == [0, 1]


def oracle(threshold, scores):
    """Slow and obvious: the neighbours, at most NEAR away, and the float32 between."""
    at = float(np.float32(threshold))
    below = [score for score in scores if score < at and at - score < NEAR]
    above = [score for score in scores if score >= at and score - at < NEAR]
    middle = ((max(below) if below else at - NEAR) + (min(above) if above else at + NEAR)) / 2
    return float(np.float32(middle))


def test_decision_points_decide_like_the_threshold_and_stay_near():
    generator = torch.Generator().manual_seed(1)
    for spread in (1e-7, 1e-5, 1e-3, 1.0):
        scores = 0.8 + spread * torch.rand(200, generator=generator)
        scores[:3] = scores[3]  # ties
        for threshold in (*scores[:40].tolist(), 0.8, float(scores.max()), 0.9):
            point = decision_point(threshold, scores)
            assert torch.equal(scores >= point, scores >= threshold)
            assert abs(point - np.float32(threshold)) <= NEAR / 2 + 1e-7
            assert point == np.float32(point)
            if spread > 1e-4:  # else scores may be neighbours in float32
                assert point == oracle(threshold, scores.tolist())
    nothing = torch.empty(0)
    assert decision_point(0.9, nothing) == np.float32(0.9)
    for sign in (-1, 1):
        assert decision_point(sign * np.inf, nothing) == sign * np.finfo(np.float32).max
    assert decision_point(0.5, torch.tensor([torch.nan, 0.5])) == np.float32(0.5 - NEAR / 2)


def test_a_threshold_at_a_score_is_moved_between_scores(tmp_path):
    stages = list(nets(2))
    with torch.inference_mode():
        scores = stages[0](INPUTS).softmax(dim=1).amax(dim=1)
    threshold = float(scores[7])
    done = export_cascade(stages, threshold, INPUTS, tmp_path / "out")
    (first, _) = done.policy["stages"]
    assert first["chosen_threshold"] == threshold
    assert threshold - NEAR < first["threshold"] < threshold
    unverified = export_cascade(stages, threshold, INPUTS, tmp_path / "other", verified=False)
    assert unverified.policy["stages"][0]["threshold"] == threshold
    assert "verify.json" not in unverified.files


def test_what_cannot_be_exported_is_named(tmp_path):
    stages = list(nets(2))
    cases = {
        "most_confident": (Policy(0.5, combine="most_confident"), "policy.combine: most_conf"),
        "learned": (Policy(0.0, "learned", heads=[HEAD]), "policy.score: learned cannot be exp"),
        "recorded": (Policy(0.5, "recorded"), "policy.score: recorded cannot be exported: it is"),
        "undecided": (Policy(stages=2), "policy.thresholds: running a cascade needs"),
    }
    for policy, message in cases.values():
        with pytest.raises(UsageError, match=message):
            export_cascade(stages, policy, INPUTS, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
