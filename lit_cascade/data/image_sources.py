"""Where images come from: files, folders by class, and rows of tables."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_cascade.data.tables import find_label_column, only_column
from lit_cascade.errors import UsageError, check_name
from lit_cascade.records import Ids

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FolderImages",
    "RowImages",
    "UnreadableError",
    "decode",
    "holds_class_folders",
    "image_files",
    "placeholder",
]

_ORIENTATION = 0x0112
_MODES = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "RGB with transparency",
    "CMYK": "CMYK",
}
_DAMAGED = (
    OSError,
    SyntaxError,  # how Pillow reports broken PNG files
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""Exceptions that Pillow raises for files that hold no image, or a damaged one."""

_SPLITS = ("train", "val", "valid", "validation", "test")
_VALIDATION = ("validation", "val", "valid")
_TABLES = (".parquet", ".arrow", ".tar")
_KEY = "__key__"  # the column of a sample's name in tar shards, as webdataset has it


class UnreadableError(Exception):
    """A file that holds no image, or a damaged one."""


def decode(file: Path | bytes | None) -> tuple[Image, tuple[str, ...]]:
    """Decode an image as RGB, by the rules of timm's own reader.

    Other modes are converted by Pillow, which drops transparency; of several frames the first is
    taken; a rotation in the EXIF data is not applied.

    Args:
        file: path or content; None if there is none.

    Returns:
        The image, and a remark for every conversion.

    Raises:
        UnreadableError: with the reason.
    """
    from PIL.Image import DecompressionBombError

    if file is None:
        raise UnreadableError("no image")
    damaged = (*_DAMAGED, DecompressionBombError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transparency in palettes, and of large images
            try:
                return _read(file, metadata=True)
            except damaged:  # perhaps only in later frames or EXIF data, which models do not see
                return _read(file, metadata=False)
    except damaged as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "cannot identify" in reason:
            reason = "not an image"
        raise UnreadableError(reason or type(error).__name__) from error


def _read(file: Path | bytes, *, metadata: bool) -> tuple[Image, tuple[str, ...]]:
    """The image as RGB and remarks, also on what needs more of the file than the first frame."""
    from PIL import Image

    remarks = []
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        if image.mode != "RGB":
            remarks.append(f"converted to RGB from {_MODES.get(image.mode, image.mode)}")
        if metadata and image.getexif().get(_ORIENTATION, 1) not in {0, 1}:
            remarks.append("EXIF rotation not applied")
        if metadata and getattr(image, "n_frames", 1) > 1:
            remarks.append("first of several frames taken")
        return image.convert("RGB"), tuple(remarks)


def placeholder() -> Image:
    """Image in place of one that cannot be read, so that its batch keeps its size."""
    from PIL import Image

    return Image.new("RGB", (32, 32))


def image_files(root: Path, *, hidden: bool) -> Iterator[tuple[str, bool]]:
    """Files of a folder and the folders in it, other than hidden ones.

    Args:
        root: the folder; links in it are followed.
        hidden: whether to look into hidden folders.

    Yields:
        The path in the folder, with forward slashes, and whether its name is that of an image.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for folder, inside, files in os.walk(root, followlinks=True):
        inside[:] = [name for name in inside if hidden or name[0] != "."]
        for file in files:
            if file[0] != ".":
                path = (Path(folder) / file).relative_to(root)
                yield path.as_posix(), path.suffix.lower() in IMG_EXTENSIONS


def holds_class_folders(folder: Path) -> bool:
    """Whether a folder holds folders and no tables or archives of images."""
    if (folder / "dataset_dict.json").is_file():  # written by `datasets`
        return False
    for here in (folder, folder / "data"):
        if here.is_dir() and any(path.suffix in _TABLES for path in here.iterdir()):
            return False
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    first = (next((path for path in here.iterdir() if path.is_file()), here) for here in inside)
    return bool(inside) and not any(path.suffix in _TABLES for path in first)


def _folders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")


@dataclass(frozen=True)
class FolderImages:
    """Image files of a folder, in the order of their names.

    Attributes:
        root: the folder whose folders are classes.
        ids: paths in it, with forward slashes.
        names: of all class folders, in order; some may be empty.
        others: number of files that are not images by their names, or lie outside class folders.
    """

    root: Path
    ids: tuple[str, ...]
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
        files = list(image_files(root, hidden=False))
        paths = sorted(path for path, image in files if image and "/" in path)
        if not paths:
            raise UsageError(
                f"data.source: no images in the folders of {str(root)!r}: expected one folder per "
                f"class with files such as {', '.join(IMG_EXTENSIONS[:3])}."
            )
        for file in paths:
            if file.encode(errors="replace").decode() != file:
                raise UsageError(
                    f"data.source: the name of the file {file!r} in {str(root)!r} is not in UTF-8, "
                    "so that no record could hold it: rename it."
                )
        return cls(root, tuple(paths), tuple(_folders(root)), len(files) - len(paths))

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self) -> list[str]:
        """Class folder of each file."""
        return [path.split("/", maxsplit=1)[0] for path in self.ids]

    def load(self, position: int) -> tuple[Path, str]:
        """Path and id of an image."""
        return self.root / self.ids[position], self.ids[position]


def _root(source: Path, split: str | None) -> Path:
    inside = _folders(source)
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


@dataclass(frozen=True)
class RowImages:
    """Images in the rows of a table: of the Hugging Face hub, Parquet files, tar shards.

    Attributes:
        rows: the table, with images as files, not decoded.
        image: column of the images.
        label_column: column of the labels.
        names: of the classes in label order; in alphabetical order if the rows name them; None if
            the labels are bare numbers.
        ids: positions in the table, or the keys of tar shards where these are distinct.
        others: 0, as every row is an image.
    """

    rows: Any
    image: str
    label_column: str
    names: tuple[str, ...] | None
    ids: Ids
    others: int = 0

    @classmethod
    def of(cls, rows: Any, image: str | None, label: str | None) -> RowImages:
        """Find the columns of a table.

        Args:
            rows: a `datasets.Dataset`.
            image: column of the images; by default the only one that holds any.
            label: column of the labels; by default the only one of a label's type, or by its name.

        Raises:
            UsageError: there is no such column, or several candidates.
        """
        import datasets

        columns, features = rows.column_names, rows.features
        if image is None:
            image = only_column(
                [name for name in columns if isinstance(features[name], datasets.Image)],
                columns, "data.image_column", "images",
            )  # fmt: skip
        check_name(image, columns, "data.image_column")
        label = find_label_column(rows, label)
        names = getattr(features[label], "names", None)
        if not names:
            names = sorted({value for value in rows[label] if isinstance(value, str)})
        ids = Ids(torch.arange(len(rows)))
        if _KEY in columns and len(set(rows[_KEY])) == len(rows):
            ids = Ids(rows[_KEY])
        try:  # the other columns are not read: they may hold images too
            kept = rows.select_columns(list(dict.fromkeys([image, label])))
            kept = kept.cast_column(image, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UsageError(f"data.image_column: {image!r} holds no images: {error}") from error
        return cls(kept, image, label, tuple(names) if names else None, ids)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def split(self) -> str | None:
        """Name of the published split, if the table has it."""
        return None if self.rows.split is None else str(self.rows.split)

    def labels(self) -> list[Any]:
        """Label of each row.

        Raises:
            UsageError: they are not one class per image.
        """
        labels = list(self.rows[self.label_column])
        strange = next((one for one in labels if isinstance(one, (list, dict))), None)
        if strange is not None:
            raise UsageError(
                f"data.label_column: {self.label_column!r} holds no class per image: {strange!r}."
            )
        return labels

    def load(self, position: int) -> tuple[Path | bytes | None, str]:
        """File of an image, None if the row has none, and its name if it has one."""
        held = self.rows[position][self.image] or {}
        name = str(held.get("path") or "")
        return held.get("bytes") or (Path(name) if name else None), name
