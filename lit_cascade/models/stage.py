"""One stage of a cascade: how its network is built, and where its weights come from."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lit_cascade.errors import CascadeError
from lit_cascade.files import find_bundled, safetensors_bytes

__all__ = ["CHECKPOINT_FORMAT", "Stage", "checkpoint_bytes", "describe_network", "read_checkpoint"]

CHECKPOINT_FORMAT = "lit-cascade-checkpoint/1"


@dataclass
class Stage:
    """A classifier: a network and its weights.

    The network takes a batch as the data gives it, does its own normalisation, and returns logits.
    """

    network: Callable[[], nn.Module]
    """Class (class_path and init_args) of the network, or a function that makes it."""

    checkpoint: str | None = None
    """Weights: .safetensors, or a .pt or .ckpt file of tensors. A path, or the name of a bundled
    checkpoint. Without it the network keeps the weights it was made with."""

    classes: list[str] | None = None
    """Names of the classes in logit order; by default those in the checkpoint, if it has any."""

    def build(self, name: str) -> tuple[nn.Module, tuple[str, ...] | None]:
        """Make the network and load its weights.

        Args:
            name: the stage's name, for messages.

        Returns:
            The network in evaluation mode, and its class names if they are known.

        Raises:
            UsageError: the checkpoint does not exist.
            CascadeError: it cannot be read, or belongs to another architecture.
        """
        network = self.network if isinstance(self.network, nn.Module) else self.network()
        classes = tuple(self.classes) if self.classes else None
        if self.checkpoint is not None:
            path = find_bundled(self.checkpoint, "checkpoints", f"model.stages.{name}.checkpoint")
            weights, header = read_checkpoint(path)
            _load(network, weights, name, path)
            if classes is None and "classes" in header:
                classes = tuple(json.loads(header["classes"]))
        return network.eval(), classes


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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise CascadeError(f"checkpoint {str(path)!r} cannot be read: {reason}") from error
    weights = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CascadeError(
            f"checkpoint {str(path)!r} holds no weights: expected a dict of tensors, "
            "or a Lightning checkpoint with a 'state_dict'."
        )
    return dict(weights), {}


def _load(network: nn.Module, weights: dict[str, Tensor], name: str, path: Path) -> None:
    wanted = network.state_dict()
    for prefix in ("network.", "model.", "module."):  # how Lightning and DDP wrap a network
        wrapped = all(key.startswith(prefix) for key in weights)
        if wrapped and not set(weights) & set(wanted):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
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


def describe_network(network: nn.Module) -> dict[str, str]:
    """The network's class, and a fingerprint that changes with any weight."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return {
        "class": f"{type(network).__module__}.{type(network).__qualname__}",
        "weights": digest.hexdigest()[:16],
    }
