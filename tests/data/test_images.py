"""Labelled images: their classes by name, and those that are held back."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lit_cascade import UsageError
from lit_cascade.data import ImageData
from lit_cascade.data.images import ImageSet
from lit_cascade.data.splits import describe, has_split, shared_ids, shuffled, split_loader
from lit_cascade.records import Ids
from lit_cascade.utilities.class_names import class_list


def tree(root, counts):
    """A folder with so many small images in each of some class folders."""
    for name, n in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(n):
            Image.new("RGB", (3, 3), (k, 0, 0)).save(root / name / f"{k}.png")
    return root


def ready(source, **options):
    data = ImageData(str(source), **{"num_workers": 0, "batch_size": 4} | options)
    data.prepare_data()
    data.setup()
    return data


def held(data, split="validation"):
    loader = data.val_dataloader() if split == "validation" else data.calibration_dataloader()
    return loader.dataset


def labels(dataset):
    """Label of every image by its id, as the dataset gives them one by one."""
    ids = describe(dataset).ids
    return {one: dataset[k].label.tolist() for k, one in enumerate(ids)}


def by_name(dataset):
    """Class name of every image by its id."""
    names = describe(dataset).classes
    return {one: names[label] for one, label in labels(dataset).items()}


PETS = {"cat": 2, "dog": 1, "owl": 1}
TRUE = {"cat/0.png": "cat", "cat/1.png": "cat", "dog/0.png": "dog", "owl/0.png": "owl"}


def test_classes_are_the_folders_and_models_may_know_no_others(tmp_path):
    info = describe(held(ready(tree(tmp_path / "pets", PETS))))
    assert info.classes == ("cat", "dog", "owl")
    assert not info.restricts
    assert (info.source, info.findings, info.n) == ("pets", (), 4)


@pytest.mark.parametrize("how", ["folders", "list", "file"])
def test_classes_are_named_in_some_order(tmp_path, how):
    order = ["owl", "cat", "dog"]
    (tmp_path / "names.txt").write_text("\n owl\ncat \n\ndog\n")
    given = {"folders": "folders", "list": order, "file": str(tmp_path / "names.txt")}[how]
    dataset = held(ready(tree(tmp_path / "pets", PETS), classes=given))
    info = describe(dataset)
    assert info.classes == (("cat", "dog", "owl") if how == "folders" else tuple(order))
    assert info.restricts
    assert by_name(dataset) == TRUE


def test_classes_without_images_are_counted(tmp_path):
    dataset = held(
        ready(tree(tmp_path / "pets", PETS), classes=["ant", "owl", "dog", "bee", "cat"])
    )
    assert describe(dataset).findings == ("2 of the 5 classes have no image",)
    assert by_name(dataset) == TRUE


def test_classes_that_are_not_named_stop(tmp_path):
    with pytest.raises(
        UsageError, match=r"data.classes: 3 images are of 2 classes .*: cat, owl. .*leave_out"
    ):
        ready(tree(tmp_path / "pets", PETS), classes=["dog", "ant"])


def test_classes_that_are_not_named_can_be_left_out(tmp_path):
    data = ready(tree(tmp_path / "pets", PETS), classes=["dog", "ant"], unknown_classes="leave_out")
    info = describe(held(data))
    assert info.findings == (
        "3 images of 2 classes that are not asked for are left out: cat, owl",
        "1 of the 2 classes has no image",
    )
    assert by_name(held(data)) == {"dog/0.png": "dog"}
    assert info.ids == ("dog/0.png",)


def test_many_strange_classes_are_shortened(tmp_path):
    root = tree(tmp_path / "pets", dict.fromkeys(["ant", "bee", "cat", "dog", "emu"], 1))
    with pytest.raises(UsageError, match=r"4 images are of 4 classes .*: ant, bee, dog, \.\.\.\."):
        ready(root, classes=["cat", "eel"])


def test_synsets_are_counted_among_all_of_imagenet(tmp_path):
    whole = class_list("imagenet-1k", "classes")
    some = [whole[999], whole[0], whole[500]]
    dataset = held(ready(tree(tmp_path / "val", dict.fromkeys(some, 1)), classes="imagenet-1k"))
    assert sorted(labels(dataset).items()) == [
        (f"{name}/0.png", whole.index(name)) for name in sorted(some)
    ]
    assert describe(dataset).findings == ("997 of the 1,000 classes have no image",)


@pytest.mark.parametrize("which", ["imagenet-a", "imagenet-r"])
def test_synsets_of_a_part_are_counted_in_it(tmp_path, which):
    whole, part = class_list("imagenet-1k", "classes"), class_list(which, "classes")
    other = next(name for name in whole if name not in part)
    root = tree(tmp_path / "val", {part[199]: 1, part[7]: 1, other: 1})
    with pytest.raises(UsageError, match=f"1 image is of 1 class .*: {other}"):
        ready(root, classes=which)
    dataset = held(ready(root, classes=which, unknown_classes="leave_out"))
    assert labels(dataset) == {f"{part[199]}/0.png": 199, f"{part[7]}/0.png": 7}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("named", ["list", "imagenet-1k"])
def test_folders_that_are_whole_numbers_are_class_numbers(tmp_path, named, padded):
    numbers = [0, 2, 10, 100, 999]
    folders = {f"{n:03d}" if padded else str(n): n for n in numbers}
    assert padded or sorted(folders) != list(folders)  # as text they are in another order
    given = [f"thing {k}" for k in range(1000)] if named == "list" else named
    dataset = held(ready(tree(tmp_path / "v2", dict.fromkeys(folders, 1)), classes=given))
    assert labels(dataset) == {f"{name}/0.png": n for name, n in folders.items()}


def test_all_the_numbers_of_a_set_are_class_numbers(tmp_path):
    root = tree(tmp_path / "v2", {str(n): 1 for n in range(12)})
    names = [f"thing {k}" for k in range(12)]
    dataset = held(ready(root, classes=names))
    assert labels(dataset) == {f"{n}/0.png": n for n in range(12)}
    assert describe(dataset).findings == ()


def test_numbers_beyond_the_classes_are_strange(tmp_path):
    root = tree(tmp_path / "v2", {"1": 1, "3": 1})
    with pytest.raises(UsageError, match=r"1 image is of 1 class .*: 3\."):
        ready(root, classes=["a", "b", "c"])


def test_numbers_that_are_names_are_names(tmp_path):
    dataset = held(ready(tree(tmp_path / "v2", {"7": 1, "2": 1}), classes=["9", "7", "2"]))
    assert labels(dataset) == {"7/0.png": 1, "2/0.png": 2}


def test_what_is_no_whole_number_is_a_name(tmp_path):
    with pytest.raises(UsageError, match="2 images are of 2 classes"):
        ready(tree(tmp_path / "v2", {"²": 1, "1": 1}), classes=["a", "b", "c"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("unreadable", "skip", "data.unreadable: 'skip' is unknown; known are leave_out, stop"),
        ("unknown_classes", "drop", "data.unknown_classes: 'drop' is unknown"),
    ],
)
def test_settings_are_checked_when_they_are_given(option, value, says):
    with pytest.raises(UsageError, match=says):
        ImageData("nowhere", **{option: value})


def test_the_data_go_by_their_folder_or_by_the_users_name(tmp_path):
    root = tree(tmp_path / "pets", PETS)
    assert ready(root).name == "pets"
    assert ready(root, name="my pets").name == "my pets"


def test_ids_are_counted_in_the_split_that_was_asked_for(tmp_path):
    tree(tmp_path / "pets" / "val", PETS)
    assert describe(held(ready(tmp_path / "pets", published_split="val"))).source == "pets/val"
    assert describe(held(ready(tmp_path / "pets"))).source == "pets/val"  # as if it were named


def test_a_folder_of_the_users_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path / "pets", PETS)
    assert describe(held(ready("~/pets"))).source == "pets"


def test_workers_are_few_unless_they_are_given(tmp_path):
    root = tree(tmp_path / "pets", PETS)
    assert held(ready(root)) is not None
    assert ready(root, num_workers=1).val_dataloader().num_workers == 1
    assert 1 <= ready(root, num_workers=None).val_dataloader().num_workers <= 8


# calibration


MANY = {"cat": 20, "dog": 15, "owl": 5}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("many") / "pets", MANY)


def parts(source, **options):
    data = ready(source, **options)
    return [tuple(describe(held(data, split)).ids) for split in ("calibration", "validation")]


@pytest.mark.parametrize("size", [1, 7, 39])
@pytest.mark.parametrize("seed", [0, 1])
def test_both_parts_together_are_everything_and_share_nothing(many, size, seed):
    calibration, validation = parts(many, calibration_size=size, seed=seed)
    assert len(calibration) == size
    assert not set(calibration) & set(validation)
    assert sorted(calibration + validation) == list(describe(held(ready(many))).ids)
    assert list(calibration) == sorted(calibration)
    assert list(validation) == sorted(validation)
    data = ready(many, calibration_size=size, seed=seed)
    assert shared_ids(data, "calibration", "validation") == []
    assert by_name(held(data, "calibration")) == {one: one.split("/")[0] for one in calibration}


def test_the_drawing_is_decided_by_the_seed_alone(many):
    drawn = [parts(many, calibration_size=12, seed=seed)[0] for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({drawn[0], drawn[2], drawn[3]}) == 3


def test_the_drawing_takes_of_all_classes_by_chance(many):
    counts = [0, 0, 0]
    for seed in range(60):
        for one in parts(many, calibration_size=8, seed=seed)[0]:
            counts[list(MANY).index(one.split("/")[0])] += 1
    for n, found in zip(MANY.values(), counts, strict=True):
        expected = 60 * 8 * n / 40
        assert abs(found - expected) < 4 * math.sqrt(expected)


@pytest.mark.parametrize("kind", [str, int])
@pytest.mark.parametrize("seed", range(5))
def test_one_image_more_or_less_moves_one_other_at_most(kind, seed):
    n, size = 200, 50
    names = [f"cat/{k}.jpg" if kind is str else 3 * k for k in range(n)]

    def side(listed):
        ids = Ids.of(listed, len(listed))
        return {listed[k] for k in shuffled(ids, seed)[:size]}

    whole = side(names)
    for gone in (0, 17, 99, 199):
        fewer = side([name for name in names if name != names[gone]])
        assert len((fewer ^ whole) - {names[gone]}) <= 1
        if names[gone] not in whole:
            assert fewer == whole


@pytest.mark.parametrize("size", [40, 41, -1, 1.5, float("nan")])
def test_a_calibration_split_of_all_or_less_than_none_is_refused(many, size):
    expected = "less than the 40 images" if size >= 40 else "a number of samples, or a share"
    with pytest.raises(
        UsageError, match=f"data.calibration_size: expected {expected}.*, got {size}"
    ):
        ready(many, calibration_size=size)


def test_without_a_calibration_split_there_is_none(many):
    data = ready(many)
    assert has_split(data, "validation")
    assert not has_split(data, "calibration")
    assert has_split(ready(many, calibration_size=1), "calibration")
    with pytest.raises(UsageError, match=r"no split 'calibration'.*Hold some images back"):
        data.calibration_dataloader()


def test_images_that_are_left_out_are_not_drawn(many):
    options = {"classes": ["cat", "owl"], "unknown_classes": "leave_out", "calibration_size": 10}
    data = ready(many, **options)
    calibration, validation = (
        describe(held(data, split)) for split in ("calibration", "validation")
    )
    assert (calibration.n, validation.n) == (10, 15)
    assert not any(one.startswith("dog") for one in [*calibration.ids, *validation.ids])
    assert calibration.findings == validation.findings
    assert calibration.classes == ("cat", "owl")


# training


def drawn(data):
    return {split: tuple(describe(split_loader(data, split).dataset).ids) for split in data.splits}


def test_a_single_set_is_divided(many):
    held = {"validation_size": 0.2, "calibration_size": 0.25, "development_size": 3}
    parts = drawn(ready(many, **held))
    assert {split: len(ids) for split, ids in parts.items()} == {
        "train": 19, "calibration": 10, "development": 3, "validation": 8,
    }  # fmt: skip
    everything = describe(held_of(many)).ids
    assert sorted(one for ids in parts.values() for one in ids) == list(everything)
    for fewer in ({"development_size": 0}, {"calibration_size": 1}):
        # what is reported on does not depend on what else is held back
        assert drawn(ready(many, **held | fewer))["validation"] == parts["validation"]
    data = ready(many, **held)
    for one, other in itertools.combinations(data.splits, 2):
        assert shared_ids(data, one, other) == []
    assert drawn(ready(many, **held, seed=1)) != parts
    with pytest.raises(UsageError, match=r"data.validation_size, data.calibration_size: expected"):
        ready(many, validation_size=0.5, calibration_size=0.5)


def held_of(source):
    return held(ready(source))


def test_a_single_set_is_reported_on_unless_a_part_is_named(many):
    assert ready(many).splits == ("validation",)
    assert ready(many, calibration_size=2).splits == ("calibration", "validation")
    with pytest.raises(UsageError, match=r"has no train set; expected validation, or data.valid"):
        ready(many, calibration_size=2, held_back_from="train")


@pytest.mark.parametrize("source", ["train", "validation"])
def test_of_two_splits_one_is_trained_on(tmp_path, source):
    tree(tmp_path / "train", {"cat": 6, "dog": 5})
    tree(tmp_path / "val", {"dog": 4, "emu": 4})
    data = ready(
        tmp_path, calibration_size=2, development_size=1, held_back_from=source, validation_size=0.5
    )
    parts = drawn(data)
    sizes = {"train": 11, "calibration": 2, "development": 1, "validation": 8}
    sizes[source] -= 3
    assert {split: len(ids) for split, ids in parts.items()} == sizes
    held_from = [one for split in (source, "calibration", "development") for one in parts[split]]
    assert len(set(held_from)) == {"train": 11, "validation": 8}[source]
    for split in parts:  # the classes of all, so that labels mean the same
        dataset = split_loader(data, split).dataset
        assert describe(dataset).classes == ("cat", "dog", "emu")
        assert by_name(dataset) == {one: one.split("/")[0] for one in parts[split]}
    sources = {split: describe(split_loader(data, split).dataset).source for split in parts}
    assert sources["calibration"] == sources[source]
    assert sources["train"] != sources["validation"]
    assert shared_ids(data, "train", "validation") == []


def test_a_set_that_is_reported_on_is_not_trained_on(tmp_path):
    tree(tmp_path / "train", {"cat": 6, "dog": 5})
    data = ready(tmp_path, validation_size=0.3)
    assert {split: len(ids) for split, ids in drawn(data).items()} == {"train": 8, "validation": 3}
    with pytest.raises(
        UsageError, match=r"holds train; say which .*data.init_args.validation_size"
    ):
        ready(tmp_path)
    tree(tmp_path / "val", {"cat": 1, "dog": 1})
    assert ready(tmp_path, published_split="train").splits == ("validation",)
    assert ready(tmp_path, published_split="val").splits == ("train", "validation")
    assert ready(tmp_path / "train", published_split="val").splits == ("validation",)


def test_training_images_are_cropped_and_mirrored_at_random(tmp_path):
    folder = tree(tmp_path / "pets", {"cat": 3, "dog": 3}) / "cat"
    colours = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(colours).save(folder / "0.png")

    def images(**options):
        dataset = ready(tmp_path / "pets", validation_size=1, **options).dataset("train")
        return dataset, describe(dataset).ids.tolist().index("cat/0.png")

    dataset, at = images()
    assert np.array_equal(np.asarray(dataset[at].input), colours), "as it is when it is judged"
    torch.manual_seed(0)
    seen = [dataset.augmented(at).input for _ in range(40)]
    assert len({image.size for image in seen}) > 20
    whole = {colours.tobytes()[i : i + 3] for i in range(0, colours.size, 3)}
    assert all(
        bytes(pixel) in whole for image in seen[:5] for row in np.asarray(image) for pixel in row
    )
    torch.manual_seed(0)
    again = [dataset.augmented(at).input for _ in range(40)]
    assert all(one.tobytes() == other.tobytes() for one, other in zip(seen, again, strict=True))
    dataset, at = images(augment=False)
    assert np.array_equal(np.asarray(dataset.augmented(at).input), colours)
    dataset, at = images(size=16)
    assert dataset[at].input.shape == dataset.augmented(at).input.shape == (3, 16, 16)
    assert dataset[at].input.dtype == torch.uint8
    assert torch.equal(dataset[at].input, dataset[at].input)
    assert len({dataset.augmented(at).input.numpy().tobytes() for _ in range(9)}) == 9
    with pytest.raises(UsageError, match=r"data.size: expected 1 or more pixels, got 0"):
        ImageData("nowhere", size=0)


def test_setting_up_twice_reads_once(many):
    data = ready(many)
    before = held(data)
    data.setup("validate")
    assert held(data) is before
    assert isinstance(before, ImageSet)
