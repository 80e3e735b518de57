"""The command line: a table of commands, of which only the one that is asked for is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from lit_cascade import __version__
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.utilities.files import main_process

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "fit": ("lit_cascade.cli.fit", "train one stage and write its checkpoint and card"),
    "screen": ("lit_cascade.cli.screen", "list published models worth recording"),
    "record": ("lit_cascade.cli.record", "run models and keep what they say, one file each"),
    "import": ("lit_cascade.cli.import_", "make a record from arrays of any framework"),
    "calibrate": (
        "lit_cascade.cli.calibrate",
        "fit temperatures; do they help?",
    ),
    "compare-scores": ("lit_cascade.cli.compare_scores", "judge every score of a small model"),
    "validate": ("lit_cascade.cli.validate", "judge a cascade at every threshold"),
    "select": ("lit_cascade.cli.select", "choose thresholds that keep a promise, with evidence"),
    "check": ("lit_cascade.cli.check", "test the promise of a policy on new data"),
    "search": ("lit_cascade.cli.search", "find the cascades of many models worth having"),
    "test": ("lit_cascade.cli.test", "run a cascade for real at the thresholds of a policy"),
    "predict": ("lit_cascade.cli.predict", "answer samples with a cascade and write the answers"),
    "benchmark": ("lit_cascade.cli.benchmark", "measure how fast a cascade is, and could be"),
}
"""Command: (module with a function `main(argv)`, one-line summary)."""

INTERRUPTED, TERMINATED = 130, 143

_HELP = """\
usage: lit-cascade COMMAND [options]

Turns pretrained classifiers into a cascade: a small model answers the inputs it is
sure of, the rest are deferred to a larger one.

commands:
{commands}

options:
  -h, --help     this text; `lit-cascade COMMAND --help` explains a command
  --version      print the version

Try: lit-cascade validate --config digits_pair.yaml
"""


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return _HELP.format(commands="\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted, 143 stopped by
        SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"lit-cascade {__version__}\n")
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        check_name(name, COMMANDS, "command")
        module = importlib.import_module(COMMANDS[name][0])
        module.main(rest)
    except CascadeError as error:
        # a wrong call is wrong in every process: one says so; other trouble may be one's own
        if not isinstance(error, UsageError) or main_process():
            sys.stderr.write(f"lit-cascade {name}: error: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        code = _signal_of(stop)
        if code is None:
            raise
        if main_process():
            how = "interrupted" if code == INTERRUPTED else "stopped by SIGTERM"
            sys.stderr.write(f"lit-cascade {name}: {how}\n")
        return code
    return 0


def _signal_of(stop: BaseException) -> int | None:
    """The exit code of what a signal has ended; None where it was something else."""
    # Lightning makes an exit of an interrupt, and one without a code, which would be success, of
    # SIGTERM, with which schedulers take a machine away
    if any(kind.__name__ == "SIGTERMException" for kind in type(stop).__mro__):
        return TERMINATED
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        return INTERRUPTED
    return None
