"""Synthetic tissue: patches that look like H&E at a glance, in the layout of the Kaggle cancer-detection data.

For demonstrations and tests, where the truth is known. Label 1 iff tumour nuclei lie in the centre 32x32. A tumour
nucleus is a crescent, a normal one nearly straight. Bending is a shear along the nucleus, (p, q) -> (p, q + f(p)):
it keeps the area and every value inside; number, size, stain, place and direction have one law for both classes. So
colour says nothing and shape says all. Every ingredient is isotropic: turned by a uniform angle, or placed by its
distance from the centre. Nuclei lie along the fibres of their patch, so a patch shows one direction, the next another.
"""

import csv
import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track
from scipy.ndimage import gaussian_filter

from ..errors import RoteqError, UsageError

VERSION = 1  # of the pictures: raise it when they change, so that an old set is not taken for the new one
TUMOUR_SHARE = 0.4  # as on Kaggle (40.5 %)
CORE = 12.0  # radius about the centre that holds 1 to 6 nuclei in every patch; their class is the label
TUMOUR_EDGE = (20.0, 80.0)  # label 1: nuclei within such a radius are tumour
NORMAL_EDGE = (40.0, 110.0)  # label 0: those beyond; from 40 on, no pixel of one reaches the centre 32x32
REACH = 11  # half the window in which a nucleus is drawn
MARGIN = REACH + 8  # pixels around the patch where windows may lie
NORMAL_BEND = 0.2  # standard deviation of the bend of a normal nucleus
GRADE = (0.6, 2.2)  # range of the mean bend of the tumour nuclei of a patch: from hard to plain
SPREAD = 0.3  # standard deviation of single nuclei about it
MOST_BEND = 2.2
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])  # optical densities of the stains (Ruifrok and Johnston 2001)
EOSIN = np.array([0.10, 0.95, 0.28])
TILE = 512

Array = np.ndarray


@dataclass(frozen=True)
class Stain:
    """How one slide was stained."""

    vectors: Array  # (2, 3) optical density of a unit of haematoxylin and of eosin
    light: Array  # (3,) white of the slide, 0..255


def synthetic_tissue(
    out: str | Path,
    *,
    patches: int = 1200,
    size: int = 96,
    slides: int = 24,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write train/<id>.tif, train_labels.csv (id,label), train_groups.csv (id,group) and synthetic.json into `out`.

    40 % of the patches of each slide have label 1. The same arguments give the same files. `out` appears when it is
    whole; a set with the same arguments that is already there is left alone.
    Raises: UsageError if `out` holds anything else or an argument is out of range, RoteqError if it cannot be written.
    """
    out = Path(out).resolve()
    recipe = {"patches": patches, "size": size, "slides": slides, "seed": seed, "version": VERSION}
    if size < 64:
        raise UsageError(f"synthetic tissue: size: expected at least 64 pixels, got {size}")
    if slides < 1 or patches < 2 * slides:
        raise UsageError(
            f"synthetic tissue: expected 1 or more slides and 2 or more patches in each, got {patches} in {slides}"
        )
    if _is_whole(out, recipe):
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds something else than this set of synthetic tissue; choose a new folder")
    partial = out.with_name(f".{out.name}.partial")  # left by a killed run, if it is there
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "train").mkdir(parents=True)
        rows = _write_patches(partial / "train", recipe, progress)
        _write_csv(partial / "train_labels.csv", ("id", "label"), [(key, label) for key, label, _ in rows])
        _write_csv(partial / "train_groups.csv", ("id", "group"), [(key, slide) for key, _, slide in rows])
        (partial / "synthetic.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise RoteqError(f"{out}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _is_whole(out: Path, recipe: dict[str, int]) -> bool:
    try:
        same = json.loads((out / "synthetic.json").read_text(encoding="utf-8")) == recipe
        with (out / "train_labels.csv").open(encoding="utf-8") as labels:
            keys = [row["id"] for row in csv.DictReader(labels)]
    except (OSError, ValueError, KeyError):
        return False
    return (
        same and (out / "train_groups.csv").is_file() and all((out / "train" / f"{key}.tif").is_file() for key in keys)
    )


def _write_csv(path: Path, header: tuple[str, str], rows: list[tuple[str, object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.write_text(text.getvalue(), encoding="utf-8")


def _write_patches(folder: Path, recipe: dict[str, int], progress: bool) -> list[tuple[str, int, str]]:
    """One (id, label, slide) for each patch; each patch has its own generator, so none depends on another."""
    patches, slides, seed = recipe["patches"], recipe["slides"], recipe["seed"]
    shared = np.random.default_rng([seed, 0])
    tile = smooth_noise(shared, TILE, 8.0)
    stains = [draw_stain(shared) for _ in range(slides)]
    labels = np.zeros(patches, int)
    for slide in range(slides):
        members = np.arange(slide, patches, slides)
        labels[shared.permutation(members)[: round(TUMOUR_SHARE * len(members))]] = 1
    rows = []
    for i in track(range(patches), "synthetic tissue", disable=not progress):
        key = hashlib.sha1(f"roteq {seed} {i}".encode()).hexdigest()
        picture = draw_patch(
            np.random.default_rng([seed, 1, i]), int(labels[i]), recipe["size"], stains[i % slides], tile
        )
        buffer = io.BytesIO()  # Pillow writes a TIFF piece by piece: straight to a file takes five times as long
        Image.fromarray(picture).save(buffer, "TIFF")
        (folder / f"{key}.tif").write_bytes(buffer.getvalue())
        rows.append((key, int(labels[i]), f"slide{i % slides:02d}"))
    return rows


def smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> Array:
    """A periodic isotropic Gaussian field of unit variance, (size, size) float32."""
    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (field / field.std()).astype(np.float32)


def draw_stain(rng: np.random.Generator) -> Stain:
    strength = rng.uniform(0.8, 1.25, (2, 1)) * np.array([[1.0], [0.42]])
    vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.05, (2, 3))
    light = rng.uniform(236, 250) + rng.uniform(-3, 3, 3)
    return Stain((strength * np.clip(vectors, 0.03, None)).astype(np.float32), light.astype(np.float32))


def draw_patch(rng: np.random.Generator, label: int, size: int, stain: Stain, tile: Array) -> Array:
    """One patch, (size, size, 3) uint8."""
    y, x = np.mgrid[:size, :size].astype(np.float32) - np.float32((size - 1) / 2)
    angle = rng.uniform(0, 2 * np.pi)  # of the fibres
    gap = _gaps(rng, x, y, tile)
    stroma = _stroma(rng, x, y, angle, tile) * (1 - gap)
    nuclei, halo = _nuclei(rng, label, angle, gap, tile)
    dye = np.stack([np.maximum(nuclei, 0.08 * stroma), stroma * (1 - 0.45 * halo)], -1)
    dye = gaussian_filter(dye, (*[rng.uniform(0.35, 0.7)] * 2, 0), truncate=3)
    picture = stain.light * np.exp(-(dye @ stain.vectors)) + 3 * rng.standard_normal((size, size, 3), dtype=np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _sample(rng: np.random.Generator, tile: Array, u: Array, v: Array) -> Array:
    """The periodic tile at coordinates (u, v) plus a random offset. The tile is isotropic, so only u and v can carry
    a direction; it is smooth, so the nearest sample will do."""
    du, dv = 100 * TILE + rng.uniform(0, TILE, 2).astype(np.float32)
    return tile[(u + du).astype(np.int32) % TILE, (v + dv).astype(np.int32) % TILE]


def _turned(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _gaps(rng: np.random.Generator, x: Array, y: Array, tile: Array) -> Array:
    """White holes, 0 to 1; none over the centre, where they could hide what decides the label."""
    u, v = _turned(x, y, rng.uniform(0, 2 * np.pi))
    field = _sample(rng, tile, u * 0.8, v * 0.8) - 4 * np.exp(-(x**2 + y**2) / np.float32(2 * 14**2))
    return np.clip((field - np.float32(rng.uniform(0.9, 2.6))) * 5, 0, 1)


def _stroma(rng: np.random.Generator, x: Array, y: Array, angle: float, tile: Array) -> Array:
    """Eosin of wavy fibres along `angle`: the tile stretched along them and squeezed across."""
    along, across = _turned(x, y, angle)
    low, high = (2, 0.2, 3, 0.7, 0.12), (7, 0.6, 6, 1.0, 0.3)
    wave, stretch, squeeze, level, contrast = rng.uniform(low, high).astype(np.float32)
    across = across + wave * _sample(rng, tile, along * np.float32(0.3), across * np.float32(0.3))
    return np.clip(level + contrast * _sample(rng, tile, along * stretch, across * squeeze), 0.15, None)


def _places(rng: np.random.Generator, gap: Array) -> tuple[Array, int]:
    """Middles (n, 2) of nuclei relative to the centre, no two too close; and how many of them, the first, are core."""
    size = len(gap)
    radius, turn = CORE * np.sqrt(rng.uniform(0, 1, 20)), rng.uniform(0, 2 * np.pi, 20)
    core = np.stack([radius * np.sin(turn), radius * np.cos(turn)], 1)
    field = rng.uniform(-size / 2 - 6, size / 2 + 6, (rng.integers(30, 140) * size**2 // 96**2, 2))
    row, column = np.clip(field + size / 2, 0, size - 1).astype(int).T
    field = field[((field**2).sum(1) > CORE**2) & (gap[row, column] < 0.2)]
    points = np.concatenate([core, field])
    near = ((points[:, None] - points[None]) ** 2).sum(2) < rng.uniform(9.0, 11.0) ** 2
    blocked, kept = np.zeros(len(points), bool), list[int]()
    wanted = int(rng.integers(4, 7))
    for i in range(len(points)):
        if not blocked[i] and (i >= len(core) or len(kept) < wanted):
            kept.append(i)
            blocked |= near[i]
    return points[kept], sum(i < len(core) for i in kept)


def _nuclei(rng: np.random.Generator, label: int, angle: float, gap: Array, tile: Array) -> tuple[Array, Array]:
    """Haematoxylin of all nuclei, and the pale halo around them, each of the shape of `gap`. The label decides the bend
    and nothing else: it does not even change what is drawn from `rng` afterwards."""
    places, core = _places(rng, gap)
    n = len(places)
    tumour = (np.hypot(*places.T) <= rng.uniform(*(TUMOUR_EDGE if label else NORMAL_EDGE))) == bool(label)
    lymphocyte = (np.arange(n) >= core) & (rng.uniform(0, 1, n) < rng.uniform(0, 0.35))
    grade = rng.uniform(*GRADE) + SPREAD * rng.standard_normal(n)
    bend = np.where(tumour, grade * rng.choice([-1, 1], n), NORMAL_BEND * rng.standard_normal(n))
    bend = np.where(lymphocyte, 0, np.clip(bend, -MOST_BEND, MOST_BEND))
    area = np.where(lymphocyte, 0.6, 1) * rng.uniform(18, 30, n)  # over pi
    ratio = np.where(lymphocyte, 1.1, rng.uniform(1.8, 2.6, n))
    depth = np.where(lymphocyte, 1.25, rng.uniform(0.7, 1.05, n))
    turn = angle + rng.normal(0, 0.35, n)
    long, short = np.sqrt(area * ratio), np.sqrt(area / ratio)

    middles = places + (len(gap) - 1) / 2
    steps = np.arange(-REACH, REACH + 1)
    rows = np.rint(middles[:, 0]).astype(int)[:, None, None] + steps[:, None]  # (n, w, 1)
    columns = np.rint(middles[:, 1]).astype(int)[:, None, None] + steps  # (n, 1, w)
    level = _levels(rows - middles[:, 0, None, None], columns - middles[:, 1, None, None], turn, long, short, bend)
    chromatin = tile[(7 * rows) % TILE, (7 * columns) % TILE]
    rim = np.clip(1 - np.abs(level - np.float32(0.88)) * 5, 0, 1)
    body = np.clip((np.float32(1.06) - level) * 4, 0, 1) * depth.astype(np.float32)[:, None, None]
    dye = body * (np.float32(0.72) + np.float32(0.1) * chromatin + np.float32(0.35) * rim)
    pale = np.clip((np.float32(1.5) - level) * 2, 0, 1)

    side = len(gap) + 2 * MARGIN
    where = ((rows + MARGIN) * side + columns + MARGIN).ravel()
    layers = np.zeros((2, side * side), np.float32)
    np.maximum.at(layers[0], where, dye.ravel())
    np.maximum.at(layers[1], where, pale.ravel())
    nuclei, halo = layers.reshape(2, side, side)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return nuclei, halo


def _levels(dy: Array, dx: Array, turn: Array, long: Array, short: Array, bend: Array) -> Array:
    """Radius in bent, turned and scaled coordinates of windows around nuclei, 1 on the outline: (n, w, w) float32."""
    c, s, long, short, bend = (
        v.astype(np.float32)[:, None, None] for v in (np.cos(turn), np.sin(turn), long, short, bend)
    )
    dy, dx = dy.astype(np.float32), dx.astype(np.float32)
    p, q = (c * dx + s * dy) / long, (c * dy - s * dx) / short
    q -= bend * (p**2 - np.float32(0.25))  # the shear; 1/4 is the mean of p^2 over the disc, so the middle stays
    return np.sqrt(p**2 + q**2)
