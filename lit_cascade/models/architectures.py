"""Cost of published architectures of timm and torchvision, without their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.live import count_flops, count_parameters
from lit_cascade.models.timm import Timm

_LIBRARIES = ("timm", "torchvision")
_PATTERN = set("*?[")
_FAULTS = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """Name of an architecture in a library.

    Attributes:
        library: timm or torchvision.
        name: as the library has it.
    """

    library: str
    name: str


@dataclass(frozen=True)
class ArchitectureCost:
    """Cost of an architecture for one image.

    Attributes:
        model: name of the architecture.
        flops: FLOPs of a forward pass at batch size 1; one multiply-add is 2.
        parameters: number of parameters.
        img_size: height and width of the input in pixels, as in `224` or `224x192`.
        source: library that built it, with its version.
    """

    model: str
    flops: int
    parameters: int
    img_size: str
    source: str


def find_architectures(names: Sequence[str]) -> list[Architecture]:
    """Architectures of image classifiers by name or wildcard.

    Args:
        names: such as `resnet50`, `resnet50.a1_in1k`, `resnet*` or `torchvision:vgg16`. A name
            without a library is timm's, or torchvision's if timm has none that fits.

    Returns:
        Distinct architectures in the order of the names; those of a wildcard in alphabetical order.

    Raises:
        UsageError: a name that no library has, or one that is asked of both.

    Examples:
        >>> [(one.library, one.name) for one in find_architectures(["resnet1?", "alexnet"])]
        [('timm', 'resnet18'), ('torchvision', 'alexnet')]
    """
    found: dict[str, Architecture] = {}
    for given in names:
        library, colon, name = given.rpartition(":")
        if colon:
            check_name(library, _LIBRARIES, "names")
        searched = (library,) if colon else _LIBRARIES
        fitting = next(
            (
                [Architecture(one, fit) for fit in fits]
                for one in searched
                if (fits := _fitting(one, name))
            ),
            [],
        )
        if not fitting:
            _refuse(given, name, searched)
        for one in fitting:
            if found.setdefault(one.name, one) != one:
                raise UsageError(
                    f"names: {one.name} is asked of timm and of torchvision, and models of one "
                    "table have distinct names; count them in two runs."
                )
    return list(found.values())


def _fitting(library: str, name: str) -> list[str]:
    """Names of a library that fit a name or wildcard."""
    known = _known(library, tagged="." in name)
    if set(name) & _PATTERN:
        return sorted(one for one in known if fnmatchcase(one, name))
    return [name] if name in known else []


def _known(library: str, *, tagged: bool = False) -> list[str]:
    """All names of a library, of timm's with the tags of their weights if asked for."""
    if library == "timm":
        import timm

        return list(timm.list_models(pretrained=tagged))
    from torchvision import models

    return list(models.list_models(module=models))


def _refuse(given: str, name: str, libraries: Sequence[str]) -> None:
    """Raise that no library has a name."""
    if set(name) & _PATTERN:
        raise UsageError(
            f"names: no architecture of {' or '.join(libraries)} fits {given!r}; * stands for any "
            "letters, as in 'resnet*', in quotation marks."
        )
    tagged = "." in name
    known = dict.fromkeys(one for lib in libraries for one in _known(lib, tagged=tagged))
    check_name(name, known, "names")


def build_architecture(
    architecture: Architecture, img_size: int | None = None
) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network with random weights, on the current default device, in evaluation mode.

    Args:
        architecture: what to build.
        img_size: height and width of the input; by default that of timm's published results, or
            that of torchvision's default weights.

    Returns:
        The network and the shape of its input: channels, height and width.

    Raises:
        CascadeError: it cannot be built, or has no classifier.
    """
    if architecture.library == "timm":
        network = Timm(architecture.name, pretrained=False, img_size=img_size)
        return network.eval(), network.preprocessing.input_size
    from torchvision import models

    if img_size is None:
        weights = models.get_model_weights(architecture.name).DEFAULT
        [img_size] = weights.transforms().crop_size
    given: dict[str, Any] = {}
    if architecture.name.startswith("vit_"):  # its positions are those of one size
        given["image_size"] = img_size
    elif architecture.name in {"googlenet", "inception_v3"}:
        given |= {"aux_logits": False, "init_weights": False}  # otherwise it warns
    elif architecture.name.startswith("maxvit"):
        given["input_size"] = (img_size, img_size)
    network = models.get_model(architecture.name, weights=None, **given)
    return network.eval(), (3, img_size, img_size)


def architecture_cost(architecture: Architecture, img_size: int | None = None) -> ArchitectureCost:
    """Count the FLOPs and parameters of an architecture, from a pass without numbers if possible.

    The pass runs on torch's device `meta`, which computes shapes alone; where a network reads
    values, on the CPU with random weights.

    Args:
        architecture: what to count.
        img_size: as for `build_architecture`.

    Raises:
        CascadeError: it cannot be built or run; the message says why in one line.

    Examples:
        >>> cost = architecture_cost(Architecture("torchvision", "alexnet"))
        >>> cost.flops, cost.parameters, cost.img_size
        (1428376960, 61100840, '224')
    """
    try:
        return _counted(architecture, img_size, "meta")
    except (CascadeError, *_FAULTS) as error:
        if isinstance(error, CascadeError) and error.__cause__ is None:
            raise  # it is no classifier, on any device
    try:
        return _counted(architecture, img_size, "cpu")
    except _FAULTS as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        raise CascadeError(f"{architecture.name}: {reason.rstrip('.!')}.") from error


def _counted(architecture: Architecture, img_size: int | None, device: str) -> ArchitectureCost:
    with torch.device(device):
        network, shape = build_architecture(architecture, img_size)
        flops = count_flops(network, torch.zeros(1, *shape), architecture.name)
    _, height, width = shape
    return ArchitectureCost(
        model=architecture.name,
        flops=flops,
        parameters=count_parameters(network),
        img_size=str(height) if height == width else f"{height}x{width}",
        source=f"{architecture.library} {version(architecture.library)}",
    )
