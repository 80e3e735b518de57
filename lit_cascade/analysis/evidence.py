"""Evidence of what a policy was fitted on, and checks that other samples are reported on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.records import Ids, Record, Samples
from lit_cascade.utilities.units import be, counted


def _number(value: int | str) -> int:
    """An id as an integer; a string by 63 bits of its SHA-256."""
    if isinstance(value, str):
        return int.from_bytes(hashlib.sha256(value.encode()).digest()[:8]) >> 1
    return int(value)


def ids_to_text(ids: Ids | Sequence[int]) -> str:
    """Ids as ranges, for a YAML file.

    Example:
        >>> ids_to_text([1, 2, 3, 7])
        '1..3,7'
    """
    runs: list[list[int]] = []
    for number in sorted(map(_number, ids)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


def ids_from_text(text: str) -> list[int]:
    """The inverse of `ids_to_text`.

    Raises:
        CascadeError: the text is damaged.
    """
    numbers: list[int] = []
    try:
        for run in text.split(","):
            first, _, last = run.partition("..")
            numbers.extend(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise CascadeError(f"policy.evidence: {text[:40]!r} is no list of ids.") from error
    return numbers


def fitted_on(record: Record, rows: Tensor | None = None) -> dict[str, Any]:
    """Evidence of the samples that a policy was fitted on.

    Args:
        record: a record of these samples and perhaps others.
        rows: positions of these samples in the record, (M,) int64; by default all.
    """
    ids = record.ids if rows is None else record.ids[rows]
    return {
        "data": record.data.get("name"),
        "split": record.data.get("split"),
        "source": record.data.get("source"),
        "n": len(ids),
        "fingerprint": record.samples.fingerprint,
        "ids": ids_to_text(ids),
    }


def check_overlap(
    evidence: Mapping[str, Any] | None,
    samples: Samples | Ids,
    data: Mapping[str, Any],
    *,
    allowed: bool,
) -> list[str]:
    """Check that a policy was not fitted on the samples that its metrics are reported on.

    Ids are compared if both sets come from the same source. If a source is unknown, as with
    imported arrays, only an identical set is recognised, by its fingerprint.

    Args:
        evidence: that of a policy.
        samples: the samples to report on, or their ids if nothing else is known of them yet.
        data: their name, split and source.
        allowed: whether an overlap is a note instead of an error.

    Returns:
        Notes for the reader.

    Raises:
        CascadeError: the sets overlap, unless this is allowed.
    """
    ids = samples.ids if isinstance(samples, Samples) else samples
    fingerprint = samples.fingerprint if isinstance(samples, Samples) else None
    notes = []
    for part, fitted in (evidence or {}).items():
        if not isinstance(fitted, Mapping) or not fitted.get("ids"):
            continue
        if not _comparable(fitted, data, fingerprint):
            if fingerprint is not None and not (fitted.get("source") and data.get("source")):
                notes.append(
                    f"Note: the {part} were fitted on {_size(fitted)}. The "
                    "source of one set is unknown, so an overlap cannot be checked."
                )
            continue
        known = set(ids_from_text(str(fitted["ids"])))
        shared = sorted(one for one in ids if _number(one) in known)
        if not shared:
            continue
        first = f"{shared[0]!r}" if isinstance(shared[0], str) else f"id {shared[0]}"
        message = (
            f"{len(shared)} of these {counted(len(ids), 'sample')} "
            f"{be(len(shared))} among those that the {part} "
            f"were fitted on (split {fitted.get('split')!r}; first {first})"
        )
        if not allowed:
            raise CascadeError(
                f"{message}: the figures would be optimistic. Use another split, or add "
                "--allow_overlap."
            )
        notes.append(f"Note: {message}; the figures are optimistic.")
    return notes


def _size(evidence: Mapping[str, Any]) -> str:
    n = evidence.get("n")
    return counted(n, "sample") if isinstance(n, int) else "some samples"


def _comparable(
    evidence: Mapping[str, Any], data: Mapping[str, Any], fingerprint: str | None
) -> bool:
    """Whether the ids of two sets come from one source, or the sets are identical."""
    same_source = evidence.get("source") and evidence["source"] == data.get("source")
    same_set = fingerprint is not None and evidence.get("fingerprint") == fingerprint
    return bool(same_source or same_set)


def unused_rows(evidence: Mapping[str, Any] | None, record: Record) -> Tensor:
    """Rows of a record that nothing but a policy's thresholds was fitted on, (M,) int64."""
    used: set[int] = set()
    for part, fitted in (evidence or {}).items():
        if (
            part != "thresholds"
            and isinstance(fitted, Mapping)
            and fitted.get("ids")
            and _comparable(fitted, record.data, record.samples.fingerprint)
        ):
            used.update(ids_from_text(str(fitted["ids"])))
    rows = [row for row, one in enumerate(record.ids) if _number(one) not in used]
    return torch.tensor(rows).long()
