"""Samples as a dataset gives them before any model's preprocessing, and a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import default_collate

from lit_cascade.errors import CascadeError
from lit_cascade.live import RAW, Preprocessing, Remarked, Views

__all__ = ["RawSample", "collate_views", "is_left_out", "prepare", "remarks_on"]


class RawSample(NamedTuple):
    """A sample with what is to be said about it.

    Attributes:
        input: an image, a text, or whatever else the models' preprocessing takes.
        label: an integer, or a tensor of several, filled up with -1.
        remarks: what was done to it, such as a conversion; counted and reported.
        left_out: why it is left out, if so, such as a file that cannot be read; `input` is then a
            stand-in, and the answer to it is dropped.
        stop: whether the run is to end for that reason.
    """

    input: Any
    label: Any
    remarks: tuple[str, ...] = ()
    left_out: str | None = None
    stop: bool = False


def _parts(sample: Any) -> tuple[Any, Any]:
    """Input and label of a sample as any dataset may give it."""
    if isinstance(sample, RawSample):
        return sample.input, sample.label
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return sample[0], sample[1]
    if isinstance(sample, Mapping):
        for key in ("labels", "label"):
            if key in sample:
                rest = {name: value for name, value in sample.items() if name != key}
                return (next(iter(rest.values())) if len(rest) == 1 else rest), sample[key]
    raise CascadeError(
        "the data must give pairs of (input, label) or dicts with an entry 'labels', "
        f"got {type(sample).__name__}."
    )


class _Prepared(NamedTuple):
    """A sample as every model takes it; the full image or text is let go."""

    views: dict[str, Any]
    label: Any
    remarks: tuple[str, ...]


def prepare(sample: Any, preprocessings: Sequence[Preprocessing | None]) -> Any:
    """A sample as models take it, by the keys of their preprocessing; loaded once for all of them.

    Args:
        sample: of a dataset.
        preprocessings: distinct ones; None stands for models that take the data as they are.

    Returns:
        The sample itself if no model has preprocessing.
    """
    if all(one is None for one in preprocessings):
        return sample
    raw, label = _parts(sample)
    views: dict[str, Any] = {}
    remarks = list(sample.remarks) if isinstance(sample, RawSample) else []
    for one in preprocessings:
        view = raw if one is None else one(raw)
        if isinstance(view, Remarked):
            remarks.extend(view.remarks)
            view = view.tensors
        views[RAW if one is None else one.key] = view
    return _Prepared(views, label, tuple(remarks))


def is_left_out(sample: Any) -> bool:
    """Whether a sample is not to be answered for.

    Raises:
        CascadeError: the data are to stop at such samples.
    """
    if not isinstance(sample, RawSample) or sample.left_out is None:
        return False
    if sample.stop:
        raise CascadeError(
            f"data: {sample.left_out}. To leave out what cannot be read: "
            "data.init_args.unreadable: leave_out."
        )
    return True


def remarks_on(prepared: Any) -> tuple[str, ...]:
    """What there is to say about a sample that `prepare` gave."""
    return prepared.remarks if isinstance(prepared, (_Prepared, RawSample)) else ()


def collate_views(
    samples: Sequence[Any],
    collate: Callable[[list[Any]], Any],
    preprocessings: Sequence[Preprocessing | None],
) -> Any:
    """A batch of prepared samples.

    Args:
        samples: what `prepare` gave.
        collate: the user's, for samples that no model has preprocessing for.
        preprocessings: those that the samples went through.

    Returns:
        The user's batch if no model has preprocessing, else `(Views, labels)`.

    Raises:
        CascadeError: raw samples, of which no batch can be made, and a model without preprocessing.
    """
    first = samples[0]
    if isinstance(first, RawSample):
        return _as_they_are([(sample.input, sample.label) for sample in samples], collate)
    if not isinstance(first, _Prepared):
        return collate(list(samples))
    views = Views()
    for one in preprocessings:
        key = RAW if one is None else one.key
        ways = getattr(one, "collate", default_collate)
        views[key] = _as_they_are([sample.views[key] for sample in samples], ways)
    return views, torch.as_tensor(default_collate([sample.label for sample in samples]))


def _as_they_are(samples: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    try:
        return collate(samples)
    except (TypeError, RuntimeError) as error:
        kind = samples[0][0] if isinstance(samples[0], tuple) else samples[0]
        raise CascadeError(
            f"data: no batch can be made of {type(kind).__name__}s ({error}). A model without "
            "preprocessing of its own takes the data as they are: give a model with preprocessing, "
            "such as lit_cascade.models.Timm, or data of tensors."
        ) from error
