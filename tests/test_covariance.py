"""The covariance test: it passes what turns, fails what does not, and shows the number behind every picture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_report import Page
from torch import nn

from roteq import covariance
from roteq.covariance import CovariancePictures, Layers, layers_of, measure, picture, untrained
from roteq.covariance.layers import control_of
from roteq.covariance.waves import Waves
from roteq.errors import UsageError
from roteq.files import load_json
from roteq.groups import Group, group, turn_image
from roteq.models import create
from roteq.nn import GroupConv2d, LiftingConv2d
from roteq.report.covariance import headline, shown, summary, write_covariance
from roteq.report.text import covariance_table
from roteq.results import CovarianceResult
from roteq.testing import equivariance_error

PARTS = ("lifting", "convolution", "whole")
FILES = ["1-input.png", "2-lifting-kernels.png", "3-group-kernels.png", "4-lifted-maps.png", "5-responses.png"]


@pytest.fixture(scope="module")
def c8() -> CovarianceResult:
    return measure(untrained("C8"))


@pytest.fixture(scope="module")
def c8_pictures() -> CovariancePictures:
    return picture(untrained("C8"))


@pytest.mark.parametrize(
    ("name", "basis", "kernel_size"),
    [
        ("C4", "pixel", 5),
        ("D4", "pixel", 4),
        ("D1", "pixel", 3),
        ("C2", "disc", 3),
        ("C8", "disc", 5),
        ("C8", "harmonic", 4),
        ("D6", "harmonic", 5),
    ],
)
def test_exact_elements_are_exact_and_a_plain_cnn_is_not(name: str, basis: str, kernel_size: int) -> None:
    result = measure(untrained(name, basis=basis, kernel_size=kernel_size))
    assert set(result.errors.exact) == set(PARTS)
    for part in PARTS:
        assert result.errors.exact[part].elements == len(group(name).exact_elements) - 1
        assert result.errors.exact[part].max < 1e-12
        assert result.errors.exact[part].relative_max < 1e-12
        assert 0.5 < result.control.exact[part].mean < 5
    assert max(result.sheet_difference, result.lifted_difference, result.response_difference) < 1e-12
    assert result.control_response_difference > 0.1
    assert result.findings == ()


def conv_of(bank: torch.Tensor) -> nn.Conv2d:
    """A plain convolution with this bank (physical out, physical in, k, k)."""
    conv = nn.Conv2d(bank.shape[1], bank.shape[0], bank.shape[2], bias=False).double().requires_grad_(False)
    conv.weight.copy_(bank)
    return conv


def test_a_lifting_kernel_turned_the_wrong_way_is_found() -> None:
    layers = untrained("C4")
    bank = layers.lifting.bank().unflatten(0, (3, 4))[:, [0, 3, 2, 1]].flatten(0, 1)
    result = measure(replace(layers, lifting=conv_of(bank)))
    assert {f.guard for f in result.findings} == {"not equivariant"}
    assert [f.message.split(":")[0] for f in result.findings] == ["lifting", "whole"]
    assert result.errors.exact["lifting"].max > 0.5
    assert result.errors.exact["convolution"].max < 1e-12
    assert result.lifted_difference > 0.5
    assert "the test failed (not equivariant)" in headline(result)


def test_slices_that_do_not_move_with_the_turn_are_found() -> None:
    layers = untrained("C4")
    first = layers.convolution.bank()[::4]  # of the identity: (5, 3*4, k, k)
    bank = torch.stack([torch.rot90(first, g, (2, 3)) for g in range(4)], 1).flatten(0, 1)
    result = measure(replace(layers, convolution=conv_of(bank)))
    assert [f.message.split(":")[0] for f in result.findings] == ["convolution", "whole"]
    assert result.errors.exact["lifting"].max < 1e-12
    assert result.sheet_difference > 0.5


def test_a_constant_is_degenerate_and_not_perfect() -> None:
    layers = untrained("C4")
    layers.convolution.weight.zero_()
    layers.convolution.bias.fill_(1)
    result = measure(layers)
    assert result.errors.elements[1].whole.between_image_error is None
    assert result.errors.exact["whole"].mean is None
    assert result.errors.exact["whole"].relative_max == 0
    assert result.angles[0].error.between_image_error is None
    assert [f.guard for f in result.findings] == ["degenerate"]


def test_dead_layers_have_no_errors_at_all() -> None:
    layers = untrained("C4")
    layers.lifting.weight.zero_()
    layers.convolution.weight.zero_()
    result = measure(layers)
    assert result.errors.exact["lifting"].relative_mean is None
    assert result.lifted_difference is None
    assert result.energies[0].lifting is None


def test_kernels_without_orientation_prove_nothing() -> None:
    result = measure(untrained("C4", kernel_size=1))
    assert result.errors.exact["whole"].max < 1e-12
    assert [f.guard for f in result.findings] == ["no orientation"]


def test_a_control_that_cannot_fail_voids_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roteq.covariance.measuring.control_of", lambda layers, seed: layers)
    result = measure(untrained("C4"))
    assert [f.guard for f in result.findings] == ["blind control"] * 3


def test_the_error_is_that_of_roteq_testing() -> None:
    layers = control_of(untrained("C8"))
    noise = torch.rand(32, 5, 9, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = measure(layers, seed=4).errors.elements
    for g in (2, 4, 6):
        assert found[g].lifting.between_image_error == pytest.approx(equivariance_error(layers.lifting, "C8", noise, g))
        both = nn.Sequential(layers.lifting, layers.convolution)
        assert found[g].whole.between_image_error == pytest.approx(equivariance_error(both, "C8", noise, g))


def test_the_relative_error_is_against_the_size_of_the_output() -> None:
    layers = control_of(untrained("C4"))
    noise = torch.rand(32, 5, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, turned = layers.whole(noise), layers.whole(torch.rot90(noise, 1, (2, 3)))
    expected = (turned - layers.group.act_on_features(y, 1)).norm() / y.norm()
    assert measure(layers).errors.elements[1].whole.relative_error == pytest.approx(expected.item())


def test_exact_and_interpolated_elements_are_never_averaged_together(c8: CovarianceResult) -> None:
    for part in PARTS:
        between = {
            exact: [getattr(e, part).between_image_error for e in c8.errors.elements[1:] if e.exact is exact]
            for exact in (True, False)
        }
        assert (len(between[True]), len(between[False])) == (3, 4)
        for exact, found in ((True, c8.errors.exact[part]), (False, c8.errors.interpolated[part])):
            assert found.mean == pytest.approx(np.mean(between[exact]))
            assert found.max == max(between[exact])
    assert c8.errors.interpolated["whole"].max > 1e6 * c8.errors.exact["whole"].max


def test_harmonics_turn_far_better_than_pixels_in_between(c8: CovarianceResult) -> None:
    pixel, disc = (measure(untrained("C8", basis=basis)).errors.interpolated for basis in ("pixel", "disc"))
    for part in PARTS:
        assert c8.errors.interpolated[part].max < 0.005
        assert 0.1 < disc[part].mean < pixel[part].mean < 0.6
    assert c8.control.interpolated["whole"].mean > 0.5


def test_energies_are_those_of_the_published_operators(c8: CovarianceResult) -> None:
    """SE(2)-CNNs: 5x5 under a disc keeps 0.84 on the axes, 0.396 at 30 and 0.364 at 45 degrees; 3x3 1, 0.377, 0.416."""
    at_45, small_at_45 = c8.energies[1], measure(untrained("C8", kernel_size=3)).energies[1]
    at_30, small_at_30 = (measure(untrained("C12", kernel_size=k, features=(1, 1))).energies[1] for k in (5, 3))
    assert at_45.disc == pytest.approx(0.364 / 0.84, abs=1e-3)
    assert at_30.disc == pytest.approx(0.396 / 0.84, abs=1e-3)
    assert (small_at_30.pixel, small_at_45.pixel) == pytest.approx((0.377, 0.416), abs=1e-3)
    assert [e.harmonic for e in c8.energies] == pytest.approx([1] * 8)
    assert [e.pixel for e in c8.energies[::2]] == pytest.approx([1] * 4)
    assert measure(untrained("C4", kernel_size=4)).energies[1].disc is None


def test_energies_of_the_layers_are_sums_of_squares() -> None:
    layers = untrained("C8", basis="pixel")
    first = layers.lifting.bank().square().unflatten(0, (3, 8)).sum((0, 2, 3, 4))
    second = layers.convolution.bank().square().unflatten(0, (5, 8)).sum((0, 2, 3, 4))
    found = measure(layers).energies
    assert [e.lifting for e in found] == pytest.approx((first / first[0]).tolist())
    assert [e.convolution for e in found] == pytest.approx((second / second[0]).tolist())
    assert found[1].lifting < 0.5


def test_the_invariant_answer_stays_at_the_angles_of_the_group(c8: CovarianceResult) -> None:
    error = {a.angle: a.error.between_image_error for a in c8.angles}
    assert {a.angle: a.in_group for a in c8.angles} == {90: True, 45: True, 30: False, 15: False}
    assert error[90] < 1e-12
    assert error[45] < 0.01 < error[30]
    assert all(a.control.between_image_error > 0.1 for a in c8.angles)
    assert c8.angles[0].error.relative_error < 1e-12 < c8.angles[2].error.relative_error
    c3 = measure(untrained("C3")).angles[0]
    assert not c3.in_group and c3.error.between_image_error > 0.1


def test_the_trivial_group_promises_nothing() -> None:
    result = measure(untrained("Z2"))
    assert (result.errors.exact, result.errors.interpolated, result.findings) == ({}, {}, ())
    assert result.angles[0].error.between_image_error > 0.3
    assert result.response_difference > 0.1
    assert "nothing is promised" in headline(result)


def test_a_formula_turns_without_being_resampled() -> None:
    waves = Waves(2, 1, 33, torch.Generator().manual_seed(0))
    d4 = group("D4")
    upright = waves.sample(d4.matrix(0), 33)
    for g in range(8):
        torch.testing.assert_close(waves.sample(d4.matrix(g), 33), d4.act_on_image(upright, g))
    turned = waves.sample(Group(12).matrix(1), 33)
    torch.testing.assert_close(turned, turn_image(upright, 30), atol=0.1, rtol=0)  # what bicubic turning costs
    torch.testing.assert_close(turned[..., 12:21, 12:21], waves.sample(Group(12).matrix(1), 9))


def test_a_formula_is_smooth_and_ends_in_a_disc() -> None:
    image = Waves(8, 1, 33, torch.Generator().manual_seed(0)).sample(torch.eye(2, dtype=torch.float64), 33)
    assert image[..., 0, :].abs().max() < 1e-12
    assert image[..., 11:22, 11:22].std() == pytest.approx(1, abs=0.3)
    spectrum = torch.fft.fft2(image).abs().square().mean((0, 1))
    frequency = torch.hypot(torch.fft.fftfreq(33)[:, None], torch.fft.fftfreq(33)[None])
    assert spectrum[frequency > 1 / 8 + 2 / 33].sum() < 0.01 * spectrum.sum()


def test_lifted_maps_turn_and_shift_by_a_quarter_of_the_group(c8_pictures: CovariancePictures) -> None:
    x, turned, undone, rest = c8_pictures.lifted
    assert x.shape == (8, 5, 5)
    np.testing.assert_allclose(turned, np.rot90(np.roll(x, 2, axis=0), 1, (1, 2)), atol=1e-12)
    np.testing.assert_allclose(undone, x, atol=1e-12)
    np.testing.assert_allclose(rest, 0, atol=1e-12)
    assert np.abs(turned - x).max() > 0.1


def test_responses_rolled_back_by_a_quarter_overlap_the_original(c8_pictures: CovariancePictures) -> None:
    original, turned, back = c8_pictures.responses
    np.testing.assert_allclose(back, np.roll(turned, -2))
    np.testing.assert_allclose(back, original)
    assert np.abs(turned - original).max() > 0.1
    control, _, rolled = c8_pictures.control_responses
    assert np.abs(control - rolled).max() > 0.1


def test_rows_of_the_sheet_are_turned_and_columns_are_slices(c8_pictures: CovariancePictures) -> None:
    sheet = c8_pictures.sheet
    for g in (2, 4, 6):  # quarter turns
        for h in range(8):
            np.testing.assert_allclose(sheet[g, h], np.rot90(sheet[0, (h - g) % 8], g // 2), atol=1e-12)
    assert np.ptp(sheet) > 0.1
    bank = untrained("C8").convolution.bank()  # feature 1 to feature 1
    np.testing.assert_array_equal(sheet, bank[:8, :8].numpy())


@pytest.mark.parametrize(
    ("name", "turn", "exact", "inputs"),
    [
        ("C4", "90°", True, ["noise", "noise, 90°"]),
        ("C8", "90°", True, ["noise", "noise, 90°", "formula", "formula, 45°"]),
        ("D6", "180°", True, ["noise", "noise, 180°", "formula", "formula, 60°"]),
        ("D3", "mirror, then 0°", True, ["noise", "noise, mirror, then 0°", "formula", "formula, 120°"]),
        ("C3", "120°", False, ["formula", "formula, 120°"]),
        ("Z2", "90°", True, ["noise", "noise, 90°"]),
    ],
)
def test_the_copy_is_turned_by_what_the_group_has(name: str, turn: str, exact: bool, inputs: list[str]) -> None:
    found = picture(untrained(name))
    assert (found.turn, found.exact, [name for name, _ in found.inputs]) == (turn, exact, inputs)
    if name == "C3":
        assert found.sheet_difference is None
        assert max(found.lifted_difference, found.response_difference) < 0.01  # harmonics: nearly exact
    if name in ("C4", "C8", "Z2"):
        np.testing.assert_array_equal(found.inputs[1][1], np.rot90(found.inputs[0][1], 1, (1, 2)))


def test_a_network_is_tested_with_its_own_weights() -> None:
    network = nn.Sequential(
        LiftingConv2d(2, 3, 3, stride=2, padding=1, group="C4"), nn.ReLU(), GroupConv2d(3, 2, 5, padding=2, group="C4")
    )
    layers = layers_of(network, "mine")
    assert (layers.names, layers.promised, layers.extents) == (("0", "2"), True, (3, 5))
    np.testing.assert_allclose(layers.lifting.bank(), network[0].bank().detach(), atol=1e-6)
    np.testing.assert_allclose(layers.convolution.bank(), network[2].bank().detach(), atol=1e-6)
    assert (network[0].stride, network[0].weight.dtype) == (2, torch.float32)  # the network is left alone
    assert layers.whole(torch.zeros(1, 2, 7, 7, dtype=torch.float64)).shape == (1, 8, 1, 1)
    result = measure(layers)
    assert (result.kernel_sizes, result.features, result.channels) == ((3, 5), (3, 2), 2)
    assert result.errors.exact["whole"].max < 1e-12


def test_dilated_layers_see_further() -> None:
    network = nn.Sequential(LiftingConv2d(1, 2, 3, dilation=2, group="C8"), GroupConv2d(2, 2, 3, group="C8"))
    layers = layers_of(network, "dilated")
    assert layers.extents == control_of(layers).extents == (5, 3)
    result = measure(layers)
    assert result.errors.exact["whole"].max < 1e-12
    assert result.control.interpolated["whole"].mean > 0.5


def test_the_group_convolution_is_the_one_that_reads_the_lifted_features() -> None:
    layers = [LiftingConv2d(1, 2, 3, group="C4"), GroupConv2d(5, 2, 3, group="C4"), GroupConv2d(2, 2, 3, group="C4")]
    assert layers_of(nn.Sequential(*layers), "mine").names == ("0", "2")


def test_a_plain_cnn_is_read_as_blocks_and_is_off_by_order_one() -> None:
    layers = layers_of(create("resnet18"), "resnet18")
    assert not layers.promised
    assert layers.names == ("net.conv1", "net.layer1.0.conv1")
    result = measure(layers)
    assert (result.group, result.control, result.findings) == ("C8", None, ())
    assert result.errors.exact["whole"].mean > 0.5 and result.errors.interpolated["whole"].mean > 0.5
    assert result.control_response_difference is None and result.angles[0].control is None
    assert headline(result).startswith("resnet18 is a plain CNN and promises nothing: its error is")
    assert f"{result.errors.exact['whole'].mean:.3f} on average at 3 exact elements" in headline(result)


def test_channels_that_fill_no_block_are_left_out() -> None:
    network = create("cnn")  # a network over the trivial group: 13 and 26 channels
    layers = layers_of(network, "cnn", group="D3")
    assert layers.features == (2, 4)
    assert layers.names[0] == "lift (the first 12 of its 13 channels)"
    np.testing.assert_array_equal(layers.lifting.weight, network.lift.bank()[:12].detach())
    np.testing.assert_array_equal(layers.convolution.weight, network.conv2.bank()[:24, :12].detach())
    beside = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3))
    assert layers_of(beside, "x").names == ("0", "2")
    biased = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 4, 3))
    np.testing.assert_array_equal(layers_of(biased, "x", group="C4").lifting.bias, biased[0].bias[:4].detach())


def broken(channels: int = 8) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, channels, 3), nn.Conv2d(channels, channels, 3))
    network[0].weight.data[0, 0, 0, 0] = torch.nan
    return network


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: untrained("C65"), r"group: expected at most 64 elements, got 65 \(C65\); nearest: C64"),
        (lambda: untrained("D33"), r"group: expected at most 64 elements, got 66 \(D33\); nearest: D32"),
        (lambda: layers_of(create("se2cnn", group="C4"), "net", "C8"), "group: expected C4, that of net, got C8"),
        (
            lambda: layers_of(nn.Sequential(LiftingConv2d(1, 2, 3, group="C4")), "net"),
            "net: expected a group convolution on C4 that reads the 2 features of 0, found none",
        ),
        (
            lambda: layers_of(nn.Sequential(nn.Linear(2, 2)), "net"),
            "net: expected a network with two .* no convolution",
        ),
        (lambda: layers_of(nn.Sequential(nn.Conv2d(1, 8, 3)), "net"), "net: expected a network .* found no such pair"),
        (
            lambda: layers_of(broken(4), "net"),
            r"group: expected at most 4 elements, the channels of net, .* got 8 \(C8\); nearest: C4",
        ),
        (lambda: measure(layers_of(broken(), "net")), "net: expected finite weights"),
    ],
    ids=[
        "too large",
        "too large, mirrors",
        "other group",
        "lifting only",
        "no convolution",
        "one",
        "few",
        "not finite",
    ],
)
def test_what_cannot_be_tested_says_so(call: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()


def test_the_seed_decides_everything() -> None:
    assert measure(untrained("C4", seed=1), seed=1) == measure(untrained("C4", seed=1), seed=1)
    assert measure(untrained("C4", seed=1), seed=1) != measure(untrained("C4", seed=1), seed=2)
    assert not untrained("C4", seed=1).lifting.bank().equal(untrained("C4", seed=2).lifting.bank())


# What is shown


def written(layers: Layers, folder: Path) -> tuple[CovarianceResult, Page, str]:
    result = measure(layers)
    write_covariance(result, picture(layers), folder)
    source = (folder / "covariance.html").read_text(encoding="utf-8")
    return result, Page(source), source


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    result, page, source = written(untrained("C8"), tmp_path / "deep" / "out")
    folder = tmp_path / "deep" / "out"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "covariance.html", "covariance.json"])
    assert list(shown(result)) == FILES
    for name in FILES:
        with Image.open(folder / name) as image:
            assert image.width == 750 and image.height > 150
            pixels = np.asarray(image.convert("RGB")).astype(int)
        inked = (pixels < 230).any(2).mean()
        assert inked > (0.02 if name == "5-responses.png" else 0.15), name
        if "kernels" in name:
            assert (np.ptp(pixels, axis=2) > 60).mean() > 0.05  # red and blue
    assert load_json(CovarianceResult, folder / "covariance.json") == result
    assert len(page.all("figure")) == len(page.all("summary")) == 5
    assert len(page.all("table")) == 5 + 6
    assert [svg["role"] for svg in page.all("svg") if "role" in svg] == ["img"] * 5
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("href", "src")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not page.all("script")
    assert headline(result) in page.text
    assert "prefers-color-scheme: dark" in source


def test_strings_of_the_user_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>$a_b$"
    _, page, source = written(replace(untrained("C4"), label=hostile, names=(hostile, hostile)), tmp_path)
    assert not page.all("script")
    assert "<script" not in source
    assert hostile in page.text


@pytest.mark.parametrize(
    "make",
    [
        lambda: untrained("Z2"),
        lambda: untrained("C3"),
        lambda: untrained("D12", features=(1, 1)),
        lambda: untrained("C4", kernel_size=1),
        lambda: layers_of(create("resnet18"), "resnet18"),
    ],
    ids=["Z2", "C3", "D12", "findings", "plain"],
)
def test_every_case_has_its_page_and_fits_a_terminal(make: object, tmp_path: Path) -> None:
    layers = make()
    result, page, _ = written(layers, tmp_path)
    assert len(page.all("figure")) == 5
    assert all(finding.message in page.text for finding in result.findings)
    assert ("was read as if" in page.text or "were read as if" in page.text) is not layers.promised
    console = Console(width=80, record=True, file=open(tmp_path / "out.txt", "w"))  # noqa: SIM115
    console.print(covariance_table(result, Path("covariance")))
    text = console.export_text()
    console.file.close()
    assert "…" not in text
    assert all(f"covariance/{name}" in text for name in [*FILES, "covariance.html"])
    assert all(e.name in text for e in result.errors.elements)


@pytest.mark.parametrize("brief", [False, True], ids=["page", "terminal"])
def test_the_summary_has_a_cell_for_every_column(c8: CovarianceResult, brief: bool) -> None:
    table = summary(c8, brief)
    assert len(table.rows) == 6
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [name in table.columns for name in ("relative mean", "relative max", "control max")] == [
        True,
        not brief,
        True,
    ]


def test_every_picture_says_its_number(tmp_path: Path) -> None:
    result, page, _ = written(untrained("C8", basis="pixel"), tmp_path)
    result = json.loads((tmp_path / "covariance.json").read_text())
    assert "Energy of all of them: 36 % to 100 % of that at the identity." in page.text
    assert "Over the exact elements: largest difference 0 (of the largest value)." in page.text
    assert f"of a plain CNN {result['control_response_difference']:.3f}." in page.text


def test_the_module_is_public() -> None:
    import roteq

    assert roteq.covariance is covariance
