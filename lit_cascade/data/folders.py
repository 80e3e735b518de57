"""Folders of images, one folder per class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lit_cascade.errors import UsageError, check_name

__all__ = ["FolderImages", "holds_class_folders"]

_SPLITS = ("train", "val", "valid", "validation", "test")
_TABLES = (".parquet", ".arrow", ".tar")
_VALIDATION = ("validation", "val", "valid")


def holds_class_folders(folder: Path) -> bool:
    """Whether a folder holds folders and no tables or archives of images."""
    if (folder / "dataset_dict.json").is_file():  # what `datasets` saves
        return False
    for here in (folder, folder / "data"):
        if here.is_dir() and any(path.suffix in _TABLES for path in here.iterdir()):
            return False
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    first = (next((path for path in here.iterdir() if path.is_file()), here) for here in inside)
    return bool(inside) and not any(path.suffix in _TABLES for path in first)


@dataclass(frozen=True)
class FolderImages:
    """The image files of a folder, in the order of their names.

    Attributes:
        root: the folder whose folders are classes.
        paths: relative to it, with forward slashes; these are the ids.
        folders: the class folder of each file.
        names: of all class folders, in order; some may be empty.
        others: number of files that are no images by their names, or lie outside class folders.
    """

    root: Path
    paths: tuple[str, ...]
    folders: tuple[str, ...]
    names: tuple[str, ...]
    others: int

    @classmethod
    def scan(cls, source: Path, split: str | None) -> FolderImages:
        """Find the images of a split.

        Args:
            source: folder of class folders, or of folders such as `train` and `val` of these.
            split: the one to take of the latter; by default the validation set.

        Raises:
            UsageError: there is no such split, or there are no images.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS

        root = _root(source, split)
        names = sorted(
            entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
        )
        found: list[tuple[str, str]] = []
        others = sum(1 for entry in os.scandir(root) if entry.is_file() and entry.name[0] != ".")
        for name in names:
            for folder, inside, files in os.walk(root / name, followlinks=True):
                inside[:] = [one for one in inside if not one.startswith(".")]
                for file in files:
                    if file.startswith("."):
                        continue
                    if Path(file).suffix.lower() in IMG_EXTENSIONS:
                        path = (Path(folder) / file).relative_to(root)
                        found.append((path.as_posix(), name))
                    else:
                        others += 1
        if not found:
            raise UsageError(
                f"data.source: no images in the folders of {str(root)!r}: expected one folder per "
                f"class with files such as {', '.join(IMG_EXTENSIONS[:3])}."
            )
        found.sort()
        for file, _ in found:
            if file.encode(errors="replace").decode() != file:
                raise UsageError(
                    f"data.source: the name of the file {file!r} in {str(root)!r} is not in UTF-8, "
                    "so that no record could hold it: rename it."
                )
        return cls(
            root,
            tuple(path for path, _ in found),
            tuple(name for _, name in found),
            tuple(names),
            others,
        )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def ids(self) -> tuple[str, ...]:
        """What tells the images apart."""
        return self.paths

    def label(self, position: int) -> str:
        """The class folder of an image."""
        return self.folders[position]

    def load(self, position: int) -> tuple[Path, str]:
        """Where an image is, and its name."""
        return self.root / self.paths[position], self.paths[position]


def _root(source: Path, split: str | None) -> Path:
    inside = sorted(entry.name for entry in os.scandir(source) if entry.is_dir())
    inside = [name for name in inside if not name.startswith(".")]
    if split is not None:
        if split not in inside:
            alias = [name for name in _VALIDATION if name in inside]
            if split in _VALIDATION and alias:
                return source / alias[0]
            if split in _SPLITS and not set(inside) & set(_SPLITS):
                return source  # a folder of classes is one split, whichever a config asks for
            check_name(split, inside, f"data.published_split in {str(source)!r}")
        return source / split
    if inside and set(inside) <= set(_SPLITS):  # splits, and not classes of these names
        for name in (*_VALIDATION, "test"):
            if name in inside:
                return source / name
        raise UsageError(
            f"data.published_split: {str(source)!r} holds {', '.join(inside)}; say which to read."
        )
    return source
