"""The layers beyond the first few: each is equivariant, refuses what would not be, and prints what rebuilds it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from roteq.errors import UsageError
from roteq.filters import harmonic_basis
from roteq.groups import cosets, group
from roteq.nn import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupDropout2d,
    GroupInstanceNorm2d,
    GroupLayerNorm,
    GroupLayerNorm2d,
    GroupLinear,
    GroupNorm2d,
    GroupPool,
    LiftingConv2d,
    MapHead,
    RectangularGroupConv2d,
    RectangularLiftingConv2d,
    Restriction,
    SeparableGroupConv2d,
    SymmetricAvgPool2d,
    SymmetricBlurPool2d,
    SymmetricUpsample2d,
    VectorHead,
    plain,
)
from roteq.testing import assert_equivariant, equivariance_error

GROUPS = ["C3", "C4", "C8", "D1", "D4", "D6"]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def randomised(layer):
    """The layer with parameters and statistics that are not all 0 or 1."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in [*layer.parameters(), *(b for name, b in layer.named_buffers() if name.endswith("running_mean"))]:
            value.add_(0.3 * torch.randn(value.shape, generator=random))
    return layer


FOR_ANY_SIZE = {
    "dilation": lambda g: GroupConv2d(2, 3, 3, padding=2, dilation=2, group=g),
    "groups": lambda g: GroupConv2d(2, 4, 3, groups=2, group=g),
    "depthwise": lambda g: GroupConv2d(2, 2, 3, padding="same", groups=2, group=g),
    "reflect": lambda g: GroupConv2d(2, 2, 3, padding=1, padding_mode="reflect", group=g),
    "replicate": lambda g: GroupConv2d(2, 2, 4, padding=2, padding_mode="replicate", group=g),
    "circular": lambda g: GroupConv2d(2, 2, 5, padding=2, padding_mode="circular", group=g),
    "pixel basis": lambda g: GroupConv2d(2, 2, 3, basis="pixel", group=g),
    "harmonic basis": lambda g: GroupConv2d(2, 2, 3, basis="harmonic", group=g),
    "transposed, doubling": lambda g: GroupConvTranspose2d(2, 3, 4, stride=2, padding=1, group=g),
    "transposed, odd": lambda g: GroupConvTranspose2d(2, 4, 3, stride=2, groups=2, group=g),
    "transposed, stride 3": lambda g: GroupConvTranspose2d(2, 2, 3, stride=3, dilation=2, bias=False, group=g),
    "separable": lambda g: SeparableGroupConv2d(2, 3, 3, padding=1, group=g),
    "group norm": lambda g: randomised(GroupNorm2d(1, 2, group=g)),
    "instance norm": lambda g: randomised(GroupInstanceNorm2d(2, affine=True, group=g)),
    "layer norm": lambda g: randomised(GroupLayerNorm2d(2, group=g)),
    "group norm, not shared": lambda g: randomised(GroupNorm2d(1, 2, group=g, shared=False)),
    "instance norm, not shared": lambda g: randomised(GroupInstanceNorm2d(2, affine=True, group=g, shared=False)),
    "layer norm, not shared": lambda g: randomised(GroupLayerNorm2d(2, group=g, shared=False)),
    "dropout": lambda g: GroupDropout2d(0.5, group=g),
    "average pool": lambda g: SymmetricAvgPool2d(),
    "blur pool": lambda g: SymmetricBlurPool2d(),
    "anti-aliased max pool": lambda g: nn.Sequential(nn.MaxPool2d(3, 1, 1), SymmetricBlurPool2d()),
    "up-sampling": lambda g: SymmetricUpsample2d(),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("layer", FOR_ANY_SIZE)
def test_a_layer_is_equivariant_at_every_size(name, layer):
    torch.manual_seed(0)
    x = noise(8, 2 * group(name).order, 8, 8)  # 8 samples: dropout leaves some of them different
    assert_equivariant(FOR_ANY_SIZE[layer](name), name, x, input="regular", output="regular")


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize(("kernel_size", "stride", "padding", "size"), [(4, 2, 1, 8), (3, 2, 1, 9), (3, 3, 0, 9)])
def test_a_symmetric_stride_is_equivariant(name, kernel_size, stride, padding, size):
    x = noise(2, 2 * group(name).order, size, size)
    layer = GroupConv2d(2, 3, kernel_size, stride=stride, padding=padding, group=name)
    assert_equivariant(layer, name, x, input="regular", parities=False)
    image = noise(2, 1, size, size)
    assert_equivariant(LiftingConv2d(1, 3, kernel_size, stride, padding, group=name), name, image, parities=False)


def test_the_stride_that_is_refused_is_not_equivariant():
    layer = GroupConv2d(2, 3, 3, stride=2, padding=1, group="p4").eval()
    conv = plain(layer)
    x = noise(2, 8, 8, 8)
    error = equivariance_error(conv, "p4", x, 1, input="regular", output="regular")
    assert error is not None and error > 0.5
    with pytest.raises(UsageError, match=r"stride 2 is symmetric about the centre, got 8x8 .*nearest: sides of 7 or 9"):
        layer(x)


@pytest.mark.parametrize("name", GROUPS)
def test_the_argmax_field_is_a_vector_field(name):
    x = noise(3, 2 * group(name).order, 6, 6).relu()
    assert_equivariant(GroupPool(name, "argmax"), name, x, input="regular", output="vector")


def test_the_argmax_field_points_where_the_maximum_stands():
    x = torch.zeros(1, 4, 1, 1)
    x[0, 1] = 3.0  # 90 degrees: upwards
    torch.testing.assert_close(GroupPool("C4", "argmax")(x).flatten(), torch.tensor([0.0, 3.0]))
    x = torch.zeros(1, 8, 1, 1)
    x[0, 4] = 2.0  # the mirror sends the x axis to its opposite
    torch.testing.assert_close(GroupPool("D4", "argmax")(x).flatten(), torch.tensor([-2.0, 0.0]))


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_vector_head_is_invariant(name, pool):
    head = VectorHead(2, 5, group=name, pool=pool)
    assert_equivariant(head, name, noise(3, 2 * group(name).order, 6, 6), input="regular", output="invariant")


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize(("pool", "output"), [("max", "trivial"), ("mean", "trivial"), ("argmax", "vector")])
def test_the_map_head_is_equivariant(name, pool, output):
    head = randomised(MapHead(2, 3, group=name, pool=pool))
    assert_equivariant(head, name, noise(3, 2 * group(name).order, 6, 6), input="regular", output=output)


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (9, 8), (1, 9), (3, 1)])
def test_up_sampling_to_the_size_of_another_map_is_symmetric(size):
    layer, like = SymmetricUpsample2d().double(), torch.zeros(1, 1, *size)
    x = noise(2, 3, max(1, size[0] // 2), max(1, size[1] // 2)).double()
    y = layer(x, like)
    assert y.shape[-2:] == size
    torch.testing.assert_close(layer(x.flip(-1), like), y.flip(-1))
    turned = layer(torch.rot90(x, 1, (2, 3)), torch.rot90(like, 1, (2, 3)))
    torch.testing.assert_close(turned, torch.rot90(y, 1, (2, 3)))


def test_nearest_neighbour_up_sampling_is_not_symmetric_on_odd_maps():
    x = noise(1, 1, 4, 4)
    up = lambda x: F.interpolate(x, size=(9, 9), mode="nearest")  # noqa: E731
    assert not torch.allclose(up(x.flip(-1)), up(x).flip(-1))


@pytest.mark.parametrize("pool", [SymmetricAvgPool2d(), SymmetricBlurPool2d()])
@pytest.mark.parametrize("size", [(8, 9), (1, 1), (3, 1), (2, 2), (7, 7)])
def test_averaging_pools_halve_every_size_and_keep_a_constant(pool, size):
    y = pool(torch.ones(1, 1, *size))
    assert y.shape[-2:] == tuple(max(1, side // 2) for side in size)
    inside = y[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_blur_pool_is_the_binomial_filter():
    for size, taps in ((12, [1, 3, 3, 1]), (13, [1, 4, 6, 4, 1])):
        kernel = torch.tensor(taps, dtype=torch.float32)
        kernel = (kernel[:, None] * kernel / kernel.sum() ** 2)[None, None]
        x = noise(1, 1, size, size)
        torch.testing.assert_close(SymmetricBlurPool2d()(x), F.conv2d(x, kernel, stride=2, padding=1))


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("D4", "C4"), ("D4", "D2"), ("D6", "C3"), ("C8", "C4"), ("C12", "C3"), ("D4", "D4"), ("C4", "Z2")],
)
def test_restricted_features_are_features_of_the_subgroup(name, smaller):
    whole, part = group(name), group(smaller)
    layer, x = Restriction(name, smaller), noise(2, 3 * whole.order, 5, 5)
    elements = cosets(whole, part)[0]  # the coset of the identity: the subgroup itself, in its own order
    assert elements[0] == 0 and len(elements) == part.order
    for h in set(part.exact_elements):
        acted = whole.act_on_features(x, elements[h])
        torch.testing.assert_close(layer(acted), part.act_on_features(layer(x), h))
    assert torch.equal(layer(x).flatten(1).sort().values, x.flatten(1).sort().values)  # nothing is lost
    if name in ("C8", "C12") or smaller == "D2":  # there the channels must change places: as they are, they will not do
        h = 1
        assert not torch.allclose(whole.act_on_features(x, elements[h]), part.act_on_features(x, h))


def test_a_network_may_go_on_over_a_subgroup():
    torch.manual_seed(0)
    net = nn.Sequential(
        LiftingConv2d(1, 2, 3, group="D4"), nn.ReLU(), Restriction("D4", "C4"), GroupConv2d(4, 3, 3, group="C4")
    )
    assert_equivariant(net, "C4", noise(2, 1, 9, 9))


def test_dropout_drops_whole_features_and_scales_the_rest():
    torch.manual_seed(0)
    y = GroupDropout2d(0.5, group="C4")(torch.ones(64, 32, 3, 3)).unflatten(1, (8, 4)).flatten(2)
    assert torch.equal(y.amin(2), y.amax(2))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert (y == 0).float().mean().item() == pytest.approx(0.5, abs=0.08)
    x = noise(2, 8, 3, 3)
    assert torch.equal(GroupDropout2d(0.5, group="C4").eval()(x), x)


def test_a_separable_convolution_is_the_group_convolution_of_a_product():
    torch.manual_seed(0)
    layer = SeparableGroupConv2d(2, 3, 3, group="D4", basis="pixel").double()
    whole = GroupConv2d(2, 3, 3, group="D4").double()
    stabilizer, space = layer.stabilizer.weight, layer.space.weight  # (3, 2, 8, 1), (3, 1, 9)
    with torch.no_grad():
        whole.weight.copy_(stabilizer * space[:, :, None])
    x = noise(2, 16, 7, 7).double()
    torch.testing.assert_close(layer(x), whole(x))


def test_the_transposed_convolution_is_the_gradient_of_a_group_convolution():
    """<conv(x), y> = <x, transposed(y)> where the filters of one are those of the other, turned back."""
    torch.manual_seed(0)
    layer = GroupConvTranspose2d(2, 3, 4, stride=2, padding=1, bias=False, group="D4").double()
    x, y = noise(2, 24, 8, 8).double(), noise(2, 16, 4, 4).double()
    forward = F.conv2d(x, layer.transposed_bank(), stride=2, padding=1)
    torch.testing.assert_close((forward * y).sum(), (x * layer(y)).sum())


@pytest.mark.parametrize("name", ["Z2", "C4", "C8", "C12", "D8"])  # |G| = 1, 4, 8, 12, 16
@pytest.mark.parametrize("basis", ["pixel", "harmonic"])
def test_output_variance_at_initialisation_is_near_one(name, basis):
    torch.manual_seed(0)
    order = group(name).order
    x = noise(4, 8 * order, 16, 16)
    layers = {
        "group": (GroupConv2d(8, 16, 5, group=name, basis=basis), x),
        "grouped": (GroupConv2d(8, 64, 3, groups=4, group=name, basis=basis), x),
        "lifting": (LiftingConv2d(16, 64, 5, group=name, basis=basis), noise(4, 16, 16, 16)),
        "transposed": (GroupConvTranspose2d(8, 16, 4, 2, 1, group=name, basis=basis), x),
        "separable": (SeparableGroupConv2d(8, 128, 5, group=name, basis=basis), x),
    }
    for kind, (layer, images) in layers.items():
        y = layer(images)[..., 2:-2, 2:-2]
        assert y.var().item() == pytest.approx(1, abs=0.25), kind


def test_every_orientation_of_a_harmonic_layer_is_as_loud():
    torch.manual_seed(0)
    y = LiftingConv2d(16, 64, 5, group="C12")(noise(4, 16, 24, 24)).unflatten(1, (64, 12))
    assert y.var((0, 1, 3, 4)).max() / y.var((0, 1, 3, 4)).min() < 1.1
    y = LiftingConv2d(16, 64, 5, group="C12", basis="disc")(noise(4, 16, 24, 24)).unflatten(1, (64, 12))
    assert y.var((0, 1, 3, 4)).max() / y.var((0, 1, 3, 4)).min() > 1.5  # the control: bilinear kernels are not


def test_the_basis_is_chosen_by_the_group():
    for name, basis in {"Z2": "pixel", "C2": "pixel", "p4m": "pixel", "C3": "harmonic", "C8": "harmonic"}.items():
        assert LiftingConv2d(1, 1, 3, group=name).basis_name == basis


PRINTED = [
    LiftingConv2d(
        2, 4, 4, stride=2, padding=1, dilation=1, groups=2, padding_mode="reflect", group="C8", basis="pixel"
    ),
    GroupConvTranspose2d(2, 4, 4, stride=2, padding=1, groups=2, bias=False, group="D3"),
    SeparableGroupConv2d(2, 3, 3, padding="same", bias=False, padding_mode="circular", group="p4m", basis="harmonic"),
    RectangularGroupConv2d(2, 4, (3, 5), 2, (0, 1), groups=2, bias=False, group="p4m"),
    RectangularLiftingConv2d(2, 4, (1, 7), padding="same", dilation=2, group="C2"),
    GroupBatchNorm2d(2, momentum=None, affine=False, track_running_stats=False, group="C4"),
    GroupNorm2d(2, 4, affine=False, group="C4"),
    GroupInstanceNorm2d(4, eps=1e-3, affine=True, group="C4"),
    GroupNorm2d(2, 4, group="C4", shared=False),
    GroupInstanceNorm2d(4, group="C4", shared=False),
    GroupLayerNorm(4, eps=1e-6, affine=False, group="D4", shared=False),
    GroupLayerNorm2d(4, group="D4"),
    GroupLinear(2, 4, bias=False, group="D4"),
    GroupDropout2d(0.3, group="D4"),
    GroupPool("C8", mode="argmax"),
    Restriction("D6", "C3"),
    SymmetricAvgPool2d(),
    SymmetricBlurPool2d(),
    SymmetricUpsample2d(),
    VectorHead(4, 2, bias=False, group="D4", pool="mean"),
    MapHead(4, 2, group="C8", pool="argmax"),
]


@pytest.mark.parametrize("layer", PRINTED, ids=lambda layer: type(layer).__name__)
def test_what_a_layer_prints_rebuilds_it(layer):
    again = eval(f"{type(layer).__name__}({layer.extra_repr()})")
    assert repr(again) == repr(layer)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


WRONG = {
    "kernel_size: expected one whole number of at least 1": lambda: GroupConv2d(1, 1, (3, 5), group="p4"),
    "C0": lambda: GroupConv2d(1, 1, 3, group="C0"),
    "basis: expected None or a name, got 'pixels'; did you mean 'pixel'": lambda: GroupConv2d(
        1, 1, 3, group="p4", basis="pixels"
    ),
    "unknown padding_mode 'mirror'; choose from": lambda: GroupConv2d(1, 1, 3, padding_mode="mirror", group="p4"),
    "groups to divide in_channels and out_channels, got groups=3 for 4 and 8; nearest: 2": lambda: GroupConv2d(
        4, 8, 3, groups=3, group="p4"
    ),
    r"odd kernel and stride 1 for padding='same', got a kernel that covers 4 .*nearest: kernel_size 3 or 5": lambda: (
        GroupConv2d(1, 1, 4, padding="same", group="p4")
    ),
    "GroupConvTranspose2d: expected padding_mode 'zeros', got 'reflect'": lambda: GroupConvTranspose2d(
        1, 1, 3, padding_mode="reflect", group="p4"
    ),
    "GroupConvTranspose2d: expected a map that padding 2 leaves pixels of, got 1x1": lambda: GroupConvTranspose2d(
        1, 1, 3, padding=2, group="p4"
    )(noise(1, 4, 1, 1)),
    r"LiftingConv2d: expected a map of at least 5 pixels a side \(the kernel covers 5, padding 0\), got 4x9": lambda: (
        LiftingConv2d(1, 1, 5, group="p4")(noise(1, 1, 4, 9))
    ),
    "LiftingConv2d: expected an image of 3 channels, got 1": lambda: LiftingConv2d(3, 1, 3, group="p4")(
        noise(1, 1, 9, 9)
    ),
    r"expected 16 features on C4 \(64 channels\), got 128 channels; was x lifted with a group of 8 elements": lambda: (
        GroupConv2d(16, 1, 3, group="C4")(noise(1, 128, 5, 5))
    ),
    r"expected 16 features on C4 \(64 channels\), got 40 channels; 10 features on C4": lambda: GroupConv2d(
        16, 1, 3, group="C4"
    )(noise(1, 40, 5, 5)),
    "GroupConv2d: expected a batch of maps .B, C, H, W., got 3 dimensions": lambda: GroupConv2d(1, 1, 3, group="C4")(
        noise(4, 5, 5)
    ),
    "GroupConv2d: expected bfloat16, float32 or float64 on the CPU, got float16": lambda: GroupConv2d(
        1, 1, 3, group="C4"
    ).half()(noise(1, 4, 5, 5).half()),
    "GroupNorm2d: expected num_groups to divide num_channels, got 3 and 4": lambda: GroupNorm2d(3, 4, group="C4"),
    "GroupDropout2d: expected p between 0 and 1, got 1.5": lambda: GroupDropout2d(1.5, group="C4"),
    "Restriction: expected a subgroup of C8, got D4; choose from Z2, C2, C4, C8": lambda: Restriction("C8", "D4"),
    "VectorHead: expected 4 features on C4 .16 channels., got 8": lambda: VectorHead(4, 2, group="C4")(
        noise(1, 8, 3, 3)
    ),
    "GroupPool: unknown mode 'median'": lambda: MapHead(4, 2, group="C4", pool="median"),
    "num_features to be a whole number of at least 1, got 0": lambda: GroupBatchNorm2d(0, group="C4"),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_calls_are_refused(message):
    with pytest.raises(UsageError, match=message):
        WRONG[message]()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    layer = GroupConv2d(1, 2, 3, group="p4")
    broken = GroupConv2d(1, 2, 3, group="p4")
    with torch.no_grad():
        broken.weight[0, 0, 0, 0] = bad
    with pytest.raises(UsageError, match=r"GroupConv2d: expected finite weights, got 1 of 72 NaN or infinite; did the"):
        broken(noise(1, 4, 5, 5))
    with pytest.raises(UsageError, match="expected finite weights"):
        layer.load_state_dict(broken.state_dict())
    with pytest.raises(UsageError, match="expected finite weights"):
        plain(broken)


def test_harmonic_weights_are_fewer_than_pixels():
    assert GroupConv2d(1, 1, 5, group="C8").weight.shape[-1] == harmonic_basis(group("C8"), 5).shape[1] == 15
