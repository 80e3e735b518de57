"""Image files as models of timm take them: RGB, by the rules of timm's own reader."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
"""What Pillow raises for files that hold no image, or a damaged one."""


class UnreadableError(Exception):
    """A file that holds no image, or a damaged one."""


class _Read(NamedTuple):
    rgb: Image
    mode: str
    rotated: bool = False
    frames: int = 1


def decode(file: Path | bytes | None) -> tuple[Image, tuple[str, ...]]:
    """An image as RGB, and what was done to it.

    As in timm's reader other modes are converted by Pillow, which drops transparency, of several
    frames the first is taken, and a rotation in the EXIF data is not applied.

    Args:
        file: its path, or its content; None if there is none.

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
                read = _read(file, and_more=True)
            except damaged:  # perhaps in what the models do not see: later frames, EXIF data
                read = _read(file, and_more=False)
    except damaged as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(file, bytes) or "cannot identify" in reason:
            reason = "not an image" if "cannot identify" in reason else reason
        raise UnreadableError(reason or type(error).__name__) from error
    remarks = []
    if read.mode != "RGB":
        remarks.append(f"converted to RGB from {_MODES.get(read.mode, read.mode)}")
    if read.rotated:
        remarks.append("EXIF rotation not applied")
    if read.frames > 1:
        remarks.append("first of several frames taken")
    return read.rgb, tuple(remarks)


def _read(file: Path | bytes, *, and_more: bool) -> _Read:
    """The image, its mode, and perhaps what needs more of the file than its pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        mode = image.mode
        if not and_more:
            return _Read(image.convert("RGB"), mode)
        rotated = image.getexif().get(_ORIENTATION, 1) not in {0, 1}
        frames = int(getattr(image, "n_frames", 1))
        return _Read(image.convert("RGB"), mode, rotated, frames)


def stand_in() -> Image:
    """What takes the place of an image that cannot be read, so that its batch keeps its size."""
    from PIL import Image

    return Image.new("RGB", (32, 32))
