"""How a network is trained: the protocol, and the learning rate as a function of the step."""

import math
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ..config import Config
from ..data import Augment

ONECYCLE_RISE = 0.3  # share of the steps on the way up; start at lr/25, end at lr/250,000 (as torch's OneCycleLR)
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 25e4

Precision = Literal[32, 16, "bf16"]


class TrainConfig(Config):
    """The protocol. Every key has a sane default; two runs with equal keys on one machine end with equal weights.

    >>> TrainConfig(optimizer="sgd", lr=0.01, max_time="1:30:00").seconds
    5400.0
    """

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)  # images per step, over all processes together
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(1e-4, ge=0)  # of filters, not of biases and norms; adam, sgd: L2 in the gradient
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd only
    schedule: Literal["constant", "cosine", "onecycle", "plateau", "step"] = "cosine"
    patience: int = Field(3, ge=0)  # plateau: epochs without a lower validation loss before the rate drops
    drops: tuple[int, ...] = ()  # step: the rate drops after these epochs
    drop: float = Field(0.5, gt=0, lt=1)  # plateau, step: the factor of a drop
    early_stopping: int | None = Field(None, ge=1)  # epochs without a lower validation loss
    precision: Literal[32, 16, "bf16", "auto"] = 32  # auto: bf16 where a short measurement says that it is faster
    loss: Literal["cross_entropy", "focal", "dice", "cross_entropy+dice"] = "cross_entropy"  # dice: of masks only
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # of cross_entropy
    class_weights: bool = False  # weigh the training loss so that every class counts the same
    augment: Augment = Augment()
    crop: int | None = Field(None, ge=1)  # side of the centre that the network sees; None: the whole stored patch
    patch: int = Field(128, ge=1)  # masks: side of the windows that the network sees
    context: int = Field(8, ge=0)  # masks: pixels along the border of a window that are seen and not judged
    patches: int | None = Field(None, ge=1)  # masks: windows an epoch; None: as many as the images have room for
    normalize: Literal["dataset", "unit", "none"] = "dataset"  # (x - mean) / std of the training split; x / 255; x
    seed: int = Field(0, ge=0)
    share: float = Field(1.0, gt=0, le=1)  # of the training split, the same of every class
    final: bool = False  # train on train and validation together and keep the last weights, as a published final run
    reestimate_norm: bool = False  # before testing, take the statistics of BatchNorm from the whole training set
    max_time: str | float | None = None  # "HH:MM:SS" or minutes: stop in good order, to be continued
    workers: int = Field(0, ge=0)  # processes that read images; 0: this one

    @field_validator("max_time")
    @classmethod
    def _readable(cls, value: str | float | None) -> str | float | None:
        if isinstance(value, str) and not re.fullmatch(r"\d+:[0-5]?\d:[0-5]?\d", value):
            raise ValueError("expected HH:MM:SS, such as '01:30:00', or a number of minutes")
        if isinstance(value, float | int) and not value > 0:
            raise ValueError("expected more than 0 minutes")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.final and (self.early_stopping is not None or self.schedule == "plateau"):
            raise ValueError("final: true leaves no images to decide by; expected no early_stopping and no plateau")
        if 2 * self.context >= self.patch:
            raise ValueError(f"context: expected less than half of patch {self.patch}, got {self.context}")
        if self.drops and self.schedule != "step":
            raise ValueError(f"drops: only schedule 'step' drops after given epochs, got schedule {self.schedule!r}")
        if self.schedule == "step" and not self.drops:
            raise ValueError("schedule 'step': expected drops, such as [15, 20]")
        return self

    @property
    def seconds(self) -> float | None:
        """max_time in seconds."""
        if isinstance(self.max_time, str):
            hours, minutes, seconds = map(int, self.max_time.split(":"))
            return 3600.0 * hours + 60 * minutes + seconds
        return None if self.max_time is None else 60.0 * self.max_time


def learning_rate(config: TrainConfig, step: int, steps: int, val_losses: Sequence[float]) -> float:
    """The learning rate of step `step` (from 0) of `steps`, after epochs with these validation losses.

    A function of what a checkpoint holds anyway, so a run that is continued cannot get it wrong.

    >>> learning_rate(TrainConfig(lr=1.0, schedule="cosine"), 50, 100, [])
    0.5
    """
    if config.schedule == "cosine":
        return config.lr * _ease(1, 0, step / steps)
    if config.schedule == "onecycle":
        top = ONECYCLE_RISE * steps - 1
        if step <= top:
            return config.lr * _ease(ONECYCLE_START, 1, step / top)
        return config.lr * _ease(1, ONECYCLE_END, (step - top) / (steps - 1 - top)) if steps > 1 else config.lr
    if config.schedule == "plateau":
        return config.lr * config.drop ** _plateaus(val_losses, config.patience)
    if config.schedule == "step":
        return config.lr * config.drop ** sum(epoch <= len(val_losses) for epoch in config.drops)
    return config.lr


def _ease(start: float, end: float, t: float) -> float:
    """Half a cosine from start (t = 0) to end (t = 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * t))


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """How often patience + 1 epochs in a row brought no lower loss."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited > patience:
            waited, count = 0, count + 1
    return count
