"""Splits of data modules: their descriptions and the ids that they share."""

import pytest
from lightning.pytorch import LightningDataModule
from torch.utils.data import Subset

from lit_cascade.data import Datasets
from lit_cascade.data.splits import describe, has_split, shared_ids, split_loader
from lit_cascade.errors import UsageError
from tests.toys import Points, SharedPoints


def test_subsets_keep_the_ids_of_the_whole():
    info = describe(Subset(Subset(Points(30, first=100), [5, 6, 7, 9]), [3, 0]))
    assert info.ids.tolist() == [109, 105]
    assert (info.source, info.classes) == ("points", ("cat", "dog", "owl"))


def test_shared_ids_are_found_by_source_and_by_dataset():
    overlapping = Datasets(calibration=Points(30), validation=Points(30, first=25))
    assert shared_ids(overlapping, "calibration", "validation") == [25, 26, 27, 28, 29]
    assert shared_ids(SharedPoints(), "calibration", "validation") == [25, 26, 27, 28, 29]
    apart = Datasets(calibration=Points(20), validation=Points(20, first=20))
    assert shared_ids(apart, "calibration", "validation") == []
    assert shared_ids(apart, "calibration", "test") == []


def test_a_list_of_samples_is_a_dataset():
    data = Datasets(validation=[(1, 0), (2, 1)], train=3)
    assert list(data.val_dataloader().dataset) == [(1, 0), (2, 1)]
    with pytest.raises(UsageError, match=r"data\.train: expected a dataset .*, got int"):
        data.train_dataloader()


def test_splits_of_a_data_module_made_from_datasets():
    parts = {"val_dataset": Points(6), "predict_dataset": Points(4)}
    data = LightningDataModule.from_datasets(**parts, batch_size=2)
    assert [one for one in ("train", "validation", "test", "predict") if has_split(data, one)] == [
        "validation",
        "predict",
    ]
    assert len(split_loader(data, "validation").dataset) == 6
    with pytest.raises(UsageError, match="'calibration' is unknown; known are predict, validation"):
        split_loader(data, "calibration")
