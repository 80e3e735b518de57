"""What a temperature does to the confidence of a recorded model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_cascade.core.calibration import TemperatureFit, fit_temperature
from lit_cascade.records import Record

__all__ = ["StageCalibration", "calibrate_record"]


@dataclass(frozen=True)
class StageCalibration:
    """A stage's temperature and how well its confidence fits before and after.

    Attributes:
        fit: the temperature and its negative log-likelihoods.
        ece_before: expected calibration error at T = 1, 15 bins of equal width.
        ece_after: the same at the fitted temperature.
        n: number of samples it was fitted on.
    """

    fit: TemperatureFit
    ece_before: float
    ece_after: float
    n: int


def calibrate_record(record: Record) -> StageCalibration:
    """Fit a temperature to a record.

    Example:
        >>> record = Record.from_arrays("net", [[4.0, 0.0]] * 4, [0, 0, 0, 1], flops=1)
        >>> fitted = calibrate_record(record)
        >>> round(fitted.fit.temperature, 3), round(fitted.ece_before, 3)
        (3.641, 0.232)
    """
    logits, labels = record.logits_for("a temperature")
    fit = fit_temperature(logits, labels)
    return StageCalibration(
        fit=fit,
        ece_before=_calibration_error(logits, labels, 1.0),
        ece_after=_calibration_error(logits, labels, fit.temperature),
        n=len(record),
    )


def _calibration_error(logits: Tensor, labels: Tensor, temperature: float) -> float:
    # imported here: torchmetrics takes seconds, and only this question needs it
    from torchmetrics.functional.classification import multiclass_calibration_error  # noqa: PLC0415

    probabilities = (logits.double() / temperature).softmax(dim=1)
    error = multiclass_calibration_error(
        probabilities, labels, num_classes=logits.shape[1], n_bins=15, norm="l1"
    )
    return float(error)
