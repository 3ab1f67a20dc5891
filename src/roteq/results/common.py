"""Parts of every result."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Interval:
    """A number and its confidence interval (95 % unless the configuration says otherwise)."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the seeds (std None with one seed)."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Finding:
    """What a guard saw, in plain words, and what to try. 'stop' ends or discredits a run, 'warn' flags it."""

    guard: str  # "constant predictor", "input range", "dead units", "prior entropy", "train-eval gap", "leak", ...
    level: Literal["stop", "warn"]
    message: str
    advice: str
