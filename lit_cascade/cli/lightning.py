"""The LightningCLI behind the commands that need models, data and a Trainer."""

from __future__ import annotations

import logging
import os
import warnings
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import yaml
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_cascade import lit
from lit_cascade.analysis import check_overlap, official_metric
from lit_cascade.cli.output import printing_for
from lit_cascade.cli.parsing import options_from
from lit_cascade.cli.processes import end_with_starter
from lit_cascade.cli.progress import SampleProgress
from lit_cascade.lit import CascadeTrainer, Configs

if TYPE_CHECKING:
    from lit_cascade.cli import Command


class CascadeCLI(LightningCLI):
    """A LightningCLI that parses one command's arguments and makes its model, data and Trainer.

    Args:
        name: name of the command.
        command: its entry in the table of commands.
        words: the arguments, as the parser takes them.
    """

    model: Any
    datamodule: Any
    trainer: CascadeTrainer
    progress: SampleProgress | None

    def __init__(self, name: str, command: Command, words: Sequence[str]) -> None:
        self._name, self._command, self._words = name, command, words
        model = getattr(lit, command.model or "")
        super().__init__(
            lit.configured_cascade if model is lit.LitCascade else model,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_class=CascadeTrainer,
            trainer_defaults={
                "logger": False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_kwargs={
                "prog": f"lit-cascade {name}",
                "description": command.description,
                "exit_on_error": False,
            },
            auto_configure_optimizers=False,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the command's own options, and pass the policy to the model."""
        parser.add_class_arguments(self._command.options)
        if self._command.model == "LitCascade":
            parser.link_arguments("policy", "model.policy", apply_on="instantiate")
        elif self._command.model == "LitZoo":  # the config of a cascade is also one of a zoo
            parser.add_argument("--policy", type=Any, help=SUPPRESS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words of the command; `sys.argv` keeps what was typed."""
        self.config = parser.parse_args(self._words if args is None else args)

    @property
    def options(self) -> Any:
        """The command's own options."""
        return options_from(self.config_init, self._command.options)

    @property
    def configs(self) -> Configs:
        """Stages and data as configured, for records."""
        config = self.config_dict()
        stages = (config["model"].get("stages") or {}) | getattr(self.model, "stage_configs", {})
        return Configs(stages, config["data"])

    def config_dict(self, *, skip_none: bool = False) -> dict[str, Any]:
        """The whole configuration as plain values."""
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=skip_none))
        return config

    def check(self, ids: Any, data: Mapping[str, Any]) -> None:
        """Check, before any model runs, that the policy and the metric suit the samples.

        Raises:
            CascadeError: the policy was fitted on some of them, unless this is allowed.
            UsageError: the metric does not fit the data.
        """
        check_overlap(self.options.policy, ids, data, allowed=self.options.allow_overlap)
        official_metric([data], self.options.metric, self.model.class_names)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, with a progress bar on stderr: stdout is for results."""
        config = self._get(self.config_init, "trainer", default={})
        callbacks = config.get("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        self.progress = None
        if self.options.quiet:
            kwargs["enable_progress_bar"] = False
        elif config.get("enable_progress_bar") is not False:
            self.progress = SampleProgress(self._name)
            callbacks.append(self.progress)
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)


def run(name: str, command: Command, words: Sequence[str]) -> None:
    """Make the model, the data and the Trainer of a command, and run it."""
    end_with_starter()
    _quieten()
    if name != "fit":
        # Lightning divides the threads of one process among several, and the last bit of a
        # convolution on a CPU depends on their number
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    cli = CascadeCLI(name, command, words)
    with lit.explained(), printing_for(cli.options):
        import_module(command.module).run_models(cli, cli.options)


def _quieten() -> None:
    """Silence Lightning's greetings and needless warnings; its other warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it reports that a process has died and that the others end for it
    logging.getLogger(subprocess_script.__name__).setLevel(logging.INFO)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    warnings.filterwarnings("ignore", ".*validation_step. but have no .val_dataloader.*")
    # how lightning 2.6 asks torch 2.15 for the structure of a batch
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
