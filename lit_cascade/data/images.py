"""Labelled and unlabelled images: folders, the Hugging Face hub, Parquet files, tar shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, Subset

from lit_cascade.data.image_sources import (
    FolderImages,
    RowImages,
    UnreadableError,
    decode,
    holds_class_folders,
    image_files,
    placeholder,
)
from lit_cascade.data.label_sets import LabelSets
from lit_cascade.data.loading import RawSample
from lit_cascade.data.splits import SplitDataModule, shuffled
from lit_cascade.data.tables import load_table
from lit_cascade.errors import UsageError, check_name
from lit_cascade.records import Ids
from lit_cascade.utilities.class_names import class_list

__all__ = ["ImageData", "ImageSet", "UnlabelledImages"]

OnProblem = Literal["leave_out", "stop"]


class ImageSet(Dataset[RawSample]):
    """Labelled images, decoded when they are asked for.

    Args:
        images: where they are.
        source: data set and split that the ids belong to.
        classes: names in label order, if the user named them.
        label_sets: labels that replace those of the set, several per image.
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
    ) -> None:
        self._images, self._label_sets = images, label_sets
        self._stop = unreadable == "stop"
        self.source = source
        self.restricts_classes = classes is not None
        labels = images.labels()
        numbers = _class_numbers(images.names, labels, classes)
        strange = {label: n for label, n in Counter(labels).items() if label not in numbers}
        findings = _check_unknown(strange, unknown)
        keep = [i for i, label in enumerate(labels) if label not in strange]
        self._positions = torch.tensor(keep, dtype=torch.int64)
        self._labels = torch.tensor([numbers[labels[i]] for i in keep], dtype=torch.int64)
        names = images.names if classes is None else classes
        self.classes = None if names is None else tuple(names)
        self.ids = Ids(images.ids)[keep]
        if self.classes is not None and label_sets is None and keep:
            empty = len(self.classes) - len(self._labels.unique())
            if empty:
                findings.append(f"{empty:,} of the {len(self.classes):,} classes have no image")
        if images.others:
            findings.append(f"{images.others:,} files are no images by their names or places")
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, position: int) -> RawSample:
        file, name = self._images.load(int(self._positions[position]))
        label: Any = self._labels[position]
        if self._label_sets is not None:
            label = self._label_sets.nothing if file is None else self._label_sets.of(name)
            if label is None:
                return RawSample(placeholder(), self._label_sets.nothing, (), LabelSets.NONE)
        where = name or f"row {int(self._positions[position])}"
        return _decoded(file, label, where, stop=self._stop)


def _decoded(file: Path | bytes | None, label: Any, where: str, *, stop: bool) -> RawSample:
    try:
        image, remarks = decode(file)
    except UnreadableError as error:
        return RawSample(placeholder(), label, (), f"{where}: {error}", stop=stop)
    return RawSample(image, label, remarks)


def _class_numbers(
    names: Sequence[str] | None, labels: Sequence[Any], classes: Sequence[str] | None
) -> Mapping[Any, int]:
    """Class number of each label: by name, or the number itself where there are no names.

    Raises:
        UsageError: no class fits.
    """
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


def _check_unknown(strange: Mapping[Any, int], unknown: OnProblem) -> list[str]:
    """A remark on the images of classes that are not named, if there are any.

    Raises:
        UsageError: there are some, and they are to stop the run.
    """
    if not strange:
        return []
    some = ", ".join(map(str, list(strange)[:3])) + (", ..." if len(strange) > 3 else "")
    n = sum(strange.values())
    if unknown == "stop":
        raise UsageError(
            f"data.classes: {n:,} images are of {len(strange):,} classes that are not among those "
            f"named: {some}. Name them too, or leave these images out: data.unknown_classes: "
            "leave_out."
        )
    return [f"{n:,} images of {len(strange):,} classes that are not asked for are left out: {some}"]


class ImageData(SplitDataModule):
    """Labelled images: a folder per class, a data set of the hub, Parquet files, or tar shards.

    The images come as they are, in RGB: each model of a cascade applies its own preprocessing. The
    split `validation` holds all of them but those that are held back as the split `calibration`.

    Args:
        source: folder of class folders (or of `train`, `val`, ... with these); name of a data set
            on the Hugging Face hub; folder or path of Parquet files or of tar shards.
        published_split: which of the published splits to read, such as validation or test; by
            default the validation set if there is one, else the test set.
        classes: classes among which the models answer, in label order: the name of a list such as
            imagenet-1k, imagenet-a or imagenet-r, a text file with one name per line, or names;
            `folders` for exactly those of the images. By default those of the images too, but then
            a model that knows others is refused.
        label_sets: other labels, several of which may be right: imagenet-real, or a JSON file that
            maps names of images to lists of class names. Images without any are left out.
        calibration_size: images held back as the split `calibration`, drawn by their ids.
        seed: seed of that drawing.
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
    _hint = " Hold some images back with data.init_args.calibration_size."

    def __init__(
        self,
        source: str = "ILSVRC/imagenet-1k",
        published_split: str | None = None,
        classes: list[str] | str | None = None,
        label_sets: str | None = None,
        calibration_size: int = 0,
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
        splits = ("calibration", "validation") if calibration_size else ("validation",)
        super().__init__(name or Path(source).name, splits, batch_size, num_workers)
        self._source, self._published = source, published_split
        self._classes, self._label_sets = classes, label_sets
        self._calibration_size, self._seed = calibration_size, seed
        self._unreadable: OnProblem = unreadable
        self._unknown: OnProblem = unknown_classes
        self._columns = image_column, label_column
        self._images: FolderImages | RowImages | None = None

    def prepare_data(self) -> None:
        """Download, once per machine."""
        self._find()

    def setup(self, stage: str | None = None) -> None:
        """Find the images, and hold some back."""
        del stage
        if self._datasets:
            return
        images = self._find()
        classes: Sequence[str] | None = None
        if self._classes == "folders":
            classes = images.names
        elif self._classes is not None:
            classes = class_list(self._classes, "data.classes")
        sets = None
        if self._label_sets is not None:
            if classes is None:
                raise UsageError("data.label_sets: needs data.classes, got none.")
            sets = LabelSets.load(self._label_sets, classes)
        whole = ImageSet(
            images, self._source_of_ids(images), classes, sets, self._unreadable, self._unknown
        )
        n, held_back = len(whole), self._calibration_size
        if not 0 <= held_back < max(n, 1):
            raise UsageError(
                f"data.calibration_size: expected 0 to {n - 1} of the {n} images, got {held_back}."
            )
        if not held_back:
            self._datasets = {"validation": whole}
            return
        order = shuffled(whole.ids, self._seed)
        self._datasets = {
            "calibration": Subset(whole, sorted(order[:held_back])),
            "validation": Subset(whole, sorted(order[held_back:])),
        }

    def _source_of_ids(self, images: FolderImages | RowImages) -> str:
        """Source of the ids: name of the set and of its split, given or found."""
        here = Path(self._source).expanduser()
        base = here.name if here.exists() else self._source
        if isinstance(images, FolderImages):
            inside = images.root.relative_to(here).as_posix()
            return base if inside == "." else f"{base}/{inside}"
        split = self._published or images.split
        return f"{base}/{split}" if split else base

    def _find(self) -> FolderImages | RowImages:
        if self._images is None:
            folder = Path(self._source).expanduser()
            if folder.is_dir() and holds_class_folders(folder):
                self._images = FolderImages.scan(folder, self._published)
            else:
                rows = load_table(self._source, self._published, what="a folder of images by class")
                self._images = RowImages.of(rows, *self._columns)
        return self._images


class _Files(Dataset[RawSample]):
    """Unlabelled image files, decoded when they are asked for."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = root
        self.ids = tuple(paths)
        self.source = root.name

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> RawSample:
        path = self.ids[position]
        return _decoded(self._root / path, torch.tensor(-1), path, stop=False)


class UnlabelledImages(SplitDataModule):
    """All image files in a folder and the folders in it, as the split `predict`.

    Their ids are their paths in the folder, in alphabetical order. Files that cannot be read are
    left out, and reported.

    Args:
        source: the folder.
        name: name of the data; by default after the folder.
        batch_size: images per batch.
        num_workers: processes that decode and preprocess; by default one per core, at most 8.
    """

    _pin_memory = True

    def __init__(
        self,
        source: str,
        name: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(name or Path(source).name, ("predict",), batch_size, num_workers)
        self._root = Path(source).expanduser()

    def setup(self, stage: str | None = None) -> None:
        """Find the images.

        Raises:
            UsageError: there is no such folder, or no image in it.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS

        del stage
        if self._datasets:
            return
        if not self._root.is_dir():
            raise UsageError(f"data.source: there is no folder {str(self._root)!r}.")
        paths = sorted(path for path, image in image_files(self._root, hidden=True) if image)
        if not paths:
            raise UsageError(
                f"data.source: no images in {str(self._root)!r}: expected files such as "
                f"{', '.join(IMG_EXTENSIONS[:3])}, there or in folders inside."
            )
        self._datasets = {"predict": _Files(self._root, paths)}
