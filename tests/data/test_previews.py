"""Inputs as a reader may see them."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lit_cascade.data import DigitsData, previews
from lit_cascade.data.previews import preview
from lit_cascade.errors import UsageError


def picture(shown):
    kind, _, content = shown["image"].partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_small_arrays_are_enlarged_pixel_by_pixel():
    values = torch.arange(64.0).reshape(1, 8, 8)
    kind, image = picture(preview(values))
    assert (kind, image.size) == ("data:image/png", (96, 96))
    levels = np.asarray(image)
    for row in range(8):
        for column in range(8):
            block = levels[12 * row : 12 * row + 12, 12 * column : 12 * column + 12]
            assert (block == round(255 * (8 * row + column) / 63)).all()


@pytest.mark.parametrize("shape", [(5, 5), (1, 5, 5), (3, 5, 5)])
def test_equal_values_are_an_image_too(shape):
    assert np.asarray(picture(preview(torch.ones(shape)))[1]).max() == 0


@pytest.mark.parametrize(
    "value", [torch.ones(4), torch.ones(2, 4, 4), torch.full((2, 2), torch.nan), 7, (), None]
)
def test_what_is_neither_text_nor_image_is_not_shown(value):
    assert preview(value) is None


def test_photographs_become_thumbnails():
    kind, image = picture(preview(Image.new("L", (400, 200), 9)))
    assert (kind, image.size) == ("data:image/jpeg", (96, 48))
    assert np.abs(np.asarray(image).astype(int) - 9).max() <= 2


def test_texts_are_one_line_and_cut():
    assert preview("a\nb") == preview(["a\nb"])
    assert "\n" not in preview("a\nb")["text"]
    assert len(preview("x" * 601)["text"]) == 600
    assert preview("x" * 600)["text"] == "x" * 600


def test_samples_are_those_of_the_ids():
    data = DigitsData()
    data.setup("validate")
    dataset = data.val_dataloader().dataset
    ids = dataset.ids.tolist() if hasattr(dataset.ids, "tolist") else list(dataset.ids)
    found = previews(data, "validation", [ids[7], ids[2]])
    assert found == {str(ids[k]): preview(dataset[k][0]) for k in (7, 2)}
    with pytest.raises(UsageError, match="'nothing' is unknown"):
        previews(data, "nothing", [])
