"""Records: what one model said about one data set. The only reader and writer of record files.

A record is a safetensors file `<name>.safetensors` with the tensors `logits` (N, C), `labels` (N,),
`ids` and `flops` (N,), and strings in its header. It stands between the models and every question,
so it may come from any framework.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError, check_logits
from lit_cascade.files import safetensors_bytes, write_atomically
from lit_cascade.samples import (
    Ids,
    Samples,
    as_ids,
    ids_from_tensors,
    ids_to_tensors,
    whole_numbers,
)

__all__ = ["FORMAT", "Record", "check_alike", "library_versions", "run_info"]

FORMAT = "lit-cascade-record/1"


def library_versions() -> dict[str, str]:
    """Versions of this package and of what computes the logits."""
    packages = ("lit-cascade", "torch", "lightning")
    return {name: importlib.metadata.version(name) for name in packages}


def _costs(flops: Tensor) -> bool:
    return bool(flops.isfinite().all() and (flops >= 0).all())


@dataclass(frozen=True)
class Record:
    """Logits of one model over one split, in the order of the ids.

    Attributes:
        name: the stage or model that was recorded.
        logits: shape (N, C), float16 or float32.
        labels: shape (N,) int64, in [0, C).
        ids: what tells samples apart: N distinct integers (N,) int64, or as many strings.
        flops: cost of each sample for this model alone, shape (N,) float64.
        classes: names of the C classes in logit order.
        parameters: number of parameters of the model; 0 if unknown.
        data: name, source, split and whatever else describes the data.
        model: settings that made the model.
        info: library versions, date, and the like.

    Raises:
        CascadeError: tensors that do not fit each other, NaN or infinite logits, labels out of
            range, repeated ids.
    """

    name: str
    logits: Tensor
    labels: Tensor
    ids: Ids
    flops: Tensor
    classes: tuple[str, ...]
    parameters: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        what = f"record {self.name!r}"
        if self.logits.dtype not in {torch.float16, torch.float32}:
            raise CascadeError(
                f"{what}: logits are stored as float16 or float32, got {self.logits.dtype}."
            )
        check_logits(self.logits, what)
        n, classes = self.logits.shape
        self.samples.check(n, classes, what)
        flops = self.flops
        if flops.dtype != torch.float64 or flops.shape != (n,) or not _costs(flops):
            raise CascadeError(
                f"{what}: flops must be {n} finite numbers of at least 0, one per sample, "
                f"got {flops.dtype} of shape {tuple(flops.shape)}."
            )
        for part in ("data", "model", "info"):
            if not isinstance(getattr(self, part), Mapping):
                raise CascadeError(f"{what}: {part} must be a mapping of names to values.")

    @classmethod
    def from_arrays(
        cls,
        name: str,
        logits: Any,
        labels: Any,
        *,
        flops: Any,
        ids: Any = None,
        classes: Sequence[str] | None = None,
        **details: Any,
    ) -> Record:
        """A record from arrays of any framework.

        Args:
            name: the model's name.
            logits: anything `torch.as_tensor` takes, shape (N, C); float64 is stored as float32.
            labels: integers, shape (N,).
            flops: FLOPs per sample, one number or N of them (one multiply-add is 2 FLOPs).
            ids: distinct integers or strings; by default the positions.
            classes: names in logit order; by default "0", "1", ...
            details: `parameters`, `data`, `model`, `info`.

        Example:
            >>> record = Record.from_arrays("net", [[2.0, 0.0]], [0], flops=1280)
            >>> record.logits.shape, record.classes
            (torch.Size([1, 2]), ('0', '1'))
        """
        logits = torch.as_tensor(logits)
        if logits.dtype != torch.float16:
            logits = logits.float()
        n = len(logits)
        if classes is None:
            classes = [str(c) for c in range(logits.shape[-1])]
        cost = torch.as_tensor(flops, dtype=torch.float64)
        cost = cost.expand(n).contiguous() if cost.ndim == 0 else cost
        return cls(
            name,
            logits,
            whole_numbers(labels, f"record {name!r}: labels"),
            as_ids(ids, n, f"record {name!r}: ids"),
            cost,
            tuple(classes),
            **details,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def samples(self) -> Samples:
        """What was recorded, whatever the model."""
        return Samples(self.ids, self.labels, self.classes)

    def save(self, path: Path | str) -> None:
        """Write the record, whole or not at all.

        Raises:
            UsageError: the place cannot be written to.
        """
        write_atomically(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the record's file; the same for the same record."""
        tensors = {"logits": self.logits, "labels": self.labels, "flops": self.flops}
        tensors |= ids_to_tensors(self.ids)
        header = {
            "format": FORMAT,
            "name": self.name,
            "classes": json.dumps(self.classes),
            "parameters": str(self.parameters),
            "fingerprint": self.samples.fingerprint,
            "data": json.dumps(dict(self.data)),
            "model": json.dumps(dict(self.model)),
            "info": json.dumps(dict(self.info)),
        }
        return safetensors_bytes(tensors, header)

    @classmethod
    def load(cls, path: Path | str) -> Record:
        """Read a record file.

        Raises:
            UsageError: there is no such file.
            CascadeError: it is not a record, or it is damaged.
        """
        path = Path(path)
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
            classes = json.loads(header["classes"])
            record = cls(
                name=header["name"],
                logits=tensors["logits"],
                labels=tensors["labels"],
                ids=ids_from_tensors(tensors),
                flops=tensors["flops"],
                classes=tuple(classes if isinstance(classes, list) else ()),
                parameters=int(header["parameters"]),
                data=json.loads(header["data"]),
                model=json.loads(header["model"]),
                info=json.loads(header["info"]),
            )
            if record.samples.fingerprint != header["fingerprint"]:
                raise CascadeError(
                    f"records: {str(path)!r} is damaged: its ids, labels or classes do not fit "
                    "its fingerprint."
                )
        except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
            raise CascadeError(
                f"records: {str(path)!r} cannot be read as a record: {error}."
            ) from error
        return record


def run_info() -> dict[str, Any]:
    """Library versions and the date, for a record's `info`; SOURCE_DATE_EPOCH sets the date."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = dt.datetime.now(dt.UTC)
    date = dt.datetime.fromtimestamp(int(epoch), dt.UTC) if epoch else now
    return {"versions": library_versions(), "date": date.date().isoformat()}


def check_alike(records: Sequence[Record]) -> None:
    """Check that records are of the same samples, labels and classes, all in the same order.

    Raises:
        UsageError: fewer than two records, or one name twice.
        CascadeError: naming the two records and their first difference.
    """
    if len(records) < 2:
        raise UsageError(f"records: a cascade needs at least 2 stages, got {len(records)}.")
    names = [record.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"records: the name {twice[0]!r} occurs twice; names tell stages apart.")
    one = records[0]
    for other in records[1:]:
        difference = one.samples.difference(other.samples)
        if difference:
            raise CascadeError(f"records {one.name!r} and {other.name!r} differ in {difference}.")
