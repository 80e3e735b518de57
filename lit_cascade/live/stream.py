"""Samples of a stream on their way through a cascade: what waits, what ran, what came of it.

Conditional execution of a stream of batches: what is deferred is gathered into full batches.

A batch of which a tenth is deferred leaves a later stage a tenth of a batch, at which most hardware
is slow. Here the deferred samples of several batches, a *window*, are gathered before the later
stage runs. Windows depend on nothing but the order of the batches, so that the composition of every
batch, and with it every digit of the answers, is the same however windows are dealt to processes.

On a GPU which samples are deferred is read one batch late: while the decision on one batch travels
to the host, the first stage already works on the next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_cascade.errors import UsageError
from lit_cascade.live.batch import Inputs, batch_size, join, map_tensors, signature
from lit_cascade.live.cascade import Cascade, CascadeOutput, Step

__all__ = [
    "GATHER",
    "Answered",
    "Fetch",
    "Observe",
    "Part",
    "Stream",
    "Waiting",
    "Window",
    "answers_of_window",
]


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


GATHER = 8
"""Batches of the first stage whose deferred samples are gathered, unless said otherwise."""

Fetch = Callable[[int, list[list[int]]], Iterator[Inputs]]
"""Given a stage and batches of tags, yields the inputs of that stage, batch by batch; called when
all tags are known, and read one batch at a time, as late as possible, so that it can load ahead."""

Observe = Callable[[int, Inputs], Tensor]
"""Given a stage and the inputs that it is about to run on, something to keep per sample: (N, M)."""


class _Launched(NamedTuple):
    """A batch that a stage was given to run, and how to learn which of its samples it defers."""

    window: Window
    k: int
    part: Part
    step: Step
    mask: Tensor
    event: Any

    def deferred(self) -> Tensor:
        """Numbers of the deferred samples in the batch, on the CPU; waits for the device."""
        if self.event is not None:
            self.event.synchronize()
        return self.mask.cpu().nonzero().squeeze(1)


class Stream:
    """Runs a cascade over a stream of batches.

    At most the deferred samples of two windows are in memory, or of one per stage where inputs are
    fetched.

    Args:
        cascade: its policy may not change while batches are under way.
        gather: batches of the first stage per window.
        batch_size: samples per batch of the later stages; by default that of the first batch.
        fetch: gives the inputs of later stages; without it, those of the first stage's batches are
            kept for the samples that are deferred.
        fetched: the stages that `fetch` is asked for; by default all later ones.
        wait: close a window early when a sample has waited for this many seconds; looked at
            whenever a batch is pushed. The answers' last digits may then depend on timing.
        observe: see `Observe`.

    Raises:
        UsageError: `gather` or `batch_size` below 1.

    Example:
        >>> from lit_cascade import Policy
        >>> cascade = Cascade([torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)], Policy((0.5,)))
        >>> batches = torch.randn(50, 4).split(8)
        >>> sum(len(found.output.stage) for found in Stream(cascade).run(batches))
        50
    """

    def __init__(
        self,
        cascade: Cascade,
        gather: int = GATHER,
        batch_size: int | None = None,
        fetch: Fetch | None = None,
        fetched: Sequence[int] | None = None,
        wait: float | None = None,
        observe: Observe | None = None,
    ) -> None:
        for name, value in (("gather", gather), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected at least 1, got {value}.")
        self._cascade, self._stages = cascade, len(cascade.stages)
        self._gather, self._size, self._wait = gather, batch_size, wait
        self._fetch, self._observe = fetch, observe
        later = range(1, self._stages)
        self._fetched = set(later if fetched is None else fetched) if fetch else set()
        self._pushed = 0
        self._windows: deque[Window] = deque()
        self._launched: deque[_Launched] = deque()

    def run(self, batches: Iterable[Inputs]) -> Iterator[Answered]:
        """Answer batches, in their order."""
        for inputs in batches:
            yield from self.push(inputs)
        yield from self.flush()

    def push(self, inputs: Inputs, tags: Tensor | None = None, extra: Any = None) -> list[Answered]:
        """Add a batch.

        Args:
            inputs: of N samples.
            tags: what `fetch` knows the samples by, (N,) int64 on the CPU; by default their places
                in the stream.
            extra: comes back with the answers.

        Returns:
            The batches whose answers are complete by now, in the order of their pushing.
        """
        n = batch_size(inputs)
        self._size = self._size or n
        window = self._current()
        rows = torch.arange(window.n, window.n + n)
        window.sizes.append(n)
        window.extras.append(extra)
        if tags is None:
            tags = torch.arange(self._pushed, self._pushed + n)
        window.tags.append(tags)
        self._pushed += n
        self._launch(window, 0, Part(rows, inputs, None))
        late = self._wait is not None and (
            window.since is not None and time.monotonic() - window.since > self._wait
        )
        if len(window.sizes) == self._gather or late:
            window.open = False
        self._settle(keep=1)
        self._fetch_some()
        return self._finished()

    def flush(self) -> list[Answered]:
        """Finish everything that was pushed."""
        if self._windows:
            self._windows[-1].open = False
        while self._windows and not all(window.done for window in self._windows):
            self._settle(keep=0)
            self._fetch_some()
        return self._finished()

    def _current(self) -> Window:
        if not self._windows or not self._windows[-1].open:
            waiting = [Waiting() for _ in range(self._stages)]
            seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(self._stages)]
            self._windows.append(Window(waiting, seen, running=[0] * self._stages))
        return self._windows[-1]

    def _launch(self, window: Window, k: int, part: Part) -> None:
        if self._observe is not None:
            window.seen[k].append((part.rows, self._observe(k, part.inputs)))
        step = self._cascade.step(k, part.inputs, part.before)
        # copied: a stage may hand out the same memory again for the next batch
        step = step._replace(output=step.output._replace(logits=step.output.logits.clone()))
        if k == 0:
            window.first.append(step.output)
        else:
            window.later.append((part.rows, step.output))
        if k == self._stages - 1:  # nothing to decide
            return
        window.running[k] += 1
        mask, event = _on_host(step.deferred)
        self._launched.append(_Launched(window, k, part, step, mask, event))

    def _settle(self, keep: int) -> None:
        """Read decisions, all but the newest few, and launch what they complete."""
        while len(self._launched) > keep:
            launched = self._launched.popleft()
            window, k, part = launched.window, launched.k, launched.part
            left = launched.deferred()
            window.running[k] -= 1
            if len(left):
                window.since = window.since or time.monotonic()
                window.waiting[k + 1].add(self._deferred(launched, left))
            self._advance(window)
            del launched, part
        for window in self._windows:
            self._advance(window)

    def _deferred(self, launched: _Launched, left: Tensor) -> Part:
        k, part, step = launched.k, launched.part, launched.step
        everything = len(left) == len(part.rows)
        inputs = None
        if k + 1 not in self._fetched:
            inputs = part.inputs
        index = left.to(step.deferred.device, non_blocking=True)
        if not everything and inputs is not None:
            inputs = map_tensors(inputs, index)
        return Part(part.rows[left], inputs, step if everything else step.take(index))

    def _advance(self, window: Window) -> None:
        """Launch the batches of later stages that are full, or will never be any fuller."""
        size = self._size or 1
        for k in range(1, self._stages):
            waiting = window.waiting[k]
            if k in self._fetched:
                if len(waiting) and window.closed_to(k):
                    parts = []
                    while len(waiting):
                        parts.append(waiting.pop(size))
                    waiting.batches = waiting.left = len(parts)
                    waiting.fetching = self._fetching(window, k, parts)
                continue
            while len(waiting) >= size or (len(waiting) and window.closed_to(k)):
                self._launch(window, k, waiting.pop(size))

    def _fetching(
        self, window: Window, k: int, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Inputs]]:
        if self._fetch is None:  # no stage is among the fetched ones then
            return iter(())
        for earlier in self._windows:  # one at a time for each stage
            self._run_fetched(earlier, k, earlier.waiting[k].left)
        tags = torch.cat(window.tags)
        wanted = [tags[part.rows].tolist() for part in parts]
        return zip(parts, self._fetch(k, wanted), strict=True)

    def _run_fetched(self, window: Window, k: int, batches: int) -> None:
        waiting = window.waiting[k]
        if waiting.fetching is None:
            return
        for _ in range(min(batches, waiting.left)):
            part, inputs = next(waiting.fetching)
            waiting.left -= 1
            self._launch(window, k, part._replace(inputs=inputs))
        if waiting.left == 0:
            waiting.fetching = None

    def _fetch_some(self) -> None:
        """Run so many fetched batches that a window is done by the time that the next one is."""
        for window in self._windows:
            for k in sorted(self._fetched):
                batches = window.waiting[k].batches
                self._run_fetched(window, k, -(-batches // self._gather))
                self._advance(window)

    def _finished(self) -> list[Answered]:
        found: list[Answered] = []
        while self._windows and self._windows[0].done:
            found += answers_of_window(self._windows.popleft())
        return found


def _on_host(deferred: Tensor) -> tuple[Tensor, Any]:
    """A copy on the host, and the event that says when it is there; None where it is already."""
    if deferred.device.type != "cuda":
        return deferred, None
    mask = torch.empty(deferred.shape, dtype=torch.bool, pin_memory=True)
    mask.copy_(deferred, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return mask, event
