"""JPEG files to load, in folders of ten classes of ImageNet: what they show does not matter here.

python -m tests.benchmarks.jpegs FOLDER [--n 512] [--width 500] [--height 375]

The same files each time: soft blots with some noise, quality 90, of the size of common photographs.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo


def draw(i: int, folder: Path, size: tuple[int, int]) -> None:
    """Write the i-th picture."""
    numbers = np.random.default_rng(i)
    blots = Image.fromarray(numbers.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    noise = numbers.integers(-12, 12, (size[1], size[0], 3))
    pixels = np.asarray(blots.resize(size, Image.Resampling.BICUBIC)) + noise
    names = ImageNetInfo("imagenet-1k").label_names()
    place = folder / names[37 * (i % 10)]
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{i:06d}.jpg", quality=90)


def main() -> None:
    """Write them all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    args = parser.parse_args()
    one = partial(draw, folder=args.folder, size=(args.width, args.height))
    with ProcessPoolExecutor() as workers:
        list(workers.map(one, range(args.n), chunksize=16))


if __name__ == "__main__":
    main()
