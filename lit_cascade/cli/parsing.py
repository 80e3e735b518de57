"""Parsing of arguments, shared by all commands; loads no torch."""

from __future__ import annotations

import json
import re
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from lit_cascade.cli.failures import DEBUG
from lit_cascade.cli.help import MORE_HELP, data_classes, simplify
from lit_cascade.cli.processes import alone
from lit_cascade.cli.refusals import Forgiving, refusal_message
from lit_cascade.errors import UsageError, check_name
from lit_cascade.options import PolicyOptions, Share
from lit_cascade.utilities.files import find_bundled, nearest_files, read_yaml

if TYPE_CHECKING:
    from lit_cascade.cli import Command

Options = TypeVar("Options")

_POLICY_FILE = "the policy.yaml that `lit-cascade select` wrote"
_ALONE = ("--help", "-h", MORE_HELP, "--print_config")
"""Options that take no word as their value."""
_TRUTHS = (["true"], ["false"])
_DATA_HELP = "--data.help"
_OF_MODELS = ("model", "data", "trainer", "seed_everything")


def _names(options: type[Any]) -> set[str]:
    return {field.name for field in fields(options)}


def options_from(values: Namespace, options: type[Options]) -> Options:
    """The options of a command, from all values that were parsed."""
    given = {name: values[name] for name in _names(options)}
    if isinstance(given.get("policy"), Namespace):
        given["policy"] = PolicyOptions(**given["policy"].as_dict())
    return options(**given)


def accuracy_range(text: str, argument: str, *, open_ends: bool = False) -> tuple[float, float]:
    """Parse two shares with a colon between them.

    Args:
        text: such as 0.80:0.86 or 80%:86%.
        argument: name of the option, for messages.
        open_ends: whether one of them may be missing, which stands for 0 or 1.

    Raises:
        UsageError: the text is something else.

    Examples:
        >>> accuracy_range("0.8:0.86", "--bands"), accuracy_range("0.8:", "--a", open_ends=True)
        ((0.8, 0.86), (0.8, 1.0))
    """
    low, colon, high = (part.strip() for part in text.partition(":"))
    if open_ends and colon and (low or high):
        low, high = low or "0", high or "1.0"
    if colon and low and high:
        return Share(low, argument), Share(high, argument)
    hint = "" if colon else " with a colon between"
    also = " or 0.80:" if open_ends else ""
    raise UsageError(
        f"{argument}: expected two accuracies{hint}, such as 0.80:0.86{also}, got {text!r}."
    )


def check_seed(seed: int) -> None:
    """Check the option `--seed`.

    Raises:
        UsageError: the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed: expected a number from 0 to below 2^63, got {seed}.")


def _list_of(word: str, following: list[str]) -> list[str] | str:
    """Values of a list option: after its `=`, or the words up to the next option."""
    _, equals, value = word.partition("=")
    values = [value] if equals else []
    while not equals and following and not following[0].startswith("-"):
        values.append(following.pop(0))
    if not values:
        raise UsageError(f"{word}: expected one or more values.")
    return values[0] if len(values) == 1 and values[0].startswith("[") else values


def _of_type(options: type[Any], kind: str) -> set[str]:
    """Options of a command whose annotation begins with a type."""
    return {f"--{field.name}" for field in fields(options) if str(field.type).startswith(kind)}


def _with_inputs(argv: Sequence[str], option: str, flags: set[str], lists: set[str]) -> list[str]:
    """The words, with those that belong to no option as the value of this one."""
    words, options, inputs = list(argv), list[str](), list[str]()
    while words:
        word = words.pop(0)
        if word == "--":
            inputs += words
            break
        if word == "-" or not word.startswith("-"):
            inputs.append(word)
            continue
        options.append(word)
        if word in lists:
            while words and not words[0].startswith("-"):
                options.append(words.pop(0))
        elif word in flags:
            options += [words.pop(0)] if words[:1] in _TRUTHS else []
        elif "=" not in word and word not in _ALONE:
            options += words[:1]
            del words[:1]
    return [*options, f"{option}={json.dumps(inputs)}"] if inputs else options


def _policy_in(name: str) -> str:
    """The policy in a file, as YAML on one line.

    It may stand under the key `policy`, as `select` writes it, or be the whole file.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        folders = {path.parent, Path(), *Path("runs").glob("*")}
        near = nearest_files(name, (one for folder in folders for one in folder.glob("*.yaml")))
        hint = f" Near: {', '.join(near)}." if near else ""
        raise UsageError(
            f"--policy: there is no file {name!r}; expected {_POLICY_FILE}.{hint}\n"
            "Single numbers have options of their own, such as --policy.thresholds.small 0.9."
        )
    content = read_yaml(path, "--policy")
    policy: Any = content.get("policy")
    if policy is None and set(content) & _names(PolicyOptions):
        policy = content
    options = PolicyOptions.from_mapping(policy, f"--policy: {name!r}")
    given = {key: value for key, value in vars(options).items() if key in policy}
    return yaml.safe_dump(given, default_flow_style=True, width=2**31).strip()


def _spelt(word: str, following: list[str], command: Command) -> str:
    """A word as jsonargparse wants it, with its value; that may be taken from those following."""
    name, equals, value = word.partition("=")

    def value_or(expected: str) -> str:
        if not equals and not following:
            raise UsageError(f"{name}: expected {expected}.")
        return value if equals else following.pop(0)

    if name in {"--config", "-c"}:
        path = find_bundled(value_or("the path of a YAML file"), "configs", "--config")
        return f"--config={path}"
    if name == "--policy" and ("policy" in _names(command.options) or command.model == "LitZoo"):
        return f"--policy={_policy_in(value_or(_POLICY_FILE))}"
    if name == "--wait" or name.startswith("--policy.thresholds"):
        value = value_or("a number, or one per stage")
        # as the tables print them; YAML wants a dot
        return f"{name}={re.sub(r'(?<![.A-Za-z])inf', '.inf', value)}"
    if word in _of_type(command.options, "bool"):
        return f"{word}={following.pop(0) if following[:1] in _TRUTHS else 'true'}"
    return word


def _resolve(argv: Sequence[str], command: Command) -> list[str]:
    """Find bundled configs and policies, and spell flags and lists as jsonargparse wants them."""
    flags, lists = (_of_type(command.options, kind) for kind in ("bool", "list"))
    resolved: list[str] = []
    given: dict[str, list[str]] = {}
    words = [word for word in argv if word != DEBUG]
    if command.words:
        words = _with_inputs(words, f"--{command.words}", flags, lists)
    while words:
        word = words.pop(0)
        name = word.partition("=")[0]
        if name not in lists:
            resolved.append(_spelt(word, words, command))
            continue
        values = _list_of(word, words)
        if isinstance(values, str):  # a list as YAML writes it
            resolved.append(f"{name}={values}")
        else:
            given.setdefault(name, []).extend(values)
    return resolved + [f"{name}={json.dumps(values)}" for name, values in given.items()]


def _configs(argv: Sequence[str]) -> list[dict[str, Any]]:
    """Load the configs among the words."""
    pairs = (word.partition("=") for word in argv)
    return [read_yaml(Path(path), "--config") for name, _, path in pairs if name == "--config"]


def _typed(words: Sequence[str]) -> dict[str, str]:
    """Options of the command line with their values, as text."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    given = ((*word.partition("="), after) for word, after in pairs if word.startswith("--"))
    return {name[2:]: value if equals else after for name, equals, value, after in given}


def flat(content: Any, key: str = "") -> dict[str, str]:
    """Values of configs as text by dotted key, with those of the branches."""
    values = {key: str(content)} if key else {}
    if isinstance(content, list):
        for one in content:
            values |= flat(one, key) if isinstance(one, dict) else {}
    if isinstance(content, dict):
        for name, value in content.items():
            values |= flat(value, f"{key}.{name}" if key else str(name))
    return values


def _check_given(name: str, command: Command, words: Sequence[str]) -> None:
    """Check that a command has something to work on.

    Raises:
        UsageError: it is given neither a config nor what it needs instead.
    """
    given = {word.partition("=")[0] for word in words}
    instead = [{one.partition(" ")[0] for one in need.split(" or ")} for need in command.needs]
    if command.words and instead:  # as `_with_inputs` spells them
        instead = [{f"--{command.words}"}]
    asks = any(one.endswith((".help", "_config")) or one == MORE_HELP for one in given)
    if asks or "--config" in given or (instead and all(one & given for one in instead)):
        return
    known = {*_names(command.options), *_OF_MODELS, "policy", "h", "c"}
    for word in given:
        if word.startswith("-") and word.strip("-").partition(".")[0] not in known:
            parser_of(name, command).error(f"unrecognized arguments: {word}")
    either = ["--config FILE"] * bool(command.model) + [" and ".join(command.needs)] * bool(instead)
    raise UsageError(
        f"expected {' or '.join(either)}; for example\n  lit-cascade {name} {command.example}"
    )


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
            check_name(option.split(".")[2], names, "--model.stages")


def parser_of(name: str, command: Command) -> ArgumentParser:
    """The parser of a command's own options, as `--help` shows them."""
    parser = Forgiving(
        prog=f"lit-cascade {name}",
        description=command.description,
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
    parser.add_class_arguments(command.options)
    for key in _OF_MODELS:  # a config with models may be given together with records
        if key not in _names(command.options):
            parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)
    return parser


def run(name: str, command: Command, argv: Sequence[str]) -> None:
    """Parse a command's arguments and run it.

    Args:
        name: name of the command.
        command: its entry in the table of commands.
        argv: the words after the name.

    Raises:
        UsageError: arguments that do not parse.
    """
    words, configs = _resolve(argv, command), list[dict[str, Any]]()
    try:
        if "--help" in words or "-h" in words:
            parser = parser_of(name, command)
            simplify(parser, name, command)
            parser.print_help()
            return
        if command.model and _without_class(words):
            sys.stdout.write(f"{data_classes()}\n\nOptions of one: --data.help ImageData\n")
            return
        configs = _configs(words)
        _check_given(name, command, words)
        if command.model is None or _with_records(command, words, configs):
            alone(name)
            values = parser_of(name, command).parse_args(words)
            module = import_module(command.module)
            from lit_cascade.cli.output import running  # loads torch

            options = options_from(values, command.options)
            with running(options):
                module.run_files(options)
            return
        _check_stages(words, configs)
        if str(Path.cwd()) not in sys.path and "" not in sys.path:
            sys.path.append(str(Path.cwd()))  # where the user's own models and data are
        sys.argv = [sys.argv[0], name, *argv]  # Lightning starts further processes with these
        words = ["--help" if word == MORE_HELP else word for word in words]
        import_module("lit_cascade.cli.lightning").run(name, command, words)
    except ArgumentError as error:
        raise UsageError(refusal_message(error, _typed(words), flat(configs))) from error


def _without_class(words: Sequence[str]) -> bool:
    """Whether `--data.help` stands without the name of a class."""
    at = words.index(_DATA_HELP) + 1 if _DATA_HELP in words else -1
    return at > 0 and (at == len(words) or words[at].startswith("-"))


def _with_records(command: Command, words: Sequence[str], configs: Sequence[Any]) -> bool:
    """Whether the command can work on records, and is given some."""
    return "records" in _names(command.options) and (
        any(word.startswith("--records=") for word in words)
        or any(content.get("records") for content in configs)
    )
