"""Where files are found, and how results are written: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cascade.errors import CascadeError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "bundled",
    "find_bundled",
    "main_process",
    "prepare_folder",
    "safetensors_bytes",
    "unused_folder",
    "write_atomically",
    "write_together",
]


def bundled(kind: str) -> Path:
    """The folder of bundled `configs` or `checkpoints`: in the installed package, or beside it."""
    package = Path(__file__).parent
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
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(rank in {None, "", "0"} for rank in ranks)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it.

    Raises:
        UsageError: the place cannot be written to.
        CascadeError: the disk is full.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
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
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary[path].chmod(0o666 & ~_umask())
        for path, written in temporary.items():
            written.replace(path)
    except OSError as error:
        kind = CascadeError if error.errno in {errno.ENOSPC, errno.EDQUOT} else UsageError
        raise kind(f"cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def safetensors_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file; the same content always gives the same bytes.

    The library writes the strings of the header in an order that changes from call to call, so they
    are put in order here. The header is padded to 8 bytes, as the format asks.
    """
    from safetensors.torch import save

    content = save(
        {key: tensor.contiguous() for key, tensor in tensors.items()}, metadata=dict(header)
    )
    size = int.from_bytes(content[:8], "little")
    ordered = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    ordered += b" " * (-len(ordered) % 8)
    return len(ordered).to_bytes(8, "little") + ordered + content[8 + size :]


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
