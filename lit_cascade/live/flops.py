"""Cost of a model: FLOPs of the operators that run, and parameters.

One multiply-add counts as 2 FLOPs, as in `torch.utils.flop_counter`, and as 8 between complex
numbers; papers that report "FLOPs" usually mean multiply-adds (MACs), which are half of these.
Additions, activations and normalisations are not counted, as in published tables.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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

# Formulas take the arguments of an operator, and its output as `out_val`, as those of torch do.


def _product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Product of a (..., m, k) and b (..., k, n) or (k,)."""
    return 2 * a.numel() * (b.shape[-1] if b.ndim > 1 else 1)


def _added_product(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    return _product(a, b)


def _grouped_product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Products of groups; of a matrix b, each column belongs to one group of a (groups, m, k)."""
    return _product(a, b) // (len(a) if a.ndim > b.ndim else 1)


def _linear(x: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Linear layer, whose weights may be packed."""
    return 2 * x.numel() * out_val.shape[-1]


def _convolution(x: Tensor, w: Tensor, *args: Any, out_val: Any, **_: Any) -> int:
    """Each weight once per place of the output, or of the input if transposed."""
    out = out_val if isinstance(out_val, Tensor) else out_val[0]
    places = x if len(args) > 4 and args[4] is True else out
    return 2 * places.numel() // places.shape[1] * w.numel()


def _deformable_convolution(_: Tensor, w: Tensor, *__: Any, out_val: Tensor, **___: Any) -> int:
    return 2 * out_val.numel() * prod(w.shape[1:])


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Queries with keys, and weights with values, whatever a mask leaves out."""
    return 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _recurrent(x: Tensor, weights: Iterable[Any], *_: Any, **__: Any) -> int:
    """Each matrix once per step; the other weights are biases."""
    return sum(2 * prod(x.shape[:-1]) * weight.numel() for weight in weights if weight.ndim == 2)


def _mkldnn_recurrent(x: Tensor, *weights: Any, **_: Any) -> int:
    return _recurrent(x, weights[:2])


def _quantized_recurrent(x: Tensor, *args: Any, **_: Any) -> int:
    """Each direction of a layer has two packed matrices, for the input and for the state."""
    [cells] = [arg for arg in args if isinstance(arg, list) and not isinstance(arg[0], Tensor)]
    packed = [weight for cell in cells for weight in cell.__getstate__()[0][-1]]
    return _recurrent(x, (torch.ops.quantized.linear_unpack(weight)[0] for weight in packed))


def _distances(x: Tensor, _: Tensor, *, out_val: Tensor) -> int:
    """Distances of all pairs by a product of matrices."""
    return 2 * out_val.numel() * x.shape[-1]


def _elimination(a: Tensor, *_: Any, **__: Any) -> int:
    """LU decomposition of (..., m, n): 2/3 n^3 if square."""
    m, n = a.shape[-2:]
    k = min(m, n)
    return prod(a.shape[:-2]) * (6 * m * n * k - 3 * (m + n) * k**2 + 2 * k**3) // 3


def _reflections(a: Tensor, *_: Any, **__: Any) -> int:
    """R of a QR decomposition of (..., m, n), or its Q: 2mn^2 - 2/3 n^3 if m >= n."""
    return 2 * _elimination(a)


def _qr(a: Tensor, mode: str = "reduced", **_: Any) -> int:
    return _reflections(a) * (1 if mode == "r" else 2)


def _cholesky(a: Tensor, *_: Any, **__: Any) -> int:
    return a.numel() * a.shape[-1] // 3


def _inverse(a: Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel() * a.shape[-1]


def _triangular(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Solution of a triangular system (n, n) for each column of b: n^2."""
    return b.numel() * a.shape[-1]


def _solution(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Solution of a system (..., n, n) for each column of b: LU, and two triangular systems."""
    return _elimination(a) + 2 * _triangular(a, b)


def _solution_by_lu(lu: Tensor, _: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    return 2 * _triangular(lu, b)


# By operators, of which a release of torch may lack some.
_NAMES: dict[Callable[..., int], str] = {
    _product: "mm bmm mv dot vdot _int_mm _scaled_mm _scaled_mm_v2",
    _added_product: "addmm addmv addbmm baddbmm _addmm_activation _scaled_addmm",
    _grouped_product: "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2",
    _linear: "mkldnn_linear _mixed_dtypes_linear _weight_int8pack_mm _weight_int4pack_mm "
    "_weight_int4pack_mm_for_cpu _weight_int4pack_mm_with_scales_and_zeros "
    "_dyn_quant_matmul_4bit",
    _convolution: "convolution _convolution convolution_overrideable cudnn_convolution "
    "cudnn_convolution_relu cudnn_convolution_add_relu miopen_convolution "
    "miopen_convolution_relu miopen_convolution_add_relu mkldnn_convolution",
    _deformable_convolution: "deform_conv2d",
    _attention: "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable flex_attention",
    _recurrent: "_cudnn_rnn miopen_rnn",
    _mkldnn_recurrent: "mkldnn_rnn_layer",
    _quantized_recurrent: "quantized_lstm quantized_gru",
    _distances: "_euclidean_dist",
    _elimination: "linalg_lu linalg_lu_factor_ex _linalg_det _linalg_slogdet",
    _reflections: "geqrf linalg_householder_product",
    _qr: "linalg_qr",
    _cholesky: "linalg_cholesky_ex",
    _inverse: "linalg_inv_ex",
    _triangular: "linalg_solve_triangular",
    _solution: "_linalg_solve_ex",
    _solution_by_lu: "linalg_lu_solve",
}
_FORMULAS = {name: formula for formula, names in _NAMES.items() for name in names.split()}

# The other operators that multiply matrices are told by their names, also those of later releases.
_MULTIPLIES = re.compile(
    r"mm(_|$)|mv(_|$)|matmul|dot|conv|linear|attention|multi_head|encoder_layer|lstm|gru|rnn"
    r"|[cp]dist|^_fft|linalg|cholesky|solve|^ormqr|svd|(?<!w)eig"
)
_HARMLESS = re.compile(
    r"norm|cross|powsum|check|prepack|_unpack$|reorder|convert|upsample|flatten|_thnn_fused"
)
# operators of other libraries may multiply matrices
_NAMESPACES = {"aten", "prim", "prims", "torchvision", "quantized", "profiler"}
# what formulas raise where arguments have no shapes: packed in another way, or nested
_NO_SHAPES = (RuntimeError, AttributeError, IndexError, TypeError, ValueError, AssertionError)
_LEAVING = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.tolist}


@cache
def _role(operator: Any) -> Any:
    """How an operator is counted: its formula, `parts`, `view`, `unknown` or `none`."""
    namespace, _, name = operator._schema.name.partition("::")  # noqa: SLF001 - without overload
    name = name.removesuffix("_")
    known = namespace in _NAMESPACES
    formula = _FORMULAS.get(name) or flop_registry.get(operator.overloadpacket)
    if namespace == "quantized":
        formula = _linear if re.match("linear(?!.*pack)", name) else None
    if known and formula is not None:
        return formula
    if namespace != "prim" and torch._C._dispatch_has_kernel_for_dispatch_key(  # noqa: SLF001
        operator.name(), "CompositeImplicitAutograd"
    ):
        role = "parts"
    elif operator.is_view:
        role = "view"
    else:
        pointwise = torch.Tag.pointwise in operator.tags
        silent = pointwise or not _MULTIPLIES.search(name) or _HARMLESS.search(name)
        role = "none" if known and silent else "unknown"
    return role


def _storage(tensor: Tensor) -> int:
    """Identifier of the memory that a tensor shares with its views; 0 if it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - its data may have no address
    except (NotImplementedError, RuntimeError):  # sparse, or of a backend
        return 0


class _Leaving(TorchFunctionMode):
    """Sees numbers that leave torch, where nothing counts what multiplies them."""

    seen = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _LEAVING and args[0].numel() > 1:
            self.seen |= args[0].is_floating_point() or args[0].is_complex()
        return func(*args, **(kwargs or {}))


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of the operators that run inside a `with` block.

    It reports totals as torch's `FlopCounterMode` does. That one knows fewer operators, and
    attributes them to modules by hooks that fail on slices of parameters without gradients.

    Args:
        model: the model whose matrices are watched for whether any operator reads them.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own has no annotations
        self._flops: Counter[Any] = Counter()
        self._unknown: set[str] = set()
        self._matrices = {} if model is None else _matrices(model)
        self._unread: set[Any] = set(self._matrices.values())
        self._ran: set[nn.Module] = set()

    def get_total_flops(self) -> int:
        """FLOPs of all operators."""
        return self._flops.total()

    def get_flop_counts(self) -> dict[str, dict[Any, int]]:
        """FLOPs by operator, under the key `Global`."""
        return {"Global": dict(self._flops)}

    def uncounted(self) -> list[str]:
        """Reasons why the total is too low; none if it is not."""
        reasons = [f"no formula for {', '.join(sorted(self._unknown))}"] if self._unknown else []
        unread = sorted(name for name, owner in self._unread if owner in self._ran)
        if unread:
            more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
            reasons.append(f"no operator of torch reads {', '.join(unread[:3])}{more}")
        return reasons

    def note_module(self, module: nn.Module, *_: Any) -> None:
        """Note that a module runs, as a hook before its forward."""
        self._ran.add(module)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):  # noqa: SLF001 - as in torch's counter
            return self._higher_order(func, args, kwargs)
        if any(kind.__name__ == "NestedTensor" for kind in types):
            return NotImplemented  # the operators on its values follow
        role = _role(func)
        if role == "parts":
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if callable(role):
            self._count(func.overloadpacket, role, out, args, kwargs)
        elif role == "unknown":
            self._unknown.add(func._schema.name)  # noqa: SLF001 - without overload
        if self._unread and role != "view":
            self._read((*args, *kwargs.values()))
        return out

    def _count(self, operator: Any, formula: Any, out: Any, args: Any, kwargs: Any) -> None:
        is_complex = any(isinstance(arg, Tensor) and arg.is_complex() for arg in args)
        try:
            flops = formula(*args, **kwargs, out_val=out)
        except _NO_SHAPES:
            self._unknown.add(str(operator))
        else:
            self._flops[operator] += flops * (4 if is_complex else 1)

    def _read(self, args: Iterable[Any]) -> None:
        """Note which matrices an operator reads."""
        for arg in args:
            for tensor in arg if isinstance(arg, (list, tuple)) else (arg,):
                if isinstance(tensor, Tensor):
                    self._unread.discard(self._matrices.get(_storage(tensor)))

    def _higher_order(self, operator: Any, args: Any, kwargs: Any) -> Any:
        """Count the functions that an operator calls, such as the taken branch of `torch.cond`."""
        name, functions = operator.name(), [arg for arg in args if callable(arg)]
        self._read(args)
        if name in _FORMULAS:
            out = operator(*args, **kwargs)
            self._count(operator, _FORMULAS[name], out, args, kwargs)
            return out
        if not functions:
            self._unknown.add(name)

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

            return run

        return operator(*(counted(arg) if callable(arg) else arg for arg in args), **kwargs)


def _matrices(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """Names and owners of parameters with at least two axes longer than 1, by their memory."""
    return {
        _storage(parameter): (f"{prefix}.{name}".lstrip("."), module)
        for prefix, module in model.named_modules()
        for name, parameter in module._parameters.items()  # noqa: SLF001 - its own, without copies
        if parameter is not None
        and sum(size > 1 for size in parameter.shape) > 1
        and not parameter.is_meta  # its values are elsewhere
    }


def _fused(model: nn.Module) -> bool:
    """Whether a scripted part has convolutions that its interpreter runs unseen."""
    scripts = [one for one in model.modules() if isinstance(one, torch.jit.ScriptModule)]
    graphs: list[Any] = [one.graph for one in scripts if hasattr(one, "graph")]
    return any(graph.findNode("prim::mkldnn_convolution") is not None for graph in graphs)


@contextmanager
def counting(model: nn.Module | None = None) -> Iterator[FlopCounter]:
    """Count the FLOPs of what runs inside a `with` block, by `get_total_flops()` of its target.

    The fused fast path of `nn.MultiheadAttention` is disabled inside, because it is one operator;
    its arithmetic is the same.

    Args:
        model: the model that runs, if it is to be seen what is not counted.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounter(model) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def count_flops(model: nn.Module, inputs: Inputs, name: str | None = None) -> int:
    """Count the FLOPs of one forward pass from the operators that run.

    The pass runs in evaluation mode without gradients and leaves the model unchanged. A compiled
    model is counted by the module that it was compiled from. Work that cannot be counted raises a
    `UserWarning`.

    Args:
        model: any module that `forward_logits` can call.
        inputs: a batch; the count is for the whole batch.
        name: what warnings call the model; its class by default.

    Returns:
        FLOPs; one multiply-add counts as 2.

    Examples:
        >>> count_flops(nn.Linear(64, 10), torch.zeros(1, 64))
        1280
    """
    total, reasons = _count(model, inputs)
    _warn(name or _kind(model), reasons)
    return total


def _count(model: nn.Module, inputs: Inputs) -> tuple[int, list[str]]:
    """FLOPs of one forward pass, and reasons why they are too low."""
    model = getattr(model, "_orig_mod", model)
    # frozen modules of TorchScript have no mode
    training = [module for module in model.modules() if getattr(module, "training", False)]
    if training:
        model.eval()
    leaving = _Leaving()
    try:
        eager = torch.compiler.set_stance("force_eager")  # where `.compile()` was called
        with eager, torch.no_grad(), counting(model) as counter, leaving:
            hook = register_module_forward_pre_hook(counter.note_module)
            try:
                forward_logits(model, inputs)
            finally:
                hook.remove()
    finally:
        for module in training:
            module.training = True
    total, reasons = counter.get_total_flops(), counter.uncounted()
    if _fused(model):
        reasons.append("no formula for prim::mkldnn_convolution")
    if leaving.seen:
        reasons.append("numbers leave torch (by .numpy() or alike)")
    return total, reasons if reasons or total else ["it counts 0"]


def _kind(model: nn.Module) -> str:
    """Class of a model, or of the one that it was compiled from."""
    return type(getattr(model, "_orig_mod", model)).__name__


def _warn(name: str, reasons: Iterable[str]) -> None:
    if reasons:
        warnings.warn(
            f"FLOPs of {name} are too low: {'; '.join(reasons)}. Compare measured times instead, "
            "with --cost latency_s=FILE of a benchmark.",
            UserWarning,
            stacklevel=3,
        )


class FlopMeter:
    """FLOPs per sample of one model, counted once for each shape and length of inputs.

    The cost of a sample is that of a forward pass at batch size 1 and at its own length, without
    the padding that `attention_mask` marks; `executed` includes the padding. Repeated shapes and
    lengths are looked up.

    Args:
        model: the module to measure.
        name: what warnings call it; its class by default. Each reason is given once.

    Examples:
        >>> meter = FlopMeter(nn.Linear(64, 10))
        >>> meter(torch.zeros(3, 64))
        tensor([1280., 1280., 1280.], dtype=torch.float64)
    """

    def __init__(self, model: nn.Module, name: str | None = None) -> None:
        self._model, self._name = model, name or _kind(model)
        self._warned: set[str] = set()
        self._known: dict[tuple[Any, ...], int] = {}

    def _once(self, key: tuple[Any, ...], one: Callable[[], Inputs]) -> int:
        """FLOPs of the batch that `one` makes, counted once per key."""
        if key not in self._known:
            self._known[key], reasons = _count(self._model, one())
            _warn(self._name, [reason for reason in reasons if reason not in self._warned])
            self._warned.update(reasons)
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

    Examples:
        >>> count_parameters(nn.Linear(64, 10))
        650
    """
    return sum(parameter.numel() for parameter in model.parameters())
