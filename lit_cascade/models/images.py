"""What an image goes through before a model sees it: timm's own steps, in evaluation mode."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError

__all__ = ["ImagePreprocessing"]


@dataclass(frozen=True)
class ImagePreprocessing:
    """Resizing and cropping by `timm.data.create_transform`; normalisation is left to the model.

    Images stay uint8 until they are where the model is, as in timm's own loader, so that four times
    fewer bytes travel and two models that differ in normalisation alone can share a view.

    Attributes:
        input_size: channels, height and width.
        interpolation: as timm names it.
        crop_pct: share of the resized image that is kept.
        crop_mode: `center`, `squash` or `border`.
        fill: colour of a border (0 to 1 per channel), in the mode that draws one.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    fill: tuple[float, ...] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ImagePreprocessing:
        """From what `timm.data.resolve_data_config` gives."""
        channels, height, width = config["input_size"]
        mode = str(config["crop_mode"])
        return cls(
            input_size=(int(channels), int(height), int(width)),
            interpolation=str(config["interpolation"]),
            crop_pct=float(config["crop_pct"]),
            crop_mode=mode,
            fill=tuple(map(float, config["mean"])) if mode == "border" else None,
        )

    @property
    def key(self) -> str:
        """The same for the same steps."""
        return self._key

    @cached_property
    def _key(self) -> str:
        return json.dumps(asdict(self))

    @cached_property
    def _transform(self) -> Callable[[Any], Any]:
        from timm.data import create_transform

        transform: Callable[[Any], Any] = create_transform(
            self.input_size,
            is_training=False,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            **({} if self.fill is None else {"mean": self.fill}),
            use_prefetcher=True,  # ends with the uint8 image
        )
        return transform

    def __call__(self, sample: Any) -> Tensor:
        """The image as (channels, height, width) uint8.

        Args:
            sample: a PIL image, or a uint8 tensor (channels, height, width).

        Raises:
            CascadeError: something else.
        """
        from PIL.Image import Image
        from torchvision.transforms.functional import to_pil_image

        if isinstance(sample, Tensor) and sample.dtype == torch.uint8 and sample.ndim == 3:
            sample = to_pil_image(sample)
        if not isinstance(sample, Image):
            what = (
                f"{sample.dtype} of shape {tuple(sample.shape)}"
                if isinstance(sample, Tensor)
                else type(sample).__name__
            )
            raise CascadeError(
                "the models' preprocessing takes images: PIL images, or uint8 tensors (channels, "
                f"height, width); the data gave {what}."
            )
        mode = "L" if self.input_size[0] == 1 else "RGB"
        found = self._transform(sample if sample.mode == mode else sample.convert(mode))
        return torch.as_tensor(found)
