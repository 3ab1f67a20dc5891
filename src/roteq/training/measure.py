"""What a network costs on this machine: time of a step, arithmetic of a forward pass. The network stays as it is."""

import time
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..nn import plain
from .config import Precision
from .module import Classifier

GAIN = 0.95  # bf16 is taken if a step needs at most this share of the time at 32 bits


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(precision: Precision, kind: str) -> AbstractContextManager[object]:
    if precision == 32:
        return nullcontext()
    return torch.autocast(kind, torch.float16 if precision == 16 else torch.bfloat16)


def step_seconds(classifier: Classifier, images: Tensor, labels: Tensor, precision: Precision, steps: int = 3) -> float:
    """The fastest of a few forward and backward passes of a throw-away copy, after one to warm up."""
    where = device()
    copy, images, labels = deepcopy(classifier).to(where).train(), images.to(where), labels.to(where)
    times = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(steps + 1):
            begin = time.perf_counter()
            with autocast(precision, where.type):
                loss = copy.loss(copy(images), labels)
            loss.backward()
            copy.zero_grad()
            if where.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    return min(times[1:])


def faster_precision(classifier: Classifier, images: Tensor, labels: Tensor, processes: int) -> Precision:
    """bf16 where it is faster here, else 32. Several processes must agree, so they go by the kind of device."""
    if processes > 1:
        return "bf16" if device().type == "cuda" and torch.cuda.is_bf16_supported() else 32
    plain, reduced = (step_seconds(classifier, images, labels, precision) for precision in (32, "bf16"))
    return "bf16" if reduced < GAIN * plain else 32


def flops(classifier: Classifier, images: Tensor) -> int:
    """Of one forward pass of one image, 2 for a multiply-add; convolutions and matrix products are counted. Filters
    that are written out once for a whole batch are not."""
    copy = deepcopy(classifier).eval().requires_grad_(False)  # the counter follows gradients, where there are any
    copy.network = plain(copy.network)
    with FlopCounterMode(display=False) as counter:
        copy(images[:1])
    return counter.get_total_flops()


def duration(seconds: float) -> str:
    """
    >>> duration(42.4), duration(600), duration(9000)
    ('42 s', '10 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
