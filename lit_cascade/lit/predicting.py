"""Answers of a cascade, written while it runs and taken up again where it was interrupted.

The windows of the stream are independent of each other, so each is a part of its own. A run that
finds parts of an earlier one leaves these windows out. At the end the parts become one file, in the
order of the data.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from lit_cascade.data import EvaluationData
from lit_cascade.errors import CascadeError
from lit_cascade.lit.failures import explained
from lit_cascade.lit.recording import without_workers
from lit_cascade.lit.stages import fewest
from lit_cascade.records import Ids
from lit_cascade.utilities.files import open_atomically, write_atomically
from lit_cascade.utilities.resume import Unfinished

if TYPE_CHECKING:
    from lit_cascade.lit.cascade import LitCascade
    from lit_cascade.lit.reading import ReadingTrainer, Sight
    from lit_cascade.lit.recording import Configs

__all__ = [
    "PARTS",
    "AnswerFiles",
    "AnswerWriter",
    "Answers",
    "Finish",
    "answer_split",
    "unfinished",
]

PARTS = "predictions.parts"
"""The folder of what is finished, beside where the whole will be."""

_LEFT_OUT, _FITTING = b"left_out", b"samples_per_forward"


@dataclass(frozen=True)
class Answers:
    """What was written.

    Attributes:
        n: number of samples that were answered.
        by_stage: how many each stage answered.
        left_out: position and reason of samples that could not be read.
        resumed: how many of the answers an earlier run had given.
        fitting: samples per forward pass, by stage, where whole batches did not fit into memory.
    """

    n: int
    by_stage: tuple[int, ...]
    left_out: tuple[tuple[Any, str], ...]
    resumed: int
    fitting: Mapping[str, int] = field(default_factory=dict)


def unfinished(folder: Path) -> Unfinished:
    """The answers that a folder holds, or will hold, until they are one file."""
    return Unfinished(folder / PARTS)


class AnswerFiles:
    """The parts of a run in a folder, and the file that they become.

    Args:
        folder: on a disk that all processes share.
        name: of the file, `.parquet` or `.csv`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._unfinished = unfinished(folder)
        self._parts = self._unfinished.folder

    def take_up(self, plan: Mapping[str, Any]) -> set[int]:
        """The windows that an earlier run has finished; starts a run if there is none.

        Args:
            plan: what the answers depend on, plain JSON; the earlier run must have had the same.

        Raises:
            UsageError: an earlier run had other models, data or settings.
            CascadeError: the disk is full.
        """
        if not self._unfinished.begun(plan):
            self._unfinished.begin(plan)
            return set()
        return {int(one.stem) for one in self._parts.glob("*.parquet") if one.stem.isdecimal()}

    def write(
        self,
        window: int,
        columns: Mapping[str, Any],
        left_out: Mapping[int, str],
        fitting: Mapping[str, int],
    ) -> None:
        """Write a part.

        Args:
            window: its number.
            columns: arrays by name, among them `position` and the number of the `stage`.
            left_out: position and reason of samples that could not be read.
            fitting: as in `Answers`, so far.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: the disk is full.
        """
        told = {_LEFT_OUT: json.dumps(left_out), _FITTING: json.dumps(fitting)}
        buffer = io.BytesIO()
        pq.write_table(pa.table(dict(columns)).replace_schema_metadata(told), buffer)
        write_atomically(self._part(window), buffer.getvalue())

    def join(self, windows: int, names: Sequence[str], ids: Ids, *, in_order: bool) -> Answers:
        """Make one file of the parts, in the order of the data; they stay.

        Args:
            windows: how many there must be.
            names: of the stages.
            ids: of the samples by position.
            in_order: whether the windows follow the order of the data; else all answers must fit
                into memory.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: a part is missing or damaged, or the disk is full.
        """
        paths = [self._part(window) for window in range(windows)]
        lost = [window for window, path in enumerate(paths) if not path.is_file()]
        if lost:
            raise CascadeError(f"the answers of {len(lost)} windows are missing, first {lost[0]}.")
        said = _Said()
        tables: Iterator[Any] = (said.heard(_read(path)) for path in paths)
        if not in_order:
            tables = iter([pa.concat_tables(list(tables)).sort_by("position")])
        counts = torch.zeros(len(names), dtype=torch.int64)

        def shown() -> Iterator[Any]:
            for table in tables:
                stages = torch.tensor(table["stage"].to_numpy(), dtype=torch.int64)
                counts.add_(torch.bincount(stages, minlength=len(names)))
                named = pa.array([names[stage] for stage in stages.tolist()], pa.string())
                rest = table.replace_schema_metadata().drop_columns(["position"])
                yield rest.set_column(rest.schema.get_field_index("stage"), "stage", named)

        with open_atomically(self._folder / self._name, self._parts) as file:
            _write_all(shown(), file, self._name)
        gone = [(ids[at], reason) for at, reason in sorted(said.left_out.items())]
        return Answers(int(counts.sum()), tuple(counts.tolist()), tuple(gone), 0, said.fitting)

    def _part(self, window: int) -> Path:
        return self._parts / f"{window:08d}.parquet"


class _Said:
    """What the parts say beside their rows."""

    def __init__(self) -> None:
        self.left_out: dict[int, str] = {}
        self.fitting: dict[str, int] = {}

    def heard(self, table: Any) -> Any:
        """The table, after listening to it."""
        told = table.schema.metadata
        self.left_out |= {int(at): reason for at, reason in json.loads(told[_LEFT_OUT]).items()}
        self.fitting = fewest([self.fitting, json.loads(told[_FITTING])])
        return table


class _ParquetWriter(pq.ParquetWriter):  # type: ignore[misc] # pyarrow has no types
    """One that is thrown away where it failed, instead of trying to finish its file."""

    def __del__(self) -> None:
        pass


def _write_all(tables: Iterator[Any], file: Any, name: str) -> None:
    """Write tables of one schema, one after the other."""
    kind = _ParquetWriter if name.endswith(".parquet") else pa_csv.CSVWriter
    writer = None
    for table in tables:
        writer = writer or kind(file, table.schema)
        if len(table):
            writer.write_table(table)
    if writer is not None:
        writer.close()


def _read(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CascadeError(f"the part {str(path)!r} is damaged ({error}): remove it.") from error


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
        ids = self._data.info.ids if self._data.info is not None else Ids(())
        # typed: a window without a readable sample has the type of the others
        kind = pa.string() if ids.are_strings else pa.int64()
        answers = rows["prediction"][order].tolist()
        names = self._classes(int(rows["classes"][0])) if answers else ()
        return {
            "position": pa.array(positions.numpy()),
            "id": pa.array(ids[positions].tolist(), kind),
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
    model.cascade.policy.required_thresholds(model.names)
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
    ids = data.info.ids if data.info is not None else Ids(())
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
    ids = hashlib.sha256(json.dumps(sight.ids.tolist()).encode())
    return {
        "models": [info["model"] for info in model.stage_info()],
        "policy": json.loads(json.dumps(asdict(model.cascade.policy), default=str)),
        "data": {"ids": ids.hexdigest()[:16], **sight.data},
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
