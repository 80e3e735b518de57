"""Images in the rows of a table: sets of the Hugging Face hub, Parquet files, tar shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cascade.data.tables import find_label_column, only_column
from lit_cascade.errors import UsageError, check_name

__all__ = ["RowImages"]

_KEY = "__key__"  # what webdataset calls a sample


@dataclass(frozen=True)
class RowImages:
    """The images of a table.

    Attributes:
        rows: the table, with images as files, not decoded.
        image: column of the images.
        label: column of the labels.
        names: of the classes in label order; in order if the rows name them; None if the labels are
            bare numbers.
        ids: positions in the table, or the keys of tar shards where these are distinct.
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
            image = only_column(
                [name for name in columns if isinstance(features[name], datasets.Image)],
                columns, "data.image_column", "images",
            )  # fmt: skip
        check_name(image, columns, "data.image_column")
        label = find_label_column(rows, label)
        names = getattr(features[label], "names", None)
        if not names:
            held = {value for value in rows[label] if isinstance(value, str)}
            names = sorted(held)
        ids: Tensor | tuple[str, ...] = torch.arange(len(rows))
        if _KEY in columns and len(set(rows[_KEY])) == len(rows):
            ids = tuple(rows[_KEY])
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
        """The published split that the table is, if it says so."""
        return None if self.rows.split is None else str(self.rows.split)

    def labels(self) -> list[Any]:
        """Labels of all rows, without their images."""
        found = list(self.rows[self.label_column])
        strange = next((one for one in found if isinstance(one, (list, dict))), None)
        if strange is not None:
            raise UsageError(
                f"data.label_column: {self.label_column!r} holds no class per image: {strange!r}."
            )
        return found

    def load(self, position: int) -> tuple[Path | bytes | None, str]:
        """The file of an image, None if the row has none, and its name if it has one."""
        held = self.rows[position][self.image] or {}
        name = str(held.get("path") or "")
        return held.get("bytes") or (Path(name) if name else None), name
