"""Errors that users see, and checks that raise them.

No import of torch: the command line reports mistakes before it loads anything heavy.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lit_cascade.utilities.text import single_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

_LONGEST_LIST = 200
_LONGEST_NAME = 1000
LONGEST_FILE_NAME = 255
"""Bytes of a file's name that the usual file systems take."""
_LONGEST_SUFFIX = ".safetensors"


class CascadeError(Exception):
    """Data, models or files that make a result impossible.

    The message names the argument, what was expected and what was given. The command line prints
    it without a traceback and exits with `exit_code`.
    """

    exit_code = 1


class UsageError(CascadeError):
    """Wrong usage: an unknown name, a missing file, a value out of range."""

    exit_code = 2


def listed(names: Iterable[str]) -> str:
    """Join names with commas; empty if that is too long for a message."""
    text = ", ".join(names)
    return text if len(text) <= _LONGEST_LIST else ""


def nearest(name: str, known: Iterable[str], most: int = 5, *, like: float = 0.5) -> list[str]:
    """Return the names most like a misspelt one, the best first.

    Args:
        name: the misspelt one.
        known: the names.
        most: how many to return.
        like: least similarity, 0 to 1.
    """
    spelt = {one.lower(): one for one in known}
    alike = difflib.get_close_matches(name.lower(), list(spelt), most, like)
    return [spelt[one] for one in alike]


def check_name(name: str, known: Iterable[str], argument: str) -> str:
    """Return `name` if it is among `known`.

    Raises:
        UsageError: an unknown name; the message lists similar names, and all unless there are many.
    """
    known = list(known)
    if name in known:
        return name
    many = not listed(known)
    alike = difflib.get_close_matches(name, known, n=3 if many else 1)
    hint = f" Did you mean {' or '.join(map(repr, alike))}?" if alike else ""
    which = f"{len(known):,} others are" if many else f"known are {', '.join(known)}"
    raise UsageError(f"{argument}: {name!r} is unknown; {which}{' known' * many}.{hint}")


def check_file_name(name: str, argument: str) -> None:
    """Check that a stage's name can name its record and checkpoint.

    Raises:
        UsageError: an empty name, a leading dot, a slash, a hidden character, or too long a name.
    """
    if not name or name.startswith(".") or set(name) & set("/\\") or single_line(name) != name:
        raise UsageError(
            f"{argument}: {name!r} cannot name a file; leave out slashes, leading dots and hidden "
            "characters."
        )
    size, most = len(name.encode()), LONGEST_FILE_NAME - len(_LONGEST_SUFFIX)
    if size > most:
        raise UsageError(
            f"{argument}: {name[:20] + '...'!r} has {size} bytes; a file system takes "
            f"{LONGEST_FILE_NAME}, which leaves {most} before {_LONGEST_SUFFIX}."
        )


def name_fault(name: object) -> str:
    r"""What keeps a name of a model or a class from being shown and told from others; or nothing.

    Examples:
        >>> name_fault("resnet8"), name_fault("a\nb")
        ('', "'a\\nb' has line breaks or other hidden characters")
    """
    if not isinstance(name, str) or not name.strip():
        return f"expected a text, got {name!r}"
    if len(name) > _LONGEST_NAME:
        return f"{name[:20] + '...'!r} is longer than {_LONGEST_NAME:,} characters"
    if single_line(name) != name:
        return f"{name!r} has line breaks or other hidden characters"
    return ""


def check_labels(labels: Tensor, n: int, classes: int, what: str) -> None:
    """Check that `labels` are integers in [0, classes), one or several per sample.

    Args:
        labels: (n,), or (n, M) with M >= 2 and -1 as padding where several labels are right.
        n: number of samples.
        classes: number of classes.
        what: owner of the labels, for the message.

    Raises:
        CascadeError: other labels; the message names the first offending sample.
    """
    whole = "int" in str(labels.dtype)  # by name, as torch is not imported
    several = labels.ndim == 2 and labels.shape[1] > 1
    if not (labels.ndim == 1 or several) or not whole or labels.shape[0] != n:
        raise CascadeError(
            f"{what}: labels must be {n} integers, one per sample, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    wrong = (labels < (-1 if several else 0)) | (labels >= classes)
    if several:
        wrong = wrong.any(dim=1) | (labels < 0).all(dim=1)
        ordered = labels.sort(dim=1).values
        again = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(dim=1)
        if bool((again & ~wrong).any()):
            row = int((again & ~wrong).nonzero()[0, 0])
            raise CascadeError(
                f"{what}: the labels {labels[row].tolist()} at row {row} repeat: expected the "
                "numbers of the right classes, filled up with -1, and not one value per class."
            )
    rows = wrong.nonzero()
    if len(rows):
        row = int(rows[0, 0])
        given = [label for label in labels[row].tolist() if label >= 0] if several else None
        which = f"label {int(labels[row])}" if given is None else f"labels {given}"
        raise CascadeError(
            f"{what}: {which} at row {row} is outside the {classes} classes "
            f"(0 to {classes - 1}). Labels of -1 mark an unlabelled test set."
        )
