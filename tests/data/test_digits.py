"""Augmented digits against torchvision, image by image."""

import pytest
import torch
from torchvision.transforms import v2

from lit_cascade.data import DigitsData


@pytest.mark.parametrize("seed", range(3))
def test_training_images_are_moved_as_torchvision_moves_each(seed):
    data = DigitsData()
    data.setup()
    dataset = data.train_dataloader().dataset
    plain = DigitsData(augment=False)
    plain.setup()
    move = v2.RandomAffine(
        degrees=10, translate=(0.125, 0.125), scale=(0.9, 1.1),
        interpolation=v2.InterpolationMode.BILINEAR,
    )  # fmt: skip
    positions = torch.randperm(len(dataset))[:100].tolist()
    torch.manual_seed(seed)
    moved = dataset.__getitems__(positions)
    torch.manual_seed(seed)
    for position, (image, label) in zip(positions, moved, strict=True):
        original, same = plain.train_dataloader().dataset[position]
        assert label == same
        assert not torch.equal(image, original)
        torch.testing.assert_close(image, move(original), rtol=1e-4, atol=1e-4)
    torch.manual_seed(seed)
    alone, _ = dataset[positions[0]]  # one by one they are the same
    torch.testing.assert_close(alone, moved[0][0])


def test_what_is_judged_is_never_moved():
    data = DigitsData()
    data.setup()
    for loader in (data.calibration_dataloader(), data.val_dataloader()):
        images, _ = loader.dataset[3]
        assert torch.equal(images, images.round())
        assert torch.equal(images, loader.dataset[3][0])
