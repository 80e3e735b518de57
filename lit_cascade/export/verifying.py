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
from lit_cascade.live import Cascade, Inputs

VERIFY_FILE = "verify.json"
RUNNER = Path(__file__).with_name("run_cascade.py")

Arrays = Mapping[str, np.ndarray[Any, Any]]
Answers = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]
Run = Callable[[Arrays, Sequence[tuple[float, float]]], Answers]
"""Prediction, stage and score of arrays at thresholds and floors."""


def runner_in(folder: Path) -> Any:
    """The cascade in a folder, as its own `run_cascade.py` runs it."""
    return runpy.run_path(str(folder / RUNNER.name))["Cascade"](folder)


def stage_files(runner: Any) -> Run:
    """The stages' files, run by the runner at given thresholds and floors."""

    def run(arrays: Arrays, points: Sequence[tuple[float, float]]) -> Answers:
        for facts, (threshold, floor) in zip(runner.policy["stages"], points, strict=False):
            facts["threshold"], facts["floor"] = threshold, floor
        answers: Answers = runner(arrays)
        return answers

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
        points = with_decision_points(rule, scores)
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
        f"verify: the {name} decide {int(wrong.sum())} of {len(wrong)} samples otherwise, {size} "
        f"at a time and deferring {way!r}. Sample {row}: class {p} of stage {k} at score {s:.9g}; "
        f"the cascade says class {q} of stage {j} at {t:.9g}. Nothing was written."
    )


def verify_tokens(runner: Any, texts: Sequence[Any], arrays: Arrays) -> None:
    """Check that the tokenizers' files give the tokens that the stages were given.

    Raises:
        CascadeError: the first text with other tokens.
    """
    found = runner.tokens(texts)
    for name, expected in arrays.items():
        same = found[name].shape == expected.shape
        wrong = (found[name] != expected).any(axis=1) if same else np.ones(1, bool)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise CascadeError(
                f"verify: the tokenizer's file gives other {name} for text {row} than the stage's "
                "tokenizer: it does more than tokenizers alone can do. Nothing was written."
            )
