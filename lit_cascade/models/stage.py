"""One stage of a cascade: how its network is built, and where its weights come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lit_cascade.errors import CascadeError
from lit_cascade.live import Preprocessing
from lit_cascade.utilities.class_names import class_list, columns_of
from lit_cascade.utilities.files import find_bundled
from lit_cascade.utilities.tensors import CHECKPOINT_FORMAT, load_tensors, safetensors_bytes

__all__ = [
    "BuiltStage",
    "Stage",
    "checkpoint_bytes",
    "describe_network",
    "load_weights",
    "read_checkpoint",
]


_HOLDERS = ("state_dict", "model", "model_state_dict")
"""Where Lightning, timm and training scripts keep weights among other things."""

_WRAPPERS = ("network.", "model.", "module.", "_orig_mod.")
"""How Lightning, timm's stage, DDP and torch.compile wrap a network."""


class BuiltStage(nn.Module):
    """A classifier in memory, whose logits are in the order of the classes that are wanted.

    Args:
        name: of the stage.
        network: takes a batch and returns logits, or something with an attribute `logits`. Where it
            has an attribute `preprocessing`, the batch holds what that makes of raw samples.
        classes: names of the network's classes in the order of its logits; None if unknown.

    Attributes:
        class_names: those that it answers among, in the order of its logits; None if unknown.
    """

    columns: Tensor | None

    def __init__(self, name: str, network: nn.Module, classes: Sequence[str] | None = None) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.known = None if classes is None else tuple(classes)
        self.class_names = self.known
        self.register_buffer("columns", None, persistent=False)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What raw samples go through first, if the network has such a thing."""
        found: Preprocessing | None = getattr(self.network, "preprocessing", None)
        return found

    def answer_among(self, classes: Sequence[str], whose: str, *, fewer: bool = False) -> None:
        """Bring the logits into the order of other class names; if the own are unknown, do nothing.

        Args:
            classes: in label order.
            whose: they are, for messages.
            fewer: whether the network may know more classes, which it then never answers.

        Raises:
            CascadeError: the classes cannot be aligned by name.
        """
        if self.known is None:
            return
        who = f"stage {self.name!r}"
        columns = columns_of(self.known, classes, who, whose, fewer=fewer)
        device = next((tensor.device for tensor in self.network.parameters()), None)
        self.columns = None if columns is None else columns.to(device)
        self.class_names = tuple(classes)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Logits (N, C) of a batch."""
        output = self.network(*args, **kwargs)
        logits = getattr(output, "logits", output)
        if self.columns is None or not isinstance(logits, Tensor) or logits.ndim != 2:
            return logits
        if self.known is not None and logits.shape[1] != len(self.known):
            raise CascadeError(
                f"stage {self.name!r} gives {logits.shape[1]} logits and names "
                f"{len(self.known)} classes."
            )
        return logits.index_select(1, self.columns)


@dataclass
class Stage:
    """A classifier: a network and its weights.

    The network takes a batch as the data gives it, does its own normalisation, and returns logits.
    Where it has an attribute `preprocessing`, raw samples go through that first.
    """

    network: Callable[[], nn.Module]
    """Class (class_path and init_args) of the network, or a function that makes it."""

    checkpoint: str | None = None
    """Weights: .safetensors, or a .pt or .ckpt file of tensors. A path, or the name of a bundled
    checkpoint. Without it the network keeps the weights it was made with."""

    classes: list[str] | str | None = None
    """Names of the classes in logit order, the name of a list such as imagenet-1k, or a text file
    with one per line; by default those in the checkpoint, or those that the network knows."""

    def build(self, name: str) -> BuiltStage:
        """Make the network and load its weights.

        Args:
            name: the stage's name, for messages.

        Returns:
            The stage in evaluation mode.

        Raises:
            UsageError: the checkpoint does not exist.
            CascadeError: it cannot be read, or belongs to another architecture.
        """
        argument = f"model.stages.{name}"
        classes: Sequence[str] | None = None
        if self.classes:
            classes = class_list(self.classes, f"{argument}.classes")
        network = self.network if isinstance(self.network, nn.Module) else self.network()
        known = load_weights(network, self.checkpoint, name, f"{argument}.checkpoint")
        return BuiltStage(name, network, classes or known).eval()


def load_weights(
    network: nn.Module, checkpoint: str | None, name: str, argument: str
) -> tuple[str, ...] | None:
    """Load weights into a network.

    Args:
        network: to load into.
        checkpoint: a path, or the name of a bundled checkpoint; None leaves the network as it is.
        name: the stage's name, for messages.
        argument: that names the checkpoint, for messages.

    Returns:
        Names of the network's classes in logit order: those in the checkpoint, or those that the
        network knows; None if neither says.

    Raises:
        UsageError: the checkpoint does not exist.
        CascadeError: it cannot be read, or belongs to another architecture.
    """
    if checkpoint is not None:
        path = find_bundled(checkpoint, "checkpoints", argument)
        weights, header = read_checkpoint(path)
        _load(network, weights, name, path)
        if "classes" in header:
            return tuple(json.loads(header["classes"]))
    known = getattr(network, "class_names", None)
    return None if known is None else tuple(known)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and header strings of a checkpoint; no code in it is ever run.

    Raises:
        CascadeError: the file is damaged, or holds something other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = dict(file.metadata() or {})
                return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118
        content = load_tensors(path)
    except (SafetensorError, RuntimeError, OSError, CascadeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise CascadeError(f"checkpoint {str(path)!r} cannot be read: {reason}.") from error
    weights = None
    if isinstance(content, Mapping):
        held = (content[key] for key in _HOLDERS if isinstance(content.get(key), Mapping))
        weights = next(held, content)
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CascadeError(
            f"checkpoint {str(path)!r} holds no weights: expected a dict of tensors, "
            "or a Lightning checkpoint with a 'state_dict'."
        )
    return dict(weights), {}


def _load(network: nn.Module, weights: dict[str, Tensor], name: str, path: Path) -> None:
    wanted = network.state_dict()
    for prefix in _WRAPPERS:
        wrapped = all(key.startswith(prefix) for key in weights)
        if wrapped and not set(weights) & set(wanted):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    for prefix in _WRAPPERS:  # and the reverse: the file of a bare network that is wrapped here
        if not set(weights) & set(wanted) and all(key.startswith(prefix) for key in wanted):
            weights = {prefix + key: value for key, value in weights.items()}
    missing = sorted(set(wanted) - set(weights))
    foreign = sorted(set(weights) - set(wanted))
    shapes = [
        f"{key} has shape {tuple(weights[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    if missing or foreign or shapes:
        parts = [
            *([f"{len(missing)} weights are missing (first {missing[0]})"] if missing else []),
            *([f"{len(foreign)} are unknown (first {foreign[0]})"] if foreign else []),
            *([f"{len(shapes)} differ in shape ({shapes[0]})"] if shapes else []),
        ]
        raise CascadeError(
            f"stage {name!r}: the checkpoint {str(path)!r} is of another architecture than "
            f"{type(network).__name__}: {', '.join(parts)}."
        )
    network.load_state_dict(weights)


def checkpoint_bytes(network: nn.Module, name: str, classes: Sequence[str] | None) -> bytes:
    """A network's weights as a safetensors file, with name and class names in the header."""
    header = {"format": CHECKPOINT_FORMAT, "name": name}
    if classes is not None:
        header["classes"] = json.dumps(list(classes))
    return safetensors_bytes({k: v.cpu() for k, v in network.state_dict().items()}, header)


def describe_network(network: nn.Module) -> dict[str, Any]:
    """The network's class, a fingerprint that changes with any weight, and its own description.

    A network may say more of itself by a method `description`, which returns plain JSON.
    """
    network = network.network if isinstance(network, BuiltStage) else network
    own = getattr(network, "description", None)
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return {
        "class": f"{type(network).__module__}.{type(network).__qualname__}",
        "weights": digest.hexdigest()[:16],
        **(own() if callable(own) else {}),
    }
