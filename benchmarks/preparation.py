"""Preparation against decoding and encoding alone, with the same number of processes. Budget: at most 1.3 times.

    python benchmarks/preparation.py [SOURCE] [--patches 5000] [--processes 2] [--crop 32] [--mode rgb]

SOURCE is a folder in the Kaggle layout; without it synthetic tissue is made. Both sides decode the same files, crop,
convert and write the same encoding with the same processes started the same way; preparation besides lists and checks
the source, hashes, keeps the record for a restart, splits, places the files and writes the index. The two sides take
turns; the median of three is printed, of the time and of the processor time, which other jobs disturb less.
"""

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from roteq.data import PrepareOptions, prepare, synthetic_tissue
from roteq.data.images import decode, encode, fit


def convert(path: Path, out: Path, crop: int | None, mode: str) -> None:
    image = fit(decode(path)[0], crop=crop, mode=mode)
    (out / f"{path.stem}.png").write_bytes(encode(image, "png", 95))


def alone(paths: list[Path], out: Path, crop: int | None, mode: str, processes: int) -> None:
    out.mkdir()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(partial(convert, out=out, crop=crop, mode=mode), paths, chunksize=64))


def seconds(job: Callable[[], object]) -> tuple[float, float]:
    """Of the clock and of the processors, this process and those it has ended."""

    def used() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before, start = used(), time.perf_counter()
    job()
    return time.perf_counter() - start, used() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--patches", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--crop", type=int, default=None)
    parser.add_argument("--mode", choices=["rgb", "grey"], default="rgb")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="preparation-"))
    try:
        source = args.source or synthetic_tissue(work / "source", patches=args.patches)
        paths = sorted((source / "train").iterdir())
        options = PrepareOptions(crop=args.crop, mode=args.mode, workers=args.processes)
        prepared, baseline = [], []
        for i in range(3):
            one, two = work / f"alone{i}", work / f"whole{i}"
            baseline.append(seconds(partial(alone, paths, one, args.crop, args.mode, args.processes)))
            prepared.append(seconds(partial(prepare, source, two, options)))
            shutil.rmtree(one)
            shutil.rmtree(two)
            print(
                f"{len(paths)} patches: alone {baseline[-1][0]:.2f} s (processors {baseline[-1][1]:.2f} s), "
                f"prepare {prepared[-1][0]:.2f} s ({prepared[-1][1]:.2f} s)"
            )
        clock, processor = (
            statistics.median(row[k] for row in prepared) / statistics.median(row[k] for row in baseline)
            for k in (0, 1)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"ratio {clock:.2f} with {args.processes} processes (budget 1.30), of processor time {processor:.2f}")
        print(f"peak memory of the main process {peak:.0f} MB")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
