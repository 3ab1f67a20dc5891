"""Norms with shared=False: every orientation is normalised as the original layer normalises a plain map."""

import pytest
import torch
from layers import noise
from torch import nn
from torch.testing import assert_close

from roteq.groups import group
from roteq.nn import GroupInstanceNorm2d, GroupLayerNorm, GroupLayerNorm2d, GroupNorm2d, plain

GROUPS = ["Z2", "C4", "D1", "D4"]
C = 6


class LayerNormOfPixels(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def group_norm(sets):
    return (
        lambda g, shared, affine: GroupNorm2d(sets, C, 1e-3, affine, group=g, shared=shared),
        lambda affine: nn.GroupNorm(sets, C, 1e-3, affine),
    )


PAIRS = {  # ours and the original
    "group norm, one set": group_norm(1),
    "group norm": group_norm(3),
    "group norm, as instance norm": group_norm(C),
    "instance norm": (
        lambda g, shared, affine: GroupInstanceNorm2d(C, 1e-3, affine, group=g, shared=shared),
        lambda affine: nn.InstanceNorm2d(C, 1e-3, affine=affine),
    ),
    "layer norm": (
        lambda g, shared, affine: GroupLayerNorm2d(C, 1e-3, affine, group=g, shared=shared),
        lambda affine: LayerNormOfPixels(C, 1e-3, affine),
    ),
    "layer norm of vectors": (
        lambda g, shared, affine: GroupLayerNorm(C, 1e-3, affine, group=g, shared=shared),
        lambda affine: nn.LayerNorm(C, 1e-3, affine),
    ),
}
KINDS = [(name, affine, last) for name in PAIRS for affine in (True, False) for last in (True, False)]


def pair(name, group_name, affine=True, shared=False):
    ours, original = (
        make(*args) for make, args in zip(PAIRS[name], ((group_name, shared, affine), (affine,)), strict=True)
    )
    with torch.no_grad():
        for seed, value in enumerate(original.parameters()):
            value.add_(0.5 * noise(*value.shape, seed=seed))
    ours.load_state_dict(original.state_dict())
    return ours, original


def maps(name, order, last=False):
    """Orientations of different mean and spread, (B, C*|G|, H, W) or (B, H, W, C*|G|)."""
    x = noise(2, C, order, 4, 5) * (1 + torch.arange(order))[:, None, None] + torch.arange(order)[:, None, None]
    x = x.flatten(1, 2)
    if name == "layer norm of vectors":
        return x.permute(0, 2, 3, 1) if last else x.permute(0, 2, 3, 1).contiguous()
    return x.contiguous(memory_format=torch.channels_last) if last else x


def orientations(x, name, order):
    return (
        x.unflatten(-1, (C, order)).unbind(-1)
        if name == "layer norm of vectors"
        else x.unflatten(1, (C, order)).unbind(2)
    )


@pytest.mark.parametrize("group_name", GROUPS)
@pytest.mark.parametrize(("name", "affine", "last"), KINDS)
def test_every_orientation_is_normalised_as_a_plain_map(name, affine, last, group_name):
    order = group(group_name).order
    ours, original = pair(name, group_name, affine)
    x = maps(name, order, last)
    found = orientations(ours(x), name, order)
    assert len(found) == order
    for y, part in zip(found, orientations(x, name, order), strict=True):
        assert_close(y, original(part))


@pytest.mark.parametrize("name", PAIRS)
def test_shared_statistics_are_others(name):
    x, kinds = maps(name, 8), [pair(name, "D4", shared=shared)[0] for shared in (True, False)]
    assert not torch.allclose(kinds[0](x), kinds[1](x), atol=0.1)
    means = [torch.stack([part.mean() for part in orientations(layer(x), name, 8)]) for layer in kinds]
    assert means[0].std() > 4 * means[1].std()  # what makes one orientation louder than another survives only there


@pytest.mark.parametrize("name", PAIRS)
def test_over_the_trivial_group_both_are_the_original(name):
    x = maps(name, 1)
    for shared in (True, False):
        ours, original = pair(name, "Z2", shared=shared)
        assert_close(ours(x), original(x))


LEAVES_AS = {
    ("group norm", True): nn.GroupNorm,
    ("group norm", False): GroupNorm2d,
    ("group norm, as instance norm", False): nn.GroupNorm,
    ("instance norm", True): nn.GroupNorm,
    ("instance norm", False): nn.GroupNorm,
    ("layer norm", False): GroupLayerNorm2d,
    ("layer norm of vectors", True): nn.LayerNorm,
    ("layer norm of vectors", False): GroupLayerNorm,
}


@pytest.mark.parametrize(("name", "shared"), LEAVES_AS)
@pytest.mark.parametrize("affine", [True, False])
def test_plain_is_a_layer_of_torch_where_there_is_one(name, shared, affine):
    layer, x = pair(name, "D4", affine, shared)[0], maps(name, 8)
    twin = plain(layer)
    assert type(twin) is LEAVES_AS[name, shared]
    assert twin is not layer
    assert_close(twin(x), layer(x))
    assert type(plain(pair(name, "Z2", affine, shared)[0])).__module__.startswith("torch") or name == "layer norm"
