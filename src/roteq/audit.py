"""How a model's answers change when the picture is turned: any callable and a pile of images in, numbers out.

Exact elements (multiples of 90 degrees, mirrors) permute pixels. Every other angle t is a quarter turn times a
rotation by t mod 90, made by a cubic spline: what scipy.ndimage.rotate(order=3, mode="mirror") does, which loses far
less than torch's bicubic, but as one sparse matrix for all images, evaluated only where the crop will look. Resampling
on a square grid commutes with quarter turns, so 24 angles cost five interpolations, and five floors serve all of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from .config import Config
from .errors import RoteqError, UsageError
from .metrics.arrays import as_array, as_groups, as_labels
from .metrics.robustness import between_image_error, is_degenerate, turn_statistics
from .results import AuditResult, Turn

BATCH = 128  # images at a time, fewer where they are large
PIXELS = 1 << 24  # floats at a time (64 MiB)
MARGIN = 12  # pixels a spline coefficient still looks at: 0.268^12 = 1e-7


class AuditConfig(Config):
    """angles: equal steps of a full turn; images: how many are drawn (0: all); mirrors: mirror images too."""

    angles: int = Field(default=24, ge=1)
    images: int = Field(default=500, ge=0)
    mirrors: bool = True
    bootstrap: int = Field(default=200, ge=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0


@dataclass(frozen=True)
class Element:
    """Mirror left-right if `mirror`, then turn by `base` degrees (0 <= base < 90) and by `quarters` times 90."""

    mirror: bool
    quarters: int
    base: float = 0.0

    @property
    def angle(self) -> float:
        return 90 * self.quarters + self.base


def elements(config: AuditConfig) -> list[Element]:
    """The exact elements without the identity (3, or 7 with mirrors), then the angles that are not multiples of 90.

    >>> [e.angle for e in elements(AuditConfig(angles=8, mirrors=False))]
    [90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0]
    """
    exact = [Element(m, q) for m in ([False, True] if config.mirrors else [False]) for q in range(4) if m or q]
    steps = [i for i in range(config.angles) if 4 * i % config.angles]
    return exact + [Element(False, 4 * i // config.angles, 90 * (4 * i % config.angles) / config.angles) for i in steps]


def chosen_images(config: AuditConfig, number: int) -> np.ndarray:
    """Indices of the images drawn from `number`, in order; drawing again from the drawn ones keeps them all.

    >>> chosen_images(AuditConfig(images=3), 3), len(chosen_images(AuditConfig(images=3), 100))
    (array([0, 1, 2]), 3)
    """
    if not 0 < config.images < number:
        return np.arange(number)
    return np.sort(np.random.default_rng(config.seed).choice(number, config.images, replace=False))


def audit(
    predict: Callable[[Any], Any],
    images: Any,
    labels: Any = None,
    *,
    crop: int | None = None,
    config: AuditConfig | None = None,
    groups: Any = None,
    progress: bool = False,
) -> AuditResult:
    """Turn the images, ask the model again, and compare its answers with those to the upright images.

    predict: float tensor (B, C, crop, crop) in 0..255 -> logits (B, K), K >= 2; a module is put in evaluation mode and
    fed on its own device. images: uint8 (N, C, S, S), tensor or array; the stored patch is turned first and cropped
    to its centre then, so no corner is invented where S is larger than crop * sqrt 2. labels: class indices (N,) or
    None (no accuracies). groups: one per image; the bootstrap then resamples groups.

    exact_* are means over the rotations by 90, 180 and 270 degrees, mirror_* over the mirror images (a C_N network
    promises nothing there), interpolated_* over the other angles. A positive angle is counter-clockwise as displayed.
    The error is that of centred logits (roteq.metrics.robustness). Its floor is the same error for a picture that is
    turned by the angle and back: what resampling alone does.

    Raises: UsageError for images, labels or crops that cannot be; RoteqError if the model gives no finite logits.
    """
    config = config or AuditConfig()
    images = images if hasattr(images, "shape") else np.asarray(images)
    side = _check(images, crop)
    crop = crop or side
    chosen = chosen_images(config, len(images))
    orbit = elements(config)
    upright, turned, backs = _answers(predict, images, chosen, (side, crop), orbit, progress)
    truth = None if labels is None else as_labels("audit: labels", labels, upright.shape[1])
    if truth is not None and len(truth) != len(images):
        raise UsageError(f"audit: expected one label for each of {len(images)} images, got {len(truth)}")
    codes = as_groups("audit", groups, len(images))

    truth = None if truth is None else truth[chosen]
    statistics = turn_statistics(
        upright,
        turned,
        truth,
        groups=None if codes is None else codes[chosen],
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
    degenerate = is_degenerate(upright)
    floors = {base: between_image_error(back, upright) for base, back in backs.items()}
    floors[0.0] = None if degenerate else 0.0
    turns = tuple(
        Turn(angle=e.angle, mirror=e.mirror, exact=e.base == 0, floor=floors[e.base], **values)
        for e, values in zip(orbit, statistics, strict=True)
    )
    exact = [turn for turn in turns if turn.exact and not turn.mirror]
    mirrored = [turn for turn in turns if turn.mirror]
    other = [turn for turn in turns if not turn.exact]
    right = None if truth is None else np.concatenate([upright[None], turned]).argmax(-1) == truth
    return AuditResult(
        images=len(chosen),
        degenerate=degenerate,
        turns=turns,
        exact_error=_mean(turn.between_image_error for turn in exact),
        exact_flip_rate=_mean(turn.flip_rate.value for turn in exact),
        interpolated_error=_mean(turn.between_image_error for turn in other),
        interpolated_floor=_mean(turn.floor for turn in other),
        interpolated_flip_rate=_mean(turn.flip_rate.value for turn in other),
        worst_angle_accuracy=None if right is None else float(right[1:].mean(1).min()),
        always_right=None if right is None else float(right.all(0).mean()),
        method=_method(side, crop, bool(other)),
        upright_accuracy=None if right is None else float(right[0].mean()),
        mirror_error=_mean(turn.between_image_error for turn in mirrored),
        mirror_flip_rate=_mean(turn.flip_rate.value for turn in mirrored),
    )


def audit_dataset(classifier: Any, data: Any, config: AuditConfig, *, progress: bool = False) -> AuditResult:
    """Audit a trained network of roteq on a labelled dataset; only the images that are drawn are read."""
    chosen = chosen_images(config, len(data)).tolist()
    groups = None if data.groups is None else [data.groups[i] for i in chosen]
    images, labels = data.images(chosen), data.labels[chosen]
    return audit(classifier, images, labels, crop=classifier.crop, config=config, groups=groups, progress=progress)


def _check(images: Any, crop: int | None) -> int:
    """The side of the square patches that are turned, of the parity of the crop."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[0] < 2 or shape[2] != shape[3] or str(images.dtype).split(".")[-1] != "uint8":
        raise UsageError(
            f"audit: expected at least two square uint8 images (N, C, S, S), got {images.dtype} {shape}; "
            "crop them to squares first"
        )
    if crop is not None and not 1 <= crop <= shape[2]:
        raise UsageError(f"audit: expected a crop from 1 to {shape[2]}, the size of the images, got {crop}")
    return shape[2] - (0 if crop is None else (shape[2] - crop) % 2)


def _answers(
    predict: Callable[[Any], Any],
    images: Any,
    chosen: np.ndarray,
    sizes: tuple[int, int],
    orbit: list[Element],
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, dict[float, np.ndarray]]:
    """Logits of the upright images (N, K), of the turned ones (T, N, K), and of those turned there and back by base."""
    from rich.progress import track

    side, crop = sizes
    turners = {base: Turner(base, side, crop) for base in sorted({e.base for e in orbit} - {0.0})}
    ask = _make_ask(predict)
    rows: list[list[np.ndarray]] = []
    back_rows: dict[float, list[np.ndarray]] = {base: [] for base in turners}
    size = max(1, min(BATCH, PIXELS // (images.shape[1] * side * side)))
    starts = range(0, len(chosen), size)
    for start in track(starts, "turning the images", transient=True) if progress else starts:
        stack = as_array(images[chosen[start : start + size]])[:, :, :side, :side].astype(np.float32)
        shape = (*stack.shape[:2], crop, crop)
        pixels = np.ascontiguousarray(stack.transpose(2, 3, 0, 1)).reshape(side, side, -1)  # (S, S, B*C)
        looks = {0.0: center(pixels, crop)}
        coefficients = prefilter(pixels) if turners else pixels
        for base, turner in turners.items():
            looks[base], back = turner(coefficients)
            back_rows[base].append(ask(_batch(back, shape)))
        upright = ask(_batch(looks[0.0], shape))
        rows.append([upright, *(ask(_batch(_place(looks[e.base], e), shape)) for e in orbit)])
    outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return outputs[0], np.stack(outputs[1:]), {base: np.concatenate(found) for base, found in back_rows.items()}


def _place(look: np.ndarray, element: Element) -> np.ndarray:
    return np.rot90(look[:, ::-1] if element.mirror else look, element.quarters)


def _batch(look: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels first (crop, crop, B*C) -> the batch a network takes (B, C, crop, crop)."""
    return np.ascontiguousarray(np.moveaxis(look, 2, 0)).reshape(shape)


def _make_ask(predict: Callable[[Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Numpy in, numpy out, without gradients; a module runs in evaluation mode on its own device."""
    import torch

    def ask(batch: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(batch)
        training = isinstance(predict, torch.nn.Module) and predict.training
        if isinstance(predict, torch.nn.Module):
            tensor = tensor.to(next((p.device for p in predict.parameters()), tensor.device))
            predict.eval()
        try:
            with torch.inference_mode():
                logits = predict(tensor)
        finally:
            if training:
                predict.train()  # type: ignore[attr-defined]
        found = as_array(logits.float() if isinstance(logits, torch.Tensor) else logits)
        if found.ndim != 2 or len(found) != len(batch) or found.shape[1] < 2:
            raise UsageError(
                f"audit: expected the model to give logits ({len(batch)}, classes) for a batch of {len(batch)}, with "
                f"two classes or more, got shape {found.shape}"
            )
        if not np.isfinite(found).all():
            raise RoteqError("audit: the model's output holds NaN or infinity; was its training stopped by divergence?")
        return found

    return ask


class Turner:
    """Turns by one angle between 0 and 90 degrees, and back, for all images at once."""

    def __init__(self, angle: float, side: int, crop: int) -> None:
        """Only the pixels are made that the crop, turned back, can see; `window` is their square."""
        seen = math.ceil(math.sqrt(2) * crop) + 2 * MARGIN
        self.window = min(side, seen + (side - seen) % 2)
        self.crop = crop
        self.there = spline_matrix(angle, side, self.window)
        self.back = spline_matrix(-angle, self.window, crop)

    def __call__(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spline coefficients (S, S, M) -> the crops (crop, crop, M) turned, and turned there and back; in 0..255."""
        turned = _apply(self.there, coefficients, self.window)
        back = _apply(self.back, prefilter(turned), self.crop)
        return np.clip(center(turned, self.crop), 0, 255), np.clip(back, 0, 255)


def _apply(matrix: Any, coefficients: np.ndarray, size: int) -> np.ndarray:
    return (matrix @ coefficients.reshape(-1, coefficients.shape[2])).reshape(size, size, -1)


def center(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central size x size pixels of (S, S, M)."""
    start = (len(pixels) - size) // 2
    return pixels[start : start + size, start : start + size]


def prefilter(pixels: np.ndarray) -> np.ndarray:
    """Cubic B-spline coefficients of (S, S, M) that reproduce the pixels, mirrored at the border (no repeated edge).

    The inverse of the tridiagonal matrix (1, 4, 1)/6 along both axes. As a dense product it is faster than the usual
    recursion; torch does it, so that it keeps to the threads of the model.
    """
    import torch

    s = len(pixels)
    tridiagonal = 4 * np.eye(s)
    for i in range(s):
        for j in (i - 1, i + 1):
            tridiagonal[i, mirrored(np.array(j), s)] += 1
    inverse = np.linalg.inv(tridiagonal / 6)
    inverse[np.abs(inverse) < 1e-12] = 0  # float32 would make slow denormal numbers of them
    filtering = torch.from_numpy(inverse.astype(pixels.dtype))
    rows = (filtering @ torch.from_numpy(pixels.reshape(s, -1))).reshape(pixels.shape)
    return torch.matmul(filtering, rows).numpy()


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """... 2 1 0 1 2 ... size-2 size-1 size-2 ...: scipy's mode "mirror".

    >>> mirrored(np.arange(-2, 6), 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    folded = np.mod(index, max(2 * size - 2, 1))
    return np.where(folded < size, folded, 2 * size - 2 - folded)


def spline_matrix(angle: float, size: int, out: int) -> Any:
    """Sparse (out^2, size^2): spline coefficients -> the central pixels of the picture turned counter-clockwise.

    Pixel (i, j), measured from the centre, takes its value at (cos t i + sin t j, cos t j - sin t i); its cubic spline
    has 4 x 4 terms. 90 degrees is np.rot90.
    """
    from scipy.sparse import csr_array

    t = math.radians(angle)
    y, x = np.meshgrid(*[np.arange(out) - (out - 1) / 2] * 2, indexing="ij")
    (row, row_weight), (column, column_weight) = (
        _taps(source.ravel() + (size - 1) / 2, size)
        for source in (math.cos(t) * y + math.sin(t) * x, math.cos(t) * x - math.sin(t) * y)
    )  # each (out^2, 4)
    index = row[:, :, None] * size + column[:, None, :]
    weight = row_weight[:, :, None] * column_weight[:, None, :]
    pixel = np.repeat(np.arange(out * out), 16)
    return csr_array((weight.ravel().astype(np.float32), (pixel, index.ravel())), shape=(out * out, size * size))


def _taps(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The four neighbours of each position and their cubic B-spline weights."""
    first = np.floor(position).astype(int)
    f = position - first
    weights = np.stack([(1 - f) ** 3, 4 - 6 * f**2 + 3 * f**3, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3], axis=1) / 6
    return mirrored(first[:, None] + np.arange(-1, 3), size), weights


def _mean(values: Any) -> float | None:
    """The mean, None if there is nothing to average or one of them is None."""
    found = list(values)
    return None if not found or None in found else float(np.mean(found))


def _method(side: int, crop: int, interpolated: bool) -> str:
    exact = "multiples of 90 degrees and mirrors: pixels permuted, exact"
    if not interpolated:
        return exact
    corners = "no corner is invented"
    if (crop - 1) * math.sqrt(2) > side - 1:
        corners = f"the patch is smaller than {crop} x sqrt 2, so corners are filled with the mirrored picture"
    turned = f"cubic spline on the stored {side} x {side} patch, then its centre {crop} x {crop}"
    return f"{exact}; other angles: {turned}; {corners}"
