"""Answers of a cascade, written while it runs and taken up again where it was interrupted.

The windows of the stream are independent of each other, so each is a part of its own. A run that
finds parts of an earlier one leaves these windows out. At the end the parts become one file, in the
order of the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from lit_cascade.data import EvaluationData
from lit_cascade.errors import CascadeError
from lit_cascade.lit.answers import AnswerFiles, Answers, unfinished
from lit_cascade.lit.failures import explained
from lit_cascade.lit.resume import without_workers
from lit_cascade.records import Ids

if TYPE_CHECKING:
    from lit_cascade.lit.cascade import LitCascade
    from lit_cascade.lit.reading import ReadingTrainer, Sight
    from lit_cascade.lit.recording import Configs

__all__ = ["AnswerWriter", "Finish", "answer_split"]

Finish = Callable[[Answers], None]
"""Called with what was written, before the run counts as finished."""


class AnswerWriter(Callback):
    """Writes each window of answers that a test loop returns as a part.

    Args:
        files: for the parts.
        data: that the loop reads.
        classes: given the number of logits, names in their order.
    """

    def __init__(
        self,
        files: AnswerFiles,
        data: EvaluationData,
        classes: Callable[[int], Sequence[str]],
    ) -> None:
        self._files, self._data, self._classes = files, data, classes
        self._window_of: dict[int, int] = {}
        self._left_out: dict[int, str] = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write what is complete."""
        del trainer
        self._left_out |= dict(batch.left_out)
        if outputs is None:
            return
        rows = {key: value.detach().cpu() for key, value in outputs.items()}
        positions = rows["positions"]
        there = positions.where(positions >= 0, ~positions)
        lost = torch.tensor([position in self._left_out for position in there.tolist()])
        windows = self._windows(there)
        for window in windows[(positions >= 0) | lost].unique().tolist():
            here = windows == window
            gone = {int(at): self._left_out[int(at)] for at in there[here & lost]}
            mine = here & (positions >= 0)
            columns = self._columns({key: value[mine] for key, value in rows.items()})
            self._files.write(window, columns, gone, pl_module.fitting())

    def _windows(self, positions: Tensor) -> Tensor:
        if not self._window_of:
            for number, batch in enumerate(self._data.batches):
                for position in batch:
                    self._window_of[position] = number // self._data.window
        return torch.tensor([self._window_of[int(position)] for position in positions])

    def _columns(self, rows: Mapping[str, Tensor]) -> dict[str, Any]:
        order = rows["positions"].sort().indices
        positions = rows["positions"][order]
        ids: Ids = self._data.info.ids if self._data.info is not None else ()
        if isinstance(ids, Tensor):
            named = pa.array(ids[positions].numpy())
        else:  # a window without a readable sample has the type of the others
            named = pa.array([ids[int(i)] for i in positions], pa.string())
        answers = rows["prediction"][order].tolist()
        names = self._classes(int(rows["classes"][0])) if answers else ()
        return {
            "position": pa.array(positions.numpy()),
            "id": named,
            "class": pa.array([names[answer] for answer in answers], pa.string()),
            "probability": pa.array(rows["probability"][order].numpy()),
            "stage": pa.array(rows["stage"][order].numpy().astype("int8")),
            "score": pa.array(rows["score"][order].numpy()),
        }


def answer_split(
    trainer: ReadingTrainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    folder: Path,
    split: str,
    name: str,
    gather: int,
    configs: Configs | None = None,
    finish: Finish | None = None,
) -> Answers | None:
    """Answer every sample of a split; see `CascadeTrainer.answer`."""
    model.check_thresholds()
    sight = trainer.look(model, datamodule, split)
    # each process may have been told another: a new folder is named by what was there
    folder = trainer.strategy.broadcast(folder)
    files = AnswerFiles(folder, name)
    done: set[int] | CascadeError = set()
    if trainer.is_global_zero:
        try:
            done = files.take_up(_plan(trainer, model, sight, name, gather, configs))
        except CascadeError as error:
            done = error
    done = trainer.strategy.broadcast(done)
    if isinstance(done, CascadeError):
        raise done
    kept = f"What was answered is kept: the same command with --out {folder} goes on."
    with explained(kept):
        data = _run(trainer, model, datamodule, split, gather, files, done, sight)
    if not trainer.is_global_zero:
        return None
    order = [position for batch in data.batches for position in batch]
    ids = data.info.ids if data.info is not None else ()
    windows = -(-len(data.batches) // gather)
    found = files.join(windows, model.names, ids, in_order=order == sorted(order))
    old = (batch for i, batch in enumerate(data.batches) if i // gather in done)
    found = replace(found, resumed=sum(map(len, old)))
    if finish is not None:
        finish(found)
    unfinished(folder).remove()
    return found


def _run(
    trainer: ReadingTrainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    split: str,
    gather: int,
    files: AnswerFiles,
    done: set[int],
    sight: Sight,
) -> EvaluationData:
    """Answer the windows that are left, on every process, and return the data."""
    model.metered = False
    try:
        data = trainer.data_for(
            model, datamodule, split, model.preprocessings_to_run(), window=gather
        )
        data.done = done

        def classes(width: int) -> Sequence[str]:
            return sight.classes or model.class_names or [str(c) for c in range(width)]

        with trainer.attached(AnswerWriter(files, data, classes)):
            trainer.test(model, datamodule=data, verbose=False)
    finally:
        model.metered = True
    trainer.strategy.barrier()
    return data


def _plan(
    trainer: ReadingTrainer,
    model: LitCascade,
    sight: Sight,
    name: str,
    gather: int,
    configs: Configs | None,
) -> dict[str, Any]:
    """What the answers depend on."""
    ids = sight.ids.tolist() if isinstance(sight.ids, Tensor) else sight.ids
    return {
        "models": [info["model"] for info in model.stage_info()],
        "policy": json.loads(json.dumps(asdict(model.cascade.policy), default=str)),
        "data": {"ids": hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16], **sight.data},
        "settings": {
            "file": name,
            "gather": gather,
            "batch_size": sight.batch_size,
            "precision": str(trainer.precision),
            "channels_last": model.channels_last,
            "compiled": model.compiled,
        },
        "configs": None if configs is None else {"data": without_workers(configs.data)},
    }
