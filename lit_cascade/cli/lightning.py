"""The LightningCLI behind the commands that need models, data and a Trainer."""

from __future__ import annotations

import logging
import os
import warnings
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
import yaml
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_cascade.cli.parsing import options_from
from lit_cascade.cli.processes import end_with_starter
from lit_cascade.lit import CascadeTrainer, Configs, explained

__all__ = ["CascadeCLI", "run_command"]


class CascadeCLI(LightningCLI):
    """One command as a LightningCLI subcommand.

    Args:
        model: the LightningModule that the config's `model` describes.
        options: dataclass of the command's own options.
    """

    trainer: CascadeTrainer

    def __init__(self, model: type[LightningModule], options: type[Any]) -> None:
        self.options_class = options
        end_with_starter()
        _quieten()
        if "fit" not in self.subcommands():
            _keep_threads()
        super().__init__(
            model,
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
            parser_kwargs={name: {"exit_on_error": False} for name in self.subcommands()}
            | {"exit_on_error": False},
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the command's own options, and hand the policy to the model."""
        added = parser.add_class_arguments(self.options_class)
        if any(name.startswith("policy") for name in added):
            parser.link_arguments("policy", "model.policy", apply_on="instantiate")

    @property
    def options(self) -> Any:
        """The command's own options."""
        return options_from(self.config_init[str(self.subcommand)], self.options_class)

    @property
    def configs(self) -> Configs:
        """Stages and data as the config has them, for records."""
        whole = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        config = whole[str(self.subcommand)]
        stages = (config["model"].get("stages") or {}) | getattr(self.model, "stage_configs", {})
        return Configs(stages, config["data"])

    def _run_subcommand(self, subcommand: str) -> None:
        with explained():
            super()._run_subcommand(subcommand)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, with a progress bar on stderr: stdout is for results."""
        config = self._get(self.config_init, "trainer", default={})
        callbacks = config.get("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if config.get("enable_progress_bar") is not False:
            callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)


def run_command(
    name: str,
    model: type[LightningModule],
    options: type[Any],
    work: Callable[[Any, Any, Any], None],
    unread: Sequence[str] = (),
) -> None:
    """Run a command as the one subcommand of a LightningCLI.

    Lightning takes the arguments of a subcommand from the Trainer's method of that name, and calls
    a method of that name of the CLI instead of it. Options of a command are those of its dataclass
    alone, so every argument of the Trainer's method is skipped.

    Args:
        name: of the command, and of a method of `CascadeTrainer`.
        model: the LightningModule that the config's `model` describes.
        options: dataclass of the command's own options.
        work: is given the CLI, the model and the data module.
        unread: what else a config may hold: options of other commands that have no part in this.
    """
    arguments = set(signature(getattr(CascadeTrainer, name)).parameters)

    class Command(CascadeCLI):
        """The command."""

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            """The one command."""
            return {name: arguments}

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            """Add the command's own options, and those that it does not read."""
            super().add_arguments_to_parser(parser)
            for key in unread:
                parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)

    setattr(Command, name, lambda cli, model, datamodule, **_: work(cli, model, datamodule))
    Command(model, options)


def _keep_threads() -> None:
    """Give each of several processes the threads of a single one.

    Lightning would divide them among the processes, and the last bit of a convolution on a CPU
    depends on their number.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def _quieten() -> None:
    """Keep Lightning's greetings from between the user and the result; its warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # that a process has died, and that the others end for it
    logging.getLogger(subprocess_script.__name__).setLevel(logging.INFO)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    warnings.filterwarnings("ignore", ".*validation_step. but have no .val_dataloader.*")
    # how lightning 2.6 asks torch 2.15 for the structure of a batch
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
