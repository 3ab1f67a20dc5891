"""One dense network with one seed: answer the test images once, count, evaluate, audit, keep pictures."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..auditing import AuditConfig
from ..auditing.loading import as_subject
from ..auditing.measuring import audit_subjects
from ..data import center_crop
from ..data.augment import needed_size
from ..data.masks import MaskDataset, open_masks
from ..errors import UsageError, nearest
from ..files import load_json, save_json
from ..inference import load_classifier
from ..inference.maps import predict_map
from ..metrics.maps import MapCounts, check_constant_maps, count_map, evaluate_maps, load_counts, save_counts
from ..models import ModelConfig
from ..results import AuditResult, Fit, MapExample, Run
from ..training import Segmenter
from .config import MapConfig, StudyConfig
from .pictures import first_kernels, grey, png
from .run import audit_findings, unique

AUDITED = 128  # side of the squares that an audit turns
SQUARES = 32  # how many of them at most: a map answers thousands of times
SHOWN = 192  # side of the pictures in a report
TURN = 90  # degrees


def finish_maps(config: StudyConfig, model: ModelConfig, seed: int, fitted: Fit, split: str, progress: bool) -> Run:
    """Evaluate and audit the best weights on `split`, write run.json, and return it."""
    folder = config.run_folder(model, seed)
    segmenter = load_classifier(folder / "best.ckpt")
    assert isinstance(segmenter, Segmenter)
    data = open_masks(config.root, split)
    counts = count_once(folder / "counts.npz", segmenter, data, config.maps, progress)
    evaluation = evaluate_maps(
        counts, data.classes,
        groups=data.groups, bootstrap=config.bootstrap, confidence=config.confidence, seed=seed,
    )  # fmt: skip
    audited = audit_once(folder / "audit.json", segmenter, data, config.audit, progress)
    collapsed = check_constant_maps(counts, data.classes, model.label)
    run = Run(
        label=model.label,
        model=model.name,
        options=dict(model.options),
        group=model.group,
        seed=seed,
        fit=fitted,
        evaluation=evaluation,
        audit=audited,
        findings=unique((*fitted.findings, *([collapsed] if collapsed else []), *audit_findings(audited))),
        kernels=first_kernels(segmenter.network),
        maps=(example(segmenter, data, 0),),
    )
    save_json(run, folder / "run.json")
    return run


def count_once(path: Path, segmenter: Segmenter, data: MaskDataset, maps: MapConfig, progress: bool) -> list[MapCounts]:
    """What the answers to the test images add up to: made once, then read."""
    if not path.exists():
        save_counts(path, data.ids, data.groups, data.classes, count_all(segmenter, data, maps, progress))
    return list(load_counts(path)[3])


def count_all(segmenter: Segmenter, data: MaskDataset, maps: MapConfig, progress: bool) -> list[MapCounts]:
    """Every image of the set, one in memory at a time."""
    boundary = boundary_of(maps, data.classes)
    numbers = range(len(data))
    if progress:
        from rich.console import Console
        from rich.progress import track

        numbers = track(numbers, "answering", console=Console(stderr=True), transient=True)  # type: ignore[assignment]
    return [
        count_map(
            predict_map(segmenter, data.image(i)).numpy(), data.mask(i).numpy(),
            boundary=boundary, centres=data.centres(i), radius=maps.radius,
        )
        for i in numbers
    ]  # fmt: skip


def boundary_of(maps: MapConfig, classes: tuple[str, ...]) -> int | None:
    """The index of the class of membranes. Raises: UsageError if there is no such class."""
    if maps.boundary is None:
        return None
    if maps.boundary not in classes:
        raise UsageError(f"maps.boundary: no class {maps.boundary!r}; {nearest(maps.boundary, classes)}")
    return classes.index(maps.boundary)


def audit_once(path: Path, segmenter: Segmenter, data: MaskDataset, config: AuditConfig, progress: bool) -> AuditResult:
    if path.exists():
        return load_json(AuditResult, path)
    result = audit_maps(segmenter, data, config, progress=progress)
    save_json(result, path)
    return result


def audit_maps(segmenter: Segmenter, data: MaskDataset, config: AuditConfig, *, progress: bool = False) -> AuditResult:
    """Turn squares of the images and compare the maps. A square is cut from a larger one, so that no corner is invented
    where the images have room for that; answers that see beyond the square are left out."""
    side = _square(segmenter)
    squares, groups = _squares(data, needed_size(side), min(SQUARES, config.images or SQUARES), config.seed)
    subject = as_subject(segmenter, size=min(side, squares.shape[-1]))
    subject = replace(subject, ask=partial(_inner, subject.ask, segmenter.geometry.padding))
    few = config.model_copy(update={"images": 0})
    report = audit_subjects([subject], squares, few, details=False, progress=progress, groups=groups)
    return report.audits[0]


def _inner(ask: Callable[[Tensor], Tensor], margin: int, x: Tensor) -> Tensor:
    """The answers but those next to the border, or all where there are no others."""
    answers = ask(x)
    margin = min(margin, (min(answers.shape[-2:]) - 1) // 4)
    return answers[..., margin : answers.shape[-2] - margin, margin : answers.shape[-1] - margin]


def _square(segmenter: Segmenter) -> int:
    """The side next to AUDITED that the network takes without a frame: exact and other angles are then on one grid."""
    geometry = segmenter.geometry
    if geometry.padding:
        return AUDITED - AUDITED % geometry.grid
    return geometry.window + max(1, (AUDITED - geometry.window) // geometry.stride) * geometry.stride


def _squares(data: MaskDataset, side: int, number: int, seed: int) -> tuple[Tensor, list[str]]:
    """Squares spread over the images, smaller where an image is, and the group (or image) of each."""
    side = min(side, *(min(size) for size in data.sizes))
    names = data.groups or data.ids
    generator = np.random.default_rng([seed, 7])
    squares, groups = [], []
    for k in range(number):
        i = k * len(data) // number
        height, width = data.sizes[i]
        top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
        squares.append(data.image(i)[:, top : top + side, left : left + side])
        groups.append(names[i])
    return torch.stack(squares), groups


def example(segmenter: Segmenter, data: MaskDataset, index: int) -> MapExample:
    """The centre of an image: its map, and the map of the image turned by 90 degrees, turned back."""
    side = min(SHOWN, *data.sizes[index])
    image, truth = center_crop(data.image(index), side), center_crop(data.mask(index), side)
    turned = image.rot90(TURN // 90, (-2, -1))
    upright, after = (1 - predict_map(segmenter, picture)[0] for picture in (image, turned))
    back = after.rot90(-TURN // 90, (-2, -1))
    scores = evaluate_maps([count_map(_both(upright), (truth > 0).long().where(truth >= 0, truth).numpy())], ("", "x"),
                           bootstrap=0).metrics  # fmt: skip
    return MapExample(
        id=data.ids[index],
        angle=float(TURN),
        scores={"dice": scores["dice"].value},
        image=png(image),
        truth=grey((truth > 0).float()),
        map=grey(upright),
        turned_image=png(turned),
        turned_map=grey(after),
        turned_back=grey(back),
        difference=grey((upright - back).abs()),
        largest=float((upright - back).abs().max()),
    )


def _both(chance: Tensor) -> np.ndarray:
    return torch.stack((1 - chance, chance)).numpy()
