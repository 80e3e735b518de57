"""Predictions of a cascade, written while it runs and resumed where it was interrupted.

The windows of the stream are independent of each other, and the predictions of each are a part: a
file that is written whole or not at all. A run skips the windows whose parts exist. In the end the
parts become one file, in the order of the data.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from lit_cascade.data import EvaluationData
from lit_cascade.errors import CascadeError
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.failures import explained
from lit_cascade.lit.reading import (
    SplitPreview,
    evaluating,
    evaluation_data,
    on_main_process,
    preview_split,
)
from lit_cascade.lit.recording import Configs
from lit_cascade.lit.stages import least_by_stage
from lit_cascade.live import GATHER
from lit_cascade.records import Ids
from lit_cascade.utilities.files import open_atomically, write_atomically
from lit_cascade.utilities.resume import UnfinishedRun

PARTS = "predictions.parts"
"""Name of the folder of parts, beside the final file."""

_LEFT_OUT, _SAMPLES_PER_FORWARD = b"left_out", b"samples_per_forward"


@dataclass(frozen=True)
class Predictions:
    """Summary of a file of predictions.

    Attributes:
        n: number of samples with a prediction.
        by_stage: number of samples that each stage answered.
        left_out: id and reason of each sample that could not be read.
        resumed: number of predictions that an earlier run had made.
        samples_per_forward: by stage, where whole batches did not fit into memory.
    """

    n: int
    by_stage: tuple[int, ...]
    left_out: tuple[tuple[Any, str], ...]
    resumed: int
    samples_per_forward: Mapping[str, int] = field(default_factory=dict)


def answer(
    trainer: Trainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    folder: Path | str,
    split: str = "validation",
    name: str = "predictions.parquet",
    gather: int = GATHER,
    configs: Configs | None = None,
    finish: Callable[[Predictions], None] | None = None,
) -> Predictions | None:
    """Predict the class of every sample of a split and write the predictions, window by window.

    The same call again resumes an interrupted run, and gives the same file.

    Args:
        trainer: runs the test loop.
        model: the cascade.
        datamodule: the data; labels are not used.
        folder: for the file, on a disk that all processes share.
        split: as for `record`; may also be `predict`.
        name: of the file, `.parquet` or `.csv`.
        gather: number of batches whose deferred samples are gathered into batches for the next
            stage, and whose predictions are written together.
        configs: of the stages and the data; an interrupted run must have had the same.
        finish: called with the summary once the file is written, on the main process; until it
            returns the run counts as interrupted.

    Returns:
        A summary on the main process; None elsewhere.

    Raises:
        UsageError: the model has no thresholds, the data has no such split, or the folder holds an
            interrupted run of something else.
        CascadeError: an empty split, NaN logits, or a full disk.
    """
    model.cascade.policy.required_thresholds(model.names)
    preview = preview_split(trainer, model, datamodule, split)
    # other processes may have been given another: a new folder is numbered by those that exist
    folder = on_main_process(trainer, lambda: Path(folder))
    files = PredictionFiles(folder, name)
    plan = _plan(trainer, model, preview, name, gather, configs)
    done = on_main_process(trainer, lambda: files.resume(plan))
    kept = f"Finished predictions are kept: the same command with --out {folder} resumes."
    model.metered = False
    try:
        preprocessings = model.preprocessings_to_run()
        data = evaluation_data(trainer, model, datamodule, split, preprocessings, window=gather)
        data.done = done
        writer = _PartWriter(files, data, preview.classes)
        with explained(kept), evaluating(trainer, writer):
            trainer.test(model, datamodule=data, verbose=False)
            trainer.strategy.barrier()
    finally:
        model.metered = True
    if not trainer.is_global_zero:
        return None
    order = [position for batch in data.batches for position in batch]
    ids = data.info.ids if data.info is not None else Ids(())
    windows = -(-len(data.batches) // gather)
    summary = files.join(windows, model.names, ids, in_order=order == sorted(order))
    old = (batch for i, batch in enumerate(data.batches) if i // gather in done)
    summary = replace(summary, resumed=sum(map(len, old)))
    if finish is not None:
        finish(summary)
    unfinished_predictions(folder).remove()
    return summary


def unfinished_predictions(folder: Path) -> UnfinishedRun:
    """The parts in a folder of results, until they are one file."""
    return UnfinishedRun(folder / PARTS)


def _plan(
    trainer: Trainer,
    model: LitCascade,
    preview: SplitPreview,
    name: str,
    gather: int,
    configs: Configs | None,
) -> dict[str, Any]:
    """Everything that the predictions depend on."""
    ids = hashlib.sha256(json.dumps(preview.ids.tolist()).encode())
    return {
        "models": [info["model"] for info in model.stage_info()],
        "policy": json.loads(json.dumps(asdict(model.cascade.policy), default=str)),
        "data": {"ids": ids.hexdigest()[:16], **preview.data},
        "settings": {
            "file": name,
            "gather": gather,
            "batch_size": preview.batch_size,
            "precision": str(trainer.precision),
            "channels_last": model.channels_last,
            "compiled": model.compiled,
        },
        "configs": None if configs is None else {"data": configs.data},
    }


class _PartWriter(Callback):
    """Writes each window of predictions that a test loop returns as a part."""

    def __init__(
        self, files: PredictionFiles, data: EvaluationData, classes: Sequence[str] | None
    ) -> None:
        self._files, self._data, self._classes = files, data, classes
        self._window_of: dict[int, int] = {}
        self._left_out: dict[int, str] = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write the windows that are complete."""
        del trainer
        self._left_out |= dict(batch.left_out)
        if outputs is None:
            return
        rows = {key: value.detach().cpu() for key, value in outputs.items()}
        positions = rows["positions"]
        places = positions.where(positions >= 0, ~positions)
        left_out = torch.tensor([place in self._left_out for place in places.tolist()])
        windows = self._windows(places)
        classes = self._classes or pl_module.class_names
        for window in windows[(positions >= 0) | left_out].unique().tolist():
            here = windows == window
            reasons = {int(place): self._left_out[int(place)] for place in places[here & left_out]}
            mine = here & (positions >= 0)
            columns = self._columns({key: value[mine] for key, value in rows.items()}, classes)
            self._files.write(window, columns, reasons, pl_module.samples_per_forward())

    def _windows(self, positions: Tensor) -> Tensor:
        if not self._window_of:
            for number, batch in enumerate(self._data.batches):
                for position in batch:
                    self._window_of[position] = number // self._data.window
        return torch.tensor([self._window_of[int(position)] for position in positions])

    def _columns(self, rows: Mapping[str, Tensor], classes: Sequence[str] | None) -> dict[str, Any]:
        order = rows["positions"].sort().indices
        rows = {key: value[order] for key, value in rows.items()}
        positions = rows["positions"]
        ids = self._data.info.ids if self._data.info is not None else Ids(())
        kind = pa.string() if ids.are_strings else pa.int64()  # even if no sample can be read
        labels = rows["prediction"].tolist()
        names = [str(label) if classes is None else classes[label] for label in labels]
        return {
            "position": pa.array(positions.numpy()),
            "id": pa.array(ids[positions].tolist(), kind),
            "class": pa.array(names, pa.string()),
            "probability": pa.array(rows["probability"].numpy()),
            "stage": pa.array(rows["stage"].numpy().astype("int8")),
            "score": pa.array(rows["score"].numpy()),
        }


class PredictionFiles:
    """The parts of a run in a folder, and the file that they become.

    Args:
        folder: on a disk that all processes share.
        name: of the file, `.parquet` or `.csv`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._unfinished = unfinished_predictions(folder)
        self._parts = self._unfinished.folder

    def resume(self, plan: Mapping[str, Any]) -> set[int]:
        """The windows that an interrupted run has finished; starts a run if there is none.

        Args:
            plan: everything that the predictions depend on, plain JSON.

        Raises:
            UsageError: the interrupted run had another plan.
            CascadeError: the disk is full.
        """
        if not self._unfinished.resumes(plan):
            self._unfinished.start(plan)
            return set()
        return {int(path.stem) for path in self._parts.glob("*.parquet") if path.stem.isdecimal()}

    def write(
        self,
        window: int,
        columns: Mapping[str, Any],
        left_out: Mapping[int, str],
        samples_per_forward: Mapping[str, int],
    ) -> None:
        """Write a part.

        Args:
            window: its number.
            columns: arrays by name, among them `position` and the number of the `stage`.
            left_out: position and reason of each sample that could not be read.
            samples_per_forward: as in `Predictions`, so far.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: the disk is full.
        """
        metadata = {
            _LEFT_OUT: json.dumps(left_out),
            _SAMPLES_PER_FORWARD: json.dumps(samples_per_forward),
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), buffer)
        write_atomically(self._part(window), buffer.getvalue())

    def join(self, windows: int, names: Sequence[str], ids: Ids, *, in_order: bool) -> Predictions:
        """Make one file of the parts, in the order of the data. The parts are kept.

        Args:
            windows: their number.
            names: of the stages.
            ids: of the samples by position.
            in_order: whether the windows follow the order of the data; otherwise all predictions
                must fit into memory.

        Raises:
            UsageError: the folder cannot be written to.
            CascadeError: a part is missing or damaged, or the disk is full.
        """
        paths = [self._part(window) for window in range(windows)]
        missing = [window for window, path in enumerate(paths) if not path.is_file()]
        if missing:
            raise CascadeError(
                f"the predictions of {len(missing)} windows are missing, first {missing[0]}."
            )
        left_out: dict[int, str] = {}
        forward: dict[str, int] = {}
        counts = torch.zeros(len(names), dtype=torch.int64)

        def read(path: Path) -> Any:
            try:
                table = pq.read_table(path)
            except (OSError, pa.ArrowException) as error:
                raise CascadeError(
                    f"the part {str(path)!r} is damaged ({error}): remove it."
                ) from error
            metadata = table.schema.metadata
            reasons = json.loads(metadata[_LEFT_OUT])
            left_out.update({int(position): reason for position, reason in reasons.items()})
            forward.update(least_by_stage([forward, json.loads(metadata[_SAMPLES_PER_FORWARD])]))
            return table

        def finished(table: Any) -> Any:
            """Count a table's answers by stage, and write names for numbers."""
            stages = torch.tensor(table["stage"].to_numpy(), dtype=torch.int64)
            counts.add_(torch.bincount(stages, minlength=len(names)))
            stage = pa.array([names[stage] for stage in stages.tolist()], pa.string())
            table = table.replace_schema_metadata().drop_columns(["position"])
            return table.set_column(table.schema.get_field_index("stage"), "stage", stage)

        tables: Iterator[Any] = map(read, paths)
        if not in_order:
            tables = iter([pa.concat_tables(list(tables)).sort_by("position")])
        with open_atomically(self._folder / self._name, self._parts) as file:
            _write_all(map(finished, tables), file, self._name)
        pairs = [(ids[position], reason) for position, reason in sorted(left_out.items())]
        return Predictions(int(counts.sum()), tuple(counts.tolist()), tuple(pairs), 0, forward)

    def _part(self, window: int) -> Path:
        return self._parts / f"{window:08d}.parquet"


class _ParquetWriter(pq.ParquetWriter):  # type: ignore[misc] # pyarrow has no types
    """One that is dropped after a failure, instead of trying to finish its file."""

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
