"""Batches of samples of similar length, for little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, SequentialSampler

_GROUP = 50
_LEAST_GROUPS = 4


class LengthBuckets(BatchSampler):
    """Batches of samples of similar length.

    If the sampler shuffles, its samples are sorted by length within groups of 50 batches, or four
    groups if there are fewer, and all batches are then shuffled: the composition of batches changes
    with every epoch. Otherwise all samples are sorted, the longest first and those of equal length
    in the sampler's order: a batch that does not fit into memory comes first.

    For several processes Lightning creates another instance in each, with a sampler of that
    process's samples. All have the same number of batches, of similar length in every step.

    Args:
        sampler: positions of the samples.
        batch_size: samples per batch.
        drop_last: drop the incomplete batch: the last samples of a sampler that shuffles, otherwise
            the shortest.
        lengths: lengths of all samples, by position.
        seed: seed of the order of batches if the sampler shuffles.

    Examples:
        >>> from torch.utils.data import SequentialSampler
        >>> lengths = [3, 9, 1, 8, 3]
        >>> list(LengthBuckets(SequentialSampler(lengths), 2, False, lengths=lengths))
        [[1, 3], [0, 4], [2]]
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        drop_last: bool,  # noqa: FBT001 - as Lightning calls it
        lengths: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.lengths = lengths
        self._seed = seed
        self._begun = 0

    def in_order(self) -> list[list[int]]:
        """Batches of the sampler's samples for evaluation, as if it did not shuffle."""
        return self._cut(sorted(int(position) for position in self.sampler))

    def _cut(self, positions: Sequence[int]) -> list[list[int]]:
        ordered = sorted(positions, key=lambda i: -self.lengths[i])  # a stable sort
        return [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        order = [int(position) for position in self.sampler]
        size = self.batch_size
        shuffles = _shuffles(self.sampler)
        whole = len(order) // size * size
        if self.drop_last and shuffles:
            del order[whole:]
        group = max(len(order), 1)
        if shuffles:  # in a single group the same samples would share a batch in every epoch
            group = max(1, min(_GROUP, whole // size // _LEAST_GROUPS)) * size
        batches = []
        for start in range(0, len(order), group):
            batches += self._cut(order[start : start + group])
        if not shuffles:
            return iter(batches[: len(self)])
        # all processes draw the same order: their batches of a step are of similar length
        epoch = int(getattr(self.sampler, "epoch", self._begun))
        self._begun += 1
        generator = torch.Generator().manual_seed(self._seed + epoch)
        drawn = torch.randperm(len(batches), generator=generator).tolist()
        return iter([batches[i] for i in drawn])


def _shuffles(sampler: Any) -> bool:
    if isinstance(sampler, DistributedSampler):
        return bool(sampler.shuffle)
    return not isinstance(sampler, SequentialSampler)
