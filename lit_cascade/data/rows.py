"""Images in the rows of a table: sets of the Hugging Face hub, Parquet files, tar shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError, check_name

__all__ = ["RowImages", "load_rows"]

_KEY = "__key__"  # what webdataset calls a sample
_LABELS = ("label", "labels", "cls", "fine_label", "target")
_KINDS = {".parquet": "parquet", ".tar": "webdataset", ".arrow": "arrow"}


def load_rows(source: str, split: str | None) -> Any:
    """A split of a data set as a table of `datasets`.

    Args:
        source: name on the hub; a folder with Parquet files, tar shards, or what `save_to_disk`
            wrote; or the path of Parquet or tar files, with wildcards.
        split: of it; by default validation, else test, else the only one.

    Raises:
        UsageError: neither the hub nor the disk has it.
    """
    import datasets

    try:
        found = _loaded(source, split)
    # what `datasets` and the hub's client raise for what they cannot find or read
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UsageError(
            f"data.source: {source!r} is neither a folder of images by class, nor Parquet files or "
            f"tar shards, nor a data set that the hub gives: {reason}"
        ) from error
    if isinstance(found, datasets.Dataset):
        return found
    for name in [split] if split else ("validation", "val", "test", *found):
        if name in found:
            return found[name]
    check_name(str(split), found, "data.published_split")
    raise UsageError(f"data.published_split: expected one of {', '.join(found)}.")


def _loaded(source: str, split: str | None) -> Any:
    import datasets

    folder = Path(source)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(source)
    kind = _KINDS.get(folder.suffix)
    if kind is not None and not folder.is_dir():
        return datasets.load_dataset(kind, data_files=source, split="train")
    # all splits of a set on disk are at hand; of the hub only the one that is wanted is loaded
    if split is not None and not folder.is_dir():
        return datasets.load_dataset(source, split=split)
    return datasets.load_dataset(source)


@dataclass(frozen=True)
class RowImages:
    """The images of a table.

    Attributes:
        rows: the table, with images as files, not decoded.
        image: column of the images.
        label: column of the labels.
        names: of the classes in label order; None if the table does not say.
        ids: positions in the table, or the keys of tar shards.
        others: 0, as every row is an image.
    """

    rows: Any
    image: str
    label_column: str
    names: tuple[str, ...] | None
    ids: Tensor | tuple[str, ...]
    others: int = 0

    @classmethod
    def of(cls, rows: Any, image: str | None, label: str | None) -> RowImages:
        """Find the columns of a table.

        Args:
            rows: a `datasets.Dataset`.
            image: column of the images; by default the only one that holds any.
            label: column of the labels; by default the only one of a label's type, or by its name.

        Raises:
            UsageError: there is no such column, or several could be meant.
        """
        import datasets

        columns, features = rows.column_names, rows.features
        if image is None:
            image = _only(
                [name for name in columns if isinstance(features[name], datasets.Image)],
                columns, "data.image_column", "images",
            )  # fmt: skip
        check_name(image, columns, "data.image_column")
        if label is None:
            typed = [name for name in columns if isinstance(features[name], datasets.ClassLabel)]
            named = [name for name in _LABELS if name in columns][:1]
            label = _only(
                typed if len(typed) == 1 else named, columns, "data.label_column", "labels"
            )
        check_name(label, columns, "data.label_column")
        names = getattr(features[label], "names", None)
        ids: Tensor | tuple[str, ...] = torch.arange(len(rows))
        if _KEY in columns:
            ids = tuple(rows[_KEY])
        return cls(
            rows.cast_column(image, datasets.Image(decode=False)),
            image,
            label,
            tuple(names) if names else None,
            ids,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> list[Any]:
        """Labels of all rows, without their images."""
        return list(self.rows[self.label_column])

    def load(self, position: int) -> tuple[Path | bytes, str]:
        """The file of an image, and its name if it has one.

        Raises:
            CascadeError: the row holds no image.
        """
        held = self.rows[position][self.image]
        if not isinstance(held, dict) or not (held.get("bytes") or held.get("path")):
            raise CascadeError(f"data: row {position} has no image in its column {self.image!r}.")
        name = str(held.get("path") or "")
        return (held["bytes"] if held.get("bytes") else Path(name)), name


def _only(found: list[str], columns: list[str], argument: str, what: str) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{', '.join(found)} could be it" if found else f"none seems to hold {what}"
    raise UsageError(
        f"{argument}: of the columns {', '.join(columns)} {several}; name the one of {what}."
    )
