"""Slides that live in memory, and untrained networks to ask about them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roteq.errors import UsageError
from roteq.slides import reading, running
from roteq.slides.opening import BadRegion, Level
from roteq.training import Classifier


class FakeSlide:
    """An array (H, W, 3) as a slide; regions that touch a pixel of `broken` (y, x of level 0) do not decode."""

    def __init__(
        self, pixels: np.ndarray, *, mpp: float | None = 0.5, levels: int = 1, broken: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.pixels = [pixels[:: 4**i, :: 4**i] for i in range(levels)]
        self.size, self.mpp, self.broken = pixels.shape[:2], mpp, broken
        self.levels = tuple(Level(*p.shape[:2], 4.0**i) for i, p in enumerate(self.pixels))
        self.path = Path("fake.svs")
        self.notes: tuple[str, ...] = ()
        self.reads: list[tuple[int, int, int, int, int]] = []

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        self.reads.append((level, y, x, height, width))
        for row, column in self.broken:
            if y <= row < y + height and x <= column < x + width:
                raise BadRegion(f"level {level}: the region at y={y}, x={x} does not decode")
        have = self.pixels[level]
        rows, columns = (np.arange(start, start + n) for start, n in ((y, height), (x, width)))
        inside = np.ix_((rows >= 0) & (rows < have.shape[0]), (columns >= 0) & (columns < have.shape[1]))
        region = np.full((height, width, 3), 255, np.uint8)
        region[inside] = have[np.ix_(rows[inside[0].ravel()], columns[inside[1].ravel()])]
        return region

    def level(self, index: int) -> Level:
        if index >= len(self.levels):
            raise UsageError(f"fake: has no level {index}")
        return self.levels[index]

    def thumbnail(self, longest: int) -> np.ndarray:
        step = max(1, -(-max(self.size) // longest))
        return self.pixels[0][::step, ::step]

    def overview(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        picture = self.thumbnail(longest)
        return picture, np.zeros(picture.shape[:2], bool)

    def close(self) -> None:
        pass

    def __enter__(self) -> "FakeSlide":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def put(slide: FakeSlide, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str = "case.svs") -> Path:
    """Let whatever opens a slide get this one; its path."""
    path = folder / name
    path.write_bytes(b"x")
    slide.path = path
    for module in (running, reading):
        monkeypatch.setattr(module, "open_slide", lambda path, mpp=None: slide)
    return path


def tissue(height: int, width: int, seed: int = 0) -> np.ndarray:
    """White with a disc of purple noise."""
    generator = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 245, np.uint8)
    y, x = np.ogrid[:height, :width]
    inside = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.16
    pixels[inside] = generator.integers((100, 40, 110), (220, 180, 215), (int(inside.sum()), 3))
    return pixels


def network(
    name: str = "p4m_densenet",
    *,
    crop: int | None = None,
    classes: tuple[str, ...] = ("normal", "tumour"),
    mpp: float | None = 0.5,
    channels: int = 3,
    side: int = 96,
    kind: type[Classifier] = Classifier,
    **options: object,
) -> Classifier:
    """Untrained, with statistics that fit `tissue`."""
    torch.manual_seed(0)
    train = {"crop": crop} if crop else {}
    made = kind({"name": name, **options}, train, list(classes), channels, mpp)
    made.mean.fill_(150)
    made.std.fill_(50)
    made.seen.copy_(torch.tensor([0.0, 255.0, 150.0, 50.0]))
    if channels == 3:  # one look, so that the norms know what comes, and the answers differ
        pixels = torch.from_numpy(tissue(side, side)).movedim(2, 0)[None].float()
        for norm in made.network.modules():
            if hasattr(norm, "momentum"):
                norm.momentum = 1.0
        with torch.no_grad():
            made.train().answer(torch.cat((pixels, pixels * torch.linspace(0.5, 1, side))))
    return made.eval()
