"""Unexpected errors in one sentence: what was raised, and where in the user's own code."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

DEBUG = "--debug"
"""Option of every command, for tracebacks."""

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_IN_WORKER = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_LONGEST = 240


def unexpected(error: BaseException) -> str:
    """An error that is not this project's own, with its type, its text and its place.

    The place is the innermost line of the user's own code, else of this package.
    """
    return f"{type_and_text(error)}{_place(error)}\n{DEBUG} shows the traceback."


def type_and_text(error: BaseException) -> str:
    """Type and text of an error, shortened to its first line, or a worker's last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if not lines:
        return name
    if lines[0].startswith("Caught "):  # torch passes on the traceback of a worker as text
        text = lines[-1]
    else:
        text = f"{name}: {lines[0] if len(lines[0]) > 20 else ' '.join(lines)}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _place(error: BaseException) -> str:
    own = package = ""
    for file, line, function in _frames(error):
        where = f" ({_short(file)}:{line}, in {function})"
        if Path(file).is_relative_to(_PACKAGE):
            package = where
        elif not file.startswith("<") and not any(
            Path(file).is_relative_to(folder) for folder in _LIBRARIES
        ):
            own = where
    return own or package


def _frames(error: BaseException) -> Iterator[tuple[str, str, str]]:
    """File, line and function of each call, the innermost last."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename, str(frame.lineno), frame.name
    yield from _IN_WORKER.findall(str(error))
    if cause is not None:
        yield from _frames(cause)


def _short(file: str) -> str:
    """Path from the working directory or from the folder of this package, if it is below one."""
    path = Path(file)
    folders = [folder for folder in (Path.cwd(), _PACKAGE.parent) if path.is_relative_to(folder)]
    return str(path.relative_to(folders[0])) if folders else file
