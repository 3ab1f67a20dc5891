"""Which label belongs to which image, and which output of the model it stands for."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..data.sources import read_table
from ..errors import UsageError, nearest
from ..metrics.arrays import as_array
from ..results import Finding
from .gathering import Pile

KEYS = ("path", "image", "filename", "id")  # columns of a table that may name the image
LABEL, GROUP = "label", "group"
SHOWN = 8  # names in a message
UNLABELLED = "or --labels none to audit without labels"


class Labels(NamedTuple):
    """values: (N,) outputs of the model, (N, K) of 0 and 1, or None. classes: names of the outputs, () unknown."""

    values: np.ndarray | None
    classes: tuple[str, ...]
    groups: list[str] | None
    findings: tuple[Finding, ...] = ()


def find_labels(
    pile: Pile,
    at: np.ndarray,
    labels: Any,
    classes: Sequence[str] | None,
    groups: Any,
    label_column: str | None = None,
) -> Labels:
    """Labels of the images `at` of the pile, as outputs of the model.

    labels: one for each image of the pile, a table (CSV), "none", or None: those of the pile. Names are looked up among
    `classes`, the names of the outputs in their order; where these are unknown, the sorted names are the outputs.
    Numbers are outputs. Raises: UsageError naming what does not fit, and the option that helps.
    """
    outputs = tuple(map(str, classes or ()))
    values, known, by_folder = pile.labels, pile.classes, pile.by_folder
    values = None if values is None else as_array(values)[at]
    found_groups = None if pile.groups is None else [pile.groups[i] for i in at]
    if labels is False or (isinstance(labels, str | Path) and str(labels) == "none"):
        values = None
    elif isinstance(labels, str | Path):
        values, known, own = read_labels(Path(labels), pile, at, label_column)
        by_folder, found_groups = False, own or found_groups
    elif labels is not None:
        values, known, by_folder = _one_each("labels", as_array(labels), len(pile))[at], (), False
    if groups is not None:
        found_groups = [str(group) for group in _one_each("groups", as_array(groups), len(pile))[at]]
    if values is not None and by_folder and len(known) == 1 and known[0] not in outputs:
        values = None  # one folder of images is no class
    if values is not None and values.dtype.kind in "iu" and values.size and bool((values == -1).all()):
        values = None  # how datasets say that there are none
    if values is None:
        return Labels(None, (), found_groups)
    found, names = as_outputs(values, known, outputs)
    return Labels(found, names, found_groups, _sorting(known) if by_folder and not outputs else ())


def as_outputs(values: Any, known: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, as names or as indices into `known`, as indices of the model's outputs; and the names of the outputs.

    >>> as_outputs(["ig", "platelet"], (), ("platelet", "ig"))
    (array([1, 0]), ('platelet', 'ig'))
    """
    values = as_array(values)
    if values.dtype.kind in "USO" and values.ndim == 1:
        known = tuple(sorted({str(value) for value in values}))
        number = {name: i for i, name in enumerate(known)}
        values = np.array([number[str(value)] for value in values])
    if values.dtype.kind == "f" and np.array_equal(values, values.round()):
        values = values.astype(np.int64)
    if values.dtype.kind not in "iub" or values.ndim not in (1, 2) or not values.size:
        raise UsageError(
            f"labels: expected class indices or names (N,), or (N, K) of 0 and 1, got {values.dtype} {values.shape}"
        )
    values = values.astype(np.int64)
    if values.ndim == 2:
        return _columns(values, known, outputs)
    if values.min() < 0 or (known and values.max() >= len(known)):
        rest = f"to {len(known) - 1}, " if known else ""
        raise UsageError(f"labels: expected indices from 0 {rest}got {values.min()} to {values.max()}")
    if known and (outputs or not _are_numbers(known)):
        used = [known[k] for k in np.unique(values)]
        if not outputs:
            return values, known
        if set(used) <= set(outputs):
            place = {name: i for i, name in enumerate(outputs)}
            return np.array([place.get(name, -1) for name in known])[values], outputs
        if not _are_numbers(known):
            raise _strange(used, outputs)
    if known:
        values = np.array([int(name) for name in known])[values]
    if values.min() < 0 or (outputs and values.max() >= len(outputs)):
        raise UsageError(
            f"labels: expected 0 to {len(outputs) - 1} for the {len(outputs)} classes {_few(outputs)}, "
            f"got {values.min()} to {values.max()}; name the outputs in their order with --classes, {UNLABELLED}"
            if outputs
            else f"labels: expected numbers from 0, got {values.min()}"
        )
    return values, outputs


def _columns(
    values: np.ndarray, known: tuple[str, ...], outputs: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    if not np.isin(values, (0, 1)).all():
        raise UsageError(f"labels: expected (N, K) of 0 and 1, got values from {values.min()} to {values.max()}")
    if not known or not outputs or known == outputs:
        if outputs and len(outputs) != values.shape[1]:
            raise UsageError(f"labels: expected a column for each of {len(outputs)} classes, got {values.shape[1]}")
        return values, outputs or known
    if missing := [name for name in outputs if name not in known]:
        raise UsageError(
            f"classes: no column of labels is called {missing[0]!r} ({nearest(missing[0], known)}); name the outputs "
            f"in their order with --classes, {UNLABELLED}"
        )
    return values[:, [known.index(name) for name in outputs]], outputs


def _strange(used: Sequence[str], outputs: Sequence[str]) -> UsageError:
    strange = [name for name in used if name not in outputs]
    return UsageError(
        f"classes: the images are labelled {_few(used)}; the model's outputs are called {_few(outputs)}; "
        f"{strange[0]!r} is none of them ({nearest(strange[0], list(outputs)[:50])}). Name the outputs in their order "
        f"as the images do, with --classes, {UNLABELLED}"
    )


def _sorting(known: tuple[str, ...]) -> tuple[Finding, ...]:
    """Folders 0 ... 10 are sorted as text, 0 1 10 2, by torchvision's ImageFolder, whose users would be misled."""
    if not _are_numbers(known) or sorted(known) == sorted(known, key=int):
        return ()
    message = "the folders are numbers, and are taken for the numbers of the outputs"
    advice = (
        f"torchvision's ImageFolder sorts folders as text; for a model trained with it give --classes "
        f"{','.join(sorted(known))}."
    )
    return (Finding("labels", "warn", message, advice),)


def _are_numbers(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"\d+", name) for name in names)


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + rest


def _one_each(what: str, values: np.ndarray, n: int) -> np.ndarray:
    if values.ndim == 0 or len(values) != n:
        got = "one" if values.ndim == 0 else len(values)
        raise UsageError(f"{what}: expected one for each of {n} images, got {got}")
    return values


def read_labels(
    table: Path, pile: Pile, at: np.ndarray, label_column: str | None = None
) -> tuple[np.ndarray, tuple[str, ...], list[str] | None]:
    """(labels, classes, groups) of a CSV: a column path, image, filename or id, and one called label, or several of 0
    and 1, which are independent labels; group if there is one.

    Raises: UsageError where images have no row, or rows cannot be told apart.
    """
    if not table.is_file():
        raise UsageError(f"labels: {table}: no such file")
    rows = [row for _, row in read_table(table, ())]
    columns = list(rows[0]) if rows else []
    key = next((column for name in KEYS for column in columns if column.lower() == name), None)
    if key is None:
        raise UsageError(
            f"labels: {table}: expected rows with a column {' or '.join(KEYS)}, got {_few(columns) or 'none'}"
        )
    if label_column is not None and label_column not in columns:
        raise UsageError(f"label_column: {table} has no column {label_column!r}; {nearest(label_column, columns)}")
    matched = match_rows(table, [row[key] for row in rows], pile, at)
    groups = [rows[i][GROUP] for i in matched] if GROUP in columns else []
    own = groups if groups and all(groups) else None
    column = label_column or next((name for name in columns if name.lower() == LABEL), None)
    if column is not None:
        if empty := [pile.names[i] for i, row in zip(at, matched, strict=True) if not rows[row][column]]:
            raise UsageError(f"{table}: {len(empty)} of {len(at)} images have no label, the first {empty[0]}")
        known = tuple(sorted({row[column] for row in rows if row[column]}))
        number = {name: i for i, name in enumerate(known)}
        return np.array([number[rows[i][column]] for i in matched]), known, own
    others = tuple(name for name in columns if name.lower() not in (*KEYS, GROUP, "split"))
    flags = tuple(name for name in others if all(rows[i][name] in ("0", "1", "0.0", "1.0") for i in matched))
    if len(flags) < 2:
        hint = f"; name one of {_few(others)} with --label-column" if others else ""
        raise UsageError(f"labels: {table}: expected a column label, or several of 0 and 1, got {_few(columns)}{hint}")
    return np.array([[int(float(rows[i][name])) for name in flags] for i in matched]), flags, own


def match_rows(table: Path, keys: Sequence[str], pile: Pile, at: np.ndarray) -> list[int]:
    """The row of each image: by path, below the images' folder or beside the table, by id, by name, by name without
    ending; the first of these that finds every image, each in one row of its own."""
    names = [pile.names[i] for i in at]
    best: tuple[int, list[int]] = (-1, [])  # images found, images without a row
    doubtful = ""
    for of_key, called in _forms(table, pile, at):
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(of_key(key), []).append(row)
        found = [rows.get(name, []) for name in called]
        times = Counter(called)
        twice = [i for i, hits in enumerate(found) if len(hits) > 1 or (hits and times[called[i]] > 1)]
        if not twice and all(found):
            return [hits[0] for hits in found]
        if twice:
            first, n = twice[0], max(len(found[twice[0]]), times[called[twice[0]]])
            what = "rows" if len(found[first]) > 1 else "images"
            doubtful = doubtful or f"{n} {what} are called {called[first]!r}; tell them apart by their paths"
        elif sum(map(bool, found)) > best[0]:
            best = sum(map(bool, found)), [i for i, hits in enumerate(found) if not hits]
    if doubtful and best[0] <= 0:
        raise UsageError(f"{table}: {doubtful}, as in {names[0]}")
    missing = [names[i] for i in best[1]]
    hint = f"; its first row is {keys[0]!r}" if len(missing) == len(names) and keys else ""
    raise UsageError(f"{table}: no row for {len(missing)} of {len(names)} images, the first {missing[0]}{hint}")


def _forms(table: Path, pile: Pile, at: np.ndarray) -> list[tuple[Callable[[str], str], list[str]]]:
    """How rows and images may be called."""
    names, ids = [pile.names[i] for i in at], [pile.ids[i] for i in at]

    def plain(text: str) -> str:
        return os.path.normpath(text.replace("\\", "/"))

    forms: list[tuple[Callable[[str], str], list[str]]] = [(plain, [plain(name) for name in names])]
    if pile.root is not None:
        beside = [os.path.abspath(pile.root / name) for name in names]
        forms.append((lambda key: os.path.abspath(plain(key)), beside))
    forms.append((str, ids))
    if pile.root is not None:
        last = [PurePosixPath(name) for name in names]
        forms.append((lambda key: PurePosixPath(plain(key)).name, [path.name for path in last]))
        forms.append((lambda key: PurePosixPath(plain(key)).stem, [path.stem for path in last]))
        forms.append((lambda key: PurePosixPath(plain(key)).name, [path.stem for path in last]))  # a.b without ending
    return forms
