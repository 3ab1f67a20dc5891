import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import mutual_info_score

from roteq.metrics.maps import IGNORE, count_map, evaluate_maps
from roteq.metrics.membranes import THRESHOLDS, count_membranes, membrane_scores, thinned


def make_cells(seed: int, side: int = 30, cells: int = 6) -> np.ndarray:
    """True inside the cells of a Voronoi picture with walls about three pixels wide."""
    points = np.random.default_rng(seed).uniform(0, side, (cells, 2))
    y, x = np.mgrid[:side, :side]
    distances = np.sort(np.hypot(y - points[:, 0, None, None], x - points[:, 1, None, None]), axis=0)
    return distances[1] - distances[0] > 2


def blurred(cells: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=cells.shape) * 0.9
    return np.clip(ndimage.gaussian_filter(cells + noise, 1), 0, 1)


def brute_force(truth: np.ndarray, answer: np.ndarray) -> tuple[float, float, float]:
    """Pairs of pixels (ordered, a pixel with itself too) that are together in both, in truth, in the answer."""
    names = list(zip(truth.tolist(), answer.tolist(), strict=True))
    together = np.zeros(3)
    for (a, b), (c, d) in itertools.product(names, names):
        together += [a == c and b == d, a == c, b == d]
    return tuple(together)


def segments_of(truth_cells: np.ndarray, answer_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the judged pixels in truth and answer, by definition: pixels of a line are alone."""
    truth, answer = thinned(truth_cells), thinned(answer_cells)
    judged = truth > 0
    alone = itertools.count(10_000)
    return truth[judged], np.array([label or next(alone) for label in answer[judged]])


def score(interior: np.ndarray, cells: np.ndarray, known: np.ndarray | None = None) -> list[float]:
    known = np.ones(cells.shape, bool) if known is None else known
    return membrane_scores(count_membranes(interior, cells, known)[None])[0].tolist()


def test_pairs_and_information_agree_with_brute_force() -> None:
    cells = make_cells(0, side=14, cells=4)
    interior = blurred(cells, 1)
    found = count_membranes(interior, cells, np.ones(cells.shape, bool))
    for t, threshold in enumerate(THRESHOLDS):
        truth, answer = segments_of(cells, interior > threshold)
        assert tuple(found[0, :, t]) == brute_force(truth, answer)
        n = len(truth)
        entropies = [-sum(m / n * np.log(m / n) for m in Counter(x.tolist()).values()) for x in (truth, answer)]
        np.testing.assert_allclose(found[1, :, t] / n, [mutual_info_score(truth, answer), *entropies], atol=1e-10)
    assert len({tuple(found[0, :, t]) for t in range(9)}) > 3


def test_thinning_meets_in_the_middle_and_keeps_cells_apart() -> None:
    cells = make_cells(3)
    lines = thinned(cells)
    again, number = ndimage.label(lines > 0)
    assert number == lines.max() == ndimage.label(cells)[1] > 3
    assert all(len(np.unique(again[lines == k])) == 1 for k in range(1, number + 1))
    assert (lines == 0).mean() < (~cells).mean() / 2
    middle = thinned(np.array([[True, False, False, False, False, False, True]]))
    assert middle.tolist() == [[1, 1, 1, 0, 2, 2, 2]]
    assert not thinned(np.zeros((3, 3), bool)).any()
    assert (thinned(np.ones((3, 3), bool)) == 1).all()


def test_a_perfect_map_scores_one_whatever_the_width_of_its_walls() -> None:
    cells = make_cells(1)
    assert score(cells * 1.0, cells) == pytest.approx([1, 1])
    thin = thinned(cells) > 0
    assert score(thin * 1.0, cells) == pytest.approx([1, 1], abs=0.01)
    assert score(1 - cells, cells)[0] < 0.7


def test_a_map_without_walls_merges_everything_and_one_of_walls_splits_it() -> None:
    cells = np.ones((10, 21), bool)
    cells[:, 10] = False
    rand, info = score(np.ones(cells.shape), cells)
    assert rand == pytest.approx(2 * 20_000 / (20_000 + 40_000))  # 100 + 100 pixels: 2 x 100^2 pairs of 200^2
    assert info == 0
    rand, info = score(np.zeros(cells.shape), cells)
    assert rand == pytest.approx(2 * 200 / (20_000 + 200))
    assert info == pytest.approx(2 * np.log(2) / (np.log(2) + np.log(200)))


def test_a_gap_in_the_wall_costs_much_and_a_shifted_wall_little() -> None:
    cells = np.ones((20, 21), bool)
    cells[:, 10] = False
    gap, shifted = np.ones(cells.shape), np.ones(cells.shape)
    gap[:19, 10] = 0
    shifted[:, 11] = 0
    assert score(gap, cells)[0] < 0.7
    assert 0.85 < score(shifted, cells)[0] < 1
    diagonal = 1.0 - np.eye(20)
    assert score(diagonal, diagonal > 0)[0] == 1  # 4-connected: a diagonal line is a wall


def test_a_set_takes_the_best_common_threshold() -> None:
    cells = make_cells(2)
    low, high = (np.where(cells, 1.0, wall) for wall in (0.25, 0.65))  # walls above a threshold are gaps
    both = [count_membranes(x, cells, np.ones(cells.shape, bool)) for x in (low, high)]
    assert membrane_scores((both[0] + both[1])[None])[0] == pytest.approx([1, 1])
    weak = np.where(cells, 0.5, 0.25)  # no wall is left at 0.2, no cell at 0.5
    pair = np.stack([both[1], count_membranes(weak, cells, np.ones(cells.shape, bool))])
    alone = membrane_scores(pair)
    assert alone == pytest.approx(np.ones((2, 2)))
    common = membrane_scores(pair.sum(0)[None])[0]
    assert (common < 0.95).all()
    sums = pair.sum(0)[0]
    assert common[0] == max(2 * sums[0] / (sums[1] + sums[2]))


def test_one_cell_has_no_information() -> None:
    cells = np.ones((5, 5), bool)
    assert score(np.ones((5, 5)), cells) == pytest.approx([1, np.nan], nan_ok=True)
    assert score(np.ones((5, 5)), np.zeros((5, 5), bool)) == pytest.approx([np.nan, np.nan], nan_ok=True)


def test_unlabelled_pixels_do_not_count() -> None:
    cells = make_cells(4)
    known = np.ones(cells.shape, bool)
    known[:, :12] = False
    interior = blurred(cells, 0)
    other = np.where(known, interior, np.random.default_rng(0).random(cells.shape))
    assert score(interior, cells, known) == score(other, cells | ~known, known) != score(interior, cells)


def test_the_class_of_the_membranes_may_be_any() -> None:
    cells = make_cells(5)
    interior = blurred(cells, 3)
    labels = np.where(cells, 1, 0)
    labels[:3] = IGNORE
    last, first = (
        count_map(maps, truth, boundary=boundary)
        for maps, truth, boundary in (
            (np.stack([interior, 1 - interior]), np.where(labels >= 0, 1 - labels, IGNORE), 1),
            (np.stack([1 - interior, interior]), labels, 0),
        )
    )
    np.testing.assert_allclose(last.membranes, first.membranes)
    expected = score(interior, cells, labels != IGNORE)
    found = evaluate_maps([last], ["cell", "membrane"], bootstrap=0).metrics
    assert [found[name].value for name in ("v_rand", "v_info")] == pytest.approx(expected)


def test_membranes_of_real_slices(shared: Path) -> None:
    files = sorted((shared / "isbi2012_em" / "labels").iterdir())[:2]
    truth = [(np.asarray(Image.open(file)) == 0)[:256, :256].astype(int) for file in files]
    noisy = [np.clip(ndimage.gaussian_filter(t * 1.0, 1), 0.01, 0.99) for t in truth]
    counts = [count_map(np.stack([1 - p, p]), t, boundary=1) for p, t in zip(noisy, truth, strict=True)]
    other = [
        count_map(np.stack([1 - p, p]), t, boundary=1) for p, t in zip([p[::-1] for p in noisy], truth, strict=True)
    ]
    good, bad = (evaluate_maps(c, ["cell", "membrane"], bootstrap=0).metrics for c in (counts, other))
    for name in ("v_rand", "v_info"):
        assert bad[name].value < 0.8 < 0.95 < good[name].value
