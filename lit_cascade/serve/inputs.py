"""What requests may hold, and how it becomes what the stages preprocess; engines share this."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_cascade.errors import UsageError
from lit_cascade.utilities.images import UnreadableError, decode, resized

_JSON = "application/json"
_FORM = "multipart/form-data"
_MOST_CLASSES = 1000


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Query(NamedTuple):
    """One sample of a request.

    Attributes:
        input: as it travels between processes: bytes of an image, texts, or arrays.
        top: number of likeliest classes to return; 0 for the answer alone.
    """

    input: Any
    top: int = 0


@dataclass(frozen=True)
class ImageInput:
    """Images as files: in base64 in JSON, as the body, or in a form.

    Attributes:
        max_pixels: most pixels, so that a small file cannot take all memory.
        size: height and width that each image is resized and cropped to, as `ImageData` does it;
            None leaves it to the stages.
    """

    max_pixels: int = 50_000_000
    size: int | None = None
    key = "image"
    expected = "the bytes of an image file, in base64"

    def schema(self) -> dict[str, Any]:
        """JSON schema of the input."""
        return {"type": "string", "format": "byte", "description": self.expected}

    def parse(self, value: Any) -> bytes:
        """Bytes of an image, from JSON or a body.

        Raises:
            RequestError: no image, or one that is too large.
        """
        content = value
        if isinstance(value, str):
            text = value.partition(",")[2] if value.startswith("data:") else value
            try:
                content = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                content = None
        if not isinstance(content, bytes) or not content:
            raise RequestError(422, f"image: expected {self.expected}, got {_kind(value)}.")
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - not for texts and arrays

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(content)) as image:  # reads the header alone
                    width, height = image.size
        except UnidentifiedImageError:
            raise RequestError(422, f"image: expected {self.expected}; not an image.") from None
        except Image.DecompressionBombError as error:  # beyond Pillow's own limit
            said = f"image: at most {self.max_pixels:,} pixels: {_first_line(error)}."
            raise RequestError(413, said) from None
        except Exception as error:  # noqa: BLE001 - whatever Pillow's plugins make of damaged files
            raise RequestError(422, f"image: it is damaged: {_first_line(error)}.") from None
        if width * height > self.max_pixels:
            raise RequestError(
                413, f"image: at most {self.max_pixels:,} pixels, got {width:,} x {height:,}."
            )
        return content

    def raw(self, content: bytes) -> Any:
        """Decode an image.

        Raises:
            RequestError: a damaged file.
        """
        try:
            return resized(decode(content)[0], self.size)
        except UnreadableError as error:
            raise RequestError(422, f"image: it cannot be read: {error}.") from error

    def example(self) -> bytes:
        """An image to measure with: of the size of most photographs on the web."""
        from PIL import Image  # noqa: PLC0415

        pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((500, 375)).save(buffer, "JPEG")
        return buffer.getvalue()


@dataclass(frozen=True)
class TextInput:
    """Texts, or pairs of them.

    Attributes:
        pair: whether a sample is a pair of texts.
    """

    pair: bool = False
    key = "text"

    @property
    def expected(self) -> str:
        """What a request holds, in words."""
        return "a list of two texts" if self.pair else "a text"

    def schema(self) -> dict[str, Any]:
        """JSON schema of the input."""
        if not self.pair:
            return {"type": "string"}
        return {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}

    def parse(self, value: Any) -> Any:
        """A text, or a tuple of two.

        Raises:
            RequestError: something else.
        """
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise RequestError(422, "text: expected UTF-8.") from None
        texts = value if self.pair else [value]
        fits = isinstance(texts, list) and len(texts) == 1 + self.pair
        if not fits or not all(isinstance(text, str) for text in texts):
            raise RequestError(422, f"text: expected {self.expected}, got {_kind(value)}.")
        try:
            for text in texts:
                text.encode()
        except UnicodeEncodeError:
            raise RequestError(422, "text: it holds half of a surrogate pair.") from None
        return tuple(texts) if self.pair else texts[0]

    def raw(self, value: Any) -> Any:
        """The text as it is."""
        return value

    def example(self) -> Any:
        """A text to measure with."""
        text = "A cascade answers what it is sure of, and passes on the rest to a larger model. "
        return (text, text) if self.pair else text * 2


class ArrayInput:
    """Numbers, as the stages take them: nested lists, or these by name or in order.

    Args:
        example: a sample: a tensor, a tuple of tensors, or a dict of them. It says how many axes
            and which type of numbers each array has; sizes of axes are left to the stages.
    """

    key = "array"

    def __init__(self, example: Any) -> None:
        self._names: tuple[str, ...] | None = None
        self._many = not isinstance(example, Tensor)
        if isinstance(example, Mapping):
            self._names, tensors = tuple(example), list(example.values())
        else:
            tensors = list(example) if isinstance(example, (tuple, list)) else [example]
        if not tensors or not all(isinstance(one, Tensor) for one in tensors):
            raise UsageError(
                "example: expected a sample of the stages' inputs without an axis of samples: a "
                f"tensor, or a tuple or dict of tensors; got a {type(example).__name__}."
            )
        self._arrays = [one.numpy() for one in tensors]

    @property
    def expected(self) -> str:
        """What a request holds, in words."""
        one = [f"{array.dtype} numbers of shape {array.shape}" for array in self._arrays]
        if self._names:
            one = [f"{name}: {text}" for name, text in zip(self._names, one, strict=True)]
        return "nested lists of " + ", ".join(one)

    def schema(self) -> dict[str, Any]:
        """JSON schema of the input."""
        ones = []
        for array in self._arrays:
            one: dict[str, Any] = {
                "type": "integer" if np.issubdtype(array.dtype, np.integer) else "number"
            }
            for _ in range(array.ndim):
                one = {"type": "array", "items": one}
            ones.append(one)
        if self._names:
            named = dict(zip(self._names, ones, strict=True))
            return {"type": "object", "properties": named, "required": list(named)}
        if self._many:
            return {"type": "array", "prefixItems": ones}
        return ones[0] | {"example": self._arrays[0].tolist()}

    def parse(self, value: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Arrays, in the order of the example.

        Raises:
            RequestError: something else.
        """
        parts = [value]
        if self._names:
            named = isinstance(value, Mapping) and set(value) == set(self._names)
            parts = [value[name] for name in self._names] if named else []
        elif self._many:
            parts = value if isinstance(value, list) else []
        if len(parts) != len(self._arrays):
            raise RequestError(422, f"array: expected {self.expected}, got {_kind(value)}.")
        return tuple(
            self._array(part, like) for part, like in zip(parts, self._arrays, strict=True)
        )

    def _array(self, value: Any, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                array = np.asarray(value)
                whole = np.issubdtype(like.dtype, np.integer)
                fits = array.ndim == like.ndim and array.dtype.kind in ("iu" if whole else "iuf")
                fits = fits and array.size > 0
                if fits and whole:
                    info = np.iinfo(like.dtype)
                    fits = bool((array >= info.min).all() and (array <= info.max).all())
                array = array.astype(like.dtype)
                fits = fits and bool(np.isfinite(array).all())
        except (ValueError, TypeError, OverflowError, RuntimeWarning, RecursionError):
            fits = False
        if not fits:
            raise RequestError(
                422, f"array: expected {self.expected}, all finite; got {_kind(value)}."
            )
        return array

    def raw(self, arrays: tuple[np.ndarray[Any, Any], ...]) -> Any:
        """The arrays as tensors, in the form of the example."""
        tensors = tuple(map(torch.tensor, arrays))  # copies: Ray's arrays cannot be written to
        if self._names:
            return dict(zip(self._names, tensors, strict=True))
        return tensors if self._many else tensors[0]

    def example(self) -> Any:
        """The sample that the arrays are like."""
        return tuple(self._arrays)

    def plain(self) -> dict[str, Any]:
        """Plain values from which `of_plain` makes the same, with zeros as the example."""
        return {
            "names": None if self._names is None else list(self._names),
            "many": self._many,
            "arrays": [[str(array.dtype), list(array.shape)] for array in self._arrays],
        }

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> ArrayInput:
        """The kind of arrays that `plain` describes."""
        arrays = [
            torch.from_numpy(np.zeros(shape, np.dtype(dtype))) for dtype, shape in values["arrays"]
        ]
        if values["names"] is not None:
            return cls(dict(zip(values["names"], arrays, strict=True)))
        return cls(tuple(arrays) if values["many"] else arrays[0])


Inputs = ImageInput | TextInput | ArrayInput


def plain_inputs(kind: Inputs) -> dict[str, Any]:
    """What requests hold, as plain values; see `inputs_of_plain`."""
    return {kind.key: kind.plain() if isinstance(kind, ArrayInput) else asdict(kind)}


def inputs_of_plain(values: Mapping[str, Any]) -> Inputs:
    """What requests hold, from what `plain_inputs` gave."""
    ((key, arguments),) = values.items()
    if key == ArrayInput.key:
        return ArrayInput.of_plain(arguments)
    kind: type[ImageInput | TextInput] = ImageInput if key == ImageInput.key else TextInput
    return kind(**arguments)


def parse_request(kind: Inputs, content_type: str, body: bytes, top: str | None = None) -> Query:
    """The sample of a request.

    Args:
        kind: what the stages take.
        content_type: header of the request.
        body: of the request.
        top: `top_k` in the address, if it is there.

    Raises:
        RequestError: the message says what was expected.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in {_JSON, ""}:
        return parse_sample(kind, parse_json(body), top)
    number = _top(top)
    if media == _FORM and isinstance(kind, ImageInput):
        return Query(kind.parse(_file_in_form(content_type, body)), number)
    plain = {"image": ("image/", "application/octet-stream"), "text": ("text/plain",)}
    if media.startswith(plain.get(kind.key, ("-",))) and not getattr(kind, "pair", False):
        return Query(kind.parse(body), number)
    raise RequestError(
        415, f"content-type: expected {' or '.join(media_types(kind))}, got {media[:80]!r}."
    )


def media_types(kind: Inputs) -> list[str]:
    """Content types of requests for one answer."""
    if isinstance(kind, ImageInput):
        return [_JSON, "image/*", _FORM]
    return [_JSON] if isinstance(kind, ArrayInput) or kind.pair else [_JSON, "text/plain"]


def parse_json(body: bytes) -> Any:
    """JSON of a body.

    Raises:
        RequestError: something else.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"expected JSON: {_first_line(error)}.") from None


def parse_sample(kind: Inputs, value: Any, top: Any = None) -> Query:
    """The sample of a JSON object.

    Args:
        kind: what the stages take.
        value: with the input under the name of its kind, and perhaps `top_k`.
        top: `top_k` where the object has none.

    Raises:
        RequestError: the message says what was expected.
    """
    strange = set(value) - {kind.key, "top_k"} if isinstance(value, dict) else {"-"}
    if strange or kind.key not in value:
        got = f"the keys {', '.join(map(repr, value))}" if isinstance(value, dict) else _kind(value)
        raise RequestError(
            422,
            f"expected a JSON object with {kind.key!r} ({kind.expected}) and perhaps 'top_k', got "
            f"{got[:200]}.",
        )
    return Query(kind.parse(value[kind.key]), _top(value.get("top_k", top)))


def _top(value: Any) -> int:
    if value is None:
        return 0
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) else value
    if type(number) is not int or not 1 <= number <= _MOST_CLASSES:
        raise RequestError(
            422, f"top_k: expected a number from 1 to {_MOST_CLASSES:,}, got {_kind(value)}."
        )
    return number


def _file_in_form(content_type: str, body: bytes) -> bytes:
    """Content of the part `image` of a form."""
    found = re.search(r'boundary="?([^";]{1,70})"?', content_type)
    mark = b"\r\n--" + (found[1].encode("latin-1", "replace") if found else b"")
    for part in (b"\r\n" + body).split(mark)[1:] if found else []:
        head, blank, content = part.partition(b"\r\n\r\n")
        if blank and re.search(rb'name="?image"?(?=[;\s]|$)', head):
            return content
    raise RequestError(422, "expected a form with the image file as its part 'image'.")


def _kind(value: Any) -> str:
    """A value of a request in words, for messages."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {value!r}"[:40]
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value):,}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return "a text" if isinstance(value, str) else "an object"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
    return text[:200] or type(error).__name__
