"""Calibration and choice of thresholds on a split, set in the model on every process."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningDataModule, Trainer

from lit_cascade.analysis import (
    CalibrationPlan,
    Method,
    Selection,
    StageCalibration,
    calibrate_record,
    outcomes_of,
    select_thresholds,
)
from lit_cascade.core.guarantee import Promise
from lit_cascade.errors import check_name
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.reading import Check, on_main_process
from lit_cascade.lit.recording import record
from lit_cascade.records import Record


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
) -> tuple[dict[str, StageCalibration], list[Record] | None]:
    """Calibrate stages of a cascade on a split.

    Args:
        trainer: runs the validation loop.
        model: the cascade.
        datamodule: the data.
        split: to fit on; not the one that is reported on.
        stages: names; by default every one but the last.
        check: as for `record`.
        method: temperature, or none, which resets temperatures to 1.
        share: of the samples to fit on, as for `lit_cascade.analysis.CalibrationPlan.of`.
        seed: of their drawing.

    Returns:
        The calibrations by stage, and on the main process the records that they were fitted on.

    Raises:
        UsageError: an unknown stage or method, a split that the data does not have, or a share that
            leaves no samples.
        CascadeError: as for `record`.
    """
    chosen = [check_name(name, model.names, "stages") for name in stages or model.names[:-1]]
    records = record(trainer, model, datamodule, split, check)

    def fit() -> dict[str, StageCalibration]:
        by_name = {one.name: one for one in records or ()}
        plan = CalibrationPlan.of(len(by_name[chosen[0]]), share, seed)
        return {n: calibrate_record(by_name[n], method, plan) for n in model.names if n in chosen}

    fitted = on_main_process(trainer, fit)
    model.set_temperatures({name: stage.temperature for name, stage in fitted.items()})
    return fitted, records


def select(
    trainer: Trainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    promise: Promise,
    split: str = "calibration",
    check: Check | None = None,
) -> Selection | None:
    """Choose thresholds that keep a promise. If none do, the model is unchanged.

    Args:
        trainer: runs the validation loop.
        model: the cascade. If its temperatures were fitted on samples of the split, the promise
            does not hold.
        datamodule: the data.
        promise: to be kept on samples to come.
        split: to choose on; not the one that is reported on.
        check: as for `record`.

    Returns:
        The candidates and the choice, on the main process; None elsewhere.

    Raises:
        UsageError: the data has no such split.
        CascadeError: as for `record`.
    """
    records = record(trainer, model, datamodule, split, check)
    selection = None
    if records is not None:
        outcomes = outcomes_of(records, model.cascade.policy, need_labels=False)
        selection = select_thresholds(outcomes, promise)

    def chosen() -> Sequence[float] | None:
        return None if selection is None or not selection.chosen else selection.chosen.thresholds

    thresholds = on_main_process(trainer, chosen)
    if thresholds is not None:
        model.set_thresholds(thresholds)
    return selection
