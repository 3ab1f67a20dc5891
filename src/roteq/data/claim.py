"""Who may write to an output folder: no foreign file is touched, finished work is returned, killed work continued."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RoteqError, UsageError
from ..files import load_json, write_text
from ..results import DatasetInfo
from .sources import Source
from .splits import SPLITS

MARKER, STAGING = ".preparing.json", ".staging"


def fingerprint(table: Source) -> tuple[str, list[str]]:
    """SHA-256 of the table with the size and date of every file; and the files that are missing."""
    digest, missing = hashlib.sha256(table.kind.encode()), []
    stamps: dict[str, str] = {}
    for item in table.items:
        found = []
        for name in item.files:
            stamp = stamps.get(name, "")
            if not stamp:
                try:
                    status = os.stat(table.root / name)
                    stamp = f"{status.st_size} {status.st_mtime_ns}"
                except OSError:
                    stamp = "missing"
                    missing.append(name)
                if item.row is not None or name != item.path:  # others come once
                    stamps[name] = stamp
            found.append(stamp)
        row = (item.id, item.label, item.group, item.split, item.path, item.row, " ".join(found))
        digest.update(repr(row).encode())
    return digest.hexdigest(), missing


def claim(out: Path, options: dict[str, Any], digest: str | None, source: str | None = None) -> DatasetInfo | None:
    """The finished dataset, if it was made from this source with these options; None if the folder is free for it.

    Raises: UsageError if the folder holds anything else.
    """
    if (out / "dataset.json").is_file():
        try:
            info = load_json(DatasetInfo, out / "dataset.json")
        except RoteqError as error:
            raise UsageError(f"{out}: the output folder is in use ({error})") from None
        same = info.source_sha256 == digest if digest is not None else info.source == source
        _check_same(out, info.options, options, same)
        remove_work(out)
        return info
    if digest is None:
        return None
    if (out / MARKER).is_file():
        state = load_json(dict, out / MARKER)
        _check_same(out, state["options"], options, state["source"] == digest)
    elif out.exists() and (not out.is_dir() or any(not _is_temporary(child) for child in out.iterdir())):
        raise UsageError(f"{out}: the output folder is in use: it is not empty; choose another one")
    return None


def _check_same(out: Path, old: dict[str, Any], new: dict[str, Any], same_source: bool) -> None:
    changes = [f"{key} was {old.get(key)}, now {new[key]}" for key in new if old.get(key) != new[key]]
    changes += [] if same_source else ["the source differs"]
    if changes:
        raise UsageError(
            f"{out}: the output folder is in use by another preparation ({'; '.join(changes)}); choose another folder, "
            "or remove this one"
        )


@contextmanager
def work(out: Path, options: dict[str, Any], digest: str) -> Iterator[Path]:
    """Mark and lock the folder and give its staging folder. A RoteqError removes all that was made; a kill nothing.

    Raises: UsageError if another process is preparing into it; RoteqError if it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RoteqError(f"{out}: could not be made: {error.strerror or error}") from None
    try:
        if not (out / MARKER).exists():
            write_text(out / MARKER, json.dumps({"options": options, "source": digest}))
        with _lock(out / MARKER):
            try:
                yield out / STAGING
            except OSError as error:
                raise RoteqError(f"{out}: could not be written: {error.strerror or error}") from None
    except UsageError:
        raise
    except RoteqError:
        discard(out)
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path.parent}: the output folder is in use: another process is preparing it") from None
        except OSError:
            pass  # a network disk without locks
        yield


def remove_work(out: Path) -> None:
    """Remove what only a preparation under way needs."""
    shutil.rmtree(out / STAGING, ignore_errors=True)
    for path in [out / MARKER, *filter(_is_temporary, out.iterdir())]:
        path.unlink(missing_ok=True)


def discard(out: Path) -> None:
    """Remove everything a preparation has made; the folder was empty before it."""
    for split in SPLITS:
        shutil.rmtree(out / split, ignore_errors=True)
    for name in ("index.csv", "points.csv"):
        (out / name).unlink(missing_ok=True)
    remove_work(out)
    if not any(out.iterdir()):
        out.rmdir()


def _is_temporary(path: Path) -> bool:
    """What atomic_path leaves when it is killed."""
    return re.fullmatch(r"\.(\.preparing|dataset|index|points)\.\d+\.tmp\.\w+", path.name) is not None
