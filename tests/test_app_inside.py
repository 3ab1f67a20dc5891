"""Inside a network: the maps at every place of the ring, those expected there, and the error that is said of them."""

import base64
import io
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import roteq
from roteq.app.album import Album
from roteq.app.inside import comparing, inside, layers, turned_map
from roteq.app.layers import maps, place_of
from roteq.app.networks import Network
from roteq.app.seeing import TILE, shrunk
from roteq.auditing.loading import as_subject
from roteq.auditing.subject import Subject
from roteq.errors import UsageError
from roteq.groups import Group
from roteq.nn import GroupBatchNorm2d, GroupConv2d, GroupPool, LiftingConv2d, plain

SIZE = 20
IDS = ("0", "1", "2", "3", "4")


@pytest.fixture(scope="module")
def album() -> Album:
    """Smooth pictures, large enough that no corner is missing."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (len(IDS), 5, 5, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(one).resize((36, 36), Image.Resampling.BICUBIC)) for one in small]
    return Album(np.stack(smooth).transpose(0, 3, 1, 2))


def equivariant(group: str, features: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        LiftingConv2d(3, features, 5, padding=2, group=group),
        GroupBatchNorm2d(features, group=group),
        nn.ReLU(inplace=True),
        GroupConv2d(features, 2, 5, group=group),
        GroupPool(group),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def ordinary(channels: int = 17) -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, channels, 5, padding=2), nn.ReLU(inplace=True), nn.Conv2d(channels, 8, 3)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def network(module: nn.Module, name: str = "one") -> Network:
    return Network(as_subject(module.eval(), name=name, normalize="unit", size=SIZE, resize=0))


def look(one: Network, album: Album, degrees: int, mirror: bool = False, layer: str = "3", feature: int = 1, **options):
    return inside(one, album, options.pop("id", "0"), degrees, mirror, layer, feature, options.pop("references", IDS))


def places(address: str, tiles: int) -> np.ndarray:
    """(tiles, h, w): the places in the table of colours."""
    image = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    assert image.mode == "P"
    return np.stack(np.hsplit(np.asarray(image).astype(int), tiles))


def painted(values: Tensor | np.ndarray, found: dict) -> np.ndarray:
    """The same of numbers."""
    return np.clip(np.round((np.asarray(values) - found["low"]) / (found["high"] - found["low"]) * 255), 0, 255)


@pytest.mark.parametrize("layer", ["0", "1", "3", "4"])
def test_at_every_exact_element_the_maps_are_those_expected(album: Album, layer: str) -> None:
    one, group = network(equivariant("p4m")), Group(4, True)
    for g in range(group.order):
        found = look(one, album, int(group.angle(g)), group.is_mirror(g), layer)
        assert found["largest_difference"] <= 1e-5 * (found["high"] - found["low"])
        error = found["error"]
        assert (error["element"], error["exact"], error["why"], error["note"]) == (g, True, None, None)
        assert error["between"] < 1e-5
        assert error["relative"] < 1e-5
        order = 1 if layer == "4" else 8
        assert np.abs(places(found["maps"], order) - places(found["expected"], order)).max() <= 1
        assert g == 0 or found["maps"] != look(one, album, 0, layer=layer)["maps"]


def test_the_maps_vary_between_pictures(album: Album) -> None:
    one = network(equivariant("p4"))
    first, second = (places(look(one, album, 0, id=id)["maps"], 4) for id in ("0", "1"))
    assert np.abs(first - second).mean() > 5


def test_a_quarter_turn_moves_every_map_on_by_one_place(album: Album) -> None:
    """Without any of the house's group actions: what stood at place h - 1 stands at h, turned by np.rot90."""
    module = equivariant("p4")
    one = network(module)
    with torch.no_grad():
        upright = module[:4](one.input(album, "0", 0))[0].numpy()  # feature 1 has the channels 4 to 7
    for turns in range(4):
        found = look(one, album, 90 * turns)
        for h in range(4):
            came = np.rot90(upright[4 + (h - turns) % 4], turns)
            assert np.abs(places(found["maps"], 4)[h] - painted(came, found)).max() <= 1
            assert np.abs(places(found["expected"], 4)[h] - painted(came, found)).max() <= 1


def test_with_mirrors_the_expected_maps_are_those_of_the_group(album: Album) -> None:
    module, group = equivariant("D4"), Group(4, True)
    one = network(module)
    with torch.no_grad():
        upright = module[:4](one.input(album, "2", 0))
    found = look(one, album, 270, True, id="2")
    wanted = group.act_on_features(upright, group.index(True, 3))[0, 8:16]
    assert np.abs(places(found["expected"], 8) - painted(wanted, found)).max() <= 1
    assert [e["label"] for e in found["elements"]][5] == "mirror, then 90°"


def test_a_plain_network_fails_the_same_law_on_blocks_of_the_other_group(album: Album) -> None:
    one, other = network(ordinary()), network(equivariant("p4m"), "other")
    read = layers(one, like=other)
    assert [(i.path, i.group, i.order, i.representation, i.features) for i in read] == [
        ("1", "D4", 8, "plain", 2),  # 17 channels; the first convolution is changed in place by ReLU
        ("2", "D4", 8, "plain", 1),
    ]
    for degrees, mirror in ((90, False), (180, False), (0, True)):
        assert look(one, album, degrees, mirror, "2", 0)["error"]["between"] > 0.3
    assert look(one, album, 0, False, "2", 0)["error"]["between"] == 0
    assert [i.group for i in layers(one)] == ["D4", "D4"]  # as it was read last
    fresh = network(ordinary())
    assert [i.group for i in layers(fresh)] == ["C8", "C8"]
    assert [i.group for i in layers(fresh, like=other)] == ["D4", "D4"]


def test_written_out_as_a_plain_network_it_keeps_the_law(album: Album) -> None:
    one, other = network(plain(equivariant("p4m"))), network(equivariant("p4m"), "other")
    path = next(i.path for i in layers(one, like=other) if i.features == 2)
    assert look(one, album, 90, True, path)["error"]["between"] < 1e-5


def test_a_filter_turned_the_wrong_way_is_seen(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    module = equivariant("p4")
    conv, right = module[3], module[3].bank
    wrong = right().detach().clone()
    wrong[5] = wrong[5].rot90(2, (-2, -1))  # feature 1 at 90 degrees
    monkeypatch.setattr(conv, "bank", lambda: wrong)
    one = network(module)
    assert look(one, album, 90, layer="1")["error"]["between"] < 1e-5  # before it
    found = look(one, album, 90)
    assert found["error"]["between"] > 0.1
    assert found["largest_difference"] > 0.1 * (found["high"] - found["low"])
    assert look(one, album, 90, feature=0)["largest_difference"] < 1e-5  # the error is of all features


@pytest.mark.parametrize(("degrees", "mirror"), [(45, False), (225, False), (315, True)])
def test_between_the_pixels_the_error_is_small_but_there(album: Album, degrees: int, mirror: bool) -> None:
    torch.manual_seed(0)
    one = network(nn.Sequential(LiftingConv2d(3, 2, 5, group="D8"), nn.ReLU()))  # no zeros at the border
    found = look(one, album, degrees, mirror, "0")
    assert found["error"]["exact"] is False
    assert found["error"]["element"] == degrees // 45 + 8 * mirror
    assert 1e-4 < found["error"]["between"] < 0.1
    assert "interpolated" in found["error"]["note"]
    turned = [look(one, album, other, mirror, "0") for other in ((degrees + 90) % 360, (degrees + 180) % 360)]
    for other in turned:  # the same maps in the wrong places
        assert np.abs(places(other["maps"], 16) - places(found["expected"], 16)).mean() > 5
    corner = places(found["difference"], 16)[:, 0, 0]
    assert not corner.any()  # only the disc is compared


def test_the_error_is_that_of_the_definition(album: Album) -> None:
    module, group = ordinary(16), Group(8)
    one = network(module)
    layers(one)
    with torch.no_grad():
        upright = [module[:2](one.input(album, id, 0)).double() for id in IDS]
        turned = module[:2](one.input(album, "0", 90)).double()
    distance = (turned - group.act_on_features(upright[0], 2)).norm()
    pairs = [(a - b).square().sum() for i, a in enumerate(upright) for b in upright[:i]]
    error = look(one, album, 90, layer="1")["error"]
    assert error["between"] == pytest.approx(float(distance / torch.stack(pairs).mean().sqrt()), rel=1e-4)
    assert error["relative"] == pytest.approx(float(distance / upright[0].norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("group", "degrees", "mirror", "why"),
    [
        ("C12", 37, False, "37 degrees lies between two elements of C12; the next are 30 and 60"),
        ("p4", 359, False, "359 degrees lies between two elements of C4; the next are 270 and 0"),
        ("C16", 45 + 5, False, "50 degrees lies between two elements of C16; the next are 45 and 67.5"),
        ("p4", 90, True, "C4 has no mirrors"),
        ("D1", 90, True, "D1 has no turns"),
    ],
)
def test_where_the_group_has_no_element_nothing_is_expected(
    album: Album, group: str, degrees: int, mirror: bool, why: str
) -> None:
    found = look(network(equivariant(group)), album, degrees, mirror, "0")
    assert found["error"] == {
        "between": None, "relative": None, "exact": degrees == 90, "element": None, "why": why, "note": None,
    }  # fmt: skip
    assert found["expected"] is found["difference"] is found["largest_difference"] is None
    assert places(found["maps"], Group(16).order if group == "C16" else len(found["elements"])).std() > 5


def test_a_layer_that_does_not_vary_has_no_error(album: Album) -> None:
    module = equivariant("p4")
    with torch.no_grad():
        module[3].weight.zero_()
        module[3].bias.fill_(2.0)
    error = look(network(module), album, 90)["error"]
    assert (error["between"], error["relative"]) == (None, None)
    assert "do not differ between images" in error["why"]


@pytest.mark.parametrize("references", [(), ("0",), ("0", "77")])
def test_without_two_images_only_the_relative_error_is_known(album: Album, references: tuple[str, ...]) -> None:
    error = look(network(ordinary(16)), album, 90, layer="1", references=references)["error"]
    assert error["between"] is None
    assert error["relative"] > 0.3
    assert "fewer than 2 images" in error["why"]


def test_images_are_compared_a_look_at_a_time_and_once(album: Album) -> None:
    one = network(equivariant("p4"))
    assert len(list(comparing(one, album, "0", "3", IDS))) == len(IDS)
    assert list(comparing(one, album, "1", "3", IDS)) == []
    known = look(one, album, 90)["error"]["between"]
    assert known == look(network(equivariant("p4")), album, 90)["error"]["between"]


def test_the_colours_stay_while_the_picture_turns(album: Album) -> None:
    one = network(equivariant("p4"))
    found = [look(one, album, degrees, layer="0") for degrees in range(0, 360, 40)]
    ranges = {(one["low"], one["high"]) for one in found}
    assert len(ranges) == 1
    assert len({look(one, album, 0, layer="0", feature=f)["high"] for f in range(3)}) == 3


def test_pooled_over_the_group_there_is_one_map(album: Album) -> None:
    found = look(network(equivariant("C8")), album, 90, layer="4")
    assert (found["order"], found["representation"], found["group"]) == (1, "trivial", "C8")
    assert [e["label"] for e in found["elements"]] == ["all"]
    assert found["error"]["element"] == 2
    assert found["error"]["between"] < 1e-5
    assert found["tile"] == [16, 16]
    assert look(network(equivariant("C8")), album, 30, layer="4")["error"]["why"].startswith("30 degrees lies between")


def test_the_table_and_the_picture_of_the_input_are_true(album: Album) -> None:
    module = equivariant("p4")
    one = network(module)
    found = look(one, album, 30)
    with torch.no_grad():
        block = module[:4](one.input(album, "0", 30))[0, 4:8]
    assert [row[0] for row in found["table"]] == ["0°", "90°", "180°", "270°"]
    assert [row[1] for row in found["table"]] == pytest.approx(block.mean((1, 2)).tolist(), abs=1e-5)
    assert [row[2] for row in found["table"]] == pytest.approx(block.amax((1, 2)).tolist(), abs=1e-5)
    seen = Image.open(io.BytesIO(base64.b64decode(found["input"].partition(",")[2])))
    assert np.abs(np.asarray(seen) - one.looker(album, "0")(30)[0].permute(1, 2, 0).round().numpy()).max() == 0


def test_layers_come_in_the_order_in_which_they_run() -> None:
    found = layers(network(equivariant("C12")))
    assert [(i.path, i.kind, i.representation, i.features, i.has_filters) for i in found] == [
        ("0", "LiftingConv2d", "regular", 3, True),
        ("1", "GroupBatchNorm2d", "regular", 3, False),
        ("3", "GroupConv2d", "regular", 2, True),
        ("4", "GroupPool", "trivial", 2, False),
    ]
    assert {(i.group, i.order) for i in found} == {("C12", 12)}


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift = LiftingConv2d(3, 2, 3, padding=1, group="p4")
        self.conv = GroupConv2d(2, 2, 3, padding=1, group="p4")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(self.lift(x))).mean((2, 3))


def test_every_call_of_a_layer_is_there(album: Album) -> None:
    module = Twice()
    one = network(module)
    assert [i.path for i in layers(one)] == ["lift", "conv", "conv (call 2)"]
    with torch.no_grad():
        lifted = module.lift(one.input(album, "0", 0))
        assert maps(one, album, "0", 0, False, place_of(one, "conv")).equal(module.conv(lifted))
        assert maps(one, album, "0", 0, False, place_of(one, "conv (call 2)")).equal(module.conv(module.conv(lifted)))


def test_many_layers_are_thinned_out_to_convolutions_and_ends() -> None:
    torch.manual_seed(0)
    blocks = [part for _ in range(30) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))]
    found = layers(network(nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2))))
    assert len(found) <= 40
    assert [i.path for i in found][-1] == "61"
    assert all(i.has_filters for i in found[:31])


def test_what_is_no_module_has_no_layers(album: Album) -> None:
    one = Network(Subject("f", lambda x: x.mean((2, 3)), size=(SIZE, SIZE)))
    assert layers(one) == []
    with pytest.raises(UsageError, match="f shows no layer 'conv1'; it shows none"):
        inside(one, album, "0", 0, False, "conv1", 0)


def test_layers_and_features_that_are_not_there_are_refused(album: Album) -> None:
    one = network(equivariant("p4"))
    with pytest.raises(UsageError, match="one shows no layer '33'; did you mean '3'"):
        look(one, album, 0, layer="33")
    for feature in (-1, 2):
        with pytest.raises(UsageError, match=f"feature: expected 0 to 1 for 3, got {feature}"):
            look(one, album, 0, feature=feature)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


def test_a_network_that_fails_says_so() -> None:
    with pytest.raises(UsageError, match=r"one: failed on pictures of 3 channel.*not today"):
        layers(network(nn.Sequential(nn.Conv2d(3, 8, 3), Failing())))


class Large(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if len(x[0, 0]) < 100:
            raise ValueError("too small")
        return x


def test_a_network_of_any_size_may_refuse_small_pictures() -> None:
    one = Network(as_subject(nn.Sequential(Large(), nn.Conv2d(3, 8, 3)).eval(), name="one", normalize="unit"))
    assert [(i.path, i.features) for i in layers(one)] == [("1", 1)]


def test_the_layers_of_torchscript_cannot_be_reached() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it will go
        script = torch.jit.trace(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, SIZE, SIZE))
    assert layers(network(script)) == []


def test_the_network_is_left_as_it_was(album: Album) -> None:
    module = equivariant("p4")
    one = network(module)
    module.train()
    statistics = module[1].running_mean.clone() if hasattr(module[1], "running_mean") else None
    look(one, album, 90)
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())
    assert statistics is None or module[1].running_mean.equal(statistics)


def test_a_network_of_one_batch_size_is_asked_for_that(album: Album) -> None:
    class Four(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 4
            return super().forward(x)

    one = network(equivariant("p4"))
    four = Network(replace(network(Four(*equivariant("p4"))).subject, batch=4))
    assert look(four, album, 90)["maps"] == look(one, album, 90)["maps"]


def test_numbers_that_are_none_become_null(album: Album) -> None:
    module = ordinary(16)
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = torch.nan
    found = look(network(module), album, 90, layer="1", feature=0)
    assert "NaN" in found["error"]["why"]
    assert found["table"][0] == ["0°", None, None]
    json.dumps(found, allow_nan=False)


def test_large_maps_are_shown_smaller(album: Album) -> None:
    torch.manual_seed(0)
    one = Network(as_subject(LiftingConv2d(3, 1, 3, padding=1, group="p4"), name="one", normalize="unit", size=150))
    found = look(one, album, 90, layer="", feature=0)
    assert found["tile"] == [TILE, TILE]
    assert places(found["maps"], 4).shape == (4, TILE, TILE)
    assert found["error"]["between"] < 1e-5
    ones = shrunk(torch.ones(2, 300, 120))
    assert ones.shape == (2, TILE, 38)
    assert ones.unique().tolist() == [1]


def dense(group: str) -> Network:
    torch.manual_seed(0)
    module = roteq.create("g_unet", group=group, in_channels=3, num_classes=3, width=2, levels=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return network(module)


@pytest.mark.parametrize(("degrees", "mirror"), [(90, False), (180, True), (30, False)])
def test_the_map_of_a_turned_picture_is_turned_back(album: Album, degrees: int, mirror: bool) -> None:
    one, other = dense("p4m"), dense("Z2")
    found, control = (turned_map(n, album, "0", degrees, mirror) for n in (one, other))
    for n, told in ((one, found), (other, control)):
        assert told["changed"] == n.answer(album, "0", degrees, mirror).changed
        assert told["exact"] == (degrees == 90 or mirror)
        red = places(told["difference"], 1)[0]
        assert (red == 1)[red != 2].mean() == pytest.approx(told["changed"], abs=1e-9)
        assert (red == 2).any() == (degrees == 30)
        assert set(np.unique(places(told["upright"], 1))) <= {0, 1, 2}
        assert len(told["classes"]) == len(told["colours"]) == 3
    assert np.unique(places(found["upright"], 1)).size > 1
    if found["exact"]:
        assert found["changed"] < 0.01
        assert found["turned_back"] == found["upright"]
        upright = places(found["upright"], 1)[0]
        wanted = np.rot90(np.fliplr(upright) if mirror else upright, degrees // 90)
        assert np.array_equal(places(found["map"], 1)[0], wanted)
        assert control["changed"] > 0.02


def test_decisions_are_no_maps(album: Album) -> None:
    with pytest.raises(UsageError, match="one answers with classes, not with a map"):
        turned_map(network(ordinary()), album, "0", 90, False)
