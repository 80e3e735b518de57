"""The progress of a command that runs models: what it does, and how many samples are done."""

from __future__ import annotations

import sys
import time
from itertools import accumulate, islice
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from lit_cascade.report import inform
from lit_cascade.utilities.text import printable
from lit_cascade.utilities.units import counted

_PHRASES = {
    "fit": "Evaluating on {}",
    "test": "Testing on {}",
    "predict": "Predicting {}",
    "benchmark": "Timing on {}",
}
"""What a command does with a split; the others record it."""
_EVERY = 60.0
"""Seconds between two lines where stderr is no terminal."""


class SampleProgress(ProgressBar):
    """A bar on stderr that says what is done and counts the samples of all processes.

    Where stderr is no terminal it writes one line a minute instead.

    Args:
        command: name of the command.

    Attributes:
        doing: what is done with a split, instead of the command's phrase.
    """

    def __init__(self, command: str) -> None:
        super().__init__()
        self.doing: str | None = None
        self._phrase = _PHRASES.get(command, "Recording {}")
        self._enabled = True
        self._bar: Progress | None = None
        self._tasks: dict[str, tuple[TaskID | None, str, _Samples]] = {}
        self._told = time.monotonic()

    def disable(self) -> None:
        """Show nothing: another process does."""
        self._enabled = False

    def enable(self) -> None:
        """Show the progress."""
        self._enabled = True

    def report(self, done: int, total: int) -> None:
        """Show the progress of a loop whose only step does all the work.

        Args:
            done: number of samples so far.
            total: number of all samples.
        """
        if "validation" in self._tasks:
            task, doing, _ = self._tasks["validation"]
            self._tasks["validation"] = task, doing, _Samples([total], total)
            self._show("validation", done)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin an epoch."""
        del pl_module
        of = "" if trainer.max_epochs in {None, -1} else f" of {trainer.max_epochs}"
        doing = f"Training, epoch {trainer.current_epoch + 1}{of}"
        self._begin("train", doing, trainer.train_dataloader, self.total_train_batches)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin to read a split."""
        del pl_module
        batches = sum(map(float, trainer.num_val_batches))
        if batches and not trainer.sanity_checking:
            self._begin("validation", self._describe(trainer), trainer.val_dataloaders, batches)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin to read a split."""
        del pl_module
        batches = sum(map(float, trainer.num_test_batches))
        self._begin("test", self._describe(trainer), trainer.test_dataloaders, batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and show what was logged to the bar."""
        del outputs, batch
        samples = self._tasks["train"][2] if "train" in self._tasks else None
        if samples is not None:
            metrics = self.get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            shown = (f"{key} {value:.3f}" for key, value in metrics.items() if _is_number(value))
            self._show("train", samples.after(batch_idx + 1), ", ".join(shown))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Count a batch."""
        del trainer, pl_module, outputs, batch
        self._count("validation", batch_idx)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Count a batch."""
        del trainer, pl_module, outputs, batch
        self._count("test", batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Remove the bar of a validation within a training."""
        del pl_module
        if trainer.training or "train" in self._tasks:
            task = self._tasks.pop("validation", (None,))[0]
            if self._bar is not None and task is not None:
                self._bar.remove_task(task)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        del trainer, pl_module, exception
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Leave the bars as they are."""
        del trainer, pl_module, stage
        self._stop()

    def _describe(self, trainer: Trainer) -> str:
        data = getattr(trainer, "datamodule", None)
        split = getattr(data, "validate_on", None) or getattr(data, "split", "the data")
        return self.doing or self._phrase.format(split)

    def _begin(self, loop: str, doing: str, loader: Any, batches: float) -> None:
        if not self._enabled:
            return
        samples = _samples(loader, batches, self.trainer.world_size)
        task = None
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    _Done(),
                    TimeRemainingColumn(elapsed_when_finished=True),
                    _Speed(),
                    TextColumn("{task.fields[metrics]}"),
                    console=Console(stderr=True),
                    redirect_stdout=False,
                )
                self._bar.start()
            if loop in self._tasks:
                self._bar.remove_task(self._tasks[loop][0] or TaskID(0))
            task = self._bar.add_task(escape(printable(doing)), total=samples.total, metrics="")
        self._tasks[loop] = task, doing, samples

    def _count(self, loop: str, batch: int) -> None:
        if loop in self._tasks:
            self._show(loop, self._tasks[loop][2].after(batch + 1))

    def _show(self, loop: str, done: int, metrics: str = "") -> None:
        task, doing, samples = self._tasks[loop]
        if self._bar is not None and task is not None:
            self._bar.update(task, completed=done, total=samples.total, metrics=escape(metrics))
        elif time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            inform(f"{doing}: {done:,} of {counted(samples.total, 'sample')}. {metrics}".rstrip())

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}


class _Samples(NamedTuple):
    """Samples of a loop.

    Attributes:
        done: number of them after each batch of this process.
        total: number of all of them.
    """

    done: list[int]
    total: int

    def after(self, batches: int) -> int:
        """Number of samples of all processes after some batches of this one."""
        batches = min(batches, len(self.done))
        return round(self.done[batches - 1] / self.done[-1] * self.total) if batches else 0


def _samples(loader: Any, batches: float, processes: int) -> _Samples:
    """The samples of some batches of a loader; one each where their number is unknown."""
    sampler: Any = getattr(loader, "sampler", None)
    dealt = getattr(sampler, "batches", None)  # of all processes; the sampler gives those of one
    size = getattr(loader, "batch_size", None) or getattr(
        getattr(loader, "batch_sampler", None), "batch_size", None
    )
    if batches == float("inf"):
        batches = 0
    if dealt is not None:
        done = list(accumulate(map(len, islice(iter(sampler), int(batches)))))
        return _Samples(done, min(processes * done[-1], sum(map(len, dealt))) if done else 0)
    try:
        own = min(len(sampler), int(batches) * (size or 1)) if size else int(batches)
    except TypeError:
        own = int(batches) * (size or 1)
    done = [min((k + 1) * (size or 1), own) for k in range(int(batches))]
    return _Samples(done, processes * own)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


class _Done(ProgressColumn):
    """Samples that are done, of all."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The cell."""
        return Text(f"{int(task.completed):,}/{counted(int(task.total or 0), 'sample')}")


class _Speed(ProgressColumn):
    """Samples per second."""

    def render(self, task: Task) -> Text:
        """The cell."""
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.3g}/s" if speed < 100 else f"{speed:,.0f}/s"
        )
