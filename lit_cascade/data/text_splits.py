"""Which published splits of a set of texts are read as which."""

from __future__ import annotations

from collections.abc import Mapping

from lit_cascade.data.tables import published_splits
from lit_cascade.errors import UsageError, check_name

__all__ = ["find_splits"]

_VALIDATION = ("validation", "validation_matched", "test")


def find_splits(
    source: str, config: str | None, given: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The published split that is read as `train`, `validation` and `test`, where there is one.

    Args:
        source: as for `load_table`.
        config: the same.
        given: those that the user named. If these are `train` and `validation`, nobody is asked
            which there are.

    Returns:
        `validation` always; its name is None for a single table.

    Raises:
        UsageError: a named split is not there, or which one is `validation` cannot be told.
    """
    found = {split: name for split, name in given.items() if name is not None}
    if {"train", "validation"} <= found.keys():
        return dict(found)
    names = published_splits(source, config)
    if not names:
        if found:
            raise UsageError(
                f"data.{next(iter(found))}_split: {source!r} is a single table without splits; "
                "give a folder with files called after them."
            )
        return {"validation": None}
    for split, name in found.items():
        check_name(name, names, f"data.{split}_split")
    others = [name for name in names if name not in found.values()]
    if "validation" not in found:
        likely = [name for name in _VALIDATION if name in others] or others
        if likely == others and len(others) != 1:
            raise UsageError(
                "data.validation_split: expected the name of a published split: "
                f"{', '.join(names)}."
            )
        found["validation"] = likely[0]
    if "train" not in found and "train" in others and found["validation"] != "train":
        found["train"] = "train"
    return dict(found)
