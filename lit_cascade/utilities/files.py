"""Finding bundled files, and writing files whole or not at all."""

from __future__ import annotations

import difflib
import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, TypeAlias

from lit_cascade.errors import LONGEST_FILE_NAME, CascadeError, UsageError, nearest
from lit_cascade.utilities.text import printable

_MOST_BY_ALIASES = 100_000
"""Values that the aliases of a YAML document may stand for beside those that are written."""


def yaml_text(content: Any, comment: str = "") -> str:
    """YAML of plain values, with a comment above."""
    import yaml

    header = "".join(f"# {line}\n" for line in printable(comment).splitlines())
    # that of libyaml writes the same, a tenth as long: evidence is kilobytes in one string
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return header + yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True)


def load_yaml(text: str) -> Any:
    """Plain values of a YAML document.

    Raises:
        yaml.YAMLError: text that is no YAML, or of which few characters stand for very many values:
            aliases within what they refer to, or many times of many.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_aliases(node)
        return loader.construct_document(node)
    except (ValueError, RecursionError) as error:  # such as a date that there is none of
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise yaml.YAMLError(str(reason)) from error
    finally:
        loader.dispose()


def _check_aliases(root: Any) -> None:
    """Check how many values a composed document holds, those of an alias counted each time."""
    import yaml

    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: Any) -> int:
        key = id(node)
        if key in inside:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"an alias refers to what it is part of, in line {line}")
        if key not in sizes:
            inside.add(key)
            parts = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in parts for part in pair]
            sizes[key] = 1 + sum(map(size, parts))
            inside.remove(key)
        return sizes[key]

    repeated = size(root) - len(sizes)
    if repeated > _MOST_BY_ALIASES:
        raise yaml.YAMLError(f"its aliases stand for {repeated:.3g} values")


def read_yaml(path: Path, argument: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: of the file.
        argument: for the message.

    Raises:
        UsageError: no such file, or one that cannot be read as a mapping.
    """
    import yaml

    try:
        content = load_yaml(path.expanduser().read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{argument}: {str(path)!r} is not YAML: {error.problem}{where}."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"{argument}: {str(path)!r} cannot be read: {reason}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{argument}: {str(path)!r} holds no options: expected a mapping.")
    return content


def bundled(kind: str) -> Path:
    """Folder of bundled `configs` or `checkpoints`, in the installed package or beside it."""
    package = Path(__file__).parents[1]
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def find_bundled(name: str, kind: str, argument: str) -> Path:
    """Path of a file in the working directory, else among the bundled ones.

    Args:
        name: a path, or the name of a bundled file.
        kind: `configs` or `checkpoints`.
        argument: for the message.

    Raises:
        UsageError: no such file; the message names the nearest ones.
    """
    here = Path(name).expanduser()
    if here.is_file():
        return here
    there = bundled(kind) / name
    if not here.is_absolute() and there.is_file():
        return there
    # there are few configs, and most of the bundled safetensors are records
    pattern, like = {"configs": ("*.yaml", 0.0), "checkpoints": ("*.safetensors", 0.5)}[kind]
    known = [path.relative_to(bundled(kind)) for path in sorted(bundled(kind).rglob(pattern))]
    beside = here.parent if here.parent.is_dir() else Path()
    visible = [path for path in sorted(beside.glob(pattern)) if not path.name.startswith(".")]
    near = nearest_files(name, [*visible, *known], like=like)
    raise UsageError(
        f"{argument}: there is no file {name!r}, neither from the working directory nor among the "
        f"bundled {kind}." + (f"\nNearest: {', '.join(near)}." if near else "")
    )


def nearest_files(name: str, paths: Iterable[Path], *, like: float = 0.6) -> list[str]:
    """Return up to five paths most like a misspelt one, whatever their endings are."""
    spelt = {path.with_suffix("").as_posix(): path.as_posix() for path in paths}
    return [spelt[one] for one in nearest(Path(name).with_suffix("").as_posix(), spelt, like=like)]


def existing_path(name: str, argument: str) -> Path:
    """Path of a file or a folder.

    Args:
        name: a path; ~ is the user's home.
        argument: for the message.

    Raises:
        UsageError: there is nothing; the message has the nearest names beside it.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise UsageError(f"{argument}: there is no file or folder {name!r}.{similar_paths(path)}")


def similar_paths(path: Path) -> str:
    """A sentence with the existing paths that a missing one may have meant; empty if none."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    missing = path.absolute().relative_to(nearest).parts[0]
    names = [one.name for one in nearest.iterdir()] if nearest.is_dir() else []
    alike = [str(nearest / one) for one in difflib.get_close_matches(missing, names)]
    if not path.is_absolute():
        alike = [os.path.relpath(one) for one in alike]
    return f" Did you mean {' or '.join(map(repr, alike))}?" if alike else ""


def main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name) in {None, "", "0"} for name in names)


Content: TypeAlias = "bytes | Sequence[bytes | memoryview]"
"""Content of a file, whole or in pieces that are not copied before they are written."""


def write_atomically(path: Path, content: Content) -> None:
    """Write a file under a temporary name, sync it, and rename it.

    Raises:
        UsageError: a place that cannot be written to.
        CascadeError: a full disk.
    """
    write_together({path: content})


def write_together(files: Mapping[Path, Content]) -> None:
    """Write several files under temporary names and sync them, then rename them all.

    Raises:
        UsageError: a place that cannot be written to.
        CascadeError: a full disk.
    """
    with ExitStack() as stack:
        for path, content in reversed(list(files.items())):  # so that they are renamed in order
            file = stack.enter_context(_replacing(path, path.parent))
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            _sync(file)


@contextmanager
def open_atomically(path: Path, folder: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, which is synced and renamed when all of it is written.

    Args:
        path: of the file; an older one is replaced.
        folder: of the temporary file, on the same disk.

    Raises:
        UsageError: a place that cannot be written to.
        CascadeError: a full disk.
    """
    with _replacing(path, folder) as file:
        yield file
        _sync(file)


@contextmanager
def _replacing(path: Path, folder: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed at the end, and removed after any error."""
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f".{_start_of(path.name)}."
        with tempfile.NamedTemporaryFile(dir=folder, prefix=prefix, delete=False) as file:
            temporary = Path(file.name)
            yield file
        temporary.replace(path)
    except OSError as error:
        full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
        kind = CascadeError if error.errno in full else UsageError
        raise kind(f"cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files of these names that killed runs left behind."""
    starts = set(map(_start_of, names))
    for path in folder.glob(".*"):
        if re.fullmatch(r"\.[a-z0-9_]{8}", path.suffix) and path.stem[1:] in starts:
            path.unlink(missing_ok=True)


def _start_of(name: str) -> str:
    """So much of a file's name that its temporary name is not too long: ten bytes less."""
    return os.fsencode(name)[: LONGEST_FILE_NAME - 10].decode(errors="ignore")


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    Path(file.name).chmod(0o666 & ~mask)


def unused_folder(parent: Path, stem: str) -> Path:
    """First of `stem-1`, `stem-2`, ... that does not exist in `parent`."""
    paths = (parent / f"{stem}-{number}" for number in count(1))
    return next(path for path in paths if not path.exists())


def prepare_folder(folder: Path, names: list[str], *, overwrite: bool) -> None:
    """Check, before any work, that files can be written into a folder and overwrite nothing.

    Args:
        folder: need not exist.
        names: of the files to be written.
        overwrite: whether existing files may be replaced.

    Raises:
        UsageError: a folder that cannot be written to, or holds one of the files.
    """
    used = [name for name in names if (folder / name).exists()]
    if used and not overwrite:
        raise UsageError(
            f"--out: {str(folder)!r} already holds {', '.join(used)}; "
            "choose another folder or add --overwrite."
        )
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"--out: {str(existing)!r} is a file, not a folder.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(
            f"--out: cannot write into {str(existing)!r}: {error.strerror}."
        ) from error
