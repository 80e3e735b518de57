"""Data modules, and how their splits are read for evaluation and for training."""

from lit_cascade.data.cifar import CifarData
from lit_cascade.data.datasets import Datasets
from lit_cascade.data.digits import DigitsData
from lit_cascade.data.glue import GlueData
from lit_cascade.data.images import ImageData, UnlabelledImages
from lit_cascade.data.loading import (
    Collate,
    DeferredLoader,
    EvaluationData,
    PositionedBatch,
    RawSample,
    TrainingData,
)
from lit_cascade.data.previews import previews
from lit_cascade.data.splits import (
    STDIN,
    SplitInfo,
    check_split,
    class_names_of,
    describe,
    has_split,
    shared_ids,
    split_loader,
)
from lit_cascade.data.texts import TextData, UnlabelledTexts

__all__ = [
    "STDIN", "CifarData", "Collate", "Datasets", "DeferredLoader", "DigitsData", "EvaluationData",
    "GlueData", "ImageData", "PositionedBatch", "RawSample", "SplitInfo", "TextData",
    "TrainingData", "UnlabelledImages", "UnlabelledTexts", "check_split", "class_names_of",
    "describe", "has_split", "previews", "shared_ids", "split_loader",
]  # fmt: skip
