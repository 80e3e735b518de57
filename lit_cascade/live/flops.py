"""What a model costs: FLOPs of the operators that really run, and parameters.

One multiply-add counts as 2 FLOPs, PyTorch's convention; papers that say "FLOPs" usually mean
multiply-adds (MACs), which are half of these. Additions, activations and normalisations are not
counted, as in every published table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from lit_cascade.live.batch import (
    Inputs,
    batch_size,
    forward_logits,
    lengths_of,
    map_tensors,
    signature,
    unpadded,
    view_of,
)

__all__ = ["FlopMeter", "count_flops", "count_parameters", "counting"]

# Operators that multiply matrices and that some of torch's supported releases pass over as free.
_FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mv: lambda a, *_, **__: 2 * prod(a),
    torch.ops.aten.addmv: lambda _, a, *__, **___: 2 * prod(a),
    torch.ops.aten.dot: lambda a, *_, **__: 2 * prod(a),
    torch.ops.aten.mkldnn_rnn_layer: lambda x, w_ih, w_hh, *_, **__: (
        2 * prod(x[:-1]) * (prod(w_ih) + prod(w_hh))
    ),
    torch.ops.aten._cudnn_rnn: lambda x, weights, *_, **__: sum(  # noqa: SLF001 - its name
        2 * prod(x[:-1]) * prod(weight) for weight in weights if len(weight) == 2
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (  # noqa: SLF001
        sdpa_flop_count(q, k, v)
    ),
}
# Operators that do such work and have no formula anywhere: better a warning than a wrong bill.
_UNCOUNTED = (
    "quantized::",
    "aten::_int_mm",
    "aten::_weight_int",
    "aten::_trilinear",
    "aten::_thnn_fused",
    "aten::_cdist",
    "aten::_sparse_mm",
    "aten::_sparse_addmm",
    "aten::_fft_",
)


class _NoModules:
    """Stands where torch keeps track of the module that runs, for a sum does not need it.

    Torch's own also follows gradients, and it fails on a model that hands a part of a parameter to
    a module, as CaiT and PiT do with their class tokens: without gradients that part asks for one
    and has nothing to get it from.
    """

    parents: ClassVar[set[str]] = {"Global"}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _formulas() -> dict[Any, Callable[..., int]]:
    formulas = dict(_FORMULAS)
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # only once somebody has loaded torchvision
        formulas[torch.ops.torchvision.deform_conv2d] = lambda _, w, *__, out_shape, **___: (
            2 * prod(out_shape) * prod(w[1:])
        )
    return formulas


class _Watch(TorchDispatchMode):
    """Notes the operators whose work nobody counts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own has no annotations
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # operators of other libraries may multiply matrices: nobody can know
        foreign = func.namespace not in {"aten", "prim", "prims", "torchvision"}
        if foreign or func.name().startswith(_UNCOUNTED):
            self.seen.add(func.name())
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of everything that runs inside, by `.get_total_flops()` of the result.

    The fused fast path of `nn.MultiheadAttention` is off inside, since torch counts it as free; the
    arithmetic is the same without it.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False, custom_mapping=_formulas())
        counter.mod_tracker = _NoModules()  # type: ignore[assignment] # all that a sum asks of it
        with counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def count_flops(model: nn.Module, inputs: Inputs) -> int:
    """FLOPs of one forward pass of `model` on `inputs`, counted from the operators that run.

    The pass runs in evaluation mode without gradients and leaves the model as it was. A compiled
    model is counted by the module it was compiled from.

    Args:
        model: any module that `forward_logits` can call.
        inputs: a batch; the count is for the whole of it.

    Returns:
        FLOPs, one multiply-add being 2.

    Example:
        >>> count_flops(nn.Linear(64, 10), torch.zeros(1, 64))
        1280
    """
    model = getattr(model, "_orig_mod", model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        eager = torch.compiler.set_stance("force_eager")  # where `.compile()` was called
        with eager, torch.no_grad(), counting() as counter, _Watch() as watch:
            forward_logits(model, inputs)
    finally:
        for module in training:
            module.training = True
    total = counter.get_total_flops()
    if watch.seen or total == 0:
        reason = f"no formula for {', '.join(sorted(watch.seen))}" if watch.seen else "it counts 0"
        warnings.warn(
            f"FLOPs of {type(model).__name__} are too low: {reason}.", UserWarning, stacklevel=2
        )
    return int(total)


class FlopMeter:
    """FLOPs per sample of one model, counted once for each shape of input and each length.

    A sample's cost is that of a forward pass at batch size 1 and at its own length: where a batch
    is padded, as its `attention_mask` tells, the padding is taken off first. What the padding costs
    on top is told by `executed`. After the first sample of a shape and length, asking costs a
    dictionary look-up.

    Args:
        model: the module to measure.

    Example:
        >>> meter = FlopMeter(nn.Linear(64, 10))
        >>> meter(torch.zeros(3, 64))
        tensor([1280., 1280., 1280.], dtype=torch.float64)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: dict[tuple[Any, ...], int] = {}

    def _once(self, key: tuple[Any, ...], one: Callable[[], Inputs]) -> int:
        if key not in self._known:
            self._known[key] = count_flops(self._model, one())
        return self._known[key]

    def _as_it_stands(self, inputs: Inputs) -> int:
        return self._once(signature(inputs), lambda: map_tensors(inputs, slice(0, 1)))

    def __call__(self, inputs: Inputs) -> Tensor:
        """FLOPs of each sample of a batch, shape (N,) float64, on the CPU."""
        inputs = view_of(self._model, inputs)
        lengths = lengths_of(inputs)
        if lengths is None:
            alike = self._as_it_stands(inputs)
            return torch.full((batch_size(inputs),), alike, dtype=torch.float64)
        kinds = tuple((name, tensor.dtype) for name, tensor in inputs.items())
        return torch.tensor(
            [
                self._once((kinds, length), partial(unpadded, inputs, row))
                for row, length in enumerate(lengths.tolist())
            ],
            dtype=torch.float64,
        )

    def executed(self, inputs: Inputs) -> Tensor | None:
        """FLOPs of each sample with the padding of its batch, (N,) float64, on the CPU.

        None if samples of this kind are never padded.
        """
        inputs = view_of(self._model, inputs)
        if lengths_of(inputs) is None:
            return None
        alike = self._as_it_stands(inputs)
        return torch.full((batch_size(inputs),), alike, dtype=torch.float64)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once.

    Example:
        >>> count_parameters(nn.Linear(64, 10))
        650
    """
    return sum(parameter.numel() for parameter in model.parameters())
