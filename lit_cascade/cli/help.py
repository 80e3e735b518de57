"""How `--help` shows options: the forms that work, their defaults, and no types of Python."""

from __future__ import annotations

import shutil
import textwrap
from argparse import SUPPRESS, Action
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from lit_cascade.cli.failures import DEBUG
from lit_cascade.options import Share

if TYPE_CHECKING:
    from lit_cascade.cli import Command

MORE_HELP = "--help_all"

_WIDEST_CHOICES = 34
_METAVARS = {
    **dict.fromkeys(("out", "folders"), "FOLDER"),
    **dict.fromkeys(("policy", "config", "trainer", "model"), "FILE"),
    "seed_everything": "N",
    "confidence": "SHARE",
    **dict.fromkeys(("records", "fit_on", "results", "benchmark", "baseline"), "FILE"),
    **dict.fromkeys(("logits", "probabilities", "labels", "score", "correct", "ids"), "FILE"),
    **dict.fromkeys(("stages", "only", "models", "exclude", "name", "names"), "NAME"),
    **dict.fromkeys(("accuracy", "bands"), "LOW:HIGH"),
    **dict.fromkeys(("classes", "follow", "state"), "FILE"),
    "metrics": "URL|FILE",
    "flops": "NUMBER|FILE",
    "inputs": "INPUT",
    **dict.fromkeys(("batch_size", "workers", "ray.actors"), "N"),
    **dict.fromkeys(("wait", "ray.cpus", "ray.gpus"), "NUMBER"),
    "devices": "NAME",
}
"""What an option takes, where its name or type does not say it."""
_BY_TYPE = {int: "N", float: "NUMBER", Share: "SHARE"}
_IN_FILES = ("policy.heads", "policy.evidence", "ray")
"""Options that nobody types."""
_HELP = {
    "help": "show this text",
    "config": "YAML file of options; a name without a path is looked for in the working directory, "
    "then among the bundled configs; several compose, and the later wins",
    "print_config": "print the configuration as YAML, and do nothing else",
    "seed_everything": "seed of all random numbers; true draws one",
    "policy": "policy.yaml that select, calibrate or search wrote; the options below replace "
    "single numbers of it",
    "data": "class of the data, such as ImageData; --data.NAME VALUE gives its arguments",
}
_BY_STAGE = (
    *(f"policy.{name}" for name in ("thresholds", "temperatures", "floors", "norms")),
    "ray.seconds",
)


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's formatter with one line of forms per option and without types."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, **{"max_help_position": 26, **kwargs})  # type: ignore[no-untyped-call]

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if not name.endswith("+")]
        if not names:
            return super()._format_action_invocation(action)
        value = metavar(action)
        if action.dest in _BY_STAGE:
            return f"{names[-1]}.STAGE NUMBER"
        return ", ".join(names) + (f" {value}" if value else "")

    def _get_help_string(self, action: Action) -> str:
        text = " ".join((action.help or "").split())
        default, kind = action.default, getattr(action, "_typehint", None)
        choices = list(map(str, get_args(kind))) if get_origin(kind) is Literal else []
        if choices and metavar(action).isupper() and not all(one in text for one in choices):
            text += f" One of {', '.join(choices)}."
        if action.required:
            return f"{text} (required)"
        plain = default not in {None, SUPPRESS} if isinstance(default, str) else bool(default)
        if plain and not isinstance(default, (Namespace, dict)) and "%(default)" not in text:
            shown = " ".join(map(str, default if isinstance(default, list) else [default]))
            shown = shown.lower() if default is True else shown.replace("%", "%%")
            text += f" (default: {shown})"
        return text

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap the paragraphs of a text, and leave lines that are indented."""
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(
            paragraph
            if paragraph.startswith("  ")
            else textwrap.fill(" ".join(paragraph.split()), width, initial_indent=indent)
            for paragraph in paragraphs
        )


def metavar(action: Action) -> str:
    """What stands for the value of an option; empty for a flag."""
    if action.nargs == 0 or action.dest == "print_config":
        return ""
    kind: Any = getattr(action, "_typehint", action.type)
    name = action.dest.rpartition(".")[2]
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is not Literal and len(parts) == 1 and len(get_args(kind)) == 2:
        kind, parts = parts[0], list(get_args(parts[0]))  # None or something
    if kind is bool:
        return "" if action.default is False and "." not in action.dest else "{true,false}"
    if get_origin(kind) is Literal:
        choices = f"{{{','.join(map(str, parts))}}}"
        return choices if len(choices) <= _WIDEST_CHOICES else name.upper()
    several = " ..." if get_origin(kind) is list else ""
    of_type = _BY_TYPE.get(parts[0] if several and parts else kind)
    shown = of_type or name.upper()
    if kind is not int and action.dest in _METAVARS:
        shown = _METAVARS[action.dest]
    if "CLASS" in str(action.metavar):
        shown = "CLASS"
    elif several and name == "cost":
        shown = "NAME=NUMBER"
    optional = f"[{shown}]" if action.nargs == "?" else shown
    return f"{optional}{several}"


def usage(name: str, command: Command) -> str:
    """The shortest forms of a command, in a line or two."""
    inputs = " [INPUT ...]" if command.words and not command.needs else ""
    needs = " ".join(command.needs).split(" or ") if command.needs else []
    forms = ["--config FILE ..."] * (command.model is not None) + needs
    start = f"lit-cascade {name} "
    return f"\n{' ' * len('usage: ')}".join(f"{start}{form} [options]{inputs}" for form in forms)


def epilog(name: str, command: Command) -> str:
    """An example, and where to read on."""
    start = f"lit-cascade {name}"
    text = f"Example:\n\n  {start} {command.example}\n\nFLOPs count one multiply-add as 2."
    if command.model is None:
        return text
    return text + (
        "\n\nMore help:\n\n"
        f"  {start} {MORE_HELP}           models, data and the Trainer\n"
        f"  {start} --data.help [CLASS]  classes of data, or the options of one"
    )


def data_classes() -> str:
    """The classes of data that a config may name, with the first sentence about each."""
    from lit_cascade import data

    kinds = [one for name in data.__all__ if hasattr(one := getattr(data, name), "unlabelled")]
    width = max(len(kind.__name__) for kind in kinds)
    lines = (
        textwrap.fill(
            f"{one.__name__:<{width}}  {(one.__doc__ or '').splitlines()[0]}",
            shutil.get_terminal_size().columns,
            initial_indent="  ",
            subsequent_indent=" " * (width + 4),
        )
        for one in kinds
    )
    return "Classes of data, for --data CLASS or a config's data.class_path:\n\n" + "\n".join(lines)


def simplify(parser: ArgumentParser, name: str, command: Command) -> None:
    """Arrange a parser's options for reading: the command's own first, what nobody types hidden."""
    parser.usage, parser.epilog = usage(name, command), epilog(name, command)
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    general, *others = parser._action_groups[1:]  # noqa: SLF001 - argparse has no other list
    general.title = "general"
    own = next(group for group in others if any(one.dest == "quiet" for one in _actions(group)))
    own.title = "options"
    for group in others:
        if any(action.dest == "policy.score" for action in _actions(group)):
            group.title, group.description = "policy", group.title
        for action in _actions(group):
            if action.dest in {*_IN_FILES, command.words} or action.dest.endswith(".help"):
                action.help = SUPPRESS
    for action in parser._actions:  # noqa: SLF001 - as above
        if hasattr(action, "target"):  # a link, which nobody types
            action.help = SUPPRESS
        elif action.help != SUPPRESS and (action.dest != "data" or metavar(action) == "CLASS"):
            action.help = _HELP.get(action.dest, action.help)
    rest = [group for group in others if group is not own]
    groups: Any = parser._action_groups  # noqa: SLF001 - as above
    groups[1:] = [own, *rest, general]


def _actions(group: Any) -> list[Action]:
    return list(group._group_actions)  # noqa: SLF001 - as above
