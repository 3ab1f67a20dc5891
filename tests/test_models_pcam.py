import copy

import pytest
import torch
from torch.testing import assert_close

from roteq.errors import UsageError
from roteq.models.pcam import p4m_densenet, se2_pcam
from roteq.nn import GroupConv2d, LiftingConv2d, plain
from roteq.testing import TOLERANCE, assert_equivariant


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def seeded(make, *args, **options):
    torch.manual_seed(0)
    return make(*args, **options)


def trained(net, size):
    """The network in eval mode with statistics and biases that are not those of the start."""
    net = net.double().train()
    with torch.no_grad():
        for _ in range(3):
            net(noise(8, 3, size, size, dtype=torch.float64) + 1)
        for parameter in net.parameters():
            parameter.add_(0.05 * noise(*parameter.shape, dtype=torch.float64))
    return net.eval()


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def conv_weights(net):
    return sum(p.numel() for p in net.parameters() if p.ndim > 1)


def map_sides(net, x):
    """The side of the output of every convolution and pool, in order, where it changes."""
    sides = []
    for layer in net.modules():
        if hasattr(layer, "kernel_size") or "Pool2d" in type(layer).__name__:
            layer.register_forward_hook(lambda layer, inputs, output: sides.append(output.shape[-1]))
    net(x)
    return [side for i, side in enumerate(sides) if i == 0 or side != sides[i - 1]]


def test_p4m_densenet_has_the_published_parameters():
    """Z2 24, p4 13, p4m 9 with one output; the paper says 119K for the last."""
    assert {g: parameters(p4m_densenet(3, 1, g)) for g in ("Z2", "p4", "p4m")} == {
        "Z2": 111_337,
        "p4": 129_104,
        "p4m": 123_400,
    }


@pytest.mark.parametrize("group", ["C6", "D6", "C12"])
def test_another_group_gets_the_growth_nearest_to_the_plain_network(group):
    gaps = {n: abs(parameters(p4m_densenet(3, 1, group, growth=n)) - 111_337) for n in range(3, 18)}
    assert p4m_densenet(3, 1, group).lift.out_channels == min(gaps, key=gaps.get)


def test_se2_pcam_has_the_published_weights():
    """At 25 weights a kernel; N = 1 and 4 to the digit, the others as they are printed."""
    found = {n: conv_weights(se2_pcam(3, 2, f"SE(2,{n})", basis="pixel")) for n in (1, 4, 8, 12, 16)}
    assert (found[1], found[4]) == (126_616, 127_676)
    assert {n: f"{count / 1000:.1f}k" for n, count in found.items()} == {
        1: "126.6k", 4: "127.7k", 8: "126.9k", 12: "119.2k", 16: "132.0k",
    }  # fmt: skip
    assert conv_weights(se2_pcam(3, 2, "C8")) == 79_414  # 15 harmonics instead of 25 pixels
    assert conv_weights(se2_pcam(3, 2, "C8", width=18)) == 127_722


@pytest.mark.parametrize("group", ["C6", "D3", "C2", "D12"])
def test_another_group_gets_the_width_nearest_to_the_plain_network(group):
    gaps = {n: abs(conv_weights(se2_pcam(3, 2, group, width=n)) - 126_616) for n in range(5, 33)}
    assert se2_pcam(3, 2, group).features[0].out_channels == min(gaps, key=gaps.get)


def test_the_maps_have_the_published_sides():
    densenet = [94, 92, 46, 44, 22, 20, 10, 8, 4, 2]
    assert map_sides(p4m_densenet(growth=1), noise(2, 3, 96, 96)) == densenet
    assert map_sides(se2_pcam(width=1), noise(2, 3, 96, 96)) == [84, 42, 38, 19, 15, 5, 1]


def test_a_transition_averages_before_it_mixes_as_if_after():
    transition = p4m_densenet(growth=2).blocks[1]
    x = noise(2, 32, 9, 8)
    swapped = transition.pool(transition.conv(transition.relu(transition.norm(x))))
    assert_close(transition(x), swapped, atol=1e-6, rtol=1e-5)


def test_the_skip_is_the_centre_of_the_map():
    block, x = p4m_densenet(growth=1).blocks[0], noise(2, 8, 6, 7)
    assert block(x)[:, :8].equal(x[:, :, 1:5, 1:6])
    assert block(x).shape == (2, 16, 4, 5)


def test_weights_start_as_he_says():
    """Unit variance in, 2 out."""
    for net in (seeded(p4m_densenet, 3, 2, "p4m", growth=8), seeded(se2_pcam, 3, 2, "C8", width=8)):
        layers = [layer for layer in net.modules() if isinstance(layer, LiftingConv2d | GroupConv2d)]
        with torch.no_grad():
            for layer in layers:
                y = layer(noise(8, layer.plain().in_channels, 9, 9))
                assert y.var().item() == pytest.approx(2, rel=0.35), layer
    assert net.mix.weight.var().item() == pytest.approx(2 / 64, rel=0.2)


EQUIVARIANT = [
    *((p4m_densenet, {"group": g, "growth": 2, "depth": 3}, 25) for g in ("p4m", "C12")),
    (p4m_densenet, {"group": "p4", "growth": 1}, 96),
    *((se2_pcam, {"group": g, "width": 1}, 97) for g in ("D4", "C8")),
    (se2_pcam, {"group": "C8", "width": 2, "basis": "disc"}, 88),
]


@pytest.fixture
def up_to_rounding(monkeypatch):
    monkeypatch.setitem(TOLERANCE, torch.float64, 1e-12)


@pytest.mark.usefixtures("up_to_rounding")
@pytest.mark.parametrize(("make", "options", "size"), EQUIVARIANT)
def test_logits_are_invariant(make, options, size):
    """Sizes other than the published one too."""
    net = seeded(make, 3, 3, **options)
    assert_equivariant(net, options["group"], noise(4, 3, size, size), parities=size % 2 == 1)


def test_the_plain_networks_are_not_invariant():
    for net in (p4m_densenet(group="Z2", growth=4), se2_pcam(group="Z2", width=4)):
        with pytest.raises(AssertionError, match="not equivariant"):
            assert_equivariant(net, "C4", noise(6, 3, 96, 96), parities=False)


@pytest.mark.usefixtures("up_to_rounding")
@pytest.mark.parametrize(
    ("make", "options", "size"),
    [
        (p4m_densenet, {"group": "p4m", "growth": 2, "depth": 3}, (24, 32)),
        (p4m_densenet, {"group": "p4", "growth": 1}, (112, 112)),
        (se2_pcam, {"group": "D4", "width": 1}, (88, 100)),
    ],
)
def test_dense_maps_turn_with_the_picture(make, options, size):
    net = seeded(make, 3, 3, dense=True, **options)
    assert_equivariant(net, options["group"], noise(4, 3, *size), output="trivial", parities=False)


@pytest.mark.parametrize(
    ("make", "options", "window", "stride"),
    [
        (p4m_densenet, {"group": "p4m", "growth": 1}, 96, 16),
        (p4m_densenet, {"group": "C8", "growth": 2, "depth": 2}, 12, 2),
        (se2_pcam, {"group": "C8", "width": 1}, 88, 12),
    ],
)
def test_a_dense_map_holds_the_logits_of_every_window(make, options, window, stride):
    """From the same weights, and without a trace of the neighbours of a window."""
    net = trained(seeded(make, 3, 3, **options), window)
    maps = make(3, 3, dense=True, **options).double().eval()
    maps.load_state_dict(net.state_dict())
    assert (maps.geometry.window, maps.geometry.stride) == (window, stride)
    x = noise(2, 3, window + 2 * stride, window + 3 * stride, dtype=torch.float64)
    windows = x.unfold(2, window, stride).unfold(3, window, stride)  # (B, C, h, w, window, window)
    with torch.no_grad():
        found = maps(x)
        assert found.shape == (2, 3, 3, 4)
        expected = torch.stack([net(w) for w in windows.permute(2, 3, 0, 1, 4, 5).flatten(0, 1)], 2)
        assert_close(found.flatten(2), expected, atol=1e-12, rtol=1e-12)
        assert expected.std(2).min() > 1e-4  # the windows do not all have the same logits
        net.dense = True
        assert net(x).equal(found)


def test_se2_pcam_looks_at_the_centre_alone():
    net, x = se2_pcam(width=1).eval(), noise(2, 3, 96, 101)
    framed = torch.nn.functional.pad(x[..., 4:-4, 6:-6], (6, 6, 4, 4), value=9.0)  # 88x89
    assert net(framed).equal(net(x))
    assert not net(x + 1).equal(net(x))


@pytest.mark.parametrize("size", [(80, 80), (81, 80), (96, 96), (97, 110)])
def test_p4m_densenet_takes_any_size_that_fits(size):
    assert p4m_densenet(1, 5, "C4", growth=1).eval()(noise(2, 1, *size)).shape == (2, 5)


def test_the_smallest_side_follows_the_depth():
    for depth in (1, 2, 3, 4):
        net = p4m_densenet(1, 2, "C4", growth=1, depth=depth).eval()
        scale = 2 ** (depth - 1)
        assert (net.smallest, net.geometry.window, net.geometry.stride) == (5 * scale, 6 * scale, scale)
        assert net(noise(2, 1, net.smallest, net.smallest)).shape == (2, 2)
        assert map_sides(net, noise(2, 1, 6 * scale, 6 * scale))[-1] == 2
        with pytest.raises(UsageError, match=f"at least {net.smallest}x{net.smallest}"):
            net(noise(2, 1, net.smallest - 1, net.smallest))


NETWORKS = [(p4m_densenet, {"growth": 2}), (se2_pcam, {"group": "C8", "width": 2})]


@pytest.mark.parametrize(("make", "options"), NETWORKS)
def test_weights_are_saved_and_read_and_written_out(make, options, tmp_path):
    net = trained(seeded(make, 3, 2, **options), 96).float()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    twin = make(3, 2, **options).eval()
    twin.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    x = noise(2, 3, 96, 96)
    assert twin(x).equal(net(x))
    for ordinary in (plain(net), plain(net, fold=x)):
        assert_close(ordinary(x), net(x), atol=1e-4, rtol=1e-4)


PROGRAMS = [(p4m_densenet, {"growth": 1, "depth": 2}), (se2_pcam, {"group": "p4", "width": 1})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"), [pytest.param(*PROGRAMS[0], marks=pytest.mark.slow), pytest.param(*PROGRAMS[1])]
)
def test_exported_dense_maps_take_any_batch_and_any_size_on_the_grid(make, options):
    net = seeded(make, 3, 2, dense=True, **options).eval()
    batch, rows, columns = (torch.export.Dim(name, min=1, max=100) for name in ("batch", "rows", "columns"))
    sizes = {0: batch, 2: net.stride * rows + net.window, 3: net.stride * columns + net.window}  # two windows or more
    images = noise(2, 3, net.window + 2 * net.stride, net.window + 3 * net.stride)
    program = torch.export.export(net, (images,), dynamic_shapes=(sizes,)).module()
    for more in (noise(3, 3, net.window + net.stride, net.window + 4 * net.stride), images):
        assert_close(program(more), net(more), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("make", "options"), NETWORKS)
def test_channels_last_computes_the_same(make, options):
    net = seeded(make, 3, 2, **options).double()
    x = noise(4, 3, 96, 96, dtype=torch.float64)
    twin = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert_close(twin(x.contiguous(memory_format=torch.channels_last)), net(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: p4m_densenet(growth=0), "p4m_densenet: expected growth to be .* at least 1, got 0"),
        (lambda: p4m_densenet(depth=0), "p4m_densenet: expected depth to be .* at least 1, got 0"),
        (lambda: p4m_densenet(group="D999"), "p4m_densenet: growth: expected a group .* 111337 weights .* got D999"),
        (lambda: se2_pcam(width=0), "se2_pcam: expected width to be .* at least 1, got 0"),
        (lambda: se2_pcam(group="D999", basis="disc"), "se2_pcam: width: expected a group .* 126616 .* got D999"),
        (lambda: se2_pcam(basis="splines"), "basis: .* got 'splines'"),
        (lambda: p4m_densenet(growth=1)(noise(1, 3, 64, 96)), "at least 80x80 pixels, got 64x96; .* smaller depth"),
        (lambda: se2_pcam(width=1)(noise(1, 3, 87, 96)), "at least 88x88 pixels, got 87x96"),
        (
            lambda: p4m_densenet(growth=1, dense=True)(noise(1, 3, 96, 120)),
            r"dense: expected sides of 96 \+ k \* 16 pixels, got 96x120; nearest to 120: 112 or 128",
        ),
        (
            lambda: p4m_densenet(growth=1, dense=True)(noise(1, 3, 80, 96)),
            "got 80x96; nearest to 80: 96 or 112",
        ),
        (
            lambda: se2_pcam(width=1, dense=True)(noise(1, 3, 96, 88)),
            r"dense: expected sides of 88 \+ k \* 12 pixels, got 96x88; nearest to 96: 88 or 100",
        ),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
