"""Many classifiers, one at a time in memory."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lit_cascade.errors import UsageError, check_file_name, check_name
from lit_cascade.lit.stages import StagesModule
from lit_cascade.models import BuiltStage, Stage, Timm, timm_names


@dataclass
class TimmModels:
    """Pretrained models of timm, each a stage under its own name.

    Args:
        models: names, or wildcards such as `convnext*.fb_in1k` for all pretrained models that
            match; `lit-cascade screen` writes such a list.
        exclude: patterns of names to leave out.
        pretrained: load the weights of these names.
        use_test_size: evaluate at the image size of timm's published figures.
    """

    models: list[str]
    exclude: list[str] = field(default_factory=list)
    pretrained: bool = True
    use_test_size: bool = True

    def configs(self) -> dict[str, dict[str, Any]]:
        """The stages by name, as in a config file.

        Raises:
            UsageError: an unknown model, or two of one name.
        """
        configs: dict[str, dict[str, Any]] = {}
        for model in timm_names(self.models, self.exclude):
            name = re.split("[/:]", model.rstrip("/"))[-1]
            if name in configs:
                raise UsageError(f"model.timm.models: two models are called {name!r}.")
            arguments = {
                "model": model,
                "pretrained": self.pretrained,
                "use_test_size": self.use_test_size,
            }
            network = {"class_path": "lit_cascade.models.Timm", "init_args": arguments}
            configs[name] = {"network": network}
        return configs


class LitZoo(StagesModule):
    """One or more trained classifiers of the same classes, in any order, to be recorded.

    A classifier is made when it is selected.

    Args:
        stages: the classifiers by name.
        timm: further ones, by their names in timm.
        channels_last: keep weights in the memory layout in which convolutions on GPUs are fastest.
        compiled: run the models through `torch.compile`.

    Raises:
        UsageError: no classifier, one name twice, or a name that cannot name a file.
    """

    def __init__(
        self,
        stages: dict[str, Stage] | None = None,
        timm: TimmModels | None = None,
        channels_last: bool = False,  # noqa: FBT001, FBT002 - a setting
        compiled: bool = False,  # noqa: FBT001, FBT002 - a setting
    ) -> None:
        super().__init__(channels_last=channels_last, compiled=compiled)
        self.stage_configs = {} if timm is None else timm.configs()
        self.stages = dict(stages or {})
        for name, config in self.stage_configs.items():
            if name in self.stages:
                raise UsageError(f"model: {name!r} is both in stages and in timm.models.")
            self.stages[name] = Stage(partial(Timm, **config["network"]["init_args"]))
        if not self.stages:
            raise UsageError(
                "model.stages: expected at least 1 model by name, or model.timm.models, got none."
            )
        for name in self.stages:
            check_file_name(name, "model.stages")
        self.network: BuiltStage | None = None

    def is_published(self, name: str) -> bool:
        """Whether the name of a model determines its weights, as on timm's hub."""
        arguments = self.stage_configs.get(name, {}).get("network", {}).get("init_args", {})
        return bool(arguments.get("pretrained")) and not arguments["model"].startswith("local-dir:")

    def networks(self) -> dict[str, BuiltStage]:
        """The selected model by its name, if there is one."""
        return {} if self.network is None else {self.names[0]: self.network}

    def select(self, name: str) -> None:
        """Release the model in memory, then make another and load its weights.

        The weights of a network without checkpoint are drawn from the seed, whichever models were
        made before it.

        Raises:
            UsageError: an unknown name, or a missing checkpoint.
            CascadeError: a checkpoint that cannot be read, or of another architecture.
        """
        check_name(name, self.stages, "models")
        self.release()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(torch.initial_seed())
            self.network = self.stages[name].build(name)
        self.names, self.class_names = (name,), self.network.class_names
        self.prepare(name, self.network)

    def release(self) -> None:
        """Release the model in memory."""
        if self.network is None:
            return
        self.names, self.network, self.class_names = (), None, None
        self._info.clear()
        self._meters.clear()
        self._forwards.clear()
        gc.collect()  # a model may be part of a reference cycle
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
