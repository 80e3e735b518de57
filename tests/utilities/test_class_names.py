"""Lists of class names, and finding a model's logits among them."""

import pkgutil

import pytest
import torch

from lit_cascade import CascadeError, UsageError
from lit_cascade.utilities.class_names import CLASS_LISTS, class_list, columns_of

SIZES = {
    "imagenet-1k": 1000,
    "imagenet-a": 200,
    "imagenet-r": 200,
    "imagenet-12k": 11821,
    "imagenet-22k": 21841,
    "imagenet-22k-ms": 21842,
    "imagenet-21k-goog": 21843,
    "imagenet-21k-miil": 11221,
}


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_every_list_has_the_size_of_its_heads(name):
    names = class_list(name, "classes")
    assert len(names) == len(set(names)) == SIZES[name]
    assert class_list(name, "classes") is names  # read once


def test_the_order_is_that_of_imagenet():
    names = class_list("imagenet-1k", "classes")
    assert (names[0], names[207], names[999]) == ("n01440764", "n02099601", "n15075141")
    assert list(names) == sorted(names)


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_the_parts_are_where_timm_says_they_are_in_the_whole(name):
    whole, part = class_list("imagenet-1k", "classes"), class_list(name, "classes")
    content = pkgutil.get_data("timm.data", f"_info/{name.replace('-', '_')}_indices.txt")
    places = [int(line) for line in content.decode().split()]
    assert [whole[place] for place in places] == list(part)
    columns = columns_of(whole, part, "a model", "the data", fewer=True)
    assert columns.tolist() == places


def test_names_may_be_given_or_stand_in_a_file(tmp_path):
    assert class_list(["b", "a"], "classes") == ("b", "a")
    assert class_list([1, 2], "classes") == ("1", "2")
    (tmp_path / "names.txt").write_text("b\n\n a \nžlutý kůň\n", encoding="utf-8")
    assert class_list(str(tmp_path / "names.txt"), "classes") == ("b", "a", "žlutý kůň")


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("imagenet", "data.classes: 'imagenet' is neither a file .* nor one of imagenet-1k, image"),
        (["a", "b", "a"], "data.classes: expected two or more distinct class names, got 'a' twice"),
        (["a"], "data.classes: expected two or more distinct class names, got 1"),
        ([], "expected two or more distinct class names, got 0"),
    ],
)
def test_what_is_no_list_of_classes(classes, says):
    with pytest.raises(UsageError, match=says):
        class_list(classes, "data.classes")


@pytest.mark.parametrize("known", [["c", "a", "b"], ["x", "b", "c", "y", "a"]])
def test_columns_bring_logits_into_the_wanted_order(known):
    wanted = ["a", "b", "c"]
    logits = torch.randn(4, len(known))
    columns = columns_of(known, wanted, "one", "the other", fewer=True)
    for place, name in enumerate(wanted):
        assert torch.equal(logits[:, columns][:, place], logits[:, known.index(name)])


def test_equal_lists_need_no_columns():
    assert columns_of(["a", "b"], ("a", "b"), "one", "the other") is None


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize(
    ("known", "wanted", "says"),
    [
        (["a", "b"], ["a", "c", "d"], "the other has 3 .a, c, d., one has 2 .* lacks 2 .* 'c'"),
        (["a", "b", "a"], ["b", "a"], "has 'a' more than once"),
        (["a", "b", "c"], ["b", "a"], "has 1 others, first 'c'; where .* data.init_args.classes"),
    ],
)
def test_lists_that_cannot_be_aligned(known, wanted, says, fewer):
    if fewer and "others" in says:
        assert columns_of(known, wanted, "one", "the other", fewer=True).tolist() == [1, 0]
        return
    with pytest.raises(CascadeError, match=f"one and the other cannot be aligned: .*{says}"):
        columns_of(known, wanted, "one", "the other", fewer=fewer)


def test_a_name_that_is_there_twice_and_not_wanted_does_no_harm():
    assert columns_of(["x", "a", "x", "b"], ["b", "a"], "m", "d", fewer=True).tolist() == [3, 1]
