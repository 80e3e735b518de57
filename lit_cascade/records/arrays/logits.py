"""Logits of other frameworks, or probabilities as logits: never guessed which, and checked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.records.arrays.files import read_matrix

__all__ = ["LOG_FLOOR", "logits_from", "probabilities_from"]

LOG_FLOOR = float(torch.finfo(torch.float32).tiny)
"""What a probability of 0 becomes before its logarithm is taken, -87.3: a logit is finite."""

_TOLERANCE = 1e-2
"""How far from 1 a row of probabilities may sum: three printed decimals of ten classes do."""


def logits_from(text: str) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Logits as a user names them.

    Args:
        text: `FILE` or `FILE:NAME`.

    Returns:
        Logits (N, C) of any floating point or integer type, the names of their columns if the file
        has any, and notes for the user.

    Raises:
        UsageError: no such file, or it is not clear what in it is meant.
        CascadeError: it cannot be read, or holds NaN or infinite numbers.
    """
    logits, names = read_matrix(text, "--logits")
    _check_finite(logits, "--logits")
    notes = []
    if _wrong_probability(logits) is None:
        notes.append(
            "Note: every row of --logits is from 0 to 1 and sums to 1, as probabilities do. They "
            "are taken as logits; if they are probabilities, give them as --probabilities."
        )
    return logits, names, notes


def probabilities_from(text: str) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Class probabilities as logits: their logarithms, which softmax turns back into them.

    Args:
        text: `FILE` or `FILE:NAME`.

    Returns:
        Logits (N, C) float32, the names of their columns if the file has any, and notes.

    Raises:
        UsageError: as for `logits_from`.
        CascadeError: as for `logits_from`; numbers outside [0, 1], or rows that do not sum to 1.
    """
    probabilities, names = read_matrix(text, "--probabilities")
    _check_finite(probabilities, "--probabilities")
    wrong = _wrong_probability(probabilities)
    if wrong is not None:
        raise CascadeError(f"--probabilities: {wrong}. If these are logits, give them as --logits.")
    floored = int((probabilities < LOG_FLOOR).sum())
    notes = []
    if floored:
        notes.append(
            f"Note: {floored:,} probabilities are 0; their logarithm is taken as "
            f"{math.log(LOG_FLOOR):.1f}."
        )
    return probabilities.double().clamp_min(LOG_FLOOR).log().float(), names, notes


def _check_finite(numbers: Tensor, argument: str) -> None:
    bad = (~numbers.isfinite()).any(dim=1).nonzero()
    if not len(bad) and numbers.dtype == torch.float64:
        bad = (~numbers.float().isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise CascadeError(
            f"{argument}: numbers that are NaN, infinite or too large for float32 in {len(bad)} of "
            f"{len(numbers)} rows, first in row {int(bad[0, 0])}."
        )


def _wrong_probability(numbers: Tensor) -> str | None:
    """Why rows are no probabilities, or None if they are."""
    outside = ((numbers < 0) | (numbers > 1 + 1e-6)).nonzero()
    if len(outside):
        row, column = outside[0].tolist()
        return (
            f"expected numbers from 0 to 1, got {float(numbers[row, column]):.6g} in row {row}, "
            f"column {column}"
        )
    sums = numbers.double().sum(dim=1)
    off = ((sums - 1).abs() > _TOLERANCE).nonzero()
    if len(off):
        row = int(off[0, 0])
        return f"expected rows that sum to 1, got {float(sums[row]):.6g} in row {row}"
    return None
