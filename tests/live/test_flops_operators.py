"""Operators beside a linear layer, counted or warned of; expected values are worked out by hand."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lit_cascade.live.flops import FlopMeter, count_flops

HEAD = 2 * 64 * 4


def some(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


class Beside(nn.Module):
    """A linear layer from 64 values to 4 classes, beside other work on these values."""

    def __init__(self, work, *weights, **modules):
        super().__init__()
        self.head, self.work = nn.Linear(64, 4), work
        for number, weight in enumerate(weights):
            self.register_parameter(f"w{number}", nn.Parameter(weight))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        x = x.float()
        out = self.work(self, x)
        out = (out if isinstance(out, torch.Tensor) else out[0]).float()
        return self.head(x) + 0 * out.sum()


def counted(work, *weights, **modules):
    """FLOPs of the work alone, with no warning, where gradients are off and in inference mode."""
    model = Beside(work, *weights, **modules)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "FLOPs of")
        flops = count_flops(model, some(1, 64))
        with torch.inference_mode():
            assert count_flops(model, some(1, 64)) == flops
    return flops - HEAD


def warned(work, *weights, **modules):
    """The warning, of a model of which the head alone is counted."""
    with pytest.warns(UserWarning, match="FLOPs of Beside are too low: ") as caught:
        assert count_flops(Beside(work, *weights, **modules), some(1, 64)) == HEAD
    (message,) = [str(one.message) for one in caught if "FLOPs" in str(one.message)]
    return message


def square(x):
    return x.view(8, 8) + 9 * torch.eye(8)


PRODUCTS = {
    "addbmm": (lambda m, x: torch.addbmm(m.w1, x.view(2, 4, 8), m.w0), (2, 8, 3), (4, 3)),
    "baddbmm": (lambda m, x: torch.baddbmm(m.w1, x.view(2, 4, 8), m.w0), (2, 8, 3), (3,)),
    "in place": (lambda m, x: torch.zeros(4, 3).addbmm_(x.view(2, 4, 8), m.w0), (2, 8, 3)),
    "vdot": (lambda m, x: torch.vdot(x[0], m.w0), (64,)),
    "cdist": (lambda m, x: torch.cdist(x.view(1, 1, 64), m.w0), (1, 30, 64)),
    "einsum": (lambda m, x: torch.einsum("bi,io->bo", x, m.w0), (64, 5)),
}


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("addbmm", 2 * 4 * 8 * 3),
        ("baddbmm", 2 * 4 * 8 * 3),
        ("in place", 2 * 4 * 8 * 3),
        ("vdot", 64),
        ("cdist", 30 * 64),
        ("einsum", 64 * 5),
    ],
)
def test_products(name, multiply_adds):
    work, *shapes = PRODUCTS[name]
    assert counted(work, *(some(*shape) for shape in shapes)) == 2 * multiply_adds


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped products")
def test_grouped_products():
    ends = torch.tensor([2, 4], dtype=torch.int32)

    def grouped(m, x):  # rows 0 and 1 by the first matrix, 2 and 3 by the second
        return torch._grouped_mm(x.view(4, 16).bfloat16(), m.w0, offs=ends)

    assert counted(grouped, some(2, 16, 8, dtype=torch.bfloat16)) == 2 * 4 * 16 * 8

    def columns(m, x):  # two matrices of 2 x 16, each for a half of 16 columns
        halves = torch.tensor([8, 16], dtype=torch.int32)
        return torch._grouped_mm(x.view(2, 2, 16).bfloat16(), m.w0, offs=halves)

    weight = some(16, 16, dtype=torch.bfloat16).t()
    assert counted(columns, weight) == 2 * 2 * 16 * 16


def test_a_complex_multiply_add_is_4_real_ones():
    def work(m, x):
        return (torch.view_as_complex(x.view(1, 32, 2)) @ m.w0).real

    assert counted(work, some(32, 16, dtype=torch.complex64)) == 8 * 32 * 16


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda m, x: torch.linalg.inv(square(x)), 2 * 8**3),
        (lambda m, x: torch.linalg.solve(square(x), x.view(8, 8)), 2 * 8**3 // 3 + 2 * 8**3),
        (lambda m, x: torch.linalg.solve(square(x), x[0, :8]), 2 * 8**3 // 3 + 2 * 8**2),
        (lambda m, x: torch.linalg.lu_factor(square(x)), 2 * 8**3 // 3),
        (lambda m, x: torch.linalg.det(square(x)), 2 * 8**3 // 3),
        (lambda m, x: torch.linalg.cholesky(9 * torch.eye(8) + 0 * x.view(8, 8)), 8**3 // 3),
        (
            lambda m, x: torch.linalg.solve_triangular(square(x), x.view(8, 8), upper=True),
            8**3,
        ),
        # R and Q of 16 x 4, each 2 m n^2 - 2/3 n^3
        (lambda m, x: torch.linalg.qr(x.view(16, 4)), 2 * ((6 * 16 * 16 - 2 * 64) // 3)),
        (lambda m, x: torch.linalg.qr(x.view(16, 4), mode="r"), (6 * 16 * 16 - 2 * 64) // 3),
    ],
    ids=["inv", "solve", "solve one", "lu", "det", "cholesky", "triangular", "qr", "qr r"],
)
def test_linear_algebra(work, expected):
    assert counted(work) == pytest.approx(expected, abs=2)  # thirds are rounded down


@pytest.mark.parametrize(
    ("work", "operator"),
    [
        (lambda m, x: torch.linalg.svd(x.view(8, 8)), "aten::_linalg_svd"),
        (lambda m, x: torch.linalg.eigh(square(x)), "aten::_linalg_eigh"),
        (lambda m, x: torch.linalg.lstsq(x.view(8, 8), x.view(8, 8)), "aten::linalg_lstsq"),
        (lambda m, x: torch.linalg.pinv(x.view(8, 8)), "aten::linalg_pinv"),
        (lambda m, x: torch.matrix_exp(x.view(8, 8)), "aten::linalg_matrix_exp"),
        (lambda m, x: torch.pdist(x.view(8, 8)), "aten::_pdist_forward"),
        (lambda m, x: torch.sparse.mm(torch.eye(64).to_sparse(), x.t()), "aten::_sparse_addmm"),
    ],
)
def test_linear_algebra_without_a_formula_warns(work, operator):
    assert f"no formula for {operator}." in warned(work)


def dynamic(module, kind, dtype=torch.qint8):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still used
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(module), {kind}, dtype)[0]


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize("layers", [1, 2])
def test_dynamically_quantized_layers(layers, dtype):
    steps, wide = 8, 16
    lstm = dynamic(nn.LSTM(8, wide, layers, batch_first=True, bidirectional=True), nn.LSTM, dtype)
    inputs = [8] + [2 * wide] * (layers - 1)
    expected = sum(2 * 2 * steps * 4 * wide * (size + wide) for size in inputs)
    assert counted(lambda m, x: m.lstm(x.view(1, 8, 8)), lstm=lstm) == expected
    linear = dynamic(nn.Linear(64, 5), nn.Linear, dtype)
    assert counted(lambda m, x: m.linear(x), linear=linear) == 2 * 64 * 5


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no MKLDNN")
@pytest.mark.parametrize("groups", [1, 2])
def test_mkldnn_layers(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scripts, from within torch
        from torch.utils.mkldnn import to_mkldnn

        to_mkldnn(nn.Linear(1, 1).eval())

    conv = to_mkldnn(nn.Conv2d(4, 6, 3, groups=groups).eval())
    work = lambda m, x: m.conv(x.view(1, 4, 4, 4).to_mkldnn()).to_dense()  # noqa: E731
    assert counted(work, conv=conv) == 2 * 2 * 2 * 6 * (4 // groups) * 9
    linear = to_mkldnn(nn.Linear(64, 5).eval())
    work = lambda m, x: m.linear(x.to_mkldnn()).to_dense()  # noqa: E731
    assert counted(work, linear=linear) == 2 * 64 * 5


def script(module, finish):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still used
        return finish(torch.jit.script(module.eval()))


def test_scripted_and_frozen_layers():
    for finish in (torch.jit.freeze, lambda scripted: scripted):
        conv = script(nn.Conv2d(4, 6, 3), finish)
        work = lambda m, x: m.conv(x.view(1, 4, 4, 4))  # noqa: E731
        assert counted(work, conv=conv) == 2 * 2 * 2 * 6 * 4 * 9
    assert count_flops(script(nn.Linear(8, 3), torch.jit.freeze), torch.zeros(1, 8)) == 2 * 8 * 3


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no MKLDNN")
def test_convolutions_inside_an_optimized_script_warn():
    conv = script(nn.Conv2d(4, 6, 3), torch.jit.optimize_for_inference)
    message = warned(lambda m, x: m.conv(x.view(1, 4, 4, 4)), conv=conv)
    assert "no formula for prim::mkldnn_convolution." in message


@pytest.mark.parametrize("positive", [True, False])
def test_the_branch_of_cond_that_runs_is_counted(positive):
    def work(m, x):
        x = x.abs() if positive else -x.abs()
        return torch.cond(x.sum() > 0, m.wide, m.narrow, (x,))

    found = counted(work, wide=nn.Linear(64, 9), narrow=nn.Linear(64, 2))
    assert found == 2 * 64 * (9 if positive else 2)


def test_the_steps_of_a_loop_are_counted():
    from torch._higher_order_ops.while_loop import while_loop

    def work(m, x):
        step = lambda i, x: (i + 1, m.step(x))  # noqa: E731
        return while_loop(lambda i, _: i < 3, step, (torch.tensor(0), x))[1]

    assert counted(work, step=nn.Linear(64, 64)) == 3 * 2 * 64 * 64


def test_flex_attention_without_a_compiler():
    from torch.nn.attention.flex_attention import flex_attention

    def work(m, x):  # 4 heads of queries on 2 of keys
        q, k = x.view(1, 4, 2, 8), x[:, :48].reshape(1, 2, 3, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for a compiler
            return flex_attention(q, k, k, enable_gqa=True)

    assert counted(work) == 2 * 2 * 4 * 2 * 3 * 8


def test_flex_attention_reads_parameters():
    from torch.nn.attention.flex_attention import flex_attention

    def work(m, x):
        k = x.view(1, 2, 4, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for a compiler
            return flex_attention(m.w0.detach(), k, k)

    assert counted(work, some(1, 2, 3, 8)) == 2 * 2 * 2 * 3 * 4 * 8


def test_nested_tensors_of_no_one_shape_warn():
    def work(m, x):
        rows = x.view(8, 8)
        nested = torch.nested.nested_tensor([rows[:3], rows[3:]])
        return torch.bmm(nested, nested.transpose(1, 2)).to_padded_tensor(0.0)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*nested tensors is in prototype.*")
        assert "no formula for aten.bmm." in warned(work)


def test_nested_tensors_are_counted_by_their_values():
    def work(m, x):
        rows = x.view(8, 8)
        return m.layer(torch.nested.as_nested_tensor([rows[:3], rows[3:]], layout=torch.jagged))

    def values(m, x):
        return work(m, x).values()

    assert counted(values, layer=nn.Linear(8, 5)) == 2 * 8 * 8 * 5


@pytest.mark.parametrize(
    "work",
    [
        lambda m, x: torch.from_numpy(x.numpy() @ m.w0.detach().numpy()),
        lambda m, x: torch.from_numpy(np.asarray(x) @ np.ones((64, 3), np.float32)),
        lambda m, x: torch.tensor([sum(row) for row in x.tolist()]),
    ],
    ids=["numpy", "asarray", "tolist"],
)
def test_numbers_that_leave_torch_warn(work):
    assert "numbers leave torch" in warned(work, some(64, 3))


def test_whole_and_single_numbers_may_leave_torch():
    assert counted(lambda m, x: x * len(torch.arange(3).tolist()) * x.sum().numpy().item()) == 0


def test_a_matrix_that_no_operator_reads_warns():
    def unseen(m, x):
        return x * m.w0.detach().t().data_ptr()  # as an extension would take it

    message = warned(unseen, some(64, 3), some(3, 64))
    assert "no operator of torch reads w0, w1." in message


def test_matrices_that_are_rightly_not_multiplied_do_not_warn():
    class Rest(nn.Module):
        """Owns what this input does not need."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 5))

        def forward(self, x):
            return x @ self.weight

    def work(m, x):
        parts = [m.embed(torch.arange(4)), m.w0 + x, m.w1[:2], m.norm(x), m.tied.weight.half()]
        return sum(part.sum() for part in parts)

    embed = nn.Embedding(9, 8)
    tied = nn.Linear(8, 9)
    tied.weight = embed.weight
    found = counted(
        work,
        some(2, 64),
        some(4, 3),
        some(1, 1, 64),  # a token that is not used has one axis
        embed=embed,
        norm=nn.LayerNorm(64),
        tied=tied,
        rest=Rest(),
    )
    assert found == 0


def test_parametrized_weights_count_at_each_pass():
    from torch.nn.utils import parametrizations, parametrize

    x = torch.zeros(1, 8)
    spectral = parametrizations.spectral_norm(nn.Linear(8, 3))
    assert count_flops(spectral, x) == 2 * 8 * 3 + 2 * 8 * 3 + 2 * 3  # u W v
    orthogonal = parametrizations.orthogonal(nn.Linear(8, 3), orthogonal_map="householder")
    reflections, base = (6 * 8 * 9 - 2 * 27) // 3, 2 * 8 * 8 * 3
    assert count_flops(orthogonal, x) == 2 * 8 * 3 + reflections + base
    for model in (spectral, orthogonal):
        parametrize.remove_parametrizations(model, "weight")
        assert count_flops(model, x) == 2 * 8 * 3


def test_a_meter_gives_each_reason_once_and_names_the_stage():
    meter = FlopMeter(Beside(lambda m, x: torch.matrix_exp(x.view(8, 8))), "small")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dtype in (torch.float32, torch.float64, torch.float32):
            meter(some(1, 64, dtype=dtype))
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("FLOPs of small are too low: no formula for aten::linalg_matrix_exp")
    assert "\n" not in message


def test_names_tell_which_operators_multiply_matrices():
    from lit_cascade.live.flops import _role

    def role(name):
        packet = getattr(torch.ops.aten, name)
        return _role(getattr(packet, packet.overloads()[0]))

    for name in ("_fft_r2c", "_cdist_forward", "_trilinear", "_linalg_svd", "conv_tbc", "ormqr"):
        assert role(name) == "unknown"
    for name in ("upsample_linear1d", "_weight_norm_interface", "linalg_cross", "native_group_norm",
                 "linalg_vector_norm", "cummax", "embedding", "sigmoid", "_thnn_fused_lstm_cell",
                 "mkldnn_reorder_conv2d_weight"):  # fmt: skip
        assert role(name) == "none"
