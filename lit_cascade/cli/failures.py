"""Unexpected errors in one sentence: what was raised, and where in the user's own code."""

from __future__ import annotations

import errno
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lit_cascade.errors import LONGEST_FILE_NAME, CascadeError, UsageError
from lit_cascade.utilities.tabular import shortened

DEBUG = "--debug"
"""Option of every command, for tracebacks."""

HINT = f"{DEBUG} shows the traceback."

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_IN_WORKER = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_LONGEST = 240


def unexpected(error: BaseException) -> str:
    """An error that is not this project's own, with its type, its text and its place.

    The place is the innermost line of the user's own code, else of this package.
    """
    own, package = _places(error)
    return f"{type_and_text(error)}{own or package}\n{HINT}"


def too_long(error: BaseException) -> str:
    """What is wrong with a path that no file system takes; empty for other errors."""
    if not isinstance(error, OSError) or error.errno != errno.ENAMETOOLONG:
        return ""
    return (
        f"the path {shortened(str(error.filename))!r} is too long: a name in it may have "
        f"{LONGEST_FILE_NAME} bytes, and all of it about 4,000."
    )


def instantiation_error(
    error: Exception, noted: Sequence[tuple[str, Exception]], config: Mapping[str, str]
) -> CascadeError:
    """An error that names the object of a config that cannot be made, and why.

    Args:
        error: what was raised in the end: where an option takes several types, jsonargparse tries
            all of them and raises an error about types.
        noted: names of classes of the config and what making an object of them raised, in order.
        config: values by dotted key.
    """
    causes = list(_causes(error))
    name, cause = next(
        ((name, one) for name, one in noted if one in causes or _first_line(one) in str(error)),
        (config.get("data.class_path", "").rpartition(".")[2], causes[-1]),
    )
    keys = [
        key.removesuffix(".class_path")
        for key, value in config.items()
        if key.endswith(".class_path") and value.rpartition(".")[2] == name
    ]
    key = keys[0] if len(keys) == 1 else ""
    if isinstance(cause, CascadeError):
        message = str(cause).removeprefix("data.")
        known = f"{key}.init_args.{message.partition(':')[0]}" in config
        return type(cause)(f"--{key}.init_args.{message}") if known else cause
    place, _ = _places(cause)
    if text := too_long(cause):
        return UsageError(f"--{key}: {text}" if key else text)
    where = f"--{key}: {name}: " if key else ""
    return UsageError(f"{where}{type_and_text(cause)}{place}\n{HINT}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def type_and_text(error: BaseException) -> str:
    """Type and text of an error, cut to its first line, or a worker's last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if not lines:
        return name
    if lines[0].startswith("Caught "):  # torch passes on the traceback of a worker as text
        text = lines[-1]
    else:
        text = f"{name}: {lines[0] if len(lines[0]) > 20 else ' '.join(lines)}"
    return cut(text)


def cut(text: str) -> str:
    """A text of at most a few sentences, cut after one of them where that is possible."""
    if len(text) <= _LONGEST:
        return text
    end = text.rfind(". ", _LONGEST // 3, _LONGEST)
    return text[: end + 1] if end > 0 else f"{text[:_LONGEST]}..."


def _places(error: BaseException) -> tuple[str, str]:
    """Innermost lines of the user's own code and of this package; empty if there is none."""
    own = package = ""
    for file, line, function in _frames(error):
        where = f" ({_short(file)}:{line}, in {function})"
        if Path(file).is_relative_to(_PACKAGE):
            package = where
        elif not file.startswith("<") and not any(
            Path(file).is_relative_to(folder) for folder in _LIBRARIES
        ):
            own = where
    return own, package


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
