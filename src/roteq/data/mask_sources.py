"""Images with a class for every pixel: every supported layout read into one table, without decoding any.

| layout | |
|--------|-|
| folder | images/** and masks/** or labels/** of the same names, optional fields/** (0: outside the field of view) |
| folder | images/** and one CSV of image,x,y[,label]: a point in each object; x counts columns, y rows, from 0 |
| csv    | image,mask[,field][,group][,split], or image,x,y[,label][,group][,split]; paths relative to the file |

A folder may hold train/, validation/ and test/ of such layouts, and groups.csv or images.csv beside images/:
image,group[,split]. Names are compared without their suffix. A row without x and y is an image without any point.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import RoteqError, UsageError, nearest
from .images import IMAGE_SUFFIXES, is_image
from .sources import Item, Source, make_source, read_table, unique_ids
from .splits import ALIASES

FOLDERS, GROUPS = ("masks", "labels"), ("groups.csv", "images.csv")
BACKGROUND, OBJECT, UNNAMED = "background", "nucleus", ""  # labels of what has no point, and of points without a label
Point = tuple[float, float, str]  # y, x, label; UNNAMED: of a class that is not known


@dataclass(frozen=True, slots=True)
class MaskItem(Item):
    """`truth` is the mask, or the CSV file of the points; `field` the field of view."""

    truth: str = ""
    field: str | None = None
    points: tuple[Point, ...] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path, self.truth, *([self.field] if self.field else []))


def is_mask_source(path: Path) -> bool:
    """Whether a folder or a CSV file has one of the layouts above, judged by names alone."""
    if path.is_file():
        return path.suffix.lower() == ".csv" and (_has(path, "image", "mask") or _has(path, "image", "x", "y"))
    return any((top / "images").is_dir() and (_mask_folders(top) or _point_tables(top)) for top, _ in _tops(path))


def read_masks(path: Path, group_column: str | None) -> Source:
    """The table of `path`. Where it comes from points its labels are known: background first.

    Raises: UsageError for a path of another layout, RoteqError for tables that contradict themselves.
    """
    left_out: dict[str, int] = {}
    if path.is_file():
        root, items = path.parent, _from_csv(path, group_column)
    else:
        root, items = path, []
        for top, split in _tops(path):
            found, lost = _from_folder(top, root, split, group_column)
            items += found
            left_out |= {f"{reason} ({top.name}/)" if split else reason: n for reason, n in lost.items()}
    if not items:
        raise RoteqError(f"{path}: found no image with a mask or points")
    ids = unique_ids([Path(item.path) for item in items])
    items = [replace(item, id=id) for id, item in zip(ids, items, strict=True)]
    labels: tuple[str, ...] = ()
    if any(item.points is not None for item in items):
        named = {label for item in items for *_, label in item.points or ()} - {UNNAMED}
        labels = (BACKGROUND, *sorted(named - {BACKGROUND}))
    return make_source("masks", root, list[Item](items), labels, labels, left_out)


def _from_folder(
    top: Path, root: Path, split: str | None, group_column: str | None
) -> tuple[list[MaskItem], dict[str, int]]:
    folders = _mask_folders(top)
    tables = [] if folders else _point_tables(top)
    if not (top / "images").is_dir() or len(folders) + len(tables) != 1:
        several = ", ".join(path.name for path in (*folders, *tables)) or "none of these"
        raise UsageError(f"{top}: expected images/ and either masks/, labels/ or one CSV of image,x,y, got {several}")
    images, given = _by_name(top / "images"), _groups(top, group_column)
    points = _points(tables[0], images) if tables else {}
    masks, fields = (_by_name(folders[0]), _by_name(top / "fields")) if folders else ({}, {})
    items = []
    for name, path in images.items():
        if tables and name not in points:
            continue
        truth = tables[0] if tables else masks.get(name, folders[0] / f"{name}.*")  # missing: refused with all others
        field = fields.get(name, top / "fields" / f"{name}.*") if fields else None
        group, own = given.get(name, (None, None))
        items.append(
            MaskItem(
                id="",
                label="",
                path=path.relative_to(root).as_posix(),
                group=group,
                split=split or own,
                truth=truth.relative_to(root).as_posix(),
                field=field.relative_to(root).as_posix() if field else None,
                points=points[name] if tables else None,
            )
        )
    lost = {f"no point in {tables[0].name}": len(images) - len(items)} if tables else {}
    return items, lost | ({f"no image ({folders[0].name}/)": len(masks.keys() - images.keys())} if folders else {})


def _from_csv(table: Path, group_column: str | None) -> list[MaskItem]:
    column, with_masks = group_column or "group", _has(table, "image", "mask")
    needed = ("image", "mask") if with_masks else ("image", "x", "y")
    first: dict[str, MaskItem] = {}
    points: dict[str, list[Point]] = {}
    for line, row in read_table(table, (*needed, *([group_column] if group_column else []))):
        where, name = f"{table}, line {line}", row["image"]
        if not name or (with_masks and not row["mask"]):
            raise RoteqError(f"{where}: expected an image and its mask or points, got {','.join(row.values())}")
        item = MaskItem(
            id="",
            label="",
            path=name,
            group=row.get(column) or None,
            split=_split(row.get("split"), where),
            truth=row["mask"] if with_masks else table.name,
            field=row.get("field") or None if with_masks else None,
        )
        if with_masks and name in first:
            raise RoteqError(f"{where}: the image {name!r} occurs twice")
        if item != first.setdefault(name, item):
            raise RoteqError(f"{where}: the image {name!r} has another group or split than in an earlier line")
        if not with_masks:
            points.setdefault(name, []).extend(_point(row, where))
    return [item if with_masks else replace(item, points=tuple(points[name])) for name, item in first.items()]


def _points(table: Path, images: dict[str, Path]) -> dict[str, tuple[Point, ...]]:
    """Name of the image -> its points."""
    found: dict[str, list[Point]] = {}
    for line, row in read_table(table, ("image", "x", "y")):
        name = _bare(row["image"])
        if name not in images:
            raise RoteqError(f"{table}, line {line}: no image {row['image']!r} in images/; {nearest(name, images)}")
        found.setdefault(name, []).extend(_point(row, f"{table}, line {line}"))
    return {name: tuple(points) for name, points in found.items()}


def _point(row: dict[str, str], where: str) -> Iterator[Point]:
    if not row["x"] and not row["y"]:
        return
    try:
        y, x = float(row["y"]), float(row["x"])
    except ValueError:
        y = x = math.nan
    if not math.isfinite(y + x):
        raise RoteqError(f"{where}: expected two numbers x,y, got {row['x']!r},{row['y']!r}")
    yield y, x, row.get("label", OBJECT)


def _groups(top: Path, group_column: str | None) -> dict[str, tuple[str | None, str | None]]:
    """Name of the image -> (group, split), from the first table that has them."""
    column = group_column or "group"
    for table in (top / name for name in GROUPS):
        if table.is_file() and (_has(table, "image", column) or (not group_column and _has(table, "image", "split"))):
            return {
                _bare(row["image"]): (row.get(column) or None, _split(row.get("split"), f"{table}, line {line}"))
                for line, row in read_table(table, ("image",))
            }
    if group_column:
        raise UsageError(f"group_column: no table {' or '.join(GROUPS)} with image,{group_column} in {top}")
    return {}


def _split(name: str | None, where: str) -> str | None:
    if not name:
        return None
    if name.lower() not in ALIASES:
        raise RoteqError(f"{where}: column split: expected train, validation or test, got {name!r}")
    return ALIASES[name.lower()]


def _tops(root: Path) -> list[tuple[Path, str | None]]:
    """The folder itself, or those of its splits."""
    if (root / "images").is_dir():
        return [(root, None)]
    named = [(child, ALIASES.get(child.name.lower())) for child in sorted(root.iterdir())]
    return [(child, split) for child, split in named if split and (child / "images").is_dir()] or [(root, None)]


def _mask_folders(top: Path) -> list[Path]:
    return [top / name for name in FOLDERS if (top / name).is_dir()]


def _point_tables(top: Path) -> list[Path]:
    return [path for path in sorted(top.glob("*.csv")) if _has(path, "image", "x", "y")]


def _has(table: Path, *columns: str) -> bool:
    """Whether the first line names these columns; False for what is no CSV file at all."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return set(columns) <= {name.strip() for name in next(csv.reader(file), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _by_name(folder: Path) -> dict[str, Path]:
    """Path in the folder without suffix -> file. Raises: RoteqError if two images share it."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if is_image(path) and path != found.setdefault(_bare(path.relative_to(folder).as_posix()), path):
            other = found[_bare(path.relative_to(folder).as_posix())]
            raise RoteqError(f"{folder}: {path.name} and {other.name} differ in their suffix alone; keep one")
    return found


def _bare(name: str) -> str:
    """
    >>> _bare("TCGA-1.2.png"), _bare("TCGA-1.2")
    ('TCGA-1.2', 'TCGA-1.2')
    """
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path).as_posix()
