import pytest
import torch

from lit_cascade import CascadeError, Stage, UsageError, count_flops
from lit_cascade.live.flops import count_parameters
from lit_cascade.models import ResNet
from lit_cascade.models.stage import checkpoint_pieces, describe_network


def multiply_adds(widths, blocks, stem_stride, side, channels=3, classes=10):
    """Multiply-adds and parameters, one convolution after another."""
    side = (side + stem_stride - 1) // stem_stride
    total = side**2 * 9 * channels * widths[0]
    parameters = 9 * channels * widths[0] + 2 * widths[0]
    width = widths[0]
    for group, (wide, deep) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(deep):
            stride = 2 if group > 0 and block == 0 else 1
            side = (side + stride - 1) // stride
            total += side**2 * 9 * width * wide + side**2 * 9 * wide * wide
            parameters += 9 * width * wide + 9 * wide * wide + 4 * wide
            if stride != 1 or width != wide:
                total += side**2 * width * wide
                parameters += width * wide + 2 * wide
            width = wide
    return total + width * classes, parameters + width * classes + classes


@pytest.mark.parametrize("side", [32, 15])
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize(
    ("widths", "blocks"), [([4], [1]), ([4, 8, 16], [1, 1, 1]), ([4, 4, 8], [2, 1, 3])]
)
def test_flops_and_parameters_are_those_of_hand_arithmetic(widths, blocks, stem_stride, side):
    net = ResNet(widths, blocks, stem_stride, classes=7)
    macs, parameters = multiply_adds(widths, blocks, stem_stride, side, classes=7)
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    assert count_flops(net, images) == 2 * macs
    assert count_parameters(net) == parameters


def test_the_network_of_the_paper_costs_what_the_paper_says():
    net = ResNet([16, 32, 64], [3, 3, 3])
    shortcuts = 16 * 32 * 16**2 + 32 * 64 * 8**2  # 1x1 convolutions, which the paper does without
    assert count_flops(net, torch.zeros(1, 3, 32, 32)) / 2 - shortcuts == 40_551_040  # 20 layers


def test_whole_numbers_and_floats_are_the_same_images():
    net = ResNet([4, 8], [1, 1], mean=[125, 123.0, 114], std=[63, 62.1, 66.7]).eval()
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    logits = net(images)
    assert logits.shape == (5, 10)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, net(images.float()))
    torch.testing.assert_close(logits, net(images.double().float().contiguous()))


def test_images_are_normalised_by_channel():
    mean, std = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]
    torch.manual_seed(3)
    plain = ResNet([4, 8], [1, 1]).eval()
    torch.manual_seed(3)
    net = ResNet([4, 8], [1, 1], mean=mean, std=std).eval()
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    by_hand = torch.stack([(images[:, c].float() - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(net(images), plain(by_hand))
    assert not torch.allclose(net(images), plain(images.float()))


def test_another_number_of_channels_is_that_of_the_mean():
    net = ResNet([4], [1], mean=[128.0], std=[64.0], classes=3).eval()
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_checkpoint_comes_back(tmp_path):
    def make():
        return ResNet([4, 8], [1, 2], 2, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])

    net = make()
    net(torch.randint(0, 256, (8, 3, 16, 16)))  # moves the statistics of the normalisations
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"".join(checkpoint_pieces(net, "net", [f"class {k}" for k in range(10)])))
    built = Stage(make, str(path)).build("net")
    classes = built.class_names
    assert classes[3] == "class 3"
    assert not built.training
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(built(images), net.eval()(images))
    assert describe_network(built) == describe_network(net)
    with pytest.raises(CascadeError, match="another architecture than ResNet"):
        Stage(lambda: ResNet([4, 8], [1, 1], 2), str(path)).build("net")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"widths": [4, 8], "blocks": [1]}, "blocks: expected 2, one per width, got 1"),
        ({"widths": [4], "blocks": [1, 1]}, "blocks: expected 1, one per width, got 2"),
        ({"widths": [], "blocks": []}, "blocks: expected groups of 1 or more"),
        ({"widths": [4, 8], "blocks": [1, 0]}, r"expected groups of 1 or more, got \[1, 0\]"),
        ({"widths": [4], "blocks": [1], "std": [1.0, 2.0]}, "std: expected 3, one per channel"),
    ],
)
def test_settings_that_do_not_fit_are_refused(parts, says):
    with pytest.raises(UsageError, match=says):
        ResNet(**parts)


def test_a_block_adds_its_shortcut():
    net = ResNet([4, 8], [2, 1]).eval()
    same, first = net.groups[1], net.groups[2]
    x = torch.randn(2, 4, 6, 6)
    for block, shortcut in ((same, x), (first, first.shortcut(x))):
        inner = block.second(torch.relu(block.first(x)))
        assert torch.equal(block(x), torch.relu(inner + shortcut))
    assert first(x).shape == (2, 8, 3, 3)


@torch.no_grad()
def test_logits_are_a_linear_map_of_the_mean_over_positions():
    net = ResNet([4, 8], [1, 1], mean=[3.0] * 3, std=[2.0] * 3).eval()
    images = torch.randn(3, 3, 8, 8)
    convolution, normalisation = net.stem
    stem = normalisation(convolution((images - 3.0) / 2.0))
    assert (stem < 0).any()
    features = net.groups(stem.clamp(min=0))
    for i, logits in enumerate(net(images)):
        means = [sum(rows.flatten().tolist()) / 16 for rows in features[i]]
        expected = net.head.weight @ torch.tensor(means) + net.head.bias
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
