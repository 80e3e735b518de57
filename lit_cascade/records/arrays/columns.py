"""What a user gives per sample or per class, beside the logits: labels, costs, ids, names."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.arrays.files import Column, read_column, read_names

__all__ = ["classes_from", "correct_from", "costs_from", "ids_from", "labels_from", "score_from"]

_WORDS = {"0": 0, "1": 1, "false": 0, "true": 1}


def labels_from(text: str, classes: Sequence[str] | None, n: int) -> Tensor:
    """True classes, by number or by name.

    Args:
        text: `FILE`, `FILE:NAME` or `FILE:COLUMN`.
        classes: names in logit order, if they are known.
        n: number of samples.

    Returns:
        Shape (N,) of integers, or of what the file holds otherwise.

    Raises:
        UsageError: as for `logits_from`; names without classes to look them up in.
        CascadeError: a name that is no class; another number of labels than of samples.
    """
    labels = read_column(text, "--labels")
    _check_length(labels, n, "--labels")
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


def correct_from(text: str, n: int) -> Tensor:
    """Whether answers are right: 0 and 1, or true and false.

    Raises:
        UsageError: as for `logits_from`.
        CascadeError: other values, or another number of them than of samples.
    """
    right = read_column(text, "--correct")
    _check_length(right, n, "--correct")
    if isinstance(right, tuple):
        words = [word.lower() for word in right]
        other = [word for word, low in zip(right, words, strict=True) if low not in _WORDS]
        right = torch.tensor([_WORDS.get(word, -1) for word in words])
    else:
        other = right[(right != 0) & (right != 1)].tolist()
    if other:
        raise CascadeError(f"--correct: expected 0 and 1, or true and false, got {other[0]!r}.")
    return right


def costs_from(flops: str | None, others: Sequence[str] | None, n: int) -> dict[str, Any]:
    """Costs per sample, by unit.

    Args:
        flops: a number, or `FILE`.
        others: `UNIT=NUMBER` or `UNIT=FILE`.
        n: number of samples.

    Raises:
        UsageError: none, one unit twice, or neither a number nor a file.
        CascadeError: another number of costs than of samples.
    """
    given = [] if flops is None else [("flops", flops, "--flops")]
    for text in others or ():
        unit, equals, value = text.partition("=")
        if not equals or not unit or not value:
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
        costs[unit] = _cost(value, argument, n)
    return costs


def _cost(value: str, argument: str, n: int) -> Any:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        cost = read_column(value, argument)
    except UsageError as error:
        raise UsageError(f"{error} It is no number either, such as 8.11e7.") from error
    _check_length(cost, n, argument)
    return _numbers(cost, argument)


def _numbers(column: Column, argument: str) -> Tensor:
    if isinstance(column, tuple):
        raise CascadeError(f"{argument}: expected numbers, got {column[0]!r}.")
    return column


def score_from(text: str) -> Tensor:
    """How sure a model is, one number per sample.

    Raises:
        UsageError: as for `logits_from`.
        CascadeError: text.
    """
    return _numbers(read_column(text, "--score"), "--score")


def ids_from(text: str, n: int) -> Any:
    """What tells samples apart: whole numbers or strings.

    Raises:
        UsageError: as for `logits_from`.
        CascadeError: another number of ids than of samples, or one twice.
    """
    ids = read_column(text, "--ids")
    _check_length(ids, n, "--ids")
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    value, times = Counter(listed).most_common(1)[0]
    if times > 1:
        raise CascadeError(f"--ids: {value!r} occurs {times} times; ids tell samples apart.")
    return ids


def classes_from(text: str, width: int | None) -> tuple[str, ...]:
    """Class names in logit order.

    Args:
        text: `FILE` with one name per line, or a column.
        width: number of classes, if it is known.

    Raises:
        UsageError: as for `logits_from`.
        CascadeError: another number of names, or one twice.
    """
    classes = read_names(text, "--classes")
    if width is not None and len(classes) != width:
        raise CascadeError(
            f"--classes: {len(classes)} names for logits of {width} classes; expected one each."
        )
    name, times = Counter(classes).most_common(1)[0]
    if times > 1:
        raise CascadeError(f"--classes: {name!r} occurs {times} times; names tell classes apart.")
    return classes


def _check_length(column: Column, n: int, argument: str) -> None:
    """Check that a column has one value for each of `n` samples.

    Raises:
        CascadeError: it has not.
    """
    if len(column) != n:
        raise CascadeError(f"{argument}: {len(column)} values for {n} samples; expected one each.")
