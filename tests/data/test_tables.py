"""Images in tables: Parquet files, what `datasets` saves, tar shards, the hub."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as Images
from PIL import Image

from lit_cascade import UsageError
from lit_cascade.data.images import ImageSet, RowImages
from lit_cascade.data.splits import describe
from lit_cascade.data.tables import load_table
from tests.data.test_images import by_name, held, labels, ready

REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(k):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(k).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def table(given, kind=None, images=None, **columns):
    """Rows with an image each and some labels."""
    images = (
        [{"bytes": png(k), "path": None} for k in range(len(given))] if images is None else images
    )
    kind = ClassLabel(names=NAMES) if kind is None else kind
    features = Features(
        {"image": Images(), "label": kind} | {name: column[0] for name, column in columns.items()}
    )
    values = {"image": images, "label": given} | {
        name: column[1] for name, column in columns.items()
    }
    return Dataset.from_dict(values, features=features)


def parquet(path, *rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (rows[0] if rows else table(**options)).to_parquet(str(path))
    return path


def shard(path, members):
    """A tar file of members by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def shown(dataset):
    """Pixels of every image."""
    return [np.asarray(dataset[k].input).tolist() for k in range(len(dataset))]


EXPECTED = [np.asarray(Image.open(io.BytesIO(png(k)))).tolist() for k in range(4)]


def place(tmp_path, how):
    """The same four images in one of the forms that are read; the source to give."""
    rows, root = table([2, 0, 1, 0]), tmp_path / "pets"
    if how == "file":
        return parquet(root / "whatever.parquet", rows)
    if how == "folder":
        parquet(root / "test.parquet", rows)
    if how == "folders":
        parquet(root / "test" / "0.parquet", rows)
        parquet(root / "train" / "0.parquet", table([0]))
    if how == "data":
        parquet(root / "data" / "validation-00000-of-00001.parquet", rows)
        parquet(root / "data" / "train-00000-of-00001.parquet", table([0]))
    if how == "wildcard":
        parquet(root / "a-0.parquet", rows.select(range(3)))
        parquet(root / "a-1.parquet", rows.select([3]))
        parquet(root / "b-0.parquet", table([0]))
        return root / "a-*.parquet"
    if how == "saved":
        rows.save_to_disk(str(root))
    if how == "splits saved":
        DatasetDict(train=table([0]), test=rows).save_to_disk(str(root))
    return root


PLACES = ("file", "folder", "folders", "data", "wildcard", "saved", "splits saved")


@pytest.mark.parametrize("how", PLACES)
def test_images_and_labels_are_those_of_the_rows(tmp_path, how):
    dataset = held(ready(place(tmp_path, how)))
    assert shown(dataset) == EXPECTED
    assert labels(dataset) == {0: 2, 1: 0, 2: 1, 3: 0}
    info = describe(dataset)
    assert info.classes == tuple(NAMES)
    assert info.ids.tolist() == [0, 1, 2, 3]
    assert info.findings == ()
    assert not info.restricts


@pytest.mark.parametrize("how", ["data", "splits saved"])
def test_a_split_is_read_by_its_name(tmp_path, how):
    data = ready(place(tmp_path, how), published_split="train")
    assert labels(held(data)) == {0: 0}
    assert describe(held(data)).source == "pets/train"


@pytest.mark.parametrize("how", ["data", "splits saved"])
def test_a_missing_split_is_named_with_those_there_are(tmp_path, how):
    with pytest.raises(UsageError, match=r"'tets' is unknown; known are .*train"):
        ready(place(tmp_path, how), published_split="tets")


def test_tables_of_a_train_set_are_trained_on(tmp_path):
    data = ready(place(tmp_path, "data"), calibration_size=1)
    assert data.splits == ("train", "calibration", "validation")
    assert [len(data.dataset(split)) for split in data.splits] == [1, 1, 3]
    assert describe(data.dataset("train")).source == "pets/train"
    assert ready(place(tmp_path, "file"), validation_size=0.5).splits == ("train", "validation")


def test_the_only_split_is_read_whatever_its_name(tmp_path):
    parquet(tmp_path / "pets/train.parquet", given=[1])
    assert labels(held(ready(tmp_path / "pets"))) == {0: 1}


# classes of tables


def test_names_are_found_in_another_order(tmp_path):
    source = place(tmp_path, "file")
    dataset = held(ready(source, classes=["owl", "emu", "dog", "cat"]))
    assert labels(dataset) == {0: 0, 1: 3, 2: 2, 3: 3}
    assert by_name(dataset) == {0: "owl", 1: "cat", 2: "dog", 3: "cat"}
    assert describe(dataset).findings == ("1 of the 4 classes has no image",)


def test_as_many_other_names_are_the_same_classes(tmp_path):
    dataset = held(ready(place(tmp_path, "file"), classes=["n1", "n2", "n3"]))
    assert by_name(dataset) == {0: "n3", 1: "n1", 2: "n2", 3: "n1"}


@pytest.mark.parametrize("names", [["n1", "n2"], ["n1", "n2", "n3", "n4"]])
def test_other_names_in_another_number_are_refused(tmp_path, names):
    with pytest.raises(
        UsageError,
        match=rf"the data has 3 classes \(cat, dog, owl, ...\), of which none is .* {len(names)}",
    ):
        ready(place(tmp_path, "file"), classes=names)


@pytest.mark.parametrize("given", [None, "folders"])
def test_the_classes_of_a_table_are_its_own(tmp_path, given):
    info = describe(held(ready(place(tmp_path, "file"), classes=given)))
    assert (info.classes, info.restricts) == (tuple(NAMES), given == "folders")


def test_some_of_the_names(tmp_path):
    source = place(tmp_path, "file")
    with pytest.raises(UsageError, match="2 images are of 2 classes"):
        ready(source, classes=["cat", "emu"])
    dataset = held(ready(source, classes=["emu", "cat"], unknown_classes="leave_out"))
    assert labels(dataset) == {1: 1, 3: 1}
    assert shown(dataset) == [EXPECTED[1], EXPECTED[3]]


def test_bare_numbers_name_no_classes(tmp_path):
    source = parquet(tmp_path / "p.parquet", given=[2, 0, 1], kind=Value("int64"))
    dataset = held(ready(source))
    assert labels(dataset) == {0: 2, 1: 0, 2: 1}
    assert describe(dataset).classes is None
    dataset = held(ready(source, classes=["x", "y", "z"]))
    assert by_name(dataset) == {0: "z", 1: "x", 2: "y"}


@pytest.mark.parametrize("kind", [Value("int64"), None])
def test_numbers_below_none_mark_a_set_without_labels(tmp_path, kind):
    source = parquet(tmp_path / "p.parquet", given=[1, -1, 0], kind=kind)
    with pytest.raises(UsageError, match=r"1 image is of 1 class .*: -1\."):
        ready(source)
    assert labels(held(ready(source, unknown_classes="leave_out"))) == {0: 1, 2: 0}


@pytest.mark.parametrize("kind", [Value("int64"), Value("string"), None])
def test_rows_without_a_label_are_strange(tmp_path, kind):
    given = ["dog", None, "cat"] if kind == Value("string") else [1, None, 0]
    source = parquet(tmp_path / "p.parquet", given=given, kind=kind)
    with pytest.raises(UsageError, match=r"1 image is of 1 class .*: None\."):
        ready(source)
    assert labels(held(ready(source, unknown_classes="leave_out"))) == {0: 1, 2: 0}


def test_numbers_beyond_the_classes_are_strange(tmp_path):
    source = parquet(tmp_path / "p.parquet", given=[1, 2, 0], kind=Value("int64"))
    with pytest.raises(UsageError, match=r"1 image is of 1 class .*: 2\."):
        ready(source, classes=["x", "y"])


@pytest.mark.parametrize("given", [None, "folders", ["owl", "dog", "emu", "cat"]])
def test_names_in_the_rows_are_classes(tmp_path, given):
    source = parquet(
        tmp_path / "p.parquet", given=["owl", "cat", "owl", "dog"], kind=Value("string")
    )
    dataset = held(ready(source, classes=given))
    assert by_name(dataset) == {0: "owl", 1: "cat", 2: "owl", 3: "dog"}
    assert describe(dataset).classes == tuple(given if isinstance(given, list) else NAMES)


def test_names_in_the_rows_have_no_order_to_go_by(tmp_path):
    source = parquet(tmp_path / "p.parquet", given=["owl", "cat"], kind=Value("string"))
    with pytest.raises(UsageError, match="2 images are of 2 classes"):
        ready(source, classes=["n1", "n2"])


# columns


IMAGE = (Images(), [{"bytes": png(9), "path": None}, {"bytes": b"broken", "path": None}])


def test_of_two_columns_of_images_the_user_chooses(tmp_path):
    source = parquet(tmp_path / "p.parquet", given=[1, 0], mask=IMAGE)
    with pytest.raises(
        UsageError,
        match=r"data.image_column: of the columns image, label, mask image, mask could be it",
    ):
        ready(source)
    dataset = held(ready(source, image_column="image"))
    assert shown(dataset) == EXPECTED[:2]  # nothing of the other column is read
    assert held(ready(source, image_column="mask"))[1].left_out == "row 1: not an image"


def test_of_two_columns_of_classes_the_one_with_a_usual_name(tmp_path):
    coarse = (ClassLabel(names=["pet", "wild"]), [0, 1])
    rows = table([1, 2], coarse_label=coarse).rename_column("label", "fine_label")
    source = parquet(tmp_path / "p.parquet", rows)
    assert by_name(held(ready(source))) == {0: "dog", 1: "owl"}
    assert by_name(held(ready(source, label_column="coarse_label"))) == {0: "pet", 1: "wild"}


def test_the_only_column_of_classes_whatever_its_name(tmp_path):
    rows = table([1, 2], label2=(Value("int64"), [7, 8])).rename_columns(
        {"label": "kind", "label2": "label"}
    )
    assert by_name(held(ready(parquet(tmp_path / "p.parquet", rows)))) == {0: "dog", 1: "owl"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, r"data.label_column: of the columns image, x none seems to hold labels; name the one"),
        ({"label_column": "y"}, r"data.label_column: 'y' is unknown; known are image, x"),
        ({"image_column": "y"}, r"data.image_column: 'y' is unknown; known are image, x"),
        ({"image_column": "x", "label_column": "x"}, r"data.image_column: 'x' holds no images"),
        ({"label_column": "image"}, r"data.label_column: 'image' holds no class per image"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path, options, says):
    rows = table([1, 2], kind=Value("int64")).rename_column("label", "x")
    with pytest.raises(UsageError, match=says):
        ready(parquet(tmp_path / "p.parquet", rows), **options)
    assert labels(held(ready(tmp_path / "p.parquet", label_column="x"))) == {0: 1, 1: 2}


def test_lists_of_labels_are_no_class_per_image(tmp_path):
    rows = table([[1, 2], [0]], kind=datasets.List(Value("int64")))
    with pytest.raises(UsageError, match=r"'label' holds no class per image: \[1, 2\]"):
        ready(parquet(tmp_path / "p.parquet", rows))


def test_a_table_without_images(tmp_path):
    rows = Dataset.from_dict({"text": ["a"], "label": [0]})
    with pytest.raises(UsageError, match="of the columns text, label none seems to hold images"):
        ready(parquet(tmp_path / "p.parquet", rows))


# images in rows


def test_images_may_be_paths(tmp_path):
    for k in range(2):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    images = [{"bytes": None, "path": str(tmp_path / f"{k}.png")} for k in (1, 0, 5)]
    dataset = ImageSet(RowImages.of(table([2, 0, 1], images=images), None, None), "pets")
    assert shown(dataset)[:2] == [EXPECTED[1], EXPECTED[0]]
    assert dataset[2].left_out == f"{tmp_path / '5.png'}: No such file or directory"


def test_rows_without_an_image_or_with_a_broken_one_are_left_out(tmp_path):
    images = [
        {"bytes": png(0), "path": "a.png"}, None, {"bytes": b"word", "path": "c.png"},
        {"bytes": b"word", "path": None},
    ]  # fmt: skip
    source = parquet(tmp_path / "p.parquet", given=[0, 1, 2, 1], images=images)
    dataset = held(ready(source))
    assert [dataset[k].left_out for k in range(4)] == [
        None, "row 1: no image", "c.png: not an image", "row 3: not an image",
    ]  # fmt: skip
    assert [dataset[k].stop for k in range(4)] == [False] * 4
    dataset = held(ready(source, unreadable="stop"))
    assert [dataset[k].stop for k in range(4)] == [False, True, True, True]


def test_rows_are_named_by_their_place_in_the_table(tmp_path):
    images = [{"bytes": png(0), "path": None}, None]
    source = parquet(tmp_path / "p.parquet", given=[2, 1], images=images)
    dataset = held(ready(source, classes=["dog", "cat"], unknown_classes="leave_out"))
    assert describe(dataset).ids.tolist() == [1]
    assert dataset[0].left_out == "row 1: no image"


def members(*keys):
    found = {}
    for k, key in enumerate(keys):
        found |= {f"{key}.png": png(k), f"{key}.cls": str(2 - k).encode(), f"{key}.txt": b"a word"}
    return found


@pytest.mark.parametrize("how", ["folder", "file", "wildcard"])
def test_tar_shards_go_by_their_keys(tmp_path, how):
    shard(tmp_path / "pets/val-0.tar", members("b/01", "a/02"))
    shard(tmp_path / "pets/val-1.tar", members("03"))
    source = {"folder": "pets", "file": "pets/val-0.tar", "wildcard": "pets/val-*.tar"}[how]
    dataset = held(ready(tmp_path / source))
    keys = ["b/01", "a/02"] + ["03"] * (how != "file")
    assert describe(dataset).ids == tuple(keys)
    assert labels(dataset) == dict(zip(keys, [2, 1, 2], strict=False))
    assert shown(dataset)[:2] == EXPECTED[:2]


def test_keys_that_repeat_tell_nothing_apart(tmp_path):
    for k in range(2):
        shard(tmp_path / f"pets/val-{k}.tar", members("01", "02"))
    assert describe(held(ready(tmp_path / "pets"))).ids.tolist() == [0, 1, 2, 3]


# what cannot be had


def damaged(tmp_path, name):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / name).write_bytes(b"neither table nor archive")
    return tmp_path / "pets"


@pytest.mark.parametrize("name", ["test.parquet", "test.tar", "test.arrow"])
def test_damaged_files_are_a_usage_error(tmp_path, name):
    source = damaged(tmp_path, name)
    for where in (source, source / name):
        with pytest.raises(
            UsageError, match="neither a folder of images by class, nor Parquet"
        ) as e:
            ready(where)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "source", ["nobody/nothing", "nothing-at-all", "nowhere/*.parquet", "a/b/c/d"]
)
@pytest.mark.parametrize("split", [None, "test"])
def test_without_a_network_there_is_one_error(tmp_path, monkeypatch, source, split):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=f"data.source: '{source.replace('*', '.')}' is neither"
    ) as e:
        ready(source, published_split=split)
    assert "\n" not in str(e.value)


def test_an_empty_folder_is_a_usage_error(tmp_path):
    (tmp_path / "pets").mkdir()
    with pytest.raises(UsageError, match=r"data.source: .* is neither"):
        ready(tmp_path / "pets")


@pytest.mark.skipif(
    not (REAL / "test.parquet").is_file(), reason="the CIFAR-10 files are not there"
)
def test_the_real_images_are_read():
    from torchvision.transforms.functional import to_pil_image

    from lit_cascade.data.cifar import _decoded

    rows = load_table(str(REAL / "test.parquet"), None)
    found = RowImages.of(rows, None, None)
    assert (len(found), found.image, found.label_column) == (10_000, "img", "label")
    assert found.names[:3] == ("airplane", "automobile", "bird")
    images, told, _ = _decoded(rows.select(range(50)), "real")
    dataset = held(ready(REAL / "test.parquet", classes=list(found.names[::-1])))
    for k in range(50):
        assert np.array_equal(np.asarray(dataset[k].input), np.asarray(to_pil_image(images[k])))
        assert int(dataset[k].label) == 9 - int(told[k])
    assert not any(dataset[k].remarks for k in range(50))


@pytest.mark.parametrize("split", ["validation", None])
def test_of_the_hub_only_the_files_of_the_split_are_fetched(tmp_path, monkeypatch, split):
    snapshot = tmp_path / "snapshot"
    (snapshot / "data").mkdir(parents=True)
    parquet(snapshot / "data/validation-00000-of-00001.parquet", given=[0, 1, 2, 0])
    asked = []

    def fetched(name, *, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda name: ["train", "validation"])
    dataset = held(ready("owner/pets", published_split=split))
    assert asked == [("owner/pets", "dataset", ["*validation*"])]
    assert len(dataset) == 4
    assert describe(dataset).source == "owner/pets/validation"


def test_of_a_set_whose_files_do_not_tell_splits_all_is_loaded(tmp_path, monkeypatch):
    place = parquet(tmp_path / "p.parquet", given=[0, 1, 2, 0])
    whole = datasets.load_dataset("parquet", data_files=str(place), split="train")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "x"))
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: {"test": whole}[split])
    assert len(held(ready("owner/pets", published_split="test"))) == 4


def test_without_a_network_the_cache_of_datasets_serves(monkeypatch):
    rows = table([0, 1])
    loads = []

    def cached(source, split):
        loads.append((source, split))
        return rows

    monkeypatch.setattr("datasets.load_dataset", cached)
    assert load_table("owner/never-fetched", "test") is rows
    assert loads == [("owner/never-fetched", "test")]
