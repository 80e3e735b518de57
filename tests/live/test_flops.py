import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_cascade.live.flops import FlopMeter, count_flops, count_parameters, counting

TIMM_TABLES = Path(__file__).parents[3] / "shared" / "data" / "timm_results"


class Pooled(nn.Module):
    """A layer whose output becomes logits without a multiplication."""

    def __init__(self, layer, call=None):
        super().__init__()
        self.layer = layer
        self.call = call or (lambda layer, x: layer(x))

    def forward(self, x):
        out = self.call(self.layer, x)
        out = out[0] if isinstance(out, tuple) else out
        return out.flatten(2).sum(dim=2) if out.ndim > 3 else out.flatten(1)


class Recording(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape))
        return self.module(x)


def test_linear():
    assert count_flops(nn.Linear(64, 10), torch.zeros(5, 64)) == 5 * 2 * 64 * 10


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "stride", "padding", "groups"),
    [(3, 8, 3, 1, 1, 1), (4, 6, 5, 2, 0, 2), (8, 8, 3, 1, 1, 8), (8, 16, 1, 1, 0, 1)],
)
def test_convolution(channels, filters, kernel, stride, padding, groups, bias):
    layer = nn.Conv2d(channels, filters, kernel, stride, padding, groups=groups, bias=bias)
    side = (16 + 2 * padding - kernel) // stride + 1
    expected = 2 * side * side * filters * (channels // groups) * kernel * kernel
    assert count_flops(Pooled(layer), torch.zeros(2, channels, 16, 16)) == 2 * expected


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(groups):
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups)
    expected = 2 * 8 * 8 * 4 * (6 // groups) * 3 * 3
    assert count_flops(Pooled(layer), torch.zeros(1, 4, 8, 8)) == expected


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(need_weights):
    length, width = 7, 32
    layer = nn.MultiheadAttention(width, 4, batch_first=True).eval()
    model = Pooled(layer, lambda layer, x: layer(x, x, x, need_weights=need_weights))
    expected = 4 * 2 * length * width * width + 2 * 2 * length * length * width
    assert count_flops(model, torch.zeros(1, length, width)) == expected


def test_scaled_dot_product_attention():
    class Attention(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1)

    q, k = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 11, 8)
    assert count_flops(Attention(), (q, k, k)) == 3 * 2 * 2 * 2 * 5 * 11 * 8


def encoder_flops(length, width, inner):
    attention = 4 * 2 * length * width * width + 2 * 2 * length * length * width
    return attention + 2 * 2 * length * width * inner


def test_transformer_encoder_layer():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    assert count_flops(Pooled(layer), torch.zeros(1, 7, 32)) == encoder_flops(7, 32, 64)
    assert count_flops(Pooled(layer.train()), torch.zeros(1, 7, 32)) == encoder_flops(7, 32, 64)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind, gates, batch_first, layers, bidirectional):
    layer = kind(5, 8, layers, batch_first=batch_first, bidirectional=bidirectional)
    steps, directions = 6, 1 + bidirectional
    inputs = [5] + [8 * directions] * (layers - 1)
    expected = sum(2 * steps * directions * gates * 8 * (wide + 8) for wide in inputs)
    flip = (
        (lambda layer, x: layer(x))
        if batch_first
        else (lambda layer, x: layer(x.transpose(0, 1))[0].transpose(0, 1))
    )
    assert count_flops(Pooled(layer, flip), torch.randn(3, steps, 5)) == 3 * expected


@pytest.mark.slow
def test_bert():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of its dependencies, at import
        from transformers import BertConfig, BertForSequenceClassification
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=3,
    )
    model = BertForSequenceClassification(config)
    inputs = {
        "input_ids": torch.randint(0, 50, (1, 7)),
        "attention_mask": torch.ones(1, 7, dtype=torch.long),
    }
    expected = 2 * encoder_flops(7, 32, 64) + 2 * 32 * 32 + 2 * 32 * 3
    assert count_flops(model, inputs) == expected
    assert count_flops(model, {"input_ids": inputs["input_ids"]}) == expected


def test_a_matrix_times_a_vector():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.vector = nn.Parameter(torch.ones(8))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(x) * (x @ self.vector)[:, None]

    assert count_flops(Attend(), torch.zeros(1, 8)) == 2 * 8 * 3 + 2 * 8


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    model.train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_flops(model, torch.randn(6, 4))
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.train()
    count_flops(model, torch.randn(6, 4))
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    assert model[1].num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_is_left_as_it_was_when_it_fails():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout())
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError):
        count_flops(model, torch.randn(6, 5))
    assert all(module.training for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def test_counting_puts_the_fast_path_back():
    for enabled in (True, False):
        torch.backends.mha.set_fastpath_enabled(enabled)
        with counting():
            assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.slow
def test_a_compiled_model_counts_as_the_original(monkeypatch):
    compiled = torch.compile(nn.Linear(64, 10))
    monkeypatch.setattr(type(compiled), "forward", None)
    assert count_flops(compiled, torch.zeros(1, 64)) == 1280


def test_the_mode_of_a_compiled_model_is_left_as_it_was():
    compiled = torch.compile(nn.Sequential(nn.Linear(64, 10), nn.Dropout()))
    count_flops(compiled, torch.zeros(1, 64))
    assert all(module.training for module in compiled.modules())


def test_a_model_that_counts_nothing_warns():
    with pytest.warns(UserWarning, match="FLOPs of Flatten are too low: it counts 0"):
        assert count_flops(nn.Flatten(), torch.zeros(1, 3)) == 0


def test_work_without_a_formula_warns():
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Bilinear(4, 4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.mix(x, x))

    with pytest.warns(UserWarning, match="no formula for aten::_trilinear"):
        count_flops(Bilinear(), torch.zeros(1, 4))


def test_a_meter_counts_each_shape_once_and_one_sample_at_a_time():
    model = Recording(Pooled(nn.Conv2d(3, 4, 3)))
    meter = FlopMeter(model)
    for n, side in ((3, 8), (5, 8), (1, 8), (2, 9), (7, 9), (4, 8)):
        each = meter(torch.zeros(n, 3, side, side))
        expected = 2 * (side - 2) ** 2 * 4 * 27
        assert each.tolist() == [expected] * n
        assert each.dtype == torch.float64
    assert model.sizes == [(1, 3, 8, 8), (1, 3, 9, 9)]


def test_a_meter_tells_dtypes_and_names_apart():
    class Casting(nn.Linear):
        def forward(self, x):
            return super().forward(x.float())

    model = Recording(Casting(4, 2))
    meter = FlopMeter(model)
    meter({"x": torch.zeros(2, 4)})
    meter((torch.zeros(2, 4),))
    meter(torch.zeros(2, 4))
    assert len(model.sizes) == 2
    meter(torch.zeros(2, 4).half())
    assert len(model.sizes) == 3


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False))
    assert count_parameters(model) == 42 + 42 + 36
    model[2].weight = model[0].weight
    assert count_parameters(model) == 42 + 42


@pytest.mark.parametrize(
    "hidden",
    [
        lambda x: torch.cdist(x, x).sum(dim=1, keepdim=True),
        lambda x: nn.functional.bilinear(x, x, torch.ones(1, 4, 4)),
        lambda x: torch.fft.fft(x).real[:, :1],
    ],
)
def test_work_that_nobody_counts_warns(hidden):
    class Hiding(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x) + hidden(x)

    with pytest.warns(UserWarning, match="FLOPs of Hiding are too low: no formula for aten::"):
        count_flops(Hiding(), torch.zeros(1, 4))


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_depthwise_separable_block(padding):
    block = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=padding, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 12, 1, bias=False),
        nn.BatchNorm2d(12),
    )
    depthwise, pointwise = 16 * 16 * 8 * 3 * 3, 16 * 16 * 8 * 12
    assert count_flops(Pooled(block), torch.zeros(1, 8, 16, 16)) == 2 * (depthwise + pointwise)


def test_a_deformable_convolution():
    from torchvision.ops import DeformConv2d

    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset, self.conv = nn.Conv2d(4, 18, 3), DeformConv2d(4, 6, 3, groups=2)

        def forward(self, x):
            return self.conv(x, self.offset(x))

    expected = 2 * 6 * 6 * (18 * 4 * 9 + 6 * (4 // 2) * 9)
    assert count_flops(Pooled(Deformable()), torch.zeros(3, 4, 8, 8)) == 3 * expected


def test_a_part_of_a_parameter_that_goes_into_a_module():
    class ClassToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.norm = nn.Parameter(torch.ones(1, 8)), nn.LayerNorm(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(x + self.norm(self.token.expand(len(x), -1)))

    model = ClassToken()
    assert count_flops(model, torch.zeros(2, 8)) == 2 * 2 * 8 * 3
    assert all(parameter.requires_grad for parameter in model.parameters())


def fuse_attention(model, fused):
    """Let timm's blocks use torch's fused attention, or products and a softmax."""
    blocks = [module for module in model.modules() if hasattr(module, "fused_attn")]
    assert blocks
    for block in blocks:
        block.fused_attn = fused


@pytest.mark.parametrize("fused", [True, False])
def test_a_vision_transformer(fused):
    from timm.models.vision_transformer import VisionTransformer

    length, width, depth = 1 + (32 // 8) ** 2, 48, 2
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=width, depth=depth, num_heads=3, num_classes=5
    )
    fuse_attention(model, fused)
    patches = 2 * (length - 1) * width * 3 * 8 * 8
    blocks = depth * encoder_flops(length, width, 4 * width)
    assert count_flops(model, torch.zeros(1, 3, 32, 32)) == patches + blocks + 2 * width * 5


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shift", [0, 2])
def test_attention_in_windows(shift, fused):
    from timm.models.swin_transformer import SwinTransformerBlock

    width, window = 24, 4
    block = SwinTransformerBlock(
        width, input_resolution=(8, 12), num_heads=3, window_size=window, shift_size=shift
    )
    fuse_attention(block, fused)
    windows = (8 // window) * (12 // window)
    expected = windows * encoder_flops(window * window, width, 4 * width)
    assert count_flops(Pooled(block), torch.zeros(1, 8, 12, width)) == expected


@pytest.mark.slow
@pytest.mark.skipif(not TIMM_TABLES.is_dir(), reason="there is no ../shared/data/timm_results")
@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("resnet18", 224, ""),
        ("mobilenetv3_large_100", 224, "norms counted, rounding"),
        ("efficientnet_b0", 224, "norms counted, rounding"),
        ("repvgg_a0", 224, "branches merged"),
        ("vit_small_patch32_224", 224, ""),
        ("cait_xxs24_224", 224, ""),
        ("levit_256", 224, ""),
        ("xcit_nano_12_p16_224", 224, ""),
        ("edgenext_small", 256, ""),
        ("tiny_vit_5m_224", 224, ""),
        ("resmlp_12_224", 224, ""),
    ],
)
def test_networks_cost_what_timm_publishes(name, size, reason):
    from tests.benchmarks.timm_flops import compare, read_tables

    found = compare(read_tables(TIMM_TABLES)[name, size])
    assert abs(found.ratio - 1) <= 0.03 or found.reason
    assert (found.reason, found.explained) == (reason, True)
