"""What requests may hold, and what is said to those that hold something else."""

import base64
import io
import json
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_cascade.errors import UsageError
from lit_cascade.serve.inputs import (
    ArrayInput,
    ImageInput,
    Query,
    RequestError,
    TextInput,
    media_types,
    parse_request,
)
from lit_cascade.serve.serving import inputs_for

JSON = "application/json"
BOUNDARY = "multipart/form-data; boundary=xyz"
KINDS = {
    "image": ImageInput(),
    "text": TextInput(),
    "pair": TextInput(pair=True),
    "array": ArrayInput(torch.zeros(2, 3)),
    "bytes": ArrayInput(torch.zeros(2, dtype=torch.uint8)),
    "named": ArrayInput({"x": torch.zeros(2), "ids": torch.zeros(1, dtype=torch.int64)}),
    "several": ArrayInput((torch.zeros(2), torch.zeros(1, 1))),
}


def image(mode="RGB", size=(7, 5), kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def parse(kind, value, content_type=JSON, top=None):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_request(KINDS.get(kind, kind), content_type, body, top)


def refused(*arguments, **options):
    with pytest.raises(RequestError) as raised:
        parse(*arguments, **options)
    return raised.value.status, str(raised.value)


def in_form(content, name="image"):
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    other = b'--xyz\r\nContent-Disposition: form-data; name="note"\r\n\r\n--xyzzy\r\n'
    return other + head.encode() + content + b"\r\n--xyz--\r\n"


def test_an_image_comes_in_base64_as_the_body_or_in_a_form():
    content = image()
    text = base64.b64encode(content).decode()
    ways = [
        parse("image", {"image": text, "top_k": 3}),
        parse("image", {"image": f"data:image/png;base64,{text}", "top_k": 3}),
        parse("image", content, "image/png", "3"),
        parse("image", content, "application/octet-stream", "3"),
        parse("image", in_form(content), BOUNDARY, "3"),
        parse("image", in_form(content), 'Multipart/Form-Data; boundary="xyz"', "3"),
    ]
    assert ways == [Query(content, 3)] * len(ways)
    assert KINDS["image"].raw(content).size == (7, 5)


def test_bytes_of_an_image_that_look_like_the_boundary_stay():
    content = image() + b"\r\n--xy\r\n\r\n--\r\n"
    assert parse("image", in_form(content), BOUNDARY).input == content


def test_an_image_has_a_limit_of_pixels_that_is_checked_before_it_is_decoded():
    small, small_png = ImageInput(max_pixels=100), image()
    assert parse(small, image(size=(10, 10)), "image/png").input
    status, said = refused(small, image(size=(101, 1)), "image/png")
    assert (status, said) == (413, "image: at most 100 pixels, got 101 x 1.")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + small_png[24:29]
    bomb = small_png[:12] + header + struct.pack(">I", zlib.crc32(header)) + small_png[33:]
    status, said = refused("image", bomb, "image/png")
    assert status == 413
    assert said.startswith("image: at most 50,000,000 pixels: Image size (3600000000 pixels)")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_images_are_refused_at_once_or_when_they_are_decoded(kind):
    content = image("RGB", (40, 30), kind)
    for end in range(0, len(content), max(1, len(content) // 40)):
        with suppress(RequestError):  # and nothing else; some damage does not show
            KINDS["image"].raw(parse("image", content[:end], "image/png").input)
    assert refused("image", content[:6], "image/png")[0] == 422
    with pytest.raises(RequestError, match=r"^image: it ") as raised:
        KINDS["image"].raw(parse("image", content[: len(content) * 3 // 4], "image/png").input)
    assert raised.value.status == 422


def test_images_are_resized_as_image_data_does_it():
    raw = ImageInput(size=6).raw(image(size=(12, 24)))
    assert (raw.shape, raw.dtype) == ((3, 6, 6), torch.uint8)


def test_texts_and_pairs():
    assert parse("text", {"text": "a b"}) == Query("a b")
    assert parse("text", "é".encode(), "text/plain; charset=utf-8", "2") == Query("é", 2)
    assert parse("pair", {"text": ["a", "b"]}) == Query(("a", "b"))
    assert refused("text", b"\xff", "text/plain") == (422, "text: expected UTF-8.")
    assert "a list of two texts" in refused("pair", {"text": ["a"]})[1]
    assert refused("pair", b"a", "text/plain")[0] == 415
    assert refused("text", b'{"text": "\\ud800"}')[0] == 422


def same(query, *arrays):
    assert all(one.dtype == other.dtype for one, other in zip(query.input, arrays, strict=True))
    return all(np.array_equal(one, other) for one, other in zip(query.input, arrays, strict=True))


def test_arrays_take_the_types_of_the_example():
    numbers = [[1, 2.5, 3], [4, 5, 6]]
    assert same(parse("array", {"array": numbers}), np.array(numbers, np.float32))
    assert same(parse("bytes", {"array": [0, 255]}), np.array([0, 255], np.uint8))
    named = parse("named", {"array": {"ids": [7], "x": [1, 2]}})
    assert same(named, np.array([1, 2], np.float32), np.array([7]))
    assert {k: v.tolist() for k, v in KINDS["named"].raw(named.input).items()} == {
        "x": [1, 2], "ids": [7],
    }  # fmt: skip
    several = parse("several", {"array": [[1, 2], [[3]]]})
    assert [one.tolist() for one in KINDS["several"].raw(several.input)] == [[1, 2], [[3]]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("array", [[1, 2], [3]]), ("array", [1, 2]), ("array", [["a", "b"]]), ("array", None),
        ("array", [[True]]), ("array", []), ("array", [[]]), ("array", [[10**400]]),
        ("array", [[1e39]]), ("array", [[float("nan")]]), ("array", {"x": [[1]]}),
        ("bytes", [256, 0]), ("bytes", [-1, 0]), ("bytes", [0.5, 1]), ("bytes", [1.0, 2.0]),
        ("named", {"x": [1, 2]}), ("named", {"x": [1], "ids": [1], "y": [1]}), ("named", [1]),
        ("named", {"x": [1, 2], "ids": [2**70]}), ("several", [[1, 2]]), ("several", 5),
    ],
)  # fmt: skip
def test_arrays_of_another_form_are_told_the_right_one(kind, value):
    status, said = refused(kind, {"array": value})
    assert status == 422
    assert said.startswith(f"array: expected {KINDS[kind].expected}")


def test_content_of_another_kind_is_told_what_is_taken():
    assert refused("text", image(), "image/png") == (
        415, "content-type: expected application/json or text/plain, got 'image/png'.",
    )  # fmt: skip
    assert media_types(KINDS["array"]) == [JSON]
    assert refused("image", in_form(image(), "photo"), BOUNDARY)[1].startswith("expected a form")
    assert refused("image", b"", "multipart/form-data")[0] == 422


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
keyed = st.dictionaries(st.sampled_from(["image", "text", "array", "top_k", "x"]), values)
bodies = st.binary(max_size=200) | (values | keyed).map(lambda one: json.dumps(one).encode())
types = st.sampled_from([JSON, "", "text/plain", "image/png", BOUNDARY, "multipart/form-data"])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(KINDS)), bodies, types | st.text(max_size=20), st.none() | st.text())
def test_whatever_comes_is_a_query_or_a_refusal_that_says_why(kind, body, content_type, top):
    query, error = None, RequestError(400, "none")
    try:
        query = parse_request(KINDS[kind], content_type, body, top)
        KINDS[kind].raw(query.input)
    except RequestError as raised:
        error = raised
    assert 400 <= error.status < 500
    assert 0 < len(str(error)) < 600


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_is_what_a_request_may_hold(kind):
    KINDS[kind].raw(KINDS[kind].example())
    assert KINDS[kind].schema()["type"] in {"string", "array", "object"}


def test_what_stages_take_is_told_by_their_preprocessing_or_an_example():
    plain = [torch.nn.Linear(2, 2)] * 2
    with pytest.raises(UsageError, match=r"^example: expected a sample of the stages' inputs"):
        inputs_for(plain)
    with pytest.raises(UsageError, match="got a int"):
        inputs_for(plain, 5)
    assert isinstance(inputs_for(plain, torch.zeros(2)), ArrayInput)
    assert inputs_for(plain, ("a", "b")) == TextInput(pair=True)
    assert inputs_for(plain, "a") == TextInput()
    assert inputs_for(plain, Image.new("RGB", (2, 2)), 7) == ImageInput(7)
    assert inputs_for(plain, None, 7, 32) == ImageInput(7, 32)
