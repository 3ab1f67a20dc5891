"""plain(): every network there is leaves as ordinary torch layers, with the same outputs."""

import pytest
import torch
from networks import images, sweep, trained
from torch import nn

from roteq.errors import UsageError
from roteq.nn import GroupBatchNorm2d, GroupConv2d, LiftingConv2d, plain
from roteq.nn.conv import TiedConv2d

# A BatchNorm folds into the convolution before it. Here some follow a sum, a concatenation or a restriction.
READ_ELSEWHERE = ("densenet121", "e2_mnist", "p4m_densenet", "resnet26", "resnet44")


@pytest.mark.parametrize("name", sweep())
def test_plain_computes_the_same_and_folds(name):
    net, x = trained(name), images(name)
    with torch.no_grad():
        expected, scale = net(x), net(x).abs().max()
        for twin in (plain(net), plain(net, fold=x)):
            assert not any(isinstance(layer, TiedConv2d | GroupBatchNorm2d) for layer in twin.modules())
            assert (twin(x) - expected).abs().max() <= 1e-5 * max(1.0, scale)
        assert net(x).equal(expected)  # the network itself is left alone
    norms = [layer for layer in twin.modules() if isinstance(layer, nn.BatchNorm2d)]
    if name.split()[0] not in READ_ELSEWHERE:
        assert not norms


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep())
def test_plain_exports(name):
    net, x = trained(name), images(name)
    twin = plain(net, fold=x)
    program = torch.export.export(twin, (x,))
    assert not [node for node in program.graph.nodes if node.op == "call_function" and "roteq" in str(node.target)]
    torch.testing.assert_close(program.module()(x), twin(x))


def residual(x_of_bn_only: bool) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = LiftingConv2d(1, 2, 3, group="p4")
            self.norm = GroupBatchNorm2d(2, group="p4")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) if x_of_bn_only else self.norm(y) + y

    torch.manual_seed(0)
    net = Net()
    net(3 + torch.randn(4, 1, 8, 8))  # statistics that are not 0 and 1
    return net.eval()


def test_a_convolution_that_is_read_twice_is_not_folded():
    x = torch.randn(2, 1, 8, 8)
    for once in (True, False):
        net = residual(once)
        twin = plain(net, fold=x)
        torch.testing.assert_close(twin(x), net(x), atol=1e-5, rtol=1e-5)
        assert isinstance(twin.norm, nn.Identity) is once


def test_a_layer_that_is_used_twice_stays_one_layer_and_is_not_folded():
    torch.manual_seed(0)
    conv, norm = GroupConv2d(2, 2, 3, padding=1, group="p4"), GroupBatchNorm2d(2, group="p4")
    net = nn.Sequential(conv, norm, nn.ReLU(), conv, norm)
    x = torch.randn(2, 8, 6, 6)
    net(3 * x + 1)
    twin = plain(net.eval(), fold=x)
    assert twin[0] is twin[3] and isinstance(twin[0], nn.Conv2d)
    torch.testing.assert_close(twin(x), net(x), atol=1e-5, rtol=1e-5)


def test_folding_needs_eval_mode():
    with pytest.raises(UsageError, match=r"plain: expected a network in eval mode to fold its BatchNorm.*call \.eval"):
        plain(residual(True).train(), fold=torch.randn(2, 1, 8, 8))


def test_plain_over_the_trivial_group_shares_nothing_with_its_origin():
    layer, norm = GroupConv2d(2, 3, 3, group="Z2"), GroupBatchNorm2d(3, group="Z2")
    before = [p.clone() for p in (*layer.parameters(), *norm.parameters())]
    for twin in (plain(layer), plain(norm)):
        for parameter in twin.parameters():
            parameter.data.fill_(7.0)
    assert all(torch.equal(a, b) for a, b in zip(before, (*layer.parameters(), *norm.parameters()), strict=True))
