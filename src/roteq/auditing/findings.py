"""What voids an audit, or should be known beside its numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..metrics.guards import check_constant
from ..results import Control, Finding
from .config import AuditConfig
from .rows import UPRIGHT, Decisions
from .statistics import Measured
from .turning import Turning

ENOUGH = 50  # images for a judgement about the order of the labels


def find(
    measured: Measured,
    tally: Any,
    labels: np.ndarray | None,
    classes: Sequence[str],
    unsteady: float | None,
    controls: Sequence[Control],
    turning: Turning,
    config: AuditConfig,
) -> Iterator[Finding]:
    """Findings of level "stop" mean that the model cannot pass, whatever its flip rate."""
    if measured.degenerate:
        yield Finding(
            "degenerate output",
            "stop",
            "the output hardly varies between images. This is not invariance: a constant answers every question the "
            "same way, so nothing can be said about turning.",
            "Check the weights, the normalisation of the input and the training curve before anything else.",
        )
    if unsteady is not None:
        yield Finding(
            "stochastic",
            "stop",
            f"asked twice about the same pictures, in other batches, the model gave answers that differ by "
            f"{unsteady:.2g} of their variation between pictures; part of every number below is this noise.",
            "Turn dropout, other sampling and batch statistics off: model.eval(), and no functional dropout with "
            "training=True.",
        )
    if isinstance(tally, Decisions) and not measured.degenerate:
        yield from _of_decisions(measured, tally, labels, classes)
    for control in controls:
        if not control.passed:
            yield Finding(
                "control failed",
                "stop",
                f"{control.name}: expected {control.expected}, found {control.found}.",
                "The model depends on something else than the picture (chance, a state, its place in the batch), or "
                "its numbers are too coarse (half precision).",
            )
    if turning.crop[0] != turning.crop[1]:
        yield Finding(
            "oblong input",
            "warn",
            f"the input is {turning.crop[0]}x{turning.crop[1]}: quarter turns of oblong pictures do not exist, "
            "and other angles were not asked. Half turns and mirrors were.",
            "Audit a square input where the model takes one: --size.",
        )


def _of_decisions(
    measured: Measured, tally: Decisions, labels: np.ndarray | None, classes: Sequence[str]
) -> Iterator[Finding]:
    if tally.multi:
        decided = tally.rows("decision", UPRIGHT)
        single = bool((decided == decided[0]).all())
    else:
        decided = tally.rows("decision", UPRIGHT)
        single = len(np.unique(decided)) == 1
        constant = None if labels is None else check_constant(labels, decided, classes)
        if constant is not None and not single:
            yield constant
    if single:
        one_class = labels is not None and len(np.unique(labels, axis=0)) == 1
        yield Finding(
            "one decision",
            "warn" if one_class else "stop",
            f"all {len(decided)} upright images get one and the same decision, so a flip rate says nothing about "
            "robustness.",
            "Add images of other classes; if there are some, the model has collapsed: check its weights and its input.",
        )
    if labels is None or tally.multi or len(labels) < ENOUGH:
        return
    accuracy, chance = float(measured.columns["right"].mean()), 1 / max(2, tally.classes)
    if accuracy < chance / 2:
        yield Finding(
            "labels",
            "warn",
            f"the upright accuracy {accuracy:.3f} is far below chance ({chance:.3f}): the labels may be in another "
            "order than the outputs of the model.",
            "Give the names of the outputs in their order: --classes.",
        )
