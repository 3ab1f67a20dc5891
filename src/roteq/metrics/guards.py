"""Guards: pure functions that look for the ways in which a study fools itself. Each returns a Finding or None.

They come from one study that compared a constant with a near-constant and concluded that "the two are close"
(docs/why.md); each threshold below is set so that its numbers are caught.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..results import Finding
from .arrays import as_array, as_labels

if TYPE_CHECKING:
    import torch


LEAK = 0.01  # share of a split that may also be in training before its numbers mean nothing


def check_constant(labels: Any, predictions: Any, classes: Sequence[str], where: str = "the model") -> Finding | None:
    """'stop' when one class gets almost every answer and balanced accuracy is at chance.

    Almost every: the other classes are answered less than a tenth as often as they occur, so a good classifier of a
    99:1 set passes. At chance: less than 5 % of the way from chance to perfect. A judgement needs ten images that do
    not belong to the answered class, and labels of more than one class.

    labels, predictions: class indices (N,).

    >>> check_constant([0] * 60 + [1] * 40, [0] * 100, ["Normal", "CANCER"], where="it").message
    "it answers 'Normal' for 100 % of the images: accuracy 0.600 is the majority rate 0.600; balanced accuracy 0.500"
    """
    labels = as_labels("check_constant", labels, len(classes))
    predictions = as_labels("check_constant", predictions, len(classes))
    if len(labels) != len(predictions):
        raise UsageError(
            f"check_constant: expected as many predictions as labels, got {len(predictions)} and {len(labels)}"
        )
    counts = np.bincount(labels, minlength=len(classes))
    answers = np.bincount(predictions, minlength=len(classes))
    top = int(answers.argmax())
    others, other_answers = labels.size - counts[top], predictions.size - answers[top]
    present = counts > 0
    if others < 10 or present.sum() < 2 or other_answers >= 0.1 * others:
        return None
    hits = np.bincount(labels[labels == predictions], minlength=len(classes))
    balanced = float((hits[present] / counts[present]).mean())
    chance = 1 / present.sum()
    if balanced - chance >= 0.05 * (1 - chance):
        return None
    rate, majority = counts[top] / labels.size, counts.max() / labels.size
    share, accuracy = answers[top] / labels.size, hits.sum() / labels.size
    is_what = f"is the majority rate {majority:.3f}"
    if counts[top] < counts.max():
        is_what = f"is the share of that class {rate:.3f} (majority rate {majority:.3f})"
    elif abs(accuracy - majority) >= 5e-4:
        is_what = f"is next to the majority rate {majority:.3f}"
    return Finding(
        "constant predictor",
        "stop",
        f"{where} answers '{classes[top]}' for {100 * share:.3g} % of the images: accuracy {accuracy:.3f} {is_what}; "
        f"balanced accuracy {balanced:.3f}",
        "Nothing can be concluded from this model. Check the input range and normalisation first, then dead units, "
        "then try a learning rate ten times smaller, no weight decay, and balanced class weights.",
    )


def check_prior_entropy(
    train_losses: Sequence[float | None], prior_entropy: float, epochs: int = 3, tolerance: float = 0.005
) -> Finding | None:
    """'warn' when the last `epochs` training losses lie within `tolerance` of the entropy of the class shares.

    That is the loss of the best constant: only the output bias has learnt. Pass the plain cross-entropy in nats,
    without class weights, label smoothing or penalties, and the prior entropy of the training labels.

    >>> check_prior_entropy([0.69, 0.6755, 0.6754, 0.6754], 0.6753).guard
    'prior entropy'
    """
    last = [loss for loss in train_losses[-epochs:] if loss is not None]
    if len(last) < epochs or prior_entropy <= 0:
        return None
    if not all(abs(loss - prior_entropy) <= tolerance * prior_entropy for loss in last):
        return None
    return Finding(
        "prior entropy",
        "warn",
        f"the training loss has stayed at {last[-1]:.4f} for {epochs} epochs: the entropy of the class shares is "
        f"{prior_entropy:.4f}, so the network has learnt how often each class occurs and nothing about the images",
        "Check the input range and normalisation, the share of dead units, and the learning rate (try ten times "
        "smaller and ten times larger); see whether the network can learn 100 images by heart.",
    )


def check_input_range(inputs: Any, trained_on: tuple[float, float] | None = None) -> Finding | None:
    """'warn' or 'stop' when the numbers that reach the network, after normalisation, are on the wrong scale.

    inputs: a batch, any shape. trained_on: the lowest and highest number seen in training, after the same
    normalisation; None at the start of training, when the mean size itself is judged (about 1 is right; 0..255
    gives 100 and a first loss near 51 nats instead of 0.7). 'stop' past ten times the trained range.

    >>> check_input_range(np.full((2, 3, 8, 8), 128.0)).level
    'warn'
    >>> check_input_range(np.linspace(0, 255, 100), trained_on=(0.0, 1.0)).level
    'stop'
    """
    found = as_array(inputs).astype(np.float64)
    advice = "Give the model the pixel range it was trained on (roteq's own models take 0..255 and normalise it)."
    if not np.isfinite(found).all():
        return Finding("input range", "stop", "the inputs hold NaN or infinity", advice)
    low, high = np.quantile(found, [0.01, 0.99])
    if trained_on is None:
        size = np.abs(found).mean()
        if size <= 20:
            return None
        return Finding(
            "input range",
            "warn",
            f"the inputs have a mean size of {size:.3g} after normalisation, where about 1 is expected "
            f"(1st to 99th percentile {low:.3g} to {high:.3g})",
            "Normalise the inputs (subtract the mean, divide by the standard deviation): else the first loss is tens "
            "of nats instead of ln(classes), and units that die in the first steps do not come back.",
        )
    span = max(trained_on[1] - trained_on[0], 1e-12)
    beyond = max(trained_on[0] - low, high - trained_on[1]) / span
    if beyond <= 1 and (high == low or high - low >= 0.01 * span):  # one value: a blank picture
        return None
    return Finding(
        "input range",
        "stop" if beyond > 10 else "warn",
        f"the inputs run from {low:.3g} to {high:.3g} after normalisation (1st to 99th percentile), training saw "
        f"{trained_on[0]:.3g} to {trained_on[1]:.3g}",
        advice,
    )


def check_dead_units(shares: Mapping[str, float], warn: float = 0.5, stop: float = 0.95) -> Finding | None:
    """'warn' when a layer has `warn` or more units that never fire, 'stop' from `stop` on.

    shares: layer name -> share of units that are never positive over a set of batches (`watch_dead_units`).

    >>> check_dead_units({"act1": 0.02, "act2": 0.98}).message
    "98 % of the units of layer 'act2' are never positive"
    """
    dead = {name: share for name, share in shares.items() if share >= warn}
    if not dead:
        return None
    worst = max(dead, key=lambda name: dead[name])
    more = f" (and at least {100 * warn:.0f} % in {len(dead) - 1} more layers)" if len(dead) > 1 else ""
    return Finding(
        "dead units",
        "stop" if dead[worst] >= stop else "warn",
        f"{100 * dead[worst]:.3g} % of the units of layer '{worst}' are never positive{more}",
        "Dead units do not come back: start again with normalised inputs, a smaller learning rate, less weight decay, "
        "or normalisation layers.",
    )


@contextmanager
def watch_dead_units(model: "torch.nn.Module") -> Iterator[dict[str, float]]:
    """Fill a dict, layer -> share of units never positive so far, while batches run through the model.

    A unit is a channel (dimension 1). Only modules are seen (nn.ReLU, ReLU6, GELU, SiLU): functional calls such as
    F.relu are not. A module used several times in one pass is listed as "name", "name#2", ...

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU())
    >>> _ = model[0].bias.data.fill_(-1e3)
    >>> with watch_dead_units(model) as shares:
    ...     _ = model(torch.ones(2, 1))
    >>> shares
    {'1': 1.0}
    """
    from torch import nn

    fired: dict[str, torch.Tensor] = {}
    shares: dict[str, float] = {}
    calls: Counter[str] = Counter()

    def make_hook(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: "torch.Tensor") -> None:
            calls[name] += 1
            key = name if calls[name] == 1 else f"{name}#{calls[name]}"
            positive = (output.detach() > 0).transpose(0, 1).flatten(1).any(1)
            fired[key] = fired[key] | positive if key in fired else positive
            shares[key] = 1 - fired[key].float().mean().item()

        return hook

    handles = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    kinds = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU)
    handles += [m.register_forward_hook(make_hook(name)) for name, m in model.named_modules() if isinstance(m, kinds)]
    try:
        yield shares
    finally:
        for handle in handles:
            handle.remove()


def check_train_eval_gap(train_mode_loss: float, eval_mode_loss: float) -> Finding | None:
    """'warn' when the loss of one and the same batch differs by more than half and 0.1 nats between the two modes.

    >>> check_train_eval_gap(0.31, 2.9).guard
    'train-eval gap'
    """
    low, high = sorted((train_mode_loss, eval_mode_loss))
    if math.isfinite(low) and math.isfinite(high) and (high <= 1.5 * low or high - low <= 0.1):
        return None
    return Finding(
        "train-eval gap",
        "warn",
        f"the same batch has a loss of {train_mode_loss:.3g} in training mode and {eval_mode_loss:.3g} in evaluation "
        "mode",
        "Usually BatchNorm: its running averages do not describe these images. Keep a frozen backbone in evaluation "
        "mode, train with larger batches, or set the averages again with a pass over the training images. Strong "
        "dropout also does it.",
    )


def check_leak(train: Iterable[Hashable], other: Iterable[Hashable], name: str = "validation") -> Finding | None:
    """Images of the split `name` that are also in training, by content hash: 'stop' past 1 in 100, else 'warn'.

    >>> check_leak(["a", "b"], ["b", "c"], "test").message
    '1 of 2 test images (50 %) are also in the training split'
    """
    seen = set(train)
    hashes = list(other)
    shared = sum(value in seen for value in hashes)
    if not shared:
        return None
    return Finding(
        "leak",
        "stop" if shared > LEAK * len(hashes) else "warn",
        f"{shared:,} of {len(hashes):,} {name} images ({100 * shared / len(hashes):.3g} %) are also in the training "
        "split",
        "Every score on that split is too good. Prepare the data again: roteq keeps identical images in one split.",
    )


def check_impossible(loss: float, accuracy: float, name: str = "validation") -> Finding | None:
    """'stop' when a loss is lower than its accuracy allows, or is no number.

    In a wrong decision the true class has at most probability 1/2, so each error costs at least ln 2 nats:
    loss >= (1 - accuracy) ln 2. Pass the mean cross-entropy without class weights, over the same images.

    >>> check_impossible(0.0267, 0.5955).message
    'validation loss 0.0267 is impossible with accuracy 0.5955: the errors alone cost at least 0.2804'
    """
    least = (1 - accuracy) * math.log(2)
    if not math.isfinite(loss):
        message = f"{name} loss is {loss}: training has diverged"
        advice = "Try a learning rate ten times smaller and look for bad pixels or labels in the data."
    elif loss < 0.999 * least - 1e-6:
        message = (
            f"{name} loss {loss:.4f} is impossible with accuracy {accuracy:.4f}: "
            f"the errors alone cost at least {least:.4f}"
        )
        advice = (
            "Loss and accuracy were not measured on the same images, or the loss on one batch only: every "
            "learning-rate cut and 'best' checkpoint chosen by it is noise. Measure both over the whole split."
        )
    else:
        return None
    return Finding("impossible numbers", "stop", message, advice)
