"""Records from what was read; a zoo of them in a folder, one model at a time, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from lightning.pytorch import LightningDataModule

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.lit.reading import Found, ReadingTrainer, Sight
from lit_cascade.lit.spool import Spool
from lit_cascade.lit.stages import StagesModule
from lit_cascade.lit.zoo import LitZoo
from lit_cascade.records import Ids, Record, RecordSummary, Samples
from lit_cascade.utilities.files import main_process, prepare_folder, remove_temporary_files
from lit_cascade.utilities.versions import run_info

__all__ = [
    "Configs",
    "Expected",
    "RecordDtype",
    "Recorded",
    "ZooRecording",
    "check_same",
    "records_of",
    "without_workers",
]

_READ = ("left_out", "remarks")
_WORKERS = "data.config.init_args.num_workers"  # whoever loads a sample, it is the same


@dataclass(frozen=True)
class Expected:
    """What is known of a record before its model has run.

    Attributes:
        name: of the model.
        dtype: of its logits, `float16` or `float32`.
        model: class, fingerprint of the weights, and config.
        data: name, source, split and config, and whether it is read in part only.
        ids: of the samples.
        classes: in logit order; None if they are named by their numbers.
        run: precision and batch size.
    """

    name: str
    dtype: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    ids: Ids
    classes: tuple[str, ...] | None
    run: Mapping[str, Any]


def check_same(record: Record, expected: Expected) -> None:
    """Check that a record is what recording again would give.

    The labels are known only when the data are read; the date and the versions of libraries may
    differ.

    Raises:
        CascadeError: naming the first difference.
    """
    logits = record.logits
    # what the samples turned out to be is known only when they are read
    data = {key: value for key, value in record.data.items() if key not in _READ}
    gone = [sample for sample, _ in record.data.get("left_out", [])]
    there = {
        "name": record.name,
        "dtype": "none" if logits is None else str(logits.dtype).removeprefix("torch."),
        "model": record.model,
        "data": data,
        **{key: record.info.get(key) for key in expected.run},
    }
    here = {
        "name": expected.name,
        "dtype": expected.dtype,
        "model": expected.model,
        "data": expected.data,
        **expected.run,
    }
    for where, mine, theirs in _differences(there, json.loads(json.dumps(here)), ""):
        if where == _WORKERS:
            continue
        raise CascadeError(f"its {where} is {_short(mine)}, and here it is {_short(theirs)}.")
    names = expected.classes or tuple(str(c) for c in range(len(record.classes)))
    difference = Samples(_joined(record.ids, gone), None, record.classes).difference(
        Samples(expected.ids, None, names)
    )
    if difference is not None:
        raise CascadeError(f"it differs in {difference}.")


def without_workers(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The config of the data without the number of processes that load them."""
    if config is None or not isinstance(config.get("init_args"), Mapping):
        return None if config is None else dict(config)
    given = {key: value for key, value in config["init_args"].items() if key != "num_workers"}
    return {**config, "init_args": given}


def _joined(ids: Ids, gone: list[Any]) -> Ids:
    """The ids of a record with those of the samples that were left out, in order."""
    if not gone:
        return ids
    return Ids.of([*ids, *gone], len(ids) + len(gone)).sort()[0]


def _differences(one: Any, other: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of mappings differ: the path, and what each holds there."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            path = f"{where}.{key}" if where else str(key)
            yield from _differences(one.get(key), other.get(key), path)
    elif one != other:
        yield where, one, other


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


RecordDtype = Literal["float16", "float32"]
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class Configs:
    """Where models and data come from, as a config file says it: plain JSON.

    Attributes:
        stages: by name, each with `network`, `checkpoint` and `classes`.
        data: with `class_path` and `init_args`.
    """

    stages: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None


def records_of(
    model: StagesModule, found: Found, trainer: ReadingTrainer, configs: Configs | None = None
) -> list[Record]:
    """One record per stage in memory, of what a validation loop gave.

    Raises:
        CascadeError: labels that are no classes of the model, NaN logits.
    """
    configs = configs or Configs()
    width = found.rows[f"logits.{model.names[0]}"].shape[1]
    samples = found.samples(model.class_names, width)
    return [
        Record(
            name=name,
            logits=found.rows[f"logits.{name}"],
            labels=samples.labels,
            ids=samples.ids,
            costs={
                unit: found.rows[f"{unit}.{name}"]
                for unit in ("flops", "executed_flops")
                if f"{unit}.{name}" in found.rows
            },
            classes=samples.classes,
            parameters=details["parameters"],
            data=_with(found.data, configs.data),
            model=_with(details["model"], configs.stages.get(name)),
            info=run_info() | _run(trainer, model, found) | _fitting(found, name),
        )
        for name, details in zip(model.names, model.stage_info(), strict=True)
    ]


def _with(described: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(described) if config is None else {**described, "config": config}


def _fitting(found: Found, name: str) -> dict[str, Any]:
    size = found.fitting.get(name)  # where whole batches did not fit into memory
    return {} if size is None else {"samples_per_forward": size}


def _run(trainer: ReadingTrainer, model: StagesModule, sight: Sight) -> dict[str, Any]:
    """What else decides the last digits of logits."""
    run: dict[str, Any] = {"precision": str(trainer.precision), "batch_size": sight.batch_size}
    forms = {"channels_last": model.channels_last, "compiled": model.compiled}
    return run | {name: True for name, chosen in forms.items() if chosen}


class Recorded(NamedTuple):
    """What a recording left behind.

    Attributes:
        written: the records in the folder, model by model.
        failed: the models that could not be recorded, and why.
    """

    written: list[RecordSummary]
    failed: dict[str, str]


class _ModelError(Exception):
    """One model of many cannot be recorded; the others can."""

    def __init__(self, cause: Exception) -> None:
        said = str(cause).strip().split("\n", maxsplit=1)[0]
        kind = "" if isinstance(cause, CascadeError) else f"{type(cause).__name__}: "
        super().__init__(f"{kind}{said}")
        self.cause = cause


@dataclass
class ZooRecording:
    """Records of a zoo in a folder; see `CascadeTrainer.record_zoo`.

    On several processes the main one alone reads and writes the folder, and tells the others.
    """

    trainer: ReadingTrainer
    zoo: LitZoo
    datamodule: LightningDataModule
    split: str
    folder: Path
    dtype: RecordDtype = "float16"
    configs: Configs | None = None

    def run(
        self,
        only: Sequence[str] | None,
        *,
        overwrite: bool,
        announce: Callable[[int, int, str, bool], None] | None,
    ) -> Recorded | None:
        """Keep what is there, record the rest.

        Raises:
            UsageError: an unknown model, or a file in the folder that is something else.
            CascadeError: as `CascadeTrainer.record_zoo` says.
        """
        check_name(self.dtype, ("float16", "float32"), "dtype")
        names = [name for name in self.zoo.stages if name in _known(only, self.zoo)]
        if main_process():  # the Trainer does not know yet
            prepare_folder(self.folder, [], overwrite=True)  # that it can be written to
        sight = self.trainer.look(self.zoo, self.datamodule, self.split)
        # each process may have been told another: a new folder is named by what was there
        self.folder = self.trainer.strategy.broadcast(self.folder)
        kept = self._told(lambda: self._kept(names, sight, overwrite=overwrite))
        # a recording has one date, on whichever days it was interrupted
        date = min(
            (str(done.info.get("date")) for done in kept.values()), default=str(run_info()["date"])
        )
        done, failed = [], {}
        for number, name in enumerate(names, start=1):
            if announce is not None and self.trainer.is_global_zero:
                announce(number, len(names), name, name in kept)
            try:
                one = kept[name] if name in kept else self._record(name, sight, date)
            except _ModelError as error:
                if len(names) == 1:
                    raise error.cause from None
                failed[name] = str(error)
            else:
                done.append(one)
        return Recorded(done, failed) if self.trainer.is_global_zero else None

    def _record(self, name: str, sight: Sight, date: str) -> RecordSummary:
        try:
            self._build(name, sight)
            self.folder.mkdir(parents=True, exist_ok=True)
            with Spool(self.folder, self.dtype) as spool:
                reading = self._read(spool)
                done = self._told(lambda: self._finished(reading, date))
        finally:
            self.zoo.release()
        if isinstance(done, _ModelError):
            raise done
        return done

    def _build(self, name: str, sight: Sight) -> None:
        """Make a model on every process, or on none.

        Raises:
            _ModelError: it cannot be made, here or on another process.
        """
        failure: Exception | None = None
        try:
            self.zoo.select(name)
            self.zoo.align(sight.classes, fewer=sight.restricts)
        except Exception as error:  # noqa: BLE001 - one model of many, and code of others
            failure = error
        if not self.trainer.strategy.reduce_boolean_decision(failure is None, all=True):
            raise _ModelError(failure or CascadeError("it could not be made by another process."))

    def _read(self, spool: Spool) -> Callable[[], Found]:
        trainer = self.trainer
        try:
            return trainer.read(
                self.zoo, self.datamodule, self.split, trainer.validate, spool=spool
            )
        except Exception as error:
            # of several processes the others may be waiting in the middle of the loop
            if trainer.world_size > 1:
                raise
            raise _ModelError(error) from error

    def _finished(self, reading: Callable[[], Found], date: str) -> RecordSummary | _ModelError:
        """Write the record of what was read; what is wrong with the model is returned."""
        try:
            (record,) = records_of(self.zoo, reading(), self.trainer, self.configs)
        except CascadeError as error:
            return _ModelError(error)
        record = replace(record, info={**record.info, "date": date})
        path = self._path(record.name)
        record.save(path)
        return RecordSummary.of(record, path, path.stat().st_size)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _kept(
        self, names: Sequence[str], sight: Sight, *, overwrite: bool
    ) -> dict[str, RecordSummary]:
        """The records that need not be made again; what a killed run left is swept away."""
        remove_temporary_files(self.folder, {self._path(name).name for name in names})
        kept = {}
        for name in names:
            path = self._path(name)
            if not path.exists():
                continue
            try:
                record = Record.load(path)
                check_same(record, self._expected(name, sight, record))
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

    def _expected(self, name: str, sight: Sight, record: Record) -> Expected:
        """What a record must be to be kept."""
        configs = self.configs or Configs()
        if self.zoo.is_published(name):  # the weights go with the name: no need to load them
            model = {key: value for key, value in record.model.items() if key != "config"}
        else:
            self.zoo.select(name)
            self.zoo.align(sight.classes, fewer=sight.restricts)
            (details,) = self.zoo.stage_info()
            model = details["model"]
        return Expected(
            name=name,
            dtype=self.dtype,
            model=_with(model, configs.stages.get(name)),
            data=_with(sight.data, configs.data),
            ids=sight.ids,
            classes=sight.classes or self.zoo.class_names,
            run=_run(self.trainer, self.zoo, sight),
        )

    def _told(self, work: Callable[[], _Done]) -> _Done:
        """Do something on the main process, and give its result, or its failure, to all.

        Raises:
            SystemExit: on the other processes, after a failure that the main one reports.
        """
        done: _Done | None = None
        failure: CascadeError | None = None
        if self.trainer.is_global_zero:
            try:
                done = work()
            except CascadeError as error:
                failure = error
        code = None if failure is None else failure.exit_code
        done, code = self.trainer.strategy.broadcast((done, code))
        if failure is not None:
            raise failure
        if code is not None:
            raise SystemExit(code)
        return cast("_Done", done)


def _known(only: Sequence[str] | None, zoo: LitZoo) -> Sequence[str]:
    return [check_name(name, zoo.stages, "--only") for name in only or zoo.stages]
