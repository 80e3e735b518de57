"""Data modules, and how their splits are read for evaluation and for training."""

from lit_cascade.data.cifar import CifarData
from lit_cascade.data.datasets import Datasets
from lit_cascade.data.digits import DigitsData
from lit_cascade.data.glue import GlueData
from lit_cascade.data.images import ImageData, UnlabelledImages
from lit_cascade.data.loading import (
    DeferredLoader,
    EvaluationData,
    PositionedBatch,
    RawSample,
    TrainingData,
)
from lit_cascade.data.splits import SplitInfo, check_split, has_split, shared_ids
from lit_cascade.data.texts import TextData, UnlabelledTexts

__all__ = [
    "CifarData", "Datasets", "DeferredLoader", "DigitsData", "EvaluationData", "GlueData",
    "ImageData", "PositionedBatch", "RawSample", "SplitInfo", "TextData", "TrainingData",
    "UnlabelledImages", "UnlabelledTexts", "check_split", "has_split", "shared_ids",
]  # fmt: skip
