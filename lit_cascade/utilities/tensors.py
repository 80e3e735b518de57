"""Files of tensors: the same content is the same bytes, and nothing that is read is ever run."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError

__all__ = ["CHECKPOINT_FORMAT", "load_tensors", "safetensors_bytes", "safetensors_pieces"]

CHECKPOINT_FORMAT = "lit-cascade-checkpoint/1"

_DTYPES = {
    "torch.int64": "I64",
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.int32": "I32",
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
"""Types as the format names them, in the order in which the library puts tensors."""


def safetensors_pieces(
    tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> list[bytes | memoryview]:
    """A safetensors file in pieces, none of them a copy; the same content gives the same bytes.

    The library makes copies of all tensors in memory, and writes the strings of the header in an
    order that changes from call to call. The format is eight bytes with the length of a JSON
    header, padded to 8 bytes, then the numbers, widest type first. A test compares the two.

    Args:
        tensors: on the CPU.
        header: strings for the header.
    """
    kinds = list(_DTYPES)
    order = sorted(tensors, key=lambda name: (kinds.index(str(tensors[name].dtype)), name))
    table: dict[str, Any] = {"__metadata__": dict(header)}
    pieces: list[bytes | memoryview] = []
    start = 0
    for name in order:
        tensor = tensors[name].detach().contiguous()
        size = tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + size],
        }
        start += size
        if size:
            pieces.append(tensor.flatten().view(torch.uint8).numpy().data)
    head = json.dumps(table, sort_keys=True).encode()
    head += b" " * (-len(head) % 8)
    return [len(head).to_bytes(8, "little"), head, *pieces]


def safetensors_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file in one piece; the same content always gives the same bytes."""
    return b"".join(safetensors_pieces(tensors, header))


def load_tensors(path: Path) -> Any:
    """What `torch.save` has written, tensors and plain values; no code in it is ever run.

    Raises:
        CascadeError: it holds anything else, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CascadeError(f"{error.strerror or error}") from error
    # of objects and of damage torch tells in many ways, some of which say how to run the code
    except Exception as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
            reason = (
                "it holds Python objects, which could run code, or is damaged; save plain tensors "
                "alone, such as the state_dict of a network"
            )
        raise CascadeError(reason or type(error).__name__) from error
