"""Live execution over a stream of batches: deferred samples are gathered into full batches.

If a tenth of a batch is deferred, the next stage gets a tenth of a batch, at which most hardware is
slow. Here the deferred samples of several batches, a *window*, are gathered before the next stage
runs. Windows depend on the order of the batches only, so that the composition of every batch, and
every digit of the answers, is the same however windows are dealt to processes.

On a GPU the deferrals of a batch are read one batch late: while they are copied to the host, the
first stage already runs on the next batch.
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
from lit_cascade.live.batch import Inputs, batch_size, index_batch, join_batches, shape_key
from lit_cascade.live.cascade import Cascade, CascadeOutput, Step


class StreamOutput(NamedTuple):
    """Answers to one batch of a stream.

    Attributes:
        output: answers in the order of the batch.
        seen: values of the observer at each stage, (N, M) each, 0 for samples that it did not run
            on; None for a stage that ran on no sample at all, or without an observer.
        extra: the object that was pushed with the batch.
    """

    output: CascadeOutput
    seen: tuple[Tensor | None, ...]
    extra: Any


class WindowPart(NamedTuple):
    """Samples of one window that wait for a stage or run on it.

    Attributes:
        rows: positions in the window, (N,) int64 on the CPU.
        inputs: a batch of N samples; None where it is to be fetched.
        before: step of the previous stage; None for the first stage.
    """

    rows: Tensor
    inputs: Inputs
    before: Step | None

    def take(self, start: int, end: int) -> WindowPart:
        """Select consecutive samples."""
        part = slice(start, end)
        inputs = None if self.inputs is None else index_batch(self.inputs, part)
        before = None if self.before is None else self.before.take(part)
        return WindowPart(self.rows[part], inputs, before)


class StageQueue:
    """Samples of a window that wait for a stage, in the order in which they were deferred.

    Attributes:
        parts: the samples.
        fetching: batches whose inputs are being fetched, if any.
        batches: number of batches to fetch.
        left: number of batches still to fetch.
    """

    def __init__(self) -> None:
        self.parts: deque[WindowPart] = deque()
        self.fetching: Iterator[tuple[WindowPart, Inputs]] | None = None
        self.batches = self.left = 0

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    def pop(self, size: int) -> WindowPart:
        """Remove and return the next batch: at most `size` samples, of one shape."""
        taken: list[WindowPart] = []
        free, shape = size, None
        while self.parts and free:
            first = self.parts[0]
            if first.inputs is not None:
                if shape is not None and shape_key(first.inputs) != shape:
                    break
                shape = shape_key(first.inputs)
            taken.append(first.take(0, free) if len(first.rows) > free else first)
            if len(first.rows) > free:
                self.parts[0] = first.take(free, len(first.rows))
            else:
                self.parts.popleft()
            free -= len(taken[-1].rows)
        return taken[0] if len(taken) == 1 else _joined(taken)


@dataclass
class Window:
    """Batches whose deferred samples are gathered together.

    Attributes:
        waiting: queue of each stage.
        seen: per stage, pairs of rows and the values of the observer.
        sizes: number of samples of each batch.
        extras: object that was pushed with each batch.
        tags: tags of the samples of each batch.
        first: outputs of the first stage, by batch.
        later: pairs of rows and the output of a later stage on them.
        running: number of batches launched at each stage whose deferrals are not known yet.
        open: whether more batches may be added.
        since: time at which the first sample was deferred.
    """

    waiting: list[StageQueue]
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
        """Whether no more samples can be deferred to stage k."""
        return (
            not self.open
            and not any(self.running[:k])
            and all(not len(one) and one.fetching is None for one in self.waiting[:k])
        )

    @property
    def done(self) -> bool:
        """Whether every stage has been launched on all of its samples."""
        return self.closed_to(len(self.waiting))


def _joined(parts: Sequence[WindowPart]) -> WindowPart:
    befores = [part.before for part in parts if part.before is not None]
    before = Step.join(befores) if befores else None
    inputs = None if parts[0].inputs is None else join_batches([part.inputs for part in parts])
    return WindowPart(torch.cat([part.rows for part in parts]), inputs, before)


def answers_of_window(window: Window) -> list[StreamOutput]:
    """Answers to each batch of a window."""
    whole = CascadeOutput(*map(torch.cat, zip(*window.first, strict=True)))
    for rows, output in window.later:
        index = rows.to(whole.stage.device, non_blocking=True)
        for column, part in zip(whole, output, strict=True):
            column[index] = part
    seen = tuple(_scattered(observed, window.n) for observed in window.seen)
    outputs, start = [], 0
    for size, extra in zip(window.sizes, window.extras, strict=True):
        end = start + size
        output = CascadeOutput(*(column[start:end] for column in whole))
        kept = tuple(None if values is None else values[start:end] for values in seen)
        outputs.append(StreamOutput(output, kept, extra))
        start = end
    return outputs


def _scattered(observed: Sequence[tuple[Tensor, Tensor]], n: int) -> Tensor | None:
    """Values (n, M) of the observer by row of the window, 0 where there are none."""
    if not observed:
        return None
    column = observed[0][1].new_zeros((n, *observed[0][1].shape[1:]))
    for rows, values in observed:
        column[rows.to(values.device)] = values
    return column


GATHER = 8
"""Default number of batches per window."""

Fetch = Callable[[int, list[list[int]]], Iterator[Inputs]]
"""Maps a stage and batches of tags to an iterator over the inputs of that stage, batch by batch. It
is called when all tags are known and read one batch at a time, as late as possible, so that it can
load ahead."""

Observe = Callable[[int, Inputs], Tensor]
"""Maps a stage and the inputs that it is about to run on to values to keep per sample, (N, M)."""


class _Launched(NamedTuple):
    """A batch that was launched at a stage.

    Attributes:
        window: its window.
        k: number of the stage.
        part: its samples.
        step: step of the stage, perhaps still running on the device.
        mask: which samples are deferred, (N,) bool on the host once `event` has happened.
        event: event of the device, or None.
    """

    window: Window
    k: int
    part: WindowPart
    step: Step
    mask: Tensor
    event: Any

    def deferred(self) -> Tensor:
        """Row numbers of the deferred samples, on the CPU; waits for the device."""
        if self.event is not None:
            self.event.synchronize()
        return self.mask.cpu().nonzero().squeeze(1)


class Stream:
    """Run a cascade over a stream of batches.

    Memory holds the deferred samples of at most two windows, or of one window per stage where
    inputs are fetched.

    Args:
        cascade: the cascade; its policy must not change while batches are under way.
        gather: number of batches of the first stage per window.
        batch_size: samples per batch of the later stages; by default that of the first batch.
        fetch: loads the inputs of later stages; by default the inputs of deferred samples are kept
            from the batches of the first stage.
        fetched: numbers of the stages whose inputs are fetched; by default all later ones.
        wait: close a window early if a sample has waited for this many seconds when a batch is
            pushed. The last digits of the answers may then depend on timing.
        observe: values to keep of each sample at each stage; see `Observe`.

    Raises:
        UsageError: `gather` or `batch_size` below 1.

    Examples:
        >>> from lit_cascade import Policy
        >>> cascade = Cascade([torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)], Policy((0.5,)))
        >>> batches = torch.randn(50, 4).split(8)
        >>> sum(len(one.output.stage) for one in Stream(cascade).run(batches))
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

    def run(self, batches: Iterable[Inputs]) -> Iterator[StreamOutput]:
        """Answer batches in their order."""
        for inputs in batches:
            yield from self.push(inputs)
        yield from self.flush()

    def push(
        self, inputs: Inputs, tags: Tensor | None = None, extra: Any = None
    ) -> list[StreamOutput]:
        """Add a batch.

        Args:
            inputs: a batch of N samples.
            tags: identifiers for `fetch`, (N,) int64 on the CPU; by default positions in the
                stream.
            extra: any object; returned with the answers.

        Returns:
            Answers to the batches that are complete by now, in the order in which they were pushed.
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
        self._launch(window, 0, WindowPart(rows, inputs, None))
        late = self._wait is not None and (
            window.since is not None and time.monotonic() - window.since > self._wait
        )
        if len(window.sizes) == self._gather or late:
            window.open = False
        self._settle(keep=1)
        self._fetch_some()
        return self._finished()

    def flush(self) -> list[StreamOutput]:
        """Finish all batches that were pushed; returns the remaining answers."""
        if self._windows:
            self._windows[-1].open = False
        while self._windows and not all(window.done for window in self._windows):
            self._settle(keep=0)
            self._fetch_some()
        return self._finished()

    def _current(self) -> Window:
        if not self._windows or not self._windows[-1].open:
            waiting = [StageQueue() for _ in range(self._stages)]
            seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(self._stages)]
            self._windows.append(Window(waiting, seen, running=[0] * self._stages))
        return self._windows[-1]

    def _launch(self, window: Window, k: int, part: WindowPart) -> None:
        if self._observe is not None:
            window.seen[k].append((part.rows, self._observe(k, part.inputs)))
        step = self._cascade.step(k, part.inputs, part.before)
        # copied: a stage may reuse the memory of its output for the next batch
        step = step._replace(output=step.output._replace(logits=step.output.logits.clone()))
        if k == 0:
            window.first.append(step.output)
        else:
            window.later.append((part.rows, step.output))
        if step.deferred is None:
            return
        window.running[k] += 1
        mask, event = _on_host(step.deferred)
        self._launched.append(_Launched(window, k, part, step, mask, event))

    def _settle(self, keep: int) -> None:
        """Read the deferrals of all but the `keep` newest batches; launch full batches."""
        while len(self._launched) > keep:
            launched = self._launched.popleft()
            window, k, part = launched.window, launched.k, launched.part
            rows = launched.deferred()
            window.running[k] -= 1
            if len(rows):
                window.since = window.since or time.monotonic()
                window.waiting[k + 1].parts.append(self._deferred(launched, rows))
            self._advance(window)
            del launched, part
        for window in self._windows:
            self._advance(window)

    def _deferred(self, launched: _Launched, rows: Tensor) -> WindowPart:
        """Samples of a launched batch that go to the next stage."""
        part, step = launched.part, launched.step
        inputs = None if launched.k + 1 in self._fetched else part.inputs
        if len(rows) == len(part.rows):
            return WindowPart(part.rows, inputs, step)
        index = rows.to(step.output.stage.device, non_blocking=True)
        if inputs is not None:
            inputs = index_batch(inputs, index)
        return WindowPart(part.rows[rows], inputs, step.take(index))

    def _advance(self, window: Window) -> None:
        """Launch the batches of later stages that are full or cannot get fuller."""
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
        self, window: Window, k: int, parts: Sequence[WindowPart]
    ) -> Iterator[tuple[WindowPart, Inputs]]:
        """Fetch the inputs of a window's batches at stage k, after those of earlier windows."""
        if self._fetch is None:  # then `_fetched` is empty
            return iter(())
        for earlier in self._windows:  # a stage fetches for one window at a time
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
        """Run the share of fetched batches that is due by now, spread over the next window."""
        for window in self._windows:
            for k in sorted(self._fetched):
                batches = window.waiting[k].batches
                self._run_fetched(window, k, -(-batches // self._gather))
                self._advance(window)

    def _finished(self) -> list[StreamOutput]:
        outputs: list[StreamOutput] = []
        while self._windows and self._windows[0].done:
            outputs += answers_of_window(self._windows.popleft())
        return outputs


def _on_host(deferred: Tensor) -> tuple[Tensor, Any]:
    """A copy on the host, and the event after which it is complete; None if it already is."""
    if deferred.device.type != "cuda":
        return deferred, None
    mask = torch.empty(deferred.shape, dtype=torch.bool, pin_memory=True)
    mask.copy_(deferred, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return mask, event
