"""Maps of slides: their speed against the bare network on the same tiles in memory, and the memory they need.

    python benchmarks/slides.py                                the ratio, on a slide of 4,000 x 4,000 pixels
    python benchmarks/slides.py --side 100000 --tissue 0.005 --rounds 0    the memory, on a large slide

Budget: the ratio at least 0.85, the peak below 2 GB beyond the model. Both sides answer the same batches with the same
network; one has them in memory, the other opens the slide, reads, answers, writes the map and keeps its journal. They
take turns; the median of the rounds is printed, and beside it the ratio with everything that is drawn at the end. The
memory is that of this process and its readers together (shared pages counted once), sampled every 50 ms, beyond what
this process had once the network was loaded and asked for the first time about nothing.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from roteq.slides import SlideConfig, map_slide, open_slide, tissue_mask, write_slide
from roteq.slides.asking import Asker
from roteq.slides.plan import make_plan
from roteq.slides.reading import Source, read_batch
from roteq.slides.running import scale_of
from roteq.training import Classifier, Segmenter
from roteq.training.measure import device

NETWORKS = {
    "p4m_densenet": (Classifier, {"name": "p4m_densenet"}),
    "se2_pcam": (Classifier, {"name": "se2_pcam"}),
    "g_unet": (Segmenter, {"name": "g_unet"}),
    "small": (Classifier, {"name": "p4m_densenet", "group": "Z2", "growth": 4}),
}


def network(name: str) -> Classifier:
    kind, options = NETWORKS[name]
    torch.manual_seed(0)
    made = kind(options, {}, ["normal", "tumour"], 3, 0.5)
    made.mean.fill_(170)
    made.std.fill_(60)
    return made.to(device()).eval()


def seconds_bare(asker: Asker, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    begin = time.perf_counter()
    for tiles, wanted in batches:
        answers = asker(tiles, wanted)
    answers.cpu()
    return time.perf_counter() - begin


def in_memory(
    asker: Asker, model: Classifier, slide: Path, config: SlideConfig
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All tiles, as map_slide asks about them."""
    with open_slide(slide) as opened:
        scale, tissue = scale_of(opened, model, config), tissue_mask(opened)
        plan = make_plan(opened.size, scale, asker.tiling, tissue.mask, tissue.downsample)
    source, found = Source(slide, None, scale, asker.tiling.side), []
    for start in range(0, len(plan.tiles), asker.batch_size):
        tiles = plan.tiles[start : start + asker.batch_size]
        pixels = torch.from_numpy(read_batch(source, [plan.corner(tile) for tile in tiles]).pixels).movedim(3, 1)
        found.append((pixels, torch.from_numpy(np.stack([plan.wanted(tile) for tile in tiles]))))
    return found


def used() -> float:
    """MB of this process and those it started."""
    total, here = 0, Path("/proc/self")
    children = {pid for task in here.glob("task/*/children") for pid in task.read_text().split()}
    for process in (here, *(Path("/proc") / pid for pid in children)):
        with suppress(OSError):  # it ended
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@contextmanager
def peak() -> Iterator[list[float]]:
    """The most that was used meanwhile, MB."""
    found, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            found[0] = max(found[0], used())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--tissue", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3, help="of both sides; 0: only the memory")
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    config, model = SlideConfig(workers=args.workers), network(args.network)
    with tempfile.TemporaryDirectory(prefix="slides-") as folder:
        work = Path(folder)
        slide = work / "slide.tif"
        write_slide(slide, (args.side, args.side), mpp=0.5, tissue=args.tissue)
        asker, start = Asker(model, config), used()
        if args.rounds:
            batches = in_memory(asker, model, slide, config)
            seconds_bare(asker, batches[:2])
            bare, mapped, whole = [], [], []
            for i in range(args.rounds):
                bare.append(seconds_bare(asker, batches))
                begin = time.perf_counter()
                result = map_slide(model, slide, work / str(i), config, progress=False)
                whole.append(time.perf_counter() - begin)
                mapped.append(result.seconds)
                print(f"  bare {bare[-1]:.2f} s, mapped {mapped[-1]:.2f} s, with what is drawn {whole[-1]:.2f} s")
            ratios = [statistics.median(b / s for b, s in zip(bare, side, strict=True)) for side in (mapped, whole)]
            speed = result.tiles / statistics.median(bare)
            print(f"{result.tiles} tiles of {asker.tiling.side} pixels, {speed:.3g} a second from memory")
            print(f"throughput against the bare network: {ratios[0]:.3f}, with what is drawn {ratios[1]:.3f}")
            return
        begin = time.perf_counter()
        with peak() as found:
            result = map_slide(model, slide, work / "maps", config, progress=True)
        size = sum(path.stat().st_size for path in (work / "maps").iterdir()) / 1e6
        print(f"{args.side} x {args.side} pixels, {result.tiles} tiles, map {result.map_size}, {size:.1f} MB of files")
        print(f"{time.perf_counter() - begin:.0f} s, of which {result.seconds:.0f} s were reading and answering")
        print(f"peak {found[0]:.0f} MB, {found[0] - start:.0f} MB beyond the model")


if __name__ == "__main__":
    main()
