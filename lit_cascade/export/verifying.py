"""The files of a cascade against the cascade itself, on samples."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError
from lit_cascade.export.policy_file import decision_point, with_decision_points
from lit_cascade.export.whole import LIMITS
from lit_cascade.live import Cascade, Inputs

VERIFY_FILE = "verify.json"
RUNNER = Path(__file__).with_name("run_cascade.py")

Arrays = Mapping[str, np.ndarray[Any, Any]]
Answers = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]
Points = Sequence[tuple[float, float]]
"""Threshold and floor of each deferring stage."""
Run = Callable[[Arrays, Points | None], Answers]
"""Prediction, stage and score of arrays; None are the points in the files."""


def runner_in(folder: Path) -> Any:
    """The cascade in a folder, as its own `run_cascade.py` runs it."""
    return runpy.run_path(str(folder / RUNNER.name))["Cascade"](folder)


def stage_files(runner: Any) -> Run:
    """What runs the stages' files."""
    own = [(one.get("threshold"), one.get("floor")) for one in runner.policy["stages"]]

    def run(arrays: Arrays, points: Points | None) -> Answers:
        stages = runner.policy["stages"]
        for facts, (threshold, floor) in zip(stages, points or own, strict=False):
            facts["threshold"], facts["floor"] = threshold, floor
        answers: Answers = runner(arrays)
        return answers

    return run


def whole_file(path: Path) -> Run:
    """What runs the file of the whole cascade; at other points than its own a copy of it."""
    import onnx  # noqa: PLC0415 - of an extra
    import onnxruntime  # noqa: PLC0415

    opened: dict[Any, Any] = {}

    def run(arrays: Arrays, points: Points | None) -> Answers:
        key = None if points is None else tuple(points)
        if key not in opened:
            model = onnx.load(path)
            columns = zip(LIMITS, zip(*points or (), strict=True), strict=False)
            for name, values in columns:
                own = next(one for one in model.graph.initializer if one.name == name)
                own.CopyFrom(onnx.numpy_helper.from_array(np.array(values, np.float32), name))
            opened[key] = onnxruntime.InferenceSession(model.SerializeToString())
        found = opened[key].run(["prediction", "stage", "score"], dict(arrays))
        return found[0], found[1], found[2]

    return run


def verify(
    stages: Mapping[str, nn.Module],
    policy: Policy,
    inputs: Inputs,
    arrays: Arrays,
    scores: Sequence[Tensor],
    runs: Mapping[str, Run],
) -> dict[str, Any]:
    """Compare the decisions of files with those of `Cascade`.

    `Cascade` answers all samples in one batch. The files answer them one by one, seven at a time,
    and all at once; at the policy's thresholds, at thresholds in the middle of the scores, at such
    that defer nothing, and at such that defer everything.

    Args:
        stages: by name.
        policy: with thresholds.
        inputs: N samples as the stages take them.
        arrays: the same by the names of the files' inputs.
        scores: of each stage on all samples.
        runs: what runs files, by their names.

    Returns:
        Content of verify.json.

    Raises:
        CascadeError: the first sample that is decided otherwise.
    """
    n = len(next(iter(arrays.values())))
    sizes = sorted({1, min(7, n), n})
    middles = tuple(_middle(column) for column in scores[:-1])
    none = (-math.inf,) * len(middles)
    ways = {
        "policy": policy,
        "some": replace(policy, thresholds=middles, floors=()),
        "none": replace(policy, thresholds=none, floors=()),
        "all": replace(policy, thresholds=tuple(-one for one in none), floors=()),
    }
    largest, deferred = 0.0, {}
    for way, rule in ways.items():
        with torch.inference_mode():
            expected = Cascade(stages, rule).eval()(inputs)
        columns = [one.numpy() for one in (expected.prediction, expected.stage, expected.score)]
        deferred[way] = int((columns[1] > 0).sum())
        points = None if rule is policy else with_decision_points(rule, scores)
        for name, run in runs.items():
            for size in sizes:
                parts = [
                    run({key: array[i : i + size] for key, array in arrays.items()}, points)
                    for i in range(0, n, size)
                ]
                found = [np.concatenate(column) for column in zip(*parts, strict=True)]
                wrong = (found[0] != columns[0]) | (found[1] != columns[1])
                if wrong.any():
                    raise CascadeError(_difference(name, size, way, wrong, found, columns))
                gap = np.abs(found[2] - columns[2])
                largest = max(largest, float(gap.max(initial=0.0, where=~np.isnan(gap))))
    nearest = [
        float((column - threshold).abs().min())
        for column, (threshold, _) in zip(
            scores, with_decision_points(policy, scores), strict=False
        )
    ]
    return {
        "samples": n,
        "batch_sizes": sizes,
        "files": list(runs),
        "deferred": deferred,
        "equal_decisions": True,
        "largest_score_difference": largest,
        "nearest_score_to_threshold": dict(zip(stages, nearest, strict=False)),
    }


def _middle(scores: Tensor) -> float:
    """A threshold in the widest gap among the middle third of the scores."""
    ordered = scores[~scores.isnan()].unique()  # sorted
    third = len(ordered) // 3
    part = ordered[third : len(ordered) - third]
    if len(part) < 2:
        return float(ordered[-1]) if len(ordered) else math.inf
    at = int(part.diff().argmax())
    return decision_point(float(part[at : at + 2].double().mean()), scores)


def _difference(
    name: str, size: int, way: str, wrong: Any, found: Sequence[Any], expected: Sequence[Any]
) -> str:
    row = int(np.flatnonzero(wrong)[0])
    (p, k, s), (q, j, t) = ([column[row] for column in one] for one in (found, expected))
    return (
        f"verify: {name}: {int(wrong.sum())} of {len(wrong)} samples decided otherwise, {size} "
        f"at a time and deferring {way!r}. Sample {row}: class {p} of stage {k} at score {s:.9g}; "
        f"the cascade says class {q} of stage {j} at {t:.9g}. Nothing was written."
    )


def verify_arrays(runner: Any, samples: Sequence[Any], arrays: Arrays) -> None:
    """Check that the files make the arrays that the stages were given.

    Args:
        runner: of the files.
        samples: texts, pairs of them, or images (height, width, channels) of bytes.
        arrays: what the stages were given, by the names of the files' inputs.

    Raises:
        CascadeError: the first sample of which they make something else.
    """
    found = runner.arrays(samples)
    for name, expected in arrays.items():
        same = found[name].shape == expected.shape
        wrong = found[name] != expected if same else np.ones(1, bool)
        if wrong.any():
            row = int(np.argwhere(wrong)[0, 0]) if same else 0
            raise CascadeError(
                f"verify: of sample {row} the files make another {name!r} than the stage's own "
                "preprocessing. Nothing was written."
            )
