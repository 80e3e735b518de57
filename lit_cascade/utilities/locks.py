"""Files that a run is going to write, held so that no two runs write the same."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lit_cascade.errors import UsageError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl: Any = None  # type: ignore[no-redef]

LOCK = ".lock"
"""Name of the file in a folder whose bytes stand for the names that are held."""


@contextmanager
def new_folder(folder: Path, *, exist_ok: bool = True) -> Iterator[None]:
    """Make a folder for a `with` block, and remove it at the end if it is empty.

    Raises:
        FileExistsError: the folder exists, and must not.
        UsageError: it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise UsageError(f"--out: cannot make {str(folder)!r}: {error.strerror}.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # of the first that holds something
            for path in made:
                path.rmdir()


@contextmanager
def held(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Hold names of files in an existing folder for a `with` block.

    Each name is a byte of the lock file that the operating system locks for this process, and frees
    when it ends, however that is. The file is removed by the last run. Where the system or the disk
    has no such locks nothing is held.

    Raises:
        UsageError: another process holds one of the names.
    """
    path = folder / LOCK
    file = None if fcntl is None else _locked(path, names)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):  # others hold names
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            os.close(file)


def _locked(path: Path, names: Collection[str]) -> int | None:
    """Descriptor of a lock file of which a byte per name is locked; None without locks."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            for name in names:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, zlib.crc32(name.encode()))
        except OSError as error:
            os.close(file)
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                path.unlink(missing_ok=True)
                return None
            raise UsageError(
                f"--out: another run is writing {name!r} into {str(path.parent)!r}; wait for its "
                "end, or choose another folder."
            ) from error
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # another run has just removed it
