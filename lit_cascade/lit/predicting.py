"""Answers of a cascade, written while it runs and taken up again where it was interrupted.

The windows of the stream are independent of each other, so each is a part of its own: a file that
is there whole or not at all. A run that finds parts of an earlier one leaves these windows out. At
the end the parts become one file, in the order of the data.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from lit_cascade.data.evaluation import EvaluationData
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.files import write_atomically
from lit_cascade.samples import Ids

if TYPE_CHECKING:
    from lit_cascade.lit.cascade import LitCascade
    from lit_cascade.lit.reading import ReadingTrainer, Sight
    from lit_cascade.lit.recording import Configs

__all__ = ["PARTS", "AnswerWriter", "Answers", "answer_split"]

PARTS = "predictions.parts"
"""The folder of what is finished, beside where the whole will be."""

_PLAN = "plan.json"


@dataclass(frozen=True)
class Answers:
    """What was written.

    Attributes:
        n: number of samples that were answered.
        by_stage: how many each stage answered.
        left_out: position and reason of samples that could not be read.
        resumed: how many of the answers an earlier run had given.
    """

    n: int
    by_stage: tuple[int, ...]
    left_out: tuple[tuple[Any, str], ...]
    resumed: int


def _part(folder: Path, window: int) -> Path:
    return folder / PARTS / f"{window:08d}.parquet"


def _taken_up(folder: Path, plan: Mapping[str, Any]) -> set[int]:
    """The windows that an earlier run has finished; starts the folder of parts if there is none.

    Args:
        folder: where the predictions will be.
        plan: what the answers depend on, plain JSON; the earlier run must have had the same.

    Raises:
        UsageError: an earlier run had other models, data or settings.
    """
    path = folder / PARTS / _PLAN
    if not path.exists():
        write_atomically(path, (json.dumps(plan, indent=2, sort_keys=True) + "\n").encode())
        return set()
    try:
        earlier = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(
            f"--out: {str(path)!r} is damaged; remove {str(path.parent)!r}."
        ) from error
    wanted = json.loads(json.dumps(plan))
    differ = sorted(key for key in {*earlier, *wanted} if earlier.get(key) != wanted.get(key))
    if differ:
        key = differ[0]
        raise UsageError(
            f"--out: {str(folder)!r} holds an interrupted run with another {key}: "
            f"{_short(earlier.get(key))}, now {_short(wanted.get(key))}. Choose another folder, or "
            "add --overwrite to start anew."
        )
    return {int(one.stem) for one in path.parent.glob("*.parquet") if one.stem.isdecimal()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class AnswerWriter(Callback):
    """Writes each window of answers that a test loop returns as a part.

    Args:
        folder: for the parts.
        data: that the loop reads.
        classes: given the number of logits, names in their order.
    """

    def __init__(
        self,
        folder: Path,
        data: EvaluationData,
        classes: Callable[[int], Sequence[str]],
    ) -> None:
        self._folder, self._data, self._classes = folder, data, classes
        self._window_of: dict[int, int] = {}
        self._left_out: dict[int, str] = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write what is complete."""
        del trainer, pl_module
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
            self._write(window, {key: value[mine] for key, value in rows.items()}, gone)

    def _windows(self, positions: Tensor) -> Tensor:
        if not self._window_of:
            for number, batch in enumerate(self._data.batches):
                for position in batch:
                    self._window_of[position] = number // self._data.window
        return torch.tensor([self._window_of[int(position)] for position in positions])

    def _write(self, window: int, rows: Mapping[str, Tensor], gone: Mapping[int, str]) -> None:
        order = rows["positions"].sort().indices
        positions = rows["positions"][order]
        ids: Ids = self._data.info.ids if self._data.info is not None else ()
        named = (
            ids[positions].tolist() if isinstance(ids, Tensor) else [ids[int(i)] for i in positions]
        )
        answers = rows["prediction"][order].tolist()
        names = self._classes(int(rows["classes"][0])) if answers else ()
        table = pa.table(
            {
                "position": pa.array(positions.numpy()),
                "id": pa.array(named),
                "class": pa.array([names[answer] for answer in answers], pa.string()),
                "probability": pa.array(rows["probability"][order].numpy()),
                "stage": pa.array(rows["stage"][order].numpy().astype("int8")),
                "score": pa.array(rows["score"][order].numpy()),
            }
        )
        table = table.replace_schema_metadata({"left_out": json.dumps(gone)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomically(_part(self._folder, window), buffer.getvalue())


def answer_split(
    trainer: ReadingTrainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    folder: Path,
    split: str,
    name: str,
    gather: int,
    configs: Configs | None = None,
) -> Answers | None:
    """Answer every sample of a split; see `CascadeTrainer.answer`."""
    model.check_thresholds()
    sight = trainer.look(model, datamodule, split)
    # each process may have been told another: a new folder is named by what was there
    folder = trainer.strategy.broadcast(folder)
    done: set[int] | CascadeError = set()
    if trainer.is_global_zero:
        try:
            done = _taken_up(folder, _plan(trainer, model, sight, name, gather, configs))
        except CascadeError as error:
            done = error
    done = trainer.strategy.broadcast(done)
    if isinstance(done, CascadeError):
        raise done
    model.metered = False
    try:
        data = trainer.data_for(
            model, datamodule, split, model.preprocessings_to_run(), window=gather
        )
        data.done = done

        def classes(width: int) -> Sequence[str]:
            return sight.classes or model.class_names or [str(c) for c in range(width)]

        writer = AnswerWriter(folder, data, classes)
        with trainer.attached(writer):
            trainer.test(model, datamodule=data, verbose=False)
    finally:
        model.metered = True
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        return None
    order = [position for batch in data.batches for position in batch]
    ids = data.info.ids if data.info is not None else ()
    windows = -(-len(data.batches) // gather)
    found = _join_parts(folder, windows, model.names, ids, name, in_order=order == sorted(order))
    kept = (batch for i, batch in enumerate(data.batches) if i // gather in done)
    return replace(found, resumed=sum(map(len, kept)))


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
        "configs": None if configs is None else {"data": configs.data},
    }


def _join_parts(
    folder: Path, windows: int, names: Sequence[str], ids: Ids, name: str, *, in_order: bool
) -> Answers:
    """Make one file of the parts, in the order of the data, and remove them.

    Args:
        folder: with the parts.
        windows: how many there must be.
        names: of the stages.
        ids: of the samples by position.
        name: of the file, .parquet or .csv.
        in_order: whether the windows follow the order of the data; else all answers must fit into
            memory.

    Raises:
        CascadeError: a part is missing or damaged, or the disk is full.
    """
    paths = [_part(folder, window) for window in range(windows)]
    lost = [window for window, path in enumerate(paths) if not path.is_file()]
    if lost:
        raise CascadeError(f"the answers of {len(lost)} windows are missing, first {lost[0]}.")
    counts = torch.zeros(len(names), dtype=torch.int64)
    left_out: dict[str, str] = {}
    target = folder / name
    temporary = folder / PARTS / name
    tables: Iterator[Any] = map(_read, paths)
    if not in_order:
        tables = iter([pa.concat_tables(list(tables)).sort_by("position")])
        for path in paths:
            left_out |= json.loads(pq.read_schema(path).metadata[b"left_out"])
    writer = None
    try:
        for table in tables:
            if in_order:
                left_out |= json.loads(table.schema.metadata[b"left_out"])
            stages = torch.tensor(table["stage"].to_numpy(), dtype=torch.int64)
            counts += torch.bincount(stages, minlength=len(names))
            shown = table.replace_schema_metadata().drop_columns(["position"])
            said = pa.array([names[stage] for stage in stages.tolist()], pa.string())
            shown = shown.set_column(shown.schema.get_field_index("stage"), "stage", said)
            if writer is None:
                kind = pq.ParquetWriter if name.endswith(".parquet") else pa_csv.CSVWriter
                writer = kind(str(temporary), shown.schema)
            if len(shown):
                writer.write_table(shown)
        if writer is not None:
            writer.close()
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CascadeError(f"cannot write {str(target)!r}: {error.strerror or error}.") from error
    shutil.rmtree(folder / PARTS)
    gone = [
        (ids[int(at)].item() if isinstance(ids, Tensor) else ids[int(at)], reason)
        for at, reason in sorted(left_out.items(), key=lambda pair: int(pair[0]))
    ]
    return Answers(int(counts.sum()), tuple(counts.tolist()), tuple(gone), 0)


def _read(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CascadeError(f"the part {str(path)!r} is damaged ({error}): remove it.") from error
