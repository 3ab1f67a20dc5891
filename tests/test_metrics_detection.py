from itertools import permutations

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score

from roteq.metrics.detection import find_peaks, match
from roteq.metrics.maps import DETECTION, IGNORE, count_map, evaluate_maps
from roteq.results import Interval


def discs(centres: list[tuple[float, float]], side: int = 60, radius: float = 4, height: float = 0.98) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    near = [np.hypot(y - a, x - b) <= radius for a, b in centres]
    return np.where(np.any(near, axis=0), height, 0.01) if near else np.full((side, side), 0.01)


def scores_of(scores: np.ndarray, centres: object, **more: object) -> dict[str, float | None]:
    labels = more.pop("labels", np.zeros(scores.shape, int))
    counts = count_map(np.stack([1 - scores, scores]), labels, centres=centres, **more)
    found = evaluate_maps([counts], ["rest", "nucleus"], bootstrap=0).metrics
    return {name.removeprefix("detection_"): found[name].value for name in DETECTION}


PLACES = [(10.0, 10.0), (10.0, 30.0), (31.0, 12.0), (45.0, 47.0), (20.0, 50.0), (1.0, 57.0), (59.0, 0.0)]


def test_perfect_discs_are_found_at_their_centres() -> None:
    places, heights = find_peaks(discs(PLACES), radius=6)
    strong = heights >= 0.5
    apart = cdist(PLACES, places[strong]).min(1)
    assert apart[:5].max() == 0
    assert apart[5:].max() < 2.5  # discs that the border of the image cuts
    assert strong.sum() == len(PLACES)
    assert scores_of(discs(PLACES), PLACES) == {"precision": 1, "recall": 1, "f1": 1, "average_precision": 1}


@pytest.mark.parametrize(
    ("found", "there", "precision", "recall"),
    [
        (PLACES, PLACES[:5], 5 / 7, 1),
        (PLACES[:4], PLACES, 1, 4 / 7),
        (PLACES[:4], PLACES[4:], 0, 0),
        (PLACES, [], 0, None),
        ([], PLACES, None, 0),
        ([(10, 17)], [(10, 10)], 0, 0),
        ([(10, 15)], [(10, 10)], 1, 1),
        ([(30, 30)], [(28, 30), (32, 30)], 1, 0.5),
        ([(30, 26), (30, 34)], [(30, 30)], 0.5, 1),
    ],
    ids=["too many", "too few", "elsewhere", "no centres", "nothing", "too far", "near", "two for one", "one for two"],
)
def test_precision_and_recall_count_matches(
    found: list[tuple[float, float]], there: list[tuple[float, float]], precision: float | None, recall: float | None
) -> None:
    got = scores_of(discs(found, radius=3), there)
    assert (got["precision"], got["recall"]) == (precision, recall)
    right = 0 if not precision else round(precision * len(found))
    assert got["f1"] == pytest.approx(2 * right / (len(found) + len(there)))


def test_no_two_peaks_lie_within_the_radius_and_none_could_be_added() -> None:
    scores = ndimage.gaussian_filter(np.random.default_rng(0).random((80, 70)), 1)
    places, heights = find_peaks(scores, radius=5)
    apart = cdist(places, places) + 99 * np.eye(len(places))
    assert apart.min() > 5
    assert np.all(np.diff(heights) <= 0)
    smooth = ndimage.gaussian_filter(scores, 5 / 3)
    y, x = np.mgrid[:80, :70]
    for (a, b), height in zip(places, heights, strict=True):
        assert height == smooth[np.hypot(y - a, x - b) <= 5].max()
    assert len(places) > 20


def test_a_flat_map_has_one_peak_in_its_middle() -> None:
    for value in (0.0, 0.7, 1.0):
        places, heights = find_peaks(np.full((21, 31), value), radius=4)
        assert places.tolist() == [[10, 15]]
        assert heights == pytest.approx([value])


def test_two_equal_tops_within_the_radius_are_one_peak() -> None:
    scores = np.zeros((20, 20))
    scores[10, 8] = scores[10, 12] = 1
    places, _ = find_peaks(scores, radius=4)
    assert len(places[np.abs(places - 10).max(1) <= 3]) == 1
    corners = np.zeros((40, 40))  # each corner of a square is near two others; the fourth stays with the first
    corners[np.ix_([18, 22], [18, 22])] = 1
    places, heights = find_peaks(corners, radius=4)
    assert places[heights > 0.01].tolist() == [[18, 18], [22, 22]]


def test_one_half_is_a_detection() -> None:
    assert scores_of(np.full((9, 9), 0.5005), [(4, 4)])["recall"] == 1
    assert scores_of(np.full((9, 9), 0.5005), [])["precision"] == 0
    assert scores_of(np.full((9, 9), 0.4995), [(4, 4)])["recall"] == 0
    assert scores_of(np.full((9, 9), 0.4995), [])["precision"] is None


def test_each_centre_is_found_once_by_the_highest_peak_first() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        peaks, centres = generator.uniform(0, 40, (30, 2)), generator.uniform(0, 40, (20, 2))
        found = match(peaks, centres, 6)
        for n in (1, 7, 19):  # lower peaks change nothing
            assert match(peaks[:n], centres, 6).tolist() == found[:n].tolist()
        distances = np.where(cdist(peaks, centres) <= 6, 0.0, 1.0)
        largest = (distances[linear_sum_assignment(distances)] == 0).sum()
        assert largest / 2 <= found.sum() <= largest
        for order in (generator.permutation(20), np.arange(20)[::-1]):
            assert match(peaks, centres[order], 6).tolist() == found.tolist()


def test_greedy_is_best_where_no_two_centres_are_in_reach() -> None:
    centres = np.array([[0.0, 0], [0, 20], [20, 0]])
    for order in permutations([[0.0, 3], [0, 18], [19, 1], [9, 9]]):
        assert match(np.array(order), centres, 5).sum() == 3
    assert match(np.array([[0.0, 6.0]]), np.array([[0.0, 0.0]]), 6).tolist() == [True]
    assert match(np.empty((0, 2)), centres, 5).shape == (0,)
    assert match(centres, np.empty((0, 2)), 5).tolist() == [False] * 3


def test_average_precision_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    places = [(y, x) for y in range(12, 240, 24) for x in range(12, 240, 24)]
    real = generator.random(len(places)) < 0.4
    heights = np.clip(generator.normal(0.35 + 0.3 * real, 0.15), 0.05, 0.97)
    scores = np.zeros((240, 240))
    for (y, x), height in zip(places, heights, strict=True):
        scores[y - 4 : y + 5, x - 4 : x + 5] = height
    got = scores_of(scores, [p for p, r in zip(places, real, strict=True) if r], radius=4.0)
    assert got["average_precision"] == pytest.approx(average_precision_score(real, heights), abs=2e-3)
    chosen = ndimage.gaussian_filter(scores, 4 / 3)[tuple(np.transpose(places))] >= 0.5
    assert got["precision"] == pytest.approx((real & chosen).sum() / chosen.sum())
    assert got["recall"] == pytest.approx((real & chosen).sum() / real.sum())


def test_missed_centres_lower_the_average_precision() -> None:
    assert scores_of(discs(PLACES[:3]), PLACES)["average_precision"] == pytest.approx(3 / 7, abs=0.02)


def test_peaks_and_centres_on_ignored_pixels_do_not_count() -> None:
    labels = np.zeros((60, 60), int)
    labels[:, 40:] = IGNORE
    got = scores_of(discs(PLACES[:5]), PLACES, labels=labels)
    assert (got["precision"], got["recall"]) == (1, 3 / 4)
    outside = scores_of(discs([(0, 20)]), [(-0.9, 20.0)])
    assert (outside["precision"], outside["recall"]) == (1, 1)


def test_detections_of_images_are_pooled_with_intervals() -> None:
    images = [(PLACES[:k], PLACES) for k in (2, 3, 4, 5, 7)] + [([], []), (PLACES, PLACES[:6])]
    counts = []
    for found, there in images:
        scores = discs(found, radius=3)
        counts.append(count_map(np.stack([1 - scores, scores]), np.zeros((60, 60), int), centres=there))
    metrics = evaluate_maps(counts, "ab", bootstrap=300).metrics
    right, peaks, centres = 2 + 3 + 4 + 5 + 7 + 6, 2 + 3 + 4 + 5 + 7 + 7, 5 * 7 + 6
    assert metrics["detection_precision"].value == right / peaks
    assert metrics["detection_recall"].value == right / centres
    assert metrics["detection_f1"].value == pytest.approx(2 * right / (peaks + centres))
    for name in DETECTION:
        assert metrics[name].low < metrics[name].value <= metrics[name].high, name
    nothing = evaluate_maps(counts[5:6], "ab", bootstrap=0).metrics
    assert all(nothing[name] == Interval(None) for name in DETECTION)
