"""Options of each command: their docstrings are what `--help` prints. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field

from lit_cascade.options import PolicyOptions

__all__ = ["CalibrateOptions", "FitOptions", "TestOptions", "ValidateOptions"]


@dataclass
class FitOptions:
    """Train one stage.

    Args:
        out: folder for the checkpoint and its card; by default a new one, runs/fit-N.
        overwrite: replace results that are already in the folder.
    """

    out: str | None = None
    overwrite: bool = False


@dataclass
class CalibrateOptions:
    """Fit temperatures on the calibration split.

    Args:
        records: record files to fit on instead of running models, cheapest first.
        stages: names of the stages to calibrate; by default all but the last.
        split: the split to fit on.
        allow_overlap: fit even on samples that the validation split has too.
        out: folder for calibration.yaml; by default a new one, runs/calibrate-N.
        overwrite: replace results that are already in the folder.
        policy: of the cascade; thresholds in it are dropped from the overlay.
    """

    records: list[str] | None = None
    stages: list[str] | None = None
    split: str = "calibration"
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class ValidateOptions:
    """Judge a cascade at every threshold: accuracy, deferral rate and FLOPs.

    Args:
        records: record files to judge instead of running models, cheapest first.
        split: the split to judge on: validation, calibration, or another that the data has.
        cost: unit of the cost to judge by: flops, or another that the records have, such as
            latency_s.
        allow_overlap: judge even on samples that the temperatures were fitted on.
        save_records: also write one record per stage into the folder.
        out: folder for curve.csv, curve.png and summary.json; by default a new one,
            runs/validate-N.
        overwrite: replace results that are already in the folder.
        policy: score and temperatures of the cascade, and thresholds to report on.
    """

    records: list[str] | None = None
    split: str = "validation"
    cost: str = "flops"
    allow_overlap: bool = False
    save_records: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class TestOptions:
    """Run a cascade for real at given thresholds.

    Args:
        split: the split to run on: validation, or another that the data has.
        allow_overlap: report even on samples that the temperatures were fitted on.
        out: folder for test.json; by default a new one, runs/test-N.
        overwrite: replace results that are already in the folder.
        policy: score, temperatures and thresholds of the cascade.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    split: str = "validation"
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)
