"""Which centres (nuclei, mitoses) does a probability map find?

A detection is a peak of the map, its score the height. Peaks are matched to centres one to one, the highest peak
first, each with the nearest centre within the radius that is still free. This greedy matching, unlike the largest
one, does not change for the higher peaks when lower ones are left out: one matching serves every threshold,
and with it average precision. No threshold is tuned: precision, recall and F1 are those at score 0.5.
"""

import numpy as np


def find_peaks(scores: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of scores (H, W): places (n, 2), rows (y, x), and falling heights (n,); none within radius of a higher one.

    The map is smoothed first, by a Gaussian of radius / 3: a network that is sure answers 1 all over a nucleus, and
    the peak would lie anywhere in it. Of a flat top the pixel next to its centroid is taken.

    >>> places, heights = find_peaks(np.pad([[1.0]], 4), radius=3)
    >>> places.tolist(), heights.round(2).tolist()
    ([[4.0, 4.0]], [0.16])
    """
    from scipy import ndimage
    from scipy.spatial import KDTree

    smooth = ndimage.gaussian_filter(scores.astype(np.float64), radius / 3)
    reach = np.arange(-int(radius), int(radius) + 1)
    disc = reach[:, None] ** 2 + reach**2 <= radius**2
    tops, number = ndimage.label(smooth == ndimage.maximum_filter(smooth, footprint=disc), np.ones((3, 3)))
    centroids = ndimage.center_of_mass(tops > 0, tops, np.arange(1, number + 1))
    pixels = np.argwhere(tops)
    nearest = pixels[KDTree(pixels).query(np.array(centroids))[1]]
    heights = smooth[tuple(nearest.T)]
    order = np.argsort(-heights, kind="stable")
    places, heights = nearest[order].astype(np.float64), heights[order]
    kept = np.ones(number, bool)
    near = KDTree(places).query_pairs(radius, output_type="ndarray")
    for higher, lower in near[np.lexsort(near.T[::-1])]:  # equal heights that no lower pixel joins
        kept[lower] &= not kept[higher]
    return places[kept], heights[kept]


def match(peaks: np.ndarray, centres: np.ndarray, radius: float) -> np.ndarray:
    """True for each of the peaks (n, 2), given highest first, that finds a centre (m, 2) within the radius.

    >>> match(np.array([[0.0, 0], [0, 1], [9, 9]]), np.array([[0.0, 2], [9, 8]]), radius=3).tolist()
    [True, False, True]
    """
    found = np.zeros(len(peaks), bool)
    free = np.ones(len(centres), bool)
    for i, peak in enumerate(peaks):
        distances = np.where(free, np.hypot(*(centres - peak).T), np.inf)
        if free.any() and distances.min() <= radius:
            free[distances.argmin()] = False
            found[i] = True
    return found
