"""Columns of a record: one value per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError

__all__ = ["check_column", "check_costs", "per_sample"]

_TENSORS = {"logits", "labels", "ids", "ids_utf8", "ids_length", "score", "correct", "__metadata__"}


def per_sample(cost: Any, n: int) -> Tensor:
    """A cost as (N,) float64, from one number or N of them."""
    numbers = torch.as_tensor(cost, dtype=torch.float64)
    return numbers.expand(n).contiguous() if numbers.ndim == 0 else numbers


def check_column(column: Tensor | None, dtype: torch.dtype, n: int, what: str) -> None:
    """Check that a column, if there is one, has a value of a type for each of `n` samples.

    None may be +inf, which would answer at a threshold that always defers.

    Raises:
        CascadeError: it has not.
    """
    if column is None:
        return
    if column.dtype != dtype or column.shape != (n,) or not bool((column < math.inf).all()):
        raise CascadeError(
            f"{what} must be {n} values, none of them NaN or +inf, one per sample, "
            f"got {column.dtype} of shape {tuple(column.shape)}."
        )


def check_costs(costs: Mapping[str, Tensor], n: int, what: str) -> None:
    """Check that costs are finite, at least 0, per sample, and named so that a file can hold them.

    Raises:
        CascadeError: they are not, or there are none.
    """
    if not costs:
        raise CascadeError(f"{what}: needs a cost per sample, such as flops.")
    for unit, cost in costs.items():
        if not unit.isidentifier() or unit in _TENSORS:
            raise CascadeError(
                f"{what}: {unit!r} cannot name a cost: expected letters, digits and underscores, "
                f"such as latency_s, and none of {', '.join(sorted(_TENSORS))}."
            )
        fine = cost.dtype == torch.float64 and cost.shape == (n,)
        if not fine or not bool((cost.isfinite() & (cost >= 0)).all()):
            raise CascadeError(
                f"{what}: {unit} must be {n} finite numbers of at least 0, one per sample, "
                f"got {cost.dtype} of shape {tuple(cost.shape)}."
            )
