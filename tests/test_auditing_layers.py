"""Errors of layers: what is promised is kept, a broken promise is found where it breaks, and what is linear is seen."""

import itertools
import time

import numpy as np
import pytest
import torch
from conversions import noise, resnet
from torch import nn

import roteq
from roteq.auditing import layers as room
from roteq.auditing.layers import layer_errors, linear_error
from roteq.errors import UsageError
from roteq.nn import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupLayerNorm,
    GroupNorm2d,
    GroupPool,
    LiftingConv2d,
    Restriction,
    SymmetricAvgPool2d,
    SymmetricMaxPool2d,
    VectorHead,
    plain,
)


class Permuted(nn.Module):
    """Channels last and back."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.movedim(1, 3)).movedim(3, 1)


def p4m_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        LiftingConv2d(3, 4, 3, padding=1, group="p4m"),
        GroupBatchNorm2d(4, group="p4m"),
        nn.ReLU(inplace=True),
        SymmetricMaxPool2d(),
        GroupConv2d(4, 6, 3, padding=1, group="p4m"),
        GroupNorm2d(2, 6, group="p4m"),
        Permuted(GroupLayerNorm(6, group="p4m")),
        nn.ReLU(inplace=True),
        GroupConvTranspose2d(6, 4, 2, 2, group="p4m"),
        Restriction("p4m", "p4"),
        GroupConv2d(8, 4, 4, 2, 1, group="p4"),
        nn.ReLU(),
        GroupPool("p4"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def cnn(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(width, width, 3), nn.ReLU()),
        *(nn.Conv2d(width, width, 3), nn.Flatten(), nn.LazyLinear(4)),
    )


def pictures(n: int = 16, size: int = 24) -> torch.Tensor:
    """Smooth ones: a plain network would not even be near to equivariant on white noise."""
    return nn.functional.avg_pool2d(noise(n, 3, size + 4, size + 4), 5, 1) * 5


def test_every_layer_of_a_p4m_network_keeps_its_promise():
    found = layer_errors(p4m_network(), pictures())
    kinds = [(e.path, e.kind, e.representation, e.channels, e.size) for e in found]
    assert kinds == [
        ("0", "LiftingConv2d", "regular", 32, (24, 24)),
        ("1", "GroupBatchNorm2d", "regular", 32, (24, 24)),
        ("4", "GroupConv2d", "regular", 48, (12, 12)),
        ("5", "GroupNorm2d", "regular", 48, (12, 12)),
        ("6.layer", "GroupLayerNorm", "regular", 48, (12, 12)),
        ("8", "GroupConvTranspose2d", "regular", 32, (24, 24)),
        ("9", "Restriction", "regular", 32, (24, 24)),
        ("10", "GroupConv2d", "regular", 16, (12, 12)),
        ("12", "GroupPool", "trivial", 4, (12, 12)),
    ]
    for error in found:
        assert error.between_image_error is not None and error.between_image_error < 1e-5
        assert error.relative_error is not None and error.relative_error < 1e-5
        assert error.linear_error is None


@pytest.mark.parametrize("broken", ["0", "4", "10"])
def test_a_filter_bank_that_is_not_tied_is_found_where_it_stands(broken):
    net, x = p4m_network(), pictures()
    layer = net.get_submodule(broken)
    bank = layer.bank().detach() + 0.1 * noise(*layer.bank().shape, seed=7)
    layer.bank = lambda: bank
    errors = {error.path: error.between_image_error for error in layer_errors(net, x)}
    before = list(itertools.takewhile(lambda path: path != broken, errors))
    assert len(errors) == 9
    assert all(errors[path] < 1e-5 for path in before)
    assert all(errors[path] > 1e-3 for path in errors if path not in before)


@torch.no_grad()
def test_a_regular_error_is_its_definition():
    group, x = roteq.Group(4), pictures().double()
    conv = plain(LiftingConv2d(3, 2, 3, group=group).double())
    layer = LiftingConv2d(3, 2, 3, group=group).double()
    bank = layer.bank().detach() + 0.1 * noise(8, 3, 3, 3, seed=7).double()
    layer.bank = lambda: bank
    conv.load_state_dict({"weight": bank, "bias": torch.zeros(8, dtype=torch.float64)})
    y = conv(x)
    pairs = np.mean([float((y[i] - y[j]).square().sum()) for i, j in itertools.permutations(range(16), 2)])
    size = float(y.square().sum()) / 16
    square = [float((conv(group.act_on_image(x, g)) - group.act_on_features(y, g)).square().sum()) for g in (1, 2, 3)]
    [found] = layer_errors(layer, x)
    assert found.between_image_error == pytest.approx(np.mean([(s / 16 / pairs) ** 0.5 for s in square]), rel=1e-9)
    assert found.relative_error == pytest.approx(np.mean([(s / 16 / size) ** 0.5 for s in square]), rel=1e-9)


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_maps_of_turned_steps_keep_their_promise_although_their_grids_are_shifted(group):
    net = resnet().eval()
    twin = roteq.convert(net, group, sample=noise(2, 3, 32, 32), width="features").eval()
    assert any(getattr(m, "steps", "") == "turned" for m in twin.modules()), "no step of this network is turned"
    found = layer_errors(twin, pictures(size=32))
    assert {"LiftingConv2d", "GroupConv2d"} <= {error.kind for error in found}
    assert max(error.between_image_error for error in found) < 1e-5


@pytest.mark.parametrize("group", ["C6", "D6", "C2", "D1", "D4"])
def test_the_exact_elements_of_any_group_are_held_to(group):
    torch.manual_seed(0)
    net = nn.Sequential(LiftingConv2d(3, 2, 3, group=group), nn.ReLU(), GroupConv2d(2, 2, 3, group=group))
    found = layer_errors(net, pictures())
    assert len(found) == 2 and all(e.representation == "regular" and e.between_image_error < 1e-5 for e in found)


def test_vector_fields_and_groups_without_exact_elements_promise_nothing_here():
    lifting = LiftingConv2d(3, 2, 3, group="p4")
    found = layer_errors(nn.Sequential(lifting, GroupPool("p4", "argmax")), pictures())
    assert [error.kind for error in found] == ["LiftingConv2d"]
    for group in ("Z2", "C3"):
        assert {e.representation for e in layer_errors(LiftingConv2d(3, 4, 3, group=group), pictures())} == {"linear"}


def test_an_untied_p4m_network_is_linearly_equivariant_but_not_channel_by_channel():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(LiftingConv2d(3, 2, 3, group="p4m"), nn.ReLU(), GroupConv2d(2, 2, 3, group="p4m"), nn.ReLU()),
        *(SymmetricAvgPool2d(), GroupConv2d(2, 3, 3, padding=1, group="p4m")),
    )
    found = layer_errors(plain(net), pictures(size=40))
    assert {(e.representation, e.path, e.kind) for e in found} > {("linear", "2", "Conv2d"), ("linear", "5", "Conv2d")}
    for error in found:
        assert error.linear_error < 1e-3 < 0.3 < error.between_image_error


def test_an_untied_p4_network_is_linearly_equivariant_under_turns_alone():
    torch.manual_seed(0)
    net = plain(nn.Sequential(LiftingConv2d(3, 2, 3, group="p4"), nn.ReLU(), GroupConv2d(2, 2, 3, group="p4")))
    turned, mirrored = (layer_errors(net, pictures(), mirrors=mirrors)[-1] for mirrors in (False, True))
    assert turned.linear_error < 1e-3 < 0.1 < mirrored.linear_error


def test_a_plain_network_is_closer_to_linear_than_to_equivariant():
    found = layer_errors(cnn(), pictures(size=32))
    assert [(e.path, e.size[0]) for e in found] == [("1", 30), ("2", 15), ("3", 13), ("4", 13), ("5", 11)]
    for error in found:
        assert 0.05 < error.linear_error < error.between_image_error


def test_one_by_one_convolutions_are_equivariant():
    for error in layer_errors(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AvgPool2d(2)), pictures()):
        assert error.between_image_error < 1e-5 and error.linear_error < 1e-2


def test_an_identity_error_is_its_definition():
    conv, x = nn.Conv2d(3, 8, 3).double(), pictures().double()
    y = conv(x).detach().numpy()
    found = {}
    for mirrors in (False, True):
        [found[mirrors]] = layer_errors(conv, x, mirrors=mirrors)
    quarter = conv(torch.rot90(x, 1, (2, 3))).detach().numpy() - np.rot90(y, 1, (2, 3))
    mirrored = conv(x.flip(3)).detach().numpy() - y[..., ::-1]
    pairs = np.mean([np.square(y[i] - y[j]).sum() for i, j in itertools.permutations(range(16), 2)])
    errors = [(np.square(d).sum((1, 2, 3)).mean() / pairs) ** 0.5 for d in (quarter, mirrored)]
    assert found[False].between_image_error == pytest.approx(errors[0], rel=1e-9)
    assert found[True].between_image_error == pytest.approx(np.mean(errors), rel=1e-9)


@pytest.mark.parametrize("channels", [6, 300], ids=["primal", "dual"])
def test_the_linear_map_is_that_of_scikit_learn(channels, monkeypatch):
    from sklearn.linear_model import Ridge

    monkeypatch.setattr(room, "RIDGES", (0.01,))
    x = torch.randn(8, 20, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    y = (x[..., :5].cumsum(2) ** 2)[..., :4]
    fit, held = (x[0::2].flatten(0, 1).numpy(), x[1::2].flatten(0, 1).numpy())
    alpha = 0.01 * np.square(fit - fit.mean(0)).sum() / channels
    predicted = Ridge(alpha).fit(fit, y[0::2].flatten(0, 1).numpy()).predict(held)
    rest = np.square(predicted - y[1::2].flatten(0, 1).numpy()).sum() / 4
    pairs = np.mean([float((y[i] - y[j]).square().sum()) for i, j in itertools.permutations((1, 3, 5, 7), 2)])
    assert linear_error(x, y) == pytest.approx((rest / pairs) ** 0.5, rel=1e-9)


def test_a_linear_function_has_no_linear_error_and_an_unrelated_one_has_that_of_the_mean():
    x = torch.randn(16, 40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = torch.randn(16, 40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert linear_error(x, x @ x.new_ones(5, 3) - 7) < 1e-5
    assert linear_error(x, other) == pytest.approx(2**-0.5, rel=0.05)


def test_a_layer_that_does_not_vary_has_no_error():
    conv = nn.Conv2d(3, 4, 3)
    nn.init.zeros_(conv.weight)
    [found] = layer_errors(conv, pictures())
    assert (found.between_image_error, found.linear_error) == (None, None)
    assert found.relative_error is not None
    [promised] = layer_errors(LiftingConv2d(3, 2, 3, group="p4"), pictures()[:1].expand(4, -1, -1, -1))
    assert promised.between_image_error is None and promised.relative_error < 1e-5


def test_at_most_eight_layers_are_chosen_one_at_each_resolution():
    torch.manual_seed(0)
    body = [nn.Sequential(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1), nn.ReLU(inplace=True)) for i in range(12)]
    found = layer_errors(nn.Sequential(*body[:6], nn.AvgPool2d(2), *body[6:], nn.Dropout()), pictures())
    assert len(found) == 8
    assert {("5", (24, 24)), ("12", (12, 12))} <= {(e.path, e.size) for e in found}
    assert {e.kind for e in found} <= {"Sequential", "Conv2d", "AvgPool2d"}


def test_a_layer_that_is_called_twice_is_two_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = GroupConv2d(1, 1, 3, group="p4")
            self.lift = LiftingConv2d(3, 1, 3, group="p4")

        def forward(self, x):
            return self.conv(self.conv(self.lift(x)))

    assert [e.path for e in layer_errors(Twice(), pictures())] == ["lift", "conv", "conv (call 2)"]


@pytest.mark.parametrize("group, subgroup", [("p4", "C2"), ("p4m", "D2"), ("p4m", "C4")])
def test_restricted_features_turn_under_the_subgroup(group, subgroup):
    net = nn.Sequential(LiftingConv2d(3, 2, 3, group=group), Restriction(group, subgroup))
    found = layer_errors(net, pictures())
    assert [e.kind for e in found] == ["LiftingConv2d", "Restriction"]
    assert all(e.between_image_error < 1e-5 for e in found)


def test_attention_between_positions_is_no_map():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.drop = nn.Conv2d(3, 4, 3), nn.Dropout(0.1)

        def forward(self, x):
            x = self.conv(x).flatten(2)
            return x @ self.drop((x.mT @ x).softmax(2)[:, None])[:, 0]

    assert [e.path for e in layer_errors(Attention(), pictures(size=10))] == ["conv"]


class Scaling(nn.Module):
    def forward(self, x):
        return x.mul_(2)


def test_a_network_may_write_into_its_input():
    conv, x = nn.Conv2d(3, 4, 3), pictures()
    [found] = [e for e in layer_errors(nn.Sequential(Scaling(), conv), x) if e.kind == "Conv2d"]
    with torch.no_grad():
        conv.bias /= 2
    [expected] = layer_errors(conv, x)
    assert found.between_image_error == pytest.approx(expected.between_image_error, rel=1e-5)
    assert torch.equal(x, pictures())


@pytest.mark.parametrize("make", [p4m_network, cnn])
def test_the_network_is_left_as_it_was(make):
    net, x = make(), pictures()
    net(x)
    net.train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    given = x.clone()
    layer_errors(net, x)
    assert net.training and not net[1].training and net[0].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(x, given) and not any(m._forward_hooks for m in net.modules())


def test_an_average_over_the_group_says_nothing_about_the_layers_inside():
    assert layer_errors(roteq.Symmetrized(cnn().eval(), "C2"), pictures()) == ()
    tied = nn.Sequential(LiftingConv2d(3, 2, 3, group="p4"), GroupPool("p4"), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert layer_errors(roteq.Symmetrized(tied.eval(), "p4m", batch_size=16), pictures()) == ()


def test_few_channels_and_positions_tell_the_same(monkeypatch):
    torch.manual_seed(0)
    wide, x = nn.Conv2d(3, 20, 3), pictures()
    tied = LiftingConv2d(3, 16, 3, group="p4")
    bank = tied.bank().detach() + 0.1 * noise(64, 3, 3, 3, seed=7)
    tied.bank = lambda: bank
    [all_of_it], [all_tied] = layer_errors(wide, x), layer_errors(tied, x)
    monkeypatch.setattr(room, "NUMBERS", 16 * 22 * 22 * 40)  # of 64 channels 40, of 20 an eighth of 40
    monkeypatch.setattr(room, "ROWS", 1024)
    monkeypatch.setattr(room, "TARGETS", 10)
    [part], [part_tied] = layer_errors(wide, x), layer_errors(tied, x)
    for a, b in ((part, all_of_it), (part_tied, all_tied)):
        assert a.channels == b.channels and a.between_image_error != b.between_image_error
        assert a.between_image_error == pytest.approx(b.between_image_error, rel=0.3)
    assert part.linear_error != all_of_it.linear_error
    assert part.linear_error == pytest.approx(all_of_it.linear_error, rel=0.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_precision_is_that_of_the_weights(dtype):
    found = layer_errors(p4m_network().to(dtype), pictures())
    assert len(found) == 9
    assert max(e.between_image_error for e in found) < (1e-13 if dtype == torch.float64 else 1e-1)


def test_what_is_no_batch_of_square_pictures_is_refused():
    for shape in ((3, 3, 8, 8), (4, 3, 8, 9), (4, 3, 8)):
        with pytest.raises(UsageError, match=r"at least 4 square pictures \(B, C, S, S\), got \("):
            layer_errors(nn.Conv2d(3, 4, 3), torch.zeros(shape))


def test_a_network_without_maps_has_no_layers():
    assert layer_errors(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(4, 3, 2, 2)) == ()
    assert layer_errors(VectorHead(1, 2, group="p4").pool, torch.randn(4, 4, 1, 1)) == ()


def test_a_resnet_takes_seconds():
    import timm

    net = timm.create_model("resnet18")
    start = time.process_time()
    found = layer_errors(net, pictures(size=64))
    assert time.process_time() - start < 5
    assert [e.path for e in found if e.path.startswith("layer") and e.path.count(".") == 0] == [
        f"layer{i}" for i in (1, 2, 3, 4)
    ]
