"""Filters: those of an equivariant layer are turned copies of one, those of a plain network are not."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from roteq.app.banks import copies, filters
from roteq.app.layers import layers
from roteq.app.networks import Network
from roteq.auditing.loading import as_subject
from roteq.errors import UsageError
from roteq.groups import Group
from roteq.nn import GroupConv2d, GroupPool, LiftingConv2d, SeparableGroupConv2d


def network(module: nn.Module, name: str = "one") -> Network:
    return Network(as_subject(module.eval(), name=name, normalize="unit", size=16, resize=0))


def equivariant(group: str) -> nn.Sequential:
    torch.manual_seed(0)
    lift, conv = LiftingConv2d(3, 4, 3, group=group), GroupConv2d(4, 2, 3, groups=2, group=group)
    return nn.Sequential(lift, nn.ReLU(), conv, SeparableGroupConv2d(2, 2, 3, group=group), GroupPool(group))


def places(address: str, tiles: int) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.stack(np.hsplit(np.asarray(image).astype(int), tiles))


@pytest.mark.parametrize("path", ["0", "2", "3.space"])
def test_the_copies_over_p4_are_the_first_turned_by_quarters(path: str) -> None:
    one = network(equivariant("p4"))
    for feature in range(2):
        found = filters(one, path, feature)
        shown = places(found["copies"], 4)
        assert shown.shape == (4, *found["tile"]) == (4, 3, 3)
        assert shown[0].std() > 10
        for turns in range(4):
            assert np.array_equal(shown[turns], np.rot90(shown[0], turns))
    assert [e["angle"] for e in found["elements"]] == [0, 90, 180, 270]


@pytest.mark.parametrize("path", ["0", "2"])
def test_the_copies_over_p4m_are_moved_by_its_elements(path: str) -> None:
    module, group = equivariant("D4"), Group(4, True)
    bank = copies(module.get_submodule(path), group, 1)
    for g in range(8):
        assert torch.allclose(bank[g], group.act_on_image(bank[0], g), atol=1e-6)
    assert not torch.allclose(bank[0], bank[4])


def test_the_copies_shown_are_filters_of_the_layer() -> None:
    module = equivariant("p4")
    lift, conv = module[0], module[2]
    assert copies(lift, lift.group, 2).equal(lift.bank().detach()[8:12])
    bank = conv.bank().detach()
    for g in range(4):
        for i in range(2):  # two of the four features belong to each half
            assert copies(conv, conv.group, 1)[g, i].equal(bank[4 + g, 4 * i + g])


def test_between_the_pixels_copies_are_interpolated() -> None:
    torch.manual_seed(0)
    bank = copies(LiftingConv2d(3, 1, 5, group="C12"), Group(12), 0)
    assert torch.allclose(bank[3], bank[0].rot90(1, (-2, -1)), atol=1e-6)
    assert not torch.allclose(bank[1], bank[0], atol=0.05)
    note = filters(network(LiftingConv2d(3, 1, 5, group="C12")), "", 0)["note"]
    assert "moved by every element of C12; between the pixels they are interpolated" in note


def test_the_filters_of_a_plain_network_are_tied_by_nothing() -> None:
    torch.manual_seed(0)
    one = network(nn.Sequential(nn.Conv2d(3, 9, 3), nn.Sigmoid(), nn.Conv2d(9, 8, 3, groups=1)))
    layers(one, like=network(equivariant("p4"), "other"))
    found = filters(one, "2", 1, 7)
    shown, weight = places(found["copies"], 4), one.subject.module[2].weight.detach()[4:8, 7]
    assert (found["sources"], found["source"]) == (9, 7)
    assert np.abs(shown - painted(weight, found["high"])).max() <= 1
    assert not any(np.array_equal(shown[k], np.rot90(shown[0], k)) for k in (1, 2, 3))
    assert found["note"].startswith("The filters of channels 4 to 7 that read channel 7: a plain network ties")


def test_a_network_over_the_trivial_group_is_a_plain_one() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(LiftingConv2d(3, 8, 3, group="Z2"), nn.ReLU(), GroupConv2d(8, 4, 3, group="Z2"))
    one = network(module)
    found = layers(one, like=network(equivariant("p4"), "other"))
    assert [(i.path, i.kind, i.representation, i.features) for i in found][-1] == ("2", "GroupConv2d", "plain", 1)
    weight = module[2].bank().detach()[:4, 5]
    told = filters(one, "2", 0, 5)
    assert np.abs(places(told["copies"], 4) - painted(weight, told["high"])).max() <= 1


def painted(values: Tensor, high: float) -> np.ndarray:
    return np.round((values.numpy() + high) / (2 * high) * 255)


def test_colours_are_symmetric_about_zero() -> None:
    torch.manual_seed(0)
    conv = LiftingConv2d(3, 1, 3, group="p4")
    with torch.no_grad():
        conv.weight[0, :, 4] = 0
    found = filters(network(conv), "", 0, 1)
    assert found["low"] == -found["high"]
    assert found["high"] == pytest.approx(float(conv.bank().detach()[:, 1].abs().max()))
    shown = places(found["copies"], 4)
    assert set(shown[:, 1, 1]) <= {127, 128}
    image = Image.open(io.BytesIO(base64.b64decode(found["copies"].partition(",")[2])))
    first, last = (image.getpalette()[3 * k : 3 * k + 3] for k in (0, 255))
    assert first[2] > first[0]  # blue
    assert last[0] > last[2]  # red


def test_a_source_that_is_not_there_becomes_the_last() -> None:
    one = network(equivariant("p4"))
    assert filters(one, "0", 0, 99)["source"] == 2
    assert filters(one, "0", 0, 99)["copies"] == filters(one, "0", 0, 2)["copies"]
    assert filters(one, "2", 0)["sources"] == 2
    assert filters(one, "3.space", 0)["sources"] == 1


def test_layers_without_filters_say_so() -> None:
    one = network(equivariant("p4"))
    with pytest.raises(UsageError, match=r"4 \(GroupPool\) has no filters; choose a convolution"):
        filters(one, "4", 0)
    with pytest.raises(UsageError, match="feature: expected 0 to 3 for 0, got 4"):
        filters(one, "0", 4)


def test_filters_of_zeros_have_no_colours() -> None:
    conv = LiftingConv2d(3, 1, 3, group="p4")
    with torch.no_grad():
        conv.weight.zero_()
    found = filters(network(conv), "", 0)
    assert set(places(found["copies"], 4).ravel()) <= {127, 128}
