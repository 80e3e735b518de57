"""What a reader must know of the data and the models behind some figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["data_notes", "fitting_notes", "model_notes"]

_SHOWN = 3


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """One note per thing that is not as it might seem.

    Args:
        data: the description of the data in a record.

    Example:
        >>> data_notes({"left_out": [["a.jpg", "a.jpg: not an image"]], "remarks": {"blurred": 2}})
        ['Note: 1 sample is left out: a.jpg: not an image.', 'Note: 2 samples: blurred.']
    """
    notes = []
    if data.get("limited_to"):
        notes.append(f"Note: only {data['limited_to']} of the split were read.")
    gone = Counter(str(reason) for _, reason in data.get("left_out", []))
    if gone:
        n = gone.total()
        reasons = [
            reason if times == 1 else f"{reason} ({times:,})"
            for reason, times in gone.most_common(_SHOWN)
        ]
        more = f"; and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        notes.append(f"Note: {_samples(n)} {_are(n)} left out: {'; '.join(reasons)}{more}.")
    notes += [f"Note: {_samples(n)}: {text}." for text, n in data.get("remarks", {}).items()]
    notes += [f"Note: {finding}." for finding in data.get("findings", [])]
    return notes


def model_notes(models: Sequence[tuple[str, Mapping[str, Any], int]]) -> list[str]:
    """A note for models that answer among fewer classes than they know.

    Args:
        models: name, settings as in a record, and number of classes that it answers among.
    """
    known = Counter(
        (int(settings["known_classes"]), answers)
        for _, settings, answers in models
        if settings.get("known_classes", answers) != answers
    )
    return [
        f"Note: {n} of the {len(models)} models {'knows' if n == 1 else 'know'} {width:,} classes "
        f"and {'answers' if n == 1 else 'answer'} among the {answers:,} of the data only."
        for (width, answers), n in known.items()
    ]


def fitting_notes(fitting: Mapping[str, int]) -> list[str]:
    """A note for each model whose whole batches did not fit into memory.

    Args:
        fitting: samples per forward pass, by model.
    """
    return [
        f"Note: batches of {name!r} did not fit into memory; it ran {size} at a time, which may "
        "change the last digits."
        for name, size in fitting.items()
    ]


def _samples(n: int) -> str:
    return f"{n:,} sample{'' if n == 1 else 's'}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
