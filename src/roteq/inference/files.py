"""The maps of pictures in files, as pictures in files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import open_folder
from ..data.images import BadImage, decode, fit
from ..errors import RoteqError
from ..files import atomic_path
from ..training import Segmenter
from .maps import predict_map


def map_files(
    segmenter: Segmenter, images: str | Path, out: str | Path, *, progress: bool = False
) -> list[dict[str, Any]]:
    """Write <id>-<class>.png for each image in `images` (one, or a folder of them, of any sizes) and each class but the
    first: its probability, 255 is 1. Returns a row for each image: its name, the share of its pixels that each class
    has, the files.

    Raises: UsageError if there is no image; RoteqError for one that cannot be decoded, after those before it.
    """
    listed = open_folder(images, channels=segmenter.channels)
    Path(out).mkdir(parents=True, exist_ok=True)
    rows = []
    pairs = list(zip(listed.ids, listed.paths, strict=True))
    for name, path in _track(pairs) if progress else pairs:
        chances = predict_map(segmenter, read_picture(path, segmenter.channels))
        files = [Path(out) / f"{name}-{label}.png" for label in segmenter.classes[1:]]
        for file, chance in zip(files, chances[1:], strict=True):
            _write_grey(file, (255 * chance).round().byte().numpy())
        shares = chances.argmax(0).flatten().bincount(minlength=len(chances)) / chances[0].numel()
        shared = {f"share({label})": float(share) for label, share in zip(segmenter.classes, shares, strict=True)}
        rows.append({"image": name, **shared, "files": [str(file) for file in files]})
    return rows


def read_picture(path: str | Path, channels: int) -> torch.Tensor:
    """One image of any size: uint8 (C, H, W). Raises: RoteqError if it cannot be decoded."""
    try:
        image, _ = decode(str(path))
        image = fit(image, crop=None, mode="grey" if channels == 1 else "rgb")
    except BadImage as bad:
        raise RoteqError(f"{path}: {bad}") from None
    pixels = np.array(image).reshape(image.height, image.width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _write_grey(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


def _track(pairs: list[tuple[str, str]]) -> Any:
    from rich.console import Console
    from rich.progress import track

    return track(pairs, "mapping", console=Console(stderr=True), transient=True)
