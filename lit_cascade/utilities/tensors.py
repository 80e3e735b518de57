"""Files of tensors: equal content gives equal bytes, and no code in a file is ever run."""

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
"""Names of types in the format, in the order in which the library stores tensors."""


def safetensors_pieces(
    tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> list[bytes | memoryview]:
    """Serialize tensors as safetensors, in pieces that are no copies; equal content, equal bytes.

    The library copies all tensors in memory, and writes the strings of the header in an order that
    changes from call to call. The format is the length of a JSON header in eight bytes, the header
    padded to a multiple of 8 bytes, then the numbers, widest type first
    (https://github.com/huggingface/safetensors#format). A test compares the two.

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


def load_tensors(path: Path) -> Any:
    """Load tensors and plain values that `torch.save` wrote, without running code.

    Raises:
        CascadeError: a file that holds anything else, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CascadeError(f"{error.strerror or error}") from error
    except Exception as error:  # torch's own messages advise to run the code
        reason = str(error).split("\n", maxsplit=1)[0]
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
            reason = (
                "it holds Python objects, which could run code, or is damaged; save plain tensors "
                "alone, such as the state_dict of a network"
            )
        raise CascadeError(reason or type(error).__name__) from error
