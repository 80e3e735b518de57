"""The LightningCLI behind the commands that need models, data and a Trainer."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
import yaml
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_cascade import lit
from lit_cascade.analysis import check_overlap, official_metric
from lit_cascade.cli.failures import cut, instantiation_error
from lit_cascade.cli.help import simplify
from lit_cascade.cli.output import running
from lit_cascade.cli.parsing import flat, options_from
from lit_cascade.cli.processes import end_with_starter
from lit_cascade.cli.progress import SampleProgress
from lit_cascade.cli.refusals import Forgiving
from lit_cascade.data import class_names_of, describe, split_loader
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit import CascadeTrainer, Configs
from lit_cascade.utilities.allocator import keep_memory

if TYPE_CHECKING:
    from lit_cascade.cli import Command


_MOST_PER_CORE = 8
"""Processes on a CPU core beyond which a number of devices is a slip of the hand."""


class _Parser(Forgiving, LightningArgumentParser):
    """LightningCLI's parser with this project's messages."""


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
            parser_class=_Parser,
            auto_configure_optimizers=False,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the command's own options, and pass the policy to the model."""
        parser.add_class_arguments(self._command.options)
        if self._command.model == "LitCascade":
            # the data are made first, so that their mistakes are found before any weights are read
            parser.link_arguments(
                ("policy", "data"),
                "model.policy",
                compute_fn=lambda policy, _data: policy,
                apply_on="instantiate",
            )
        elif self._command.model == "LitZoo":  # the config of a cascade is also one of a zoo
            parser.add_argument("--policy", type=Any, help=SUPPRESS)
        if "--help" in self._words:
            simplify(parser, self._name, self._command)

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
        check_overlap(self.options.policy.evidence, ids, data, allowed=self.options.allow_overlap)
        official_metric([data], self.options.metric, self.model.class_names)

    def labelled_classes(self) -> tuple[str, ...] | None:
        """Class names of the config's labelled data, in label order; None if they name none.

        Raises:
            UsageError: there are no such data.
        """
        self.datamodule.prepare_data()
        self.datamodule.setup("validate")
        dataset = split_loader(self.datamodule, "validation").dataset
        return getattr(self.datamodule, "class_names", None) or describe(dataset).classes

    def align(self, split: str) -> Any:
        """Have the model answer among the classes of a split of the config's data.

        Returns:
            The loader of the split.

        Raises:
            UsageError: there is no such split.
            CascadeError: classes that cannot be aligned by name.
        """
        self.datamodule.prepare_data()
        self.datamodule.setup("validate")
        loader = split_loader(self.datamodule, split)
        names, fewer = class_names_of(loader.dataset)
        given = getattr(self.datamodule, "class_names", None)
        self.model.align(names if given is None else tuple(map(str, given)), fewer=fewer)
        return loader

    def before_instantiate_classes(self) -> None:
        """Note objects of the config that cannot be made."""
        self._unmade: list[tuple[str, Exception]] = []
        self.parser.add_instantiator(self._noted, object, subclasses=True, prepend=False)

    def _noted(self, kind: type[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return kind(*args, **kwargs)
        except Exception as error:
            self._unmade.append((kind.__name__, error))
            raise

    def instantiate_classes(self) -> None:
        """Make the model, the data and the Trainer.

        Raises:
            CascadeError: one of their objects cannot be made.
        """
        try:
            super().instantiate_classes()
        except CascadeError:
            raise
        except Exception as error:
            raise instantiation_error(error, self._unmade, flat(self.config_dict())) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the Trainer, with a progress bar on stderr: stdout is for results.

        Raises:
            UsageError: it refuses its arguments, or would start more processes than there are
                cores.
        """
        config = self._get(self.config_init, "trainer", default={})
        callbacks = config.get("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        self.progress = None
        if self.options.quiet:
            kwargs["enable_progress_bar"] = False
        elif config.get("enable_progress_bar") is not False:
            self.progress = SampleProgress(self._name)
            callbacks.append(self.progress)
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except Exception as error:
            raise UsageError(self._refused_by_trainer(error)) from error
        trainer._signal_connector = lit.Signals(trainer)  # noqa: SLF001 - Lightning has no option
        cores, started = os.cpu_count() or 1, trainer.strategy.launcher is not None
        if (
            started
            and isinstance(trainer.accelerator, CPUAccelerator)
            and trainer.num_devices > _MOST_PER_CORE * cores
        ):
            raise UsageError(
                f"--trainer.devices: {trainer.num_devices} processes on a CPU with {cores} cores "
                "would slow each other down; one process uses all cores."
            )
        return trainer

    def _refused_by_trainer(self, error: Exception) -> str:
        """Why the Trainer refuses its arguments, with those that the message may be about."""
        defaults = self.parser.get_defaults()["trainer"]
        given = {
            name: value
            for name, value in self.config["trainer"].as_dict().items()
            if value != defaults.get(name) and not isinstance(value, (dict, list))
        }
        text = str(error)
        named = [name for name in given if name in text]
        named = (
            named or [name for name, value in given.items() if str(value) in text] or list(given)
        )
        options = ", ".join(f"--trainer.{name} {given[name]}" for name in named)
        message = f"{options or '--trainer'}: {cut(' '.join(text.split()))}"
        if "accelerator" in named:
            kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
            message += f"\nThis machine has: {', '.join(['cpu', *(k for k in kinds if kinds[k])])}."
        return message


def run(name: str, command: Command, words: Sequence[str]) -> None:
    """Make the model, the data and the Trainer of a command, and run it."""
    end_with_starter()
    keep_memory()
    _quieten()
    if name != "fit":
        # Lightning divides the threads of one process among several, and the last bit of a
        # convolution on a CPU depends on their number
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    cli = CascadeCLI(name, command, words)
    with lit.explained(), running(cli.options):
        import_module(command.module).run_models(cli, cli.options)


def _quieten() -> None:
    """Silence greetings, needless warnings, and bars where there is no terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it reports that a process has died and that the others end for it
    logging.getLogger(subprocess_script.__name__).setLevel(logging.INFO)
    if not sys.stderr.isatty():  # in a log each step of a bar would be kept
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    warnings.filterwarnings("ignore", ".*validation_step. but have no .val_dataloader.*")
    # how lightning 2.6 asks torch 2.15 for the structure of a batch
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
