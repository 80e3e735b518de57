"""Image files: the pixels that timm sees, and a reason where there are none."""

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_cascade.data.image_sources import UnreadableError, decode, placeholder

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))
DEEP = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (12, 10), dtype=np.uint16))


def written(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def frames(kind, n=2):
    others = [COLOURS.rotate(90 * k).resize(COLOURS.size) for k in range(1, n)]
    return written(COLOURS, kind, save_all=True, append_images=others)


def see_through():
    image = COLOURS.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


GREY = "converted to RGB from greyscale"
PALETTE = "converted to RGB from palette"
ROTATED = "EXIF rotation not applied"
FRAMES = "first of several frames taken"

FILES = {
    "colours.jpg": (written(COLOURS, "JPEG"), []),
    "colours.png": (written(COLOURS, "PNG"), []),
    "colours.bmp": (written(COLOURS, "BMP"), []),
    "colours.webp": (written(COLOURS, "WEBP", lossless=True), []),
    "grey.jpg": (written(COLOURS.convert("L"), "JPEG"), [GREY]),
    "grey.png": (written(COLOURS.convert("L"), "PNG"), [GREY]),
    "grey_clear.png": (
        written(see_through().convert("LA"), "PNG"),
        ["converted to RGB from greyscale with transparency"],
    ),
    "palette.png": (written(COLOURS.convert("P"), "PNG"), [PALETTE]),
    "palette_clear.png": (written(COLOURS.convert("P"), "PNG", transparency=3), [PALETTE]),
    "palette_clearer.png": (
        written(COLOURS.convert("P"), "PNG", transparency=bytes(range(256))),
        [PALETTE],
    ),
    "clear.png": (written(see_through(), "PNG"), ["converted to RGB from RGB with transparency"]),
    "press.jpg": (written(COLOURS.convert("CMYK"), "JPEG"), ["converted to RGB from CMYK"]),
    "bits.png": (written(COLOURS.convert("1"), "PNG"), ["converted to RGB from black and white"]),
    "deep.png": (written(DEEP, "PNG"), ["converted to RGB from I;16"]),
    "upright.jpg": (written(COLOURS, "JPEG", exif=turned(1)), []),
    "unsaid.jpg": (written(COLOURS, "JPEG", exif=turned(0)), []),
    "rotated.jpg": (written(COLOURS, "JPEG", exif=turned(6)), [ROTATED]),
    "mirrored.jpg": (written(COLOURS, "JPEG", exif=turned(2)), [ROTATED]),
    "rotated.png": (written(COLOURS, "PNG", exif=turned(3)), [ROTATED]),
    "rotated_grey.jpg": (
        written(COLOURS.convert("L"), "JPEG", exif=turned(8)),
        [GREY, ROTATED],
    ),
    "still.gif": (written(COLOURS.convert("P"), "GIF"), [PALETTE]),
    "moving.gif": (frames("GIF"), [PALETTE, FRAMES]),
    "moving.png": (frames("PNG", 3), [FRAMES]),
    "pages.tif": (frames("TIFF"), [FRAMES]),
    "moving.webp": (frames("WEBP"), [FRAMES]),
}


def pixels(source):
    """What timm's reader does with a file, in as many words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_a_plain_conversion(tmp_path, name, as_bytes):
    content, remarks = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    image, said = decode(content if as_bytes else path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels(path))
    assert list(said) == remarks


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm's reader leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_pixels_are_those_of_timms_own_dataset(tmp_path):
    from timm.data import ImageDataset

    inside = tmp_path / "class"
    inside.mkdir()
    for name, (content, _) in FILES.items():
        (inside / name).write_bytes(content)
    kinds = ";".join(sorted({path.suffix for path in inside.iterdir()}))
    theirs = ImageDataset(tmp_path, input_key=kinds)
    assert len(theirs) == len(FILES)
    for position, path in enumerate(theirs.filenames(absolute=True)):
        mine, _ = decode(inside / Path(path).name)
        assert np.array_equal(np.asarray(mine), np.asarray(theirs[position][0])), path


def broken_png():
    """A PNG whose pixels have no right check sum."""
    content = bytearray(written(COLOURS, "PNG"))
    content[content.index(b"IDAT") + 8] ^= 0xFF
    return bytes(content)


BROKEN = {
    "truncated.jpg": (written(COLOURS, "JPEG")[:-60], "truncated"),
    "text.jpg": (b"<html>404</html>", "not an image"),
    "empty.jpg": (b"", "not an image"),
    "half.png": (written(COLOURS, "PNG")[:-60], "truncated"),
    "broken.png": (broken_png(), "broken"),
    "head.gif": (written(COLOURS.convert("P"), "GIF")[:20], "."),
}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_has_a_reason_in_a_few_words(tmp_path, name, as_bytes):
    content, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason) as caught:
        decode(content if as_bytes else path)
    said = str(caught.value)
    assert str(tmp_path) not in said
    assert not any(word in said for word in ("Traceback", "object at", "\n"))
    assert len(said) < 90


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UnreadableError, match=r"^No such file or directory$"):
        decode(tmp_path / "gone.jpg")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(UnreadableError, match=r"^Is a directory$"):
        decode(tmp_path)


def test_no_file_at_all():
    with pytest.raises(UnreadableError, match=r"^no image$"):
        decode(None)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read it")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "mine.jpg"
    path.write_bytes(FILES["colours.jpg"][0])
    path.chmod(0)
    with pytest.raises(UnreadableError, match=r"^Permission denied$"):
        decode(path)


@pytest.mark.parametrize(("most", "readable"), [(119, True), (59, False)])
def test_an_image_of_far_too_many_pixels_is_not_decoded(monkeypatch, most, readable):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)  # of 120 here; Pillow allows twice that
    content = FILES["colours.png"][0]
    if readable:
        assert decode(content)[0].size == COLOURS.size
        return
    with pytest.raises(UnreadableError, match="exceeds limit of 118 pixels"):
        decode(content)


def test_what_no_model_sees_may_be_damaged():
    """Later frames, and EXIF data: timm reads such images too."""
    moving = bytearray(frames("GIF", 3))
    moving[moving.rindex(b",") + 9] = 0x87  # the last frame says that colours of its own follow
    cut = bytes(moving[: moving.rindex(b",") + 14])
    assert np.array_equal(np.asarray(decode(cut)[0]), pixels(io.BytesIO(cut)))
    webp = bytearray(written(COLOURS, "WEBP", exif=turned(6)))
    webp[webp.index(b"EXIF") + 8 : webp.index(b"EXIF") + 12] = b"\0\0\0\0"
    assert np.array_equal(np.asarray(decode(bytes(webp))[0]), pixels(io.BytesIO(webp)))


@pytest.mark.parametrize("name", FILES)
def test_damaged_at_random_it_is_read_exactly_where_a_plain_conversion_reads_it(name):
    chance = random.Random(name)  # noqa: S311
    read = unread = 0
    for _ in range(40):
        content = bytearray(FILES[name][0])
        for _ in range(chance.choice((0, 1, 2, 8))):
            most = chance.choice((40, 150, len(content)))
            content[chance.randrange(min(most, len(content)))] = chance.randrange(256)
        if chance.random() < 0.2:
            content = content[: chance.randrange(len(content))]
        try:
            expected = pixels(io.BytesIO(content))
        except Exception:  # noqa: BLE001 - whatever Pillow raises
            with pytest.raises(UnreadableError):
                decode(bytes(content))
            unread += 1
            continue
        assert np.array_equal(np.asarray(decode(bytes(content))[0]), expected)
        read += 1
    assert read
    assert unread


def test_what_stands_in_is_a_small_image():
    assert (placeholder().mode, placeholder().size) == ("RGB", (32, 32))
