"""Cost of a model: FLOPs of the operators that run, and parameters.

One multiply-add counts as 2 FLOPs, as in `torch.utils.flop_counter`; papers that report "FLOPs"
usually mean multiply-adds (MACs), which are half of these. Additions, activations and
normalisations are not counted, as in published tables.
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
    index_batch,
    shape_key,
    token_counts,
    view_of,
    without_padding,
)

# Operators that multiply matrices, but that some supported releases of torch count as 0.
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
# Operators that multiply matrices and have no formula: they make `count_flops` warn.
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
    """Replacement of torch's module tracker, which a total does not need.

    The tracker hooks into gradients and fails under `no_grad` on a model that passes a slice of a
    parameter to a module, as CaiT and PiT do with their class tokens.
    """

    parents: ClassVar[set[str]] = {"Global"}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _formulas() -> dict[Any, Callable[..., int]]:
    formulas = dict(_FORMULAS)
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # only if torchvision is loaded
        formulas[torch.ops.torchvision.deform_conv2d] = lambda _, w, *__, out_shape, **___: (
            2 * prod(out_shape) * prod(w[1:])
        )
    return formulas


class _Watch(TorchDispatchMode):
    """Collect the names of operators whose work is not counted."""

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
        # operators of other libraries may multiply matrices
        foreign = func.namespace not in {"aten", "prim", "prims", "torchvision"}
        if foreign or func.name().startswith(_UNCOUNTED):
            self.seen.add(func.name())
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of what runs inside a `with` block, by `get_total_flops()` of its target.

    The fused fast path of `nn.MultiheadAttention` is disabled inside, because torch counts it as 0;
    its arithmetic is the same.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False, custom_mapping=_formulas())
        counter.mod_tracker = _NoModules()  # type: ignore[assignment] # all that a total needs
        with counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def count_flops(model: nn.Module, inputs: Inputs) -> int:
    """Count the FLOPs of one forward pass from the operators that run.

    The pass runs in evaluation mode without gradients and leaves the model unchanged. A compiled
    model is counted by the module that it was compiled from. Work that cannot be counted raises a
    `UserWarning`.

    Args:
        model: any module that `forward_logits` can call.
        inputs: a batch; the count is for the whole batch.

    Returns:
        FLOPs; one multiply-add counts as 2.

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
    """FLOPs per sample of one model, counted once for each shape and length of inputs.

    The cost of a sample is that of a forward pass at batch size 1 and at its own length, without
    the padding that `attention_mask` marks; `executed` includes the padding. Repeated shapes and
    lengths are looked up.

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
        """FLOPs of the batch that `one` makes, counted once per key."""
        if key not in self._known:
            self._known[key] = count_flops(self._model, one())
        return self._known[key]

    def _alike(self, inputs: Inputs) -> Tensor:
        """FLOPs (N,) of samples of one shape, padding included."""
        flops = self._once(shape_key(inputs), lambda: index_batch(inputs, slice(0, 1)))
        return torch.full((batch_size(inputs),), flops, dtype=torch.float64)

    def __call__(self, inputs: Inputs) -> Tensor:
        """FLOPs of each sample of a batch, shape (N,) float64, on the CPU."""
        inputs = view_of(self._model, inputs)
        lengths = token_counts(inputs)
        if lengths is None:
            return self._alike(inputs)
        kinds = tuple((name, tensor.dtype) for name, tensor in inputs.items())
        return torch.tensor(
            [
                self._once((kinds, length), partial(without_padding, inputs, row))
                for row, length in enumerate(lengths.tolist())
            ],
            dtype=torch.float64,
        )

    def executed(self, inputs: Inputs) -> Tensor | None:
        """FLOPs of each sample with the padding of its batch, (N,) float64, on the CPU.

        None for a batch without `attention_mask`, which is not padded.
        """
        inputs = view_of(self._model, inputs)
        return None if token_counts(inputs) is None else self._alike(inputs)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once.

    Example:
        >>> count_parameters(nn.Linear(64, 10))
        650
    """
    return sum(parameter.numel() for parameter in model.parameters())
