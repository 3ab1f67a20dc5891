"""V-Rand and V-Info: does a map of membranes enclose the cells that are there?

Source: Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, alpha = 1/2: the foreground-restricted scores of the ISBI
2012 challenge. With n_ij the pixels of cell i of the truth in segment j of the answer, and n their sum,

    V-Rand = 2 sum n_ij^2 / (sum_i (sum_j n_ij)^2 + sum_j (sum_i n_ij)^2)
    V-Info = 2 I / (H(truth) + H(answer)),  I = H(truth) + H(answer) - H(both),  H of the shares n_ij / n

- Membranes are thinned to lines of one pixel, in truth and answer: the 4-connected components of what is no membrane
  are grown until they meet, each pixel going to the nearest, and where two meet the pixel above or to the left is the
  line. (The challenge thins both too; its own program may do it with other pixels.) For that choice a turned
  picture may differ in the third decimal.
- An answer is no membrane where 1 - p(membrane) > t. Pixels without a label are membrane in both.
- Only pixels in the truth's cells that have a label count, its lines do not ("foreground-restricted"). Each pixel of
  a line of the answer is a segment of its own there, and so is every pixel of an answer that is all membrane.
- Images are pooled: sum n_ij^2 and n H are added over them, so pairs of pixels of two images do not occur.
- t runs over 0.1, 0.2, ... 0.9. A set of images takes the one t that is best for the whole set, V-Rand and V-Info each
  its own, as in the challenge: t is chosen on the images that are judged. Resamples keep it: a resample of few groups
  would find one that suits these better, and the interval might leave the value out.
"""

import numpy as np

THRESHOLDS = tuple(k / 10 for k in range(1, 10))


def count_membranes(interior: np.ndarray, cells: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What one image adds to V-Rand and V-Info: (2, 3, thresholds).

    interior (H, W): 1 - p(membrane); cells (H, W): True where the truth is no membrane; known (H, W): False for pixels
    that do not count. First dimension Rand, information; second shared, of the truth, of the answer: squared pixels,
    or nats times pixels.

    >>> wall = np.array([[1.0, 1.0, 0.0, 1.0]])
    >>> membrane_scores(count_membranes(wall, wall > 0, wall >= 0)[None]).tolist()
    [[1.0, 1.0]]
    """
    found = np.zeros((2, 3, len(THRESHOLDS)))
    truth = thinned(cells & known)
    judged = known & (truth > 0)
    if judged.any():
        for t, threshold in enumerate(THRESHOLDS):
            answer = thinned((interior > threshold) & known)[judged]
            alone = answer == 0
            answer[alone] = answer.max() + 1 + np.arange(alone.sum())
            found[:, :, t] = _agreement(truth[judged], answer)
    return found


def thinned(cells: np.ndarray) -> np.ndarray:
    """The cells (H, W) of a mask, numbered from 1, with lines of one pixel, 0, between them; all 0 without a cell.

    >>> thinned(np.array([[True, True, False, False, False, True]])).tolist()
    [[1, 1, 1, 0, 2, 2]]
    """
    from scipy import ndimage

    labels, number = ndimage.label(cells)
    labels = labels.astype(np.int64)
    if number:
        nearest = ndimage.distance_transform_edt(~cells, return_distances=False, return_indices=True)
        labels = labels[tuple(nearest)]
    below, right = labels[:-1] != labels[1:], labels[:, :-1] != labels[:, 1:]
    labels[:-1][below] = 0
    labels[:, :-1][right] = 0
    return labels


def _agreement(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """(2, 3): shared, of the truth, of the answer; for Rand and for information."""
    both = truth * (answer.max() + 1) + answer
    sizes = [np.unique(codes, return_counts=True)[1].astype(np.float64) for codes in (both, truth, answer)]
    pairs = [float((n**2).sum()) for n in sizes]
    joint, *entropies = (truth.size * np.log(truth.size) - float((n * np.log(n)).sum()) for n in sizes)
    return np.array([pairs, [max(0.0, sum(entropies) - joint), *entropies]])


def at_best(tables: np.ndarray) -> np.ndarray:
    """(N, 2, 3, thresholds) of images -> (N, 2, 3, 1) at the thresholds that are best for all of them together."""
    sums = tables.sum(0)
    total = sums[:, 1] + sums[:, 2]
    best = np.divide(2 * sums[:, 0], total, out=np.zeros(total.shape), where=total > 0).argmax(-1)
    return np.take_along_axis(tables, best[None, :, None, None], 3)


def membrane_scores(sums: np.ndarray) -> np.ndarray:
    """V-Rand and V-Info (R, 2) of sums (R, 2, 3, thresholds) over images, the best of these; NaN: undefined."""
    shared, total = 2 * sums[:, :, 0], sums[:, :, 1] + sums[:, :, 2]
    scores = np.divide(shared, total, out=np.full(shared.shape, -np.inf), where=total > 0).max(-1)
    return np.where(np.isinf(scores), np.nan, scores)
