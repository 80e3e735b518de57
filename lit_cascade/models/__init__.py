"""Stages: the models of a cascade, each with its weights and its own preprocessing."""

from lit_cascade.models.networks import ConvNet, Perceptron, ResNet
from lit_cascade.models.stage import Stage

__all__ = ["ConvNet", "Perceptron", "ResNet", "Stage"]
