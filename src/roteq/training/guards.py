"""The guards of roteq.metrics, put to a network in training. A constant or diverged one is stopped, the others warn."""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from ..data import center_crop
from ..metrics.guards import (
    check_dead_units,
    check_impossible,
    check_input_range,
    check_prior_entropy,
    check_train_eval_gap,
    watch_dead_units,
)
from ..results import Finding
from .losses import cross_entropy
from .module import Classifier

PATIENCE = 3  # epochs in a row with one answer and no ranking before a run is stopped
WARM_UP = 50  # steps in which it is too early to tell: the averages of BatchNorm lag behind
NO_RANKING = 0.6  # an AUC from here on is progress, although rare classes are not answered yet


def at_start(classifier: Classifier, images: Tensor, labels: Tensor) -> list[Finding]:
    """Input range and first loss, from one batch of training images."""
    cropped = images.float() if classifier.crop is None else center_crop(images, classifier.crop).float()
    inputs = (cropped - classifier.mean) / classifier.std
    found = [_warn(check_input_range(inputs.numpy()))]
    loss = batch_loss(classifier, images, labels, train=True)
    expected = math.log(len(classifier.classes))
    if not loss <= 5 * expected:
        found.append(
            Finding(
                "first loss",
                "warn",
                f"before the first step the loss is {loss:.3g} nats; guessing costs ln({len(classifier.classes)}) = "
                f"{expected:.3g}",
                "Check the normalisation of the inputs and the scale of the initial weights.",
            )
        )
    return [finding for finding in found if finding]


def after_epoch(classifier: Classifier, constant: Finding | None, steps: int) -> list[Finding]:
    """What ends a run now: a loss that is no number, or a network that has long been constant or is so at the end.

    steps: taken so far.
    """
    row = classifier.history[-1]
    loss, accuracy = (math.nan if value is None else value for value in (row["val_loss"], row["val_accuracy"]))
    hopeless = constant is not None and steps >= WARM_UP and (row["val_auc"] or 0.0) < NO_RANKING
    classifier.constant_epochs = classifier.constant_epochs + 1 if hopeless else 0
    found = [check_impossible(loss, accuracy)]
    if classifier.constant_epochs >= PATIENCE or classifier.finished:
        found.append(constant)
    return [finding for finding in found if finding]


def at_end(classifier: Classifier, batches: Iterator[tuple[Tensor, Tensor]], prior_entropy: float) -> list[Finding]:
    """Loss stuck at the prior, dead units, and the gap between the two modes, on a few batches of training images."""
    config, found = classifier.config, []
    if config.loss == "cross_entropy" and not config.label_smoothing and not config.class_weights:
        found.append(check_prior_entropy([row["train_loss"] for row in classifier.history], prior_entropy))
    classifier.eval()
    first: tuple[Tensor, Tensor] | None = None
    with torch.no_grad(), watch_dead_units(classifier.network) as shares:
        for images, labels in batches:
            first = first or (images, labels)
            classifier(images)
    found.append(_warn(check_dead_units(shares)))
    if first is not None:
        losses = [batch_loss(classifier, *first, train=train) for train in (True, False)]
        found.append(check_train_eval_gap(*losses))
    return [finding for finding in found if finding]


def batch_loss(classifier: Classifier, images: Tensor, labels: Tensor, *, train: bool) -> float:
    """The loss of one batch in training or evaluation mode; a copy is asked, so no running average moves."""
    copy = deepcopy(classifier).train(train)
    cropped = images if classifier.crop is None else center_crop(images, classifier.crop)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        logits = copy.answer(cropped.to(copy.mean.device).float())
        return float(cross_entropy(*copy.judged(logits, labels.to(logits.device))))


def _warn(finding: Finding | None) -> Finding | None:
    return finding and replace(finding, level="warn")
