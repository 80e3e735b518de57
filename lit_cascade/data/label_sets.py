"""Sets of right labels per image, as in "Are we done with ImageNet?" (arXiv:2006.07159)."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError

__all__ = ["LabelSets"]

_REAL = "imagenet-real"
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


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
            number = _VALIDATION.search(key)
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
