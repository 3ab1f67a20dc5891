"""Centred steps: the sizes of torch's, its values where those are symmetric, and exactness everywhere."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from roteq.groups import group as named_group
from roteq.nn import GroupConv2d, LiftingConv2d, plain
from roteq.nn.centred import CentredAvgPool2d, CentredMaxPool2d, centred, pixels_left
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


def alignments(pool, x, left):
    """The mean over all windows that fit: what was left over, taken from the top or the left, or both."""
    side = x.shape[-1] - left
    return torch.stack(
        [pool(x[..., i : i + side, j : j + side]) for i in range(left + 1) for j in range(left + 1)]
    ).mean(0)


@pytest.mark.parametrize(("kernel", "stride", "left"), [(2, 2, 1), (3, 2, 1), (3, 3, 2), (2, 4, 3), (2, 4, 2)])
def test_a_centred_pool_is_the_mean_of_its_alignments(kernel, stride, left):
    x = noise(1, 2, *[2 * stride + kernel + left] * 2)
    for torch_pool, centred_pool in ((nn.MaxPool2d, CentredMaxPool2d), (nn.AvgPool2d, CentredAvgPool2d)):
        pool = torch_pool(kernel, stride)
        assert_close(centred_pool(kernel, stride)(x), alignments(pool, x, left))


def test_pools_centre_each_side_by_itself():
    x = noise(1, 1, 8, 9)
    assert_close(CentredMaxPool2d(3, 2)(x)[..., 0], CentredMaxPool2d(3, 2)(x[..., :3])[..., 0])
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


CONVS = {
    "lifting": lambda **options: LiftingConv2d(2, 3, 3, group="D4", **options),
    "group": lambda **options: GroupConv2d(2, 3, 3, group="D4", **options),
    "grouped, dilated": lambda **options: GroupConv2d(2, 2, 3, groups=2, dilation=2, group="D4", **options),
}
STEPS = [(2, 1, 8, 1), (2, 0, 8, 1), (2, 1, 9, 0), (3, 1, 9, 2), (4, 1, 9, 0), (4, 0, 10, 3)]


@pytest.mark.parametrize(("stride", "padding", "side", "left"), STEPS)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_centred_convolution_is_the_mean_of_its_alignments(stride, padding, side, left, mode):
    """Aligned before the padding: the mean of the map's shifted copies is what is padded."""
    torch.manual_seed(0)
    conv = GroupConv2d(1, 2, 3, stride, padding, padding_mode=mode, group="D4", centred=True).double()
    x = noise(2, 8, side, side)
    assert pixels_left(side, 3, stride, padding) == left

    def filtered(x):
        padded = F.pad(x, [padding] * 4, mode="constant" if mode == "zeros" else mode)
        return F.conv2d(padded, conv.bank(), conv.plain_bias(), stride)

    expected = alignments(filtered, x, left)
    if mode == "zeros":
        assert_close(conv(x), expected)
    else:  # what is padded is the mean, not each copy by itself
        assert_close(conv(x), filtered(F.avg_pool2d(x, left + 1, 1) if left else x))


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (3, 0)])
def test_centred_convolutions_are_exact_at_every_size(kind, stride, padding):
    torch.manual_seed(0)
    conv = CONVS[kind](stride=stride, padding=padding, centred=True)
    lifting = kind == "lifting"
    x = noise(2, 2 if lifting else 16, 12, 12, dtype=torch.float32)
    for side in (12, 10):
        assert_equivariant(conv, "D4", x[..., :side, :side], input="trivial" if lifting else "regular")


@pytest.mark.parametrize("kind", CONVS)
def test_without_centred_the_same_map_is_refused(kind):
    conv = CONVS[kind](stride=2, padding=1)
    with pytest.raises(ValueError, match="stride"):
        conv(torch.zeros(1, conv.in_channels * (1 if kind == "lifting" else 8), 12, 12))


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("side", [11, 12])
def test_plain_of_a_centred_convolution_is_the_same(kind, side):
    torch.manual_seed(0)
    conv = CONVS[kind](stride=2, padding=1, centred=True).eval()
    x = noise(2, 2 if kind == "lifting" else 16, side, side, dtype=torch.float32)
    twin = plain(conv)
    assert isinstance(twin[1], nn.Conv2d) and not twin.training
    assert_close(twin(x), conv(x))
    assert repr(twin[0]) == f"Centred(extent={conv.extent}, stride=2, padding=1)"
    assert isinstance(plain(CONVS[kind](padding=1, centred=True)), nn.Conv2d)


def test_a_centred_convolution_prints_what_rebuilds_it():
    conv = CONVS["group"](stride=2, padding=1, centred=True)
    assert repr(conv).endswith("centred=True)")
    rebuilt = eval(repr(conv))
    assert rebuilt.centred and rebuilt.stride == 2
    assert "centred" not in repr(CONVS["group"]())
