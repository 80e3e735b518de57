"""Samples as a reader may see them: a text, or a thumbnail."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor

from lit_cascade.data.splits import describe, split_loader
from lit_cascade.utilities.text import single_line

_SIDE = 96
_LONGEST = 600


def previews(
    datamodule: LightningDataModule, split: str, ids: Sequence[Any]
) -> dict[str, dict[str, str]]:
    """Read some samples of a split again, and show their inputs.

    Args:
        datamodule: that is set up.
        split: its name.
        ids: of the samples.

    Returns:
        By id, as a string: `{"text": ...}`, or `{"image": ...}` with the address of a thumbnail of
        at most 96 pixels (`data:image/...`); nothing for inputs that are neither.

    Raises:
        UsageError: the data module has no such split.
    """
    dataset = split_loader(datamodule, split).dataset
    places = {one: place for place, one in enumerate(describe(dataset).ids.tolist())}
    found = {}
    for one in ids:
        sample = dataset[places[one]]
        shown = preview(sample[0] if isinstance(sample, tuple | list) else sample)
        if shown is not None:
            found[str(one)] = shown
    return found


def preview(value: Any) -> dict[str, str] | None:
    """Show the input of a sample; None for what is neither text nor image.

    Texts are cut after 600 characters. Tensors of shape (H, W), (1, H, W) or (3, H, W) are images,
    whose least and greatest value are black and white.

    Examples:
        >>> preview(("Is it?", "It is."))
        {'text': 'Is it? / It is.'}
        >>> preview(torch.eye(8))["image"][:30]
        'data:image/png;base64,iVBORw0K'
    """
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        value = " / ".join(value)
    if isinstance(value, str):
        text = single_line(value)
        return {"text": text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\u2026"}
    if isinstance(value, Tensor):
        value = _picture(value)
    if not isinstance(value, Image.Image):
        return None
    small = value.convert("RGB")
    if max(small.size) < _SIDE:
        factor = max(1, _SIDE // max(small.size))
        small = small.resize(
            (factor * small.width, factor * small.height), Image.Resampling.NEAREST
        )
    small.thumbnail((_SIDE, _SIDE))
    kind, file = "png" if max(value.size) < _SIDE else "jpeg", io.BytesIO()
    small.save(file, kind)
    return {"image": f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"}


def _picture(values: Tensor) -> Image.Image | None:
    """A tensor as an image, if it has the shape of one."""
    planes = (
        values.detach().float().reshape(-1, *values.shape[-2:]) if values.ndim in {2, 3} else None
    )
    if planes is None or len(planes) not in {1, 3} or not bool(planes.isfinite().all()):
        return None
    low, high = planes.min(), planes.max()
    levels = (255 * (planes - low) / (high - low).clamp(min=1e-12)).round().to(torch.uint8)
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
