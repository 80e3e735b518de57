"""Records of a split: of one cascade in memory, or of many models in a folder, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningDataModule, Trainer

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.lit.reading import (
    Check,
    SplitOutput,
    SplitPreview,
    on_main_process,
    preview_split,
    read_split,
)
from lit_cascade.lit.spool import Spool
from lit_cascade.lit.stages import StagesModule
from lit_cascade.lit.zoo import LitZoo
from lit_cascade.records import Ids, Record, RecordSummary, Samples
from lit_cascade.utilities.files import main_process, prepare_folder, remove_temporary_files
from lit_cascade.utilities.resume import first_difference
from lit_cascade.utilities.versions import run_info

RecordDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class Configs:
    """Configurations of models and data as a config file holds them, plain JSON.

    Attributes:
        stages: by name, each with `network`, `checkpoint` and `classes`.
        data: with `class_path` and `init_args`.
    """

    stages: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None


class ZooRecords(NamedTuple):
    """Result of recording a zoo.

    Attributes:
        written: the records in the folder, model by model.
        failed: why a model could not be recorded, by its name.
    """

    written: list[RecordSummary]
    failed: dict[str, str]


def record(
    trainer: Trainer,
    model: StagesModule,
    datamodule: LightningDataModule,
    split: str = "validation",
    check: Check | None = None,
    configs: Configs | None = None,
) -> list[Record] | None:
    """Run every stage on every sample of a split and return their outputs.

    Args:
        trainer: runs the validation loop.
        model: the cascade, or a zoo of which one model is selected.
        datamodule: the data.
        split: `validation`, `calibration`, `test`, `train`, or another that the data has.
        check: called with the ids and the description of the data before any model runs; may raise
            to stop.
        configs: of the stages and the data, for the records.

    Returns:
        One record per stage, in the order of the ids, on the main process; None elsewhere.

    Raises:
        UsageError: the data has no such split.
        CascadeError: an empty split, stages and data with different classes, or NaN logits.
    """
    output = read_split(trainer, model, datamodule, split, check)
    return _records_of(trainer, model, output(), configs) if trainer.is_global_zero else None


def record_zoo(
    trainer: Trainer,
    zoo: LitZoo,
    datamodule: LightningDataModule,
    folder: Path | str,
    split: str = "validation",
    only: Sequence[str] | None = None,
    dtype: RecordDtype = "float16",
    overwrite: bool = False,  # noqa: FBT001, FBT002 - as all options here
    configs: Configs | None = None,
    announce: Callable[[int, int, str, bool], None] | None = None,
) -> ZooRecords | None:
    """Run models one after the other and write a record of each into a folder.

    A model is made, run, recorded and released before the next one, so memory holds one at a time.
    Each record is written as soon as its model is done. The same call again keeps finished records,
    and gives the same bytes as if it had never been interrupted.

    Args:
        trainer: runs the validation loops.
        zoo: the models.
        datamodule: the data.
        folder: for the files `<name>.safetensors`.
        split: as for `record`.
        only: names of the models to record; by default all.
        dtype: `float16` or `float32`, of the logits.
        overwrite: replace files in the folder that are not records of these models on these data.
        configs: of the models and the data, for the records.
        announce: called before each model with its number, the number of models, its name, and
            whether its record is kept.

    Returns:
        The records in the folder, and the models that failed, on the main process; None elsewhere.
        A model that fails does not stop the others.

    Raises:
        UsageError: an unknown model, or a file in the folder that is something else.
        CascadeError: data that cannot be read; for a single model everything that `record` raises.
    """
    check_name(dtype, ("float16", "float32"), "dtype")
    known = [check_name(name, zoo.stages, "--only") for name in only or zoo.stages]
    names = [name for name in zoo.stages if name in known]
    path = Path(folder)
    if main_process():  # the Trainer has not started the others yet
        prepare_folder(path, [], overwrite=True)  # checks that it can be written to
    preview = preview_split(trainer, zoo, datamodule, split)
    # other processes may have been given another: a new folder is numbered by those that exist
    path = on_main_process(trainer, lambda: path)
    recording = _ZooRecording(trainer, zoo, datamodule, split, path, dtype, configs, preview)
    kept = on_main_process(trainer, lambda: recording.kept(names, overwrite=overwrite))
    # a recording has one date, even if it was interrupted and resumed on another day
    dates = [str(one.info.get("date")) for one in kept.values()]
    date = min(dates, default=str(run_info()["date"]))
    written, failed = [], {}
    for number, name in enumerate(names, start=1):
        if announce is not None and trainer.is_global_zero:
            announce(number, len(names), name, name in kept)
        try:
            written.append(kept[name] if name in kept else recording.record(name, date))
        except _ModelError as error:
            if len(names) == 1:
                raise error.cause from None
            failed[name] = str(error)
    return ZooRecords(written, failed) if trainer.is_global_zero else None


def _records_of(
    trainer: Trainer, model: StagesModule, output: SplitOutput, configs: Configs | None
) -> list[Record]:
    """One record per stage in memory.

    Raises:
        CascadeError: labels that are no classes of the model, or NaN logits.
    """
    configs = configs or Configs()
    rows = output.rows
    samples = output.samples(model.class_names, rows[f"logits.{model.names[0]}"].shape[1])
    records = []
    for name, details in zip(model.names, model.stage_info(), strict=True):
        info = run_info() | _run_settings(trainer, model, output)
        if name in output.samples_per_forward:
            info["samples_per_forward"] = output.samples_per_forward[name]
        units = [u for u in ("flops", "executed_flops") if f"{u}.{name}" in rows]
        records.append(
            Record(
                name=name,
                logits=rows[f"logits.{name}"],
                labels=samples.labels,
                ids=samples.ids,
                costs={unit: rows[f"{unit}.{name}"] for unit in units},
                classes=samples.classes,
                parameters=details["parameters"],
                data=_with_config(output.data, configs.data),
                model=_with_config(details["model"], configs.stages.get(name)),
                info=info,
            )
        )
    return records


def _with_config(
    description: Mapping[str, Any], config: Mapping[str, Any] | None
) -> dict[str, Any]:
    return dict(description) if config is None else {**description, "config": config}


def _run_settings(trainer: Trainer, model: StagesModule, preview: SplitPreview) -> dict[str, Any]:
    """Settings, besides models and data, on which the last digits of logits depend."""
    run: dict[str, Any] = {"precision": str(trainer.precision), "batch_size": preview.batch_size}
    forms = {"channels_last": model.channels_last, "compiled": model.compiled}
    return run | {name: True for name, chosen in forms.items() if chosen}


class _ModelError(Exception):
    """One model of several cannot be recorded.

    Attributes:
        cause: the error that was raised.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        kind = "" if isinstance(self.cause, CascadeError) else f"{type(self.cause).__name__}: "
        return kind + str(self.cause).strip().split("\n", maxsplit=1)[0]


@dataclass
class _ZooRecording:
    """State of `record_zoo`, whose arguments these are. Only the main process uses the folder."""

    trainer: Trainer
    zoo: LitZoo
    datamodule: LightningDataModule
    split: str
    folder: Path
    dtype: RecordDtype
    configs: Configs | None
    preview: SplitPreview

    def record(self, name: str, date: str) -> RecordSummary:
        """Record one model."""
        try:
            self._build(name)
            self.folder.mkdir(parents=True, exist_ok=True)
            with Spool(self.folder, self.dtype) as spool:
                output = self._read(spool)
                written = on_main_process(self.trainer, lambda: self._write(output, date))
        finally:
            self.zoo.release()
        if isinstance(written, _ModelError):
            raise written
        return written

    def _build(self, name: str) -> None:
        """Make a model on every process, or on none."""
        failure: Exception | None = None
        try:
            self._select(name)
        except Exception as error:  # noqa: BLE001 - one model of many, and code of others
            failure = error
        if not self.trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            raise _ModelError(failure or CascadeError("another process could not make it."))

    def _select(self, name: str) -> None:
        self.zoo.select(name)
        self.zoo.align(self.preview.classes, fewer=self.preview.restricts)

    def _read(self, spool: Spool) -> Callable[[], SplitOutput]:
        try:
            return read_split(self.trainer, self.zoo, self.datamodule, self.split, spool=spool)
        except Exception as error:
            if self.trainer.world_size > 1:  # the others may be waiting in the middle of the loop
                raise
            raise _ModelError(error) from error

    def _write(self, output: Callable[[], SplitOutput], date: str) -> RecordSummary | _ModelError:
        """Write a record; an error of the model is returned, an error of the disk raised."""
        try:
            (record,) = _records_of(self.trainer, self.zoo, output(), self.configs)
        except CascadeError as error:
            return _ModelError(error)
        record = replace(record, info={**record.info, "date": date})
        path = self._path(record.name)
        record.save(path)
        return RecordSummary.of(record, path, path.stat().st_size)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def kept(self, names: Sequence[str], *, overwrite: bool) -> dict[str, RecordSummary]:
        """Records in the folder that need not be made again; remains of killed runs are removed."""
        remove_temporary_files(self.folder, {self._path(name).name for name in names})
        kept = {}
        for name in names:
            path = self._path(name)
            if not path.exists():
                continue
            try:
                record = Record.load(path)
                self._check_same(name, record)
            except CascadeError as error:
                if not overwrite:
                    raise UsageError(
                        f"--out: {str(path)!r} is not a record of this run, so it is not kept: "
                        f"{error} Choose another folder, or add --overwrite to replace it."
                    ) from error
            else:
                kept[name] = RecordSummary.of(record, path, path.stat().st_size, kept=True)
        self.zoo.release()
        return kept

    def _check_same(self, name: str, record: Record) -> None:
        configs, preview = self.configs or Configs(), self.preview
        if self.zoo.is_published(name):  # the name determines the weights: no need to load them
            model = {key: value for key, value in record.model.items() if key != "config"}
        else:
            self._select(name)
            (details,) = self.zoo.stage_info()
            model = details["model"]
        expected = {
            "name": name,
            "dtype": self.dtype,
            "model": _with_config(model, configs.stages.get(name)),
            "data": _with_config(preview.data, configs.data),
            **_run_settings(self.trainer, self.zoo, preview),
        }
        check_same(record, expected, preview.ids, preview.classes or self.zoo.class_names)


def check_same(
    record: Record, expected: Mapping[str, Any], ids: Ids, classes: tuple[str, ...] | None
) -> None:
    """Check that a record is the one that a run would make.

    Dates and versions of libraries may differ. Labels are not compared: they are known only once
    the data are read.

    Args:
        record: to check.
        expected: `name`, `dtype` of the logits, `model` and `data` of the record, and entries of
            its `info`.
        ids: of the samples, in ascending order.
        classes: in logit order; None if they are named by their numbers.

    Raises:
        CascadeError: naming the first difference.
    """
    logits = record.logits
    read = ("left_out", "remarks")  # known only once the data are read, too
    actual: dict[str, Any] = {
        "name": record.name,
        "dtype": "none" if logits is None else str(logits.dtype).removeprefix("torch."),
        "model": record.model,
        "data": {key: value for key, value in record.data.items() if key not in read},
    }
    actual |= {key: record.info.get(key) for key in expected if key not in actual}
    difference = first_difference(actual, json.loads(json.dumps(expected)))
    if difference is not None:
        key, there, here = difference
        raise CascadeError(f"its {key} is {there}, and here it is {here}.")
    all_ids = [*record.ids, *(sample for sample, _ in record.data.get("left_out", []))]
    samples = Samples(Ids.of(all_ids, len(all_ids)).sort()[0], None, record.classes)
    names = classes or tuple(str(c) for c in range(len(record.classes)))
    other = samples.difference(Samples(ids, None, names))
    if other is not None:
        raise CascadeError(f"it differs in {other}.")
