"""Kernels with two sides: they compute what a square kernel with zeros around them computes."""

import math

import pytest
import torch
from layers import noise
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from roteq.errors import UsageError
from roteq.groups import group
from roteq.nn import (
    GroupBatchNorm2d,
    GroupConv2d,
    LiftingConv2d,
    RectangularGroupConv2d,
    RectangularLiftingConv2d,
    plain,
)
from roteq.nn.rectangular import InterleavedConv2d
from roteq.testing import assert_equivariant, equivariance_error

GROUPS = ["Z2", "C2", "C4", "D1", "D2", "D4"]
SHAPES = {  # kernel, padding, of the square around it, the other arguments
    "1x7": ((1, 7), (0, 3), 3, {}),
    "5x3": ((5, 3), (2, 1), 2, {}),
    "3x5, no padding above": ((3, 5), (0, 1), 1, {}),
    "2x4": ((2, 4), (0, 1), 1, {}),
    "1x3, grouped": ((1, 3), (0, 1), 1, {"groups": 2}),
    "1x5, wide padding": ((1, 5), (1, 3), 3, {"bias": False}),
    "3x3": ((3, 3), (1, 1), 1, {}),
}
KINDS = {"group": (RectangularGroupConv2d, GroupConv2d), "lifting": (RectangularLiftingConv2d, LiftingConv2d)}


def around(weight, kernel):
    """Filters in the middle of a square of zeros."""
    side = max(kernel)
    rows, columns = ((side - length) // 2 for length in kernel)
    return F.pad(weight.unflatten(-1, kernel), (columns, columns, rows, rows)).flatten(-2)


def layer_and_map(kind, name, shape, side=9, dtype=torch.float32, **more):
    torch.manual_seed(0)
    kernel, padding, _, others = SHAPES[shape]
    layer = KINDS[kind][0](4, 2, kernel, padding=padding, group=name, **others, **more).to(dtype)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer, noise(2, 4 * (group(name).order if kind == "group" else 1), side, side - 2, dtype=dtype)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rectangle_is_a_square_with_zeros_around_it(kind, shape, name):
    layer, x = layer_and_map(kind, name, shape, dtype=torch.float64)
    kernel, _, padding, others = SHAPES[shape]
    square = KINDS[kind][1](4, 2, max(kernel), padding=padding, group=name, **others).double()
    square.load_state_dict(layer.state_dict() | {"weight": around(layer.weight, kernel)})
    assert_close(layer(x), square(x))


@pytest.mark.parametrize(("kernel", "padding", "side"), [((1, 3), (0, 1), 9), ((5, 1), (2, 0), 7), ((3, 5), (0, 1), 8)])
def test_a_symmetric_stride_and_a_dilation_are_those_of_the_square(kernel, padding, side):
    torch.manual_seed(0)
    x = noise(2, 8, side + kernel.count(5) % 2 * (side % 2 == 0), side + 1 - side % 2)
    for stride, dilation in ((2, 1), (1, 2)):
        pads = tuple(p * dilation for p in padding)
        layer = RectangularGroupConv2d(1, 2, kernel, stride, pads, dilation, group="D4")
        square = GroupConv2d(1, 2, max(kernel), stride, max(pads), dilation, group="D4")
        square.load_state_dict(layer.state_dict() | {"weight": around(layer.weight, kernel)})
        assert_close(layer(x), square(x))


@pytest.mark.parametrize("name", GROUPS[1:])
@pytest.mark.parametrize(("kind", "shape"), [*(("group", shape) for shape in SHAPES), ("lifting", "1x7")])
def test_a_rectangular_convolution_is_equivariant(kind, shape, name):
    layer, x = layer_and_map(kind, name, shape)
    assert_equivariant(layer, name, x, input="regular" if kind == "group" else "trivial", output="regular")


@pytest.mark.parametrize("name", ["C2", "D2"])
def test_without_quarter_turns_any_padding_will_do(name):
    x = noise(2, 2 * group(name).order, 8, 9)
    layer = RectangularGroupConv2d(2, 3, (2, 5), padding=(1, 0), group=name)
    assert layer(x).shape[2:] == (9, 5)
    assert_equivariant(layer, name, x, input="regular")
    assert type(plain(layer)) is nn.Conv2d


def test_padding_same_keeps_the_size():
    layer = RectangularLiftingConv2d(1, 1, (1, 7), padding="same", dilation=2, group="D4")
    assert layer.padding == (0, 6)
    assert layer(noise(1, 1, 8, 9)).shape == (1, 8, 8, 9)


@pytest.mark.parametrize("name", ["Z2", "C4", "D4"])
@pytest.mark.parametrize("kind", KINDS)
def test_output_variance_at_initialisation_is_near_one(kind, name):
    torch.manual_seed(0)
    x = noise(4, 16 * (group(name).order if kind == "group" else 1), 16, 16)
    y = KINDS[kind][0](16, 64, (1, 7), group=name, padding=(0, 3))(x)[..., 3:-3, 3:-3]
    assert y.var().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_plain_has_no_more_weights_than_the_rectangle(kind, name):
    layer, x = layer_and_map(kind, name, "1x7")
    twin = plain(layer)
    if layer.group.rotations < 4:
        assert type(twin) is nn.Conv2d
    else:
        assert type(twin) is InterleavedConv2d
        assert (twin.even.kernel_size, twin.odd.kernel_size) == ((1, 7), (7, 1))
        assert [type(child) for child in twin.children()] == [nn.Conv2d, nn.Conv2d]
    physical = 2 * layer.group.order
    assert sum(p.numel() for p in twin.parameters()) == physical * x.shape[1] * 7 + physical
    assert_close(twin(x), layer(x))
    last = x.contiguous(memory_format=torch.channels_last)
    assert twin(last).is_contiguous(memory_format=torch.channels_last)
    assert_close(twin(last), layer(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("of_the_group", [True, False])
@pytest.mark.parametrize("name", ["C2", "D4"])
def test_plain_folds_the_batch_norm_behind_it(name, of_the_group, affine):
    layer, x = layer_and_map("lifting", name, "5x3")
    physical = 2 * layer.group.order
    norm = GroupBatchNorm2d(2, affine=affine, group=name) if of_the_group else nn.BatchNorm2d(physical, affine=affine)
    for value in norm.parameters():
        nn.init.uniform_(value, 1, 2)
    net = nn.Sequential(layer, norm)
    net(3 * x + 1)  # statistics that are not 0 and 1
    twin = plain(net.eval(), fold=x)
    assert type(twin[1]) is nn.Identity
    assert_close(twin(x), net(x), atol=1e-5, rtol=1e-5)


def test_a_kernel_that_does_not_lie_is_not_equivariant():
    layer, x = layer_and_map("group", "C4", "1x7")
    twin = plain(layer)
    twin.odd.weight.data = twin.odd.weight.data.flip(2)  # turned the wrong way
    error = equivariance_error(twin, "C4", x, 1, input="regular", output="regular")
    assert error is not None and error > 0.3


def make(*args, group="D4", **kwargs):
    return RectangularGroupConv2d(1, 1, *args, group=group, **kwargs)


WRONG = {
    r"kernel_size \(height, width\), got \(1, 2, 3\)": lambda: make((1, 2, 3)),
    r"kernel_size \(height, width\), got 'big'": lambda: make("big"),
    r"kernel_size\[1\] to be a whole number of at least 1, got 0": lambda: make((1, 0)),
    r"padding\[0\] to be a whole number of at least 0, got -1": lambda: make((1, 3), padding=(-1, 0)),
    r"keeps rectangles on the grid \(Z2, C2, C4, D1, D2, D4\), got C8; nearest: C4": lambda: make((1, 3), group="C8"),
    r"got D6; nearest: D4, or a square": lambda: make((1, 3), group="D6"),
    r"kernel of 1x7 pixels .*\(height - 2\*padding\[0\] = .*, got \(0, 0\); nearest: \(0, 3\)": lambda: make((1, 7)),
    r"kernel of 13x1 pixels .*, got \(2, 0\); nearest: \(6, 0\)": lambda: make((7, 1), padding=(2, 0), dilation=2),
    r"kernel of 2x3 pixels .*use sides that are both odd or both even": lambda: make((2, 3)),
    r"odd sides and stride 1 for padding='same', got a kernel that covers 1x4 and": lambda: make(
        (1, 4), padding="same", group="C2"
    ),
    r"for padding='same', got a kernel that covers 1x3 and stride 2": lambda: make((1, 3), 2, "same"),
    "groups to divide in_channels and out_channels, got groups=3 for 4 and 8; nearest: 2": lambda: (
        RectangularGroupConv2d(4, 8, (1, 3), padding=(0, 1), groups=3, group="C4")
    ),
    r"RectangularGroupConv2d: expected 1 features on D4 \(8 channels\), got 4": lambda: make((1, 3), padding="same")(
        noise(1, 4, 5, 5)
    ),
    "RectangularLiftingConv2d: expected an image of 3 channels, got 1; a map that is lifted": lambda: (
        RectangularLiftingConv2d(3, 1, (1, 3), padding="same", group="C4")(noise(1, 1, 5, 5))
    ),
    "stride 2 is symmetric about the centre, got 8x8": lambda: make((1, 3), 2, (0, 1))(noise(1, 8, 8, 8)),
    r"at least 7 pixels a side \(the kernel covers 7, padding 0\), got 9x6": lambda: make((1, 7), group="C2")(
        noise(1, 2, 9, 6)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_calls_are_refused(message):
    with pytest.raises(UsageError, match=message):
        WRONG[message]()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_finite_are_refused(kind, bad):
    (layer, x), (broken, _) = (layer_and_map(kind, "C4", "1x7") for _ in range(2))
    with torch.no_grad():
        broken.weight.view(-1)[3] = bad
    for use in (broken, lambda x: plain(broken), lambda x: layer.load_state_dict(broken.state_dict())):
        with pytest.raises(UsageError, match=r"Conv2d: expected finite weights, got 1 of \d+ NaN or infinite"):
            use(x)
