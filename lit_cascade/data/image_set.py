"""Labelled images as a dataset: decoded when they are asked for, with what there is to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_cascade.data.decoding import UnreadableError, decode, stand_in
from lit_cascade.data.folders import FolderImages
from lit_cascade.data.label_sets import LabelSets
from lit_cascade.data.loading import RawSample
from lit_cascade.data.rows import RowImages
from lit_cascade.errors import UsageError
from lit_cascade.records import Ids

__all__ = ["ImageSet", "Unknown", "Unreadable"]

Unreadable = Literal["leave_out", "stop"]
Unknown = Literal["stop", "leave_out"]


class ImageSet(Dataset[RawSample]):
    """Images, decoded when they are asked for, with what there is to say about them.

    Args:
        images: where they are.
        source: what their ids are counted in.
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
        unreadable: Unreadable = "leave_out",
        unknown: Unknown = "stop",
    ) -> None:
        self._images, self._label_sets = images, label_sets
        self._stop = unreadable == "stop"
        self.source = source
        self.restricts_classes = classes is not None
        labels = images.folders if isinstance(images, FolderImages) else images.labels()
        names = images.names
        table = _table(images, labels, classes)
        strange = {label: n for label, n in Counter(labels).items() if label not in table}
        findings = _strangers(strange, unknown)
        keep = [i for i, label in enumerate(labels) if label not in strange]
        self._positions = torch.tensor(keep, dtype=torch.int64)
        self._labels = torch.tensor([table[labels[i]] for i in keep], dtype=torch.int64)
        own = names if classes is None else classes
        self.classes = None if own is None else tuple(own)
        self.ids: Ids = (
            images.ids[self._positions]
            if isinstance(images.ids, Tensor)
            else tuple(images.ids[i] for i in keep)
        )
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
                return RawSample(stand_in(), self._label_sets.nothing, (), LabelSets.NONE)
        try:
            image, remarks = decode(file)
        except UnreadableError as error:
            where = name or f"row {int(self._positions[position])}"
            return RawSample(stand_in(), label, (), f"{where}: {error}", stop=self._stop)
        return RawSample(image, label, remarks)


def _table(
    images: FolderImages | RowImages, labels: Sequence[Any], classes: Sequence[str] | None
) -> Mapping[Any, int]:
    """Which class each label of the images is: by name, or by number where there are no names.

    Raises:
        UsageError: no class fits.
    """
    names = images.names
    wanted = names if classes is None else classes
    where = {name: number for number, name in enumerate(wanted or ())}
    named = isinstance(images, FolderImages) or any(isinstance(label, str) for label in labels)
    if names is None:  # bare numbers
        distinct = sorted({label for label in labels if isinstance(label, int)})
        most = len(wanted) if wanted is not None else max(distinct, default=-1) + 1
        return {label: label for label in distinct if 0 <= label < most}
    if named:
        if not set(names) & set(where) and all(name.isdecimal() for name in names):
            return {name: int(name) for name in names if int(name) < len(where)}
        return {name: where[name] for name in names if name in where}
    if set(names) & set(where):
        return {i: where[name] for i, name in enumerate(names) if name in where}
    if len(names) == len(where):  # other names for the same classes, in the published order
        return {i: i for i in range(len(names))}
    raise UsageError(
        f"data.classes: the data has {len(names)} classes ({', '.join(names[:3])}, ...), of which "
        f"none is among the {len(where)} given ({', '.join(list(where)[:3])}, ...)."
    )


def _strangers(strange: Mapping[Any, int], unknown: Unknown) -> list[str]:
    """What is to be said about images of classes that are not among those named.

    Raises:
        UsageError: there are some, and they are not to be left out.
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
