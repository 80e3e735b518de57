"""The cascade on PyTorch Lightning: modules, metrics, callbacks and the Trainer."""

from lit_cascade.lit.callbacks import Collector, ThresholdMetrics
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.classifier import LitClassifier
from lit_cascade.lit.metrics import CascadeMetrics
from lit_cascade.lit.recording import Configs, Recorded
from lit_cascade.lit.results import Evaluation, Execution
from lit_cascade.lit.trainer import CascadeTrainer
from lit_cascade.lit.zoo import LitZoo, TimmModels

__all__ = [
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
    "ThresholdMetrics",
    "TimmModels",
]
