"""The cascade on PyTorch Lightning: modules, metrics, callbacks and the Trainer."""

from lit_cascade.lit.callbacks import ThresholdMetrics
from lit_cascade.lit.cascade import LitCascade, configured_cascade
from lit_cascade.lit.choosing import fit_cascade
from lit_cascade.lit.execution import Evaluation, Execution
from lit_cascade.lit.failures import Signals, explained
from lit_cascade.lit.measuring import Benchmark, SpeedPlan
from lit_cascade.lit.metrics import (
    AURC,
    CascadeAccuracy,
    CascadeFLOPs,
    CascadeMetrics,
    DeferralQuality,
    DeferralRate,
)
from lit_cascade.lit.on_ray import RayPools
from lit_cascade.lit.predicting import Predictions, unfinished_predictions
from lit_cascade.lit.reading import not_reported
from lit_cascade.lit.recording import Configs, ZooRecords
from lit_cascade.lit.sharing import (
    CASCADE_FILE,
    SHARED_FILES,
    cascade_files,
    cascade_from,
    save_cascade,
)
from lit_cascade.lit.trainer import CascadeTrainer
from lit_cascade.lit.training.classifier import LitClassifier
from lit_cascade.lit.training.fitting import Training
from lit_cascade.lit.zoo import LitZoo, TimmModels

__all__ = [
    "AURC", "CASCADE_FILE", "SHARED_FILES", "Benchmark", "CascadeAccuracy", "CascadeFLOPs",
    "CascadeMetrics", "CascadeTrainer", "Configs", "DeferralQuality", "DeferralRate",
    "Evaluation", "Execution", "LitCascade", "LitClassifier", "LitZoo", "Predictions", "RayPools",
    "Signals", "SpeedPlan", "ThresholdMetrics", "TimmModels", "Training", "ZooRecords",
    "cascade_files", "cascade_from", "configured_cascade", "explained", "fit_cascade",
    "not_reported", "save_cascade", "unfinished_predictions",
]  # fmt: skip
