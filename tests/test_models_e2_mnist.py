import re

import pytest
import torch
import yaml

from roteq.errors import UsageError
from roteq.models import ModelConfig, registry
from roteq.models.e2_mnist import E2MNIST, e2_mnist
from roteq.nn import Restriction
from roteq.testing import assert_equivariant, equivariance_error


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def small(group="C8", restrict=None, restrict_at=5, kernel=3, width=0.1):
    torch.manual_seed(0)
    return e2_mnist(1, 10, group, restrict, restrict_at, width, kernel)


def waves(images, degrees, seed=0, size=28):
    """Random plane waves of up to 4 periods on a disc with a smooth rim, turned in their formula: no interpolation."""
    generator = torch.Generator().manual_seed(seed)
    length, angle, phase = (torch.rand(images, 24, 1, 1, generator=generator) for _ in range(3))
    length, angle, phase = 4 * torch.pi * length.sqrt(), 2 * torch.pi * angle, 2 * torch.pi * phase
    axis = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    turned = angle + torch.tensor(degrees).deg2rad()
    picture = torch.cos(length * (turned.cos() * x + turned.sin() * y) + phase).mean(1, keepdim=True)
    return 5 * picture * ((0.92 - (x.square() + y.square()).sqrt()) / 0.22).clamp(0, 1).square()


def error_at(degrees, group):
    """The mean between-image error of three untrained networks whose BatchNorm has seen a few pictures."""
    errors = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = e2_mnist(group=group, width=1 / 8, kernel=3)
        for layer in net.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.momentum = None  # the mean over all batches
        with torch.no_grad():
            for batch in range(1, 5):
                net(waves(16, 0.0, batch))
            net.eval()
            upright, turned = net(waves(16, 0.0)), net(waves(16, degrees))
        errors.append((turned - upright).norm() / (upright - upright.roll(1, 0)).norm())
    return sum(errors).item() / len(errors)


@pytest.mark.parametrize(
    ("kernel", "size"), [(7, (28, 28)), (5, (28, 29)), (5, (33, 40)), (3, (20, 20)), (3, (28, 28)), (3, (50, 31))]
)
def test_it_takes_every_size_from_the_smallest_on(kernel, size):
    net = e2_mnist(3, 4, "C4", width=0.1, kernel=kernel)
    assert net(noise(2, 3, *size)).shape == (2, 4)


@pytest.mark.parametrize(("group", "kernel"), [("C16", 3), ("D8", 3), ("p4", 7), ("D2", 5), ("C6", 3)])
def test_it_is_invariant_under_quarter_turns_and_mirrors(group, kernel):
    assert_equivariant(small(group, kernel=kernel, width=0.06), group, noise(3, 1, 29, 29))


@pytest.mark.parametrize("training", [True, False])
def test_it_is_invariant_to_the_last_digits(training):
    net, x = small("D8").double(), noise(4, 1, 28, 28).double()
    net(x)
    net.train(training)
    errors = [equivariance_error(net, "D8", x, g) for g in (2, 4, 6, 8, 10, 12, 14)]
    assert max(errors) < 1e-12, errors


def test_the_plain_twin_is_not_invariant():
    with pytest.raises(AssertionError, match=r"not equivariant under C4: element 90°"):
        assert_equivariant(small("Z2"), "C4", noise(4, 1, 28, 28), parities=False)


@pytest.mark.parametrize(("group", "degrees"), [("C16", 22.5), ("C8", 45.0)])
def test_between_the_quarter_turns_it_is_nearer_to_invariance_than_its_plain_twin(group, degrees):
    ours, twin = error_at(degrees, group), error_at(degrees, "Z2")
    assert ours < 0.7 * twin, (ours, twin)


@pytest.mark.parametrize("restrict_at", [1, 2, 3, 4, 5])
def test_restriction_leaves_the_elements_of_the_subgroup(restrict_at):
    net, x = small("D8", "C8", restrict_at), noise(4, 1, 28, 28)
    assert_equivariant(net, "C8", x, parities=False)
    with pytest.raises(AssertionError, match="element mirror, then 0°"):
        assert_equivariant(net, "D8", x, parities=False)


def test_restriction_follows_the_convolution_it_names():
    kinds = [type(layer).__name__ for layer in small("D8", "C8", 2).features]
    assert [i for i, kind in enumerate(kinds) if kind.endswith("Conv2d")][1] + 1 == kinds.index("Restriction")
    assert not any(isinstance(layer, Restriction) for layer in small("D8", "D8").features)


HEAD = 96 * 96 + 2 * 96 + 96 * 96 + 2 * 96 + 96 * 10 + 10


@pytest.mark.parametrize(
    ("options", "weights", "statistics"),
    [
        (
            {"group": "C16"},
            24 * 45 + 16 * 28 * (24 * 32 + 32 * 36 + 36 * 36 + 36 * 64) + 16 * 15 * 64 * 96,
            24 + 32 + 36 + 36 + 64 + 96,
        ),
        (
            {"group": "D16", "restrict": "C16"},
            16 * 45 + 32 * 28 * (16 * 22 + 22 * 25 + 25 * 25 + 25 * 45) + 16 * 15 * 90 * 96,
            16 + 22 + 25 + 25 + 90 + 96,
        ),
        (
            {"group": "D16", "restrict": "C16", "restrict_at": 2},
            16 * 45 + 32 * 28 * 16 * 22 + 16 * 28 * (44 * 36 + 36 * 36 + 36 * 64) + 16 * 15 * 64 * 96,
            16 + 44 + 36 + 36 + 64 + 96,
        ),
    ],
)
def test_the_published_forms_have_their_weights(options, weights, statistics):
    assert sum(p.numel() for p in e2_mnist(**options).parameters()) == weights + 2 * statistics + HEAD


def test_the_plain_twin_has_about_as_many_weights():
    ours, twin = (sum(p.numel() for p in e2_mnist(group=group).parameters()) for group in ("C16", "Z2"))
    assert twin == pytest.approx(ours, rel=0.01)


def test_the_map_shrinks_as_published():
    net, sides = e2_mnist(group="C4", width=0.05), []
    for layer in net.features:
        if layer.__class__.__name__.endswith(("Conv2d", "MaxPool2d")):
            layer.register_forward_hook(lambda layer, x, y: sides.append(y.shape[-1]))
    net(noise(2, 1, 28, 28))
    assert sides == [20, 20, 10, 10, 10, 5, 5, 1]


def test_a_configuration_names_its_options(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "e2_mnist", e2_mnist)
    text = "{name: e2_mnist, group: D8, restrict: C8, restrict_at: 4, width: 1, kernel: 3}"
    config = ModelConfig.model_validate(yaml.safe_load(text))
    assert isinstance(config.build(1, 10), E2MNIST)
    with pytest.raises(UsageError, match=r"e2_mnist: kernel: should be a valid integer, got \[7, 7\]"):
        registry.check_options("e2_mnist", {"kernel": [7, 7]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: e2_mnist(group="D6", restrict="C4"), "subgroup of D6, got C4; choose from Z2, C2, C3, C6, D1, D2, D3"),
        (lambda: e2_mnist(group="C8", restrict="D4"), "subgroup of C8, got D4; choose from Z2, C2, C4, C8$"),
        (lambda: e2_mnist(restrict_at=0), "expected restrict_at to be 1, 2, 3, 4 or 5, got 0"),
        (lambda: e2_mnist(restrict_at=6), "expected restrict_at to be 1, 2, 3, 4 or 5, got 6"),
        (lambda: e2_mnist(width=0.04), "width of at least 0.042, .* one feature on C16, got 0.04"),
        (lambda: e2_mnist(group="D16", width=0.05), "width of at least 0.059, .* one feature on D16, got 0.05"),
        (lambda: e2_mnist(width=float("nan")), "width of at least 0.042, .* got nan"),
        (lambda: e2_mnist(width=float("inf")), "width of at least 0.042, .* got inf"),
        (lambda: e2_mnist(kernel=4), "expected an odd kernel of at least 3 .*, got 4"),
        (lambda: e2_mnist(kernel=1), "expected an odd kernel of at least 3 .*, got 1"),
        (lambda: small(kernel=7)(torch.zeros(1, 1, 27, 30)), "pictures of at least 28x28 pixels, got 27x30"),
        (lambda: small(kernel=3)(torch.zeros(1, 1, 20, 19)), "pictures of at least 20x20 pixels, got 20x19"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize("group", ["C16", "D16", "C5", "Z2"])
def test_the_narrowest_width_that_is_named_works(group):
    with pytest.raises(UsageError, match="width of at least") as refusal:
        e2_mnist(group=group, width=0.0)
    least = float(re.findall(r"at least ([0-9.]+),", str(refusal.value))[0])
    assert e2_mnist(group=group, width=least, kernel=3).features[0].out_channels == 1
