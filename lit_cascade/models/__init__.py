"""Stages: the models of a cascade, each with its weights and its own preprocessing."""

from lit_cascade.models.architectures import (
    Architecture,
    ArchitectureCost,
    architecture_cost,
    build_architecture,
    find_architectures,
)
from lit_cascade.models.network import Network
from lit_cascade.models.networks import ConvNet, Perceptron, ResNet
from lit_cascade.models.sharing import TEXT_FILES, Trusted, shared_stage, stage_from
from lit_cascade.models.stage import (
    BuiltStage,
    Stage,
    checkpoint_pieces,
    describe_network,
    load_weights,
)
from lit_cascade.models.text_networks import TextBag, TextConvNet
from lit_cascade.models.timm import ImagePreprocessing, Timm, timm_names
from lit_cascade.models.transformers import TextClassifier, TextPreprocessing

__all__ = [
    "TEXT_FILES", "Architecture", "ArchitectureCost", "BuiltStage", "ConvNet",
    "ImagePreprocessing", "Network", "Perceptron", "ResNet", "Stage", "TextBag", "TextClassifier",
    "TextConvNet", "TextPreprocessing", "Timm", "Trusted", "architecture_cost",
    "build_architecture", "checkpoint_pieces", "describe_network", "find_architectures",
    "load_weights", "shared_stage", "stage_from", "timm_names",
]  # fmt: skip
