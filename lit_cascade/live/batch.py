"""Batches as models take them: a tensor, a tuple of tensors, or a dict of tensors.

What a model wants done to a raw sample before a batch is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from lit_cascade.errors import CascadeError

__all__ = [
    "RAW",
    "Inputs",
    "Preprocessing",
    "Remarked",
    "Views",
    "batch_size",
    "forward_logits",
    "join",
    "lengths_of",
    "map_tensors",
    "signature",
    "split_labels",
    "unpadded",
    "view_of",
]


Inputs: TypeAlias = Any
"""A tensor, a tuple or list of tensors, or a mapping of names to tensors; samples along axis 0."""


RAW = ""
"""The key of the view of models without preprocessing: the data as they are."""


class Views(dict[str, Inputs]):
    """A batch of raw samples as several models take it, by the keys of their preprocessing.

    Two models with the same preprocessing share a view.
    """


def view_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """What a model takes from a batch: its own view, or the batch itself if it has no views.

    Raises:
        CascadeError: the batch was made for other models.
    """
    if not isinstance(inputs, Views):
        return inputs
    preprocessing = getattr(model, "preprocessing", None)
    key = RAW if preprocessing is None else preprocessing.key
    if key not in inputs:
        raise CascadeError(
            f"the batch has no view for {type(model).__name__}: it was made for other models."
        )
    return inputs[key]


def _tensors(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, Views):
        return [tensor for view in inputs.values() for tensor in _tensors(view)]
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if isinstance(values, (list, tuple)) and values and all(isinstance(v, Tensor) for v in values):
        return list(values)
    raise CascadeError(
        "a batch must be a tensor, a tuple of tensors or a dict of tensors, "
        f"got {type(inputs).__name__}."
    )


def batch_size(inputs: Inputs) -> int:
    """Number of samples.

    Raises:
        CascadeError: tensors that disagree, or a batch of another kind.
    """
    if isinstance(inputs, Tensor):
        return inputs.shape[0]  # len() takes five times as long, and single samples are in a hurry
    sizes = {len(tensor) for tensor in _tensors(inputs)}
    if len(sizes) != 1:
        raise CascadeError(f"the tensors of a batch differ in length: {sorted(sizes)}.")
    return sizes.pop()


def map_tensors(inputs: Inputs, index: Any) -> Inputs:
    """Index every tensor of a batch, keeping its structure."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    if isinstance(inputs, Views):
        return Views({key: map_tensors(view, index) for key, view in inputs.items()})
    if isinstance(inputs, Mapping):
        return {name: tensor[index] for name, tensor in inputs.items()}
    return tuple(tensor[index] for tensor in inputs)


def join(parts: Sequence[Inputs]) -> Inputs:
    """One batch of several that are alike in structure and shape."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        joined = {key: join([part[key] for part in parts]) for key in first}
        return Views(joined) if isinstance(first, Views) else joined
    return tuple(join(column) for column in zip(*parts, strict=True))


def signature(inputs: Inputs) -> tuple[Any, ...]:
    """What the cost of one sample depends on: names, shapes without the batch, and dtypes."""
    names = tuple(inputs) if isinstance(inputs, Mapping) else ()
    return (names, *((tensor.shape[1:], tensor.dtype) for tensor in _tensors(inputs)))


def lengths_of(inputs: Inputs) -> Tensor | None:
    """Tokens of each sample of a padded batch, (N,) int64; None if it is not padded.

    Padding is told by an entry `attention_mask` (N, length), as models of transformers take it.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    return (mask != 0).sum(dim=1)


def unpadded(inputs: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One sample of a padded batch, without its padding, as a batch of one."""
    mask = inputs["attention_mask"]
    kept = (mask[row] != 0).nonzero().squeeze(1)
    return {
        name: tensor[row : row + 1, kept]
        if tensor.shape[:2] == mask.shape
        else tensor[row : row + 1]
        for name, tensor in inputs.items()
    }


def forward_logits(model: nn.Module, inputs: Inputs, name: str = "model") -> Tensor:
    """Run a model on a batch and return its logits of shape (N, C).

    A tensor is the model's only argument, a tuple its positional and a dict its keyword arguments,
    as torch and transformers modules expect; of a batch of views it is given its own. An output
    with a `logits` attribute is unwrapped.

    Raises:
        CascadeError: the output is not of shape (N, C).
    """
    inputs = view_of(model, inputs)
    if isinstance(inputs, Tensor):
        output = model(inputs)
    elif isinstance(inputs, Mapping):
        output = model(**inputs)
    else:
        output = model(*inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", output)
    n = batch_size(inputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != n:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise CascadeError(f"{name}: expected logits of shape ({n}, classes), got {got}.")
    return logits


def split_labels(batch: Any) -> tuple[Inputs, Tensor]:
    """Take a data loader's batch apart into inputs and labels.

    Accepts `(inputs, labels)` and a dict with an entry `labels` or `label`.

    Raises:
        CascadeError: the batch is neither.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        for key in ("labels", "label"):
            if isinstance(batch.get(key), Tensor):
                return {k: v for k, v in batch.items() if k != key}, batch[key]
    keys = f" with the entries {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise CascadeError(
        "the data must give batches of (inputs, labels) or dicts with an entry 'labels', "
        f"got {type(batch).__name__}{keys}."
    )


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
