"""Slides that are text files, each telling how its work goes; the workers of a pool or a cluster import this."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

from roteq.errors import RoteqError
from roteq.files import load_json, save_json
from roteq.results import ClassArea, SlideResult

TILES = 4


def write_slides(folder: Path, **orders: str) -> list[Path]:
    """One slide for each: "ok", "slow", "fail", "die", "die once", "error", "error once"."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.svs" for name in orders]
    for path, order in zip(paths, orders.values(), strict=True):
        path.write_text(order)
    return paths


def fake_map(model: str, slide: str, out: str, config: Any, *, progress: bool = True) -> SlideResult:
    """As map_slide: continues from its journal, and a finished slide is only read. Who did what stays in <name>.log."""
    path, name, me = Path(slide), Path(slide).stem, f"{socket.gethostname()}:{os.getpid()}"
    target, work, log = Path(out) / f"{name}.json", Path(out) / f"{name}.work", Path(out) / f"{name}.log"
    if target.is_file():
        return load_json(SlideResult, target)
    order = path.read_text()
    with log.open("a") as file:
        file.write(f"begin {me}\n")
    attempts = log.read_text().count("begin")
    work.mkdir(exist_ok=True)
    journal = work / "journal"
    journal.touch()
    for tile in range(len(journal.read_text().splitlines()), TILES):
        time.sleep(0.3 if order == "slow" else 0.01)
        if tile == TILES // 2:
            if order == "fail":
                raise RoteqError(f"{slide}: a damaged slide")
            if order == "error" or (order == "error once" and attempts == 1):
                raise ZeroDivisionError("a bug")
            if order == "die" or (order == "die once" and attempts == 1):
                os.kill(os.getpid(), signal.SIGKILL)
        with journal.open("a") as file:
            file.write(f"tile {tile} {me}\n")
    with log.open("a") as file:
        file.write(journal.read_text() + f"end {me}\n")
    result = mapped(name)
    save_json(result, target)
    shutil.rmtree(work)
    return result


def assert_done_once(out: Path, name: str) -> list[str]:
    """Every tile of the slide, in order, by the processes that it gives back."""
    lines = [line.split() for line in (out / f"{name}.log").read_text().splitlines()]
    assert [line[1] for line in lines if line[0] == "tile"] == [str(tile) for tile in range(TILES)]
    assert sum(line[0] == "end" for line in lines) == 1
    assert not (out / f"{name}.work").exists() and not (out / f"{name}.lease").exists()
    return list(dict.fromkeys(line[2] for line in lines if line[0] == "tile"))


def mapped(name: str, **values: Any) -> SlideResult:
    """The result of no slide."""
    plain: dict[str, Any] = {
        "name": name,
        "slide": f"{name}.svs",
        "size": (100, 100),
        "slide_mpp": 0.5,
        "model": "fake",
        "classes": ("normal", "tumour"),
        "level": 0,
        "mpp": 0.5,
        "stride": 4,
        "map_size": (25, 25),
        "downsample": 4.0,
        "threshold": 0.5,
        "tissue": 0.5,
        "tissue_area": 1.25,
        "unknown_area": 0.0,
        "areas": (ClassArea("tumour", 0.25, 0.3, 0.4, 3),),
        "tiles": TILES,
        "failed": (),
        "seconds": 1.0,
        "tiles_per_second": 4.0,
        "findings": (),
        "files": {},
    }
    return SlideResult(**plain | values)
