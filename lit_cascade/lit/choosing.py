"""Calibration and choice of thresholds on a split, set in the model on every process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lit_cascade import analysis
from lit_cascade.analysis import Calibration, Method, Selection
from lit_cascade.core import Policy, PolicyLike
from lit_cascade.core.guarantee import Promise, Target
from lit_cascade.errors import UsageError, check_name
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.reading import Check, on_main_process
from lit_cascade.lit.recording import record
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record, load_records


def calibrate(
    trainer: Trainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    split: str = "calibration",
    stages: Sequence[str] | None = None,
    check: Check | None = None,
    method: Method = "temperature",
    share: float | None = None,
    seed: int = 0,
) -> Calibration | None:
    """Calibrate stages of a cascade on a split, and set their temperatures in the model.

    The model keeps its thresholds, although they were chosen at other temperatures.

    Args:
        trainer: runs the validation loop.
        model: the cascade.
        datamodule: the data.
        split: to fit on; not the one that is reported on.
        stages: names; by default every one but the last.
        check: as for `record`.
        method: temperature, or none, which resets temperatures to 1.
        share: of the samples to fit on, as for `lit_cascade.calibrate`.
        seed: of their drawing.

    Returns:
        The calibrations, and the records that they were fitted on, on the main process; None
        elsewhere.

    Raises:
        UsageError: an unknown stage or method, a split that the data does not have, or a share that
            leaves no samples.
        CascadeError: as for `record`.
    """
    for name in stages or ():  # before any model runs
        check_name(name, model.names, "stages")
    records = record(trainer, model, datamodule, split, check)
    before = model.policy

    result: Calibration | None = None

    def fit() -> Policy:
        nonlocal result
        result = analysis.calibrate(
            records or (), policy=before, stages=stages, method=method, share=share, seed=seed
        )
        return replace(result.policy, thresholds=before.thresholds, floors=before.floors)

    model.policy = on_main_process(trainer, fit)
    return result


def select(
    trainer: Trainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    promise: Promise | None = None,
    split: str = "calibration",
    check: Check | None = None,
    *,
    confidence: float | None = 0.95,
    seed: int = 0,
    allow_overlap: bool = False,
    **target: Unpack[Target],
) -> Selection | None:
    """Choose thresholds that keep a promise and set them in the model, if there are any.

    Args:
        trainer: runs the validation loop.
        model: the cascade.
        datamodule: the data.
        promise: to be kept on samples to come; or give one `target`.
        split: to choose on; not the one that is reported on.
        check: as for `record`.
        confidence: as for `lit_cascade.select`, like the other options.
        seed: as there.
        allow_overlap: as there.
        target: as there.

    Returns:
        The candidates and the choice, on the main process; None elsewhere.

    Raises:
        UsageError: no target or several, or the data has no such split.
        CascadeError: as for `record` and `lit_cascade.select`.
    """
    promise = Promise.of(confidence, **target) if promise is None or target else promise
    records = record(trainer, model, datamodule, split, check)
    selection: Selection | None = None

    def choose() -> Policy:
        nonlocal selection
        selection = analysis.select(
            records or (), promise, policy=model.policy, seed=seed, allow_overlap=allow_overlap
        )
        return selection.policy or model.policy

    model.policy = on_main_process(trainer, choose)
    return selection


def fit_cascade(
    stages: Mapping[str, Any] | Sequence[Any],
    calibration: Any,
    *,
    policy: PolicyLike = None,
    confidence: float | None = 0.95,
    temperature_share: float = 0.0,
    split: str = "calibration",
    batch_size: int = 64,
    seed: int = 0,
    trainer: Trainer | None = None,
    **target: Unpack[Target],
) -> LitCascade:
    """Make a cascade of classifiers whose thresholds keep a promise on new samples.

    Every stage runs once on the calibration set. Of the thresholds that keep the promise those of
    the cheapest cascade are chosen, or of the most accurate if the promise limits a cost.

    Args:
        stages: modules that give logits, or `Stage`s, cheapest first, as a list or by name.
        calibration: labelled samples that no stage was trained on: a DataLoader, a dataset, a
            LightningDataModule with the split, a pair of arrays (inputs, labels), or records of the
            stages on such samples.
        policy: score, temperatures and combination; its thresholds are replaced.
        confidence: probability that the promise is kept, over the draw of the calibration set; None
            for the empirical choice, which has no guarantee.
        temperature_share: share of the samples to fit temperatures of the deferring stages on; the
            thresholds are chosen on the others. 0 fits none.
        split: of a data module.
        batch_size: samples per batch of a dataset or of arrays.
        seed: seed of the draws.
        trainer: runs the stages; by default a silent one on the first GPU, or else the CPU.
        target: one of `max_accuracy_drop` (0.01 by default), `min_accuracy`, `max_disagreement`,
            `deferral_rate`, `max_cost` (in FLOPs) and `max_cost_ratio`.

    Returns:
        The cascade, in evaluation mode; `policy` holds its thresholds and the evidence for them.

    Raises:
        UsageError: stages, data or numbers that make no cascade.
        CascadeError: no cascade can be promised to keep the target, or as for `record`.

    Examples:
        >>> small = torch.nn.Linear(4, 3)
        >>> large = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 3))
        >>> inputs, labels = torch.randn(500, 4), torch.zeros(500).long()
        >>> cascade = fit_cascade([small, large], (inputs, labels), deferral_rate=0.5)
        >>> cascade(inputs).prediction.shape
        torch.Size([500])
    """
    promise = Promise.of(confidence, **(target or {"max_accuracy_drop": 0.01}))
    if not 0 <= temperature_share < 1:
        raise UsageError(
            "temperature_share: expected a share from 0 to below 1 of the samples, "
            f"got {temperature_share}."
        )
    records: list[Record] | None = None
    recorded: list[str] = []
    first = calibration[0] if isinstance(calibration, Sequence) and calibration else None
    if isinstance(first, Record | Path | str):
        records = load_records(calibration)
        recorded = [one.name for one in records]
        if isinstance(stages, Sequence) and len(stages) == len(recorded):
            stages = dict(zip(recorded, stages, strict=True))
    model = LitCascade(stages, _undecided(policy))
    if records is not None and recorded != list(model.names):
        raise UsageError(
            f"records: they are of {', '.join(recorded)}; the stages are {', '.join(model.names)}."
        )
    if records is None:
        data = _data_module(calibration, split, batch_size)
        with _silenced() if trainer is None else nullcontext():
            trainer = trainer or Trainer(
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=False,
            )
            records = record(trainer, model, data, split)

    def chosen() -> Policy:
        before: PolicyLike = model.policy
        if temperature_share:
            fitted = analysis.calibrate(
                records or (), policy=before, share=temperature_share, seed=seed
            )
            before = fitted.policy
        return analysis.select(records or (), promise, policy=before, seed=seed).required_policy()

    model.policy = chosen() if trainer is None else on_main_process(trainer, chosen)
    return model.eval()


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep Lightning from telling which devices there are and what else it could do."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _undecided(policy: PolicyLike) -> PolicyLike:
    decided = isinstance(policy, Policy | PolicyOptions)
    return replace(policy, thresholds=None) if decided else None  # type: ignore[type-var]


def _data_module(calibration: Any, split: str, batch_size: int) -> LightningDataModule:
    """A data module with one split, of whatever a user holds samples in.

    Raises:
        UsageError: something that holds no samples.
    """
    if isinstance(calibration, LightningDataModule):
        return calibration
    if isinstance(calibration, tuple | list) and len(calibration) == 2:
        inputs, labels = (torch.as_tensor(part) for part in calibration)
        if len(inputs) != len(labels):
            raise UsageError(
                f"calibration: {len(inputs)} inputs need as many labels, got {len(labels)}."
            )
        calibration = TensorDataset(inputs, labels)
    if isinstance(calibration, Dataset):
        calibration = DataLoader(calibration, batch_size)
    if not isinstance(calibration, DataLoader):
        raise UsageError(
            "calibration: expected a DataLoader, a dataset, a LightningDataModule, a pair (inputs, "
            f"labels) or records, got {type(calibration).__name__}."
        )
    data = LightningDataModule()
    data.name = type(calibration.dataset).__name__
    setattr(data, f"{'val' if split == 'validation' else split}_dataloader", lambda: calibration)
    return data
