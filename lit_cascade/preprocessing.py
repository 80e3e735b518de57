"""What a model wants done to a raw sample before a batch is made."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

__all__ = ["Preprocessing", "Remarked"]


class Remarked(NamedTuple):
    """A sample as a model takes it, and what was done to it that a user must know.

    Attributes:
        tensors: a tensor, or a tuple or dict of tensors.
        remarks: such as that a text was cut; counted and reported.
    """

    tensors: Any
    remarks: tuple[str, ...]


class Preprocessing(Protocol):
    """What a model does to one raw sample before a batch is made; runs where data are loaded.

    It may also have a method `collate`, which makes a batch of a list of what it gave, where these
    differ in shape; the samples of the batch lie along axis 0 of each tensor.
    """

    @property
    def key(self) -> str:
        """The same for the same preprocessing, so that models can share a view."""

    def __call__(self, sample: Any) -> Any:
        """A tensor, or a tuple or dict of tensors; or these as `Remarked`."""
