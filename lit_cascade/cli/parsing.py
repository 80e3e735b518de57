"""From words on the command line to a call: shared by all commands, and free of torch."""

from __future__ import annotations

import json
import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from lit_cascade.cli.processes import alone
from lit_cascade.errors import UsageError, check_name
from lit_cascade.options import PolicyOptions
from lit_cascade.utilities.files import find_bundled

__all__ = ["accuracy_range", "dispatch", "options_from"]

Options = TypeVar("Options")

_MORE_HELP = "--help_all"
_OF_MODELS = ("model", "data", "trainer", "seed_everything")


def options_from(values: Namespace, options: type[Options]) -> Options:
    """The options of a command out of everything that was parsed."""
    found = {f.name: values[f.name] for f in fields(options)}  # type: ignore[arg-type]
    if isinstance(found.get("policy"), Namespace):
        found["policy"] = PolicyOptions(**found["policy"].as_dict())
    return options(**found)


def accuracy_range(text: str, argument: str, *, open_ends: bool = False) -> tuple[float, float]:
    """Two accuracies with a colon between; whether they are any is not checked.

    Args:
        text: such as 0.80:0.86.
        argument: its name, for messages.
        open_ends: whether one of them may be missing, which stands for 0 or 1.

    Raises:
        UsageError: something else.

    Example:
        >>> accuracy_range("0.8:0.86", "--bands"), accuracy_range("0.8:", "--a", open_ends=True)
        ((0.8, 0.86), (0.8, 1.0))
    """
    low, colon, high = (part.strip() for part in text.partition(":"))
    if open_ends and colon and (low or high):
        low, high = low or "0", high or "1"
    try:
        return float(low), float(high)
    except ValueError as error:
        hint = "" if colon else " with a colon between"
        also = " or 0.80:" if open_ends else ""
        raise UsageError(
            f"{argument}: expected two accuracies{hint}, such as 0.80:0.86{also}, got {text!r}."
        ) from error


def _list_of(word: str, following: list[str]) -> list[str] | str:
    """The values of a list option: after its `=`, or the words up to the next option."""
    _, equals, value = word.partition("=")
    values = [value] if equals else []
    while not equals and following and not following[0].startswith("-"):
        values.append(following.pop(0))
    if not values:
        raise UsageError(f"{word}: expected one or more values.")
    return values[0] if len(values) == 1 and values[0].startswith("[") else values


def _of_type(options: type[Any], kind: str) -> set[str]:
    """The options of a command whose annotation begins with a type."""
    return {f"--{f.name}" for f in fields(options) if str(f.type).startswith(kind)}


def _resolve(argv: Sequence[str], options: type[Any]) -> list[str]:
    """Find bundled configs, and spell flags and lists as jsonargparse wants them."""
    flags, lists = _of_type(options, "bool"), _of_type(options, "list")
    resolved: list[str] = []
    given: dict[str, list[str]] = {}
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
        elif word in flags:
            resolved.append(f"{word}=true")
        elif name in lists:
            values = _list_of(word, words)
            if isinstance(values, str):  # a list as YAML writes it
                resolved.append(f"{name}={values}")
            else:
                given.setdefault(name, []).extend(values)
        elif name.startswith("--policy.thresholds"):
            if not equals and words:
                value = words.pop(0)
            # as the tables print them; YAML wants a dot
            resolved.append(f"{name}={re.sub(r'(?<![.A-Za-z])inf', '.inf', value)}")
        else:
            resolved.append(word)
    return resolved + [f"{name}={json.dumps(values)}" for name, values in given.items()]


def _configs(argv: Sequence[str]) -> list[dict[str, Any]]:
    """The content of the configs that are given.

    Raises:
        UsageError: one is not YAML, or no mapping.
    """
    found = []
    for word in argv:
        name, _, path = word.partition("=")
        if name != "--config":
            continue
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f" in line {mark.line + 1}" if mark else ""
            raise UsageError(f"--config: {path!r} is not YAML: {error.problem}{where}.") from error
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"--config: {path!r} cannot be read: {error}.") from error
        if not isinstance(content, dict):
            raise UsageError(f"--config: {path!r} holds no options: expected a mapping.")
        found.append(content)
    return found


def _check_stages(argv: Sequence[str], configs: Sequence[dict[str, Any]]) -> None:
    """Check the stage names in options such as `--model.stages.small.checkpoint`."""
    names: dict[str, None] = {}
    for content in configs:
        model = content.get("model")
        stages = model.get("stages") if isinstance(model, dict) else None
        names.update(dict.fromkeys(stages if isinstance(stages, dict) else ()))
    for word in argv:
        option = word.partition("=")[0]
        if names and option.startswith("--model.stages.") and ".network" not in option:
            check_name(option.split(".")[2], names, "model.stages")


def _parser(command: str, options: type[Any], *, models: bool) -> ArgumentParser:
    more = f" Options of the models, the data and the Trainer: lit-cascade {command} {_MORE_HELP}"
    parser = ArgumentParser(
        prog=f"lit-cascade {command}",
        description=cleandoc(options.__doc__ or "").partition("\n\nArgs:")[0],
        epilog=(
            "FLOPs count one multiply-add as 2. A config named without a path is looked for in the "
            f"working directory, then among the bundled ones.{more if models else ''}"
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
    own = {f.name for f in fields(options)}
    for key in _OF_MODELS:  # a whole config may be given with records, which need none of this
        if key in own:
            continue
        parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)
    return parser


def dispatch(
    command: str,
    argv: Sequence[str],
    options: type[Options],
    run_models: Callable[[], None] | None,
    run_records: Callable[[Options], None] | None = None,
) -> None:
    """Parse a command's arguments and run it.

    Args:
        command: its name.
        argv: the words after it.
        options: dataclass of its own options.
        run_models: runs it with models, data and a Trainer, taking its arguments from `sys.argv`
            (where Lightning reads them again to start further processes); None if it cannot.
        run_records: runs it over records alone; None if it cannot.

    Raises:
        UsageError: arguments that do not parse.
    """
    try:
        resolved = _resolve(argv, options)
        models = run_models is not None
        if "--help" in resolved or "-h" in resolved:
            _parser(command, options, models=models).print_help()
            return
        configs = _configs(resolved)
        with_records = any(word.startswith("--records=") for word in resolved) or any(
            content.get("records") for content in configs
        )
        if run_records is not None and (with_records or run_models is None):
            alone(command)
            parser = _parser(command, options, models=models)
            run_records(options_from(parser.parse_args(resolved), options))
            return
        _check_stages(resolved, configs)
        if str(Path.cwd()) not in sys.path and "" not in sys.path:
            sys.path.append(str(Path.cwd()))  # where the user's own models and data are
        words = ["--help" if word == _MORE_HELP else word for word in resolved]
        sys.argv = [sys.argv[0], command, *words]
        if run_models is not None:
            run_models()
    except ArgumentError as error:
        raise UsageError(_plain(str(error), command)) from error


def _plain(message: str, command: str) -> str:
    """A parser's message in one line, without what only matters to programmers."""
    for pattern, option_first in (
        (r"class_path '([^']+)':\s+(?:[^\n]*\n\s+)?Option '([^']+)' is not accepted", False),
        (r"Option '([^']+)' is not accepted\. Got value: Namespace\(class_path='([^']+)'", True),
    ):
        found = re.search(pattern, message)
        if found:
            option, owner = (found[1], found[2]) if option_first else (found[2], found[1])
            return f"{owner} has no option {option!r}."
    missing = re.search(r"No module named '([^']+)'", message)
    if missing:
        return f"there is no module {missing[1]!r}, neither installed nor in the working directory."
    function = re.search(
        r"Expected '([^']+)' to be a function that returns (?:<class ')?(\w+)", message
    )
    if function:
        return (
            f"{function[1]} must be a function without arguments whose signature says what it "
            f"returns: def {function[1].rsplit('.')[-1]}() -> {function[2]}."
        )
    message = re.sub(
        r"Type \S*Callable\S* \S+ expects a function or a callable class: ", "", message
    )
    message = message.replace(f"{command}.", "").replace("typing.", "").replace('Parser key "', '"')
    return re.sub(r"\s*\n\s*", " ", message.strip())
