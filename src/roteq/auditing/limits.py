"""Limits that a model must keep: for the command line, for CI, and for your own tests."""

from typing import Any

from ..errors import UsageError
from ..results import AuditResult
from .config import AuditConfig
from .measuring import audit


def broken_limits(
    result: AuditResult,
    *,
    max_flip_rate: float | None = None,
    min_worst_accuracy: float | None = None,
    max_error: float | None = None,
) -> list[str]:
    """One sentence for every limit that the model does not keep; a model with a finding of level "stop" (degenerate,
    stochastic, one decision for everything) keeps none. Exact turns and other angles are judged apart, by the same
    limit.

    max_flip_rate: of the images (of maps: of the pixels, at the worst turn) whose decision changes at some turn.
    min_worst_accuracy: of the images that are right at every turn. max_error: between-image error of the worst turn.
    Raises: UsageError for a limit that this audit cannot judge: accuracy without labels, flips of embeddings.
    """
    found = [
        f"{result.label}: {finding.guard}: {finding.message}" for finding in result.findings if finding.level == "stop"
    ]
    if max_flip_rate is not None:
        found += _flips(result, max_flip_rate)
    if min_worst_accuracy is not None:
        found += _accuracies(result, min_worst_accuracy)
    if max_error is not None:
        for exact in (True, False):
            of_kind = [t for t in result.turns if t.exact == exact and t.between_image_error is not None]
            worst = max(of_kind, key=lambda t: t.between_image_error or 0.0, default=None)
            if worst is not None and (worst.between_image_error or 0.0) > max_error:
                floor = "" if exact else f" (floor {worst.floor or 0.0:.3g})"
                error = f"error {worst.between_image_error:.3g}{floor} at {_name(worst)}"
                found.append(f"{result.label}: {error}, more than {max_error:g}")
    return found


def _flips(result: AuditResult, most: float) -> list[str]:
    if result.kind == "embedding":
        raise UsageError("max-flip-rate: embeddings have no decisions; use max-error")
    if result.kind == "map":
        return [
            f"{result.label}: {rate:.1%} of the pixels change their class at the worst {where}, more than {most:.1%}"
            for exact, where in ((True, "exact turn"), (False, "other angle"))
            if (rate := max((t.flip_rate.value or 0.0 for t in result.turns if t.exact == exact), default=0.0)) > most
        ]
    found = []
    for orbit, where in ((result.exact, "exact turn"), (result.interpolated, "other angle")):
        if orbit is not None and (orbit.flip_rate.value or 0.0) > most:
            floor = f" (floor {orbit.floor_flip_rate.value:.1%})" if orbit.floor_flip_rate.value is not None else ""
            found.append(
                f"{result.label}: {orbit.flip_rate.value:.1%}{floor} of the images change their decision at some "
                f"{where}, more than {most:.1%}"
            )
    return found


def _accuracies(result: AuditResult, least: float) -> list[str]:
    found = []
    for orbit, where in ((result.exact, "exact turn"), (result.interpolated, "other angle")):
        if orbit is None:
            continue
        if orbit.worst_accuracy.value is None:
            raise UsageError("min-worst-accuracy: an accuracy needs labels; give them with labels")
        if orbit.worst_accuracy.value < least:
            found.append(
                f"{result.label}: {orbit.worst_accuracy.value:.1%} of the images are right upright and at every "
                f"{where}, less than {least:.1%}"
            )
    return found


def _name(turn: Any) -> str:
    return f"{'the mirror image turned by ' if turn.mirror else ''}{turn.angle:g} degrees"


def assert_rotation_robust(
    model: Any,
    images: Any,
    labels: Any = None,
    *,
    max_flip_rate: float | None = 0.01,
    min_worst_accuracy: float | None = None,
    max_error: float | None = None,
    angles: int | tuple[float, ...] = 4,
    config: AuditConfig | None = None,
    **options: Any,
) -> AuditResult:
    """Assert, in your own tests, that a model keeps these limits when the pictures are turned; the audit is returned.

    angles: 4 asks for the exact turns alone. options: those of `roteq.audit`, such as normalize="imagenet". A
    constant, a model that answers by chance and one that gives every image the same decision fail, whatever their
    flip rate.

    Raises: AssertionError naming every limit that is not kept, with the numbers.

    >>> import torch
    >>> pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> assert_rotation_robust(lambda x: x.new_zeros(len(x), 2), pixels, normalize="unit")
    Traceback (most recent call last):
    AssertionError: <lambda>: degenerate output: ...
    """
    config = config or AuditConfig(angles=angles, images=0)
    result = audit(model, images, labels, config=config, details=False, **options)
    limits = {"max_flip_rate": max_flip_rate, "min_worst_accuracy": min_worst_accuracy, "max_error": max_error}
    found = broken_limits(result, **limits)
    if found:
        raise AssertionError("\n".join(found))
    return result
