"""Many classifiers of which one at a time is in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lit_cascade.errors import UsageError, check_file_name, check_name
from lit_cascade.lit.stages import StagesModule
from lit_cascade.models.stage import Stage

__all__ = ["LitZoo"]


class LitZoo(StagesModule):
    """One or more trained classifiers of the same classes, in any order, to be recorded.

    None is made before it is selected.

    Args:
        stages: the classifiers by name.

    Raises:
        UsageError: no classifier, or a name that cannot name a file.
    """

    def __init__(self, stages: dict[str, Stage]) -> None:
        super().__init__()
        if not stages:
            raise UsageError("model.stages: expected at least 1 model by name, got none.")
        for name in stages:
            check_file_name(name, "model.stages")
        self.stages = stages
        self.network: nn.Module | None = None
        self._info: list[dict[str, Any]] = []

    def networks(self) -> dict[str, nn.Module]:
        """The selected model by its name, if there is one."""
        return {} if self.network is None else {self.names[0]: self.network}

    def select(self, name: str) -> None:
        """Let go of the model in memory, then make another and load its weights.

        Where a network has no checkpoint its weights are drawn from the seed, the same ones
        whichever models were made before it.

        Raises:
            UsageError: an unknown name, or a missing checkpoint.
            CascadeError: a checkpoint that cannot be read, or of another architecture.
        """
        check_name(name, self.stages, "models")
        self.release()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(torch.initial_seed())
            network, self.class_names = self.stages[name].build(name)
        self.names, self.network = (name,), network
        self._info = super().stage_info()

    def stage_info(self) -> list[dict[str, Any]]:
        """Parameters and settings of the selected model, before a Trainer changes its precision."""
        return self._info

    def release(self) -> None:
        """Let go of the model in memory."""
        self.names, self.network, self.class_names, self._info = (), None, None, []
        self._meters.clear()
