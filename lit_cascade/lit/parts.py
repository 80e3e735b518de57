"""Batches in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda
from torch import Tensor, nn

from lit_cascade.errors import CascadeError
from lit_cascade.lit.failures import first_line, is_out_of_memory
from lit_cascade.live import Inputs, batch_size, forward_logits, map_tensors

__all__ = ["FittingParts", "fewest"]


class FittingParts:
    """Runs one model on batches; where one does not fit into memory, in halves, and remembers.

    Each process finds its own size, so that nothing has to be agreed upon.

    Attributes:
        size: samples per forward pass; None as long as whole batches fit.
    """

    def __init__(self) -> None:
        self.size: int | None = None

    def __call__(self, model: nn.Module, inputs: Inputs, name: str) -> Tensor:
        """Logits (N, C) of a batch.

        Raises:
            CascadeError: not even one sample fits, or as for `forward_logits`.
        """
        n = batch_size(inputs)
        while True:
            size = n if self.size is None else min(self.size, n)
            try:
                return _in_parts(model, inputs, name, n, size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise CascadeError(
                        f"{name}: out of memory even for a single sample: {first_line(error)}. "
                        "Try smaller images or shorter texts, half precision "
                        "(--trainer.precision bf16-true), or a device with more memory."
                    ) from error
            self.size = (size + 1) // 2
            garbage_collection_cuda()  # outside of the handler, which holds on to the tensors


def _in_parts(model: nn.Module, inputs: Inputs, name: str, n: int, size: int) -> Tensor:
    if size == n:
        return forward_logits(model, inputs, name)
    parts = (map_tensors(inputs, slice(start, start + size)) for start in range(0, n, size))
    return torch.cat([forward_logits(model, part, name) for part in parts])


def fewest(told: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The samples per forward pass of each stage, where several processes or runs say."""
    found: dict[str, int] = {}
    for sizes in told:
        for name, size in sizes.items():
            found[name] = min(size, found.get(name, size))
    return found
