"""Labelled and unlabelled images: folders, the Hugging Face hub, Parquet files, tar shards."""

from __future__ import annotations

import copy
import json
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_cascade.data.loading import RawSample
from lit_cascade.data.splits import (
    STDIN,
    SplitDataModule,
    check_sizes,
    held_back,
    name_of_inputs,
    shuffled,
)
from lit_cascade.data.tables import (
    default_split,
    find_label_column,
    load_table,
    only_column,
    published_splits,
)
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.records import Ids
from lit_cascade.utilities.class_names import class_list
from lit_cascade.utilities.files import existing_path
from lit_cascade.utilities.images import UnreadableError, decode, resized
from lit_cascade.utilities.units import be, counted

if TYPE_CHECKING:
    from PIL.Image import Image

OnProblem = Literal["leave_out", "stop"]

_SPLITS = ("train", "val", "valid", "validation", "test")
_VALIDATION = ("validation", "val", "valid")
_WHAT = "a folder of images by class"
_TABLES = (".parquet", ".arrow", ".tar")
_KEY = "__key__"  # the column of a sample's name in tar shards, as webdataset has it

_REAL = "imagenet-real"
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


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
        """Find images in a folder of class folders, or of splits such as `train` of these.

        Without a `split` the validation set is taken.
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
        _check_names(paths, root)
        return cls(root, tuple(paths), tuple(_folders(root)), len(files) - len(paths))

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self) -> list[str]:
        """Class folder of each file."""
        return [path.split("/", maxsplit=1)[0] for path in self.ids]

    def load(self, position: int) -> tuple[Path, str]:
        """Path and id of an image."""
        return self.root / self.ids[position], self.ids[position]


def _check_sorted(folder: Path) -> None:
    """Check that a folder does not hold images without class folders."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if folder.is_dir() and any(one.suffix.lower() in IMG_EXTENSIONS for one in folder.iterdir()):
        raise UsageError(
            f"data.source: the images in {str(folder)!r} have no classes: expected one folder per "
            "class. Images without classes are inputs of lit-cascade predict."
        )


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
        hint = (
            ", or how many images to hold back from it: data.init_args.validation_size"
            if inside == ["train"]
            else ""
        )
        raise UsageError(
            f"data.published_split: {str(source)!r} holds {', '.join(inside)}; say which to "
            f"read{hint}."
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
        """Read a `datasets.Dataset`; by default the only columns of images and of labels."""
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
        """Label of each row."""
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


class LabelSets:
    """Right classes of each image, by the image's name.

    Args:
        numbers: class numbers of each image, by name; an image may have none.
        whose: name of the label sets, for messages.

    Attributes:
        nothing: the label of an image without any right class: all -1.
    """

    NONE: ClassVar[str] = "no label in the label set"
    """Reason for leaving out an image without any right class."""

    def __init__(self, numbers: Mapping[str, Sequence[int]], whose: str) -> None:
        self._numbers, self._whose = numbers, whose
        width = max(map(len, numbers.values()), default=1)
        self.nothing = torch.full((max(width, 2),), -1, dtype=torch.int64)

    @classmethod
    def load(cls, which: str, classes: Sequence[str]) -> LabelSets:
        """Read label sets.

        Args:
            which: `imagenet-real`, or a JSON file that maps names of images to class names.
            classes: class names in label order.

        Raises:
            UsageError: there is no such file, or the classes are not those of ImageNet.
            CascadeError: the file is malformed, or has unknown classes.
        """
        if which == _REAL:
            if len(classes) != 1000:
                raise UsageError(
                    f"data.label_sets: {_REAL} needs data.classes imagenet-1k, got "
                    f"{len(classes)} classes."
                )
            content = pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json") or b"[]"
            listed = json.loads(content)
            return cls({f"{i:08d}": right for i, right in enumerate(listed, start=1)}, _REAL)
        path = Path(which)
        if not path.is_file():
            raise UsageError(f"data.label_sets: {which!r} is neither a JSON file nor {_REAL!r}.")
        where = {name: number for number, name in enumerate(classes)}
        try:
            named = json.loads(path.read_text(encoding="utf-8"))
            return cls({image: _numbers(names, where) for image, names in named.items()}, which)
        except KeyError as error:
            raise CascadeError(
                f"data.label_sets: {which!r} names the class {error}, which is not among the "
                f"{len(classes)} of data.classes."
            ) from error
        except (ValueError, AttributeError, TypeError) as error:
            raise CascadeError(
                f"data.label_sets: {which!r} must be JSON that maps names of images to lists of "
                f"class names: {error}"
            ) from error

    def of(self, name: str) -> Tensor | None:
        """Right classes of an image, padded with -1; None if it has none.

        Args:
            name: path of the image; looked up by its last part, or by its number in ImageNet's
                validation set.

        Raises:
            CascadeError: the image is unknown.
        """
        key = name.rsplit("/", maxsplit=1)[-1]
        if self._whose == _REAL:
            number = _VALIDATION_NAME.search(key)
            key = number[1] if number else key
        right = self._numbers.get(name, self._numbers.get(key))
        if right is None:
            hint = " such as ILSVRC2012_val_00000001.JPEG" if self._whose == _REAL else ""
            raise CascadeError(
                f"data.label_sets: {self._whose} has no image called {name!r}; images go by the "
                f"names of their files{hint}."
            )
        if not right:
            return None
        labels = self.nothing.clone()
        labels[: len(right)] = torch.tensor(list(right))
        return labels


def _numbers(names: Any, where: Mapping[str, int]) -> list[int]:
    if not isinstance(names, list):
        raise TypeError(f"{names!r} is no list")
    return [where[name] for name in dict.fromkeys(names)]


class ImageSet(Dataset[RawSample]):
    """Labelled images, decoded when they are asked for.

    Args:
        images: where they are.
        source: data set and split that the ids belong to.
        classes: names in label order, if the user named them.
        label_sets: labels that replace those of the set, several per image.
        size: height and width that images are resized and cropped to, as tensors; None leaves them.
        augment: whether `augmented` differs from `__getitem__`.
        unreadable: whether an image that cannot be read is left out, or stops the run.
        unknown: whether images of classes that are not named are left out, or stop the run.

    Raises:
        UsageError: classes that do not fit the images'.
    """

    def __init__(
        self,
        images: FolderImages | RowImages,
        source: str,
        classes: Sequence[str] | None = None,
        label_sets: LabelSets | None = None,
        unreadable: OnProblem = "leave_out",
        unknown: OnProblem = "stop",
        size: int | None = None,
        *,
        augment: bool = False,
    ) -> None:
        self._images, self._label_sets = images, label_sets
        self._size, self._augment = size, augment
        self._stop = unreadable == "stop"
        self.source = source
        self.restricts_classes = classes is not None
        labels = images.labels()
        numbers = _class_numbers(images.names, labels, classes)
        strange = Counter(label for label in labels if label not in numbers)
        findings = []
        if strange:
            some = ", ".join(map(str, list(strange)[:3])) + (", ..." if len(strange) > 3 else "")
            n = strange.total()
            what = "1 class that is" if len(strange) == 1 else f"{len(strange):,} classes that are"
            if unknown == "stop":
                raise UsageError(
                    f"data.classes: {counted(n, 'image')} {be(n)} of {what} not among those named: "
                    f"{some}. Name them too, or leave these images out: data.unknown_classes: "
                    "leave_out."
                )
            findings.append(
                f"{counted(n, 'image')} of {what} not asked for {be(n)} left out: {some}"
            )
        keep = [i for i, label in enumerate(labels) if label not in strange]
        self._positions = torch.tensor(keep, dtype=torch.int64)
        self._labels = torch.tensor([numbers[labels[i]] for i in keep], dtype=torch.int64)
        names = images.names if classes is None else classes
        self.classes = None if names is None else tuple(names)
        self.ids = Ids(images.ids)[keep]
        if self.classes is not None and label_sets is None and keep:
            empty = len(self.classes) - len(self._labels.unique())
            if empty:
                have = "has" if empty == 1 else "have"
                of = counted(len(self.classes), "class")
                findings.append(f"{empty:,} of the {of} {have} no image")
        if images.others:
            which = "is no image by its name or place"
            if images.others > 1:
                which = "are no images by their names or places"
            findings.append(f"{counted(images.others, 'file')} {which}")
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self._positions)

    def part(self, positions: Sequence[int]) -> ImageSet:
        """The images at some positions."""
        part = copy.copy(self)
        chosen = {"_positions": self._positions[positions], "_labels": self._labels[positions]}
        vars(part).update(chosen, ids=self.ids[positions])
        return part

    def __getitem__(self, position: int) -> RawSample:
        return self._sample(position, augment=False)

    def augmented(self, position: int) -> RawSample:
        """An image as training sees it: cropped and mirrored at random."""
        return self._sample(position, augment=self._augment)

    def _sample(self, position: int, *, augment: bool) -> RawSample:
        file, name = self._images.load(int(self._positions[position]))
        label: Any = self._labels[position]
        if self._label_sets is not None:
            label = self._label_sets.nothing if file is None else self._label_sets.of(name)
            if label is None:
                nothing = resized(placeholder(), self._size)
                return RawSample(nothing, self._label_sets.nothing, (), LabelSets.NONE)
        where = name or f"row {int(self._positions[position])}"
        return _decoded(file, label, where, self._size, augment=augment, stop=self._stop)


def _decoded(
    file: Path | bytes | None,
    label: Any,
    where: str,
    size: int | None,
    *,
    augment: bool = False,
    stop: bool = False,
) -> RawSample:
    try:
        image, remarks = decode(file)
    except UnreadableError as error:
        return RawSample(resized(placeholder(), size), label, (), f"{where}: {error}", stop=stop)
    return RawSample((cropped_at_random if augment else resized)(image, size), label, remarks)


def cropped_at_random(image: Image, size: int | None) -> Image | Tensor:
    """Crop a random part of an image and mirror it half of the time.

    The part is drawn as by torchvision's `RandomResizedCrop`: 8 to 100 % of the area, with an
    aspect ratio from 3/4 to 4/3 (arXiv:1409.4842).

    Returns:
        As `resized`; without a size the part, for the model's own preprocessing to resize.
    """
    from torchvision.transforms import RandomResizedCrop, functional

    box = RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3])
    if size is None:
        image = functional.crop(image, *box)
    else:
        bicubic = functional.InterpolationMode.BICUBIC
        image = functional.resized_crop(image, *box, [size, size], bicubic)
    if torch.rand(()) < 0.5:
        image = functional.hflip(image)
    return image if size is None else functional.pil_to_tensor(image)


def _class_numbers(
    names: Sequence[str] | None, labels: Sequence[Any], classes: Sequence[str] | None
) -> Mapping[Any, int]:
    """Class number of each label: by name, or the number itself where there are no names."""
    wanted = names if classes is None else classes
    where = {name: number for number, name in enumerate(wanted or ())}
    if names is None:
        distinct = sorted({label for label in labels if isinstance(label, int)})
        most = len(wanted) if wanted is not None else max(distinct, default=-1) + 1
        return {label: label for label in distinct if 0 <= label < most}
    known = set(names) & set(where)
    if any(isinstance(label, str) for label in labels):
        if not known and all(name.isdecimal() for name in names):
            return {name: int(name) for name in names if int(name) < len(where)}
        return {name: where[name] for name in names if name in where}
    if known:
        return {i: where[name] for i, name in enumerate(names) if name in where}
    if len(names) == len(where):  # other names for the same classes, in the published order
        return {i: i for i in range(len(names))}
    raise UsageError(
        f"data.classes: the data has {len(names)} classes ({', '.join(names[:3])}, ...), of which "
        f"none is among the {len(where)} given ({', '.join(list(where)[:3])}, ...)."
    )


class ImageData(SplitDataModule):
    """Labelled images: a folder per class, a data set of the hub, Parquet files, or tar shards.

    The images come as they are, in RGB: each model of a cascade applies its own preprocessing.

    The split `validation` is one of the published splits. Another of them called train is the split
    `train`. `calibration` and `development` are parts that are held back from one of these. A
    single set of images without splits is `validation`; or, with `validation_size`, a part of it
    is, and what is not held back is `train`. So no image is in two splits.

    Args:
        source: folder of class folders (or of `train`, `val`, ... with these); name of a data set
            on the Hugging Face hub; folder or path of Parquet files or of tar shards.
        published_split: which of the published splits is `validation`, such as validation or test;
            by default the validation set if there is one, else the test set.
        classes: classes among which the models answer, in label order: the name of a list such as
            imagenet-1k, imagenet-a or imagenet-r, a text file with one name per line, or names;
            `folders` for exactly those of the images. By default those of the images too, but then
            a model that knows others is refused.
        label_sets: other labels, several of which may be right: imagenet-real, or a JSON file that
            maps names of images to lists of class names. Images without any are left out.
        calibration_size: number, or share below 1, of images held back as the split `calibration`,
            drawn by their ids.
        development_size: the same as the split `development`, for choices made in training.
        validation_size: the same as the split `validation`, where the source is a single set.
        held_back_from: from which split `calibration` and `development` are held back: `train` for
            models that are trained on the rest of it, `validation` for models that were trained
            elsewhere.
        size: height and width that each image is resized and cropped to, as a uint8 tensor, for
            networks without preprocessing of their own; by default images come as they are.
        augment: crop and mirror images at random in training.
        seed: seed of the drawing.
        unreadable: `leave_out` images that cannot be read, and report them, or `stop`.
        unknown_classes: `stop` at images of classes that are not among `classes`, or `leave_out`.
        image_column: column of the images in a table; by default the only one of images.
        label_column: column of the labels in a table; by default the only one of labels.
        name: name of the data in records and tables; by default after the source.
        batch_size: images per batch.
        num_workers: processes that decode and preprocess; by default one per core, at most 8, of
            which each process of a machine has its share. A worker that gives no batch for ten
            minutes is an error.
    """

    _pin_memory = True
    _timeout = 600
    hint = (
        " Hold some images back with data.init_args.calibration_size or development_size; of a "
        "single set validation_size leaves the others to train on."
    )

    def __init__(
        self,
        source: str = "ILSVRC/imagenet-1k",
        published_split: str | None = None,
        classes: list[str] | str | None = None,
        label_sets: str | None = None,
        calibration_size: float = 0,
        development_size: float = 0,
        validation_size: float = 0,
        held_back_from: Literal["train", "validation"] = "validation",
        size: int | None = None,
        augment: bool = True,  # noqa: FBT001, FBT002 - a setting
        seed: int = 0,
        unreadable: OnProblem = "leave_out",
        unknown_classes: OnProblem = "stop",
        image_column: str | None = None,
        label_column: str | None = None,
        name: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
    ) -> None:
        check_name(unreadable, ("leave_out", "stop"), "data.unreadable")
        check_name(unknown_classes, ("leave_out", "stop"), "data.unknown_classes")
        check_name(held_back_from, ("train", "validation"), "data.held_back_from")
        if size is not None and size < 1:
            raise UsageError(f"data.size: expected 1 or more pixels, got {size}.")
        # the earlier are the same whatever the size of the later
        sizes = {"calibration": calibration_size, "development": development_size}
        check_sizes({"validation": validation_size} | sizes)
        super().__init__(name or Path(source).name, (), batch_size, num_workers)
        self._source, self._published = source, published_split
        self._classes, self._label_sets = classes, label_sets
        self._sizes, self._validation_size, self._seed = sizes, validation_size, seed
        self._from, self._size, self._augment = held_back_from, size, augment
        self._unreadable: OnProblem = unreadable
        self._unknown: OnProblem = unknown_classes
        self._columns = image_column, label_column
        self._images: dict[str | None, FolderImages | RowImages] = {}

    def prepare_data(self) -> None:
        """Download, once per machine, all but the training images."""
        self._find(self._read)

    def unlabelled(self, inputs: Sequence[str]) -> UnlabelledImages:
        """Data module of images without labels: files, or folders of them."""
        classes = self._classes
        if classes == "folders":
            classes = list(self._find(self._read).names or ())
        return unlabelled_images(inputs, self, classes, self._size)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        train = ["train"] if self._train is not None or self._validation_size else []
        return (*train, *(split for split, size in self._sizes.items() if size), "validation")

    @cached_property
    def _train(self) -> str | None:
        """Published split of the training images; None if the source is a single set."""
        folder = Path(self._source).expanduser()
        read: str | None
        if folder.is_dir() and holds_class_folders(folder):
            inside = _folders(folder)
            if inside == ["train"] or not (
                self._published in inside or set(inside) <= set(_SPLITS)
            ):
                return None
            names, read = inside, _root(folder, self._published).name
        elif self._published is None or folder.exists():
            names = list(published_splits(self._source, what=_WHAT))
            read = self._published or default_split(names)
        else:  # on the hub, which is not asked for the names
            names, read = ["train"], self._published
        return "train" if "train" in names and read != "train" else None

    @property
    def _read(self) -> str | None:
        """Published split that `validation` is, or is a part of; None for the default."""
        folder = Path(self._source).expanduser()
        if self._published is None and self._validation_size and folder.is_dir():
            return "train" if _folders(folder) == ["train"] else None
        return self._published

    def dataset(self, split: str) -> Dataset[Any]:
        """Images of a split; those of a published train set are found when they are asked for."""
        if split == "train" and self._train is not None and split not in self._datasets:
            self.setup()
            self._datasets.setdefault(split, self._set(self._train))
        return super().dataset(split)

    def _prepared(self) -> dict[str, Dataset[Any]]:
        sizes, published = dict(self._sizes), self._read
        origin = "validation"
        if self._train is None and self._validation_size:
            origin, sizes = "train", {"validation": self._validation_size, **sizes}
        elif self._train is not None and self._from == "train" and any(sizes.values()):
            origin, published = "train", self._train
        elif self._from == "train" and any(sizes.values()):
            raise UsageError(
                f"data.held_back_from: {self._source!r} has no train set; expected validation, or "
                "data.validation_size, the part that is not trained on."
            )
        whole = self._set(published)
        held = held_back(shuffled(whole.ids, self._seed), sizes, f"images of {origin}")
        taken = {position for positions in held.values() for position in positions}
        held[origin] = [position for position in range(len(whole)) if position not in taken]
        sets = {split: whole.part(positions) for split, positions in held.items()}
        if "validation" not in sets:
            sets["validation"] = self._set(self._read)
        return dict(sets)

    def _set(self, published: str | None) -> ImageSet:
        """All images of a published split."""
        images = self._find(published)
        classes: Sequence[str] | None = None
        if self._classes == "folders":
            classes = images.names
        elif self._classes is not None:
            classes = class_list(self._classes, "data.classes")
        sets = None
        if self._label_sets is not None and published in {None, self._read}:
            if classes is None:
                raise UsageError("data.label_sets: needs data.classes, got none.")
            sets = LabelSets.load(self._label_sets, classes)
        source = self._source_of_ids(images, published)
        return ImageSet(
            images, source, classes, sets, self._unreadable, self._unknown, self._size,
            augment=self._augment,
        )  # fmt: skip

    def _source_of_ids(self, images: FolderImages | RowImages, published: str | None) -> str:
        """Source of the ids: name of the set and of its split, given or found."""
        here = Path(self._source).expanduser()
        base = here.name if here.exists() else self._source
        if isinstance(images, FolderImages):
            inside = images.root.relative_to(here).as_posix()
            return base if inside == "." else f"{base}/{inside}"
        split = published or images.split
        return f"{base}/{split}" if split else base

    def _find(self, published: str | None) -> FolderImages | RowImages:
        """Images of a published split, and the names of the classes of all that are read."""
        if published in self._images:
            return self._images[published]
        folder = Path(self._source).expanduser()
        found: FolderImages | RowImages
        if folder.is_dir() and holds_class_folders(folder):
            found = FolderImages.scan(folder, published)
            if self._train is not None:
                roots = (_root(folder, split) for split in (self._train, self._published))
                names = sorted({name for root in roots for name in _folders(root)})
                found = replace(found, names=tuple(names))
        else:
            _check_sorted(folder)
            rows = load_table(self._source, published, what=_WHAT)
            found = RowImages.of(rows, *self._columns)
        self._images[published] = found
        return found


@dataclass(frozen=True, eq=False)
class _Files(Dataset[RawSample]):
    """Unlabelled image files, decoded when they are asked for.

    Attributes:
        paths: by id.
        source: what the ids belong to.
        size: as for `ImageSet`.
        findings: remarks on the files before they are read.
        classes: names in label order; None for those of the models.
    """

    paths: Mapping[str, Path]
    source: str
    size: int | None = None
    findings: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    restricts_classes: ClassVar[bool] = True

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of the files, in order."""
        return tuple(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> RawSample:
        one = self.ids[position]
        return _decoded(self.paths[one], torch.tensor(-1), one, self.size)


class UnlabelledImages(SplitDataModule):
    """Image files, or all of those in folders and the folders in them, as the split `predict`.

    The id of an image is its path in the folder, if there is one source alone; otherwise the path
    as it is given. Images of a folder are in alphabetical order. Files that cannot be read are left
    out, and reported.

    Args:
        source: folder, or image file; or several of these.
        classes: names of the classes among which the models answer; by default all of theirs.
        size: height and width that each image is resized and cropped to, as for `ImageData`.
        name: name of the data; by default after the folder.
        batch_size: images per batch.
        num_workers: processes that decode and preprocess; by default one per core, at most 8.
    """

    _pin_memory = True
    argument = "data.source"
    """Name of the option of the sources, for messages."""

    def __init__(
        self,
        source: list[str] | str,
        classes: list[str] | str | None = None,
        size: int | None = None,
        name: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
    ) -> None:
        self._sources = [source] if isinstance(source, str) else list(dict.fromkeys(source))
        super().__init__(
            name or name_of_inputs(self._sources), ("predict",), batch_size, num_workers
        )
        self._classes, self.size = classes, size

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in label order; None for those of the models."""
        return None if self._classes is None else class_list(self._classes, "data.classes")

    def unlabelled(self, inputs: Sequence[str]) -> UnlabelledImages:
        """Data module of other images: files, or folders of them."""
        return unlabelled_images(inputs, self, self._classes, self.size)

    def _prepared(self) -> dict[str, Dataset[Any]]:
        classes = self.classes
        paths: dict[str, Path] = {}
        others = 0
        for source in self._sources:
            if source == STDIN:
                raise UsageError(f"{self.argument}: images are not read from standard input (-).")
            path = existing_path(source, self.argument)
            if not path.is_dir():
                paths[source] = _checked_image(path, self.argument)
                continue
            files = sorted(image_files(path, hidden=True))
            within = "" if len(self._sources) == 1 else source.rstrip("/") + "/"
            images = {within + name: path / name for name, image in files if image}
            if not images:
                raise UsageError(f"{self.argument}: {_no_images(path, len(files))}")
            _check_names(images, path)
            paths |= images
            others += len(files) - len(images)
        which = (
            "1 file is no image by its name"
            if others == 1
            else (f"{others:,} files are no images by their names")
        )
        findings = [which] if others else []
        return {
            "predict": _Files(
                paths, name_of_inputs(self._sources), self.size, tuple(findings), classes
            )
        }


def _no_images(folder: Path, files: int) -> str:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    held = f"which holds {files:,} other files" if files else "which is empty"
    return (
        f"no images in {str(folder)!r}, {held}: expected files such as "
        f"{', '.join(IMG_EXTENSIONS[:3])}, there or in folders inside."
    )


def unlabelled_images(
    inputs: Sequence[str], like: SplitDataModule, classes: list[str] | str | None, size: int | None
) -> UnlabelledImages:
    """Data module of images, in batches as those of another.

    Args:
        inputs: image files, or folders of them.
        like: the other data module.
        classes: as for `UnlabelledImages`.
        size: as for `ImageData`.
    """
    data = UnlabelledImages(list(inputs), classes, size, None, like.batch_size, like.num_workers)
    data.argument = "input"
    return data


def _checked_image(path: Path, argument: str) -> Path:
    """The path of a file that is an image by its name, or has a name without an ending."""
    from PIL import Image

    if path.suffix and path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(
            f"{argument}: {str(path)!r} is no image by its name; the data of the config are "
            "images: expected image files such as .jpg or .png, or folders of them."
        )
    _check_names([path.name], path.parent)
    return path


def _check_names(names: Iterable[str], root: Path) -> None:
    """Check that names of files can be written to records and tables."""
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise UsageError(
                f"data.source: the name of the file {name!r} in {str(root)!r} is not in UTF-8, "
                "so that no record could hold it: rename it."
            )
