"""Where files are found, and how results are written: whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from lit_cascade.errors import CascadeError, UsageError

__all__ = [
    "bundled",
    "find_bundled",
    "main_process",
    "open_atomically",
    "prepare_folder",
    "sweep",
    "unused_folder",
    "write_atomically",
    "write_together",
]


def bundled(kind: str) -> Path:
    """The folder of bundled `configs` or `checkpoints`: in the installed package, or beside it."""
    package = Path(__file__).parents[1]
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def find_bundled(name: str, kind: str, argument: str) -> Path:
    """The file called `name`: from the working directory, else among those that come along.

    Args:
        name: a path, or the name of a bundled file.
        kind: `configs` or `checkpoints`.
        argument: for the message.

    Raises:
        UsageError: there is no such file; the message lists the bundled ones.
    """
    here = Path(name).expanduser()
    if here.is_file():
        return here
    there = bundled(kind) / name
    if not here.is_absolute() and there.is_file():
        return there
    pattern = {"configs": "*.yaml", "checkpoints": "*.safetensors"}[kind]
    known = sorted(p.relative_to(bundled(kind)).as_posix() for p in bundled(kind).rglob(pattern))
    raise UsageError(
        f"{argument}: there is no file {name!r}, neither from the working directory nor among the "
        f"bundled {kind}: {', '.join(known) or 'none'}."
    )


def main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    ranks = (os.environ.get(name) for name in names)
    return all(rank in {None, "", "0"} for rank in ranks)


Content: TypeAlias = "bytes | Sequence[bytes | memoryview]"
"""The content of a file: whole, or in pieces that lie where they are until they are written."""


def write_atomically(path: Path, content: Content) -> None:
    """Write a file under a temporary name, sync it, and rename it.

    Raises:
        UsageError: the place cannot be written to.
        CascadeError: the disk is full.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, Content]) -> None:
    """Write several files under temporary names and sync them, then rename them all.

    Raises:
        UsageError: a place cannot be written to.
        CascadeError: the disk is full.
    """
    temporary: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                temporary[path] = Path(file.name)
                for piece in [content] if isinstance(content, bytes) else content:
                    file.write(piece)
                _sync(file)
        for path, written in temporary.items():
            written.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


@contextmanager
def open_atomically(path: Path, folder: Path) -> Iterator[IO[bytes]]:
    """A file to write piece by piece; it has its name once it is whole and synced, or never.

    Args:
        path: of the file; an older one is replaced.
        folder: for the file that is not finished yet, on the same disk.

    Raises:
        UsageError: the place cannot be written to.
        CascadeError: the disk is full.
    """
    written: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", delete=False) as file:
            written = Path(file.name)
            yield file
            _sync(file)
        written.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if written is not None:
            written.unlink(missing_ok=True)


def sweep(folder: Path, names: Collection[str]) -> None:
    """Remove what runs that were killed while they wrote left of these files."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\.[a-z0-9_]{8}", path.suffix) and path.stem[1:] in names:
            path.unlink(missing_ok=True)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    Path(file.name).chmod(0o666 & ~_umask())


def _unwritable(path: Path, error: OSError) -> CascadeError:
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
    kind = CascadeError if error.errno in full else UsageError
    return kind(f"cannot write {str(path)!r}: {error.strerror or error}.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unused_folder(parent: Path, stem: str) -> Path:
    """The first of `stem-1`, `stem-2`, ... that does not exist in `parent`."""
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"


def prepare_folder(folder: Path, names: list[str], *, overwrite: bool) -> None:
    """Check, before any work, that results can be written into a folder and overwrite nothing.

    Args:
        folder: need not exist yet.
        names: the files that will be written.
        overwrite: whether older ones may be replaced.

    Raises:
        UsageError: the folder cannot be written to, or holds one of the files.
    """
    used = [name for name in names if (folder / name).exists()]
    if used and not overwrite:
        raise UsageError(
            f"--out: {str(folder)!r} already holds {', '.join(used)}; "
            "choose another folder or add --overwrite."
        )
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"--out: {str(existing)!r} is a file, not a folder.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(
            f"--out: cannot write into {str(existing)!r}: {error.strerror}."
        ) from error
