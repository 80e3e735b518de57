"""Stages of a cascade: building the network, loading and saving its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import Preprocessing
from lit_cascade.utilities.class_names import class_list, columns_of
from lit_cascade.utilities.files import find_bundled
from lit_cascade.utilities.tensors import CHECKPOINT_FORMAT, load_tensors, safetensors_pieces

_HOLDERS = ("state_dict", "model", "model_state_dict")
"""Keys under which Lightning, timm and training scripts store weights in a checkpoint."""

_UNDECIDED = (
    "num_classes: data needs a checkpoint that lit-cascade fit has written, or beside another "
    "checkpoint the option classes"
)

_WRAPPERS = ("network.", "model.", "module.", "_orig_mod.")
"""Prefixes that Lightning, timm's stage, DDP and torch.compile add to names of weights."""


class BuiltStage(nn.Module):
    """Classifier in memory, with its logits in a chosen order of classes.

    Args:
        name: name of the stage.
        network: takes a batch and returns logits, or an output with an attribute `logits`. If it
            has an attribute `preprocessing`, that is applied to raw samples before they are
            batched.
        classes: names of the network's classes in the order of its logits; None if unknown.

    Attributes:
        class_names: names of the classes in the order of the stage's logits; None if unknown.
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
        """Preprocessing of raw samples, if the network has one."""
        return getattr(self.network, "preprocessing", None)

    def answer_among(self, classes: Sequence[str], whose: str, *, fewer: bool = False) -> None:
        """Reorder the logits by class names; without class names of its own, do nothing.

        Args:
            classes: class names in label order.
            whose: owner of these classes, for messages.
            fewer: whether the network may know more classes, whose logits are then dropped.

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
                f"stage {self.name!r}: expected {len(self.known)} logits, one per class name, got "
                f"{logits.shape[1]}."
            )
        return logits.index_select(1, self.columns)


@dataclass
class Stage:
    """Classifier: a network and its weights.

    The network takes a batch of the data, does its own normalisation, and returns logits. If it has
    an attribute `preprocessing`, that is applied to raw samples first.
    """

    network: Callable[[], nn.Module]
    """Class (class_path and init_args) of the network, or a function that makes it."""

    checkpoint: str | None = None
    """Weights: .safetensors, or a .pt or .ckpt file of tensors. A path, or the name of a bundled
    checkpoint. Without it the network keeps its initial weights."""

    classes: list[str] | str | None = None
    """Names of the classes in logit order, the name of a list such as imagenet-1k, or a text file
    with one per line; by default those in the checkpoint, or the network's own."""

    def build(self, name: str) -> BuiltStage:
        """Create the network and load its weights.

        Args:
            name: name of the stage.

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
        known = load_weights(network, self.checkpoint, name, f"{argument}.checkpoint", classes)
        if getattr(network, "undecided", False):
            raise UsageError(f"{argument}.checkpoint: expected one, got none: {_UNDECIDED}.")
        return BuiltStage(name, network, classes or known).eval()


def load_weights(
    network: nn.Module,
    checkpoint: str | None,
    name: str,
    argument: str,
    classes: Sequence[str] | None = None,
) -> tuple[str, ...] | None:
    """Load weights into a network.

    A network whose attribute `undecided` is true first gets a head for the classes of the
    checkpoint, by its method `decide_classes`.

    Args:
        network: network to load into.
        checkpoint: a path, or the name of a bundled checkpoint; None leaves the network as it is.
        name: name of the stage, for messages.
        argument: name of the option of the checkpoint, for messages.
        classes: names of the classes of a checkpoint that has none, in logit order.

    Returns:
        Names of the network's classes in logit order: those in the checkpoint, or the network's
        own; None if neither has any.

    Raises:
        UsageError: the checkpoint does not exist, or names no classes for an undecided head.
        CascadeError: it cannot be read, or belongs to another architecture.
    """
    if checkpoint is not None:
        path = find_bundled(checkpoint, "checkpoints", argument)
        weights, header = read_checkpoint(path)
        if getattr(network, "undecided", False):
            named = json.loads(header["classes"]) if "classes" in header else classes
            if named is None:
                raise UsageError(f"{argument}: {str(path)!r} names no classes: {_UNDECIDED}.")
            cast("Any", network).decide_classes(named)
        _load(network, weights, name, path)
        if "classes" in header:
            return tuple(json.loads(header["classes"]))
    known = getattr(network, "class_names", None)
    return None if known is None else tuple(known)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights and header strings of a checkpoint, without running code in it.

    Raises:
        CascadeError: the file is damaged, or holds anything but tensors.
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
    for prefix in _WRAPPERS:  # the reverse: weights of a bare network for one that is wrapped
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


def checkpoint_pieces(
    network: nn.Module, name: str, classes: Sequence[str] | None
) -> list[bytes | memoryview]:
    """Weights of a network as a safetensors file, with name and class names in the header."""
    header = {"format": CHECKPOINT_FORMAT, "name": name}
    if classes is not None:
        header["classes"] = json.dumps(list(classes))
    return safetensors_pieces(
        {key: value.cpu() for key, value in network.state_dict().items()}, header
    )


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Describe a network for records: its class and a fingerprint of its weights.

    A network may add to this by a method `description` that returns plain JSON.
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
