"""convert: every mechanism of a convolutional network, exact by a check of its own; widths; weights that are kept."""

import copy
import io
from functools import cache

import onnxruntime
import pytest
import timm
import torch
from conversions import (
    ALL,
    CLASSIFIERS,
    MAPS,
    NOT_THE_AVERAGE,
    ONE_SIZE,
    Dense,
    average,
    convnext,
    errors,
    head,
    made,
    mobilenet,
    network,
    noise,
    resnet,
)
from timm.layers import StdConv2d
from torch import nn
from torch.testing import assert_close

from roteq import convert
from roteq.errors import UsageError
from roteq.files import load_json, save_json
from roteq.groups import group as named_group
from roteq.nn import GroupConv2d, GroupLinear, LiftingConv2d, plain
from roteq.nn.conv import TiedConv2d
from roteq.results import Conversion
from roteq.testing import assert_equivariant, equivariance_error

VARIED = [
    *("residual", "layer norm, linear maps of pixels", "rectangular pairs", "cut by numbers", "shuffled by hand"),
    *("standardised filters", "flattened map", "u-net", "PReLU"),
]
FEW = ["residual", "cut by numbers", "standardised filters", "layer norm, linear maps of pixels"]
WIDTHS = ("parameters", "channels", "features", 0.5)


@cache
def twin_of(name, group="p4m", width=0.5):
    net, x = network(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return convert(net, group, sample=x[:1], width=width)


def output_of(name):
    return "trivial" if name in MAPS else "invariant"


def sizes(name, x):
    return (x,) if name in ONE_SIZE else (x, x[..., 1:, 1:])


@pytest.mark.parametrize("name", ALL)
def test_every_mechanism_becomes_exact_at_odd_and_even_sizes_in_both_modes(name):
    _, x = network(name)
    twin = twin_of(name)
    for images in sizes(name, x):
        found = errors(twin, images, "p4m", output_of(name))
        assert None not in found and max(found) < 1e-11, found
    assert twin.conversion.exact and max(twin.conversion.errors.values()) < 1e-11
    assert len(twin.conversion.errors) == 7


@pytest.mark.parametrize("name", ALL)
def test_the_original_fails_the_same_check(name):
    net, x = network(name)
    for images in sizes(name, x):
        assert min(errors(net, images, "p4m", output_of(name))) > 0.02


@pytest.mark.parametrize("name", ["residual", "layer norm, linear maps of pixels", "dense"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_public_check_of_all_elements_agrees(name, width):
    _, x = network(name)
    group = "p4" if width == "features" else "p4m"
    assert_equivariant(twin_of(name, group, width), group, x, output=output_of(name))


@pytest.mark.parametrize("name", ["test_efficientnet", pytest.param("test_nfnet", marks=pytest.mark.slow)])
def test_networks_of_timm_become_exact(name):
    net = made(lambda: timm.create_model(name, num_classes=4))
    twin = convert(net, "p4", sample=torch.zeros(1, 3, 33, 33), width="channels")
    assert max(errors(twin, noise(2, 3, 33, 33), "p4", "invariant")) < 1e-11
    assert twin.conversion.channels[0] == twin.conversion.channels[1]


def test_a_picture_of_224_pixels_is_planned_on_a_smaller_one():
    net = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.Flatten(1), Mean()))
    twin = convert(net, "p4", sample=torch.zeros(1, 3, 126, 126), width=0.5)
    assert max(errors(twin, noise(2, 3, 126, 126), "p4", "invariant")) < 1e-11
    # 2 (FLOPs) * filters * pixels, at the size of the sample
    assert twin.conversion.flops[0] == 2 * (27 * 4 * 62**2 + 36 * 4 * 30**2)


class Mean(nn.Module):
    def forward(self, x):
        return x.unflatten(1, (4, -1)).mean(2)


@pytest.mark.parametrize("name", ["residual", "PReLU", "standardised, padded by size", "flattened map", "group norm"])
def test_twins_can_have_more_features_than_the_original_has_channels(name):
    net, x = network(name)
    twin = convert(net, "p4", sample=x, width=1.5)
    assert max(errors(twin, x, "p4", "invariant")) < 1e-11
    assert twin.conversion.channels[1] > 4 * twin.conversion.channels[0] and not twin.conversion.kept_weights


def test_groups_beyond_quarter_turns_are_exact_for_these_and_claim_no_more():
    net, x = network("residual")
    twin = convert(net, "C8", sample=x[:1], width=0.5)
    assert set(twin.conversion.errors) == {"90°", "180°", "270°"} and twin.conversion.exact
    assert isinstance(twin[0], LiftingConv2d) and twin[0].basis_name == "harmonic"
    assert max(errors(twin, x, "C8", "invariant")) < 1e-11


def test_a_group_without_exact_elements_claims_nothing():
    net, x = network("grouped")
    twin = convert(net, "C3", sample=x[:1], width=0.5)
    assert twin.conversion.errors == {} and not twin.conversion.exact
    assert isinstance(twin[2], GroupConv2d) and twin[2].group.name == "C3"


def test_dictionaries_and_nested_outputs_turn_too():
    net, x = made(lambda: Dense(as_dict=True)), noise(2, 3, 12, 12)
    twin = convert(net, "p4m", sample=x, width=0.5).double().eval()
    group = named_group("p4m")
    upright = twin(x.double())
    assert upright.keys() == {"out", "pair"}
    for g in range(1, 8):
        moved = twin(group.act_on_image(x.double(), g))
        assert_close(moved["out"], group.act_on_image(upright["out"], g), atol=1e-12, rtol=0)
        assert_close(moved["pair"][1][0], moved["out"], atol=0, rtol=0)
        assert_close(moved["pair"][0], upright["pair"][0], atol=1e-12, rtol=0)
    assert (upright["out"] - torch.rot90(upright["out"], 1, (2, 3))).norm() > 1e-2 * upright["out"].norm()


# Width


@pytest.mark.parametrize("make", [lambda: resnet(width=32), mobilenet, convnext])
@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_width_parameters_is_within_five_percent(make, group):
    net = made(make)
    twin = convert(net, group, sample=torch.zeros(1, 3, 21, 21))
    original, own = (sum(p.numel() for p in m.parameters()) for m in (net, twin))
    slack = 0.05 if original > 10_000 else 0.25  # few channels can be rounded but roughly
    assert abs(own / original - 1) < slack and twin.conversion.parameters == (original, own)
    assert twin.conversion.width == "parameters" and not twin.conversion.kept_weights


def test_width_channels_has_the_original_s_physical_channels():
    net, x = made(lambda: resnet(width=16)), noise(2, 3, 20, 20)
    twin = convert(net, "p4m", sample=x, width="channels")
    assert [m.out_channels * 8 for m in twin.modules() if isinstance(m, TiedConv2d)] == [16, 32, 32, 32]
    assert twin.conversion.channels == (112, 112) and twin.conversion.factor == 1 / 8
    assert twin[0](x).shape == net[0](x).shape
    original, own = twin.conversion.flops
    assert abs(own / original - 1) < 0.05


def test_width_features_has_a_feature_for_every_channel_and_a_factor_its_share():
    for width, features in (("features", 1), (0.5, 2), (2, 0.5), (0.25, 4)):
        twin = twin_of("residual", "p4", width)
        assert twin[0].out_channels * features == 8 and twin[4].conv2.out_channels * features == 16
        assert twin.conversion.factor == 1 / features and twin.conversion.kept_weights is (width == "features")
        assert twin.conversion.width == str(width)


@pytest.mark.parametrize(
    ("width", "message"),
    [
        ("feature", r"convert: unknown width 'feature'; did you mean 'features'\?, or give a factor"),
        (0, r"convert: expected width to be one of parameters, channels, features or a positive factor, got 0"),
        (-1.0, r"positive factor, got -1\.0"),
        (float("inf"), "positive factor, got inf"),
        (float("nan"), "positive factor, got nan"),
        (True, "positive factor, got True"),
    ],
)
def test_impossible_widths_are_refused(width, message):
    net, x = network("grouped")
    with pytest.raises(UsageError, match=message):
        convert(net, "p4", sample=x, width=width)


def test_a_group_that_is_none_is_refused():
    net, x = network("grouped")
    with pytest.raises(UsageError, match=r"group: expected .*got 'p5'"):
        convert(net, "p5", sample=x)


def test_new_weights_keep_the_proportions_of_the_original_s():
    """A layer of the twin answers noise with the original's variance, on average over its features."""
    net = made(lambda: resnet(width=32))
    with torch.no_grad():
        net[0].weight.mul_(3)
    twin = convert(net, "p4", sample=torch.zeros(1, 3, 33, 33), width="channels")
    with torch.no_grad():
        for path, channels in (("0", 3), ("4.conv1", 32), ("4.conv2", 64)):
            x = noise(4, channels, 33, 33)
            own, original = (m.get_submodule(path)(x).std().item() for m in (twin, net))
            assert own == pytest.approx(original, rel=0.25), path


# Weights that are kept


@torch.no_grad()
def assert_average(net, twin, x, group, tolerance=1e-12):
    wanted = average(copy.deepcopy(net).double(), x.double(), group)
    found = copy.deepcopy(twin).double().eval()(x.double())
    assert (wanted - wanted.roll(1, 0)).norm() > 1e-3 * wanted.norm()
    assert_close(found, wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in (*NOT_THE_AVERAGE, "padded by size")])
def test_kept_weights_are_the_average_of_the_original_at_every_size(name, group):
    net, x = network(name)
    twin = twin_of(name, group, "features")
    with torch.no_grad():
        for images in sizes(name, x):
            assert_average(net, twin, images, group)
    assert twin.conversion.difference < 1e-10 and twin.conversion.kept_weights


@pytest.mark.parametrize("name", NOT_THE_AVERAGE)
def test_where_the_twin_is_not_the_average_the_report_says_by_how_much(name):
    net, x = network(name)
    twin = twin_of(name, "p4m", "features")
    wanted, found = average(net, x, "p4m"), twin.eval()(x)
    assert (wanted - found).norm() > 1e-3 * wanted.norm()
    assert 1e-3 < twin.conversion.difference < 100


STEPS_OF_THE_PICTURE = {
    "a pool of the picture": lambda: nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(3, 8, 3), nn.ReLU()),
    "a max pool of the picture": lambda: nn.Sequential(nn.MaxPool2d(2, 2), nn.Conv2d(3, 8, 3), nn.ReLU()),
}


@pytest.mark.parametrize("kind", STEPS_OF_THE_PICTURE)
def test_steps_that_no_orientation_can_take_for_itself_are_named_and_a_size_without_them(kind):
    """The picture has one orientation; a pool of it is centred."""
    net = made(lambda: nn.Sequential(STEPS_OF_THE_PICTURE[kind](), head(8)))
    x = noise(3, 3, 11, 11)
    report = convert(net, "p4", sample=x, width="features").conversion
    assert report.exact and report.difference > 1e-3
    assert report.asymmetric == {"0.0": 1} and report.symmetric_size in ((10, 10), (12, 12))
    x = noise(3, 3, *report.symmetric_size)
    twin = convert(net, "p4", sample=x, width="features")
    assert twin.conversion.difference < 1e-12 and twin.conversion.asymmetric == {}
    assert twin.conversion.symmetric_size is None
    assert_average(net, twin, x, "p4")


def test_with_other_weights_the_steps_that_leave_pixels_over_are_named_too():
    report = twin_of("residual").conversion
    assert report.asymmetric == {"0": 1, "3": 1} and report.symmetric_size == (17, 17)
    assert report.difference is None


def test_groups_whose_elements_are_interpolated_keep_the_weights_and_say_nothing_of_an_average():
    net, x = network("residual")
    for group in ("C8", "C6"):
        report = convert(net, group, sample=x, width="features").conversion
        assert report.kept_weights and report.difference is None


# The report


def test_the_report_saves_and_loads(tmp_path):
    report = twin_of("residual").conversion
    assert isinstance(report, Conversion)
    save_json(report, tmp_path / "report.json")
    assert load_json(Conversion, tmp_path / "report.json") == report


def test_the_report_names_every_layer_that_was_exchanged():
    net, _ = network("residual")
    report = twin_of("residual").conversion
    assert (report.model, report.group, report.width) == ("Sequential", "D4", "0.5")
    assert [layer.path for layer in report.layers] == [
        *("0", "1", "3", "4.conv1", "4.norm1", "4.conv2", "4.norm2", "4.downsample.0", "4.downsample.1", "5.2")
    ]
    first = report.layers[0]
    assert first.before == str(net[0]) and first.after.startswith("LiftingConv2d(3, 4, kernel_size=3, stride=2")
    assert all(layer.error is not None and layer.error < 1e-10 for layer in report.layers)
    assert report.broken == {} and report.unused == () and report.rewritten == ()


def test_the_report_counts():
    net, _ = network("residual")
    twin = twin_of("residual")
    report = twin.conversion
    assert report.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (net, twin))
    assert report.channels == (8 + 3 * 16, 8 * (4 + 3 * 8))
    pixels = 10**2, 3**2
    macs = 27 * 8 * pixels[0] + (72 * 16 + 144 * 16 + 8 * 16) * pixels[1] + 16 * 5
    assert report.flops[0] == 2 * macs
    macs = 27 * 32 * pixels[0] + (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) * pixels[1] + 8 * 5
    assert report.flops[1] == 2 * macs


def test_layers_that_are_never_reached_are_named_and_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.never = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.head, self.act = nn.Linear(8, 2), nn.ReLU()

        def forward(self, x):
            return self.head(self.body(x).relu().mean((2, 3)))

    twin = convert(made(Net), "p4", sample=noise(1, 3, 8, 8), width=0.5)
    assert twin.conversion.unused == ("never",) and type(twin.never) is nn.Conv2d


def test_layers_of_training_alone_are_exchanged_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.helper = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            y = self.body(x).relu()
            answer = self.head(y.mean((2, 3)))
            return (answer, self.helper(y)) if self.training else answer

    twin = convert(made(Net), "p4", sample=noise(1, 3, 8, 8), width=0.5)
    assert twin.conversion.unused == () and "helper" in [layer.path for layer in twin.conversion.layers]
    x, group = noise(2, 3, 8, 8, dtype=torch.float64), named_group("p4")
    _, upright = twin.double().train()(x)
    _, moved = twin(group.act_on_image(x, 1))
    assert_close(moved, group.act_on_image(upright, 1), atol=1e-12, rtol=0)


# Leaving


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("width", [0.5, "features"])
def test_plain_computes_the_same_and_has_no_tied_filters(name, width):
    _, x = network(name)
    twin = twin_of(name, "p4m", width).eval()
    left = plain(twin)
    assert not [m for m in left.modules() if isinstance(m, TiedConv2d | GroupLinear)]
    assert not [m for m in left.modules() if "Parametrized" in type(m).__name__]
    with torch.no_grad():
        assert_close(left(x), twin(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "width"), [("grouped", "features"), ("shuffled by hand", 0.5)])
def test_what_leaves_exports_and_runs_elsewhere(name, width):
    _, x = network(name)
    twin = twin_of(name, "p4m", width).eval()
    left = plain(twin)
    program = torch.export.export(left, (x,))
    assert_close(program.module()(x), twin(x), atol=1e-4, rtol=1e-4)
    file = io.BytesIO()
    torch.onnx.export(left, (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(found), twin(x).detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "cut by numbers", "standardised filters"])
def test_twins_compile_and_are_copied(name):
    torch.compiler.reset()
    _, x = network(name)
    twin = twin_of(name).eval()
    assert_close(copy.deepcopy(twin)(x), twin(x))
    compiled = copy.deepcopy(twin)
    compiled.compile(backend="aot_eager")
    assert_close(compiled(x), twin(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_a_state_loads_into_another_conversion(name):
    net, x = network(name)
    twin = twin_of(name).eval()
    other = convert(net, "p4m", sample=x, width=0.5).eval()
    assert not torch.allclose(other(x), twin(x))  # its weights were drawn anew
    assert not other.load_state_dict(twin.state_dict()).missing_keys
    assert torch.equal(other(x), twin(x))


@pytest.mark.parametrize("name", [*FEW, "flattened map"])
@pytest.mark.parametrize("width", [0.5, "features"])
def test_training_keeps_it_exact(name, width):
    _, x = network(name)
    twin = copy.deepcopy(twin_of(name, "p4m", width)).double().train()
    before = copy.deepcopy(twin.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x.double()), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    still = [key for key, p in twin.named_parameters() if torch.equal(p, before[key])]
    assert not still
    assert max(errors(twin, x, "p4m", "invariant")) < 1e-10


def test_every_parameter_of_a_twin_gets_a_gradient():
    for name in ("residual", "depthwise, squeeze and excitation", "cut by numbers", "u-net", "PReLU"):
        _, x = network(name)
        twin = copy.deepcopy(twin_of(name)).eval()
        twin(x).square().sum().backward()
        assert not [key for key, p in twin.named_parameters() if p.grad is None or not p.grad.any()], name


def test_the_filters_of_a_standardised_convolution_stay_standardised():
    layer = twin_of("standardised filters")[2]
    assert isinstance(layer, StdConv2d)


def test_classifiers_answer_in_the_shape_of_the_original():
    for name in CLASSIFIERS:
        net, x = network(name)
        assert twin_of(name)(x).shape == net(x).shape == (3, 5)


@pytest.mark.parametrize("name", ["residual", "ceil_mode", "padded by size", "pools that leave pixels over", "dilated"])
@pytest.mark.parametrize("width", [0.5, "features"])
def test_maps_have_the_sizes_of_the_original_s(name, width):
    net, x = network(name)
    twin = twin_of(name, "p4m", width)
    for images in sizes(name, x):
        for part in range(1, len(net)):
            assert twin[:part](images).shape[2:] == net[:part](images).shape[2:], part


def test_grouped_convolutions_stay_grouped():
    for name, path, groups in (("grouped", 2, [4, 4, 2]), ("depthwise, squeeze and excitation", 5, [16, 8, 4])):
        for width, wanted in zip(("features", 0.5, 0.25), groups, strict=True):
            assert twin_of(name, "p4m", width)[path].groups == wanted, (name, width)


def test_a_network_already_equivariant_is_no_worse():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    twin = convert(net, "p4", sample=noise(1, 3, 8, 8), width="features")
    assert_average(net, twin, noise(3, 3, 8, 8), "p4")
    assert equivariance_error(net, "p4", noise(3, 3, 8, 8), 1) < 1e-5
