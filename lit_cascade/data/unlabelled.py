"""Images and texts without labels, for a cascade to answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_cascade.data.decoding import UnreadableError, decode, stand_in
from lit_cascade.data.images import workers_for
from lit_cascade.data.loading import RawSample
from lit_cascade.data.tables import load_table
from lit_cascade.data.text_set import text_columns_of
from lit_cascade.errors import UsageError

__all__ = ["UnlabelledImages", "UnlabelledTexts"]

_NONE = torch.tensor(-1)


class _Files(Dataset[RawSample]):
    """Image files, decoded when they are asked for."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = root
        self.ids = tuple(paths)
        self.source = root.name

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> RawSample:
        path = self.ids[position]
        try:
            image, remarks = decode(self._root / path)
        except UnreadableError as error:
            return RawSample(stand_in(), _NONE, (), f"{path}: {error}")
        return RawSample(image, _NONE, remarks)


class UnlabelledImages(LightningDataModule):
    """All image files in a folder and the folders in it, as the split `predict`.

    Their ids are their paths in the folder, by which they are ordered. Files that cannot be read
    are left out, and reported.

    Args:
        source: the folder.
        name: what to call the data; by default after the folder.
        batch_size: images per batch.
        num_workers: processes that decode and preprocess; by default one per core, at most 8.
    """

    splits = ("predict",)

    def __init__(
        self,
        source: str,
        name: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name or Path(source).name
        self._root = Path(source).expanduser()
        self._batch_size, self._num_workers = batch_size, num_workers
        self._files: _Files | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find the images.

        Raises:
            UsageError: there is no such folder, or no image in it.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS

        del stage
        if self._files is not None:
            return
        if not self._root.is_dir():
            raise UsageError(f"data.source: there is no folder {str(self._root)!r}.")
        found = [
            (Path(folder) / file).relative_to(self._root).as_posix()
            for folder, _, files in os.walk(self._root, followlinks=True)
            for file in files
            if Path(file).suffix.lower() in IMG_EXTENSIONS and not file.startswith(".")
        ]
        if not found:
            raise UsageError(
                f"data.source: no images in {str(self._root)!r}: expected files such as "
                f"{', '.join(IMG_EXTENSIONS[:3])}, there or in folders inside."
            )
        self._files = _Files(self._root, sorted(found))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the images."""
        self.setup()
        workers = self._num_workers
        if workers is None:
            workers = workers_for(1 if self.trainer is None else self.trainer.num_devices)
        return DataLoader(
            self._files,  # type: ignore[arg-type] # set up by now
            batch_size=self._batch_size,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )


class _Texts(Dataset[RawSample]):
    """Texts, or pairs of them, in the rows of a table."""

    def __init__(self, columns: Sequence[Any], source: str) -> None:
        self._columns = columns
        self.ids: Tensor = torch.arange(len(columns[0]))
        self.source = source

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> RawSample:
        texts = tuple(column[position].as_py() for column in self._columns)
        if None in texts:
            return RawSample(tuple(text or "" for text in texts), _NONE, (), "no text")
        return RawSample(texts if len(texts) > 1 else texts[0], _NONE)


class UnlabelledTexts(LightningDataModule):
    """The texts of a table, or pairs of them, as the split `predict`; their ids are row numbers.

    Args:
        source: name of a data set on the hub, or the path of Parquet, CSV or JSON files.
        published_split: of it; by default the validation set, else the test set, else the only one.
        text_columns: the column of texts, or the two of pairs; by default the only one of strings.
        name: what to call the data; by default after the source.
        batch_size: texts per batch.
        num_workers: processes that read and preprocess; by default it is done between batches.
    """

    splits = ("predict",)

    def __init__(
        self,
        source: str,
        published_split: str | None = None,
        text_columns: list[str] | None = None,
        name: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.name = name or Path(source).name
        self._source, self._published = source, published_split
        self._columns = text_columns
        self._batch_size, self._num_workers = batch_size, num_workers
        self._texts: _Texts | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the texts.

        Raises:
            UsageError: there is no such data, or no column of texts.
        """
        del stage
        if self._texts is not None:
            return
        rows = load_table(self._source, self._published, what="a table of texts")
        names = text_columns_of(rows, self._columns)
        table = rows.select_columns(names).with_format("arrow")[:]
        self._texts = _Texts([table[name] for name in names], Path(self._source).name)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the texts."""
        self.setup()
        return DataLoader(
            self._texts,  # type: ignore[arg-type] # set up by now
            batch_size=self._batch_size,
            num_workers=self._num_workers,
        )
