"""Data modules, and how they are read for evaluation."""

from lit_cascade.data.cifar import CifarData
from lit_cascade.data.datasets import Datasets
from lit_cascade.data.digits import DigitsData
from lit_cascade.data.evaluation import EvaluationData
from lit_cascade.data.glue import GlueData
from lit_cascade.data.images import ImageData
from lit_cascade.data.loading import EvaluationBatch
from lit_cascade.data.samples import RawSample
from lit_cascade.data.texts import TextData
from lit_cascade.data.unlabelled import UnlabelledImages, UnlabelledTexts

__all__ = [
    "CifarData",
    "Datasets",
    "DigitsData",
    "EvaluationBatch",
    "EvaluationData",
    "GlueData",
    "ImageData",
    "RawSample",
    "TextData",
    "UnlabelledImages",
    "UnlabelledTexts",
]
