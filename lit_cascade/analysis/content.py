"""Recognising samples by the logits that were recorded for them, where ids cannot tell."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_cascade.errors import CascadeError
from lit_cascade.records import Record
from lit_cascade.utilities.mapped import row_slices

_ROWS = 512
"""Samples of which logits are read at once."""

_COLUMNS = 4
"""Logits per stage that are hashed: classes at equal distances."""

_PRECISIONS = (4, 6, 8, 11, 24)
"""Significant bits of a logit, coarsest first: the fewer, the more samples are recognised when a
model runs again on other hardware. 11 bits are those of float16, 24 those of float32."""

_FEW = 0.001
"""Share of the samples that a coarser precision may confuse."""

_TELLING = 0.05
"""Share of repeated rows above which equal logits do not identify a sample."""

_ALPHA = 0.001
_HASHES = 2**32
_LARGEST = 2**31  # bytes; a damaged file must not fill the memory


@dataclass(frozen=True)
class Contents:
    """Hashes of what was recorded for some samples, in one number of 32 bits each.

    A hash is of a few logits of every stage, or of its predictions and scores where there are no
    logits. Labels and ids are not part of it.

    Attributes:
        stages: names of the stages.
        bits: significant bits of each logit.
        n: number of samples.
        repeated: number of samples that have their hash in common with another.
        hashes: distinct hashes in rising order, uint32.
    """

    stages: tuple[str, ...]
    bits: int
    n: int
    repeated: int
    hashes: NDArray[np.uint32]

    @classmethod
    def of(cls, records: Sequence[Record], rows: Tensor | None = None) -> Contents:
        """Hash samples, in the coarsest precision that tells them apart as well as the finest.

        Args:
            records: one per stage.
            rows: positions of the samples, (M,) int64; by default all.
        """
        stages, found = tuple(one.name for one in records), []
        for bits in _PRECISIONS if _exact(records) else _PRECISIONS[:-1]:
            hashes = _hashes(records, bits)
            if rows is not None:
                hashes = hashes[rows.numpy()]
            distinct, counts = np.unique(hashes, return_counts=True)
            repeated = int(counts[counts > 1].sum())
            found.append(cls(stages, bits, len(hashes), repeated, distinct))
        most = found[-1].repeated + _FEW * len(hashes)
        return next(one for one in found if one.repeated <= most)

    @property
    def chance(self) -> float:
        """Probability that a new sample has the hash of one of these without being one of them.

        The estimate of Good and Turing (Biometrika 40, 1953): the share of the samples that are
        repeated, rounded up; and two numbers of 32 bits may be equal.
        """
        return min(1.0, (self.repeated + 1) / (self.n + 1) + len(self.hashes) / _HASHES)

    def find(self, records: Sequence[Record]) -> tuple[Tensor, bool] | None:
        """Samples of other records that are among these.

        Returns:
            Whether the hash of each sample is among these, (N,) bool, and whether there are more
            than repeated content explains (binomial test, 0.1 %). None if that cannot be told: a
            stage or precision is missing, or content repeats too often to identify a sample.
        """
        by_name = {record.name: record for record in records}
        if not by_name.keys() >= set(self.stages):
            return None
        stages = [by_name[name] for name in self.stages]
        if self.bits == _PRECISIONS[-1] and not _exact(stages):
            return None
        hashes = _hashes(stages, self.bits)
        found = np.isin(hashes, self.hashes)
        shared = len(np.unique(hashes[found]))
        if not shared:
            return torch.from_numpy(found), False
        from scipy.special import bdtrc  # noqa: PLC0415 - scipy takes a while to load

        beyond = bool(bdtrc(shared - 1, len(hashes), self.chance) < _ALPHA)
        return (torch.from_numpy(found), beyond) if beyond or self.chance <= _TELLING else None

    def to_plain(self) -> dict[str, Any]:
        """The hashes as plain values: differences of neighbours, compressed, in base 64."""
        gaps = np.diff(self.hashes, prepend=np.uint32(0)).astype("<u4")
        planes = gaps.view(np.uint8).reshape(-1, 4).T.tobytes()  # alike bytes compress together
        return {
            "stages": list(self.stages),
            "bits": self.bits,
            "repeated": self.repeated,
            "hashes": base64.b64encode(zlib.compress(planes, 9)).decode(),
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any], n: int) -> Contents:
        """The inverse of `to_plain`.

        Raises:
            CascadeError: the values are damaged.
        """
        try:
            packed = base64.b64decode(str(values["hashes"]), validate=True)
            planes = zlib.decompressobj().decompress(packed, _LARGEST)
            gaps = np.frombuffer(planes, np.uint8).reshape(4, -1).T.copy().view("<u4")[:, 0]
            return cls(
                stages=tuple(map(str, values["stages"])),
                bits=_PRECISIONS[_PRECISIONS.index(values["bits"])],
                n=n,
                repeated=int(values["repeated"]),
                hashes=gaps.cumsum(dtype=np.uint32),
            )
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise CascadeError(
                "policy.evidence: the hashes of the samples that it was fitted on are damaged."
            ) from error


def _exact(records: Sequence[Record]) -> bool:
    """Whether logits are in float32."""
    return all(one.logits is None or one.logits.dtype == torch.float32 for one in records)


def _hashes(records: Sequence[Record], bits: int) -> NDArray[np.uint32]:
    """A hash of each sample, (N,) uint32, from its logits in a number of significant bits.

    Without logits it is of recorded scores and predictions.
    """
    mixed = np.zeros(len(records[0]), np.uint64)
    for record in records:
        for column in _columns(record, bits):
            mixed = _mixed(mixed * np.uint64(3) + column + np.uint64(1))
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _columns(record: Record, bits: int) -> Iterator[NDArray[np.uint32]]:
    """What a record says of each sample in a number of significant bits, each (N,) uint32."""
    if record.logits is None and record.prediction is not None:
        yield record.prediction.numpy().astype(np.uint32)
    score = None if record.score is None else record.score[:, None]
    values = score if record.logits is None else record.logits
    if values is None:
        return
    classes = values.shape[1]
    columns = torch.linspace(0, classes - 1, min(classes, _COLUMNS)).round().long()
    some = torch.cat([block[:, columns] for block in row_slices(values, _ROWS)])
    spared = 24 - bits
    whole = (some.half() if spared else some).float().numpy().view(np.uint32)
    if spared:
        whole = (whole + np.uint32(1 << (spared - 1))) >> np.uint32(spared)
    yield from whole.T


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3: each bit of a number depends on all of its bits."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))
