"""Data modules, and how they are read for evaluation."""

from lit_cascade.data.cifar import (
    CifarData,
)
from lit_cascade.data.datasets import (
    Datasets,
)
from lit_cascade.data.digits import (
    DigitsData,
)
from lit_cascade.data.evaluation import (
    EvaluationData,
)
from lit_cascade.data.glue import (
    GlueData,
)
from lit_cascade.data.images import (
    ImageData,
)
from lit_cascade.data.loading import (
    DeferredLoader,
    EvaluationBatch,
)
from lit_cascade.data.samples import (
    RawSample,
)
from lit_cascade.data.splits import (
    SplitInfo,
    check_split,
    has_split,
    shared_ids,
)
from lit_cascade.data.texts import (
    TextData,
)
from lit_cascade.data.training import (
    TrainingBatch,
    TrainingData,
)
from lit_cascade.data.unlabelled import (
    UnlabelledImages,
    UnlabelledTexts,
)

__all__ = [
    "CifarData",
    "Datasets",
    "DeferredLoader",
    "DigitsData",
    "EvaluationBatch",
    "EvaluationData",
    "GlueData",
    "ImageData",
    "RawSample",
    "SplitInfo",
    "TextData",
    "TrainingBatch",
    "TrainingData",
    "UnlabelledImages",
    "UnlabelledTexts",
    "check_split",
    "has_split",
    "shared_ids",
]
