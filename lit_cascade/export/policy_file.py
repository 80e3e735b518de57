"""`policy.json`: all that a program needs beside the stages' files to run the cascade."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import Preprocessing
from lit_cascade.models import ImagePreprocessing, TextPreprocessing
from lit_cascade.utilities.text import in_markdown

POLICY_FILE = "policy.json"
FORMAT = "lit-cascade/1"
NEAR = 1e-4
"""How far a decision point may lie from a score beside it: 100 times what engines differ by."""
_MOST = float(np.finfo(np.float32).max)
"""Stands for infinity, which JSON has no number for."""

_TOKENS = {
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
    "special_tokens_mask": "special_tokens_mask",
}
"""Attributes of an encoding of tokenizers, by the names that models have for them."""

_NOT_EXPORTED = {
    "score": {
        "learned": "its gain of going on is estimated by a table of classes and earlier answers, "
        "which the runner does not have; use max_softmax",
        "recorded": "it is what a record holds, and no function of the stages' outputs",
    },
    "combine": {
        "most_confident": "the runner keeps no answers of earlier stages to come back to; "
        "use later or average",
    },
}


def check_exportable(policy: Policy) -> None:
    """Check that files can make the decisions of a policy.

    Raises:
        UsageError: undecided thresholds, or a score or combination that is not exported.
    """
    policy.required_thresholds(policy.names)
    for part, value in (("score", policy.score), ("combine", policy.combine)):
        if value in _NOT_EXPORTED[part]:
            raise UsageError(
                f"policy.{part}: {value} cannot be exported: {_NOT_EXPORTED[part][value]}."
            )


def decision_point(threshold: float, scores: Tensor) -> float:
    """The float32 that decides like a threshold, also where scores differ in their last bits.

    It lies halfway between the largest score below the threshold and the smallest one from it on,
    where these are nearer than `NEAR`; so no score is moved to the other side, and the point stays
    within half of `NEAR` of the threshold. Without scores nearby it is the threshold.

    Args:
        threshold: of a policy, or a floor.
        scores: of some samples, (N,) float32.

    Examples:
        >>> import torch
        >>> decision_point(0.5, torch.tensor([0.25, 0.75]))
        0.5
        >>> decision_point(0.5, torch.tensor([0.49998, 0.5]))
        0.499989...
    """
    if math.isinf(threshold):
        return math.copysign(_MOST, threshold)
    at = float(np.float32(threshold))
    is_below = scores < at
    low = max([at - NEAR, *scores[is_below].tolist()])
    high = min([at + NEAR, *scores[~is_below & ~scores.isnan()].tolist()])
    middle = float(np.float32((low + high) / 2))
    return middle if middle > low else high


def with_decision_points(policy: Policy, scores: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Decision points of threshold and floor of each deferring stage, from scores of all stages."""
    thresholds = policy.required_thresholds()
    return [
        (decision_point(threshold, column), decision_point(floor, column))
        for threshold, floor, column in zip(thresholds, policy.floors, scores, strict=False)
    ]


def steps_of(preprocessing: Preprocessing | None, file: str) -> dict[str, Any]:
    """Preprocessing in words and numbers.

    Args:
        preprocessing: of a stage.
        file: of the tokenizer, or that resizes images; empty if there is none.
    """
    if preprocessing is None:
        return {"kind": "none", "words": "None: the stage takes the data's arrays as they are."}
    if isinstance(preprocessing, TextPreprocessing):
        limit = preprocessing.max_length
        cut = (
            "" if limit is None else f", cut to {limit:,} of them, the longer text of a pair first"
        )
        return {
            "kind": "text",
            "words": f"Tokens of a text or of a pair of texts{cut}, padded to the longest of a "
            "batch: what the tokenizer's file says.",
            "tokenizer": file,
            "max_length": limit,
        }
    if isinstance(preprocessing, ImagePreprocessing):
        return _steps_of_image(preprocessing) | ({"file": file} if file else {})
    kind = type(preprocessing)
    return {"kind": "other", "words": f"{kind.__module__}.{kind.__qualname__}, in Python."}


def _steps_of_image(image: ImagePreprocessing) -> dict[str, Any]:
    channels, height, width = image.input_size
    scaled = [math.floor(size / image.crop_pct) for size in (height, width)]  # as timm rounds
    size = f"{height} x {width}"
    resize, crop = {
        "squash": (f"Resize to {scaled[0]} x {scaled[1]}", f"crop the centre to {size}"),
        "border": (
            f"Resize so that the longer side fits into {scaled[0]} x {scaled[1]}",
            f"crop or pad around the centre to {size}",
        ),
    }.get(
        image.crop_mode,
        (
            f"Resize so that the image just covers {scaled[0]} x {scaled[1]}",
            f"crop the centre to {size}",
        ),
    )
    colours = "grey" if channels == 1 else "RGB"
    return {
        "kind": "image",
        "words": f"{resize} ({image.interpolation}, antialiased as Pillow does), {crop}; {colours} "
        f"bytes 0 to 255 of shape ({channels}, {height}, {width}). Normalisation is in the file.",
        "channels": channels,
        "height": height,
        "width": width,
        "resize": scaled,
        "interpolation": image.interpolation,
        "crop_pct": image.crop_pct,
        "crop_mode": image.crop_mode,
        "fill": image.fill,
    }


def tokenizer_json(preprocessing: TextPreprocessing) -> str:
    """The file of a tokenizer, with limit and padding, which tokenizers reads without transformers.

    Raises:
        CascadeError: a tokenizer that is written in Python.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - not for images

    own = preprocessing.tokenizer
    fast = getattr(own, "backend_tokenizer", None)
    if fast is None:
        raise CascadeError(
            f"the tokenizer of {preprocessing.name!r}, {type(own).__name__}, is written in Python: "
            "the library tokenizers has no file of it. Choose one whose name ends in Fast."
        )
    tokenizer = Tokenizer.from_str(fast.to_str())
    tokenizer.no_truncation()
    if preprocessing.max_length is not None:
        tokenizer.enable_truncation(preprocessing.max_length, direction=own.truncation_side)
    tokenizer.enable_padding(
        direction=own.padding_side,
        pad_id=own.pad_token_id,
        pad_type_id=own.pad_token_type_id,
        pad_token=own.pad_token,
    )
    return str(tokenizer.to_str())


def tokens_of(argument: str, name: str) -> str:
    """What tokenizers calls an input of a model.

    Args:
        argument: of the model.
        name: of the stage, for the message.

    Raises:
        CascadeError: an input that it does not give.
    """
    if argument not in _TOKENS:
        raise CascadeError(
            f"stage {name!r} takes {argument!r}, which the library tokenizers does not give; it "
            f"gives {', '.join(_TOKENS)}."
        )
    return _TOKENS[argument]


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files, by name."""
    found = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def evidence_of(policy: Policy) -> dict[str, Any] | None:
    """Hash of a policy's evidence, and what it promises; None without evidence."""
    if not policy.evidence:
        return None
    text = json.dumps(policy.evidence, sort_keys=True, default=str)
    promise = policy.evidence.get("promise")
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        **({"promise": promise} if isinstance(promise, Mapping) else {}),
    }


_README = """\
# A cascade of classifiers

Each stage answers the samples of which its score ({score}) reaches its threshold; the others go on
to the next stage.

| stage | file | FLOPs per sample | threshold |
| --- | --- | --- | --- |
{stages}

Inputs, samples along the first axis:

{inputs}

`run_cascade.py` needs numpy and onnxruntime; texts also need tokenizers.

    from run_cascade import Cascade
    prediction, stage, score = Cascade()(inputs)  # arrays by name; texts: Cascade().raw(texts)

`policy.json` holds all numbers, names of classes, and hashes of the files. Scores are compared with
thresholds in float32. `verify.json`, if it is here, says on how many samples these files decided
the same as the cascade that they were made from.
"""


def readme(policy: Mapping[str, Any]) -> str:
    """README.md of the folder, from the content of policy.json."""
    stages: list[str] = []
    inputs: dict[str, None] = {}
    for one in policy["stages"]:
        threshold = one.get("chosen_threshold", "always answers")
        name = in_markdown(one["name"])
        stages.append(f"| {name} | `{one['file']}` | {one['flops']:,} | {threshold} |")
        for array in one["inputs"]:
            sizes = " x ".join("any" if size is None else str(size) for size in array["shape"])
            words = one["preprocessing"]["words"]
            inputs[f"- `{array['name']}`, {array['dtype']}, {sizes}. {words}"] = None
    return _README.format(score=policy["score"], stages="\n".join(stages), inputs="\n".join(inputs))
