"""What there is to prepare: every supported layout read into one table of images, without decoding any.

| kind   | layout |
|--------|--------|
| kaggle | train/<id>.tif, train_labels.csv (id,label), optional train_groups.csv (id,group) and test/ (only counted) |
| pcam   | camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5 or .h5.gz, optional ..._meta.csv (column wsi) |
| folder | <class>/**/*.png, or {train,validation|valid|val,test}/<class>/**/*.png |
| digits, rotated_digits, cifar10 | arrays of many images, see arrays.py |
| csv    | a file path,label[,group][,split]; paths relative to the file |
| masks  | images/ with masks/, labels/ or a table of points, or a csv of them, see mask_sources.py |
"""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RoteqError, UsageError, nearest
from .images import is_image
from .splits import ALIASES

ARRAYS = ("digits", "rotated_digits", "cifar10")


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source. `path` is relative to the root; `row` counts within an HDF5 file."""

    id: str
    label: str
    path: str
    group: str | None = None
    split: str | None = None
    row: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,)


@dataclass(frozen=True)
class Source:
    kind: str
    root: Path
    items: list[Item]  # sorted by id
    labels: tuple[str, ...]  # as the source writes them, in class order
    names: tuple[str, ...]  # the classes they stand for, before the user renames them
    left_out: dict[str, int] = field(default_factory=dict)  # images that have no label, by reason

    @property
    def has_groups(self) -> bool:
        return any(item.group is not None for item in self.items)


def read_source(path: Path, kind: str = "auto", group_column: str | None = None) -> Source:
    """List the images of a source. `kind` "auto" looks at the path.

    Raises: UsageError for a path that is no source, RoteqError for tables that contradict themselves.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    kind = detect(path) if kind == "auto" else kind
    if group_column is not None and kind not in ("csv", "pcam", "masks"):
        raise UsageError(
            "group_column: only a csv or pcam source, or one with masks, has columns to choose from; "
            f"{path} is a {kind} source"
        )
    if kind == "masks":
        from .mask_sources import read_masks

        return read_masks(path, group_column)
    if kind == "pcam":
        from .pcam import read_pcam

        return read_pcam(path if path.is_dir() else path.parent, group_column or "wsi")
    if kind in ARRAYS:
        from .arrays import read_arrays

        return read_arrays(path if path.is_dir() else path.parent, kind)
    if kind == "csv":
        return read_csv(path, group_column or "group", required=group_column is not None)
    if not path.is_dir():
        raise UsageError(f"{path}: expected a folder for the kind {kind!r}, got a file")
    return read_kaggle(path) if kind == "kaggle" else read_folder(path)


def detect(path: Path) -> str:
    """The kind of a source, from the names in it."""
    from .mask_sources import is_mask_source

    if is_mask_source(path):
        return "masks"
    if path.is_file():
        if path.name.endswith((".h5", ".h5.gz")):
            return "pcam"
        if path.suffix.lower() == ".csv":
            return "csv"
        raise UsageError(f"{path}: expected a folder, a .csv or an .h5 file")
    from .arrays import detect_arrays

    if kind := detect_arrays(path):
        return kind
    if (path / "train_labels.csv").is_file():
        return "kaggle"
    if any(path.glob("camelyonpatch_level_2_split_*.h5*")):
        return "pcam"
    folders = [child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")]
    if any(next(_images(folder), None) for folder in folders):
        return "folder"
    raise UsageError(
        f"{path}: not a source of images; expected train_labels.csv beside train/, camelyonpatch_*.h5 files, "
        "one folder of images for every class, images/ with masks/ or labels/, or the path of a CSV file"
    )


def read_kaggle(root: Path) -> Source:
    """The layout of Kaggle's Histopathologic Cancer Detection. Labels are integers; 0 and 1 mean normal and tumour."""
    table = root / "train_labels.csv"
    groups: dict[str, str | None] | None = None
    if (root / "train_groups.csv").is_file():
        groups = {row["id"]: row["group"] or None for _, row in read_table(root / "train_groups.csv", ("id", "group"))}
    if not (root / "train").is_dir():
        raise UsageError(f"{root}: expected a folder train/ beside train_labels.csv")
    files = {Path(name).stem: name for name in sorted(os.listdir(root / "train")) if is_image(Path(name))}
    items, seen = [], set()
    for line, row in read_table(table, ("id", "label")):
        key = row["id"]
        if key in seen:
            raise RoteqError(f"{table}, line {line}: the id {key!r} occurs twice")
        if safe_name(key) != key:
            raise RoteqError(f"{table}, line {line}: expected an id that can be a file name, got {key!r}")
        seen.add(key)
        label = _integer(row["label"], f"{table}, line {line}")
        group = groups.get(key) if groups is not None else None
        items.append(Item(key, label, f"train/{files.get(key, key + '.tif')}", group))
    labels = tuple(sorted({item.label for item in items}, key=int))
    names = ("normal", "tumour") if set(labels) <= {"0", "1"} and len(labels) == 2 else labels
    left_out = {"no label (train/)": len(files.keys() - seen), "no label (test/)": _count(root / "test")}
    kind = "synthetic" if (root / "synthetic.json").is_file() else "kaggle"  # synthetic_tissue writes this layout
    return make_source(kind, root, items, labels, names, left_out)


def read_folder(root: Path) -> Source:
    """One folder a class, or such folders below train/, validation/ and test/."""
    children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    named = {child: ALIASES.get(child.name.lower()) for child in children}
    splits = {child: split for child, split in named.items() if split}
    is_split_tree = any(_folders(child) for child in splits)
    tops = list(splits.items()) if is_split_tree else [(root, None)]
    left_out = {f"no label ({child.name}/)": _count(child, deep=False) for child, _ in tops if child != root}
    if is_split_tree:
        left_out |= {f"outside the splits ({child.name}/)": _count(child) for child in children if child not in splits}
    else:
        left_out["outside the class folders"] = _count(root, deep=False)
    found, labels = [], set()
    for top, split in tops:
        for folder in _folders(top):
            labels.add(folder.name)
            found += [(path.relative_to(root), folder.name, split) for path in _images(folder)]
    ids = unique_ids([path for path, *_ in found])
    items = [Item(id, label, str(path), None, split) for id, (path, label, split) in zip(ids, found, strict=True)]
    ordered = tuple(sorted(labels))
    return make_source("folder", root, items, ordered, ordered, left_out)


def read_csv(table: Path, group_column: str = "group", required: bool = False) -> Source:
    """A CSV of path,label[,group][,split]. Other columns are ignored; `group_column` may name another one."""
    root, rows = table.parent, []
    for line, row in read_table(table, ("path", "label", *([group_column] if required else []))):
        split = row.get("split")
        if split is not None and split.lower() not in ALIASES:
            raise RoteqError(f"{table}, line {line}: column split: expected train, validation or test, got {split!r}")
        if not row["path"] or not row["label"]:
            raise RoteqError(
                f"{table}, line {line}: expected a path and a label, got {row['path']!r}, {row['label']!r}"
            )
        rows.append((row["path"], row["label"], row.get(group_column) or None, split and ALIASES[split.lower()]))
    twice = [path for path, n in Counter(path for path, *_ in rows).items() if n > 1]
    if twice:
        raise RoteqError(f"{table}: {len(twice)} paths occur more than once, for example {twice[0]!r}")
    ids = unique_ids([Path(path) for path, *_ in rows])
    items = [Item(id, label, path, group, split) for id, (path, label, group, split) in zip(ids, rows, strict=True)]
    labels = {item.label for item in items}
    ordered = tuple(sorted(labels, key=int if all(re.fullmatch(r"-?\d+", label) for label in labels) else str))
    return make_source("csv", root, items, ordered, ordered, {})


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file with a header; names and values are stripped.

    Raises: RoteqError if it is not such a file, lacks one of the columns, or a row is too short.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for name in columns:
                if name not in header:
                    found = ",".join(header) or "an empty file"
                    raise RoteqError(f"{path}: expected the columns {','.join(columns)}, got {found}")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) < len(header):
                    raise RoteqError(f"{path}, line {reader.line_num}: expected {len(header)} values, got {len(cells)}")
                yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RoteqError(f"{path}: not a readable CSV file ({error})") from None


def unique_ids(paths: Sequence[Path]) -> list[str]:
    """File names without suffix if they are unique, else longer and longer forms of the paths: always distinct, also
    where a file system ignores case, and always file names.

    >>> unique_ids([Path("a/1.png"), Path("a/2.png")]), unique_ids([Path("a/1.png"), Path("b/1.png")])
    (['1', '2'], ['a-1', 'b-1'])
    """
    forms = (
        lambda path: path.stem,
        lambda path: "-".join((*path.parent.parts, path.stem)),
        lambda path: "-".join(path.parts),
        lambda path: f"{path.stem}-{hashlib.sha256(path.as_posix().encode()).hexdigest()[:16]}",
    )
    for form in forms:
        ids = [safe_name(form(path)) for path in paths]
        if len({id.casefold() for id in ids}) == len(ids):
            break
    return ids


def safe_name(text: str) -> str:
    """The text as a file name: no separators, no leading dot, at most 150 bytes.

    >>> safe_name("../a:b")
    '_._a_b'
    """
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f\x7f]', "_", text).strip() or "_"
    name = "_" + name[1:] if name.startswith(".") else name
    if len(name.encode()) > 150:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = name.encode()[:130].decode(errors="ignore") + "-" + digest
    return name


def rename_classes(source: Source, names: dict[str, str] | list[str] | None) -> dict[str, str]:
    """Label of the source -> class name, in class order.

    A list names the labels in their order; a dictionary names each label and gives the order.
    Raises: UsageError if the labels are not those of the source, or a name cannot be a folder.
    """
    if names is None:
        result = dict(zip(source.labels, source.names, strict=True))
    elif isinstance(names, dict):
        for label in (*names, *source.labels):
            if label not in source.labels:
                raise UsageError(f"class_names: no image has the label {label!r}; {nearest(label, source.labels)}")
            if label not in names:
                raise UsageError(f"class_names: the label {label!r} has no name")
        result = dict(names)
    elif len(names) != len(source.labels):
        found = ", ".join(source.labels)
        raise UsageError(f"class_names: expected {len(source.labels)} names for the labels {found}, got {len(names)}")
    else:
        result = dict(zip(source.labels, names, strict=True))
    for name in result.values():
        if safe_name(name) != name:
            raise UsageError(f"class_names: the class {name!r} cannot be a folder name; give another one")
    if len({name.casefold() for name in result.values()}) != len(result):
        raise UsageError(f"class_names: expected different names, got {', '.join(result.values())}")
    return result


def make_source(
    kind: str, root: Path, items: list[Item], labels: tuple[str, ...], names: tuple[str, ...], left_out: dict[str, int]
) -> Source:
    """The table in the order of the ids, reasons without images dropped."""
    items.sort(key=lambda item: item.id)
    return Source(kind, root, items, labels, names, {reason: n for reason, n in left_out.items() if n})


def _integer(text: str, where: str) -> str:
    if not re.fullmatch(r"-?\d+", text):
        raise RoteqError(f"{where}: expected a whole number as label, got {text!r}")
    return str(int(text))


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if is_image(path))


def _count(folder: Path, deep: bool = True) -> int:
    if not folder.is_dir():
        return 0
    return sum(is_image(path) for path in (folder.rglob("*") if deep else folder.iterdir()))
