"""Options of the commands that judge, choose and search: what is asked of models or of records.

Their docstrings are what `--help` prints. No torch in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lit_cascade.options import Combination, PolicyOptions, ScoreName

__all__ = [
    "CalibrateOptions",
    "CheckOptions",
    "CompareScoresOptions",
    "SearchOptions",
    "SelectOptions",
    "ValidateOptions",
]


@dataclass
class CalibrateOptions:
    """Fit temperatures on the calibration split, and say whether they help.

    Args:
        records: record files to fit on instead of running models, cheapest first.
        stages: names of the stages to calibrate; by default all but the last.
        method: one temperature per stage; or none, to see how well confidence fits as it is.
        share: fit on this share of the samples only and report on the others, which select may then
            choose thresholds on; by default the fit is on all and what is reported is
            cross-fitted.
        seed: of the drawing of samples.
        learn_score: also learn a score: which answers the last stage would put right.
        split: the split to fit on.
        cost: unit of the cost to compare cascades by: flops, or another that the records have.
        allow_overlap: fit even on samples that the validation split has too.
        out: folder for calibration.yaml, calibrate.png and summary.json; by default a new one,
            runs/calibrate-N.
        overwrite: replace results that are already in the folder.
        policy: of the cascade; thresholds and floors in it are dropped from the overlay.
    """

    records: list[str] | None = None
    stages: list[str] | None = None
    method: Literal["temperature", "none"] = "temperature"
    share: float | None = None
    seed: int = 0
    learn_score: bool = False
    split: str = "calibration"
    cost: str = "flops"
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class CompareScoresOptions:
    """Judge every score of a small model for deferring to a large one, in one table.

    For each score: the area between random (0) and oracle deferral (1), AURC, and the cost at the
    large model's accuracy. The learned score and the thresholds are fitted on other samples than
    those that are reported on.

    Args:
        records: two record files, of the small model and of the large one.
        fit_on: record files of the same two models on other samples, to fit on; by default a part
            of the samples of records, and everything is reported on the rest.
        share: of the samples in that part; 0 for no learned score and no thresholds.
        seed: of the drawing of that part, and of the draws for the intervals.
        cost: unit of the cost: flops, or another that the records have; or latency_s=FILE with the
            benchmark.json of benchmark.
        allow_overlap: report even on samples that are fitted on.
        out: folder for scores.csv, scores.png and summary.json; by default a new one,
            runs/compare-scores-N.
        overwrite: replace results that are already in the folder.
    """

    records: list[str] | None = None
    fit_on: list[str] | None = None
    share: float = 0.5
    seed: int = 0
    cost: str = "flops"
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False


@dataclass
class ValidateOptions:
    """Judge a cascade at every threshold: accuracy, deferral rate and FLOPs.

    Args:
        records: record files to judge instead of running models, cheapest first.
        split: the split to judge on: validation, calibration, or another that the data has.
        cost: unit of the cost to judge by: flops, or another that the records have; or
            latency_s=FILE with the benchmark.json of benchmark.
        metric: judge by this beside accuracy: f1 (of the second of two classes), f1_macro or
            matthews; by default by the one that the data name. accuracy judges by nothing else.
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
    metric: str | None = None
    allow_overlap: bool = False
    save_records: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class SelectOptions:
    """Choose thresholds that keep a promise, with evidence, on the calibration split.

    Give one of the six targets. Of the policies that keep it the cheapest is chosen, and where it
    limits what is spent, the most accurate.

    Args:
        records: record files to choose on instead of running models, cheapest first.
        max_accuracy_drop: accuracy is at most this share below the last stage's; 0.005 is half a
            point.
        min_accuracy: accuracy is at least this.
        max_disagreement: at most this share of answers differ from the last stage's; needs no
            labels.
        deferral_rate: at most this share of samples is deferred by the first stage.
        max_cost: the mean cost per sample is at most this, in the unit of cost.
        max_cost_ratio: the same as a share of what the last stage alone costs.
        confidence: probability that the target holds on new samples, over the draw of these; none
            for the plain choice, which keeps it on these samples only.
        split: the split to choose on.
        cost: unit of the cost: flops, or another that the records have; or latency_s=FILE with the
            benchmark.json of benchmark.
        seed: of the drawing of samples that put several thresholds in order.
        allow_overlap: choose even on samples that the validation split has too, or that the
            temperatures were fitted on.
        out: folder for policy.yaml, select.png and summary.json; by default a new one,
            runs/select-N.
        overwrite: replace results that are already in the folder.
        policy: score and temperatures of the cascade; thresholds in it are replaced.
    """

    records: list[str] | None = None
    max_accuracy_drop: float | None = None
    min_accuracy: float | None = None
    max_disagreement: float | None = None
    deferral_rate: float | None = None
    max_cost: float | None = None
    max_cost_ratio: float | None = None
    confidence: float | Literal["none"] = 0.95
    split: str = "calibration"
    cost: str = "flops"
    seed: int = 0
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False
    policy: PolicyOptions = field(default_factory=PolicyOptions)


@dataclass
class CheckOptions:
    """Test the promise of a policy on new data: exit code 1 if it is broken, or the data drifted.

    Args:
        policy: the policy.yaml that select wrote.
        records: record files of the policy's stages on other samples, cheapest first.
        confidence: of the verdict; by default that of the promise.
        cost: the unit of cost that the policy was chosen by, or that with what the stages cost as
            it was given to select: latency_s=FILE; by default what the records hold in that unit.
        out: folder for check.json; by default a new one, runs/check-N.
        overwrite: replace results that are already in the folder.
    """

    policy: str
    records: list[str] | None = None
    confidence: float | None = None
    cost: str | None = None
    out: str | None = None
    overwrite: bool = False


@dataclass
class SearchOptions:
    """Search the records of many models for cascades: the front of accuracy against cost.

    Where there are records of a split `calibration` and of one other, models, thresholds and
    temperatures are chosen on the former and reported on the latter.

    Args:
        records: record files, or folders that are searched for them with all that is in them.
        split: the split to report on; needed if there are several besides calibration.
        choose_on: the split to choose on; by default calibration, or the one that is reported on.
        stages: the most stages of a cascade, 2 or 3.
        cost: unit of the cost to search by: flops, or another that the records have; or
            latency_s=FILE,... with the benchmark.json of one or more benchmarks.
        score: confidence score, as for validate; records without logits keep their own.
        combine: whose answer counts after a deferral, as for validate.
        calibrate: fit a temperature per model on the samples of the choice.
        window: also try floors below which a stage answers, with 2 stages.
        bands: ranges of accuracy for the average compute reduction, such as 0.80:0.86; by default
            the top half and the top quarter of the single models' front.
        baseline: CSV tables of published models to draw beside: columns model, accuracy or top1,
            and flops or gmacs; timm's results and benchmark tables join by model.
        levels: thresholds per pair; by default all in a small zoo, 1,000 in a large one.
        candidates: of how many models cascades of 3 are made: those nearest to the front in pairs.
        holdout: share of the samples to report on where there is one split; 0 holds out none.
        repeats: how often the held-out samples are drawn.
        seed: of that drawing.
        compare: also compare scores, combinations, calibration, window and 3 stages.
        allow_overlap: report even on samples that are chosen on.
        out: folder for frontier.csv, frontier.png, summary.json and the cascades' configs; by
            default a new one, runs/search-N.
        overwrite: replace results that are already in the folder.
    """

    records: list[str] | None = None
    split: str | None = None
    choose_on: str | None = None
    stages: int = 2
    cost: str = "flops"
    score: ScoreName = "max_softmax"
    combine: Combination = "later"
    calibrate: bool = False
    window: bool = False
    bands: list[str] | None = None
    baseline: list[str] | None = None
    levels: int | None = None
    candidates: int = 96
    holdout: float = 0.5
    repeats: int = 20
    seed: int = 0
    compare: bool = False
    allow_overlap: bool = False
    out: str | None = None
    overwrite: bool = False
