"""Names of architectures in timm and torchvision, and what they cost."""

import pytest
import torch

from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import count_flops, count_parameters
from lit_cascade.models import (
    Architecture,
    architecture_cost,
    architectures,
    build_architecture,
    find_architectures,
)


def names_of(*patterns):
    return [(one.library, one.name) for one in find_architectures(patterns)]


def test_a_name_is_timms_where_timm_has_it_and_else_torchvisions():
    assert names_of("vgg16", "alexnet", "torchvision:resnet18", "timm:resnet34") == [
        ("timm", "vgg16"), ("torchvision", "alexnet"), ("torchvision", "resnet18"),
        ("timm", "resnet34"),
    ]  # fmt: skip
    assert names_of("resnet50.a1_in1k") == [("timm", "resnet50.a1_in1k")]


def test_wildcards_are_in_alphabetical_order_and_give_each_name_once():
    both = ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn"]
    assert names_of("vgg1[13]*", "vgg11") == [("timm", name) for name in both]
    assert names_of("squeezenet*") == [
        ("torchvision", "squeezenet1_0"), ("torchvision", "squeezenet1_1"),
    ]  # fmt: skip
    assert len(names_of("resnet50.a?_in1k")) > 1


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["resnet19"], "names: 'resnet19' is unknown; .* mean 'resnet18' or"),
        (["resnot*"], "no architecture of timm or torchvision fits 'resnot\\*'"),
        (["torchvision:efficientnet_b9"], "'efficientnet_b9' is unknown"),
        (["keras:vgg16"], "'keras' is unknown; known are timm, torchvision"),
        (["vgg16", "torchvision:vgg1*"], "vgg16 is asked of timm and of torchvision"),
        (["resnet50.a9_in1k"], "'resnet50.a9_in1k' is unknown"),
    ],
)
def test_names_that_no_library_has(patterns, message):
    with pytest.raises(UsageError, match=message):
        find_architectures(patterns)


SMALL = [
    ("timm", "resnet10t", 64), ("timm", "test_vit", None), ("timm", "levit_128s", None),
    ("torchvision", "shufflenet_v2_x0_5", None), ("torchvision", "swin_t", None),
]  # fmt: skip


@pytest.mark.parametrize(("library", "name", "size"), SMALL, ids=[one[1] for one in SMALL])
def test_shapes_alone_give_the_count_of_a_real_pass(library, name, size, monkeypatch):
    architecture = Architecture(library, name)
    network, shape = build_architecture(architecture, size)
    flops = count_flops(network, torch.rand(1, *shape))
    used, counted = [], architectures._counted
    monkeypatch.setattr(architectures, "_counted", lambda *a: used.append(a[2]) or counted(*a))
    cost = architecture_cost(architecture, size)
    assert used == ["meta"]
    assert (cost.model, cost.img_size) == (name, str(shape[-1]))
    assert (cost.flops, cost.parameters) == (flops, count_parameters(network))
    assert cost.source.startswith(f"{library} ")


def test_a_network_that_reads_values_runs_on_the_cpu(monkeypatch):
    class Reads(torch.nn.Conv2d):
        def forward(self, images):
            logits = super().forward(images).mean(dim=(-2, -1))
            return logits * float(self.weight.sum())

    def built(architecture, img_size=None):
        return Reads(3, 2, 1), (3, 4, 6)

    monkeypatch.setattr(architectures, "build_architecture", built)
    cost = architecture_cost(Architecture("timm", "reads"))
    assert (cost.flops, cost.parameters, cost.img_size) == (2 * 3 * 2 * 24, 8, "4x6")


def test_an_architecture_without_classifier_says_so(monkeypatch):
    with pytest.raises(CascadeError, match="'eva02_tiny_patch14_224' has no classifier"):
        architecture_cost(Architecture("timm", "eva02_tiny_patch14_224"))
    with pytest.raises(CascadeError, match=r"^vit_b_32: Input shape indivisible by patch size\.$"):
        architecture_cost(Architecture("torchvision", "vit_b_32"), 33)
    used, counted = [], architectures._counted
    monkeypatch.setattr(architectures, "_counted", lambda *a: used.append(a[2]) or counted(*a))
    with pytest.raises(CascadeError, match="has no classifier"):
        architecture_cost(Architecture("timm", "eva02_tiny_patch14_224"))
    assert used == ["meta"]  # not built again with numbers, which may be billions
