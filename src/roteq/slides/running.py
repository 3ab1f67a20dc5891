"""A trained network over a whole slide: tissue, tiles, answers, map, and everything that is drawn from it."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.staging import available_cores
from ..errors import UsageError
from ..files import load_json, save_json
from ..inference import load_classifier, unfamiliar
from ..report.words import plural
from ..results import ClassArea, FailedTile, Finding, SlideResult
from ..training import Classifier
from ..training.feed import Pixels, count_pixels
from . import heatmap
from .asking import Asker
from .config import SlideConfig
from .journal import Journal, check_identity, held
from .opening import SAME, Slide, choose_level, open_slide
from .plan import Plan, make_plan
from .reading import Scale, Source, stream
from .regions import Region, find_regions, write_geojson
from .tissue import tissue_mask
from .viewer import LONGEST, colours_of, write_overlay, write_viewer

READERS = 4  # processes that read, at most, where nothing else is said
OUTLINED = 4096  # the longest side of the level whose regions are outlined, cells
DRAWN = 1024  # the longest side of the level in the page
FILES = {
    "heat map": "{}.ome.tif",
    "regions": "{}.geojson",
    "overlay": "{}.png",
    "page": "{}.html",
}


def map_slide(
    model: Classifier | str | Path,
    slide: str | Path,
    out: str | Path,
    config: SlideConfig | None = None,
    *,
    progress: bool = True,
) -> SlideResult:
    """Ask the network about all tissue of a slide. In `out`: <name>.json (the result), .ome.tif (the map, a pyramid),
    .geojson (regions, for QuPath), .png (map over slide), .html (a page to look at).

    model: a trained network, its run folder or its checkpoint. Killed at any moment and called again it continues, and
    ends with the same map as if it had not been; a finished slide is only read.
    Memory does not grow with the slide. What has no tissue or could not be read is unknown, never 0.

    Raises: UsageError for settings that do not fit the slide or the network, or if `out` holds another map of that
    name; RoteqError for files that are no slide or no checkpoint.
    """
    slide, config = Path(slide), config or SlideConfig()
    classifier = model if isinstance(model, Classifier) else load_classifier(model)
    asker = Asker(classifier, config)
    name = slide.name.removesuffix(slide.suffix).removesuffix(".ome")
    target, work = Path(out) / f"{name}.json", Path(out) / f"{name}.work"
    identity = identity_of(slide, classifier, asker, config)
    if target.is_file():
        found = load_json(SlideResult, target)
        check_identity(target, found.identity, identity)
        return found
    with ExitStack() as stack:
        opened = stack.enter_context(open_slide(slide, mpp=config.slide_mpp))
        scale = scale_of(opened, classifier, config)
        stack.enter_context(held(work))
        tissue = tissue_mask(opened)
        plan = make_plan(opened.size, scale, asker.tiling, tissue.mask, tissue.downsample)
        journal = Journal(work, identity, (len(asker.classes), *plan.map_size))
        source = Source(slide, config.slide_mpp, scale, asker.tiling.side)
        workers = min(READERS, available_cores()) if config.workers is None else config.workers
        answer(plan, asker, journal, source, workers, progress)
        thumbnail = opened.thumbnail(LONGEST)
        findings = findings_of(opened, plan, classifier, config, journal, thumbnail)
        result = finish(opened, plan, asker, journal, config, thumbnail, findings, name)
        save_json(result, target)
        journal.remove()
    return result


def identity_of(slide: Path, classifier: Classifier, asker: Asker, config: SlideConfig) -> dict[str, Any]:
    """What the numbers of a map depend on."""
    weights = hashlib.sha256()
    for key, value in sorted(classifier.state_dict().items()):
        weights.update(key.encode())
        weights.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    size = slide.stat().st_size if slide.is_file() else None
    settings = config.model_dump(mode="json", exclude={"workers"}) | {"batch_size": asker.batch_size}
    label = classifier.model_config.label
    return {"slide": f"{slide.name}, {size} bytes", "model": f"{label} {weights.hexdigest()[:16]}", **settings}


def scale_of(slide: Slide, classifier: Classifier, config: SlideConfig) -> Scale:
    """Raises: UsageError if slide or network do not say how wide their pixels are, or there is no such level."""
    mpp = config.mpp or classifier.mpp
    if mpp is None and config.level is None:
        raise UsageError(
            "mpp: the checkpoint does not say how many microns a pixel of its training data was wide; give it, such as "
            "--mpp 0.5, or --level 0 to take a level as it is"
        )
    level, factor = choose_level(slide, mpp or 1.0)  # which refuses a slide that does not say it, whatever is wanted
    assert slide.mpp is not None
    if config.level is not None:
        level, downsample = config.level, slide.level(config.level).downsample
        factor = 1.0 if mpp is None else mpp / (slide.mpp * downsample)
        factor = 1.0 if abs(factor - 1) <= SAME else factor
    shrink = slide.levels[level].downsample * factor
    return Scale(level, factor, slide.mpp * shrink, shrink)


def answer(plan: Plan, asker: Asker, journal: Journal, source: Source, workers: int, progress: bool) -> None:
    """All batches that are not done. While the device works on one, the last is written and the next are read."""
    size = asker.batch_size
    batches = [plan.tiles[start : start + size] for start in range(0, len(plan.tiles), size)]
    todo = [i for i in range(len(batches)) if i not in journal.done]
    corners = [[plan.corner(tile) for tile in batches[i]] for i in todo]
    waiting: tuple[int, Tensor, dict[int, str]] | None = None

    def write(batch: int, answers: Tensor, failed: dict[int, str]) -> None:
        places = [plan.place(tile) for tile in batches[batch]]
        reasons = {batch * size + i: reason for i, reason in failed.items()}
        journal.write(batch, answers.cpu().numpy(), places, reasons)

    with shown(len(plan.tiles), progress) as advance, closing(stream(source, corners, workers)) as regions:
        advance(len(plan.tiles) - sum(len(batches[i]) for i in todo))
        try:
            for i, read in zip(todo, regions, strict=True):
                wanted = np.stack([plan.wanted(tile) for tile in batches[i]])
                wanted[list(read.failed)] = False
                tiles = torch.from_numpy(read.pixels).movedim(3, 1)
                answers = asker(tiles, torch.from_numpy(wanted))
                if waiting:
                    write(*waiting)
                waiting = i, answers, read.failed
                advance(len(batches[i]))
            if waiting:
                write(*waiting)
        finally:
            journal.commit()


@contextmanager
def shown(total: int, progress: bool) -> Iterator[Any]:
    """A bar on stderr with the tiles and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("mapping", total=total)
        yield lambda tiles: bar.advance(task, tiles)


def findings_of(
    slide: Slide, plan: Plan, classifier: Classifier, config: SlideConfig, journal: Journal, thumbnail: np.ndarray
) -> list[Finding]:
    """What is unusual about this slide."""
    found = [Finding("pixel size", "warn", note, "") for note in slide.notes]
    mpp, known, failed, tiles = plan.scale.mpp, classifier.mpp, len(journal.failed), len(plan.tiles)
    if known and abs(mpp / known - 1) > 0.1:
        message = f"the network sees {mpp:.3g} microns per pixel and was trained on {known:.3g}"
        found.append(Finding("microns per pixel", "warn", message, "Leave out level and mpp, unless this is meant."))
    if plan.scale.factor < 0.9:
        message = f"the slide is coarser than what the network sees: enlarged {1 / plan.scale.factor:.3g} times"
        found.append(Finding("resolution", "warn", message, "Train on images as coarse as the slide."))
    if not tiles:
        advice = "Look at the overlay; pale or dark slides may hide their tissue."
        found.append(Finding("empty slide", "warn", "no tissue was found, so the network was asked nothing", advice))
        return found
    ys, xs = (
        np.minimum(((np.arange(n) + 0.5) * size / n / plan.tissue_step).astype(int), side - 1)
        for n, size, side in zip(thumbnail.shape[:2], slide.size, plan.tissue.shape, strict=True)
    )
    pixels = thumbnail[plan.tissue[np.ix_(ys, xs)]]
    if len(pixels):
        found += unfamiliar(classifier, Pixels(count_pixels(torch.from_numpy(pixels.T.copy())[None])))
    if failed:
        first = journal.failed[min(journal.failed)]
        message = f"{failed} of {plural(tiles, 'tile')} could not be read and are unknown; the first: {first}"
        level: Literal["stop", "warn"] = "stop" if failed == tiles else "warn"
        found.append(Finding("unread tiles", level, message, "Copy or export the slide again."))
    return found


def outlined(
    slide: Slide, plan: Plan, asker: Asker, config: SlideConfig, levels: list[heatmap.Map], histogram: np.ndarray
) -> tuple[tuple[ClassArea, ...], list[list[Region]]]:
    """Share and area of every class at full resolution, and its regions, from a level that is small enough."""
    assert slide.mpp is not None
    cell = (plan.downsample * slide.mpp / 1000) ** 2
    number = next(i for i, level in enumerate(levels) if max(level.shape[1:]) <= OUTLINED)
    areas, found = [], []
    for k, (label, colour) in enumerate(zip(asker.classes, colours_of(len(asker.classes)), strict=True)):
        regions, all_of_them = find_regions(
            levels[number].read(k, slice(None), slice(None)),
            config.threshold,
            name=label,
            colour=colour,
            downsample=plan.downsample * 2**number,
            size=slide.size,
            mpp=slide.mpp,
        )
        known, above = int(histogram[k, 1:].sum()), int(histogram[k, heatmap.value_of(config.threshold) :].sum())
        mean = float(histogram[k, 1:] @ np.arange(255) / 254 / known) if known else None
        areas.append(ClassArea(label, above / known if known else None, above * cell, mean, all_of_them))
        found.append(regions)
    return tuple(areas), found


def finish(
    slide: Slide,
    plan: Plan,
    asker: Asker,
    journal: Journal,
    config: SlideConfig,
    thumbnail: np.ndarray,
    findings: list[Finding],
    name: str,
) -> SlideResult:
    """Count, outline and draw what the map says."""
    assert slide.mpp is not None
    seconds = journal.seconds
    out, names, colours = journal.folder.parent, list(asker.classes), colours_of(len(asker.classes))
    files = {what: form.format(name) for what, form in FILES.items()}
    cell = (plan.downsample * slide.mpp / 1000) ** 2
    levels, histogram = heatmap.pyramid(journal.map, journal.folder), journal.map.histogram()
    areas, found = outlined(slide, plan, asker, config, levels, histogram)
    tissue = sum(int(band.sum()) for band in plan.bands())
    cells = plan.map_size[0] * plan.map_size[1]
    result = SlideResult(
        name=name,
        slide=slide.path.name,
        size=slide.size,
        slide_mpp=slide.mpp,
        model=asker.classifier.model_config.label,
        classes=asker.classifier.classes,
        level=plan.scale.level,
        mpp=plan.scale.mpp,
        stride=plan.tiling.stride,
        map_size=plan.map_size,
        downsample=plan.downsample,
        threshold=config.threshold,
        tissue=tissue / cells,
        tissue_area=tissue * cell,
        unknown_area=(tissue - int(histogram[0, 1:].sum())) * cell,
        areas=areas,
        tiles=len(plan.tiles),
        failed=tuple(failed_tile(plan, plan.tiles[tile], reason) for tile, reason in sorted(journal.failed.items())),
        seconds=round(seconds, 3),
        tiles_per_second=len(plan.tiles) / seconds if plan.tiles else None,
        findings=tuple(findings),
        files=files,
        identity=journal.identity,
    )
    heatmap.write_pyramid(
        levels,
        out / files["heat map"],
        names=names,
        colours=colours,
        microns=plan.downsample * slide.mpp,
        about=f"{heatmap.MEANING}; a cell is {plan.downsample:g} pixels of {slide.path.name} wide",
    )
    write_geojson([region for regions in found for region in regions], out / files["regions"])
    drawn = next(i for i, level in enumerate(levels) if max(level.shape[1:]) <= DRAWN)
    step = plan.downsample * 2**drawn
    write_overlay(thumbnail, levels[drawn], step, result, out / files["overlay"])
    write_viewer(thumbnail, levels[drawn], step, histogram, found, result, out / files["page"])
    return result


def failed_tile(plan: Plan, tile: tuple[int, int], reason: str) -> FailedTile:
    """Its cells, in pixels of level 0."""
    rows, columns = plan.place(tile)
    step = plan.downsample
    return FailedTile(
        y=round(rows.start * step),
        x=round(columns.start * step),
        height=round((rows.stop - rows.start) * step),
        width=round((columns.stop - columns.start) * step),
        reason=reason,
    )
