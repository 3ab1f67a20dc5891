"""Small pictures with masks: bright discs on noise, as `roteq prepare` takes and leaves them."""

from pathlib import Path

import numpy as np
from PIL import Image

from roteq.data import PrepareOptions, prepare


def disc_picture(generator, height, width, discs=6, radius=5):
    """(uint8 picture, uint8 mask of 0 and 255, centres (n, 2))."""
    centres = np.stack([generator.uniform(0, side - 1, discs) for side in (height, width)], 1)
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for y, x in centres:
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    picture = generator.normal(90 + 70 * mask, 25).clip(0, 255)
    return picture.astype(np.uint8), (255 * mask).astype(np.uint8), centres


def write_discs(root: Path, number=8, size=(48, 56), seed=0) -> Path:
    """A source of images and masks; sizes differ from picture to picture."""
    generator = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(number):
        picture, mask, _ = disc_picture(generator, size[0] + i % 3, size[1])
        Image.fromarray(picture).save(root / "images" / f"{i:02d}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02d}.png")
    return root


def prepared_discs(root: Path, **options) -> Path:
    """Prepared: 4 images to train, 2 to validate, 2 to test."""
    write_discs(root / "raw")
    chosen = {"mode": "grey", "shares": (0.5, 0.25, 0.25), "class_names": {"0": "ground", "255": "disc"}, "workers": 1}
    prepare(root / "raw", root / "data", PrepareOptions(**{**chosen, **options}))
    return root / "data"
