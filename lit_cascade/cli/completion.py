"""Shell completion: commands, their options with values, and names of configs; loads no torch."""

from __future__ import annotations

import argparse
import shlex
from argparse import SUPPRESS
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from lit_cascade.cli.help import MORE_HELP, metavar, simplify
from lit_cascade.cli.parsing import parser_of
from lit_cascade.errors import UsageError, check_name
from lit_cascade.utilities.files import bundled

if TYPE_CHECKING:
    from lit_cascade.cli import Command

SHELLS = ("bash", "zsh")

OFTEN = {
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "trainer.devices": (),
    "trainer.max_epochs": (),
    "trainer.precision": ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"),
    "data": ("CifarData", "Datasets", "DigitsData", "GlueData", "ImageData", "TextData"),
    "data.batch_size": (),
    "data.num_workers": (),
    "data.source": (),
}
"""Options of the Trainer and the data that are completed, with their values. All others are known
only once torch is loaded."""

_CONFIGS = "_lit_cascade_configs"
_BASH = f"""\
{_CONFIGS}() {{
  compgen -W {{names}} -- "$1"
  compgen -f -X '!*.y*ml' -- "$1"
  compgen -d -S / -- "$1"
}}
"""
_ZSH = f"""\
{_CONFIGS}() {{
  _alternative 'bundled:bundled config:({{names}})' 'files:file:_files -g "*.y(a|)ml"'
}}
"""


def script(shell: str, commands: Mapping[str, Command]) -> str:
    """A script that completes the words of the command line.

    Args:
        shell: one of `SHELLS`.
        commands: the table of commands.

    Raises:
        UsageError: another shell, or shtab is not installed.
    """
    check_name(shell, SHELLS, "--print_completion")
    try:
        import shtab
    except ImportError as error:
        raise UsageError(
            "--print_completion: shtab writes the script, and is not installed: "
            "pip install 'lit-cascade[completion]'."
        ) from error
    top = argparse.ArgumentParser("lit-cascade", allow_abbrev=False)
    top.add_argument("--version", action="store_true", help="print the version")
    below = top.add_subparsers()
    for name, command in commands.items():
        whole = parser_of(name, command)
        simplify(whole, name, command)
        parser = below.add_parser(name, help=command.summary.replace("%", "%%"))
        _add_options(parser, whole)
        if command.model is not None:
            _add_often(parser)
    names = sorted(
        path.relative_to(bundled("configs")).as_posix()
        for path in bundled("configs").rglob("*.yaml")
    )
    template, listed = (_BASH, shlex.quote(" ".join(names))) if shell == "bash" else (
        _ZSH, " ".join(names)
    )  # fmt: skip
    preamble = template.replace("{names}", listed)
    return str(shtab.complete(top, shell, preamble=preamble))


def _add_options(parser: argparse.ArgumentParser, whole: ArgumentParser) -> None:
    """Add the options that `--help` shows, with what they take."""
    for action in whole._actions:  # noqa: SLF001 - argparse has no other list
        names = [name for name in action.option_strings if not name.endswith("+")]
        if action.help == SUPPRESS or action.dest in {"help", "data"} or not names:
            continue
        value = metavar(action)
        settings: dict[str, Any] = {
            "help": " ".join((action.help or "").split()).replace("%", "%%")
        }
        if not value:
            parser.add_argument(*names, action="store_true", **settings)
            continue
        if value.startswith("{"):
            settings["choices"] = value.strip("{}").split(",")
        elif action.dest.endswith("score") and value == "SCORE":
            settings["choices"] = list(map(str, action._typehint.__args__))  # type: ignore[attr-defined]  # noqa: SLF001
        settings["nargs"] = "+" if value.endswith("...") else None
        _complete(parser.add_argument(*names, **settings), value)


def _add_often(parser: argparse.ArgumentParser) -> None:
    for name, values in OFTEN.items():
        parser.add_argument(f"--{name}", choices=values or None)
    parser.add_argument("--data.help", nargs="?", choices=OFTEN["data"], help="options of the data")
    parser.add_argument(MORE_HELP, action="store_true", help="models, data and the Trainer")


def _complete(action: argparse.Action, value: str) -> None:
    """Tell shtab which files an option takes."""
    import shtab

    kind = value.removesuffix(" ...").rpartition("|")[2]
    by_kind = {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY}
    if action.dest == "config":
        action.complete = dict.fromkeys(SHELLS, _CONFIGS)  # type: ignore[attr-defined]
    elif kind in by_kind:
        action.complete = by_kind[kind]  # type: ignore[attr-defined]
