"""The CIFAR10 networks of Cohen & Welling 2016: published sizes, exact invariance, and what was wrong with the head."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from roteq.errors import UsageError
from roteq.groups import Group
from roteq.groups import group as named_group
from roteq.models.cifar import allcnn_c, resnet26, resnet44, widths_for
from roteq.nn import GroupBatchNorm2d, GroupConv2d, LiftingConv2d, plain
from roteq.testing import assert_equivariant, equivariance_error

NETWORKS = (allcnn_c, resnet26, resnet44)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def trained(make, group, **options):
    """A narrow network whose statistics, scales and biases are not those of the start."""
    torch.manual_seed(0)
    options = {"width": 3, "num_classes": 4} | ({"dropout": False} if make is allcnn_c else {}) | options
    net = make(group=group, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in net.modules():
            if isinstance(layer, GroupBatchNorm2d):
                layer.momentum = 1.0  # the statistics are those of the batch
        net.train()(noise(8, 3, 12, 12))
    return net


@pytest.mark.parametrize(
    ("make", "group", "options", "parameters"),
    [
        (allcnn_c, "Z2", {}, 1_372_254),
        (allcnn_c, "p4", {}, 1_371_006),
        (allcnn_c, "p4m", {}, 1_219_678),
        (resnet44, "Z2", {}, 2_639_434),
        (resnet44, "Z2", {"head": "original"}, 2_639_434),
        (resnet44, "p4m", {}, 2_619_728),
        (resnet44, "p4m", {"head": "original"}, 2_622_878),
        (resnet26, "Z2", {}, 7_236_046),
        (resnet26, "p4m", {}, 7_166_110),
        (resnet26, "p4m", {"head": "original"}, 7_173_110),
    ],
)
def test_parameters_are_as_published(make, group, options, parameters):
    assert sum(p.numel() for p in make(group=group, **options).parameters()) == parameters


def test_maps_are_as_published():
    """Every layer of All-CNN-C, and the stages of the ResNet, on 32x32 pixels."""
    net, shapes = allcnn_c(group="p4m").eval(), []
    for layer in net.modules():
        if isinstance(layer, LiftingConv2d | GroupConv2d):
            layer.register_forward_hook(lambda m, i, o: shapes.append((m.kernel_size, o.shape[1] // 8, o.shape[2])))
    net(noise(1, 3, 32, 32))
    assert shapes == [
        (3, 32, 32), (3, 32, 32), (3, 32, 16), (3, 64, 16), (3, 64, 16), (3, 64, 8), (3, 64, 8), (1, 64, 8), (1, 10, 8),
    ]  # fmt: skip
    net, shapes = resnet26(group="p4", width=2).eval(), []
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:3])))
    net(noise(1, 3, 32, 32))
    assert shapes == [(8, 32)] * 4 + [(16, 16)] * 4 + [(32, 8)] * 4


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize(("group", "channels", "size"), [("Z2", 1, (4, 4)), ("p4m", 4, (9, 14)), ("C8", 3, (33, 5))])
def test_any_group_takes_any_channels_and_sizes(make, group, channels, size):
    logits = make(channels, 5, group, width=1).eval()(noise(2, channels, *size))
    assert logits.shape == (2, 5) and logits.isfinite().all()


@pytest.mark.parametrize(
    ("make", "group"),
    [(allcnn_c, "p4"), (allcnn_c, "p4m"), (allcnn_c, "D6"), (resnet26, "p4m"), (resnet26, "C6"), (resnet44, "p4")],
)
def test_networks_are_invariant(make, group):
    """On sides of 15 and 14 pixels, 7 after the first step: odd and even at every depth."""
    assert_equivariant(trained(make, group, width=2), group, noise(2, 3, 15, 15))


@pytest.mark.parametrize("make", [allcnn_c, resnet26])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [32, 33])
def test_invariance_is_exact_up_to_rounding(make, training, size):
    net, x = trained(make, "p4m", width=2).double().train(training), noise(2, 3, size, size).double()
    errors = [equivariance_error(net, "p4m", x, g) for g in range(1, 8)]
    assert len(errors) == 7 and all(error is not None and error < 1e-12 for error in errors), errors


@pytest.mark.parametrize("make", NETWORKS)
def test_the_plain_networks_are_not_invariant(make):
    with pytest.raises(AssertionError, match="is not equivariant under C4: element 90°"):
        assert_equivariant(trained(make, "Z2"), "C4", noise(3, 3, 15, 15))


@pytest.mark.parametrize("make", [resnet26, resnet44])
def test_the_original_head_is_not_invariant(make):
    with pytest.raises(AssertionError, match="CifarResNet is not equivariant under D4: element 90°"):
        assert_equivariant(trained(make, "p4m", head="original"), "p4m", noise(3, 3, 15, 15))


def test_the_invariant_head_is_the_original_averaged_over_the_group():
    """As long as the maps below it turn with the picture, which those of the published strides do not."""
    net, original = (trained(resnet26, "p4", head=head).double().eval() for head in ("invariant", "original"))
    head = original.head
    state = net.state_dict() | {"head.weight": head.weight.unflatten(1, (-1, 4)).sum(2), "head.bias": head.bias}
    net.load_state_dict(state)
    original.load_state_dict(state | {"head.weight": head.weight})
    x, p4 = noise(2, 3, 12, 12).double(), named_group("p4")
    assert_close(net(x), torch.stack([original(p4.act_on_image(x, g)) for g in range(4)]).mean(0))


def test_over_the_trivial_group_they_are_torch_s_own_layers():
    for make in NETWORKS:
        net = trained(make, "Z2").eval()
        twin, x = plain(net), noise(2, 3, 12, 12)
        assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in net.parameters())
        assert not any(isinstance(layer, LiftingConv2d | GroupConv2d) for layer in twin.modules())
        assert_close(twin(x), net(x))


def test_widths_are_published_or_those_of_the_plain_network_over_the_root_of_the_order():
    assert widths_for("resnet44", Group(4, True)) == (11, 23, 45)
    assert widths_for("resnet44", Group(4)) == (16, 32, 64)
    assert widths_for("resnet26", Group(12)) == (20, 41, 82)  # 71, 142, 284 over 3.46
    assert widths_for("allcnn_c", Group(1, True)) == (68, 136)
    assert widths_for("resnet44", Group(4, True), 22) == (22, 46, 90)
    assert widths_for("allcnn_c", Group(8), 1) == (1, 2)
    assert [layer.out_channels for layer in allcnn_c(group="C8", width=2).layers if isinstance(layer, GroupConv2d)] == [
        2, 2, 4, 4, 4, 4, 4, 10,
    ]  # fmt: skip


def test_initial_weights_are_as_published():
    torch.manual_seed(0)
    for group, width, std in (("Z2", None, 0.05), ("p4m", None, 0.035), ("p4m", 8, 0.07)):  # 8: the gain of 32
        for layer in allcnn_c(group=group, width=width).modules():
            if isinstance(layer, LiftingConv2d | GroupConv2d):
                assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
    for net in (resnet26(group="Z2"), resnet26(group="p4m"), resnet26(group="p4m", head="original")):
        layers = [layer for layer in net.modules() if isinstance(layer, LiftingConv2d | GroupConv2d | nn.Linear)]
        assert len(layers) == 28  # 26 with the shortcuts beside them
        for layer in layers:
            assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.15)
            assert not layer.bias.any()


def test_dropout_is_where_it_was_and_can_be_left_out():
    rates = [layer.p for layer in allcnn_c(width=1).modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.2, 0.5, 0.5]
    net, without = allcnn_c(width=1), allcnn_c(width=1, dropout=False)
    without.load_state_dict(net.state_dict())
    x = noise(4, 3, 8, 8)
    assert_close(net.eval()(x), without.eval()(x))
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(without.train()(x), without(x))


@pytest.mark.parametrize("make", NETWORKS)
def test_pictures_that_cannot_be_halved_twice_are_refused(make):
    net = make(num_classes=2, width=1).eval()
    smallest = "expected pictures of at least 4x4 pixels, which are halved twice, got 3x8"
    with pytest.raises(UsageError, match=f"{make.__name__}: {smallest}"):
        net(noise(1, 3, 3, 8))
    assert net(noise(1, 3, 4, 4)).shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: allcnn_c(width=0), "allcnn_c: expected width of at least 1, got 0; nearest: width=1"),
        (lambda: resnet26(width=-1), "resnet26: expected width of at least 1, got -1; nearest: width=1"),
        (lambda: resnet44(width=0), "resnet44: expected width of at least 1, got 0; nearest: width=1"),
        (
            lambda: widths_for("resnet44", Group(5000)),
            "resnet44: expected width of at least 1, got 0 for the 5000 elements of C5000; nearest: width=1",
        ),
        (lambda: resnet44(head="orignal"), "resnet44: unknown head 'orignal'; did you mean 'original'"),
        (lambda: resnet26(head="flat"), "resnet26: unknown head 'flat'; choose from 'invariant', 'original'"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()
