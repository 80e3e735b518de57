"""Class names: lists that data and models refer to by name, and alignment of two lists."""

from __future__ import annotations

import pkgutil
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError

CLASS_LISTS = (
    "imagenet-1k",
    "imagenet-a",
    "imagenet-r",
    "imagenet-12k",
    "imagenet-22k",
    "imagenet-22k-ms",
    "imagenet-21k-goog",
    "imagenet-21k-miil",
)
"""Names of timm's lists of ImageNet's classes (WordNet synsets such as n01440764)."""

_SYNSET = re.compile(r"n\d{8}")

_PARTS = {"imagenet-a": "imagenet_a_synsets.txt", "imagenet-r": "imagenet_r_synsets.txt"}


@cache
def _timm_list(name: str) -> tuple[str, ...]:
    if name in _PARTS:
        content = pkgutil.get_data("timm.data", f"_info/{_PARTS[name]}")
        return tuple((content or b"").decode().split())
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo(name).label_names())


def class_list(classes: str | Sequence[str], argument: str) -> tuple[str, ...]:
    """Read class names in label order.

    Args:
        classes: a name in `CLASS_LISTS`, the path of a text file with one name per line, or the
            names themselves.
        argument: name of the option, for messages.

    Raises:
        UsageError: there is no such list or file, or the names are not two or more distinct ones.
    """
    if not isinstance(classes, str):
        names = tuple(str(name) for name in classes)
    elif classes in CLASS_LISTS:
        names = _timm_list(classes)
    elif Path(classes).is_file():
        try:
            lines = Path(classes).read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{argument}: {classes!r} cannot be read: {error}.") from error
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        raise UsageError(
            f"{argument}: {classes!r} is neither a file with one class name per line nor one of "
            f"{', '.join(CLASS_LISTS)}."
        )
    if len(set(names)) != len(names) or len(names) < 2:
        twice = next((name for name in names if names.count(name) > 1), None)
        got = f"{twice!r} twice" if twice else len(names)
        raise UsageError(f"{argument}: expected two or more distinct class names, got {got}.")
    return names


def readable_names(classes: Sequence[str]) -> dict[str, str] | None:
    """Readable name of each class, where all of them are WordNet synsets; otherwise None.

    A name is the first lemma of the synset in the lists of timm.

    Examples:
        >>> readable_names(["n01440764", "n02123045"])
        {'n01440764': 'tench', 'n02123045': 'tabby'}
    """
    if not all(_SYNSET.fullmatch(name) for name in classes):
        return None
    content = pkgutil.get_data("timm.data", "_info/imagenet_synset_to_lemma.txt") or b""
    lemmas = dict(line.split("\t") for line in content.decode().splitlines())
    return {name: lemmas.get(name, name).partition(",")[0].strip('" ') for name in classes}


def columns_of(
    known: Sequence[str], wanted: Sequence[str], who: str, whose: str, *, fewer: bool = False
) -> Tensor | None:
    """Columns of a model's logits for some classes, by name.

    Args:
        known: names of the model's classes, in logit order.
        wanted: names of the classes to answer among, in label order.
        who: the model, for messages.
        whose: owner of the classes that are wanted, for messages.
        fewer: whether the model may know more classes than are wanted.

    Returns:
        Positions (C,) int64; None if they are all of the model's, in its order.

    Raises:
        CascadeError: the model lacks a class, has one twice, or has others; both lists are shown.
    """
    if set(wanted) - set(known):
        known, wanted = _normalised(known, wanted)
    if list(known) == list(wanted):
        return None
    where = {name: position for position, name in enumerate(known)}
    missing = [name for name in wanted if name not in where]
    twice = [name for name in wanted if list(known).count(name) > 1] if not missing else []
    others = sorted(set(known) - set(wanted))
    if missing:
        lack = f"lacks {len(missing)} of them, first {missing[0]!r}"
    elif twice:
        lack = f"has {twice[0]!r} more than once"
    elif others and not fewer:
        lack = (
            f"has {len(others)} others, first {others[0]!r}; where a model is to answer only among "
            "the classes of the data, the data must say so: data.init_args.classes"
        )
    else:
        return torch.tensor([where[name] for name in wanted])
    raise CascadeError(
        f"the classes of {who} and {whose} cannot be aligned: {whose} has {len(wanted)} "
        f"({_some(wanted)}), {who} has {len(known)} ({_some(known)}), and {lack}."
    )


def _normalised(known: Sequence[str], wanted: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Both lists without differences in case and separators, if that aligns them.

    Checkpoints of one task may have ENTAILMENT and not-entailment where the data have entailment
    and not_entailment.
    """
    plain = [[_plain(name) for name in names] for names in (known, wanted)]
    distinct = all(len(set(names)) == len(names) for names in plain)
    return (
        (plain[0], plain[1]) if distinct and not set(plain[1]) - set(plain[0]) else (known, wanted)
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def numbers_among(names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Number of each name that is a class, regardless of case and separators.

    Names that could be two classes, or two names that could be one class, are taken as written.

    Examples:
        >>> numbers_among(["Yes", "NOT-yet", "other"], ["not_yet", "yes"])
        {'Yes': 1, 'NOT-yet': 0}
    """
    number = {name: position for position, name in enumerate(classes)}
    plain = Counter(map(_plain, classes))
    loose = {_plain(name): k for name, k in number.items() if plain[_plain(name)] == 1}
    alike = Counter(map(_plain, names))
    found = {}
    for name in names:
        position = number.get(name)
        if position is None and alike[_plain(name)] == 1:
            position = loose.get(_plain(name))
        if position is not None:
            found[name] = position
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
