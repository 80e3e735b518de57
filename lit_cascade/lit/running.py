"""A cascade at work on a split: the rows that its test loop returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lit_cascade.data import DeferredLoader, EvaluationData, PositionedBatch
from lit_cascade.errors import CascadeError
from lit_cascade.lit.stages import distinct, inputs_and_rows
from lit_cascade.live import RAW, Answered, Inputs, Preprocessing, Stream, join

if TYPE_CHECKING:
    from lit_cascade.lit.cascade import LitCascade

_SMALLEST_PIECE = 8
"""Samples below which it is not worth dividing a batch among workers."""

__all__ = ["Running", "Views", "check_finite", "views_of"]


class Views(NamedTuple):
    """Which preprocessing is done to every sample, and which only to those that get that far.

    Attributes:
        opening: for every sample.
        fetched: stages for which deferred samples are loaded once more.
    """

    opening: list[Preprocessing | None]
    fetched: list[int]


def views_of(found: list[Preprocessing | None], *, metered: bool = True) -> Views:
    """How the samples of a cascade are to be loaded.

    Samples that a later stage takes as the first one does are kept from its batches. For other
    stages only what was deferred to them is decoded, resized or tokenised. Where samples are padded
    the deferred ones are loaded anew too, since gathered from several batches they would keep the
    padding of each.

    Args:
        found: preprocessing of each stage, None for those that want nothing.
        metered: whether the cost of the last stage alone is to be known for every sample, for which
            the lengths of padded ones must be known.
    """
    keys = [RAW if one is None else one.key for one in found]
    padded = [hasattr(one, "collate") for one in found]
    fetched = [k for k in range(1, len(found)) if keys[k] != keys[0] or padded[k]]
    opening = [found[0]] + ([found[-1]] if metered and padded[-1] else [])
    return Views(distinct(opening), fetched)


class Running:
    """Feeds the batches of a test loop to a cascade and makes rows of its answers.

    Args:
        module: the cascade, on its device.
        data: that the loop reads.
        views: how samples are loaded.
        metered: whether to tell what each sample cost.
    """

    def __init__(
        self, module: LitCascade, data: EvaluationData, views: Views, *, metered: bool = True
    ) -> None:
        self._module, self._data = module, data
        stages = self._stages = list(module.networks().values())
        self._loaders = {k: data.deferred_loader(stages[k].preprocessing) for k in views.fetched}
        self._last = module.names[-1]
        keys = {RAW if one is None else one.key for one in views.opening}
        last = stages[-1].preprocessing
        self._metered = metered
        self._alone: float | None = None
        if metered and (RAW if last is None else last.key) not in keys:
            self._alone = self._cost_of_one(self._loaders[len(stages) - 1])
        self._stream = Stream(
            module.cascade,
            data.window,
            data.batch_size,
            self._fetch,
            views.fetched,
            observe=self._observe if metered else None,
        )

    def step(self, batch: PositionedBatch, *, last: bool) -> dict[str, Tensor] | None:
        """Take a batch, and return the rows of the samples whose answers are complete.

        Args:
            batch: of the loop.
            last: whether it is the last one of this process.

        Raises:
            CascadeError: NaN or infinite logits.
        """
        inputs, rows = inputs_and_rows(batch)
        rows["positions"] = batch.positions
        done = self._stream.push(inputs, batch.positions.cpu(), rows)
        done += self._stream.flush() if last else []
        parts = [self._rows(one) for one in done]
        if not parts:
            return None
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _fetch(self, k: int, batches: list[list[int]]) -> Iterator[Inputs]:
        """The inputs of a stage, batch by batch.

        A worker makes a whole batch, and what is deferred to a stage is often no more than one: it
        is loaded in pieces, so that all workers have a part in it. Padded samples are not, since
        the padding of a piece is its own.
        """
        pieces = [self._pieces(k, batch) for batch in batches]
        loaded = self._loaders[k]([piece for batch in pieces for piece in batch])
        for batch in pieces:
            yield join([self._inputs(next(loaded)) for _ in batch])

    def _pieces(self, k: int, batch: list[int]) -> list[list[int]]:
        padded = hasattr(self._stages[k].preprocessing, "collate")
        count = 1 if padded else max(1, min(self._data.workers, len(batch) // _SMALLEST_PIECE))
        size = -(-len(batch) // count)
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def _inputs(self, loaded: Any) -> Inputs:
        batch = self._module.trainer.precision_plugin.convert_input(loaded)
        batch = self._data.on_device(batch, self._module.device)
        self._module.remarks.extend(batch.remarks)
        return inputs_and_rows(batch)[0]

    def _cost_of_one(self, loader: DeferredLoader) -> float:
        """FLOPs of the last stage on any sample, where all are of the same shape."""
        (loaded,) = loader([self._data.positions[:1]])
        batch = self._module.trainer.precision_plugin.convert_input(loaded)
        inputs, _ = inputs_and_rows(self._data.on_device(batch, self._module.device))
        return float(self._module.flops(self._last, inputs)[0])

    def _observe(self, k: int, inputs: Inputs) -> Tensor:
        """FLOPs of each sample at stage k: its own, with padding, and the last stage's alone."""
        name = self._module.names[k]
        own, padded = self._module.flops(name, inputs), self._module.executed_flops(name, inputs)
        if k > 0:
            alone = torch.zeros_like(own)
        elif self._alone is not None:
            alone = torch.full_like(own, self._alone)
        else:
            alone = self._module.flops(self._last, inputs)
        return torch.stack([own, own if padded is None else padded, alone], dim=1)

    def _rows(self, answered: Answered) -> dict[str, Tensor]:
        rows, output = dict(answered.extra), answered.output
        if not self._metered:
            rows["probability"] = self._module.cascade.probability(output)
        check_finite(output.logits, output.stage, rows["positions"], self._module.names)
        rows.update(prediction=output.prediction, stage=output.stage, score=output.score)
        rows["classes"] = torch.full_like(output.stage, output.logits.shape[1])
        if not self._metered:
            return rows
        n = len(output.stage)
        for name, seen in zip(self._module.names, answered.seen, strict=True):
            spent = torch.zeros(n, 3, dtype=torch.float64) if seen is None else seen
            rows[f"flops.{name}"], rows[f"executed_flops.{name}"] = spent[:, 0], spent[:, 1]
        first = answered.seen[0]
        if first is not None:  # every sample goes through the first stage
            rows["flops_alone"] = first[:, 2]
        return rows


def check_finite(
    logits: Tensor, stage: Tensor, positions: Tensor | None, names: tuple[str, ...]
) -> None:
    """Make sure that answers rest on numbers.

    Raises:
        CascadeError: NaN or infinite logits, other than of samples that are left out.
    """
    broken = ~logits.isfinite().all(dim=1)
    if positions is not None:  # of what is left out a stand-in went through the stages
        broken &= positions.to(broken.device) >= 0
    if broken.any():
        bad = int(broken.nonzero()[0, 0])
        raise CascadeError(
            f"stage {names[int(stage[bad])]!r} gave NaN or infinite logits. "
            "A model in half precision may overflow: try --trainer.precision 32."
        )
