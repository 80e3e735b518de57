"""Prediction on many machines by Ray Data, with a pool of actors of its own for each stage.

The rows that travel are positions of samples and what the earlier stages said of them. Samples are
loaded where a stage runs on them, so that no image crosses the network but from its disk, and
none is prepared for a stage that does not see it.

Each stage is a pass over the rows, and the passes overlap: a later stage takes as many rows at once
as hold some full batches of deferred ones, and passes on the others as they are. Only the driver
writes, window by window, so that the rows of an actor that dies, which Ray runs again, are written
once.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_cascade.core import Judgement, Policy
from lit_cascade.data import EvaluationData
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.cascade import AdaptiveCascade, LitCascade, answer_rows
from lit_cascade.lit.predicting import Write
from lit_cascade.lit.stages import AdaptiveForward, inputs_and_rows, least_by_stage
from lit_cascade.live import (
    CascadeOutput,
    Resources,
    Step,
    pool_sizes,
    promised_reach,
)
from lit_cascade.models import BuiltStage
from lit_cascade.options import RayOptions

Build = Callable[[], BuiltStage]
"""Makes a stage where it runs."""


@dataclass(frozen=True)
class Job:
    """What an actor is told.

    Attributes:
        names: of the stages.
        policy: of the cascade.
        builds: of each stage.
        classes: those that each stage answers among, in logit order; None if it has no names.
        data: loads samples.
        precision: plugin of the Trainer.
        batch_size: samples of a full batch.
        top: number of likeliest classes.
        channels_last, compiled: as for `LitCascade`.
        folder: in which relative paths are meant.
        schema: of the rows.
    """

    names: tuple[str, ...]
    policy: Policy
    builds: tuple[Build, ...]
    classes: tuple[tuple[str, ...] | None, ...]
    data: EvaluationData
    precision: Any
    batch_size: int
    top: int
    channels_last: bool
    compiled: bool
    folder: str
    schema: Any


def job_of(
    trainer: Trainer,
    model: LitCascade,
    data: EvaluationData,
    builds: Mapping[str, Build] | None = None,
) -> Job:
    """What actors are told.

    Args:
        trainer: of the precision.
        model: the cascade.
        data: set up.
        builds: as for `RayPools`.
    """
    networks = model.networks()
    return Job(
        names=model.names,
        policy=replace(model.policy, evidence={}),
        builds=tuple(
            partial(_itself, stage) if builds is None else builds[name]
            for name, stage in networks.items()
        ),
        classes=tuple(stage.class_names for stage in networks.values()),
        data=data.detached(),
        precision=trainer.precision_plugin,
        batch_size=data.batch_size,
        top=model.top,
        channels_last=model.channels_last,
        compiled=model.compiled,
        folder=str(Path.cwd()),
        schema=schema_of(model.names, model.policy, model.top),
    )


def _itself(stage: BuiltStage) -> BuiltStage:
    return stage


class RayPools:
    """An engine of `answer`: a pool of actors for each stage, on a Ray cluster.

    Args:
        options: of the cluster and the pools.
        builds: make the stages where they run, by name; by default the networks in memory are sent.
    """

    def __init__(self, options: RayOptions, builds: Mapping[str, Build] | None = None) -> None:
        self._options, self._builds = options, builds

    def __call__(
        self, trainer: Trainer, model: LitCascade, data: EvaluationData, write: Write
    ) -> None:
        """Run a cascade.

        Raises:
            UsageError: several processes, or options that do not fit.
            CascadeError: Ray is not installed, its cluster is too small, or a stage fails.
        """
        if trainer.world_size > 1:
            raise UsageError("engine: with ray the driver is one process; actors do the work.")
        need_ray()
        windows = [
            (number, data.batches[start : start + data.window])
            for number, start in enumerate(range(0, len(data.batches), data.window))
            if number not in data.done
        ]
        if not windows:
            return
        job = job_of(trainer, model, data, self._builds)
        with cluster(self._options), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's, of its own ways
            self._run(job, [rows_of(*window, job.schema) for window in windows], model, write)

    def _run(self, job: Job, tables: Sequence[Any], model: LitCascade, write: Write) -> None:
        """Run all passes, and write each window once all of its rows are there."""
        import ray  # noqa: PLC0415 - of an extra
        from ray.data import ActorPoolStrategy, DataContext, from_arrow  # noqa: PLC0415

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised
        try:
            reference = ray.put(job)
        except Exception as error:
            raise CascadeError(
                f"engine: the data or the stages cannot be sent to other processes: {error}"
            ) from error
        needs = [
            Resources(float(cpus), float(gpus))
            for cpus, gpus in zip(*self._resources(job.names), strict=True)
        ]
        sizes, reach = self._sizes(job, [reference], needs, tables[0], model.policy)
        context = DataContext.get_current()
        before = context.enable_progress_bars, context.execution_options.preserve_order
        context.enable_progress_bars, context.execution_options.preserve_order = False, True
        try:
            rows: Any = from_arrow(list(tables))
            total = sum(table.num_rows for table in tables)
            for number, size in enumerate(sizes):
                several = _rows_at_once(job, reach[number])
                calls = len(tables) if number == 0 else -(-total // several)
                rows = rows.map_batches(
                    StageActor,
                    fn_constructor_args=([reference], number),
                    batch_size=None if number == 0 else several,
                    batch_format="pyarrow",
                    zero_copy_batch=True,
                    compute=ActorPoolStrategy(size=min(size, calls)),
                    num_cpus=needs[number].cpus,
                    num_gpus=needs[number].gpus,
                )
            with one_error():
                answered = rows.iter_batches(batch_size=None, batch_format="pyarrow")
                write_windows(answered, tables, job.names, write)
        finally:
            context.enable_progress_bars, context.execution_options.preserve_order = before

    def _resources(self, names: tuple[str, ...]) -> tuple[list[Any], list[Any]]:
        """CPUs and GPUs of an actor of each stage."""
        gpus = self._options.by_stage("gpus", names)
        share = min(1.0, _cluster_resources().get("GPU", 0.0) / len(names))
        return self._options.by_stage("cpus", names), [
            share if one is None else one for one in gpus
        ]

    def _sizes(
        self, job: Job, held: list[Any], needs: Sequence[Resources], table: Any, policy: Policy
    ) -> tuple[list[int], tuple[float, ...]]:
        """Actors of each stage, and the share of the samples that reaches it."""
        given = self._options.by_stage("actors", job.names)
        seconds = self._options.by_stage("seconds", job.names)
        reach = promised_reach(policy, job.names)
        if reach is None or (None in given and None in seconds):
            with one_error():
                measured, seen = measure(job, table, partial(_timed, held, needs))
            seconds = [b if a is None else a for a, b in zip(seconds, measured, strict=True)]
            reach = reach or seen
        work = [share * (one or 0.0) for share, one in zip(reach, seconds, strict=True)]
        total = _cluster_resources()
        room = Resources(total.get("CPU", 0.0), total.get("GPU", 0.0))
        return pool_sizes(job.names, work, needs, room, given), reach


_MOST_ROWS = 1_000_000


def _rows_at_once(job: Job, reach: float) -> int:
    """Rows of a call of a later stage: as many as hold a window's full batches of deferred ones."""
    return min(_MOST_ROWS, round(job.data.window * job.batch_size / max(reach, 1e-6)))


def need_ray() -> None:
    """Check that Ray is installed.

    Raises:
        CascadeError: it is not.
    """
    if find_spec("ray") is None:
        raise CascadeError(
            "engine: ray needs ray, which is not installed: pip install 'lit-cascade[ray]'."
        )


@contextmanager
def cluster(options: RayOptions) -> Iterator[None]:
    """A connection to a Ray cluster, or a cluster of this machine alone that ends with the block.

    A connection that is there already is used as it is.

    Raises:
        CascadeError: no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # it warns of arguments in the object store, which the driver keeps there
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray  # noqa: PLC0415 - of an extra

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=options.address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise CascadeError(f"ray.address: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def one_error() -> Iterator[None]:
    """Errors of actors as errors of this process.

    Raises:
        CascadeError: of an actor, or how it failed.
    """
    try:
        yield
    except Exception as error:
        one: BaseException | None = error
        while one is not None:
            cause = getattr(one, "cause", None) or one.__cause__  # Ray has causes of its own
            if isinstance(one, CascadeError) and not hasattr(one, "cause"):
                raise CascadeError(str(one)) from error
            one = cause if isinstance(cause, BaseException) else None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        last = lines[-1] if lines else type(error).__name__
        raise CascadeError(f"ray: a stage failed: {last}") from error


def _cluster_resources() -> Mapping[str, float]:
    import ray  # noqa: PLC0415 - of an extra

    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _timed(
    held: list[Any], needs: Sequence[Resources], number: int, table: Any
) -> tuple[Any, float]:
    """Rows after a stage, and its seconds per sample, by an actor for this alone."""
    import ray  # noqa: PLC0415 - of an extra

    kind: Any = ray.remote(StageActor)
    need = needs[number]
    actor = kind.options(num_cpus=need.cpus, num_gpus=need.gpus).remote(held, number)
    try:
        done: tuple[Any, float] = ray.get(actor.timed.remote(table))
        return done
    finally:
        ray.kill(actor)


def measure(
    job: Job, table: Any, timed: Callable[[int, Any], tuple[Any, float]]
) -> tuple[list[float], tuple[float, ...]]:
    """Seconds per sample of each stage, and the share of the samples that reaches it.

    Args:
        job: of the actors.
        table: rows of a window before the first stage. A later stage runs on a batch of them: those
            that are deferred, and others where these are too few.
        timed: gives the rows after a stage, and its seconds per sample.
    """
    seconds, reach = [], [1.0]
    for number in range(len(job.names)):
        mine = table["deferred"].to_numpy()
        if number:
            order = np.argsort(~mine, kind="stable")[: job.batch_size]
            table = _set(table.take(order), "deferred", np.ones(len(order), bool))
            mine = mine[order]
        table, taken = timed(number, table)
        seconds.append(taken)
        deferred = table["deferred"].to_numpy()
        rate = float(deferred[mine].mean()) if mine.any() else float(deferred.mean())
        reach.append(reach[-1] * rate)
    least = 1 / (1 + 100 * job.batch_size)
    return seconds, tuple(max(share, least) for share in reach[:-1])


def write_windows(
    answered: Iterable[Any], tables: Sequence[Any], names: Sequence[str], write: Write
) -> None:
    """Write each window once all of its rows are there.

    Args:
        answered: rows after the last stage, in any order.
        tables: rows of each window before the first stage.
        names: of the stages.
        write: writes windows.

    Raises:
        CascadeError: rows are missing.
    """
    totals = {int(table["window"][0].as_py()): table.num_rows for table in tables}
    held: dict[int, list[Any]] = {}
    least: dict[str, int] = {}
    for table in answered:
        sizes = {name: table[f"per_forward.{name}"].drop_null() for name in names}
        found = {name: min(one.to_pylist()) for name, one in sizes.items() if len(one)}
        least = least_by_stage([least, found])
        for number in table["window"].unique().to_pylist():
            part = table.filter(pa.array(table["window"].to_numpy() == number))
            held.setdefault(number, []).append(part)
            if sum(one.num_rows for one in held[number]) == totals[number]:
                write(*_finished(pa.concat_tables(held.pop(number))), least)
    if held:
        raise CascadeError(f"ray: rows of {len(held)} windows did not come back.")


def _finished(table: Any) -> tuple[dict[str, Tensor], dict[int, str]]:
    """Rows of answers, and why samples were left out, by position."""
    reasons = dict(zip(table["position"].to_pylist(), table["error"].to_pylist(), strict=True))
    left_out = {position: reason for position, reason in reasons.items() if reason is not None}
    positions = _tensor(table["position"])
    gone = torch.tensor([int(one) in left_out for one in positions])
    rows = {name: _tensor(table[name]) for name in ("prediction", "stage", "score", "probability")}
    for name in ("likeliest", "probabilities"):
        if name in table.column_names:
            rows[name] = _matrix(table[name])
    return rows | {"positions": positions.where(~gone, ~positions)}, left_out


def schema_of(names: Sequence[str], policy: Policy, top: int) -> Any:
    """Columns of the rows: what `answer` writes, and what later stages read of earlier ones."""
    whole, number = pa.int64(), pa.float32()
    columns = {
        "position": whole, "window": whole, "batch": whole, "deferred": pa.bool_(),
        "error": pa.string(), "prediction": whole, "stage": whole, "score": number,
        "probability": number, "chosen": whole,
    }  # fmt: skip
    if top > 1:
        columns |= {"likeliest": pa.list_(whole), "probabilities": pa.list_(number)}
    if _carries(policy):
        columns |= {"before.logits": pa.list_(number), "before.memory": pa.list_(number)}
        for stage in range(policy.stages - 1):
            columns |= {f"before.{name}.{stage}": pa.list_(number) for name in _JUDGED}
            columns[f"before.answer.{stage}"] = pa.list_(whole)
    columns |= {f"per_forward.{name}": whole for name in names}
    return pa.schema(list(columns.items()))


_JUDGED = Judgement._fields


def _carries(policy: Policy) -> bool:
    return policy.combine != "later" or policy.reads_earlier


def rows_of(window: int, batches: Sequence[Sequence[int]], schema: Any) -> Any:
    """Rows of a window before the first stage."""
    positions = np.concatenate([np.asarray(batch, np.int64) for batch in batches])
    known = {
        "position": positions,
        "window": np.full(len(positions), window),
        "batch": np.repeat(np.arange(len(batches)), list(map(len, batches))),
        "deferred": np.ones(len(positions), bool),
        **{name: np.zeros(len(positions), np.int64) for name in ("prediction", "stage", "chosen")},
        **{name: np.zeros(len(positions), np.float32) for name in ("score", "probability")},
    }
    return _table(known, len(positions), schema)


def _table(columns: Mapping[str, Any], n: int, schema: Any) -> Any:
    """Rows of some columns; the others are null."""
    arrays = [
        pa.array(columns[one.name], one.type) if one.name in columns else pa.nulls(n, one.type)
        for one in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _set(table: Any, name: str, values: Any) -> Any:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values))


def _tensor(column: Any) -> Tensor:
    return torch.from_numpy(np.array(column.to_numpy()))


def _matrix(column: Any) -> Tensor:
    """Values (N, M) of a column of lists."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = np.array(lists.flatten().to_numpy(zero_copy_only=False))
    return torch.from_numpy(values.reshape(len(lists), -1))


class StagePass:
    """A stage of a cascade, run on the rows that were deferred to it.

    Args:
        job: what it is told.
        number: of the stage.
        device: to run on.
    """

    def __init__(self, job: Job, number: int, device: str) -> None:
        self._job, self._number, self._device = job, number, torch.device(device)
        name = job.names[number]
        stage, classes = job.builds[number](), job.classes[number]
        if classes is not None and stage.class_names != classes:
            stage.answer_among(classes, "the data", fewer=True)
        stage = job.precision.convert_module(stage.to(self._device).eval())
        if job.channels_last:
            stage.network.to(memory_format=torch.channels_last)
        if job.compiled:
            stage.network.compile()
        self._forward = AdaptiveForward()
        stages = {other: nn.Identity() for other in job.names} | {name: stage}
        forwards = dict.fromkeys(job.names, self._forward)
        self._cascade = AdaptiveCascade(cast("Any", stages), job.policy, forwards)
        self._carries = _carries(job.policy) and number + 1 < len(job.names)
        self._loader = job.data.deferred_loader(stage.preprocessing)

    @torch.inference_mode()
    def __call__(self, table: Any) -> Any:
        """Run the stage on the rows that were deferred to it, in batches; others stay."""
        deferred = table["deferred"].to_numpy()
        rows = np.flatnonzero(deferred)
        if not len(rows):
            return table
        mine = table.take(rows).combine_chunks()
        batches = self._batches(mine)
        loaded = self._loader([one["position"].to_pylist() for one in batches])
        done = [self._run(one, batch) for one, batch in zip(batches, loaded, strict=True)]
        others = np.flatnonzero(~deferred)
        order = np.argsort(np.concatenate([others, rows]))
        return pa.concat_tables([table.take(others), *done]).take(order).combine_chunks()

    def _batches(self, table: Any) -> list[Any]:
        """Batches of the data for the first stage, full ones of what is deferred for the others."""
        n = table.num_rows
        if self._number == 0:
            cuts = np.flatnonzero(np.diff(table["batch"].to_numpy())) + 1
        else:
            cuts = np.arange(self._job.batch_size, n, self._job.batch_size)
        ends = [0, *cuts.tolist(), n]
        return [table.slice(start, end - start) for start, end in pairwise(ends)]

    def _run(self, table: Any, loaded: Any) -> Any:
        """Rows of a batch after the stage."""
        job, n = self._job, table.num_rows
        batch = job.data.on_device(job.precision.convert_input(loaded), self._device)
        left_out = dict(batch.left_out)
        inputs, _ = inputs_and_rows(batch)
        with job.precision.forward_context():
            step = self._cascade.step(self._number, inputs, self._before(table))
        here = torch.tensor([one not in left_out for one in table["position"].to_pylist()])
        here = here.to(self._device)
        deferred = torch.zeros_like(here) if step.deferred is None else step.deferred & here
        final = (here & ~deferred).nonzero().squeeze(1)
        output = step.output
        answer_rows(CascadeOutput(*(one[final] for one in output)), None, job.names)
        columns = {name: table[name] for name in ("position", "window", "batch")} | {
            "deferred": _array(deferred),
            "error": [left_out.get(one) for one in table["position"].to_pylist()],
            "probability": _array(self._cascade.probability(output)),
            **{
                name: _array(getattr(output, name))
                for name in ("prediction", "stage", "score", "chosen")
            },
        }
        if job.top > 1:
            best, shares = self._cascade.likeliest(output, job.top)
            columns |= {"likeliest": list(_array(best)), "probabilities": list(_array(shares))}
        if self._carries:
            columns |= _carried(step, deferred)
        for name in job.names:
            columns[f"per_forward.{name}"] = table[f"per_forward.{name}"]
        if self._forward.size is not None:
            columns[f"per_forward.{job.names[self._number]}"] = np.full(n, self._forward.size)
        return _table(
            {
                name: one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one
                for name, one in columns.items()
            },
            n,
            job.schema,
        )

    def _before(self, table: Any) -> Step | None:
        """What the earlier stages said of some samples; None where no one asks."""
        if self._number == 0 or not _carries(self._job.policy):
            return None

        def read(name: str) -> Tensor:
            return _matrix(table[name]).to(self._device)

        columns = {
            name: _tensor(table[name]).to(self._device)
            for name in ("prediction", "stage", "score", "chosen")
        }
        output = CascadeOutput(logits=read("before.logits"), **columns)
        memory = None
        if table["before.memory"].null_count == 0:
            memory = read("before.memory")
            memory = memory.squeeze(1) if self._job.policy.combine == "most_confident" else memory
        judged = tuple(
            Judgement(*(read(f"before.{name}.{stage}").squeeze(1) for name in _JUDGED))
            for stage in range(self._number if self._job.policy.reads_earlier else 0)
        )
        return Step(output, memory=memory, judged=judged)


def _carried(step: Step, deferred: Tensor) -> dict[str, Any]:
    """Columns that later stages read, of the deferred samples; null for the others."""
    parts = {"before.logits": step.output.logits}
    if step.memory is not None:
        parts["before.memory"] = step.memory
    for stage, judgement in enumerate(step.judged):
        parts |= {f"before.{name}.{stage}": value for name, value in judgement._asdict().items()}
    gone = deferred.tolist()
    columns = {}
    for name, values in parts.items():
        rows = _array(values.reshape(len(gone), -1))
        columns[name] = [row if keep else None for row, keep in zip(rows, gone, strict=True)]
    return columns


def _array(values: Tensor) -> Any:
    return values.cpu().numpy()


class StageActor(StagePass):
    """A stage of a cascade in a process that Ray starts.

    Args:
        held: reference to the job, in a list, so that it is left to the driver to keep.
        number: of the stage.
    """

    def __init__(self, held: Sequence[Any], number: int) -> None:
        import ray  # noqa: PLC0415 - of an extra

        job: Job = ray.get(held[0])
        with suppress(OSError):
            os.chdir(job.folder)
        super().__init__(job, number, "cuda:0" if ray.get_gpu_ids() else "cpu")

    def timed(self, table: Any) -> tuple[Any, float]:
        """Rows as by a call, and the seconds of a sample, after an untimed call."""
        self(table)
        start = time.perf_counter()
        done = self(table)
        return done, (time.perf_counter() - start) / max(1, int(table["deferred"].to_numpy().sum()))
