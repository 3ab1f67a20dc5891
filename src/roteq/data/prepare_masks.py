"""Images with masks to a prepared dataset: `<out>/<split>/images/<id>.png`, `<out>/<split>/masks/<id>.png`, index.csv,
points.csv where there are points, dataset.json.

The values of a mask become classes when all masks have been seen: the first pass (mask_images.py) stages them as the
source has them, with their counts, and the second pass writes indices of classes.
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import RoteqError, UsageError, nearest
from ..files import atomic_path
from ..results import DatasetInfo
from .checks import check_classes, check_form, check_splits
from .images import encode
from .mask_images import UNSET, MaskRecipe, staged_mask
from .mask_sources import BACKGROUND, UNNAMED, MaskItem
from .prepare import Outcome, PrepareOptions, draw_splits, place, refuse
from .sources import Source
from .splits import SPLITS
from .staging import Done, staged

IGNORED = "ignore"  # the class name of values that count as not labelled
UNKNOWN = 255  # what a prepared mask says of pixels that have no class
MOST = 32  # values that can be classes without being named
ENOUGH = 60  # images to be balanced by what they hold, and not in number alone
RADIUS = 6.0  # pixels: a nucleus at half a micron a pixel
COLUMNS = ("path", "mask", "split", "group", "source", "sha256", "pixels", "mask_sha256", "height", "width")


def mask_recipe(table: Source, options: PrepareOptions) -> MaskRecipe:
    """Raises: UsageError for options that images with masks do not have."""
    for name in ("crop", "size"):
        if getattr(options, name) is not None:
            raise UsageError(f"{name}: images with masks keep their size, training cuts windows; leave it out")
    if options.format != "png":
        raise UsageError("format: images with masks are stored as png, got jpeg")
    if options.radius is not None and not table.labels:
        raise UsageError(f"radius: only of points with a mask to be drawn; {table.root} has masks")
    return MaskRecipe(None, None, options.mode, "png", options.quality, table.labels, options.radius or RADIUS)


def mask_pass(
    table: Source, recipe: MaskRecipe, options: PrepareOptions, staging: Path, outcome: Outcome, out: Path
) -> DatasetInfo:
    """Values to classes; then draw the splits, move images to their place, write masks, points.csv and index.csv."""
    names = class_names(table, outcome.masks, options)
    classes = tuple(dict.fromkeys(name for name in names.values() if name != IGNORED))
    keep_usable(table, names, options, outcome)
    items = [item for item in compress(table.items, outcome.kept) if isinstance(item, MaskItem)]
    done, where = outcome.masks, str(table.root)
    pixels = [_pixels(one, names) for one in done]
    check_classes({name: sum(counted[name] for counted in pixels) for name in classes}, where)
    amounts, masks = thirds(pixels, classes), [one.mask for one in done]
    splits, rule, findings = draw_splits(table, list(items), amounts, outcome.contents, masks, options)
    counts = {s: dict.fromkeys(classes, 0) for s in SPLITS if s in set(splits)}
    for split, counted in zip(splits, pixels, strict=True):
        for name in classes:
            counts[split][name] += counted[name]
    findings += check_splits(counts, where) + check_form({}, outcome.converted)
    for split in counts:
        for folder in ("images", "masks"):
            (out / split / folder).mkdir(parents=True, exist_ok=True)
    rows, files = [], []
    numbers = compress(range(len(table.items)), outcome.kept)
    for number, item, split, one in zip(numbers, items, splits, done, strict=True):
        image, mask = f"{split}/images/{item.id}.png", f"{split}/masks/{item.id}.png"
        waiting = staged(staging, number, item, recipe)
        sha = write_mask(staged_mask(waiting), out / mask, names, classes)
        place(waiting, out / image)
        files += [f"{image} {one.sha256}\n", f"{mask} {sha}\n"]
        rows.append([image, mask, split, item.group or "", item.path, one.sha256, one.content, sha, *one.size])
    _write(out / "index.csv", COLUMNS, rows)
    if table.labels:
        _write(out / "points.csv", ("id", "x", "y", "label"), _points(items, table.labels, names))
    members = {(split, item.group) for split, item in zip(splits, items, strict=True) if item.group is not None}
    return DatasetInfo(
        name=out.resolve().name,
        source="",
        kind="masks",
        classes=classes,
        counts=counts,
        channels=1 if options.mode == "grey" else 3,
        size=done[0].size if len({one.size for one in done}) == 1 else None,
        options={},
        split_rule=rule,
        seed=options.seed,
        groups=dict(Counter(split for split, _ in sorted(members))),
        duplicates=len(items) - len(set(outcome.contents)),
        sha256=hashlib.sha256("".join(sorted(files)).encode()).hexdigest(),
        findings=tuple(findings),
        images={split: splits.count(split) for split in counts},
    )


def class_names(table: Source, done: list[Done], options: PrepareOptions) -> dict[str, str]:
    """Value of a staged mask -> class name or IGNORED, in class order.

    Raises: RoteqError for names that do not fit the values, and for more values than there can be classes. (Not
    UsageError, though the call may be wrong: it is known only now, and what was made so far has to go.)
    """
    found = sorted({int(value) for one in done for value in one.values})
    labels = dict(enumerate(table.labels)) if table.labels else {value: str(value) for value in found}
    names, known = options.class_names, list(labels.values())
    if names is None and len(labels) > MOST:
        raise RoteqError(
            f"{table.root}: expected a value for each class, at most {MOST}, got {len(labels)} values in the masks. "
            "Were they saved as JPEG, or do they number objects? Else name every value with class_names"
        )
    if isinstance(names, list):
        if len(names) != len(known):
            raise RoteqError(f"class_names: expected {len(known)} names for {', '.join(known)}, got {len(names)}")
        names = dict(zip(known, names, strict=True))
    names = dict(zip(known, known, strict=True)) if names is None else names
    if table.labels:
        names = {BACKGROUND: BACKGROUND} | names
        for label in known:
            if label not in names:
                raise RoteqError(f"class_names: the label {label!r} has no name")
    for label, name in names.items():
        if label not in known:
            raise RoteqError(f"class_names: no mask has {label!r}; {nearest(label, known)}")
        if not name:
            raise RoteqError(f"class_names: {label!r} has an empty name")
    if len({*names.values()} - {IGNORED}) > UNKNOWN:
        raise RoteqError(f"class_names: expected at most {UNKNOWN} classes, got {len({*names.values()})}")
    value_of = {label: str(value) for value, label in labels.items()}
    return {value_of[label]: name for label, name in names.items()}


def thirds(pixels: list[Counter[str]], classes: tuple[str, ...], enough: int = ENOUGH) -> list[str]:
    """Whether an image has little, some or much that is not the commonest class: splits should have as much of each.
    Of fewer than `enough` images nothing is said: to balance them too would cost the shares (10 images came out 4:4:2).

    >>> thirds([Counter(a=9, b=n) for n in (1, 4, 2)], ("a", "b"), enough=3)
    ['little', 'much', 'some']
    """
    if len(pixels) < enough:
        return [""] * len(pixels)
    common = max(classes, key=lambda name: sum(counted[name] for counted in pixels))
    shares = [counted[common] / counted.total() for counted in pixels]
    order = sorted(range(len(pixels)), key=lambda i: -shares[i])
    names = ("little", "some", "much")
    return [names[3 * rank // len(order)] for rank in np.argsort(order)]


def keep_usable(table: Source, names: Mapping[str, str], options: PrepareOptions, outcome: Outcome) -> None:
    """Leave out, or refuse, images whose mask has values without a name, or no labelled pixel."""
    reasons = [_trouble(one, names) for one in outcome.masks]
    paths = [item.path for item in compress(table.items, outcome.kept)]
    bad = [(path, f"{reason}{detail}") for path, (reason, detail) in zip(paths, reasons, strict=True) if reason]
    if bad and not options.skip_bad:
        refuse(bad, len(paths), table.root)
    usable = [not reason for reason, _ in reasons]
    rest = iter(usable)
    outcome.kept = [kept and next(rest) for kept in outcome.kept]
    outcome.contents = list(compress(outcome.contents, usable))
    outcome.masks = list(compress(outcome.masks, usable))
    outcome.skipped.update(reason for reason, _ in reasons if reason)


def _trouble(one: Done, names: Mapping[str, str]) -> tuple[str, str]:
    """Reason and detail, or two empty strings."""
    without = [value for value in one.values if value not in names]
    if without:
        listed = ", ".join(without[:5])
        return "mask values without a class name", f": {listed}; named are {', '.join(names)}"
    return ("", "") if any(_pixels(one, names).values()) else ("no labelled pixel", "")


def _pixels(one: Done, names: Mapping[str, str]) -> Counter[str]:
    """Class -> pixels of one image."""
    total: Counter[str] = Counter()
    for value, n in one.values.items():
        total[names[value]] += n * (names[value] != IGNORED)
    return total


def write_mask(waiting: Path, target: Path, names: Mapping[str, str], classes: tuple[str, ...]) -> str:
    """A staged mask as indices of classes; the SHA-256 of the file. The staged one stays until all is done."""
    table = np.full(UNSET + 1, UNKNOWN, np.uint8)
    for value, name in names.items():
        table[int(value)] = UNKNOWN if name == IGNORED else classes.index(name)
    with Image.open(waiting) as image:
        data = encode(Image.fromarray(table[np.asarray(image).astype(np.int64)]), "png", 0)
    ready = waiting.with_name(f"{waiting.stem}.ready")
    ready.write_bytes(data)
    os.replace(ready, target)
    return hashlib.sha256(data).hexdigest()


def _points(items: list[MaskItem], labels: tuple[str, ...], names: Mapping[str, str]) -> Iterator[list[object]]:
    """The points that are of a class, and not of the background."""
    name_of = {label: names[str(value)] for value, label in enumerate(labels)} | {UNNAMED: IGNORED}
    for item in items:
        for y, x, label in item.points or ():
            if name_of[label] not in (IGNORED, name_of[BACKGROUND]):
                yield [item.id, x, y, name_of[label]]


def _write(path: Path, header: tuple[str, ...], rows: Iterable[list[object]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
