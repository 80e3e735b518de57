"""Images in the rows of a table: sets of the Hugging Face hub, Parquet files, tar shards."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import UsageError, check_name

__all__ = ["RowImages", "load_rows"]

_KEY = "__key__"  # what webdataset calls a sample
_LABELS = ("label", "labels", "cls", "fine_label", "target")
_PREFERRED = ("validation", "val", "test")
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

    source = os.path.expanduser(source)  # noqa: PTH111 - no path if it is on the hub
    try:
        found = _loaded(source, split)
    # what `datasets` and the hub's client raise for what they cannot find or read
    except (OSError, ValueError, tarfile.TarError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UsageError(
            f"data.source: {source!r} is neither a folder of images by class, nor Parquet files or "
            f"tar shards, nor a data set that the hub gives: {reason}"
        ) from error
    if isinstance(found, datasets.Dataset):
        return found
    for name in [split] if split else (*_PREFERRED, *found):
        if name in found:
            return found[name]
    check_name(str(split), found, "data.published_split")
    raise UsageError(f"data.published_split: expected one of {', '.join(found)}.")


def _loaded(source: str, split: str | None) -> Any:
    import datasets

    folder = Path(source)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return datasets.load_from_disk(source)
    if folder.is_dir():
        return datasets.load_dataset(source)
    kind = _KINDS.get(folder.suffix)
    if kind is not None:
        return datasets.load_dataset(kind, data_files=source, split="train")
    return _from_hub(source, split)


def _from_hub(source: str, split: str | None) -> Any:
    """One split of a set on the hub.

    `datasets` itself downloads all splits to give one, which is 150 GB of ImageNet for 7 that are
    wanted, so the files of the split are fetched by their names where these tell.
    """
    import datasets
    from huggingface_hub import snapshot_download

    if split is None:
        names = datasets.get_dataset_split_names(source)
        split = next((name for name in (*_PREFERRED, *names) if name in names), None)
    folder = snapshot_download(source, repo_type="dataset", allow_patterns=[f"*{split}*"])
    if any(path.suffix in _KINDS for path in Path(folder).rglob(f"*{split}*")):
        return datasets.load_dataset(folder, split=split)
    return datasets.load_dataset(source, split=split)


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


def _only(found: list[str], columns: list[str], argument: str, what: str) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{', '.join(found)} could be it" if found else f"none seems to hold {what}"
    raise UsageError(
        f"{argument}: of the columns {', '.join(columns)} {several}; name the one of {what}."
    )
