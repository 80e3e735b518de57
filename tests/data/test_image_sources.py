"""Image files: the pixels that timm sees, and folders of images by class."""

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_cascade import UsageError
from lit_cascade.data.images import (
    FolderImages,
    ImageSet,
    UnreadableError,
    decode,
    holds_class_folders,
    placeholder,
)

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


# folders by class


def tree(root, *names):
    """A folder with small images of these names; other files hold a word."""
    for k, name in enumerate(names):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tiff"}:
            kind = {".jpg": "JPEG", ".tiff": "TIFF"}.get(path.suffix.lower())
            Image.new("RGB", (4, 3), (k, 2 * k, 0)).save(path, kind)
        else:
            path.write_text("word")
    return root


def scanned(root, split=None):
    return FolderImages.scan(root, split)


def test_each_folder_is_a_class_and_ids_are_paths_within(tmp_path):
    found = scanned(tree(tmp_path, "owl/1.jpg", "cat/b.jpg", "cat/a.png", "dog/2.webp"))
    assert found.ids == ("cat/a.png", "cat/b.jpg", "dog/2.webp", "owl/1.jpg")
    assert found.labels() == ["cat", "cat", "dog", "owl"]
    assert found.names == ("cat", "dog", "owl")
    assert (len(found), found.others) == (4, 0)
    assert found.load(1) == (tmp_path / "cat/b.jpg", "cat/b.jpg")


@pytest.mark.parametrize("name", ["a.JPG", "a.Jpeg", "a.PNG", "a.tiff", "a.BMP", "a.ppm"])
def test_extensions_in_any_case(tmp_path, name):
    assert scanned(tree(tmp_path, f"cat/{name}")).ids == (f"cat/{name}",)


def test_folders_within_a_class_belong_to_it(tmp_path):
    found = scanned(tree(tmp_path, "cat/wild/lynx/1.jpg", "cat/2.jpg", "dog/cat/3.jpg"))
    assert found.ids == ("cat/2.jpg", "cat/wild/lynx/1.jpg", "dog/cat/3.jpg")
    assert found.labels() == ["cat", "cat", "dog"]


def test_hidden_files_and_folders_are_neither_images_nor_counted(tmp_path):
    found = scanned(
        tree(
            tmp_path, "cat/1.jpg", "cat/._1.jpg", "cat/.DS_Store", "cat/.thumbs/1.jpg",
            ".cache/x/1.jpg", ".DS_Store",
        )
    )  # fmt: skip
    assert (found.ids, found.names, found.others) == (("cat/1.jpg",), ("cat",), 0)


def test_other_files_are_counted(tmp_path):
    names = ("cat/1.jpg", "cat/notes.txt", "cat/deep/boxes.xml", "README.md", "loose.jpg")
    found = scanned(tree(tmp_path, *names))
    assert (found.ids, found.others) == (("cat/1.jpg",), 4)
    findings = ImageSet(found, "pets").findings
    assert findings == ("4 files are no images by their names or places",)


def test_empty_class_folders_are_classes_without_images(tmp_path):
    found = scanned(tree(tmp_path, "cat/1.jpg", "ant/", "owl/"))
    assert (found.names, found.ids) == (("ant", "cat", "owl"), ("cat/1.jpg",))
    held = ImageSet(found, "pets")
    assert held.findings == ("2 of the 3 classes have no image",)
    assert int(held[0].label) == 1


@pytest.mark.parametrize(
    ("splits", "asked", "taken"),
    [
        (("train", "val"), None, "val"),
        (("train", "valid", "test"), None, "valid"),
        (("train", "validation", "val"), None, "validation"),
        (("train", "test"), None, "test"),
        (("train", "val"), "train", "train"),
        (("train", "val"), "validation", "val"),
        (("train", "validation"), "val", "validation"),
        (("train", "extra", "val"), "extra", "extra"),
        (("val",), None, "val"),
    ],
)
def test_a_split_is_found_by_its_name(tmp_path, splits, asked, taken):
    tree(tmp_path, *(f"{split}/cat/{split}.jpg" for split in splits))
    assert scanned(tmp_path, asked).ids == (f"cat/{taken}.jpg",)


def test_training_images_are_read_only_if_they_are_asked_for(tmp_path):
    tree(tmp_path, "train/cat/1.jpg")
    with pytest.raises(UsageError, match=r"published_split: .* holds train; say which to read"):
        scanned(tmp_path)


def test_a_missing_split_is_named_with_those_there_are(tmp_path):
    tree(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg")
    with pytest.raises(UsageError, match="'tset' is unknown; known are train, val"):
        scanned(tmp_path, "tset")


def test_classes_may_be_called_like_splits(tmp_path):
    tree(tmp_path, "val/train/1.jpg", "val/test/2.jpg", "val/bus/3.jpg", "train/train/4.jpg")
    assert scanned(tmp_path).names == ("bus", "test", "train")
    assert scanned(tmp_path / "val").labels() == ["bus", "test", "train"]


@pytest.mark.parametrize("names", [("cat/",), ("cat/words.txt",), ("1.jpg", "cat/")])
def test_without_images_the_form_is_told(tmp_path, names):
    with pytest.raises(
        UsageError, match=r"no images in the folders of .*one folder per class.*jpg"
    ):
        scanned(tree(tmp_path, *names))


def test_links_are_followed(tmp_path):
    tree(tmp_path / "far", "1.jpg", "deep/2.jpg")
    tree(tmp_path / "here", "cat/3.jpg")
    (tmp_path / "here/dog").symlink_to(tmp_path / "far")
    (tmp_path / "here/cat/more").symlink_to(tmp_path / "far/deep")
    (tmp_path / "here/cat/4.jpg").symlink_to(tmp_path / "far/1.jpg")
    (tmp_path / "here/cat/gone.jpg").symlink_to(tmp_path / "nowhere")
    found = scanned(tmp_path / "here")
    assert found.ids == (
        "cat/3.jpg", "cat/4.jpg", "cat/gone.jpg", "cat/more/2.jpg", "dog/1.jpg", "dog/deep/2.jpg",
    )  # fmt: skip
    held = ImageSet(found, "pets")
    assert [held[k].left_out for k in range(6)] == [
        None, None, "cat/gone.jpg: No such file or directory", None, None, None,
    ]  # fmt: skip


def test_ids_survive_another_root_and_one_file_more(tmp_path):
    tree(tmp_path / "old", "cat/b.jpg", "dog/c.jpg")
    before = scanned(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert scanned(tmp_path / "new").ids == before.ids
    tree(tmp_path / "new", "cat/a.jpg")
    assert scanned(tmp_path / "new").ids == ("cat/a.jpg", *before.ids)


def test_a_folder_whose_name_begins_like_another_keeps_its_class(tmp_path):
    found = scanned(tree(tmp_path, "cat/1.jpg", "cat-big/1.jpg", "cat.d/1.jpg"))
    assert found.ids == ("cat-big/1.jpg", "cat.d/1.jpg", "cat/1.jpg")
    assert found.labels() == ["cat-big", "cat.d", "cat"]


def test_names_in_other_letters(tmp_path):
    found = scanned(tree(tmp_path, "kočka/ž 1.jpg", "猫/2.jpg"))
    assert found.ids == ("kočka/ž 1.jpg", "猫/2.jpg")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_no_record_could_hold_is_refused(tmp_path):
    tree(tmp_path, "cat/1.jpg")
    odd = os.fsencode(tmp_path / "cat") + b"/\xff.jpg"
    try:
        os.rename(os.fsencode(tmp_path / "cat/1.jpg"), odd)  # noqa: PTH104 - bytes
    except OSError:
        pytest.skip("the file system has none of them")
    with pytest.raises(UsageError, match="not in UTF-8"):
        scanned(tmp_path)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("cat/1.jpg",), True),
        (("cat/",), True),
        (("cat/1.jpg", "README.md"), True),
        (("train/cat/1.jpg",), True),
        (("1.jpg",), False),
        ((".cache/x.jpg", "README.md"), False),
        (("test.parquet", "cat/1.jpg"), False),
        (("data/test-00000-of-00001.parquet",), False),
        (("val-000.tar",), False),
        (("data-00000-of-00001.arrow", "state.json"), False),
        (("dataset_dict.json", "train/state.json"), False),
        (("train/data-00000-of-00001.arrow",), False),
        (("plain_text/test.parquet", "README.md"), False),
        (("train/0.parquet", "test/0.parquet"), False),
    ],
)
def test_folders_of_classes_are_told_from_those_of_tables(tmp_path, names, classes):
    assert holds_class_folders(tree(tmp_path, *names)) is classes


@pytest.mark.parametrize("split", ["validation", "val", "test"])
def test_a_folder_of_classes_is_whichever_split_is_asked_for(tmp_path, split):
    root = tree(tmp_path, "owl/1.jpg", "cat/a.png")
    assert scanned(root, split).ids == ("cat/a.png", "owl/1.jpg")
    with pytest.raises(UsageError, match=r"published_split.*'vall' is unknown"):
        scanned(root, "vall")
