"""Models of all kinds as one function from a batch of pictures to whatever they return."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..training import Classifier
from .answers import chosen

Ask = Callable[[Tensor], Any]
LEAST = 1e-12  # a probability of 0 becomes this, so that its logarithm is finite


class Answering(nn.Module):
    """`Classifier.answer` as the forward of a module, so that hooks and derivatives reach the network.

    Shapes: (B, C, H, W) float 0..255, of the final size -> (B, K)
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network, self.answer = classifier.network, classifier.answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


def ask_module(module: nn.Module, device: torch.device, output_key: str | int | None = None) -> Ask:
    """Ask in evaluation mode and without gradients, in the precision of the weights; the modes are put back after every
    question."""
    dtype = next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)

    def ask(images: Tensor) -> Any:
        with evaluating(module), torch.no_grad():
            return chosen(module(images.to(device, dtype)), output_key)

    return ask


def ask_function(function: Callable[[Tensor], Any], device: torch.device, output_key: str | int | None) -> Ask:
    def ask(images: Tensor) -> Any:
        with torch.no_grad():
            return chosen(function(images.to(device)), output_key)

    return ask


def ask_estimator(estimator: Any, name: str) -> Ask:
    """An object of the scikit-learn kind: rows of pixels -> the logarithms of its probabilities, whose softmax they
    are."""

    def ask(images: Tensor) -> Tensor:
        found = estimator.predict_proba(images.flatten(1).cpu().numpy())
        if isinstance(found, list):
            raise UsageError(f"{name}: expected one table of probabilities, got {len(found)}: one answer at a time")
        return torch.from_numpy(np.log(np.clip(np.asarray(found, dtype=np.float64), LEAST, 1)).astype(np.float32))

    return ask


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part has the mode that it had."""
    modes = [(part, part.training) for part in module.modules() if getattr(part, "training", False)]
    if modes:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def device_of(module: nn.Module) -> torch.device:
    """That of its first weight.

    >>> device_of(nn.Linear(2, 2))
    device(type='cpu')
    """
    values = [*module.parameters(), *module.buffers()]
    return values[0].device if values else torch.device("cpu")
