"""Reading an image of a file, the same wherever images are read."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_ORIENTATION = 0x0112
_MODES = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGBA": "RGB with transparency",
    "CMYK": "CMYK",
}
_DAMAGED = (
    OSError,
    SyntaxError,  # how Pillow reports broken PNG files
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""Exceptions that Pillow raises for files that hold no image, or a damaged one."""


class UnreadableError(Exception):
    """A file that holds no image, or a damaged one."""


def decode(file: Path | bytes | None) -> tuple[Image, tuple[str, ...]]:
    """Decode an image as RGB, by the rules of timm's own reader.

    Other modes are converted by Pillow, which drops transparency; of several frames the first is
    taken; a rotation in the EXIF data is not applied.

    Args:
        file: path or content; None if there is none.

    Returns:
        The image, and a remark for every conversion.

    Raises:
        UnreadableError: with the reason.
    """
    from PIL.Image import DecompressionBombError

    if file is None:
        raise UnreadableError("no image")
    damaged = (*_DAMAGED, DecompressionBombError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transparency in palettes, and of large images
            try:
                return _read(file, metadata=True)
            except damaged:  # perhaps only in later frames or EXIF data, which models do not see
                return _read(file, metadata=False)
    except damaged as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "cannot identify" in reason:
            reason = "not an image"
        raise UnreadableError(reason or type(error).__name__) from error


def _read(file: Path | bytes, *, metadata: bool) -> tuple[Image, tuple[str, ...]]:
    """The image as RGB and remarks, also on what needs more of the file than the first frame."""
    from PIL import Image

    remarks = []
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        if image.mode != "RGB":
            remarks.append(f"converted to RGB from {_MODES.get(image.mode, image.mode)}")
        if metadata and image.getexif().get(_ORIENTATION, 1) not in {0, 1}:
            remarks.append("EXIF rotation not applied")
        if metadata and getattr(image, "n_frames", 1) > 1:
            remarks.append("first of several frames taken")
        return image.convert("RGB"), tuple(remarks)


def resized(image: Image, size: int | None) -> Image | Tensor:
    """Resize the shorter side of an image and crop the middle.

    Returns:
        Shape (3, size, size) uint8; the image itself if there is no size.
    """
    from torchvision.transforms import functional

    if size is None:
        return image
    whole = functional.resize(image, [size], functional.InterpolationMode.BICUBIC)
    pixels: Tensor = functional.pil_to_tensor(functional.center_crop(whole, [size, size]))
    return pixels
