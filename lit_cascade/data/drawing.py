"""Which samples are held back."""

from __future__ import annotations

import hashlib

from torch import Tensor

from lit_cascade.records import Ids

__all__ = ["drawn"]


def drawn(ids: Ids, seed: int) -> list[int]:
    """Positions in an order drawn by the ids: one sample more or less does not move the others."""
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    keys = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in listed]
    return sorted(range(len(listed)), key=keys.__getitem__)
