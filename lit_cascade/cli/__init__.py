"""The command line: one table of commands, of which only the requested one is imported."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from inspect import cleandoc
from textwrap import fill
from typing import Any, NamedTuple

from lit_cascade import __version__
from lit_cascade.cli import options
from lit_cascade.cli.failures import DEBUG, too_long, unexpected
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.utilities.files import main_process
from lit_cascade.utilities.text import printable
from lit_cascade.utilities.threads import share_cores

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """One command of the command line.

    Its module has `run_files(options)`, which works on files alone, or `run_models(cli, options)`,
    which runs models with a Trainer; or both, if the command has an option `records`.

    Attributes:
        module: name of the module, imported when the arguments are parsed.
        options: dataclass of the command's own options; its docstring is the help.
        example: options of an example.
        model: class in `lit_cascade.lit` that the config's `model` describes; None if the command
            runs no models.
        needs: options that it works on without a config; alternatives have `or` between them.
        words: option whose values are the words that belong to no other option.
    """

    module: str
    options: type[Any]
    example: str
    model: str | None = None
    needs: tuple[str, ...] = ()
    words: str = ""

    @property
    def description(self) -> str:
        """The docstring of the options without their list."""
        return cleandoc(self.options.__doc__ or "").partition("\n\nArgs:")[0]

    @property
    def summary(self) -> str:
        """The first clause of the description, for `lit-cascade --help`."""
        return self.description.partition("\n")[0].partition(":")[0].rstrip(".")


_DIGITS = "--config digits_pair.yaml"
_TWO = "--records small.safetensors large.safetensors"
_RECORDS = ("--records FILE ...",)
_CHECKED = (*_RECORDS, "--metrics URL", "--follow FILE")

COMMANDS = {
    "fit": Command(
        "lit_cascade.cli.fit", options.FitOptions, "--config digits_small.yaml", "LitClassifier"
    ),
    "screen": Command(
        "lit_cascade.cli.screen",
        options.ScreenOptions,
        "--results results-imagenet.csv --benchmark benchmark-infer-amp.csv",
        needs=("--results FILE ...",),
    ),
    "flops": Command(
        "lit_cascade.cli.flops",
        options.FlopsOptions,
        "resnet18 'efficientnet_b?' torchvision:vgg16",
        needs=("NAME ...",),
        words="names",
    ),
    "record": Command("lit_cascade.cli.record", options.RecordOptions, _DIGITS, "LitZoo"),
    "import": Command(
        "lit_cascade.cli.import_",
        options.ImportOptions,
        "--name small --logits logits.npy --labels labels.npy --flops 18944",
        needs=("--name NAME or --table FILE",),
    ),
    "calibrate": Command(
        "lit_cascade.cli.calibrate", options.CalibrateOptions, _DIGITS, "LitCascade", _RECORDS
    ),
    "compare-scores": Command(
        "lit_cascade.cli.compare_scores", options.CompareScoresOptions, _TWO, needs=_RECORDS
    ),
    "validate": Command(
        "lit_cascade.cli.validate", options.ValidateOptions, _DIGITS, "LitCascade", _RECORDS
    ),
    "select": Command(
        "lit_cascade.cli.select",
        options.SelectOptions,
        f"{_DIGITS} --max_accuracy_drop 0.5%",
        "LitCascade",
        _RECORDS,
    ),
    "check": Command(
        "lit_cascade.cli.check",
        options.CheckOptions,
        f"--policy policy.yaml {_TWO}",
        needs=(" or ".join(f"--policy FILE {data}" for data in _CHECKED),),
    ),
    "search": Command(
        "lit_cascade.cli.search", options.SearchOptions, "--records runs/record-1", needs=_RECORDS
    ),
    "test": Command("lit_cascade.cli.test", options.TestOptions, _DIGITS, "LitCascade"),
    "predict": Command(
        "lit_cascade.cli.predict", options.PredictOptions, _DIGITS, "LitCascade", words="inputs"
    ),
    "benchmark": Command(
        "lit_cascade.cli.benchmark", options.BenchmarkOptions, _DIGITS, "LitCascade"
    ),
    "report": Command(
        "lit_cascade.cli.report",
        options.ReportOptions,
        "runs/select-1 runs/check-1",
        needs=("FOLDER ...",),
        words="folders",
    ),
    "serve": Command(
        "lit_cascade.cli.serve", options.ServeOptions, f"{_DIGITS} --port 8000", "LitCascade"
    ),
    "export": Command(
        "lit_cascade.cli.export", options.ExportOptions, f"{_DIGITS} --to onnx", "LitCascade"
    ),
    "card": Command(
        "lit_cascade.cli.card",
        options.CardOptions,
        f"{_DIGITS} --name OWNER/NAME",
        "LitCascade",
        _RECORDS,
    ),
    "push": Command(
        "lit_cascade.cli.push",
        options.PushOptions,
        "OWNER/NAME --folder runs/card-1",
        needs=("NAME", "--folder FOLDER"),
        words="names",
    ),
}

_COMPLETION = "--print_completion"
_OPTIONS = ("-h", "--help", "--version", DEBUG, _COMPLETION)
INTERRUPTED, TERMINATED = 130, 143

_HELP = """\
usage: lit-cascade COMMAND [options]

Turns pretrained classifiers into a cascade: a small model answers the inputs it
is sure of, the rest are deferred to a larger one.

commands:
{commands}

options:
  -h, --help     this text; `lit-cascade COMMAND --help` explains a command
  --version      print the version
  --debug        show the traceback of an error
  --print_completion SHELL
                 print a script that completes commands, options and names of
                 configs in bash or zsh

Try: lit-cascade validate --config digits_pair.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: 0 success, 1 the work failed, 2 wrong usage, 130 interrupted, 143 stopped by
        SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [DEBUG]:
        arguments = [*arguments[1:], DEBUG]
    name, rest = (arguments or ["--help"])[0], arguments[1:]
    try:
        if name.startswith("-"):
            sys.stdout.write(_text_for(name, rest))
            return 0
        check_name(name, COMMANDS, "command")
        share_cores()
        from lit_cascade.cli.parsing import run

        run(name, COMMANDS[name], rest)
    except CascadeError as error:
        _show_traceback(rest)
        # wrong usage is wrong in every process, and one reports it; other errors may be one's own
        if not isinstance(error, UsageError) or main_process():
            _complain(name, f"error: {_as_option(str(error), name)}")
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        code = _signal_exit_code(stop)
        if code is None:
            raise
        if main_process():
            how = "interrupted" if code == INTERRUPTED else "stopped by SIGTERM"
            _complain(name, how)
        return code
    except Exception as error:  # noqa: BLE001 - of a user's network, a library, or a defect here
        _show_traceback(rest)
        long_path = too_long(error)
        _complain(name, f"error: {long_path or unexpected(error)}")
        return UsageError.exit_code if long_path else 1
    return 0


def _complain(command: str, text: str) -> None:
    """Say on stderr why a command ends."""
    sys.stderr.write(f"{printable(f'lit-cascade {command}: {text}')}\n")


def _text_for(option: str, words: Sequence[str]) -> str:
    """What an option without a command prints.

    Raises:
        UsageError: there is no such option, or it needs a value.
    """
    option, _, value = option.partition("=")
    check_name(option, _OPTIONS, "option")
    if option == "--version":
        return f"lit-cascade {__version__}\n"
    if option == _COMPLETION:
        from lit_cascade.cli.completion import script

        return script(value or "".join(words[:1]), COMMANDS)
    column = 4 + max(map(len, COMMANDS))
    lines = [
        fill(
            command.summary, 80, break_on_hyphens=False,
            initial_indent=f"  {name}".ljust(column), subsequent_indent=" " * column,
        )
        for name, command in COMMANDS.items()
    ]  # fmt: skip
    return _HELP.format(commands="\n".join(lines))


def _show_traceback(words: Sequence[str]) -> None:
    if DEBUG in words:
        traceback.print_exc()


def _as_option(message: str, command: str) -> str:
    """A message about an argument, which the command line spells with two dashes.

    Examples:
        >>> _as_option("split: 'tset' is unknown", "validate")
        "--split: 'tset' is unknown"
    """
    found = re.match(r"(\w+)(\.[\w.]+| of \w+)?:", message)
    if found is None or command not in COMMANDS:
        return message
    fields = COMMANDS[command].options.__dataclass_fields__
    own = found[1] in fields and found[1] != COMMANDS[command].words
    group = (found[2] or "").startswith(".") and found[1] in {"data", "model", "policy", "trainer"}
    return f"--{message}" if own or group else message


def _signal_exit_code(stop: BaseException) -> int | None:
    """Exit code of a run that a signal has ended; None if something else has."""
    # Lightning turns an interrupt into an exit, and SIGTERM, with which schedulers end jobs, into
    # an exit without a code, which would mean success
    if any(kind.__name__ == "SIGTERMException" for kind in type(stop).__mro__):
        return TERMINATED
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        return INTERRUPTED
    return None
