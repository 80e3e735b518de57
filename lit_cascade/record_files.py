"""The file of a record: what stands in its header, and what in its tensors.

A safetensors file with the tensors `logits` (N, C), `labels` (N,), `ids` and costs (N,), or `score`
and `correct`, and strings in its header. No pickle is ever read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_cascade.columns import per_sample
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.samples import ids_from_tensors, ids_to_tensors
from lit_cascade.tensors import safetensors_pieces

if TYPE_CHECKING:
    from lit_cascade.records import Record

__all__ = ["FORMAT", "read_record", "record_pieces"]

FORMAT = "lit-cascade-record/1"


def record_pieces(record: Record) -> list[bytes | memoryview]:
    """The content of a record's file in pieces; the same for the same record."""
    held = {name: getattr(record, name) for name in ("logits", "labels", "score", "correct")}
    tensors = {name: tensor for name, tensor in held.items() if tensor is not None}
    tensors |= ids_to_tensors(record.ids)
    constant: dict[str, float | None] = {}
    for unit, cost in record.costs.items():
        same = bool((cost == cost[0]).all())
        constant[unit] = float(cost[0]) if same else None  # one number stands for all
        if not same:
            tensors[unit] = cost
    header = {
        "format": FORMAT,
        "name": record.name,
        "classes": json.dumps(record.classes),
        "costs": json.dumps(constant),
        "parameters": str(record.parameters),
        "fingerprint": record.samples.fingerprint,
        "data": json.dumps(dict(record.data)),
        "model": json.dumps(dict(record.model)),
        "info": json.dumps(dict(record.info)),
    }
    return safetensors_pieces(tensors, header)


def read_record(path: Path, make: Callable[..., Record]) -> Record:
    """The record in a file.

    Args:
        path: of the file.
        make: a record of its parts, by name.

    Raises:
        UsageError: there is no such file.
        CascadeError: it is not a record, or it is damaged.
    """
    if not path.is_file():
        raise UsageError(f"records: there is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            if header.get("format") != FORMAT:
                raise CascadeError(
                    f"records: {str(path)!r} is not a record: its header says format "
                    f"{header.get('format')!r}, expected {FORMAT!r}."
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        record = make(**_parts(tensors, header))
        if record.samples.fingerprint != header["fingerprint"]:
            raise CascadeError(
                f"records: {str(path)!r} is damaged: its ids, labels or classes do not fit "
                "its fingerprint."
            )
    except (
        SafetensorError,
        KeyError,
        ValueError,
        OverflowError,
        RecursionError,
        OSError,
    ) as error:
        raise CascadeError(
            f"records: {str(path)!r} cannot be read as a record: {error}."
        ) from error
    return record


def _is_cost(value: Any) -> bool:
    return value is None or type(value) in {int, float}


def _parts(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Any]:
    classes, costs = json.loads(header["classes"]), json.loads(header["costs"])
    if not isinstance(costs, dict) or not all(map(_is_cost, costs.values())):
        raise ValueError("its table of costs is malformed")
    ids = ids_from_tensors(tensors)
    return {
        "name": header["name"],
        "ids": ids,
        "costs": {
            unit: tensors[unit] if cost is None else per_sample(float(cost), len(ids))
            for unit, cost in costs.items()
        },
        "logits": tensors.get("logits"),
        "labels": tensors.get("labels"),
        "classes": tuple(classes if isinstance(classes, list) else ()),
        "score": tensors.get("score"),
        "correct": tensors.get("correct"),
        "parameters": int(header["parameters"]),
        "data": json.loads(header["data"]),
        "model": json.loads(header["model"]),
        "info": json.loads(header["info"]),
    }
