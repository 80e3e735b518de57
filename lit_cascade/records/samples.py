"""Samples: their ids, labels and class names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, check_labels, name_fault
from lit_cascade.utilities.tabular import described, shortened
from lit_cascade.utilities.units import counted

_FEW = 6


class Ids(Sequence[Any]):
    """Distinct ids of N samples, integers or strings; equal to any sequence of the same ids.

    An integer as index gives one id, a slice or several positions give the ids there.

    Args:
        values: integers (N,) int64, or N strings.

    Examples:
        >>> ids = Ids(torch.tensor([7, 3, 5]))
        >>> ids[0], ids[[0, 1]].tolist(), ids.sort()[0].tolist()
        (7, [7, 3], [3, 5, 7])
    """

    def __init__(self, values: Ids | Tensor | Iterable[str]) -> None:
        values = values.values if isinstance(values, Ids) else values
        self.values: Tensor | tuple[str, ...]
        self.values = values if isinstance(values, Tensor) else tuple(values)

    @classmethod
    def of(cls, values: Any, n: int, what: str = "ids") -> Ids:
        """Ids from integers or strings in any container.

        Args:
            values: the ids; None for the positions of `n` samples.
            n: number of samples.
            what: name of the ids for the message.

        Raises:
            CascadeError: numbers with fractions.
        """
        if values is None:
            return cls(torch.arange(n))
        if isinstance(values, Ids) or (len(values) and isinstance(values[0], str)):
            return cls(values)
        return cls(whole_numbers(values, what))

    @property
    def are_strings(self) -> bool:
        """Whether the ids are strings."""
        return not isinstance(self.values, Tensor)

    @property
    def are_positions(self) -> bool:
        """Whether the ids are 0 to N - 1, in this order."""
        ids = self.values
        return isinstance(ids, Tensor) and ids.equal(torch.arange(len(ids)))

    def tolist(self) -> list[Any]:
        """Ids as a list."""
        return self.values.tolist() if isinstance(self.values, Tensor) else list(self.values)

    def sort(self) -> tuple[Ids, Tensor]:
        """Ids in rising order, and their positions (N,) before sorting."""
        ids = self.tolist()
        order = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__)).long()
        return self[order], order

    def check(self, n: int, what: str) -> None:
        """Check that there are `n` distinct ids.

        Raises:
            CascadeError: ids of another type or shape, too few, or repeated ids.
        """
        ids = self.values
        if isinstance(ids, Tensor) and (ids.dtype != torch.int64 or ids.ndim != 1):
            raise CascadeError(
                f"{what}: ids must be whole numbers or strings, one per sample, "
                f"got {ids.dtype} of shape {tuple(ids.shape)}."
            )
        distinct = len(ids.unique() if isinstance(ids, Tensor) else set(ids))
        if len(ids) != n or distinct != n:
            raise CascadeError(
                f"{what}: expected one distinct id per sample ({n}), got {len(ids)} "
                f"with {distinct} distinct."
            )

    def to_bytes(self) -> bytes:
        """Ids as bytes, for a hash."""
        if isinstance(self.values, Tensor):
            return bytes(self.values.numpy().tobytes())
        return json.dumps(self.values).encode()

    def to_tensors(self) -> dict[str, Tensor]:
        """Ids as named tensors for a file; strings as UTF-8 bytes and lengths."""
        if isinstance(self.values, Tensor):
            return {"ids": self.values}
        encoded = [text.encode() for text in self.values]
        return {
            "ids_utf8": torch.tensor(list(b"".join(encoded)), dtype=torch.uint8),
            "ids_length": torch.tensor([len(text) for text in encoded]),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Ids:
        """Inverse of `to_tensors`.

        Raises:
            KeyError: no ids among the tensors.
            ValueError: malformed ids.
        """
        if "ids" in tensors:
            if tensors["ids"].ndim != 1:
                raise ValueError("its ids are malformed")
            return cls(tensors["ids"])
        text, length = tensors["ids_utf8"], tensors["ids_length"]
        types = text.dtype == torch.uint8 and length.dtype == torch.int64
        fits = types and text.ndim == length.ndim == 1
        if not fits or bool((length < 0).any()) or int(length.sum()) != len(text):
            raise ValueError("its table of ids is malformed")
        data, ends = text.numpy().tobytes(), length.cumsum(0).tolist()
        return cls(data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Any:
        if isinstance(self.values, Tensor):
            chosen = self.values[index]
            return chosen.item() if isinstance(index, int) else Ids(chosen)
        if isinstance(index, int):
            return self.values[index]
        return Ids(self.values[i] for i in torch.arange(len(self))[index].tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Sequence, Tensor)):
            return NotImplemented
        return self.tolist() == (other.tolist() if isinstance(other, Tensor) else list(other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        ids, n = self.tolist(), len(self)
        if n <= _FEW:
            return f"Ids({ids!r})"
        some = [shortened(repr(one)) for one in (*ids[: _FEW - 1], ids[-1])]
        return f"Ids([{', '.join(some[:-1])}, ..., {some[-1]}], n={n})"


@dataclass(frozen=True)
class Samples:
    """A labelled set of samples.

    Attributes:
        ids: of the N samples.
        labels: (N,) int64; (N, M) with -1 as padding where several labels are right; None if
            unknown.
        classes: names in label order; empty if unknown.
    """

    ids: Ids
    labels: Tensor | None
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        return described("Samples", *self.figures())

    def figures(self) -> list[str]:
        """Numbers of samples and classes, and whether there are labels, in words."""
        named = [counted(len(self.classes), "class")] if self.classes else []
        known = [] if self.labels is not None else ["no labels"]
        return [counted(len(self.ids), "sample"), *named, *known]

    def __post_init__(self) -> None:
        """Wrap bare ids."""
        object.__setattr__(self, "ids", Ids(self.ids))

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any id, label or class name."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.ids.to_bytes())
        if self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, n: int, classes: int | None, what: str) -> None:
        """Check the number of samples and of classes, the labels and the ids.

        Args:
            n: number of samples.
            classes: number of classes; None for any.
            what: name of the samples for the message.

        Raises:
            CascadeError: labels out of range; repeated or missing ids or class names.
        """
        classes = len(self.classes) if classes is None else classes
        if self.labels is not None:
            check_labels(self.labels, n, classes, what)
        fault = next(filter(None, map(name_fault, self.classes)), None)
        if fault:
            raise CascadeError(f"{what}: class names: {fault}.")
        if not len(self.classes) == len(set(self.classes)) == classes:
            raise CascadeError(
                f"{what}: {classes} logits per sample need as many distinct class names, "
                f"got {len(self.classes)}."
            )
        self.ids.check(n, what)

    def difference(self, other: Samples) -> str | None:
        """First difference in class order, ids or labels; None if there is none.

        Examples:
            >>> one = Samples(torch.arange(2), torch.tensor([0, 0]), ("a", "b"))
            >>> two = Samples(torch.arange(2), torch.tensor([0, 1]), ("a", "b"))
            >>> one.difference(two)
            'labels, first at position 1: 0 against 1'
        """
        parts: tuple[tuple[str, Any, Any], ...] = (
            ("class order", self.classes, other.classes),
            ("ids", self.ids.values, other.ids.values),
            ("labels", self.labels, other.labels),
        )
        for what, *pair in parts:
            one, two = pair
            if one is two or (
                torch.equal(one, two)
                if isinstance(one, Tensor) and isinstance(two, Tensor)
                else one == two
            ):
                continue
            mine, theirs = map(_listed, pair)
            for position, (a, b) in enumerate(zip(mine, theirs, strict=False)):
                if a != b:
                    return f"{what}, first at position {position}: {a!r} against {b!r}"
            return f"{what}, {len(mine)} against {len(theirs)}"
        return None

    def check_same(self, other: Samples, name: str, other_name: str) -> None:
        """Check that two records are of the same samples.

        Raises:
            CascadeError: names of both records and the first difference.
        """
        difference = self.difference(other)
        if difference is not None:
            raise CascadeError(f"records {name!r} and {other_name!r} differ in {difference}.")


def listed_labels(labels: Tensor) -> list[Any]:
    """Labels (N,) as numbers; those of shape (N, M) as tuples, without the padding."""
    if labels.ndim == 1:
        return labels.tolist()
    return [tuple(label for label in some if label >= 0) for some in labels.tolist()]


def _listed(part: Tensor | Sequence[str] | None) -> list[Any]:
    if isinstance(part, Tensor):
        return part.tolist()
    return list(part or ())


def whole_numbers(values: Any, what: str) -> Tensor:
    """Convert anything that `torch.as_tensor` takes to int64.

    Raises:
        CascadeError: numbers with fractions.
    """
    numbers = torch.as_tensor(values)
    if numbers.is_floating_point() and not bool((numbers == numbers.floor()).all()):
        raise CascadeError(f"{what} must be whole numbers, got {numbers.dtype} with fractions.")
    return numbers.long()
