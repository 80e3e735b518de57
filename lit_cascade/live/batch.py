"""Batches of inputs: a tensor, a tuple of tensors, a dict of tensors, or several views of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from lit_cascade.errors import CascadeError

Inputs: TypeAlias = Any
"""A tensor, a tuple or list of tensors, or a mapping of names to tensors; samples along axis 0."""

_LABELS = ("labels", "label")
"""Keys of a dict under which a batch may hold its labels."""


class WithRemarks(NamedTuple):
    """A preprocessed sample, with remarks on what was done to it.

    Attributes:
        tensors: a tensor, or a tuple or dict of tensors.
        remarks: texts that are counted and reported, such as that a text was cut.
    """

    tensors: Any
    remarks: tuple[str, ...]


class Preprocessing(Protocol):
    """What a model does to one raw sample before a batch is made; runs where data are loaded.

    An optional method `collate` makes a batch of a list of preprocessed samples that differ in
    shape; samples lie along axis 0 of each tensor of the batch.
    """

    @property
    def key(self) -> str:
        """Identifier, equal for equal preprocessing, so that models can share a view."""

    def __call__(self, sample: Any) -> Any:
        """Return a tensor, or a tuple or dict of tensors; or these as `WithRemarks`."""


class Views(dict[str, Inputs]):
    """A batch of raw samples as several models take it, by `view_key` of their preprocessing."""


def view_key(preprocessing: Preprocessing | None) -> str:
    """Key of the view of models with this preprocessing; empty for data as they are."""
    return "" if preprocessing is None else preprocessing.key


def view_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """The view of a model on a batch; the batch itself if it has no views.

    Raises:
        CascadeError: the batch was made for other models.
    """
    if not isinstance(inputs, Views):
        return inputs
    key = view_key(getattr(model, "preprocessing", None))
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
    """Number of samples in a batch.

    Raises:
        CascadeError: tensors of different lengths, or a batch of another type.
    """
    if isinstance(inputs, Tensor):
        return inputs.shape[0]  # five times as fast as len(), which counts for single samples
    sizes = {len(tensor) for tensor in _tensors(inputs)}
    if len(sizes) != 1:
        raise CascadeError(f"the tensors of a batch differ in length: {sorted(sizes)}.")
    return sizes.pop()


def index_batch(inputs: Inputs, index: Any) -> Inputs:
    """Index axis 0 of every tensor of a batch, keeping its structure."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    if isinstance(inputs, Views):
        return Views({key: index_batch(view, index) for key, view in inputs.items()})
    if isinstance(inputs, Mapping):
        return {name: tensor[index] for name, tensor in inputs.items()}
    return tuple(tensor[index] for tensor in inputs)


def join_batches(parts: Sequence[Inputs]) -> Inputs:
    """Concatenate batches of the same structure and shape."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        joined = {key: join_batches([part[key] for part in parts]) for key in first}
        return Views(joined) if isinstance(first, Views) else joined
    return tuple(join_batches(column) for column in zip(*parts, strict=True))


def shape_key(inputs: Inputs) -> tuple[Any, ...]:
    """Names, shapes without axis 0, and dtypes: samples with equal keys cost the same."""
    names = tuple(inputs) if isinstance(inputs, Mapping) else ()
    return (names, *((tensor.shape[1:], tensor.dtype) for tensor in _tensors(inputs)))


def token_counts(inputs: Inputs) -> Tensor | None:
    """Number of tokens of each sample, (N,) int64; None for a batch without `attention_mask`.

    The mask (N, length) is that of models of transformers: 0 where there is padding.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    return (mask != 0).sum(dim=1)


def without_padding(inputs: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One sample of a padded batch without its padding, as a batch of one."""
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

    A tensor is passed as the only argument, a tuple as positional and a dict as keyword arguments,
    as modules of torch and transformers expect; of `Views` the model is passed its own. An output
    with an attribute `logits` is unwrapped.

    Args:
        model: any classifier.
        inputs: a batch of N samples.
        name: name of the model, for messages.

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


def inputs_of(batch: Any) -> Inputs:
    """Inputs of a batch of a data loader, with labels or without.

    A tuple or list is `(inputs, labels)`, or `(inputs,)`; a dict holds the inputs by name, and
    perhaps labels as `labels` or `label`; anything else is the inputs themselves. The form decides,
    never the values: a model of two tensors without labels needs `((first, second),)` or a dict.

    Raises:
        CascadeError: a tuple of another length.

    Examples:
        >>> x, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
        >>> [inputs_of(batch).shape[1] for batch in (x, (x,), (x, labels))]
        [2, 2, 2]
    """
    if isinstance(batch, Mapping) and not isinstance(batch, Views):
        return {key: value for key, value in batch.items() if key not in _LABELS}
    if isinstance(batch, (tuple, list)):
        if len(batch) not in {1, 2}:
            raise CascadeError(
                "the data must give batches of inputs, (inputs,), (inputs, labels) or dicts, got a "
                f"{type(batch).__name__} of {len(batch)}; several tensors of one input belong "
                "together: ((first, second), labels)."
            )
        return batch[0]
    return batch


def split_labels(batch: Any) -> tuple[Inputs, Tensor]:
    """Split a batch of a data loader into inputs and labels.

    Args:
        batch: `(inputs, labels)`, or a dict with an entry `labels` or `label`.

    Raises:
        CascadeError: a batch of another form.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        for key in _LABELS:
            if isinstance(batch.get(key), Tensor):
                return {k: v for k, v in batch.items() if k != key}, batch[key]
    keys = f" with the entries {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise CascadeError(
        "the data must give batches of (inputs, labels) or dicts with an entry 'labels', "
        f"got {type(batch).__name__}{keys}."
    )
