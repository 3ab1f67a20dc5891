"""Raw images to a prepared dataset: `<out>/{train,validation,test}/<class>/<id>.<ext>`, index.csv, dataset.json; images
with masks to `<split>/images/<id>.png` and `<split>/masks/<id>.png` (prepare_masks.py).

A command that fails leaves nothing behind. A command that is killed, at whatever moment, leaves its work, and the same
command continues with it: the marker .preparing.json says what is being made, .staging/ holds the finished chunks
(staging.py), dataset.json is written last.
"""

import csv
import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ..config import Config
from ..errors import RoteqError, UsageError
from ..files import atomic_path, save_json
from ..results import DatasetInfo, Finding
from .arrays import unpack_array
from .checks import check_classes, check_duplicates, check_form, check_shares, check_splits
from .claim import claim, fingerprint, remove_work, work
from .pcam import unpack
from .sources import Item, Source, read_source, rename_classes
from .splits import SPLITS, assign, joined
from .staging import Done, Recipe, run_all, staged


class PrepareOptions(Config):
    """How raw images become a dataset.

    crop: side of the centre square that is kept; None keeps all. size: resized to this side after the crop.
    shares: of train, validation and test. split: "auto" keeps splits that the source names (and draws those it lacks
    from its train part), else splits by group where groups exist, else by image; "group" and "image" always draw anew.
    class_names: {label of the source: class name}, or the names in the order of the labels. group_column: the column
    of a csv (default group) or PCam meta file (default wsi) that names the slide or patient. limit: prepare so many
    images, drawn by the seed. skip_bad: leave out unusable images and count them, instead of stopping at the first.
    mpp: microns per pixel of the images as prepared. Masks: class_names names values (or labels of points) and orders
    them; equal names join, and what is named "ignore" counts as not labelled. radius: of the discs that points become.
    """

    kind: Literal["auto", "kaggle", "pcam", "folder", "csv", "masks", "digits", "rotated_digits", "cifar10"] = "auto"
    crop: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    mode: Literal["rgb", "grey"] = "rgb"
    format: Literal["png", "jpeg"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split: Literal["auto", "group", "image"] = "auto"
    class_names: dict[str, str] | list[str] | None = None
    group_column: str | None = None
    seed: int = 0
    limit: int | None = Field(default=None, ge=1)
    skip_bad: bool = False
    workers: int | None = Field(default=None, ge=1)
    mpp: float | None = Field(default=None, gt=0)
    radius: float | None = Field(default=None, ge=1)

    @field_validator("class_names", mode="before")
    @classmethod
    def _labels_are_text(cls, value: Any) -> Any:
        return {str(label): name for label, name in value.items()} if isinstance(value, dict) else value

    @field_validator("shares")
    @classmethod
    def _shares_sum_to_one(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or value[0] == 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("expected shares of train, validation and test that sum to 1, train above 0")
        return value


@dataclass
class Outcome:
    """The first pass in columns, one entry for each image kept: about 150 bytes an image, whatever its size."""

    kept: list[bool] = field(default_factory=list)  # for every image of the table
    contents: list[bytes] = field(default_factory=list)
    sha256: list[bytes] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    masks: list[Done] = field(default_factory=list)  # of images with masks: all that is known


def prepare(
    source: str | Path, out: str | Path, options: PrepareOptions | None = None, *, progress: bool = False
) -> DatasetInfo:
    """Prepare `source` (sources.py says what it may be) into the folder `out`.

    Called again with the same source and options it continues what was killed, or returns at once what is finished.
    Raises: UsageError for a path that is no source, options that do not fit it, or an output folder in use;
    RoteqError for bad images (unless skip_bad), contradicting tables, classes or splits that would be empty, and files
    that cannot be written.
    """
    source, out, options = Path(source), Path(out), options or PrepareOptions()
    chosen = options.model_dump(mode="json", exclude={"workers"})
    if not source.exists() and (info := claim(out, chosen, None, str(source.resolve()))):
        return info  # the raw data may be gone by now
    table, left_out = _table(source, out, options)
    recipe, second_pass = _passes(table, options)
    digest, missing = fingerprint(table)
    if info := claim(out, chosen, digest):
        return info
    if missing and not options.skip_bad:
        refuse([(name, "no such file") for name in missing], len(table.items), source)
    with work(out, chosen, digest) as staging:
        outcome = _first_pass(table, staging, recipe, options, progress)
        info = second_pass(staging, outcome, out)
        skipped = dict(sorted((outcome.skipped + Counter(left_out)).items()))
        info = replace(
            info, source=str(source.resolve()), skipped=skipped, options=chosen, source_sha256=digest, mpp=options.mpp
        )
        save_json(info, out / "dataset.json")
        remove_work(out)
    return info


def _table(source: Path, out: Path, options: PrepareOptions) -> tuple[Source, dict[str, int]]:
    """The images that take part, and how many do not, by reason."""
    table = read_source(source, options.kind, options.group_column)
    if out.resolve() == source.resolve() or (table.kind == "folder" and out.resolve().is_relative_to(source.resolve())):
        raise UsageError(f"{out}: the output folder lies in the source; choose another one")
    items, left_out = table.items, dict(table.left_out)
    if options.split == "group" and not table.has_groups:
        raise UsageError(f"split: {source} names no groups; expected split=image or split=auto")
    if _by_group(table, options) and _drawn(items, options):
        without = sum(item.group is None for item in items)
        if without and not options.skip_bad:
            raise RoteqError(
                f"{source}: {without} of {len(items)} images have no group; complete the groups, leave these images "
                "out with skip_bad, or split by image"
            )
        items = [item for item in items if item.group is not None]
        left_out |= {"no group": without} if without else {}
    if options.limit is not None and options.limit < len(items):
        left_out["beyond the limit"] = len(items) - options.limit
        items = sorted(random.Random(options.seed).sample(items, options.limit), key=lambda item: item.id)
    return replace(table, items=items), left_out


def _passes(table: Source, options: PrepareOptions) -> tuple[Recipe, Callable[[Path, Outcome, Path], DatasetInfo]]:
    """What the first pass makes of an image, and the second pass; options that do not fit the source are refused."""
    if table.kind == "masks":
        from .prepare_masks import mask_pass, mask_recipe

        of_masks = mask_recipe(table, options)
        return of_masks, partial(mask_pass, table, of_masks, options)
    if options.radius is not None:
        raise UsageError(f"radius: only of points with a mask to be drawn; {table.root} is a {table.kind} source")
    classes = rename_classes(table, options.class_names)
    present = Counter(item.label for item in table.items)
    check_classes({name: present[label] for label, name in classes.items()}, str(table.root))
    recipe = Recipe(options.crop, options.size, options.mode, options.format, options.quality)
    return recipe, partial(_second_pass, table, classes, recipe, options)


def _by_group(table: Source, options: PrepareOptions) -> bool:
    return options.split == "group" or (options.split == "auto" and table.has_groups)


def _drawn(items: list[Item], options: PrepareOptions) -> list[str]:
    """The splits that must be drawn, train first: all, or train and those that the source lacks; none if it has all."""
    wanted = [split for split, share in zip(SPLITS, options.shares, strict=True) if share > 0]
    given = {item.split for item in items} - {None}
    if not given or options.split != "auto":
        return wanted
    absent = [split for split in wanted if split not in given]
    return ["train", *absent] if absent and "train" in given else []


def _first_pass(table: Source, staging: Path, recipe: Recipe, options: PrepareOptions, progress: bool) -> Outcome:
    for name in sorted({item.path for item in table.items if item.row is not None}):
        if table.kind != "pcam":
            unpack_array(table.root / name, staging, turned=table.kind == "rotated_digits")
        elif name.endswith(".gz"):
            unpack(table.root / name, staging)
    outcome, bad = Outcome(), []
    with (
        _bar(len(table.items), progress) as advance,
        closing(run_all(table.items, table.root, staging, recipe, options.workers)) as chunks,
    ):
        for items, results in chunks:
            for item, done in zip(items, results, strict=True):
                outcome.kept.append(not done.reason)
                if done.reason:
                    outcome.skipped[done.reason] += 1
                    bad.append((item.path if item.row is None else item.id, f"{done.reason}: {done.detail}"))
                    continue
                outcome.contents.append(bytes.fromhex(done.content))
                outcome.sha256.append(bytes.fromhex(done.sha256))
                outcome.sizes[done.size] += 1
                outcome.converted.update([done.converted] if done.converted else [])
                outcome.masks += [done] if done.mask else []
            advance(len(items))
            if bad and not options.skip_bad:
                refuse(bad, len(outcome.kept), table.root)
            bad.clear()
    return outcome


def _second_pass(
    table: Source,
    classes: dict[str, str],
    recipe: Recipe,
    options: PrepareOptions,
    staging: Path,
    outcome: Outcome,
    out: Path,
) -> DatasetInfo:
    """Draw the splits, move every file to its place, write index.csv."""
    items = list(compress(table.items, outcome.kept))
    labels = [classes[item.label] for item in items]
    present = Counter(labels)
    check_classes({name: present[name] for name in classes.values()}, str(table.root))
    splits, rule, findings = draw_splits(table, items, labels, outcome.contents, labels, options)
    tally = Counter(zip(splits, labels, strict=True))
    counts = {s: {c: tally[s, c] for c in classes.values()} for s in SPLITS if s in set(splits)}
    findings += check_splits(counts, str(table.root)) + check_form(outcome.sizes, outcome.converted)
    members = {(split, item.group) for split, item in zip(splits, items, strict=True) if item.group is not None}
    for split in counts:
        for name in classes.values():
            (out / split / name).mkdir(parents=True, exist_ok=True)
    paths = [f"{s}/{c}/{item.id}{recipe.suffix}" for s, c, item in zip(splits, labels, items, strict=True)]
    numbers = compress(range(len(table.items)), outcome.kept)
    for number, item, path in zip(numbers, items, paths, strict=True):
        place(staged(staging, number, item, recipe), out / path)
    _write_index(out / "index.csv", paths, labels, splits, items, outcome)
    lines = sorted(f"{path} {sha.hex()}\n" for path, sha in zip(paths, outcome.sha256, strict=True))
    return DatasetInfo(
        name=out.resolve().name,
        source="",
        kind=table.kind,
        classes=tuple(classes.values()),
        counts=counts,
        channels=1 if options.mode == "grey" else 3,
        size=next(iter(outcome.sizes)) if len(outcome.sizes) == 1 else None,
        options={},
        split_rule=rule,
        seed=options.seed,
        groups=dict(Counter(split for split, _ in sorted(members))),
        duplicates=len(items) - len(set(outcome.contents)),
        sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        findings=tuple(findings),
    )


def draw_splits(
    table: Source,
    items: list[Item],
    labels: list[str],
    contents: list[bytes],
    truths: list[str],
    options: PrepareOptions,
) -> tuple[list[str], str, list[Finding]]:
    """The split of every image that is kept, the rule in words, and what to know about it. Balanced over `labels`;
    equal `contents` should have equal `truths`."""
    by_group = _by_group(table, options)
    drawn = _drawn(items, options)
    whole = drawn and (options.split != "auto" or items[0].split is None)
    subset = [i for i, item in enumerate(items) if drawn and (whole or item.split == "train")]
    splits = [item.split or "" for item in items]
    groups = [item.group for item in items] if by_group else [None] * len(items)
    findings: list[Finding] = []
    how = "by group" if by_group else "by image" + ", stratified by class" * (len(set(labels)) > 1)
    if drawn:
        wanted = dict(zip(SPLITS, options.shares, strict=True))
        total = sum(wanted[split] for split in drawn)
        shares = {split: wanted[split] / total for split in drawn}
        ids = [items[i].id for i in subset]
        parts = joined(ids, [contents[i] for i in subset], [groups[i] for i in subset])
        placed = assign(ids, [labels[i] for i in subset], parts, shares, options.seed)
        for i, split in zip(subset, placed, strict=True):
            splits[i] = split
        findings += check_shares(Counter(placed), shares)
        if not by_group:
            message = "The source names no groups or they were not used: one slide or patient may sit in two splits."
            advice = "Name the slide or patient of each image: without it every model looks better than it is."
            findings.append(Finding("no groups", "warn", message, advice))
    rule = (
        how if whole else "given by the source" + (f"; {', '.join(drawn[1:])} drawn from train {how}" if drawn else "")
    )
    return splits, rule, check_duplicates(truths, contents, groups, splits) + findings


def place(waiting: Path, target: Path) -> None:
    try:
        os.replace(waiting, target)
    except FileNotFoundError:
        if not target.exists():  # else it was placed before a kill
            raise RoteqError(f"{target}: lost while being prepared; give the command again") from None


def _write_index(
    path: Path, paths: list[str], labels: list[str], splits: list[str], items: list[Item], outcome: Outcome
) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "split", "group", "source", "sha256", "pixels"])
        columns = zip(paths, labels, splits, items, outcome.sha256, outcome.contents, strict=True)
        for name, label, split, item, sha, content in columns:
            source = item.path if item.row is None else f"{item.path}#{item.row}"
            writer.writerow([name, label, split, item.group or "", source, sha.hex(), content.hex()])


def refuse(bad: list[tuple[str, str]], seen: int, source: Path) -> None:
    listed = "".join(f"\n  {name}: {why}" for name, why in bad[:5])
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise RoteqError(
        f"{source}: {len(bad)} unusable among the {seen} images looked at so far:{listed}{more}\n"
        "Repair or remove them, or leave them out with skip_bad (they are counted in the summary)."
    )


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function to report progress to: a bar on the screen, or nothing."""
    if not shown:
        yield lambda n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)
