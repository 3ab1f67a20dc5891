import pytest
import torch

from roteq.errors import UsageError
from roteq.models.se2cnn import cnn, se2cnn, se2cnn_study, weights_of
from roteq.testing import assert_equivariant, equivariance_error


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def weights(net):
    return sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1)


@pytest.mark.parametrize("group", ["C12", "D4", "p4", "D6", "C3"])
@pytest.mark.parametrize(("channels", "size"), [(1, 36), (3, 32), (4, 50)])
def test_se2cnn_is_invariant(group, channels, size):
    torch.manual_seed(0)
    assert_equivariant(se2cnn(channels, 3, group, width=2), group, noise(2, channels, size, size))


@pytest.mark.parametrize("size", [(1, 1), (9, 9), (28, 28), (33, 33), (40, 57), (96, 96)])
def test_se2cnn_takes_any_size(size):
    assert se2cnn(2, 5, "p4", width=2).eval()(noise(2, 2, *size)).shape == (2, 5)


def test_the_plain_twin_and_the_study_form_are_not_invariant():
    for net, x in ((cnn(1), noise(3, 1, 32, 32)), (se2cnn_study(), noise(3, 1, 36, 36))):
        with pytest.raises(AssertionError, match="not equivariant"):
            assert_equivariant(net, "C4", x, parities=False)


def test_se2cnn_is_closer_to_invariant_than_its_twin_between_the_axes():
    """At 30 degrees nothing is exact; on smooth pictures the group network still has the smaller error."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(noise(8, 1, 72, 72), 9, stride=1, padding=4)[..., 16:56, 16:56]
    row, column = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 40), indexing="ij")
    smooth = smooth * (row**2 + column**2 < 0.9) * 9
    errors = {}
    for name, net in (("se2cnn", se2cnn(1)), ("cnn", cnn(1))):
        net(smooth)
        errors[name] = equivariance_error(net.eval(), "C12", smooth, 1)
    assert errors["se2cnn"] < 0.6 * errors["cnn"], errors


def test_the_study_form_has_the_weights_and_maps_of_the_log():
    net = se2cnn_study()
    assert [net.get_submodule(name).weight.numel() for name in ("lift", "conv2", "conv3", "conv4", "conv5")] == [
        100, 9_600, 38_400, 2_048, 256,
    ]  # fmt: skip
    shapes = []
    for name in ("lift", "conv2", "conv3", "conv4", "conv5"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    assert net(noise(1, 1, 36, 36)).shape == (1, 2)
    assert shapes == [(48, 32, 32), (96, 12, 12), (16, 2, 2), (128, 2, 2), (2, 2, 2)]
    digits = se2cnn_study(num_classes=10)
    assert digits(noise(1, 1, 32, 32)).shape == (1, 10)
    assert sum(p.numel() for name, p in digits.named_parameters() if name.endswith("weight")) == 51_428


@pytest.mark.parametrize("group", ["C12", "C8", "p4", "D4", "Z2"])
def test_every_group_gets_about_the_founding_number_of_weights(group):
    assert weights(se2cnn(1, 2, group)) == pytest.approx(50_404, rel=0.08)


def test_the_twin_matches_what_it_says():
    net = se2cnn(1, 2, "C12")
    assert weights(cnn(1, 2, "C12", "parameters")) == pytest.approx(weights(net), rel=0.03)
    assert cnn(1, 2, "C12", "channels").lift.bank().shape == net.lift.bank().shape
    assert weights(net) == weights_of(1, 12, 4) + 2 * 128


def test_every_parameter_gets_a_gradient_and_the_output_varies():
    net = se2cnn(1, 2, "D4")
    out = net(noise(8, 1, 32, 32))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert out.std(0).min() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: se2cnn(width=0), "expected width of at least 1, got 0"),
        (lambda: cnn(match="layers"), "expected match 'parameters' or 'channels', got 'layers'"),
        (
            lambda: se2cnn_study()(torch.zeros(1, 1, 40, 40)),
            "expected pictures of 36x36, 32x32 or 28x28 pixels, got 40x40",
        ),
    ],
)
def test_wrong_calls_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_the_founding_network_frames_digits():
    net, x = se2cnn_study(1, 10).eval(), noise(2, 1, 28, 28)
    assert torch.equal(net(x), net(torch.nn.functional.pad(x, (2, 2, 2, 2))))
