"""Image classifiers of timm, with their own preprocessing and class names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.models.network import Network, plain
from lit_cascade.utilities.class_names import class_list

_BACKGROUND = 1001
"""Classes of the first Inception models: a background class before the 1,000 of ImageNet."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """Resize and crop by `timm.data.create_transform`; normalisation is left to the model.

    Images stay uint8 until they are on the model's device, as in timm's own loader: a quarter of
    the bytes are copied, and models that differ only in normalisation share a view.

    Attributes:
        input_size: channels, height and width.
        interpolation: as timm names it.
        crop_pct: share of the resized image that is kept.
        crop_mode: `center`, `squash` or `border`.
        fill: colour of the border in the mode `border`, 0 to 1 per channel.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    fill: tuple[float, ...] | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ImagePreprocessing:
        """Create from the output of `timm.data.resolve_data_config`."""
        channels, height, width = config["input_size"]
        mode = str(config["crop_mode"])
        return cls(
            input_size=(int(channels), int(height), int(width)),
            interpolation=str(config["interpolation"]),
            crop_pct=float(config["crop_pct"]),
            crop_mode=mode,
            fill=tuple(map(float, config["mean"])) if mode == "border" else None,
        )

    @cached_property
    def key(self) -> str:
        """Identifier: the same for the same steps."""
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
        """Transform an image to (channels, height, width) uint8.

        Args:
            sample: a PIL image, or a uint8 tensor (channels, height, width).

        Raises:
            CascadeError: neither of these.
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
        return torch.as_tensor(
            self._transform(sample if sample.mode == mode else sample.convert(mode))
        )


class Timm(Network):
    """Model of timm, by any name that `timm.create_model` takes.

    The preprocessing is that of timm's own evaluation: input size, crop and interpolation of the
    model's `pretrained_cfg` by `resolve_data_config` and `create_transform`, normalisation here.

    Args:
        model: such as `resnet50.a1_in1k`; `hf-hub:OWNER/NAME`; or `local-dir:FOLDER` with
            config.json and model.safetensors, as timm saves them.
        pretrained: load the weights of that name, from the hub unless they are cached. Otherwise
            the weights are random, or come from the stage's `checkpoint`.
        use_test_size: evaluate at the input size of timm's published results, where it is larger
            than that of training.
        img_size: height and width of the input, instead of the model's own.
        num_classes: classes of the head, instead of the model's own; a new head is random. With
            `data` it has the classes of the data that the model is trained on, or of the checkpoint
            that it is loaded from.
        data_args: other settings of the preprocessing that override the model's own: `crop_pct`,
            `crop_mode`, `interpolation`, `mean`, `std`.
        model_args: further arguments of `timm.create_model`.

    Attributes:
        class_names: names of the classes in logit order; None if unknown.
        undecided: whether the head still waits for its classes; see `decide_classes`.

    Raises:
        UsageError: an unknown name.
        CascadeError: weights that cannot be loaded, or a model without a classifier.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = True,  # noqa: FBT001, FBT002 - a setting
        use_test_size: bool = True,  # noqa: FBT001, FBT002 - a setting
        img_size: int | None = None,
        num_classes: int | Literal["data"] | None = None,
        data_args: dict[str, Any] | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from timm.data import resolve_data_config

        self.name = model
        self.undecided = num_classes == "data"
        classes = num_classes if isinstance(num_classes, int) else None
        self.model = _create(model, pretrained, img_size, classes, model_args or {})
        config = resolve_data_config(
            {**_channels(self.model), **(data_args or {})},
            model=self.model,
            use_test_size=use_test_size,
        )
        if img_size is not None:
            config["input_size"] = (config["input_size"][0], img_size, img_size)
        self.preprocessing = ImagePreprocessing.of(config)
        self.class_names = None if self.undecided else _class_names(self.model)
        # scaled as in timm's loader; no buffers, which half precision would round
        self._mean = [255 * float(value) for value in config["mean"]]
        self._std = [255 * float(value) for value in config["std"]]
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def decide_classes(self, classes: Sequence[str]) -> None:
        """Replace the head by a random one for these classes."""
        self.model.reset_classifier(len(classes))  # type: ignore[operator] # all of timm have it
        self.class_names, self.undecided = tuple(classes), False

    def description(self) -> dict[str, Any]:
        """Name and preprocessing, for records."""
        steps = asdict(self.preprocessing)
        del steps["fill"]
        scaled = {"mean": self._mean, "std": self._std}
        steps |= {name: [value / 255 for value in values] for name, values in scaled.items()}
        steps["input_size"] = list(self.preprocessing.input_size)
        return {"timm": self.name, "preprocessing": steps}

    def portable(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Architecture and preprocessing; a model from a folder or the hub by its architecture."""
        given = {name: plain(value, name) for name, value in self.init_args.items()}
        if self.init_args.get("num_classes") is not None:
            given["num_classes"] = self.model.num_classes
        if ":" in self.name:
            steps = self.description()["preprocessing"]
            _, height, width = steps.pop("input_size")
            if height != width:
                raise CascadeError(f"its images are {height} x {width}, and timm takes one size")
            config: Any = self.model.pretrained_cfg
            given |= {
                "model": config["architecture"], "num_classes": self.model.num_classes,
                "img_size": height, "data_args": steps,
            }  # fmt: skip
        return given | {"pretrained": False}, {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of images (N, channels, height, width), uint8."""
        if images.device not in self._constants:
            shape = (1, -1, 1, 1)
            mean, std = (
                torch.tensor(values, device=images.device).view(shape)
                for values in (self._mean, self._std)
            )
            self._constants[images.device] = (mean, std)
        mean, std = self._constants[images.device]
        inputs = (
            images.float().sub_(mean).div_(std)
            if images.dtype == torch.uint8
            else images.float().sub(mean).div(std)
        )
        dtype = next((p.dtype for p in self.model.parameters()), torch.float32)
        logits: Tensor = self.model(inputs.to(dtype))
        return logits


def _channels(model: nn.Module) -> dict[str, Any]:
    """Number of input channels, where it differs from that of `pretrained_cfg`."""
    configured = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3,))[0]
    channels = getattr(model, "in_chans", None) or configured
    return {} if channels == configured else {"in_chans": channels}


def _create(
    name: str,
    pretrained: bool,  # noqa: FBT001 - as timm has it
    img_size: int | None,
    num_classes: int | None,
    model_args: Mapping[str, Any],
) -> nn.Module:
    import timm

    given = dict(model_args)
    if num_classes is not None:
        given["num_classes"] = num_classes
    if ":" not in name:
        _check_known(name)
        fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
        if img_size is not None and fixed:
            given["img_size"] = img_size
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **given)
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError, KeyError) as error:
        hint = (
            " Weights in a file: pretrained: false, and checkpoint: FILE beside the network."
            if pretrained
            else ""
        )
        reason = str(error).strip().split("\n", maxsplit=1)[0].rstrip(". ") or type(error).__name__
        raise CascadeError(f"the timm model {name!r} cannot be loaded: {reason}.{hint}") from error
    config = getattr(model, "pretrained_cfg", None) or {}
    if not getattr(model, "num_classes", 0):
        raise CascadeError(
            f"the timm model {name!r} has no classifier (num_classes is 0), only features. Choose "
            "one that was fine-tuned, such as those with in1k in their tag."
        )
    if pretrained and num_classes not in {None, config.get("num_classes")}:
        warnings.warn(
            f"the pretrained head of {name!r} has {config.get('num_classes')} classes; a new one "
            f"of {num_classes} is random until it is trained or a checkpoint is loaded.",
            UserWarning,
            stacklevel=3,
        )
    return model


def _check_known(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        check_name(architecture, timm.list_models(), "timm model")
    if tag and not timm.models.is_model_pretrained(name):
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        check_name(name, tags or [architecture], "timm model")


def _class_names(model: nn.Module) -> tuple[str, ...] | None:
    """Class names in logit order, saved with the model or of ImageNet; None if unknown."""
    from timm.data import infer_imagenet_subset

    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    width = int(model.num_classes)  # type: ignore[arg-type] # every model of timm has it
    saved = config.get("label_names")
    if isinstance(saved, Mapping):
        saved = [saved[key] for key in sorted(saved, key=int)]
    if saved and len(saved) == width:
        return tuple(str(name) for name in saved)
    if width == _BACKGROUND:
        return ("background", *class_list("imagenet-1k", "classes"))
    subset = infer_imagenet_subset({"num_classes": width})
    return None if subset is None else class_list(subset, "classes")


def timm_names(patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Names of pretrained models of timm.

    Args:
        patterns: names, or wildcards such as `convnext*.fb_in1k`, as for `timm.list_models`.
        exclude: patterns of names to leave out.

    Returns:
        Distinct names in the order of the patterns; those of a wildcard in alphabetical order.

    Raises:
        UsageError: an unknown name, or a pattern that no pretrained model fits.
    """
    import timm

    names: dict[str, None] = {}
    for pattern in patterns:
        if ":" not in pattern and set(pattern) & set("*?["):
            fitting = timm.list_models(pattern, pretrained=True, exclude_filters=list(exclude))
            if not fitting:
                raise UsageError(
                    f"model.timm.models: no pretrained model of timm fits {pattern!r}."
                )
            names |= dict.fromkeys(sorted(fitting))
        else:
            if ":" not in pattern:
                _check_known(pattern)
            names[pattern] = None
    return list(names)
