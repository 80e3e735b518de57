"""Evidence of what a policy was fitted on, and checks that other samples are reported on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.analysis.content import Contents
from lit_cascade.core import Policy
from lit_cascade.errors import CascadeError
from lit_cascade.records import Ids, Record, Samples
from lit_cascade.utilities.units import be, counted

STAGES = "stages"
"""Part of the evidence: samples that a search has chosen the stages on."""


def _number(value: int | str) -> int:
    """An id as an integer; a string by 63 bits of its SHA-256."""
    if isinstance(value, str):
        return int.from_bytes(hashlib.sha256(value.encode()).digest()[:8]) >> 1
    return int(value)


def ids_to_text(ids: Ids | Sequence[int]) -> str:
    """Ids as ranges, for a YAML file.

    Examples:
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


def fitted_on(records: Sequence[Record], rows: Tensor | None = None) -> dict[str, Any]:
    """Evidence of the samples that a policy was fitted on.

    Args:
        records: of the policy's stages, on these samples and perhaps others.
        rows: positions of these samples in the records, (M,) int64; by default all.
    """
    first = records[0]
    ids = first.ids if rows is None else first.ids[rows]
    return {
        "data": first.data.get("name"),
        "split": first.data.get("split"),
        "source": first.data.get("source"),
        "n": len(ids),
        "fingerprint": first.samples.fingerprint,
        "ids": ids_to_text(ids),
        "content": Contents.of(records, rows).to_plain(),
    }


@dataclass(frozen=True)
class _Overlap:
    """Samples that are among those of a part of the evidence.

    Attributes:
        rows: whether each sample is, (N,) bool; None if this cannot be told.
        certain: whether there are any for sure. Samples with equal logits may be duplicates.
        by: what identified the samples; or why nothing can.
    """

    rows: Tensor | None
    certain: bool
    by: str


def _overlap(
    fitted: Mapping[str, Any],
    samples: Samples | Ids,
    data: Mapping[str, Any],
    records: Sequence[Record],
) -> _Overlap:
    """Compare samples with those of a part of the evidence, by ids or else by content."""
    ids = samples.ids if isinstance(samples, Samples) else samples
    sources = fitted.get("source"), data.get("source")
    same_set = isinstance(samples, Samples) and fitted.get("fingerprint") == samples.fingerprint
    if same_set or (sources[0] and sources[0] == sources[1]):
        known = set(ids_from_text(str(fitted["ids"])))
        rows = torch.tensor([_number(one) in known for one in ids], dtype=torch.bool)
        return _Overlap(rows, bool(rows.any()), "ids")
    content, n = fitted.get("content"), fitted.get("n")
    held = "logits" if any(record.logits is not None for record in records) else "answers"
    if not records:
        why = "their logits were not recorded"
    elif not isinstance(content, Mapping) or not isinstance(n, int):
        why = "the policy was written without hashes of their logits"
    else:
        found = Contents.from_plain(content, n).find(records)
        if found is not None:
            return _Overlap(*found, held)
        why = f"their recorded {held} do not tell samples apart"
    if all(sources):  # named otherwise, and nothing says that they are not other samples
        return _Overlap(torch.zeros(len(ids), dtype=torch.bool), certain=False, by="sources")
    return _Overlap(None, certain=False, by=f"a source is unknown, and {why}")


def _parts(evidence: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The parts of the evidence that name samples."""
    return {
        part: fitted
        for part, fitted in (evidence or {}).items()
        if isinstance(fitted, Mapping) and fitted.get("ids")
    }


def _were(*parts: str) -> str:
    """The end of "samples that the ..."; parts that were chosen come last."""
    fitted = [part for part in parts if part != STAGES]
    clauses = [f"{' and the '.join(fitted)} were fitted on"] if fitted else []
    clauses += [f"{STAGES} were chosen on"] * (len(fitted) < len(parts))
    return " or the ".join(clauses)


def check_overlap(
    evidence: Mapping[str, Any] | None,
    samples: Samples | Ids,
    data: Mapping[str, Any],
    records: Sequence[Record] = (),
    *,
    allowed: bool | None,
) -> list[str]:
    """Check that a policy was not fitted on the samples that its metrics are reported on.

    Samples of one source, and identical sets, are compared by ids. Others are compared by the
    logits that their records hold (see `Contents`): a sample that was imported twice is recognised
    whatever it is called.

    Args:
        evidence: that of a policy.
        samples: the samples to report on, or their ids if nothing else is known of them yet.
        data: their name, split and source.
        records: of the policy's stages on these samples, if there are any.
        allowed: whether an overlap is a note instead of an error; None if it cannot be allowed.

    Returns:
        Notes for the reader.

    Raises:
        CascadeError: the sets overlap, unless this is allowed.
    """
    ids = samples.ids if isinstance(samples, Samples) else samples
    notes = []
    for part, fitted in _parts(evidence).items():
        overlap = _overlap(fitted, samples, data, records)
        if overlap.rows is None:
            if isinstance(samples, Samples):
                notes.append(
                    f"Note: the {_were(part)} {_size(fitted)}. Whether these are among them "
                    f"cannot be checked: {overlap.by}."
                )
            continue
        shared = int(overlap.rows.sum())
        if not shared:
            continue
        if not overlap.certain:
            notes.append(
                f"Note: {shared:,} of these {counted(len(ids), 'sample')} "
                f"{'has' if shared == 1 else 'have'} the {overlap.by} of samples that the "
                f"{_were(part)}: duplicates, or the same samples."
            )
            continue
        one = ids[int(overlap.rows.nonzero()[0, 0])]
        first = f"{one!r}" if isinstance(one, str) else f"id {one}"
        told = "" if overlap.by == "ids" else f", told by their {overlap.by}"
        split = f"split {fitted['split']!r}; " if fitted.get("split") else ""
        message = (
            f"{shared:,} of these {counted(len(ids), 'sample')} "
            f"{be(shared)} among those that the {_were(part)} "
            f"({split}first {first}{told})"
        )
        if not allowed:
            other = "." if allowed is None else ", or add --allow_overlap."
            raise CascadeError(
                f"{message}: the figures would be optimistic. Use another split{other}"
            )
        notes.append(f"Note: {message}; the figures are optimistic.")
    return notes


def _size(evidence: Mapping[str, Any]) -> str:
    n = evidence.get("n")
    return counted(n, "sample") if isinstance(n, int) else "some samples"


def chosen_stages(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the evidence that outlives thresholds: what a search has chosen the stages on."""
    searched = None if "promise" in evidence else evidence.get("thresholds")
    origin = evidence.get(STAGES, searched)
    return {} if origin is None else {STAGES: origin}


@dataclass(frozen=True)
class UnusedRows:
    """Rows of records that nothing which thresholds build on was fitted on.

    Attributes:
        rows: positions of the rows, (M,) int64.
        used_by: parts of the policy that were fitted on the others.
        caveats: sentences on what a promise from these rows depends on.
    """

    rows: Tensor
    used_by: tuple[str, ...]
    caveats: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why the others are used, in words."""
        return f"the {_were(*self.used_by)} them"


def unused_rows(policy: Policy, records: Sequence[Record], *, allowed: bool = False) -> UnusedRows:
    """Rows to select thresholds on: those that nothing else of a policy was fitted on.

    Thresholds of an earlier selection are replaced, so that its samples are not left out. Those of
    a search are replaced too, but the samples have chosen the stages.

    Args:
        policy: with evidence.
        records: of its stages, cheapest first.
        allowed: whether all rows are to be used, which is then a caveat.
    """
    first, used_by, sentences = records[0], [], dict[str, list[str]]()
    used = torch.zeros(len(first), dtype=torch.bool)
    for name, fitted in _parts(policy.evidence).items():
        overlap = _overlap(fitted, first.samples, first.data, records)
        earlier = name == "thresholds" and "promise" in policy.evidence
        part = STAGES if name == "thresholds" else name
        shared = 0 if overlap.rows is None else int(overlap.rows.sum())
        if earlier:
            if shared:
                sentences[
                    f"An earlier selection used {shared:,} of these samples: each guarantee "
                    "holds by itself, the best of several may not."
                ] = []
        elif overlap.rows is None:
            sentence = (
                "The guarantee holds only if none of these samples is among the "
                f"{_size(fitted)} that the {{}}. This cannot be checked: {overlap.by}."
            )
            sentences.setdefault(sentence, []).append(part)
        elif shared and not allowed:
            used |= overlap.rows
            used_by.append(part)
        elif shared:
            sentence = (
                f"The guarantee does not hold: {shared:,} of these "
                f"{counted(len(first), 'sample')} {be(shared)} among those that the {{}}."
            )
            sentences.setdefault(sentence, []).append(part)
    caveats = [sentence.format(_were(*parts)) for sentence, parts in sentences.items()]
    caveats += [
        f"The guarantee holds only if the {part} were set without these samples: the policy does "
        "not say how."
        for part in _by_hand(policy)
    ]
    return UnusedRows((~used).nonzero()[:, 0], tuple(dict.fromkeys(used_by)), tuple(caveats))


def _by_hand(policy: Policy) -> list[str]:
    """Parts of a policy that its evidence does not explain."""
    parts = _parts(policy.evidence)
    origins = [part for name, part in parts.items() if name.endswith("temperatures")]
    fits = [part.get("fits") for part in origins]
    known = {
        fit.get("temperature")
        for some in fits
        if isinstance(some, Mapping)
        for fit in some.values()
        if isinstance(fit, Mapping)
    }
    explained = known if all(fits) else set(policy.temperatures)  # a search notes no fits
    found = []
    if not {1.0, *explained} >= set(policy.temperatures):
        found.append("temperatures")
    found += [name for name in ("heads", "norms") if getattr(policy, name) and name not in parts]
    if max(policy.floors) > -float("inf") and not {"thresholds", STAGES} & set(parts):
        found.append("floors")
    return found
