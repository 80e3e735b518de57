"""Folders of images by class: which files are images, of which class, and by which names."""

import os

import pytest
from PIL import Image

from lit_cascade import UsageError
from lit_cascade.data.image_sources import FolderImages, holds_class_folders
from lit_cascade.data.images import ImageSet


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
