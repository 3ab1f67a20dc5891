import copy
import io

import pytest
import torch
from torch import nn

from roteq.errors import UsageError
from roteq.groups import group
from roteq.nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, SymmetricMaxPool2d, plain
from roteq.testing import assert_equivariant

GROUPS = ["C1", "C2", "C4", "C8", "D1", "D4", "D6"]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def network(name):
    torch.manual_seed(0)
    return nn.Sequential(
        LiftingConv2d(2, 3, 5, padding=2, group=name),
        GroupBatchNorm2d(3, group=name),
        nn.ReLU(),
        SymmetricMaxPool2d(),
        GroupConv2d(3, 4, 3, group=name),
        GroupBatchNorm2d(4, group=name),
    )


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kernel_size", [2, 3, 4, 5])
def test_lifting_is_equivariant(name, kernel_size):
    assert_equivariant(LiftingConv2d(2, 3, kernel_size, group=name), name, noise(3, 2, 10, 10))


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kernel_size", [1, 3, 4])
def test_group_convolution_is_equivariant(name, kernel_size):
    order = group(name).order
    layer = GroupConv2d(2, 3, kernel_size, padding=1, group=name)
    assert_equivariant(layer, name, noise(3, 2 * order, 8, 8), input="regular", output="regular")


@pytest.mark.parametrize("name", GROUPS)
def test_group_batch_norm_is_equivariant_in_training_too(name):
    layer = GroupBatchNorm2d(2, group=name)
    assert_equivariant(layer, name, noise(3, 2 * group(name).order, 6, 6), input="regular")


def test_batch_norm_per_channel_is_not_equivariant_once_its_channels_differ():
    per_channel = nn.BatchNorm2d(8)
    with torch.no_grad():
        per_channel.weight.copy_(torch.arange(1, 9))
    with pytest.raises(AssertionError, match="not equivariant under C4"):
        assert_equivariant(per_channel, "C4", noise(3, 8, 6, 6), input="regular")


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_group_pool_is_invariant(name, mode):
    features = noise(3, 2 * group(name).order, 6, 6)
    assert_equivariant(GroupPool(name, mode), name, features, input="regular", output="trivial")


@pytest.mark.parametrize("name", GROUPS)
def test_a_network_is_equivariant(name):
    assert_equivariant(network(name), name, noise(3, 2, 14, 14))


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 9), (1, 1), (3, 1)])
def test_symmetric_max_pool_is_symmetric_for_every_size(size):
    x = noise(2, 1, *size)
    pool = SymmetricMaxPool2d()
    assert torch.equal(pool(x.flip(-1)), pool(x).flip(-1))
    assert torch.equal(pool(torch.rot90(x, 1, (-2, -1))), torch.rot90(pool(x), 1, (-2, -1)))


def test_plain_max_pool_is_not_symmetric_on_odd_maps():
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(nn.MaxPool2d(2), "C4", noise(2, 4, 9, 9), input="regular")


@pytest.mark.parametrize("name", ["C1", "C4", "D4", "C12"])
def test_output_variance_at_initialisation_is_near_one(name):
    torch.manual_seed(0)
    order = group(name).order
    assert LiftingConv2d(16, 64, 5, group=name)(noise(4, 16, 16, 16)).var().item() == pytest.approx(1, abs=0.15)
    assert GroupConv2d(8, 16, 5, group=name)(noise(4, 8 * order, 16, 16)).var().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["C4", "D6"])
def test_plain_computes_the_same(name):
    net = network(name)
    net(noise(4, 2, 14, 14))  # moves the running statistics
    twin = plain(net.eval())
    assert not [m for m in twin.modules() if hasattr(m, "group")]
    torch.testing.assert_close(twin(noise(2, 2, 14, 14)), net(noise(2, 2, 14, 14)), atol=1e-5, rtol=1e-5)


def test_plain_leaves_the_network_alone():
    net = network("p4")
    before = copy.deepcopy(net.state_dict())
    twin = plain(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_weight_changed_in_place_is_seen_in_eval_mode():
    layer = LiftingConv2d(1, 2, 3, group="p4").eval()
    before = layer(noise(1, 1, 5, 5))
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(layer(noise(1, 1, 5, 5)), 2 * before)


def test_networks_copy_save_and_load():
    net = network("D4").eval()
    x = noise(2, 2, 14, 14)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other = network("D4").train()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.eval()(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_double_of_one_network_leaves_another_alone():
    first, second = network("C8"), network("C8")
    first.double()
    assert second(noise(1, 2, 14, 14)).dtype == torch.float32
    second.double()
    first[0].turned_filters.zero_()  # not even a constant is shared
    assert second[0].basis.any()


def test_precision_and_device_changes_lose_nothing_of_the_basis():
    layer = LiftingConv2d(1, 2, 5, group="C12")
    there_and_back = copy.deepcopy(layer).bfloat16().double()
    assert torch.equal(there_and_back.basis, LiftingConv2d(1, 2, 5, group="C12").double().basis)
    assert there_and_back.basis.dtype == torch.float64
    assert torch.equal(layer.to("meta").to_empty(device="cpu").basis, LiftingConv2d(1, 2, 5, group="C12").basis)
    group_layer = GroupConv2d(1, 2, 3, group="D4")
    void = copy.deepcopy(group_layer).to("meta").to_empty(device="cpu")
    void.load_state_dict(group_layer.state_dict())
    torch.testing.assert_close(void(noise(1, 8, 5, 5)), group_layer(noise(1, 8, 5, 5)))


def test_the_printed_layer_rebuilds_it():
    for layer in (
        LiftingConv2d(1, 2, 3, group="C8", basis="disc"),
        GroupConv2d(2, 3, 5, padding=1, bias=False, group="D6"),
        GroupPool("C4", mode="mean"),
        GroupBatchNorm2d(4, group="D4"),
    ):
        again = eval(repr(layer))
        assert repr(again) == repr(layer)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in layer.state_dict().items()
        }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LiftingConv2d(0, 2, 3, group="p4"),
            "LiftingConv2d: expected in_channels to be a whole number of at least 1, got 0",
        ),
        (lambda: GroupConv2d(1, 0, 3, group="p4"), "GroupConv2d: expected out_channels to be a whole number"),
        (
            lambda: GroupConv2d(1, 1, 3, padding=-1, group="p4"),
            "expected padding to be a whole number of at least 0, got -1",
        ),
        (lambda: GroupPool("p4", mode="sum"), "unknown mode .sum."),
        (lambda: GroupPool("p4")(torch.zeros(1, 6, 3, 3)), "blocks of 4 .C4., got 6 channels"),
        (
            lambda: GroupBatchNorm2d(2, group="p4")(torch.zeros(1, 6, 3, 3)),
            "expected 2 features on C4 .8 channels., got 6",
        ),
        (
            lambda: GroupConv2d(16, 1, 3, group="C4")(torch.zeros(1, 128, 5, 5)),
            "64 channels.*got 128 channels; was x lifted",
        ),
    ],
)
def test_wrong_calls_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_group_batch_norm_in_channels_last_is_the_same_norm(affine, momentum):
    torch.manual_seed(0)
    norm = GroupBatchNorm2d(3, momentum=momentum, affine=affine, group="D4").double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    last = copy.deepcopy(norm)
    for step in range(3):
        x = step + 3 * noise(4, 24, 5, 6).double()
        ours, theirs = x.clone().requires_grad_(), x.to(memory_format=torch.channels_last).requires_grad_()
        y, z = norm(ours), last(theirs)
        assert z.is_contiguous(memory_format=torch.channels_last) and not z.is_contiguous()
        torch.testing.assert_close(z, y)
        for output in (y, z):
            (output**3).sum().backward()
        torch.testing.assert_close(theirs.grad, ours.grad)
        for a, b in zip((*last.parameters(), *last.buffers()), (*norm.parameters(), *norm.buffers()), strict=True):
            torch.testing.assert_close(a, b)
            if a.requires_grad:
                torch.testing.assert_close(a.grad, b.grad)
    images = noise(2, 24, 2, 1).double().to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradgradcheck(last, (images,))
