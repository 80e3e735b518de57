"""Samples of a stream on their way through a cascade: what waits, what ran, what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_cascade.batch import Inputs, join, map_tensors, signature
from lit_cascade.cascade import CascadeOutput, Step

__all__ = ["Answered", "Part", "Waiting", "Window", "answers_of_window"]


class Answered(NamedTuple):
    """The answers to one batch of the stream.

    Attributes:
        output: in the order of the batch.
        seen: what was observed at each stage, (N, M) each, 0 for samples that it did not run on;
            None for a stage that ran on no sample at all, or without an observer.
        extra: what was pushed with the batch.
    """

    output: CascadeOutput
    seen: tuple[Tensor | None, ...]
    extra: Any


class Part(NamedTuple):
    """Samples of one window, gathered or about to run."""

    rows: Tensor  # their places in the window, on the CPU
    inputs: Inputs  # None where they are to be fetched
    before: Step | None

    def take(self, start: int, end: int) -> Part:
        """Some of them, in order."""
        part = slice(start, end)
        inputs = None if self.inputs is None else map_tensors(self.inputs, part)
        before = None if self.before is None else self.before.take(part)
        return Part(self.rows[part], inputs, before)


class Waiting:
    """Samples that wait for a stage, in the order in which they were deferred."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self.fetching: Iterator[tuple[Part, Inputs]] | None = None
        self.batches = self.left = 0  # that are fetched

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self._parts)

    def add(self, part: Part) -> None:
        """Let more samples wait."""
        self._parts.append(part)

    def pop(self, size: int) -> Part:
        """The first samples that make one batch: at most `size`, and alike in shape."""
        taken: list[Part] = []
        free, shape = size, None
        while self._parts and free:
            first = self._parts[0]
            if first.inputs is not None:
                if shape is not None and signature(first.inputs) != shape:
                    break
                shape = signature(first.inputs)
            taken.append(first.take(0, free) if len(first.rows) > free else first)
            if len(first.rows) > free:
                self._parts[0] = first.take(free, len(first.rows))
            else:
                self._parts.popleft()
            free -= len(taken[-1].rows)
        return taken[0] if len(taken) == 1 else _joined(taken)


@dataclass
class Window:
    """Batches whose deferred samples are gathered together."""

    waiting: list[Waiting]
    seen: list[list[tuple[Tensor, Tensor]]]
    sizes: list[int] = field(default_factory=list)
    extras: list[Any] = field(default_factory=list)
    tags: list[Tensor] = field(default_factory=list)
    first: list[CascadeOutput] = field(default_factory=list)
    later: list[tuple[Tensor, CascadeOutput]] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    open: bool = True
    since: float | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return sum(self.sizes)

    def closed_to(self, k: int) -> bool:
        """Whether nothing more can be deferred to stage k."""
        return (
            not self.open
            and not any(self.running[:k])
            and all(not len(one) and one.fetching is None for one in self.waiting[:k])
        )

    @property
    def done(self) -> bool:
        """Whether every sample has its answer, or is about to get it."""
        return self.closed_to(len(self.waiting))


def _joined(parts: Sequence[Part]) -> Part:
    befores = [part.before for part in parts if part.before is not None]
    before = None
    if befores:
        memories = [one.memory for one in befores if one.memory is not None]
        before = Step(
            CascadeOutput(*map(torch.cat, zip(*(one.output for one in befores), strict=True))),
            torch.cat([one.deferred for one in befores]),
            torch.cat(memories) if memories else None,
        )
    inputs = None if parts[0].inputs is None else join([part.inputs for part in parts])
    return Part(torch.cat([part.rows for part in parts]), inputs, before)


def answers_of_window(window: Window) -> list[Answered]:
    """The answers to each batch of a window."""
    whole = CascadeOutput(*map(torch.cat, zip(*window.first, strict=True)))
    for rows, output in window.later:
        index = rows.to(whole.stage.device, non_blocking=True)
        for column, part in zip(whole, output, strict=True):
            column[index] = part
    seen = tuple(_scattered(observed, window.n) for observed in window.seen)
    found, start = [], 0
    for size, extra in zip(window.sizes, window.extras, strict=True):
        end = start + size
        output = CascadeOutput(*(column[start:end] for column in whole))
        kept = tuple(None if values is None else values[start:end] for values in seen)
        found.append(Answered(output, kept, extra))
        start = end
    return found


def _scattered(observed: Sequence[tuple[Tensor, Tensor]], n: int) -> Tensor | None:
    if not observed:
        return None
    _, some = observed[0]
    column = some.new_zeros((n, *some.shape[1:]))
    for rows, values in observed:
        column[rows.to(values.device)] = values
    return column
