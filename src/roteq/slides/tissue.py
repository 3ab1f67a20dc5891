"""Where a slide has tissue, from a picture of the whole slide a few thousand pixels wide.

Tissue is coloured, glass is not: Otsu's threshold (1979) on the colour of a pixel, its largest optical density less its
smallest, after a slight blur; on the square root, which evens the spread of pale and dark tissue. It is kept between
FAINTEST, or an empty slide would be cut at its noise, and PALE, or pale tissue would be lost beside dark. Black is what
was not scanned. A blue, green or black pen is told from the stains; a red one has the hue of eosin and stays.
"""

import math
from dataclasses import dataclass

import numpy as np

from .opening import Slide

BLUR = 1.5  # pixels of the picture
FAINTEST, PALE = 0.035, 0.06  # optical density: less is never tissue, more always
SPECK = 2e-5  # share of the picture: smaller pieces and holes are dropped
BLACK = 0.9  # optical density of the brightest channel, and darker: some scanners' background, or a black pen
INK = 0.12  # optical density: how much more red than green a pen takes away; no stain does


@dataclass(frozen=True)
class Tissue:
    """mask: bool (h, w) over the whole slide. downsample: pixels of level 0 along the side of one of its pixels."""

    mask: np.ndarray
    downsample: float


def tissue_mask(slide: Slide, longest: int = 2048) -> Tissue:
    """The tissue of a slide. What does not decode counts as tissue, so that it is tried, and reported, not passed over.

    An empty slide has none. Memory does not grow with the slide.
    """
    picture, unread = slide.overview(longest)
    return Tissue(find_tissue(picture) | unread, max(slide.size) / max(picture.shape[:2]))


def find_tissue(picture: np.ndarray) -> np.ndarray:
    """bool (h, w) of a picture, uint8 (h, w, 3).

    >>> glass = np.full((40, 40, 3), 243, np.uint8)
    >>> int(find_tissue(glass).sum())
    0
    >>> glass[10:30, 10:30] = (220, 150, 190)
    >>> int(find_tissue(glass)[12:28, 12:28].mean())
    1
    """
    from scipy import ndimage

    density = -np.log10((picture.astype(np.float32) + 1) / 256)
    density = ndimage.gaussian_filter(density, (BLUR, BLUR, 0))
    red, green = density[..., 0], density[..., 1]
    ink = (density.min(2) > BLACK) | (red - green > INK)
    colour = np.sqrt(density.max(2) - density.min(2))
    known = colour[~ink]
    if not len(known):
        return np.zeros(ink.shape, bool)
    mask = (colour > min(max(math.sqrt(FAINTEST), otsu(known)), math.sqrt(PALE))) & ~ink
    least = max(4, round(SPECK * mask.size))
    return ~without_specks(~without_specks(mask, least), least)


def otsu(values: np.ndarray) -> float:
    """The threshold that leaves the least variance on its two sides.

    >>> 0.1 < otsu(np.array([0.1] * 30 + [0.9] * 10)) < 0.9
    True
    """
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    total = (counts * middles).cumsum()
    means = total / np.maximum(below, 1), (total[-1] - total) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    best = np.flatnonzero(between == between.max())
    return float(edges[1:][best].mean())


def without_specks(mask: np.ndarray, least: int) -> np.ndarray:
    """Pieces of fewer than `least` pixels removed."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    large = np.bincount(labels.ravel(), minlength=count + 1) >= least
    large[0] = False
    return large[labels]
