"""The folder that a command writes: checked before the work, written as a whole after it."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lit_cascade.cli.options import OutputOptions
from lit_cascade.report import (
    check_reportable,
    html_report,
    inform,
    printing,
    show,
    show_summary,
)
from lit_cascade.utilities.files import (
    Content,
    main_process,
    prepare_folder,
    remove_temporary_files,
    unused_folder,
    write_together,
    yaml_text,
)
from lit_cascade.utilities.locks import held, new_folder
from lit_cascade.utilities.resume import UnfinishedRun
from lit_cascade.utilities.text import json_text

PAGE = "report.html"
_RUNS = Path("runs")
_MOST_PATHS = 8
"""Files that are named one by one."""
_PACKAGE = Path(__file__).parents[1]


_folders = ExitStack()
"""Closed at the end of a command: it frees the files that it holds, and removes empty folders."""


@contextmanager
def running(options: OutputOptions) -> Iterator[None]:
    """Run a command in a `with` block: print what its options ask for, and hold its files."""
    with warnings.catch_warnings(), _folders:
        if options.quiet:
            warnings.simplefilter("ignore")
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        with printing(wide=options.wide, quiet=options.quiet, json=options.json):
            yield


def _show_warning(
    show_other: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    *where: Any,
    **options: Any,
) -> None:
    """Print a warning of this package on one line, without the line of code that it came from."""
    if category is UserWarning and Path(filename).is_relative_to(_PACKAGE):
        if main_process():
            inform(f"Warning: {message}")
    else:
        show_other(message, category, filename, *where, **options)


def folder_of(command: str, out: str | None) -> Path:
    """The folder of a command's results: the given one, or a new one under `runs`, which is made.

    Raises:
        UsageError: the folder cannot be written to.
    """
    if out is not None or not main_process():
        return unused_folder(_RUNS, command) if out is None else Path(out)
    prepare_folder(_RUNS, [], overwrite=True)
    while True:
        folder = unused_folder(_RUNS, command)
        with suppress(FileExistsError):  # another run has just taken it
            _folders.enter_context(new_folder(folder, exist_ok=False))
            return folder


def hold(folder: Path, names: Collection[str]) -> None:
    """Make a folder, and hold the files that the command may write into it until it ends.

    Raises:
        UsageError: the folder cannot be written to, or another run is writing one of the files.
    """
    if main_process():
        prepare_folder(folder, [], overwrite=True)
        _folders.enter_context(new_folder(folder))
        _folders.enter_context(held(folder, names))


class Output:
    """The results of one run, to be written into its folder.

    Args:
        command: name of the command, for the folder that is made when none is given.
        options: options of the command: its folder `out`, or None for a new one under `runs`,
            `overwrite`, whether older results may be replaced, and `report`, if it has it.
        names: the files that may be written.

    Raises:
        UsageError: the folder cannot be written to, holds results already, or is written to by
            another run.
        CascadeError: a report is asked for, and the extra is not installed.
    """

    def __init__(self, command: str, options: Any, names: list[str]) -> None:
        self.folder = folder_of(command, options.out)
        self._files: dict[str, Content] = {}
        self._summary: dict[str, Any] = {}
        self._overwrite = options.overwrite
        self._report = getattr(options, "report", False)
        if self._report:
            check_reportable()
        if self._report or (hasattr(options, "report") and options.overwrite):
            names = [*names, PAGE]  # one of older results is replaced, or else removed
        self._announced = names
        hold(self.folder, names)
        if main_process():
            prepare_folder(self.folder, names, overwrite=options.overwrite)

    def add(self, name: str, content: Content | str) -> None:
        """Add a file: text, bytes, or pieces of them."""
        self._files[name] = content.encode() if isinstance(content, str) else content

    def add_json(self, name: str, content: Any) -> None:
        """Add the summary as a JSON file; see `plain` for what it may hold."""
        self.summarise(content)
        self.add(name, json_text(content))

    def summarise(self, content: Mapping[str, Any]) -> None:
        """Set what `--json` prints, beside the paths of the files."""
        self._summary = dict(content)

    def add_yaml(self, name: str, content: Any, comment: str = "") -> None:
        """Add a YAML file, with a comment above its content."""
        self.add(name, yaml_text(content, comment))

    def write(self, beside: Sequence[str] = ()) -> None:
        """Write all files, and print their paths or the summary.

        Args:
            beside: files that the command itself has written into the folder.

        Raises:
            UsageError: a file that was not announced exists already, or one cannot be written.
        """
        prepare_folder(self.folder, list(self._files), overwrite=self._overwrite)
        write_together({self.folder / name: content for name, content in self._files.items()})
        if self._report:
            command = shlex.join(["lit-cascade", *sys.argv[1:]])
            self.add(PAGE, html_report([self.folder], command))
            write_together({self.folder / PAGE: self._files[PAGE]})
        for name in set(self._announced) - {*self._files, *beside}:
            (self.folder / name).unlink(missing_ok=True)  # results of an older run
        paths = [str(self.folder / name) for name in (*beside, *self._files)]
        many = len(paths) > _MOST_PATHS
        wrote = f"{len(paths)} files into {self.folder}" if many else ", ".join(paths)
        show(f"Wrote {wrote}{f'; open {self.folder / PAGE}' if many and self._report else ''}")
        show_summary(self._summary | {"files": paths})


def resumable_output(
    command: str, options: Any, names: list[str], unfinished: Callable[[Path], UnfinishedRun]
) -> Output:
    """The output of a command whose work can be interrupted and resumed.

    Args:
        command: name of the command.
        options: options of the command, a dataclass with `out` and `overwrite`.
        names: the files that may be written.
        unfinished: gives the unfinished work in a folder.

    Raises:
        UsageError: the folder cannot be written to, or holds results of something else.
    """
    folder = folder_of(command, options.out)
    work = unfinished(folder)
    # results beside unfinished work are its own: the run was killed just before its end
    replaceable = options.overwrite or bool(work)
    output = Output(command, replace(options, out=str(folder), overwrite=replaceable), names)
    if main_process():
        remove_temporary_files(folder, names)
        if options.overwrite:
            work.remove()
        if options.out is None:
            inform(f"If interrupted, the same command with --out {folder} resumes the work.")
    return output
