"""Layers whose channels stand in the last dimension: vectors, and maps as some networks keep them."""

import math

import pytest
import torch
from layers import noise
from torch import nn
from torch.testing import assert_close

from roteq.errors import UsageError
from roteq.groups import group
from roteq.nn import GroupConv2d, GroupLayerNorm, GroupLayerNorm2d, GroupLinear, plain
from roteq.testing import assert_equivariant

GROUPS = ["Z2", "C3", "C4", "C8", "D1", "D4", "D6"]


class OnMaps(nn.Module):
    """A layer for (B, H, W, C) as one for (B, C, H, W)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def linear(name):
    torch.manual_seed(0)
    layer = GroupLinear(3, 2, group=name)
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("name", GROUPS)
def test_a_linear_layer_is_the_sum_over_the_group(name):
    layer, x = linear(name).double(), noise(4, 3 * group(name).order, dtype=torch.float64)
    G, weight = layer.group, layer.weight.detach()
    found = layer(x).unflatten(1, (2, G.order))
    for g in range(G.order):
        turned = torch.stack([weight[:, :, G.product(G.inverse(g), h)] for h in range(G.order)], 2)
        expected = (x.unflatten(1, (1, 3, G.order)) * turned).sum((2, 3)) + layer.bias
        assert_close(found[:, :, g], expected)


@pytest.mark.parametrize("name", GROUPS)
def test_a_linear_layer_is_a_1x1_convolution(name):
    layer, conv = linear(name), GroupConv2d(3, 2, 1, group=name, basis="pixel")
    conv.load_state_dict({"weight": layer.weight[..., None], "bias": layer.bias})
    x = noise(2, 3 * group(name).order, 4, 5)
    assert_close(OnMaps(layer)(x), conv(x))


@pytest.mark.parametrize("name", GROUPS[1:])
def test_a_linear_layer_is_equivariant(name):
    layer, order = linear(name), group(name).order
    assert_equivariant(OnMaps(layer), name, noise(3, 3 * order, 5, 5), input="regular", output="regular")
    x = noise(4, 3 * order)[..., None, None]  # vectors, under every element, exact on the grid or not
    as_maps = lambda x: layer(x.flatten(1))[..., None, None]  # noqa: E731
    act = lambda x, g: layer.group.act_on_features(x, g)  # noqa: E731
    for g in range(order):
        assert_close(as_maps(act(x, g)), act(as_maps(x), g))
        assert g == 0 or not torch.allclose(as_maps(act(x, g)), as_maps(x))


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 5)])
def test_a_linear_layer_takes_any_leading_dimensions_and_leaves_as_one_of_torch(shape):
    layer, x = linear("D4"), noise(*shape, 24)
    assert layer(x).shape == (*shape, 16)
    assert type(plain(layer)) is nn.Linear
    assert_close(plain(layer)(x), layer(x))


@pytest.mark.parametrize("name", ["Z2", "C4", "D4", "C12"])
def test_the_output_variance_of_a_linear_layer_is_one_at_initialisation(name):
    torch.manual_seed(0)
    y = GroupLinear(64, 128, group=name)(noise(256, 64 * group(name).order))
    assert y.var().item() == pytest.approx(1, abs=0.1)
    assert y.mean().item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", GROUPS[1:])
def test_a_layer_norm_of_vectors_is_that_of_maps_and_equivariant(name, shared):
    x = noise(3, 2 * group(name).order, 5, 5)
    layer, maps = (kind(2, eps=1e-3, group=name, shared=shared) for kind in (GroupLayerNorm, GroupLayerNorm2d))
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    maps.load_state_dict(layer.state_dict())
    assert_close(OnMaps(layer)(x), maps(x))
    assert_equivariant(OnMaps(layer), name, x, input="regular", output="regular")


WRONG = {
    r"GroupLayerNorm: expected 3 features on C4 \(12 channels\), got 8 channels; 2 features on C4\?": lambda: (
        GroupLayerNorm(3, group="C4")(noise(2, 8))
    ),
    "GroupLayerNorm: expected num_channels to be a whole number of at least 1, got 0": lambda: GroupLayerNorm(
        0, group="C4"
    ),
    r"GroupLinear: expected 3 features on C4 \(12 channels\), got 24 channels; was x lifted": lambda: linear("C4")(
        noise(2, 24)
    ),
    r"GroupLinear: expected 3 features on C4 \(12 channels\), got 16 channels; 4 features on C4\?": lambda: linear(
        "C4"
    )(noise(2, 12, 4, 16)),
    "GroupLinear: expected channels in the last dimension, got a tensor without": lambda: linear("C4")(torch.zeros(())),
    "GroupLinear: expected out_features to be a whole number of at least 1, got 0": lambda: GroupLinear(
        1, 0, group="C4"
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_calls_are_refused(message):
    with pytest.raises(UsageError, match=message):
        WRONG[message]()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    layer, broken = linear("C4"), linear("C4")
    with torch.no_grad():
        broken.weight[0, 0, 0] = bad
    for use in (broken, lambda x: plain(broken), lambda x: layer.load_state_dict(broken.state_dict())):
        with pytest.raises(UsageError, match="GroupLinear: expected finite weights, got 1 of 24 NaN or infinite"):
            use(noise(2, 12))
