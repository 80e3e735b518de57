"""Parts of a record as `lit-cascade import` takes them: `FILE`, `FILE:NAME` or `FILE:COLUMN`.

All functions raise `UsageError` if there is no such file or it is ambiguous what in it is meant,
and `CascadeError` if it cannot be read or holds something else than expected.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.arrays.files import Column, read_column, read_matrix, read_names

__all__ = [
    "classes_from",
    "correct_from",
    "costs_from",
    "ids_from",
    "labels_from",
    "logits_from",
    "probabilities_from",
    "score_from",
]

_LOG_FLOOR = float(torch.finfo(torch.float32).tiny)
"""Lower bound of probabilities before the logarithm, which is then at least -87.3."""

_TOLERANCE = 1e-2
"""Largest deviation from 1 of a row of probabilities; allows for three decimals of ten classes."""

_TRUTH = {"0": 0, "1": 1, "false": 0, "true": 1}


def logits_from(text: str) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Logits of any real type.

    Returns:
        Logits (N, C), the names of their columns if the file has any, and notes for the user.

    Raises:
        CascadeError: NaN, or numbers beyond float32.
    """
    logits, names = read_matrix(text, "--logits")
    _check_finite(logits, "--logits")
    notes = []
    if _improbable(logits) is None:
        notes.append(
            "Note: every row of --logits is from 0 to 1 and sums to 1, as probabilities do. They "
            "are taken as logits; if they are probabilities, give them as --probabilities."
        )
    return logits, names, notes


def probabilities_from(text: str) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Class probabilities as logits: their logarithms, whose softmax they are.

    Returns:
        Logits (N, C) float32, the names of their columns if the file has any, and notes.

    Raises:
        CascadeError: numbers outside [0, 1], or rows that do not sum to 1.
    """
    probabilities, names = read_matrix(text, "--probabilities")
    _check_finite(probabilities, "--probabilities")
    reason = _improbable(probabilities)
    if reason is not None:
        raise CascadeError(
            f"--probabilities: {reason}. If these are logits, give them as --logits."
        )
    zeros = int((probabilities < _LOG_FLOOR).sum())
    notes = []
    if zeros:
        notes.append(
            f"Note: {zeros:,} probabilities are 0; their logarithm is taken as "
            f"{math.log(_LOG_FLOOR):.1f}."
        )
    return probabilities.double().clamp_min(_LOG_FLOOR).log().float(), names, notes


def _check_finite(numbers: Tensor, argument: str) -> None:
    rows = (~numbers.float().isfinite()).any(dim=1).nonzero()
    if len(rows):
        raise CascadeError(
            f"{argument}: numbers that are NaN, infinite or too large for float32 in {len(rows)} "
            f"of {len(numbers)} rows, first in row {int(rows[0, 0])}."
        )


def _improbable(numbers: Tensor) -> str | None:
    """Why rows cannot be probabilities; None if they can."""
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


def labels_from(text: str, classes: Sequence[str] | None, n: int) -> Tensor:
    """True classes (N,), from numbers or from names of classes.

    Args:
        text: file of numbers or names.
        classes: names in logit order, if known.
        n: number of samples.

    Raises:
        UsageError: names, but no `classes`.
        CascadeError: an unknown name, booleans, or another number of labels than of samples.
    """
    labels = _column(text, "--labels", n)
    if isinstance(labels, Tensor):
        if labels.dtype == torch.bool:
            raise CascadeError(
                "--labels: expected whole numbers or names of classes, got true and false; whether "
                "answers are right is --correct."
            )
        return labels
    if not classes:
        raise UsageError(
            f"--labels: they are names, such as {labels[0]!r}; give --classes, one name per line "
            "in the order of the logits."
        )
    number = {name: position for position, name in enumerate(classes)}
    for row, name in enumerate(labels):
        if name not in number:
            alike = difflib.get_close_matches(name, number, n=1)
            some = ", ".join(list(number)[:5]) + (", ..." if len(number) > 5 else "")
            raise CascadeError(
                f"--labels: {name!r} in row {row} is none of the {len(number)} classes ({some})."
                + (f" Did you mean {alike[0]!r}?" if alike else "")
            )
    return torch.tensor([number[name] for name in labels])


def score_from(text: str) -> Tensor:
    """Confidence of a model, (N,), larger is surer."""
    return _numbers(read_column(text, "--score"), "--score")


def correct_from(text: str, n: int) -> Tensor:
    """Correctness of answers, (N,), from 0 and 1 or from true and false.

    Raises:
        CascadeError: other values, or another number of them than of samples.
    """
    correct = _column(text, "--correct", n)
    if isinstance(correct, tuple):
        other: list[Any] = [word for word in correct if word.lower() not in _TRUTH]
        correct = torch.tensor([_TRUTH.get(word.lower(), -1) for word in correct])
    else:
        other = correct[(correct != 0) & (correct != 1)].tolist()
    if other:
        raise CascadeError(f"--correct: expected 0 and 1, or true and false, got {other[0]!r}.")
    return correct


def costs_from(flops: str | None, others: Sequence[str] | None, n: int) -> dict[str, Any]:
    """Costs per sample, by unit: one number, or a tensor (N,).

    Args:
        flops: a number or a file.
        others: `UNIT=NUMBER` or `UNIT=FILE`.
        n: number of samples.

    Raises:
        UsageError: no cost, one unit twice, or neither a number nor a file.
        CascadeError: another number of costs than of samples.
    """
    given = [] if flops is None else [("flops", flops, "--flops")]
    for text in others or ():
        unit, _, value = text.partition("=")
        if not unit or not value:
            raise UsageError(
                f"--cost: expected NAME=NUMBER or NAME=FILE, such as usd=0.002, got {text!r}."
            )
        given.append((unit, value, f"--cost {unit}"))
    if not given:
        raise UsageError(
            "--flops: a record needs the cost of a sample: FLOPs (one multiply-add is 2) as a "
            "number such as 8.11e7 or as a file, or --cost NAME=NUMBER in another unit."
        )
    costs: dict[str, Any] = {}
    for unit, value, argument in given:
        if unit in costs:
            raise UsageError(f"{argument}: the cost {unit!r} is given twice.")
        try:
            costs[unit] = float(value)
        except ValueError:
            costs[unit] = _cost_column(value, argument, n)
    return costs


def _cost_column(text: str, argument: str, n: int) -> Tensor:
    try:
        return _numbers(_column(text, argument, n), argument)
    except UsageError as error:
        raise UsageError(f"{error} It is no number either, such as 8.11e7.") from error


def ids_from(text: str, n: int) -> Column:
    """Ids of the samples, (N,) numbers or strings.

    Raises:
        CascadeError: another number of ids than of samples, or repeated ids.
    """
    ids = _column(text, "--ids", n)
    values = ids.tolist() if isinstance(ids, Tensor) else ids
    _check_distinct(values, "--ids: {} occurs {} times; ids tell samples apart.")
    return ids


def classes_from(text: str, width: int | None) -> tuple[str, ...]:
    """Class names in logit order.

    Args:
        text: file with one name per line, or a column.
        width: number of classes, if known.

    Raises:
        CascadeError: another number of names, or repeated names.
    """
    classes = read_names(text, "--classes")
    if width is not None and len(classes) != width:
        raise CascadeError(
            f"--classes: {len(classes)} names for logits of {width} classes; expected one each."
        )
    _check_distinct(classes, "--classes: {} occurs {} times; names tell classes apart.")
    return classes


def _column(text: str, argument: str, n: int) -> Column:
    column = read_column(text, argument)
    if len(column) != n:
        raise CascadeError(f"{argument}: {len(column)} values for {n} samples; expected one each.")
    return column


def _numbers(column: Column, argument: str) -> Tensor:
    if isinstance(column, tuple):
        raise CascadeError(f"{argument}: expected numbers, got {column[0]!r}.")
    return column


def _check_distinct(values: Sequence[Any], message: str) -> None:
    value, times = Counter(values).most_common(1)[0]
    if times > 1:
        raise CascadeError(message.format(repr(value), times))
