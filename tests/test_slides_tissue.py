"""Tissue is told from glass, pens, black and nothing."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import binary_dilation, gaussian_filter

from roteq.slides.opening import open_slide
from roteq.slides.synthetic import write_slide
from roteq.slides.tissue import find_tissue, otsu, tissue_mask, without_specks

SIDE = 400
EOSIN, PURPLE, PALE = (226, 150, 196), (110, 70, 140), (237, 214, 228)
INNER = np.zeros((SIDE, SIDE), bool)
INNER[100:300, 100:300] = True


def glass(light: tuple[int, int, int] = (243, 240, 241), noise: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(np.array(light) + noise * rng.standard_normal((SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def with_tissue(colour: tuple[int, int, int] = EOSIN) -> np.ndarray:
    picture = glass().astype(float)
    texture = 10 * gaussian_filter(np.random.default_rng(1).standard_normal((SIDE, SIDE, 1)), (2, 2, 0)) * 7
    picture[INNER] = (np.array(colour) + texture)[INNER]
    return np.clip(picture, 0, 255).astype(np.uint8)


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("colour", [EOSIN, PURPLE, PALE], ids=["eosin", "purple", "pale"])
def test_tissue_of_any_stain_is_found(colour: tuple[int, int, int]) -> None:
    assert overlap(find_tissue(with_tissue(colour)), INNER) > 0.95


def test_pale_tissue_is_found_beside_dark_tissue() -> None:
    picture = with_tissue((232, 190, 212))
    picture[100:300, 100:240] = (80, 30, 110)
    assert overlap(find_tissue(picture), INNER) > 0.95


@pytest.mark.parametrize(
    "picture",
    [
        glass((255, 255, 255), 0),
        glass(),
        glass((246, 241, 232), 3),
        glass((20, 20, 20)),
        glass((0, 0, 0), 0),
        glass((128, 128, 128)),
    ],
    ids=["white", "glass", "tinted glass", "dark", "black", "grey"],
)
def test_a_slide_without_tissue_has_none(picture: np.ndarray) -> None:
    assert not find_tissue(picture).any()


@pytest.mark.parametrize("ink", [(40, 60, 170), (30, 130, 80), (15, 15, 18)], ids=["blue", "green", "black"])
def test_a_pen_is_no_tissue(ink: tuple[int, int, int]) -> None:
    picture = with_tissue()
    picture[20:60, 20:380] = ink
    mask = find_tissue(picture)
    assert overlap(mask[80:], INNER[80:]) > 0.95
    assert mask[24:56, 24:376].mean() < 0.02
    assert mask[:80].mean() < 0.1  # its blurred rim may stay


def test_what_was_not_scanned_is_no_tissue() -> None:
    picture = with_tissue()
    picture[:80], picture[:, 340:] = 0, 0
    assert overlap(find_tissue(picture), INNER) > 0.9


def test_specks_and_holes_are_removed() -> None:
    picture = np.full((1500, 1500, 3), 242, np.uint8)
    picture[500:1000, 500:1000] = EOSIN
    picture[100:103, 100:103] = picture[1200:1203, 700:703] = EOSIN
    picture[700:705, 700:705] = 242
    mask = find_tissue(picture)
    assert not mask[:490].any() and not mask[1010:].any() and mask[510:990, 510:990].all()
    pieces = np.zeros((9, 9), bool)
    pieces[1, 1:4] = pieces[5:8, 5:8] = True
    assert without_specks(pieces, 4).sum() == 9 and without_specks(pieces, 3).sum() == 12


def test_otsu_leaves_the_least_variance() -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(0.1, 0.03, 4000), rng.normal(0.6, 0.1, 1000)])
    best = min(
        np.linspace(0.05, 0.7, 400),
        key=lambda t: sum(of.var() * len(of) for of in (values[values <= t], values[values > t])),
    )
    assert otsu(values) == pytest.approx(best, abs=0.01)
    assert otsu(np.zeros(9)) == pytest.approx(0, abs=1)


@pytest.mark.parametrize("longest", [300, 2048])
def test_the_mask_of_a_synthetic_slide_is_its_truth(longest: int, tmp_path: Path) -> None:
    plan = write_slide(tmp_path / "slide.tif", (1600, 2200))
    with open_slide(tmp_path / "slide.tif") as slide:
        found = tissue_mask(slide, longest)
    assert max(found.mask.shape) == longest and found.downsample == pytest.approx(2200 / longest)
    assert overlap(found.mask, plan.truth(found.downsample)[: len(found.mask)] > 0) > 0.95


def test_an_empty_slide_has_no_tissue(tmp_path: Path) -> None:
    write_slide(tmp_path / "slide.tif", (1500, 1500), tissue=0)
    with open_slide(tmp_path / "slide.tif") as slide:
        assert not tissue_mask(slide).mask.any()


def test_what_does_not_decode_counts_as_tissue(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, glass(), tile=(128, 128), compression="deflate", metadata=None)
    with tifffile.TiffFile(path) as file:
        start, length = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[start : start + length] = b"x" * length
    path.write_bytes(data)
    with open_slide(path) as slide:
        mask = tissue_mask(slide).mask
    bad = np.zeros((SIDE, SIDE), bool)
    bad[128:256, 128:256] = True
    assert mask[bad].all() and not mask[~binary_dilation(bad, iterations=130)].any()


@pytest.mark.parametrize(("name", "share"), [("cmu-1-small-region", 0.34), ("tcga-cr-7395-01a-01-ts1", 0.62)])
def test_the_tissue_of_real_slides(name: str, share: float, shared: Path) -> None:
    with open_slide(shared / "slides" / f"{name}.svs") as slide:
        mask = tissue_mask(slide, 1024).mask
    assert mask.mean() == pytest.approx(share, abs=0.03)  # outlines looked at once
