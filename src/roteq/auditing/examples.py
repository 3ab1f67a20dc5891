"""The images worth looking at, as strips over the angles."""

import base64
import io
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..results import Example, Look
from .config import AuditConfig
from .pictures import Pictures
from .rows import UPRIGHT, Decisions, Key
from .statistics import Measured
from .turning import Element, Turning

THUMB = 96  # pixels of the longer side, at most
ANGLES = 8  # interpolated looks in one strip
Why = Literal["changes most", "stable and wrong"]


def choose_examples(
    tally: Any,
    measured: Measured,
    turning: Turning,
    pictures: Pictures,
    labels: np.ndarray | None,
    classes: tuple[str, ...],
    config: AuditConfig,
) -> tuple[Example, ...]:
    """Those whose decision changes at most turns, and those that are wrong at every turn with the highest
    probability."""
    decides = isinstance(tally, Decisions)
    change = measured.columns["flips"] if decides else measured.columns["change"]
    spread = measured.columns.get("exact spread", change)
    most = np.lexsort((-spread, -change))[: config.examples]
    chosen: list[tuple[int, Why]] = [(int(i), "changes most") for i in most if change[i] > 0]
    if decides and labels is not None:
        wrong = np.flatnonzero((measured.columns["right"] == 0) & (measured.columns["flips"] == 0))
        sure = tally.rows("confidence", UPRIGHT)[wrong]
        chosen += [(int(i), "stable and wrong") for i in wrong[np.argsort(-sure)][: config.examples]]
    return tuple(
        _example(
            i, why, tally if decides else None, turning, pictures, labels, classes, int(change[i]) if decides else 0
        )
        for i, why in chosen
    )


def _example(
    index: int,
    why: Why,
    tally: Decisions | None,
    turning: Turning,
    pictures: Pictures,
    labels: np.ndarray | None,
    classes: tuple[str, ...],
    flips: int,
) -> Example:
    patches, _ = pictures.load(np.array([index]))
    shown = _shown(turning)
    looks = []
    for key, pixels in _looks(turning, patches, shown):
        e = key.at if key.what == "turn" else Element(False, 0)
        decision, probability = _said(tally, key, index, classes)
        looks.append(Look(e.angle, e.mirror, png(pixels[0], pictures.is_float), decision, probability))
    truth = None
    if labels is not None and classes:
        truth = (
            ", ".join(n for n, is_on in zip(classes, labels[index], strict=True) if is_on)
            if labels.ndim > 1
            else (classes[int(labels[index])])
        )
    return Example(pictures.ids[index], truth, why, flips, len(turning.orbit), tuple(looks))


def _shown(turning: Turning) -> set[Element]:
    others = [e for e in turning.orbit if not e.exact]
    step = max(1, -(-len(others) // ANGLES))
    return {e for e in turning.orbit if e.exact} | set(others[::step])


def _looks(turning: Turning, patches: Tensor, shown: set[Element]) -> list[tuple[Key, Tensor]]:
    upright = turning.upright(patches)
    found = [(UPRIGHT, upright), *((Key("turn", e), e.place(upright)) for e in turning.orbit if e.exact)]
    for base, look, _ in turning.looks(patches, upright):
        found += [(Key("turn", e), e.place(look)) for e in turning.orbit if e.base == base and e in shown]
    return [found[0], *sorted(found[1:], key=lambda pair: (pair[0].at.mirror, pair[0].at.angle))]


def _said(tally: Decisions | None, key: Key, index: int, classes: tuple[str, ...]) -> tuple[str, float | None]:
    if tally is None:
        return "", None
    decision = tally.rows("decision", key)[index]
    name = ", ".join(np.array(classes)[decision]) or "none" if tally.multi else classes[int(decision)]
    return name, float(tally.rows("probability", key)[index])


def png(picture: Tensor, is_float: bool) -> str:
    """(C, H, W) as base64 PNG; one channel is grey, more than three show the first three; floats fill the range."""
    picture = picture.detach().cpu().float()
    if is_float:
        low, high = picture.min(), picture.max()
        picture = (picture - low) / (high - low).clamp(min=1e-12) * 255
    if max(picture.shape[1:]) > THUMB:
        scale = THUMB / max(picture.shape[1:])
        picture = F.interpolate(picture[None], scale_factor=scale, mode="bilinear", antialias=True)[0]
    pixels = picture.round().clamp(0, 255).to(torch.uint8)
    array = pixels[:3].permute(1, 2, 0).numpy() if len(pixels) >= 3 else pixels[0].numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
