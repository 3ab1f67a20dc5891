"""How many features a twin has where the original has channels."""

from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError, nearest
from ..groups import Group

Width = Literal["parameters", "channels", "features"] | float
NAMES = ("parameters", "channels", "features")


@dataclass(frozen=True)
class Scale:
    """features(C) = C * factor, rounded to multiples of `unit`. Multiples of a base stay in proportion: parts add up to
    their whole."""

    factor: float
    unit: int = 1
    bases: tuple[int, ...] = ()  # ascending

    def features(self, channels: int) -> int:
        base = next((base for base in self.bases if channels % base == 0), channels)
        return channels // base * max(1, round(base * self.factor / self.unit) * self.unit)


def first_factor(width: Width, group: Group) -> float:
    """The factor of a width; for "parameters" where the search begins: a group convolution of f features has
    f^2 |G| weights a pixel.

    Raises: UsageError for an unknown name or a factor that is not positive.
    """
    if isinstance(width, str):
        if width not in NAMES:
            raise UsageError(f"convert: unknown width {width!r}; {nearest(width, NAMES)}, or give a factor")
        return {"features": 1.0, "channels": 1 / group.order, "parameters": group.order**-0.5}[width]
    if isinstance(width, bool) or not 0 < width < float("inf"):
        raise UsageError(f"convert: expected width to be one of {', '.join(NAMES)} or a positive factor, got {width!r}")
    return float(width)
