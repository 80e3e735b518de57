"""Image files as models of timm take them: RGB, by the rules of timm's own reader."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["UnreadableError", "decode", "stand_in"]

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


class UnreadableError(Exception):
    """A file that holds no image, or a damaged one."""


def decode(file: Path | bytes) -> tuple[Image, tuple[str, ...]]:
    """An image as RGB, and what was done to it.

    As in timm's reader other modes are converted by Pillow, which drops transparency, of several
    frames the first is taken, and a rotation in the EXIF data is not applied.

    Args:
        file: its path, or its content.

    Returns:
        The image, and a remark for every conversion.

    Raises:
        UnreadableError: with the reason.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transparency in palettes, and of large images
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
                mode = image.mode
                rotated = image.getexif().get(_ORIENTATION, 1) not in {0, 1}
                frames = getattr(image, "n_frames", 1)
                rgb = image.convert("RGB")
    except (
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
        Image.DecompressionBombError,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(file, bytes) or "cannot identify" in reason:
            reason = "not an image" if "cannot identify" in reason else reason
        raise UnreadableError(reason or type(error).__name__) from error
    remarks = []
    if mode != "RGB":
        remarks.append(f"converted to RGB from {_MODES.get(mode, mode)}")
    if rotated:
        remarks.append("EXIF rotation not applied")
    if frames > 1:
        remarks.append("first of several frames taken")
    return rgb, tuple(remarks)


def stand_in() -> Image:
    """What takes the place of an image that cannot be read, so that its batch keeps its size."""
    from PIL import Image

    return Image.new("RGB", (32, 32))
