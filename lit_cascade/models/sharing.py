"""Stages as plain values and tensors, from which they are made again without running code.

A config file may name any class, and making it runs that class. What comes from a stranger may
therefore name the networks of this package alone, with arguments that name no code either; the
rest is safetensors.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lit_cascade.errors import CascadeError, UsageError, check_file_name
from lit_cascade.models.network import Network, plain
from lit_cascade.models.networks import ConvNet, Perceptron, ResNet
from lit_cascade.models.stage import BuiltStage, Stage, checkpoint_pieces
from lit_cascade.models.text_networks import TextBag, TextConvNet
from lit_cascade.models.timm import Timm
from lit_cascade.models.transformers import TextClassifier, check_text_files
from lit_cascade.utilities.files import Content

_ROOM = "lit_cascade.models"
_SCALED = {"inputs", "widths", "classes", "scale"}
_TEXTS = {"pretrained", "classes", "width", "dropout", "hidden_words", "max_length", "num_classes"}
_ARGUMENTS: dict[type[Network], set[str]] = {
    Perceptron: _SCALED,
    ConvNet: _SCALED - {"inputs"} | {"side", "strides", "channels", "dropout"},
    ResNet: {"widths", "blocks", "stem_stride", "classes", "mean", "std"},
    Timm: {
        "model", "pretrained", "use_test_size", "img_size", "num_classes", "data_args",
        "model_args",
    },
    TextClassifier: {"pretrained", "dtype", "max_length"},
    TextBag: _TEXTS,
    TextConvNet: _TEXTS | {"convolutions", "kernel_size"},
}  # fmt: skip
"""Networks that a shared folder may name, with the arguments that it may give them."""

_MODEL_ARGS = {
    "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate", "proj_drop_rate",
    "attn_drop_rate", "dynamic_img_size", "strict_img_size",
}  # fmt: skip
"""Of `timm.create_model`, whose other arguments may name files, addresses and layers."""
_DATA_ARGS = {"crop_pct", "crop_mode", "interpolation", "mean", "std"}
_FOLDERS: dict[type[Network], str] = {
    TextClassifier: "model", TextBag: "words", TextConvNet: "words",
}  # fmt: skip
"""Argument that is the folder of a network's text files."""
TEXT_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")

Trusted = Sequence[type[nn.Module]]
"""Networks of one's own that a shared folder may name beside those of this package."""


def shared_stage(stage: BuiltStage) -> tuple[dict[str, Any], dict[str, Content]]:
    """A stage as plain values and files.

    Args:
        stage: of a cascade in memory.

    Returns:
        The config of the stage, as `stage_from` takes it, and its files by their paths.

    Raises:
        CascadeError: a network that cannot be made again from these.
    """
    network, name = stage.network, stage.name
    who = f"stage {name!r}"
    if not isinstance(network, Network):
        raise CascadeError(
            f"{who}: its network is a {type(network).__name__}, and only networks of {_ROOM} and "
            f"subclasses of {_ROOM}.Network know how they are made again."
        )
    try:
        arguments, texts = network.portable()
        arguments = {key: plain(value, key) for key, value in arguments.items()}
    except CascadeError as error:
        raise CascadeError(f"{who} cannot be shared: {str(error).rstrip('.')}.") from error
    class_path = _path_of(type(network))
    config: dict[str, Any] = {"network": {"class_path": class_path, "init_args": arguments}}
    _check_same(stage, config, texts)
    weights = f"{name}.safetensors"
    files: dict[str, Content] = {weights: checkpoint_pieces(network, name, stage.known)}
    files |= {f"{name}/{file}": text.encode() for file, text in texts.items()}
    return config | {"checkpoint": weights}, files


def _check_same(stage: BuiltStage, config: dict[str, Any], texts: Mapping[str, str]) -> None:
    """Check that a network without its weights has the same weights' shapes and preprocessing."""
    original, own = stage.network, type(stage.network)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            path = Path(folder, stage.name, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        again = _network(stage.name, config, Path(folder), [] if own in _ARGUMENTS else [own])()
    shapes = [{k: v.shape for k, v in one.state_dict().items()} for one in (original, again)]
    steps = [
        (getattr(getattr(one, "preprocessing", None), "key", None), _scaling(one))
        for one in (original, again)
    ]
    if shapes[0] != shapes[1] or steps[0] != steps[1]:
        what = "preprocessing" if shapes[0] == shapes[1] else "weights"
        raise CascadeError(
            f"stage {stage.name!r} cannot be shared: made again from its arguments, its network "
            f"has other {what}."
        )


def _scaling(network: nn.Module) -> Any:
    steps = network.description()["preprocessing"] if isinstance(network, Timm) else {}
    return steps.get("mean"), steps.get("std")


def stage_from(name: str, config: Any, folder: Path, trusted: Trusted = ()) -> Stage:
    """A stage of a shared folder, of whatever origin.

    Args:
        name: of the stage.
        config: as `shared_stage` gives it.
        folder: where its files are.
        trusted: networks of one's own that the folder may name.

    Raises:
        UsageError: a config with anything that `shared_stage` does not write.
    """
    check_file_name(name, "stages")
    if not isinstance(config, dict) or config.get("checkpoint") != f"{name}.safetensors":
        raise UsageError(
            f"stage {name!r}: expected a network and the checkpoint {name + '.safetensors'!r} "
            "beside it."
        )
    if strange := sorted(map(str, set(config) - {"network", "checkpoint"})):
        raise UsageError(f"stage {name!r}: {strange[0]!r} is not read from a shared folder.")
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise UsageError(f"stage {name!r}: its weights {str(path)!r} are missing.")
    return Stage(_network(name, config, folder, trusted), str(path.absolute()))


def _network(name: str, config: dict[str, Any], folder: Path, trusted: Trusted) -> Any:
    """What makes a network of a shared folder; its arguments are checked before."""
    who, network = f"stage {name!r}", config.get("network")
    network = network if isinstance(network, dict) else {}
    known: dict[str, type[nn.Module]] = {_path_of(one): one for one in (*_ARGUMENTS, *trusted)}
    path = network.get("class_path")
    if path not in known:
        raise UsageError(
            f"{who}: the network {path!r} is not run from a shared folder; expected one of "
            f"{_ROOM} ({', '.join(one.__name__ for one in _ARGUMENTS)}).\n"
            "A class of your own that you trust: load_cascade(..., networks=[MyNetwork])."
        )
    kind, arguments = known[path], network.get("init_args") or {}
    if set(network) - {"class_path", "init_args"} or not isinstance(arguments, dict):
        raise UsageError(f"{who}: expected class_path and init_args of its network.")
    if issubclass(kind, Network) and kind in _ARGUMENTS:
        _check_arguments(who, kind, arguments)
        if key := _FOLDERS.get(kind):
            arguments = {**arguments, key: str(_text_folder(who, folder / name))}
    return partial(_make, kind, arguments, who)


def _make(kind: type[nn.Module], arguments: Mapping[str, Any], who: str) -> nn.Module:
    try:
        return kind(**arguments)
    except CascadeError:
        raise
    except Exception as error:  # of arguments of whatever type
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise UsageError(f"{who}: {kind.__name__} cannot be made: {reason}.") from error


def _check_arguments(who: str, kind: type[Network], arguments: Mapping[str, Any]) -> None:
    """Check that arguments name neither code nor files nor other folders.

    Raises:
        UsageError: one that does, or might.
    """
    refused = [key for key in arguments if key not in _ARGUMENTS[kind]]
    if "pretrained" in _ARGUMENTS[kind] and arguments.get("pretrained") is not False:
        refused.append("pretrained")  # the weights are those beside it
    if kind is Timm:
        refused += [] if re.fullmatch(r"\w+(\.\w+)?", str(arguments.get("model"))) else ["model"]
        refused += [] if isinstance(arguments.get("num_classes"), int | None) else ["num_classes"]
        for key, allowed in (("model_args", _MODEL_ARGS), ("data_args", _DATA_ARGS)):
            given = arguments.get(key) or {}
            fits = isinstance(given, dict) and set(given) <= allowed
            refused += [] if fits and _flat(given) else [key]
    elif not _flat(arguments):
        refused += [key for key in arguments if not _flat({key: arguments[key]})]
    if refused:
        raise UsageError(
            f"{who}: {refused[0]} = {arguments.get(refused[0])!r} of {kind.__name__} is not read "
            "from a shared folder."
        )


def _flat(arguments: Mapping[str, Any]) -> bool:
    """Whether arguments are numbers, texts or lists of them."""
    single = (bool, int, float, str, type(None))
    return all(
        isinstance(value, single)
        or (isinstance(value, list) and all(isinstance(one, single) for one in value))
        for value in arguments.values()
    )


def _text_folder(who: str, folder: Path) -> Path:
    """A folder of text files, checked."""
    try:
        paths = [folder / file for file in TEXT_FILES]
        check_text_files({path.name: path.read_text(encoding="utf-8") for path in paths})
    except (OSError, UnicodeDecodeError, CascadeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{who}: {str(folder)!r}: {reason.rstrip('.')}.") from error
    return folder


def _path_of(kind: type[nn.Module]) -> str:
    return f"{_ROOM if kind in _ARGUMENTS else kind.__module__}.{kind.__qualname__}"
