"""The cascade on PyTorch Lightning: modules, metrics, callbacks and the Trainer."""

from lit_cascade.lit.callbacks import Collector, ThresholdMetrics
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.failures import explained
from lit_cascade.lit.measuring import Benchmark, SpeedPlan
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.lit.predicting import Answers, unfinished
from lit_cascade.lit.reading import not_reported
from lit_cascade.lit.recording import Configs, Recorded, without_workers
from lit_cascade.lit.results import Evaluation, Execution, Training
from lit_cascade.lit.trainer import CascadeTrainer
from lit_cascade.lit.training.classifier import LitClassifier
from lit_cascade.lit.zoo import LitZoo, TimmModels

__all__ = [
    "Answers",
    "Benchmark",
    "CascadeMetrics",
    "CascadeTrainer",
    "Collector",
    "Configs",
    "Evaluation",
    "Execution",
    "LitCascade",
    "LitClassifier",
    "LitZoo",
    "Recorded",
    "SpeedPlan",
    "ThresholdMetrics",
    "TimmModels",
    "Training",
    "explained",
    "not_reported",
    "unfinished",
    "without_workers",
]
