"""A labelled set of samples: what tells them apart, and what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, check_labels

__all__ = ["Ids", "Samples", "as_ids", "ids_from_tensors", "ids_to_tensors", "whole_numbers"]

Ids = Tensor | tuple[str, ...]
"""What tells N samples apart: distinct integers (N,) int64, or as many distinct strings."""


@dataclass(frozen=True)
class Samples:
    """A labelled set of samples.

    Attributes:
        ids: of the N samples.
        labels: shape (N,) int64, or (N, M) where several are right, filled up with -1; None where
            only right and wrong answers are known.
        classes: names in label order; none if they are unknown.
    """

    ids: Ids
    labels: Tensor | None
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any id, label or class name."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        if isinstance(self.ids, Tensor):
            digest.update(self.ids.numpy().tobytes())
        else:
            digest.update(json.dumps(self.ids).encode())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, n: int, classes: int | None, what: str) -> None:
        """Check that these are `n` samples of `classes` classes, or of any number if it is None.

        Raises:
            CascadeError: labels out of range, ids or class names that repeat or are too few.
        """
        named = all(isinstance(name, str) for name in self.classes)
        classes = len(self.classes) if classes is None else classes
        if self.labels is not None:
            check_labels(self.labels, n, classes, what)
        if not named or not len(self.classes) == len(set(self.classes)) == classes:
            raise CascadeError(
                f"{what}: {classes} logits per sample need as many distinct class names, "
                f"got {len(self.classes)}."
            )
        ids = self.ids
        if isinstance(ids, Tensor) and (ids.dtype != torch.int64 or ids.ndim != 1):
            raise CascadeError(
                f"{what}: ids must be whole numbers or strings, one per sample, "
                f"got {ids.dtype} of shape {tuple(ids.shape)}."
            )
        distinct = len(ids.unique()) if isinstance(ids, Tensor) else len(set(ids))
        if len(ids) != n or distinct != n:
            raise CascadeError(
                f"{what}: {n} samples need as many distinct ids, got {len(ids)} "
                f"with {distinct} distinct."
            )

    def difference(self, other: Samples) -> str | None:
        """The first difference from another set in class order, ids or labels, or None.

        Example:
            >>> one = Samples(torch.arange(2), torch.tensor([0, 0]), ("a", "b"))
            >>> two = Samples(torch.arange(2), torch.tensor([0, 1]), ("a", "b"))
            >>> one.difference(two)
            'labels, first at position 1: 0 against 1'
        """
        for what, mine, theirs in (
            ("class order", list(self.classes), list(other.classes)),
            ("ids", _listed(self.ids), _listed(other.ids)),
            ("labels", _listed(self.labels), _listed(other.labels)),
        ):
            if mine == theirs:
                continue
            for position, (a, b) in enumerate(zip(mine, theirs, strict=False)):
                if a != b:
                    return f"{what}, first at position {position}: {a!r} against {b!r}"
            return f"{what}, {len(mine)} against {len(theirs)}"
        return None


def _listed(values: Ids | None) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else list(values or ())


def as_ids(values: Any, n: int, what: str) -> Ids:
    """Ids from whatever a user or a dataset gives; their positions if it gives none.

    Args:
        values: integers or strings, or None.
        n: number of samples.
        what: whose they are, for the message.

    Raises:
        CascadeError: numbers with fractions.
    """
    if values is None:
        return torch.arange(n)
    if len(values) and isinstance(values[0], str):
        return tuple(str(value) for value in values)
    return whole_numbers(values, what)


def whole_numbers(values: Any, what: str) -> Tensor:
    """Anything `torch.as_tensor` takes, as int64.

    Raises:
        CascadeError: numbers with fractions.
    """
    numbers = torch.as_tensor(values)
    if numbers.is_floating_point() and not bool((numbers == numbers.floor()).all()):
        raise CascadeError(f"{what} must be whole numbers, got {numbers.dtype} with fractions.")
    return numbers.long()


def ids_to_tensors(ids: Ids) -> dict[str, Tensor]:
    """Ids as tensors for a file: strings as their bytes and their lengths."""
    if isinstance(ids, Tensor):
        return {"ids": ids}
    table = [text.encode() for text in ids]
    return {
        "ids_utf8": torch.tensor(list(b"".join(table)), dtype=torch.uint8),
        "ids_length": torch.tensor([len(text) for text in table]),
    }


def ids_from_tensors(tensors: Mapping[str, Tensor]) -> Ids:
    """The inverse of `ids_to_tensors`.

    Raises:
        KeyError: there are no ids among the tensors.
        ValueError: they are malformed.
    """
    if "ids" in tensors:
        if tensors["ids"].ndim != 1:
            raise ValueError("its ids are malformed")
        return tensors["ids"]
    text, length = tensors["ids_utf8"], tensors["ids_length"]
    if text.dtype != torch.uint8 or length.dtype != torch.int64 or text.ndim != 1:
        raise ValueError("its table of ids is malformed")
    if length.ndim != 1 or bool((length < 0).any()) or int(length.sum()) != len(text):
        raise ValueError("its table of ids is malformed")
    data, ends = text.numpy().tobytes(), length.cumsum(0).tolist()
    starts: Sequence[int] = [0, *ends[:-1]]
    return tuple(data[a:b].decode() for a, b in zip(starts, ends, strict=True))
