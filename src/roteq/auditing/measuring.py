"""The audit: any model and a pile of images in, numbers out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ..errors import RoteqError, UsageError
from ..metrics.arrays import as_groups
from ..results import AuditDifference, AuditReport, AuditResult, Interval, Turn
from ..results.audit import Kind
from .config import AuditConfig
from .controls import run_controls
from .details import input_facts, measure_details
from .embeddings import Embeddings
from .examples import choose_examples
from .findings import find
from .framing import Sides
from .loading import as_subject
from .looking import Asker, Tally, answers, bar, batch_size, batches, stopwatch
from .maps import Maps
from .pictures import Pictures, open_pictures, unreadable
from .rows import Decisions, Moments, Plan, spread_out
from .statistics import NOTHING, DecisionStatistics, Measured, bootstrapped, is_degenerate, mean
from .subject import Normalization, Subject
from .turning import Turning

PROBED = 16  # images the model is asked about twice, before anything else
SHOWN = 4  # names in a message
STEADY = 1e-3  # of the variation between images: more than rounding does in half precision


def audit(
    model: Any,
    images: Any,
    labels: Any = None,
    *,
    config: AuditConfig | None = None,
    groups: Any = None,
    classes: Any = None,
    size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    normalize: Any = None,
    kind: Kind | None = None,
    output_key: str | int | None = None,
    name: str | None = None,
    device: Any = None,
    details: bool = True,
    progress: bool = False,
) -> AuditResult:
    """Turn the images, ask the model again, and compare its answers with those to the upright images.

    model: a torch module (asked in evaluation mode, left as it was), anything callable on float batches (B, C, H, W),
    an object with predict_proba, or what the command line takes: "runs/one", "timm:resnet50", "model.onnx" ...
    images: uint8 pixels (N, C, S, S) as array or tensor; float ones, which are taken for what the model takes; a
    folder, a prepared dataset, a CSV, a torch Dataset (auditing.pictures).
    labels: class indices (N,), or (N, K) of 0 and 1 where `kind` is "labels"; None: those of the images, if any.
    groups: one per image; the bootstrap then resamples groups. classes: names of the outputs.
    size: height and width of the model's input; the centre of that size is cut out of the turned patch, so no corner
    is invented where the patch is larger than size * sqrt 2. resize: the shorter side of a picture before, 0 as stored.
    normalize: "raw" (0..255), "unit" (0..1), "imagenet" or (mean, std); None: what the model says of itself.
    details: layers, derivatives, controls and example pictures too.
    kind: what the output means: "classes" (logits or probabilities), "labels" (logits of independent labels),
    "embedding", "map"; None: "classes" for (B, K), "map" for (B, K, H, W). output_key: of a dictionary or tuple.

    Exact elements and interpolated angles are never mixed in one number; every interpolated number has its floor
    beside it. A positive angle is counter-clockwise as displayed. A degenerate output has no error and is a finding.

    Raises: UsageError for models, images, labels or sizes that cannot be, naming what to give; RoteqError if the model
    gives no finite answers.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    >>> pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> result = audit(net, pixels, normalize="unit", config=AuditConfig(angles=4))
    >>> result.exact.turns, result.exact_error > 0.1
    (7, True)
    """
    options = {"labels": labels, "groups": groups}
    about = {"size": size, "resize": resize, "normalize": normalize, "kind": kind, "output_key": output_key}
    subject = as_subject(model, name=name, classes=classes, device=device, **about)
    return audit_subjects([subject], images, config, details=details, progress=progress, **options).audits[0]


def audit_dataset(classifier: Any, data: Any, config: AuditConfig, *, progress: bool = False) -> AuditResult:
    """Audit a trained network of roteq on a labelled dataset; only the images that are drawn are read."""
    return audit_subjects([as_subject(classifier)], data, config, details=False, progress=progress).audits[0]


def audit_subjects(
    subjects: list[Subject],
    images: Any,
    config: AuditConfig | None = None,
    *,
    details: bool = True,
    progress: bool = False,
    **options: Any,
) -> AuditReport:
    """Several models on the same images, each with the size it needs, and their paired differences.

    options: those of `auditing.pictures.open_pictures`.
    """
    config = config or AuditConfig()
    names = [subject.name for subject in subjects]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UsageError(f"audit: expected models with different names, got {name!r} twice")
    ready = [_prepare(subject, images, config, options) for subject in subjects]  # all of them, before the long work
    found = [_audit_one(one, config, details, progress) for one in ready]
    pairs = [_difference(a, b, config) for a, b in combinations(found, 2)]
    return AuditReport(found[0].pictures.source, tuple(one.result for one in found), tuple(d for d in pairs if d))


@dataclass(frozen=True)
class _Prepared:
    """A model that has answered about a few of its pictures, and whose answers fit their labels."""

    asker: Asker
    turning: Turning
    pictures: Pictures
    unsteady: float | None


@dataclass(frozen=True)
class _Audited:
    result: AuditResult
    columns: dict[str, np.ndarray]
    ids: list[str]
    groups: np.ndarray | None
    pictures: Pictures


def chosen_images(config: AuditConfig, number: int) -> np.ndarray:
    """Indices of the images drawn from `number`, in order; drawing again from the drawn ones keeps them all.

    >>> chosen_images(AuditConfig(images=3), 3), len(chosen_images(AuditConfig(images=3), 100))
    (array([0, 1, 2]), 3)
    """
    if not 0 < config.images < number:
        return np.arange(number)
    return np.sort(np.random.default_rng(config.seed).choice(number, config.images, replace=False))


def _prepare(subject: Subject, images: Any, config: AuditConfig, options: Mapping[str, Any]) -> _Prepared:
    shape = {"channels": subject.channels, "size": subject.size, "resize": subject.resize}
    pictures = open_pictures(
        images,
        classes=subject.classes,
        interpolation=subject.interpolation,
        chosen=partial(chosen_images, config),
        **{**shape, **options},
    )
    if len(pictures) < 2:
        raise UsageError(
            f"audit: expected at least two images, got {len(pictures)}; with one, nothing shows that the output varies"
        )
    asker = Asker(subject, normalization_of(subject, pictures.channels, pictures.is_float))
    crop = crop_of(subject, pictures.size)
    turning = Turning(pictures.size, crop, config, subject.device, pictures.is_float)
    outputs, unsteady = _probe(asker, turning, pictures)
    if asker.kind in ("classes", "labels"):
        _names(pictures.classes, outputs)
        _truth(pictures.labels, outputs, asker.kind)
    return _Prepared(asker, turning, pictures, unsteady)


def _audit_one(one: _Prepared, config: AuditConfig, details: bool, progress: bool) -> _Audited:
    seconds = stopwatch()
    asker, turning, pictures, subject = one.asker, one.turning, one.pictures, one.asker.subject
    tally, kept = _measure(asker, turning, pictures, config, progress)
    lost = [pictures.ids[i] for i in np.setdiff1d(np.arange(len(pictures)), kept)]
    if 2 * len(lost) > len(pictures):
        raise _broken(pictures, lost[0])
    late = [unreadable(lost, len(pictures))] if lost else []
    pictures = pictures.subset(kept)
    labels = pictures.labels
    groups = as_groups("audit", pictures.groups, len(kept))
    measured, classes = _statistics(tally, labels, groups, pictures, config)
    result = _result(subject, asker, turning, measured, config, len(kept))
    controls = run_controls(asker, turning, pictures) if details else ()
    findings = [
        *pictures.findings,
        *late,
        *find(measured, tally, labels, classes, one.unsteady, controls, turning, config),
    ]
    result = replace(result, controls=controls, findings=tuple(findings))
    if details:
        result = replace(result, **measure_details(asker, turning, pictures, measured.variation))
        result = replace(result, examples=choose_examples(tally, measured, turning, pictures, labels, classes, config))
    facts = input_facts(subject, asker, pictures) | result.facts
    result = replace(result, facts=facts, passes=asker.passes, seconds=seconds())
    return _Audited(result, measured.columns, pictures.ids, groups, pictures)


def normalization_of(subject: Subject, channels: int, is_float: bool = False) -> Normalization | None:
    """From pixels to what the model takes; None for pictures that are that already."""
    if is_float:
        return None
    if subject.normalize is None:
        raise UsageError(
            f"normalize: {subject.name} does not say how its input is scaled; give raw (pixels 0..255), unit (0..1), "
            "imagenet, or MEAN/STD such as 0.5,0.5,0.5/0.5,0.5,0.5"
        )
    if len(subject.normalize.mean) not in (1, channels):
        raise UsageError(
            f"normalize: expected one mean, or one for each of {channels} channels, got {len(subject.normalize.mean)}"
        )
    return subject.normalize


def crop_of(subject: Subject, size: Sides) -> Sides:
    """What the model sees of a patch of this size."""
    if subject.size is None:
        return size
    if subject.size[0] > size[0] or subject.size[1] > size[1]:
        raise UsageError(
            f"size: expected at most {size[0]}x{size[1]}, the size of the pictures, got "
            f"{subject.size[0]}x{subject.size[1]}"
        )
    return subject.size


def _probe(asker: Asker, turning: Turning, pictures: Pictures) -> tuple[int, float | None]:
    """Ask about a few images twice, the second time in halves: how many outputs are there, and are they the same again?
    The difference, against the variation between images, if not."""
    pixels = turning.upright(_readable(pictures))
    half = len(pixels) // 2
    first, again = asker(pixels), torch.cat([asker(pixels[:half]), asker(pixels[half:])])
    if not first.numel():
        raise UsageError(f"{asker.subject.name}: expected scores, got an output of shape {tuple(first.shape)}")
    moments = Moments()
    moments.add(first)
    distance = float((again - first).double().flatten(1).square().sum(1).mean().sqrt())
    size = moments.size if is_degenerate(moments) else moments.variation
    return first.shape[1], distance / size if distance > STEADY * size else None


def _readable(pictures: Pictures) -> torch.Tensor:
    """A few patches from all over, or the first ones if those cannot be decoded."""
    everywhere, broken = np.arange(len(pictures)), ""
    parts = (everywhere[start : start + PROBED] for start in range(0, len(pictures), PROBED))
    for indices in (spread_out(len(pictures), PROBED), *parts):
        patches, kept = pictures.load(indices)
        if len(patches) > 1:
            return patches
        broken = broken or pictures.ids[indices[kept.argmin()]]
    raise _broken(pictures, broken)


def _broken(pictures: Pictures, first: str) -> RoteqError:
    return RoteqError(
        f"{pictures.source}: most of {len(pictures)} images cannot be decoded, though their headers are sound, the "
        f"first is {first}; were they copied whole?"
    )


def _measure(
    asker: Asker, turning: Turning, pictures: Pictures, config: AuditConfig, progress: bool
) -> tuple[Tally, np.ndarray]:
    """Everything that is kept of the answers, and the indices of the images that could be read."""
    assert asker.kind is not None
    quarters = (1, 2, 3) if asker.kind in ("classes", "labels") else ()
    plan = Plan(tuple(turning.orbit), tuple(turning.turners), turning.masked, quarters)
    tally: Any
    if asker.kind in ("classes", "labels"):
        tally = Decisions(plan, multi=asker.kind == "labels")
    else:
        tally = Embeddings(plan, len(pictures)) if asker.kind == "embedding" else Maps(plan, config)
    kept = []
    step = batch_size(turning.device, (pictures.channels, *pictures.size), asker.subject.batch)
    with bar(len(pictures), f"{asker.subject.name}: turning", progress) as progressing, torch.inference_mode():
        for indices, patches in batches(pictures.load, np.arange(len(pictures)), step):
            for key, answer in answers(asker, turning, plan, patches):
                tally.add(key, answer)
            tally.close()
            kept.append(indices)
            progressing.update(progressing.task_ids[0], advance=len(indices))
    return tally, np.concatenate(kept)


def _statistics(
    tally: Any, labels: np.ndarray | None, groups: np.ndarray | None, pictures: Pictures, config: AuditConfig
) -> tuple[Measured, tuple[str, ...]]:
    if isinstance(tally, Embeddings):
        return tally.measured(groups, config), ()
    if isinstance(tally, Maps):
        return tally.measured(groups), ()
    classes = _names(pictures.classes, tally.classes)
    labels = _truth(labels, tally.classes, "labels" if tally.multi else "classes")
    return DecisionStatistics(tally, labels, groups, classes, config).measured(), classes


def _names(known: tuple[str, ...], outputs: int) -> tuple[str, ...]:
    """A name for every output; those beyond the known ones are numbered."""
    if len(known) > outputs:
        more = ", ..." if len(known) > SHOWN else ""
        raise UsageError(
            f"classes: the model has {outputs} outputs, and {len(known)} classes are named "
            f"({', '.join(known[:SHOWN])}{more}); name the outputs in their order, "
            "or give --labels none to audit without labels"
        )
    return known + tuple(f"class {k}" for k in range(len(known), outputs))


def _truth(labels: np.ndarray | None, outputs: int, kind: Kind) -> np.ndarray | None:
    """Labels that fit the outputs."""
    if labels is None:
        return None
    multi = kind == "labels"
    if labels.ndim != 1 + multi or (multi and labels.shape[1] != outputs):
        expected = f"(N, {outputs}) of 0 and 1" if multi else "(N,) class indices"
        hint = "; are the outputs independent: --output labels?" if labels.ndim == 2 and not multi else ""
        raise UsageError(f"labels: expected {expected} for this model, got an array of shape {labels.shape}{hint}")
    if not multi and (labels.min() < 0 or labels.max() >= outputs):
        raise UsageError(
            f"labels: the model has {outputs} classes, so labels go from 0 to {outputs - 1}; got {labels.min()} to "
            f"{labels.max()}"
        )
    return labels.astype(bool) if multi else labels.astype(np.int64)


def _result(
    subject: Subject, asker: Asker, turning: Turning, measured: Measured, config: AuditConfig, images: int
) -> AuditResult:
    turns = measured.turns
    exact = [turn for turn in turns if turn.exact and not turn.mirror]
    mirrored = [turn for turn in turns if turn.mirror]
    other = [turn for turn in turns if not turn.exact]
    summary: dict[str, Any] = {"worst_angle_accuracy": None, "always_right": None} | measured.fields

    def error(chosen: list[Turn]) -> float | None:
        return mean([turn.between_image_error for turn in chosen])

    def flips(chosen: list[Turn]) -> float | None:
        return mean([turn.flip_rate.value for turn in chosen])

    return AuditResult(
        images=images,
        degenerate=measured.degenerate,
        turns=turns,
        exact_error=error(exact),
        exact_flip_rate=flips(exact),
        interpolated_error=error(other),
        interpolated_floor=mean([turn.floor for turn in other]),
        interpolated_flip_rate=flips(other),
        method=turning.method,
        mirror_error=error(mirrored),
        mirror_flip_rate=flips(mirrored),
        label=subject.name,
        kind=asker.kind or "classes",
        confidence=config.confidence,
        **summary,
    )


def _difference(a: _Audited, b: _Audited, config: AuditConfig) -> AuditDifference | None:
    """None where the two were not asked about the same images, or do not decide."""
    names = ("right", "exact flip", "exact worst", "interpolated flip", "interpolated worst")
    if a.ids != b.ids or not any(name in a.columns and name in b.columns for name in names):
        return None
    columns = {
        name: a.columns[name].astype(float) - b.columns[name]
        for name in names
        if name in a.columns and name in b.columns
    }
    found: dict[str, Interval] = dict.fromkeys(names, NOTHING) | bootstrapped(columns, a.groups, config)
    return AuditDifference(a.result.label, b.result.label, *(found[name] for name in names))
