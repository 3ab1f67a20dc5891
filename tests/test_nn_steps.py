"""Strided steps: the sizes of torch's, its values where those are symmetric, and exactness everywhere."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from roteq.groups import group as named_group
from roteq.nn import GroupConv2d, LiftingConv2d, plain
from roteq.nn.steps import (
    CentredAvgPool2d,
    CentredMaxPool2d,
    TurnedSteps,
    centred,
    corners,
    mean_of_neighbours,
    pixels_left,
)
from roteq.testing import assert_equivariant, equivariance_error

D4 = named_group("D4")
SIDES = range(4, 12)
GRID = [  # kernel, stride, padding
    *((1, 2, 0), (2, 1, 0), (2, 2, 0), (2, 2, 1), (2, 3, 0), (3, 1, 1), (3, 2, 0), (3, 2, 1), (3, 3, 0)),
    *((3, 4, 1), (4, 2, 1), (4, 3, 2)),
]
POOLS = {
    "max": (nn.MaxPool2d, CentredMaxPool2d, {}),
    "max, dilated": (nn.MaxPool2d, CentredMaxPool2d, {"dilation": 2}),
    "mean": (nn.AvgPool2d, CentredAvgPool2d, {}),
    "mean of what is there": (nn.AvgPool2d, CentredAvgPool2d, {"count_include_pad": False}),
}


def noise(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def is_symmetric(layer, x):
    """Of every turn and mirror."""
    y = layer(x)
    return all(torch.allclose(layer(D4.act_on_image(x, g)), D4.act_on_image(y, g)) for g in range(1, 8))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kind", POOLS)
def test_centred_pools_have_the_sizes_of_torch_and_its_values_where_those_are_symmetric(kind, ceil_mode):
    torch_pool, centred_pool, options = POOLS[kind]
    symmetric, asymmetric = 0, 0
    for kernel, stride, padding in GRID:
        if padding and "dilation" in options:
            continue  # taps that fall into the padding can make uneven steps symmetric by chance
        arguments = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode, **options}
        theirs, ours = torch_pool(kernel, **arguments), centred_pool(kernel, **arguments)
        for side in SIDES:
            if side + 2 * padding < options.get("dilation", 1) * (kernel - 1) + 1:
                continue
            x = noise(2, 2, side, side)
            where = f"{kernel}, {stride}, {padding} on {side}"
            assert ours(x).shape == theirs(x).shape, where
            assert is_symmetric(ours, x), where
            if is_symmetric(theirs, x):
                symmetric += 1
                assert_close(ours(x), theirs(x), msg=lambda m, where=where: f"{where}: {m}")
            else:
                asymmetric += 1
    assert min(symmetric, asymmetric) > 10


@pytest.mark.parametrize("kind", POOLS)
def test_centred_pools_are_exact_where_torch_is_not(kind):
    torch_pool, centred_pool, options = POOLS[kind]
    x = noise(2, 2, 12, 12)
    assert_equivariant(centred_pool(3, 2, 1, **options), D4, x, output="trivial")
    error = equivariance_error(torch_pool(3, 2, 1, **options), D4, x, 1, output="trivial")
    assert error > 0.1


def aligned(step, x, left):
    """The step at every alignment that fits: what was left over, taken from the top or the left, or both."""
    side = x.shape[-1] - left
    windows = [x[..., i : i + side, j : j + side] for i in range(left + 1) for j in range(left + 1)]
    return torch.stack([step(window) for window in windows])


def alignments(step, x, left):
    return aligned(step, x, left).mean(0)


@pytest.mark.parametrize(("kernel", "stride", "left"), [(2, 2, 1), (3, 2, 1), (3, 3, 2), (2, 4, 3), (2, 4, 2)])
def test_centred_pools_are_the_maximum_or_the_mean_of_all_alignments(kernel, stride, left):
    x = noise(1, 2, *[2 * stride + kernel + left] * 2)
    largest = aligned(nn.MaxPool2d(kernel, stride), x, left).amax(0)
    assert_close(CentredMaxPool2d(kernel, stride)(x), largest)
    expected = alignments(nn.AvgPool2d(kernel, stride), x, left)
    assert_close(CentredAvgPool2d(kernel, stride)(x), expected)


def test_pools_centre_each_side_by_itself():
    x = noise(1, 1, 8, 9)
    assert_close(CentredMaxPool2d(3, 2)(x.mT), CentredMaxPool2d(3, 2)(x).mT)
    assert CentredAvgPool2d((2, 3), (2, 3))(x).shape == (1, 1, 4, 3)
    assert_close(CentredAvgPool2d((2, 3), (2, 3))(x), F.avg_pool2d(x, (2, 3)))


def test_what_ceil_mode_adds_is_minus_infinity_and_never_counted():
    x = -1 - noise(1, 1, 4, 4).abs()
    assert_close(CentredMaxPool2d(3, 3, ceil_mode=True)(x).max(), F.max_pool2d(x, 3, 1, 1).max())
    ones = torch.ones(1, 1, 5, 5)
    assert_close(CentredAvgPool2d(2, ceil_mode=True)(ones), torch.ones(1, 1, 3, 3))


@pytest.mark.parametrize("pool", [CentredMaxPool2d(2), CentredAvgPool2d(2)])
def test_pools_refuse_what_is_no_map(pool):
    with pytest.raises(ValueError, match=rf"{type(pool).__name__}: expected .*\(B, C"):
        pool(torch.zeros(4, 4))


def test_pools_print_what_they_were_made_of():
    assert repr(CentredMaxPool2d(3, 2, 1, 2, True)) == (
        "CentredMaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), ceil_mode=True)"
    )


def test_centred_leaves_what_is_symmetric_alone():
    x = noise(1, 1, 9, 8)
    assert centred(x[..., 1:], (3, 3), (2, 1), (1, 1)) is not x
    assert (whole := centred(x, (3, 2), (2, 2), (1, 0))) is x, whole.shape
    assert centred(x, (3, 3), (2, 2), (1, 1)).shape == (1, 1, 9, 7)
    assert [pixels_left(side, 3, 3, 1) for side in (7, 8, 9)] == [0, 1, 2]


STEPS = ["centred", "turned"]
CONVS = {
    "lifting": lambda **options: LiftingConv2d(2, 3, 3, group="D4", **options),
    "group": lambda **options: GroupConv2d(2, 3, 3, group="D4", **options),
    "grouped, dilated": lambda **options: GroupConv2d(2, 2, 3, groups=2, dilation=2, group="D4", **options),
    "reflect": lambda **options: GroupConv2d(2, 2, 5, padding_mode="reflect", group="D4", **options),
}


def convolution(kind, **options):
    torch.manual_seed(0)
    conv = CONVS[kind](**options)
    nn.init.normal_(conv.bias)
    return conv


def seen(conv, side, dtype=torch.float32):
    lifting = isinstance(conv, LiftingConv2d)
    return noise(2, 2 if lifting else 16, side, side, dtype=dtype), "trivial" if lifting else "regular"


LEFT = [(2, 1, 8, 1), (2, 0, 8, 1), (2, 1, 9, 0), (3, 1, 9, 2), (4, 1, 9, 0), (4, 0, 10, 3)]


@pytest.mark.parametrize(("stride", "padding", "side", "left"), LEFT)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_centred_convolution_works_on_the_mean_of_neighbours(stride, padding, side, left, mode):
    conv = GroupConv2d(1, 2, 3, stride, padding, padding_mode=mode, group="D4", steps="centred").double()
    x = noise(2, 8, side, side)
    assert pixels_left(side, 3, stride, padding) == left

    def filtered(x):
        padded = F.pad(x, [padding] * 4, mode="constant" if mode == "zeros" else mode)
        return F.conv2d(padded, conv.bank(), conv.plain_bias(), stride)

    assert_close(conv(x), filtered(alignments(lambda x: x, x, left)))
    if mode == "zeros":
        assert_close(conv(x), alignments(filtered, x, left))


@pytest.mark.parametrize("group", ["C4", "D4", "C8", "C2"])
def test_turned_steps_of_a_convolution_are_those_of_the_turned_picture(group):
    """Orientation g of the answer is what the upright filter sees of the picture turned back by g."""
    group = named_group(group)
    conv = LiftingConv2d(2, 3, 3, 2, 1, group=group, steps="turned").double()
    x = noise(2, 2, 8, 8)
    y, upright = conv(x).unflatten(1, (3, -1)), conv.bank().unflatten(0, (3, -1))[:, 0]
    for g in group.exact_elements:
        expected = F.conv2d(group.act_on_image(x, group.inverse(g)), upright, conv.bias, 2, 1)
        assert_close(y[:, :, g], group.act_on_image(expected, g))
    assert_close(y[:, :, 0], F.conv2d(x, upright, conv.bias, 2, 1))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (3, 0)])
def test_convolutions_are_exact_at_every_size(kind, stride, padding, steps):
    conv = convolution(kind, stride=stride, padding=padding, steps=steps).double()
    for side in (12, 11, 10):
        x, representation = seen(conv, side, torch.float64)
        for g in range(1, 8):
            assert equivariance_error(conv, D4, x, g, input=representation, output="regular") < 1e-12


@pytest.mark.parametrize("kind", CONVS)
def test_steps_that_are_symmetric_are_the_same_however_they_are_made(kind):
    x, _ = seen(convolution(kind), 13)
    same, *others = (convolution(kind, stride=2, padding=2, steps=steps)(x) for steps in ("symmetric", *STEPS))
    for other in others:
        assert_close(other, same)


@pytest.mark.parametrize("kind", CONVS)
def test_without_a_choice_of_steps_the_same_map_is_refused(kind):
    conv = convolution(kind, stride=2, padding=1)
    with pytest.raises(ValueError, match="stride"):
        conv(seen(conv, 12)[0])


def test_turned_steps_need_elements_that_take_corners_to_corners():
    with pytest.raises(ValueError, match=r"steps='turned': expected a group of quarter turns.*C_N with N a multiple"):
        LiftingConv2d(2, 3, 3, 2, 1, group="C6", steps="turned")


def test_steps_of_an_unknown_name_are_refused():
    with pytest.raises(ValueError, match=r"LiftingConv2d: unknown steps 'center'; did you mean 'centred'"):
        LiftingConv2d(1, 1, 3, 2, group="p4", steps="center")


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("side", [11, 12])
def test_plain_is_the_same(kind, side, steps):
    conv = convolution(kind, stride=2, padding=1, steps=steps).eval()
    x, _ = seen(conv, side)
    twin = plain(conv)
    assert not any(isinstance(layer, LiftingConv2d | GroupConv2d) for layer in twin.modules()) and not twin.training
    assert_close(twin(x), conv(x))
    assert isinstance(plain(CONVS[kind](padding=1, steps=steps)), nn.Conv2d)


@pytest.mark.parametrize("steps", STEPS)
def test_a_convolution_prints_the_steps_that_rebuild_it(steps):
    conv = convolution("group", stride=2, padding=1, steps=steps)
    assert repr(conv).endswith(f"steps='{steps}')")
    assert eval(repr(conv)).steps == steps
    assert "steps" not in repr(CONVS["group"]())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, ceil_mode=True)])
@pytest.mark.parametrize("group", ["C4", "D4"])
def test_turned_pools_are_exact_and_those_of_the_turned_features(pool, group):
    group = named_group(group)
    layer = TurnedSteps(pool, group)
    for side in (8, 9, 10):
        x = noise(2, 2 * group.order, side, side)
        y = layer(x).unflatten(1, (2, -1))
        for g in range(group.order):
            assert equivariance_error(layer, group, x, g, input="regular", output="regular") < 1e-12
            upright = group.act_on_image(x.unflatten(1, (2, -1))[:, :, g], group.inverse(g))
            assert_close(y[:, :, g], group.act_on_image(pool(upright), g))


def test_turned_pools_refuse_features_of_another_group():
    with pytest.raises(ValueError, match="TurnedSteps: expected"):
        TurnedSteps(nn.MaxPool2d(2), "D4")(torch.zeros(1, 6, 8, 8))
    with pytest.raises(ValueError, match=r"got C6; use steps='centred'"):
        TurnedSteps(nn.MaxPool2d(2), "C6")


@pytest.mark.parametrize("group", ["Z2", "C4", "D1", "D4", "C12"])
def test_every_element_has_one_corner(group):
    found = [g for _, elements in corners(named_group(group)) for g in elements]
    assert sorted(found) == list(range(named_group(group).order))


@pytest.mark.parametrize("window", [(2, 2), (1, 3), (3, 2)])
def test_the_mean_of_neighbours_is_torchs_average_pool_of_stride_1(window):
    x = noise(2, 3, 6, 7)
    assert_close(mean_of_neighbours(x, *window), F.avg_pool2d(x, window, 1))
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: mean_of_neighbours(x, *window), x)
    assert torch.autograd.gradgradcheck(lambda x: mean_of_neighbours(x, *window), x)
    single = torch.func.vmap(lambda image: mean_of_neighbours(image[None], *window)[0])(x)
    assert_close(single, mean_of_neighbours(x, *window))
