"""From words on the command line to a call: shared by all commands, and free of torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from lit_cascade.errors import UsageError
from lit_cascade.files import find_bundled

__all__ = ["dispatch", "options_from"]

Options = TypeVar("Options")

_FLAGS = ("--overwrite", "--allow_overlap", "--save_records")
_LISTS = ("--records", "--stages")
_MORE_HELP = "--help_all"


def options_from(values: Namespace, options: type[Options]) -> Options:
    """The options of a command out of everything that was parsed."""
    return options(**{f.name: values[f.name] for f in fields(options)})  # type: ignore[arg-type]


def _resolve(argv: Sequence[str]) -> list[str]:
    """Find bundled configs, and spell flags and lists as jsonargparse wants them."""
    resolved: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in {"--config", "-c"}:
            if not equals:
                if not words:
                    raise UsageError("--config: expected the path of a YAML file.")
                value = words.pop(0)
            resolved.append(f"--config={find_bundled(value, 'configs', '--config')}")
        elif word in _FLAGS:
            resolved.append(f"{word}=true")
        elif word in _LISTS:
            values = []
            while words and not words[0].startswith("-"):
                values.append(words.pop(0))
            if not values:
                raise UsageError(f"{word}: expected one or more values.")
            is_list = len(values) == 1 and values[0].startswith("[")
            resolved.append(f"{word}={values[0] if is_list else json.dumps(values)}")
        else:
            resolved.append(word)
    return resolved


def _wants_records(argv: Sequence[str]) -> bool:
    """Whether records are given, on the command line or in a config."""
    for word in argv:
        name, _, value = word.partition("=")
        if name == "--records":
            return True
        if name == "--config":
            try:
                content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
                raise UsageError(f"--config: {value!r} is not YAML: {error}") from error
            if isinstance(content, dict) and content.get("records"):
                return True
    return False


def _parser(command: str, options: type[Any]) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"lit-cascade {command}",
        description=(options.__doc__ or "").split("\n", maxsplit=1)[0],
        epilog=(
            "FLOPs count one multiply-add as 2. A config named without a path is looked for in the "
            "working directory, then among the bundled ones. Options of the models, the data and "
            f"the Trainer: lit-cascade {command} {_MORE_HELP}"
        ),
        exit_on_error=False,
        env_prefix="LIT_CASCADE",
        default_env=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        action="config",
        help="YAML file of options; several compose, the later wins.",
    )
    parser.add_class_arguments(options)
    return parser


def dispatch(
    command: str,
    argv: Sequence[str],
    options: type[Options],
    run_models: Callable[[], None],
    run_records: Callable[[Options], None] | None = None,
) -> None:
    """Parse a command's arguments and run it.

    Args:
        command: its name.
        argv: the words after it.
        options: dataclass of its own options.
        run_models: runs it with models, data and a Trainer, taking its arguments from `sys.argv`
            (where Lightning reads them again to start further processes).
        run_records: runs it over records alone; None if it cannot.

    Raises:
        UsageError: arguments that do not parse.
    """
    try:
        resolved = _resolve(argv)
        if "--help" in resolved or "-h" in resolved:
            _parser(command, options).print_help()
            return
        if run_records is not None and _wants_records(resolved):
            parser = _parser(command, options)
            values = parser.instantiate_classes(parser.parse_args(resolved))
            run_records(options_from(values, options))
            return
        words = ["--help" if word == _MORE_HELP else word for word in resolved]
        sys.argv = [sys.argv[0], command, *words]
        run_models()
    except ArgumentError as error:
        raise UsageError(_plain(str(error), command)) from error


def _plain(message: str, command: str) -> str:
    return message.replace(f"{command}.", "").replace('Parser key "', '"').strip()
