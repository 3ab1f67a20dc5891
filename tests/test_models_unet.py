"""g_unet: maps that turn with the picture at every size, seen from as far as it says, in the budget of its twin."""

import math

import pytest
import torch
from torch.testing import assert_close

from roteq.config import validate
from roteq.errors import UsageError
from roteq.models import ModelConfig, create
from roteq.models.se2cnn import se2cnn
from roteq.models.unet import g_unet, parameters_of
from roteq.nn import plain
from roteq.nn.geometry import Geometry
from roteq.testing import assert_equivariant, equivariance_error


def noise(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def seeded(*args, **options):
    """With statistics that are no longer those of an untrained network."""
    torch.manual_seed(0)
    net = g_unet(*args, **options).double()
    for module in net.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return net


SIZES = [(32, 32), (33, 33), (30, 35), (5, 6)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group", ["p4m", "C8", "D1"])
def test_maps_turn_with_the_picture_at_every_size(group, size):
    net = seeded(2, 3, group, width=2)
    assert_equivariant(net, group, noise(3, 2, *size), output="trivial", parities=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group", ["p4m", "C8", "D1"])
def test_vectors_turn_with_the_picture_at_every_size(group, size):
    """In float64: where two elements answer alike up to rounding, float32 may choose the other."""
    net = seeded(2, 3, group, width=2, output="vectors").eval()
    for g in net.group.exact_elements[1:]:
        error = equivariance_error(net, group, noise(3, 2, *size), g, output="vector")
        assert error is not None and error < 1e-10


def test_the_plain_twin_does_not_turn():
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(seeded(2, 3, "Z2", width=4), "p4", noise(3, 2, 24, 24), output="trivial", parities=False)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("side", [72, 73])
def test_an_answer_sees_as_far_as_the_geometry_says(levels, side):
    net = seeded(1, 2, "p4", width=2, levels=levels).eval()
    radius, middle = net.geometry.padding, side // 2
    assert net.geometry == Geometry(2 * radius + 1, 1, radius, 2 ** (levels - 1))
    x = noise(1, 1, side, side)
    reached = 0
    with torch.no_grad():
        before = net(x)
        for place in range(middle - 4, middle + 4):
            changed = x.clone()
            changed[..., place, place + 1] += 9
            seen = ((net(changed) - before).abs().amax((0, 1)) > 0).nonzero()
            reached = max(reached, int((seen - torch.tensor([place, place + 1])).abs().max()))
    assert reached == radius


def test_a_vector_of_one_feature_lies_along_its_element_as_long_as_it_stands_out():
    net = seeded(1, 2, "p4", width=1).eval()
    seen = []
    net.project.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x = noise(2, 1, 16, 16)
    with torch.no_grad():
        net(x)
        net.output = "vectors"
        vectors = net(x).unflatten(1, (2, 2))
        features = seen[0]
        above = features.amax(1, keepdim=True) - features.mean(1, keepdim=True)
        scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
        assert_close(vectors.norm(dim=2), above * scale * net.head.weight.abs().view(1, 2, 1, 1))
    clear = vectors.norm(dim=2) > 1e-6
    angles = torch.atan2(vectors[:, :, 1], vectors[:, :, 0])[clear] / (math.pi / 2)
    assert_close(angles, angles.round(), atol=1e-9, rtol=0)
    assert len(angles.round().unique()) >= 4  # it points everywhere


@pytest.mark.parametrize("group", ["Z2", "p4", "p4m", "C8", "D6"])
def test_all_groups_have_about_as_many_parameters(group):
    net = g_unet(3, 2, group)
    found = sum(p.numel() for p in net.parameters())
    assert abs(found / parameters_of(3, 2, 1, 12, 3, 9) - 1) < 0.2
    width = net.head.in_channels
    filters = 6 if group in ("C8", "D6") else 9
    assert found == parameters_of(3, 2, net.group.order, width, 3, filters)


def test_the_plain_form_answers_the_same():
    net, x = seeded(3, 2, "p4m", width=2).eval(), noise(2, 3, 21, 20)
    assert_close(plain(net)(x), net(x))


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="levels to be a whole number of at least 1, got 0"):
        g_unet(levels=0)
    net = g_unet(1, 2, "p4", width=1)
    net.output = "vector"
    with pytest.raises(UsageError, match=r"unknown output 'vector'; did you mean 'vectors'"):
        net(noise(1, 1, 8, 8, dtype=torch.float32))


def test_the_data_decides_what_a_network_answers_with():
    unet, resnet, both = (ModelConfig(name=name) for name in ("g_unet", "resnet18", "se2cnn"))
    assert unet.group == "D4"
    with pytest.raises(UsageError, match=r"g_unet answers with maps, and the data has one label"):
        unet.build(3, 2)
    with pytest.raises(UsageError, match=r"resnet18 answers with one vector a picture.*g_unet, cnn, p4m_densenet"):
        resnet.build(3, 2, dense=True)
    assert both.build(3, 2, dense=True).dense
    assert not both.build(3, 2).dense
    for key, value in (("dense", True), ("output", "vectors")):
        with pytest.raises(UsageError, match=f"{key} is given by the data"):
            validate(ModelConfig, {"name": "g_unet" if key == "output" else "se2cnn", key: value}, where="model")
    assert ModelConfig.model_validate({"name": "p4m_densenet", "dense": False}).options.keys().isdisjoint({"dense"})


def test_the_dense_se2cnn_holds_the_logits_of_every_window():
    torch.manual_seed(0)
    net = se2cnn(1, 3, "C8", width=2).double().eval()
    for module in net.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
    x, size, step = noise(2, 1, 40, 44), net.geometry.window, net.geometry.stride
    windows = x.unfold(2, size, step).unfold(3, size, step).permute(2, 3, 0, 1, 4, 5).flatten(0, 1)
    with torch.no_grad():
        expected = torch.stack([net(w) for w in windows], 2)
        net.dense = True
        found = net(x)
    assert found.shape == (2, 3, 3, 4)
    assert_close(found.flatten(2), expected)
    assert expected.std(2).min() > 1e-4
    assert_equivariant(net, "C4", noise(3, 1, 40, 40), output="trivial", parities=False)
    with pytest.raises(UsageError, match=r"se2cnn: dense: expected sides of 32 \+ k \* 4 pixels, got 41x40"):
        net(noise(1, 1, 41, 40))


def test_a_geometry_counts_answers_as_networks_do():
    for net in (g_unet(1, 2, "p4", width=1), create("se2cnn", in_channels=1, group="p4", width=1, dense=True)):
        for side in (32, 36, 48):
            x = noise(1, 1, side, side, dtype=torch.float32)
            assert net.eval()(x).shape[-1] == net.geometry.answers(side)
            begin, cells = net.geometry.begin, net.geometry.answers(side) * net.geometry.stride
            assert begin == side - begin - cells  # as many pixels are left on both sides
