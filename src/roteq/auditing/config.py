"""What an audit asks."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..config import Config

MOST = 3600  # angles


def _in_a_circle(angles: int | tuple[float, ...]) -> int | tuple[float, ...]:
    if isinstance(angles, int):
        if not 1 <= angles <= MOST:
            raise ValueError(f"expected at least 1 angle, {MOST} at most")
        return angles
    if not all(math.isfinite(angle) for angle in angles) or len(angles) > MOST:
        raise ValueError(f"expected finite degrees, {MOST} at most")
    found = tuple(sorted({float(angle) % 360 for angle in angles} - {0.0}))
    if not found:
        raise ValueError("expected angles other than 0")
    return found


class AuditConfig(Config):
    """angles: equal steps of a full turn, or a list of degrees; mirrors: mirror images too; images: how many are drawn
    (0: all).

    interpolation, for angles that are not multiples of 90: "spline" (cubic B-spline, loses least), "bicubic" (Keys,
    a = -1/2) or "bilinear". corners, where the picture is too small to be turned without inventing any: "disc" (the
    inscribed disc on both sides, the outside filled with the mean of its picture), "mirror", "edge" or "black".
    examples: how many pictures of each kind are shown.

    >>> AuditConfig(angles=(45, -30)).angles
    (45.0, 330.0)
    """

    angles: Annotated[int | tuple[float, ...], AfterValidator(_in_a_circle)] = 24
    images: int = Field(default=500, ge=0)
    mirrors: bool = True
    interpolation: Literal["spline", "bicubic", "bilinear"] = "spline"
    corners: Literal["disc", "mirror", "edge", "black"] = "disc"
    bootstrap: int = Field(default=1000, ge=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    examples: int = Field(default=6, ge=0)
    seed: int = Field(default=0, ge=0)
