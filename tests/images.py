"""Folders of real images for tests: CIFAR-10 enlarged, or generated where it is not at hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo

CIFAR = Path(__file__).parents[2] / "shared/data/cifar10/test.parquet"
SIZES = ((240, 180), (160, 250), (256, 256), (90, 400))


def some_images(n):
    """N images of different sizes and shapes."""
    if CIFAR.is_file():
        from pyarrow.parquet import ParquetFile

        batch = next(ParquetFile(CIFAR).iter_batches(n, columns=["img"]))
        small = [Image.open(io.BytesIO(row["bytes"])) for row in batch.column("img").to_pylist()]
    else:
        random = np.random.default_rng(0)
        small = [
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(n)
        ]
    return [
        image.convert("RGB").resize(SIZES[i % len(SIZES)], Image.Resampling.BICUBIC)
        for i, image in enumerate(small)
    ]


def image_folder(root, n, classes=None, spread=7):
    """Write N images as JPEG into folders of classes, by default ImageNet's; `root` again."""
    classes = ImageNetInfo("imagenet-1k").label_names() if classes is None else classes
    for i, image in enumerate(some_images(n)):
        folder = Path(root) / classes[(i * spread) % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"image{i:04d}.JPEG", quality=92)
    return root
