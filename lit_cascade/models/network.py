"""What the networks of this package have in common: they can be made again elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self

from torch import nn

from lit_cascade.errors import CascadeError


class Network(nn.Module):
    """Base of networks that remember the arguments that they were made with.

    Attributes:
        init_args: these arguments by name, without those left to their defaults.
    """

    init_args: Mapping[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the network, and note its arguments."""
        network = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(network, *args, **kwargs)
        except TypeError:  # `__init__` says what is wrong with them; copies are made without any
            return network
        given: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            variable = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            given |= value if variable else {name: value}
        network.init_args = given
        return network

    def portable(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What makes this network again without its weights.

        Returns:
            Arguments as plain values, and the text files that they refer to, by name. An argument
            that is their folder is left out.

        Raises:
            CascadeError: a network that cannot be made from these alone.
        """
        return {name: plain(value, name) for name, value in self.init_args.items()}, {}


def plain(value: Any, what: str) -> Any:
    """An argument as YAML holds it.

    Args:
        value: the argument.
        what: its name, for the message.

    Raises:
        CascadeError: anything but numbers, texts, and lists and mappings of them.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(one, what) for one in value]
    if isinstance(value, Mapping):
        return {str(key): plain(one, what) for key, one in value.items()}
    raise CascadeError(f"its argument {what} is of {type(value).__name__}, no plain value")
