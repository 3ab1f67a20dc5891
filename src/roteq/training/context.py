"""What surrounds a training: the folder is held, Lightning is quiet, sums are repeatable."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..errors import UsageError
from .feed import world

EXPECTED = (  # what Lightning says about choices that are made on purpose here
    "The '.*_dataloader' does not have many workers",
    r"Found \d+ module\(s\) in eval mode",
    "GPU available but not used",
    ".*isinstance.treespec, LeafSpec.* is deprecated",
    ".*does not have a deterministic implementation",
)


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the folder while training. The lock dies with the process. Raises: UsageError if another one holds it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be an output folder ({error.strerror})") from None
    if sys.platform == "win32" or world()[0] != 0:
        yield
        return
    import fcntl

    with (out / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: reading processes would inherit it
        except (BlockingIOError, PermissionError):
            raise UsageError(f"{out}: another process is training in this folder") from None
        except OSError:
            pass  # a file system without locks
        try:
            for stale in out.glob(".*.tmp.*"):  # what a killed process was writing (files.atomic_path)
                stale.unlink(missing_ok=True)
            yield
        finally:
            (out / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                out.rmdir()  # a run that was refused leaves nothing


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its banners, and without its advice against what is meant here."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def repeatable(gpu: bool) -> Iterator[None]:
    """On a GPU, algorithms that give the same sum every time, wherever there are such; a CPU has no others."""
    if not gpu:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
