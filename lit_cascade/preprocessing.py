"""What a model wants done to a raw sample before a batch is made."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Preprocessing"]


class Preprocessing(Protocol):
    """What a model does to one raw sample before a batch is made; runs where data are loaded."""

    @property
    def key(self) -> str:
        """The same for the same preprocessing, so that models can share a view."""

    def __call__(self, sample: Any) -> Any:
        """A tensor, or a tuple or dict of tensors."""
