"""What is done of a map, so that it can be continued after any end: a folder with the map and a list of batches.

The list is written after the map, and both reach the disk before more is noted, so that what is noted is in the map.
A batch that was answered but not yet noted is answered again, with the same tiles in it and so the same numbers.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import write_text
from .heatmap import Map

COMMIT = 5.0  # seconds of work that a killed process may lose


class Journal:
    """The work on one map in a folder of its own.

    Raises: UsageError if the folder holds the work of another slide, model or setting.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], shape: tuple[int, int, int]) -> None:
        self.folder, self.path, self.identity = folder, folder / "journal.jsonl", identity
        self.done: set[int] = set()
        self.failed: dict[int, str] = {}  # tile -> reason
        self.before = 0.0  # seconds of the runs before
        self._pending: list[int] = []
        self._failures: dict[int, str] = {}
        self._start = self._committed = time.monotonic()
        rows = self._rows()
        if rows:
            check_identity(folder, rows[0], identity)
            self.map = Map(folder / "map.u8", shape)
            for row in rows[1:]:
                self.done |= set(row["done"])
                self.failed |= {int(tile): reason for tile, reason in row["failed"].items()}
                self.before = row["seconds"]
        else:
            self.map = Map(folder / "map.u8", shape)
            self.map.create()
            write_text(self.path, json.dumps(identity) + "\n")

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self._start

    def write(self, batch: int, blocks: np.ndarray, places: list[tuple[slice, slice]], failed: dict[int, str]) -> None:
        """The cells of a batch: blocks (B, C, n, n) at their places in the map."""
        for block, place in zip(blocks, places, strict=True):
            self.map.write(place, block)
        self._pending.append(batch)
        self._failures |= failed
        if time.monotonic() - self._committed > COMMIT:
            self.commit()

    def commit(self) -> None:
        """Note what was written since the last time."""
        self._committed = time.monotonic()
        if not self._pending:
            return
        self.map.sync()
        row = {"done": self._pending, "failed": self._failures, "seconds": round(self.seconds, 3)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done |= set(self._pending)
        self.failed |= self._failures
        self._pending, self._failures = [], {}

    def remove(self) -> None:
        rmtree(self.folder, ignore_errors=True)

    def _rows(self) -> list[dict[str, Any]]:
        """What is noted; a last line that was cut off is taken away."""
        if not self.path.is_file():
            return []
        rows, whole = [], 0
        content = self.path.read_bytes()
        for line in content.splitlines(keepends=True):
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
            if not line.endswith(b"\n"):
                rows.pop()
                break
            whole += len(line)
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        return rows


def check_identity(where: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises: UsageError naming what differs."""
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        key = differing[0]
        raise UsageError(
            f"{where}: was made with another {key} ({_short(found.get(key))}, now {_short(wanted[key])}); choose "
            "another folder, or remove it"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder; the lock dies with the process. Raises: UsageError if another process maps this slide."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(f"{folder}: another process is working on this slide") from None
        except OSError:
            pass  # a file system without locks
        yield
