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

from lit_cascade.data import EvaluationData, split_loader
from lit_cascade.errors import CascadeError, UsageError
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
from lit_cascade.utilities.class_names import readable_names
from lit_cascade.utilities.files import open_atomically, write_atomically
from lit_cascade.utilities.resume import UnfinishedRun
from lit_cascade.utilities.tabular import described, listed
from lit_cascade.utilities.text import as_cell
from lit_cascade.utilities.units import counted

PARTS = "predictions.parts"
"""Name of the folder of parts, beside the final file."""

FEW = 10
"""Largest number of samples whose predictions are also part of the summary."""

_LEFT_OUT, _SAMPLES_PER_FORWARD = b"left_out", b"samples_per_forward"


@dataclass(frozen=True)
class Predictions:
    """Summary of a file of predictions.

    Attributes:
        n: number of samples with a prediction.
        by_stage: number of samples that each stage answered.
        left_out: id and reason of each sample that could not be read.
        rows: rows of the file, if there are at most `FEW`.
        resumed: number of predictions that an earlier run had made.
        samples_per_forward: by stage, where whole batches did not fit into memory.
    """

    n: int
    by_stage: tuple[int, ...]
    left_out: tuple[tuple[Any, str], ...]
    resumed: int
    samples_per_forward: Mapping[str, int] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()

    def __repr__(self) -> str:
        return described(
            "Predictions",
            counted(self.n, "sample"),
            f"answered by the stages: {listed([f'{count:,}' for count in self.by_stage])}",
            *([f"{counted(len(self.left_out), 'sample')} left out"] if self.left_out else []),
            *([f"{self.resumed:,} of an earlier run"] if self.resumed else []),
        )


Write = Callable[[Mapping[str, Tensor], Mapping[int, str], Mapping[str, int]], None]
"""Writes windows; see `PartWriter.write`."""

Engine = Callable[[Trainer, LitCascade, EvaluationData, Write], None]
"""Runs a cascade over data that are set up, except windows that are `done`, and calls `Write` once
with each of the others, in the main process."""


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
    *,
    top: int = 1,
    text: bool = False,
    engine: Engine | None = None,
) -> Predictions | None:
    """Predict the class of every sample of a split and write the predictions, window by window.

    The same call again resumes an interrupted run, and gives the same file. It has one row per
    sample, in the order of the data, with the columns

    - `id`; `class`, and `name` where the classes are WordNet synsets; its `probability`; `stage`,
      the last that ran, and its `score`
    - `class_2`, `probability_2`, ...: the next likeliest classes, if `top` is more than 1
    - `text`, and `text_2` of pairs, if `text` is true
    - `error`: why the sample could not be read; then `id` and this are all that it has.

    Args:
        trainer: runs the test loop, unless there is another engine.
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
        top: number of likeliest classes to write.
        text: whether to write the texts that were read.
        engine: runs the cascade instead of the Trainer, whose precision it keeps.

    Returns:
        A summary on the main process; None elsewhere.

    Raises:
        UsageError: the model has no thresholds, the data has no such split or no texts, `top` is
            below 1, or the folder holds an interrupted run of something else.
        CascadeError: an empty split, none of whose samples can be read, NaN logits, or a full disk.
    """
    model.cascade.policy.required_thresholds(model.names)
    if top < 1:
        raise UsageError(f"top: expected 1 or more classes, got {top}.")
    preview = preview_split(trainer, model, datamodule, split)
    texts = _texts_of(split_loader(datamodule, split).dataset) if text else None
    # other processes may have been given another: a new folder is numbered by those that exist
    folder = on_main_process(trainer, lambda: Path(folder))
    files = PredictionFiles(folder, name)
    columns = {"top": top, "text": text}
    plan = _plan(trainer, model, preview, {"file": name, "gather": gather, **columns}, configs)
    done = on_main_process(trainer, lambda: files.resume(plan))
    kept = f"Finished predictions are kept: the same command with --out {folder} resumes."
    model.metered, model.top = False, top
    try:
        preprocessings = model.preprocessings_to_run()
        data = evaluation_data(trainer, model, datamodule, split, preprocessings, window=gather)
        data.done = done
        writer = PartWriter(files, data, preview.classes or model.class_names, texts)
        with explained(kept):
            if engine is not None:
                data.setup()
                engine(trainer, model, data, writer.write)
            else:
                with evaluating(trainer, writer):
                    trainer.test(model, datamodule=data, verbose=False)
                    trainer.strategy.barrier()
    finally:
        model.metered, model.top = True, 1
    if not trainer.is_global_zero:
        return None
    order = [position for batch in data.batches for position in batch]
    ids = data.info.ids if data.info is not None else Ids(())
    windows = -(-len(data.batches) // gather)
    unread = files.unread(windows)
    if len(unread) == len(order):
        unfinished_predictions(folder).remove()  # so that the same command reads them again
        first = min(unread)
        raise CascadeError(
            f"no sample could be read, of {len(order):,}; first {ids[first]}: {unread[first]}."
        )
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
    settings: Mapping[str, Any],
    configs: Configs | None,
) -> dict[str, Any]:
    """Everything that the predictions depend on."""
    ids = hashlib.sha256(json.dumps(preview.ids.tolist()).encode())
    return {
        "models": [info["model"] for info in model.stage_info()],
        "policy": json.loads(json.dumps(asdict(model.cascade.policy), default=str)),
        "data": {"ids": ids.hexdigest()[:16], **preview.data},
        "settings": {
            **settings,
            "batch_size": preview.batch_size,
            "precision": str(trainer.precision),
            "channels_last": model.channels_last,
            "compiled": model.compiled,
        },
        "configs": None if configs is None else {"data": configs.data},
    }


class PartWriter(Callback):
    """Writes each window of predictions that a test loop, or another engine, returns as a part."""

    def __init__(
        self,
        files: PredictionFiles,
        data: EvaluationData,
        classes: Sequence[str] | None,
        texts: Callable[[int], Sequence[str]] | None,
    ) -> None:
        self._files, self._data, self._classes = files, data, classes
        self._texts = texts
        self._readable: dict[str, str] | None = None
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
        if self._classes is None:
            self._classes = pl_module.class_names
        rows = {key: value.detach().cpu() for key, value in outputs.items()}
        self.write(rows, {}, pl_module.samples_per_forward())

    def write(
        self,
        rows: Mapping[str, Tensor],
        left_out: Mapping[int, str],
        samples_per_forward: Mapping[str, int],
    ) -> None:
        """Write whole windows.

        Args:
            rows: of all their samples, as `LitCascade.test_step` returns them.
            left_out: position and reason of samples that could not be read.
            samples_per_forward: as in `Predictions`, so far.
        """
        self._left_out |= left_out
        positions = rows["positions"]
        places = positions.where(positions >= 0, ~positions)
        unread = torch.tensor([place in self._left_out for place in places.tolist()])
        windows = self._windows(places)
        classes = self._classes
        if self._readable is None and classes is not None:
            self._readable = readable_names(classes) or {}
        for window in windows[(positions >= 0) | unread].unique().tolist():
            here = windows == window
            reasons = {place: self._reason(place) for place in places[here & unread].tolist()}
            mine = here & (positions >= 0)
            table = self._table({key: value[mine] for key, value in rows.items()}, classes)
            table = self._with_unread(table, reasons)
            self._files.write(window, table, reasons, samples_per_forward)

    def _reason(self, position: int) -> str:
        """Why a sample was left out, without its id in front."""
        (one,) = self._ids([position]).to_pylist()
        return self._left_out[position].removeprefix(f"{one}: ")

    def _windows(self, positions: Tensor) -> Tensor:
        if not self._window_of:
            for number, batch in enumerate(self._data.batches):
                for position in batch:
                    self._window_of[position] = number // self._data.window
        return torch.tensor([self._window_of[int(position)] for position in positions])

    def _table(self, rows: Mapping[str, Tensor], classes: Sequence[str] | None) -> pa.Table:
        """Predictions in the order of the data."""
        order = rows["positions"].sort().indices
        rows = {key: value[order] for key, value in rows.items()}
        positions = rows["positions"]
        columns = {
            "position": pa.array(positions.numpy()),
            "id": self._ids(positions.tolist()),
            **self._classes_and_probabilities(rows["prediction"], rows["probability"], classes),
            "stage": pa.array(rows["stage"].numpy().astype("int8")),
            "score": pa.array(rows["score"].numpy()),
        }
        if "likeliest" in rows:
            for rank in range(1, rows["likeliest"].shape[1]):
                some = rows["likeliest"][:, rank], rows["probabilities"][:, rank]
                next_ones = self._classes_and_probabilities(*some, classes)
                columns |= {f"{name}_{rank + 1}": column for name, column in next_ones.items()}
        if self._texts is not None:
            texts = [self._texts(position) for position in positions.tolist()]
            for number in range(len(self._texts(0))):
                column = pa.array([each[number] for each in texts], pa.string())
                columns[f"text_{number + 1}" if number else "text"] = column
        columns["error"] = pa.nulls(len(positions), pa.string())
        return pa.table(columns)

    def _classes_and_probabilities(
        self, numbers: Tensor, probabilities: Tensor, classes: Sequence[str] | None
    ) -> dict[str, Any]:
        names = [str(one) if classes is None else classes[one] for one in numbers.tolist()]
        columns = {"class": pa.array(names, pa.string())}
        if self._readable:
            columns["name"] = pa.array([self._readable[name] for name in names], pa.string())
        return columns | {"probability": pa.array(probabilities.numpy())}

    def _ids(self, positions: list[int]) -> Any:
        ids = self._data.info.ids if self._data.info is not None else Ids(())
        kind = pa.string() if ids.are_strings else pa.int64()
        return pa.array(ids[positions].tolist(), kind)

    def _with_unread(self, table: pa.Table, reasons: Mapping[int, str]) -> pa.Table:
        """Predictions with the rows of samples that could not be read."""
        unread = pa.table(
            {
                "position": pa.array(list(reasons), pa.int64()),
                "id": self._ids(list(reasons)),
                "error": pa.array(list(reasons.values()), pa.string()),
            }
        )
        both = pa.concat_tables([table, unread], promote_options="default")
        return both.sort_by("position")


def _texts_of(dataset: Any) -> Callable[[int], Sequence[str]]:
    """Function of a position that gives the text of a sample, or the texts of a pair.

    Raises:
        UsageError: the samples are no texts.
    """

    def texts(position: int) -> Sequence[str]:
        sample = dataset[position][0]
        return [sample] if isinstance(sample, str) else list(sample)

    first = dataset[0]
    held = first[0] if isinstance(first, tuple) else first
    parts = held if isinstance(held, tuple) else (held,)
    if not all(isinstance(part, str) for part in parts):
        raise UsageError(f"text: the samples are no texts, but of the type {type(held).__name__}.")
    return texts


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
        table: pa.Table,
        left_out: Mapping[int, str],
        samples_per_forward: Mapping[str, int],
    ) -> None:
        """Write a part.

        Args:
            window: its number.
            table: rows, with `position` and the number of the `stage`.
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
        pq.write_table(table.replace_schema_metadata(metadata), buffer)
        write_atomically(self._part(window), buffer.getvalue())

    def unread(self, windows: int) -> dict[int, str]:
        """Position and reason of the samples that could not be read, if no sample could be."""
        unread: dict[int, str] = {}
        for window in range(windows):
            path = self._part(window)
            if not path.is_file():
                return {}
            try:
                with pq.ParquetFile(path) as part:
                    reasons = json.loads(part.schema_arrow.metadata[_LEFT_OUT])
                    rows = part.metadata.num_rows
            except (OSError, pa.ArrowException):
                return {}  # `join` reports it
            if len(reasons) < rows:
                return {}
            unread |= {int(position): reason for position, reason in reasons.items()}
        return unread

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
                f"the predictions of {counted(len(missing), 'window')} are missing, first "
                f"{missing[0]}."
            )
        left_out: dict[int, str] = {}
        forward: dict[str, int] = {}
        counts = torch.zeros(len(names), dtype=torch.int64)
        rows: list[Mapping[str, Any]] = []

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
            stages = table["stage"].combine_chunks()
            answered = torch.tensor(stages.drop_null().to_numpy(), dtype=torch.int64)
            counts.add_(torch.bincount(answered, minlength=len(names)))
            stage = pa.array(list(names), pa.string()).take(stages)
            table = table.replace_schema_metadata().drop_columns(["position"])
            table = table.set_column(table.schema.get_field_index("stage"), "stage", stage)
            if len(ids) <= FEW:
                rows.extend(table.to_pylist())
            return table

        tables: Iterator[Any] = map(read, paths)
        if not in_order:
            tables = iter([pa.concat_tables(list(tables)).sort_by("position")])
        with open_atomically(self._folder / self._name, self._parts) as file:
            _write_all(map(finished, tables), file, self._name)
        pairs = [(ids[position], reason) for position, reason in sorted(left_out.items())]
        by_stage = tuple(counts.tolist())
        return Predictions(sum(by_stage), by_stage, tuple(pairs), 0, forward, tuple(rows))

    def _part(self, window: int) -> Path:
        return self._parts / f"{window:08d}.parquet"


class _ParquetWriter(pq.ParquetWriter):  # type: ignore[misc] # pyarrow has no types
    """One that is dropped after a failure, instead of trying to finish its file."""

    def __del__(self) -> None:
        pass


def _in_cells(table: Any) -> Any:
    """A table whose texts no spreadsheet runs as formulas."""
    for number, kind in enumerate(table.schema):
        if pa.types.is_string(kind.type):
            texts = table.column(number).to_pylist()
            safe = [None if text is None else as_cell(text) for text in texts]
            table = table.set_column(number, kind, pa.array(safe, kind.type))
    return table


def _write_all(tables: Iterator[Any], file: Any, name: str) -> None:
    """Write tables of one schema, one after the other."""
    kind = _ParquetWriter if name.endswith(".parquet") else pa_csv.CSVWriter
    writer = None
    for table in tables:
        writer = writer or kind(file, table.schema)
        if len(table):
            writer.write_table(table if kind is _ParquetWriter else _in_cells(table))
    if writer is not None:
        writer.close()
