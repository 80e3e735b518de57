"""Whether a record that is already there is the one that would be made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.records import Ids, Record, Samples

__all__ = ["Expected", "check_same", "without_workers"]

_READ = ("left_out", "remarks")
_WORKERS = "data.config.init_args.num_workers"  # whoever loads a sample, it is the same


@dataclass(frozen=True)
class Expected:
    """What is known of a record before its model has run.

    Attributes:
        name: of the model.
        dtype: of its logits, `float16` or `float32`.
        model: class, fingerprint of the weights, and config.
        data: name, source, split and config, and whether it is read in part only.
        ids: of the samples.
        classes: in logit order; None if they are named by their numbers.
        run: precision and batch size.
    """

    name: str
    dtype: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    ids: Ids
    classes: tuple[str, ...] | None
    run: Mapping[str, Any]


def check_same(record: Record, expected: Expected) -> None:
    """Check that a record is what recording again would give.

    The labels are known only when the data are read; the date and the versions of libraries may
    differ.

    Raises:
        CascadeError: naming the first difference.
    """
    logits = record.logits
    # what the samples turned out to be is known only when they are read
    data = {key: value for key, value in record.data.items() if key not in _READ}
    gone = [sample for sample, _ in record.data.get("left_out", [])]
    there = {
        "name": record.name,
        "dtype": "none" if logits is None else str(logits.dtype).removeprefix("torch."),
        "model": record.model,
        "data": data,
        **{key: record.info.get(key) for key in expected.run},
    }
    here = {
        "name": expected.name,
        "dtype": expected.dtype,
        "model": expected.model,
        "data": expected.data,
        **expected.run,
    }
    for where, mine, theirs in _differences(there, json.loads(json.dumps(here)), ""):
        if where == _WORKERS:
            continue
        raise CascadeError(f"its {where} is {_short(mine)}, and here it is {_short(theirs)}.")
    names = expected.classes or tuple(str(c) for c in range(len(record.classes)))
    difference = Samples(_joined(record.ids, gone), None, record.classes).difference(
        Samples(expected.ids, None, names)
    )
    if difference is not None:
        raise CascadeError(f"it differs in {difference}.")


def without_workers(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The config of the data without the number of processes that load them."""
    if config is None or not isinstance(config.get("init_args"), Mapping):
        return None if config is None else dict(config)
    given = {key: value for key, value in config["init_args"].items() if key != "num_workers"}
    return {**config, "init_args": given}


def _joined(ids: Ids, gone: list[Any]) -> Ids:
    """The ids of a record with those of the samples that were left out, in order."""
    if not gone:
        return ids
    if isinstance(ids, Tensor):
        return torch.cat([ids, torch.tensor(gone, dtype=torch.int64)]).sort().values
    return tuple(sorted([*ids, *gone]))


def _differences(one: Any, other: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of mappings differ: the path, and what each holds there."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            path = f"{where}.{key}" if where else str(key)
            yield from _differences(one.get(key), other.get(key), path)
    elif one != other:
        yield where, one, other


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
