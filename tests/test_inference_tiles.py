"""The seam test: tiles answer as one pass over the whole image does, whatever its sides."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import roteq.inference.tiles
from roteq.errors import UsageError
from roteq.inference.maps import continued, predict_map
from roteq.inference.tiles import blended, map_answers, tiles
from roteq.models import create
from roteq.models.unet import g_unet
from roteq.nn.geometry import Geometry
from roteq.training import Segmenter


def noise(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def seeded(make, dtype=torch.float64):
    """In eval mode, with statistics that are no longer those of an untrained network."""
    torch.manual_seed(0)
    net = make()
    for module in net.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return net.to(dtype).eval()


class Plain(nn.Module):
    """Two convolutions with zeros around them, the second of stride 2: a padding with a stride."""

    geometry = Geometry(window=7, stride=2, padding=3)

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 5, padding=2), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 3, 3, stride=2, padding=1)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


def dense(name, **options):
    return lambda: create(name, in_channels=2, num_classes=3, dense=True, **options)


def unet(levels):
    def make():
        net = g_unet(2, 3, "p4", width=2, levels=levels)
        nn.init.normal_(net.head.weight)  # it starts next to a constant
        return net

    return make


PADDED = [(1, 12), (2, 39), (3, 77)]  # levels, tile
SIDES = {
    "even": (112, 120),
    "odd": (113, 119),
    "mixed": (118, 121),
    "longer than a tile in one": (20, 131),
    "smaller than a tile": (31, 10),
}
UNPADDED = {
    "se2cnn": (dense("se2cnn", group="p4", width=2), 45, [(64, 84), (32, 76)]),
    "p4m_densenet": (dense("p4m_densenet", group="p4", growth=2, depth=3), 40, [(60, 72), (24, 48)]),
    "se2_pcam": (dense("se2_pcam", group="p4", width=2), 105, [(124, 136)]),
    "plain, padded": (Plain, 20, [(52, 38), (41, 33), (30, 27)]),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def seam(net, size, tile, geometry=None, dtype=torch.float64, batch_size=3):
    """The largest difference between tiles and the whole, which must vary and, where larger, be several tiles."""
    spans = [tiles(side, tile, geometry or net.geometry) for side in size]
    assert max(map(len, spans)) > 1 or max(size) <= tile
    image = noise(2, *size, dtype=dtype)
    with torch.no_grad():
        whole = net(image[None])[0]
    assert whole.std((1, 2)).min() > 1e-4
    found = map_answers(net, image, geometry or net.geometry, tile=tile, batch_size=batch_size)
    assert found.shape == whole.shape and found.dtype == dtype
    return float((found - whole).abs().max() / whole.std())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize(("levels", "tile"), PADDED)
def test_tiles_of_a_padded_network_leave_no_seam(levels, tile, size, dtype):
    assert seam(seeded(unet(levels), dtype), size, tile, dtype=dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", UNPADDED)
def test_tiles_of_other_networks_leave_no_seam(name, dtype):
    make, tile, sizes = UNPADDED[name]
    for size in sizes:
        assert seam(seeded(make, dtype), size, tile, dtype=dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("size", [(112, 120), (113, 119)])
def test_a_receptive_field_cut_short_leaves_a_seam(levels, size):
    """The same check with less padding than the network has; the grid stays."""
    net = seeded(unet(levels))
    true = net.geometry
    for padding in (true.padding // 2, true.padding // 4):
        cut = Geometry(2 * padding + 1, 1, padding, true.grid)
        tile = 2 * cut.padding + 4 * cut.grid + 8
        assert seam(net, size, tile, cut) > 1e-3


def test_tiles_off_the_grid_leave_a_seam():
    net = seeded(unet(3))
    true = net.geometry
    assert seam(net, (112, 120), 77, Geometry(true.window, 1, true.padding, 1)) > 1e-3


GEOMETRIES = [
    Geometry(96, 16),
    Geometry(32, 4),
    Geometry(88, 12),
    Geometry(5),
    Geometry(9, 1, 4),
    *(g_unet(1, 2, "Z2", 1, levels).geometry for levels in (1, 2, 3, 4)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_tiles_keep_every_answer_once_and_only_what_they_see(geometry):
    smallest = geometry.window + geometry.grid
    for side in range(geometry.window, geometry.window + 6 * geometry.grid + 150):
        for tile in (smallest + geometry.grid, smallest + 3 * geometry.grid + 1):
            spans = tiles(side, tile, geometry)
            frame = geometry.framing(side)
            assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])]
            assert spans[-1].last == geometry.answers(side)
            assert len({span.side for span in spans}) == 1
            assert spans[0].side <= tile or len(spans) == 1
            for span in spans:
                assert (span.begin + frame) % geometry.grid == 0
                assert (span.side - side - 2 * frame) % geometry.grid == 0 and geometry.framing(span.side) == 0
                assert -frame <= span.begin and span.begin + span.side <= side + frame
                low = span.first * geometry.stride - geometry.padding
                high = (span.last - 1) * geometry.stride - geometry.padding + geometry.window
                assert low >= span.begin or span.begin == -frame
                assert high <= span.begin + span.side or span.begin + span.side == side + frame or span is spans[-1]
                assert span.skip * geometry.stride + span.begin + frame == span.first * geometry.stride + frame


def test_tiles_are_no_larger_than_their_number_needs():
    spans = tiles(1100, 1024, g_unet(1, 2, "Z2", 1).geometry)
    assert len(spans) == 2 and spans[0].side < 640


def test_tiles_too_small_for_a_window_are_refused_naming_the_smallest():
    for geometry, side in ((g_unet(1, 2, "Z2", 1).geometry, 301), (Geometry(96, 16), 304), (Geometry(7, 2, 3), 40)):
        with pytest.raises(UsageError, match="tile: expected at least") as caught:
            tiles(side, 5, geometry)
        smallest = int(str(caught.value).split("at least ")[1].split()[0])
        assert tiles(side, smallest, geometry)[0].side == smallest
        with pytest.raises(UsageError, match=rf"expected at least {smallest} pixels .*, got {smallest - 1}$"):
            tiles(side, smallest - 1, geometry)
    with pytest.raises(UsageError, match="expected an image of at least 96 pixels a side, got 95"):
        tiles(95, 128, Geometry(96, 16))


class Asked(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.shapes = net, []

    def forward(self, x):
        assert torch.is_inference_mode_enabled()
        self.shapes.append(tuple(x.shape))
        return self.net(x)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_network_is_asked_in_batches_of_equal_tiles(batch_size):
    net = seeded(unet(2))
    asked = Asked(net)
    map_answers(asked, noise(2, 90, 90), net.geometry, tile=48, batch_size=batch_size)
    number = len(tiles(90, 48, net.geometry)) ** 2
    assert sum(shape[0] for shape in asked.shapes) == number > 4
    assert {shape[0] for shape in asked.shapes[:-1]} == {batch_size}
    assert {shape[1:] for shape in asked.shapes} == {(2, *asked.shapes[0][2:])} and asked.shapes[0][2] <= 48


def test_pixels_are_prepared_before_zeros_are_added():
    net, image = seeded(unet(3)), noise(2, 82, 101) + 3
    found = map_answers(net, image, net.geometry, tile=77, prepare=lambda x: (x - 3) / 2)
    assert_close(found, net((image[None] - 3) / 2)[0].detach(), rtol=0, atol=1e-10)


class Global(nn.Module):
    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


def test_blended_tiles_count_one_in_all():
    for side, tile in ((100, 40), (101, 40), (40, 40), (7, 40), (5, 1), (64, 33)):
        total = torch.zeros(side, dtype=torch.float64)
        for span in blended(side, tile):
            assert span.weights.min() > 0 and span.side == min(side, tile)
            total[span.first : span.last] += span.weights
        assert_close(total, torch.ones_like(total))


def test_a_network_without_a_geometry_is_blended():
    image = noise(1, 70, 61)
    assert_close(map_answers(nn.Identity(), image, None, tile=32), image)
    net = Global()
    found, whole = map_answers(net, image, None, tile=32), net(image[None])[0]
    assert 1e-3 < (found - whole).abs().max() < 1
    assert_close(map_answers(net, image, None, tile=70), whole)


def test_answers_that_are_elsewhere_are_refused():
    net = seeded(unet(2))
    with pytest.raises(UsageError, match=r"expected \(60, 60\) answers to a tile of \(60, 60\) pixels, got \(30, 30\)"):
        map_answers(nn.Sequential(net, nn.AvgPool2d(2)), noise(2, 60, 60), net.geometry, tile=64)
    for image, settings, said in (
        (noise(1, 2, 60, 60), {}, r"expected an image \(C, H, W\), got \(1, 2, 60, 60\)"),
        (noise(2, 60, 60), {"batch_size": 0}, "batch_size and tile of at least 1, got 0 and 1024"),
    ):
        with pytest.raises(UsageError, match=said):
            map_answers(net, image, net.geometry, **settings)


@pytest.mark.parametrize(("patience", "seen"), [(0.0, True), (1000.0, False)])
def test_a_bar_shows_what_takes_long(patience, seen, monkeypatch, capsys):
    monkeypatch.setattr(roteq.inference.tiles, "PATIENCE", patience)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    net = seeded(unet(1))
    map_answers(net, noise(2, 60, 60), net.geometry, tile=32, progress=True)
    written = capsys.readouterr().err
    assert "mapping" in written if seen else not written


# predict_map


def segmenter(network, channels=2, frame=0):
    """What predict_map asks of a Segmenter, around any network."""
    made = SimpleNamespace(
        network=network, geometry=network.geometry, channels=channels, training=True, modes=[],
        model_config=SimpleNamespace(label="net"), mean=torch.full((channels, 1, 1), 120.0),
        std=torch.full((channels, 1, 1), 50.0), frame=frame,
    )  # fmt: skip
    made.eval = lambda: made.modes.append("eval")
    made.train = made.modes.append
    return made


def pixels(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(100, 90), (101, 93), (40, 95)])
def test_the_map_of_a_padded_network_is_one_pass(size):
    net, image = seeded(unet(3), torch.float32), pixels(2, *size)
    made = segmenter(net)
    found = predict_map(made, image, tile=77)
    whole = net((image[None].float() - 120) / 50)[0].softmax(0)
    assert found.dtype == torch.float32 and not found.requires_grad and whole.std() > 0.01
    assert_close(found, whole.detach(), rtol=0, atol=1e-5)
    assert made.modes == ["eval", True]


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [1, 2, 5, 30, 31])
def test_the_map_of_a_network_without_padding_lies_on_the_image(side, stride):
    """A ramp, which a mean over a window leaves as it is, stays in its place: the log of two probabilities is the ramp
    inside, where nothing is mirrored."""
    window = 4 + stride

    class Mean(nn.Module):
        geometry = Geometry(window, stride)

        def forward(self, x):
            mean = F.avg_pool2d(x, window, stride)
            return torch.cat([torch.zeros_like(mean), mean], 1)

    image = torch.arange(side).float().expand(1, side, side)
    found = predict_map(segmenter(Mean(), 1), image, tile=window + 2 * stride)
    assert found.shape == (2, side, side)
    ramp = 120 + 50 * (found[1] / found[0]).log()
    inside = slice(window, side - window)
    shift = 0.5 if stride % 2 == 0 and side % 2 else 0.0  # cells cannot lie about the centre
    assert_close(ramp[:, inside], image[0, :, inside], rtol=0, atol=shift + 1e-3)


def test_pixels_are_continued_by_reflection_as_often_as_needed():
    found, before = continued(3, Geometry(9))
    assert (found.tolist(), before) == ([0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2], 0)
    assert continued(1, Geometry(3))[0].tolist() == [0, 0, 0]
    for side, geometry, expected in ((10, Geometry(8, 4), (16, 1)), (32, Geometry(9, 3), (42, 2))):
        found, before = continued(side, geometry)
        assert (len(found), before) == expected
        assert found.tolist() == (side - 1 - found.flip(0)).tolist()  # as much on both ends


TURNING = {
    "g_unet": (unet(3), [(90, 90), (91, 91), (90, 83)]),
    "se2cnn": (dense("se2cnn", group="p4", width=2), [(60, 60), (30, 44)]),
}


@pytest.mark.parametrize("name", TURNING)
def test_maps_turn_with_the_image(name):
    make, sizes = TURNING[name]
    net = segmenter(seeded(make, torch.float32))
    for size in sizes:
        image = pixels(2, *size)
        upright = predict_map(net, image, tile=80)
        assert upright.std() > 1e-3
        for turns in (1, 2, 3):
            turned = predict_map(net, image.rot90(turns, (1, 2)), tile=80)
            assert_close(turned, upright.rot90(turns, (1, 2)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["p4m unet", "p4m se2cnn"])
def test_maps_are_mirrored_with_the_image(name):
    make = dense("se2cnn", group="p4m", width=1) if "se2" in name else lambda: g_unet(2, 3, "p4m", width=1)
    net, image = segmenter(seeded(make, torch.float32)), pixels(2, 84, 92)
    assert_close(predict_map(net, image.flip(2)), predict_map(net, image).flip(2), rtol=0, atol=1e-5)


def test_an_odd_side_and_an_even_stride_do_not_turn():
    """Stated in predict_map: the cells lie half a pixel off the centre."""
    net, image = segmenter(seeded(dense("se2cnn", group="p4", width=2), torch.float32)), pixels(2, 61, 61)
    difference = predict_map(net, image).rot90(1, (1, 2)) - predict_map(net, image.rot90(1, (1, 2)))
    assert difference.abs().max() > 1e-3
    assert "odd side and an even stride" in str(inspect.getdoc(predict_map))


def test_images_that_cannot_be_mapped_are_refused():
    net = segmenter(seeded(unet(1), torch.float32))
    for shape in ((3, 20, 20), (2, 0, 20), (1, 2, 20, 20)):
        with pytest.raises(UsageError, match=r"predict_map: net expects an image \(2, H, W\), got "):
            predict_map(net, torch.zeros(shape))


def test_a_segmenter_is_asked():
    settings = {"name": "g_unet", "group": "p4", "width": 1}
    made = Segmenter({**settings}, {}, ["a", "b"], 3)
    found = predict_map(made, pixels(3, 50, 41))
    assert found.shape == (2, 50, 41) and made.training
    assert_close(found.sum(0), torch.ones(50, 41))


def test_a_padded_network_sees_around_the_image_what_it_saw_around_its_windows():
    """Reflected pixels, not zeros; and its map still turns with the image."""
    net, image = segmenter(seeded(unet(2), torch.float32), frame=8), pixels(2, 50, 61)
    around = torch.nn.functional.pad(image.float()[None], (8,) * 4, mode="reflect")[0]
    bare = segmenter(net.network)
    assert_close(predict_map(net, image), predict_map(bare, around)[:, 8:-8, 8:-8])
    assert (predict_map(net, image) - predict_map(bare, image)).abs().max() > 1e-3
