"""Records at the costs that a command is told to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from lit_cascade.prices import priced, prices_from

if TYPE_CHECKING:
    from lit_cascade.records import Record

__all__ = ["at_cost"]

_Options = TypeVar("_Options", bound=Any)


def at_cost(records: Sequence[Record], options: _Options) -> tuple[list[Record], _Options]:
    """Records with the costs of a file, and options whose `cost` is the unit alone.

    Raises:
        UsageError: a file that is not there, or that does not know one of the models.
    """
    unit, prices = prices_from(options.cost)
    return priced(records, unit, prices), replace(options, cost=unit)
