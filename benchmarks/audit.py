"""What an audit costs beside the bare forward passes that it needs, and its memory.

    OMP_NUM_THREADS=1 python benchmarks/audit.py [--images 16] [--rounds 5]
    python benchmarks/audit.py --memory 500 5000

Time: the audit (turning, statistics, bootstrap) and as many passes of pictures that are already on the device, in the
same batches, alternate in one process; processor time, the ratio is the median over the rounds. Memory: the peak of a
process that audits a folder of that many pictures with se2cnn, each file read once (Linux only).
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import roteq
from roteq.auditing import AuditConfig
from roteq.auditing.looking import batch_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", metavar="N", help="peak memory at these numbers of images")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak is not None:
        print(peak(args.peak))
        return
    if args.memory is not None:
        for number in args.memory or (500, 5000):
            command = [sys.executable, __file__, "--peak", str(number)]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"{number:6,} images: peak {float(found):,.0f} MiB")
        return
    print(f"{'':24}{'images':>8}{'passes':>9}{'audit':>10}{'passes alone':>14}{'ratio':>8}")
    for name, crop, stored, images in (("resnet18", 224, 320, args.images), ("se2cnn", 32, 48, 8 * args.images)):
        model = roteq.create(name, in_channels=3, num_classes=2).eval()
        for label, side in ((f"{name} {crop} of {stored}", stored), (f"{name} {crop} of {crop}", crop)):
            measure(label, model, crop, side, images, args.rounds)


def measure(label: str, model: nn.Module, crop: int, side: int, images: int, rounds: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (images, 3, side, side), dtype=np.uint8))
    config = AuditConfig(images=0)
    step = batch_size(torch.device("cpu"), (3, side, side), None)
    ratios, audits, bare = [], [], []
    for _ in range(rounds):
        start = time.process_time()
        result = roteq.audit(model, pixels, size=crop, normalize="unit", config=config, details=False)
        audits.append(time.process_time() - start)
        x = torch.rand(min(step, images), 3, crop, crop)
        start = time.process_time()
        with torch.inference_mode():
            for _ in range(result.passes // len(x)):
                model(x)
        bare.append((time.process_time() - start) * result.passes / (result.passes // len(x) * len(x)))
        ratios.append(audits[-1] / bare[-1])
    numbers = f"{images:>8,}{result.passes:>9,}{statistics.median(audits):>9.2f}s{statistics.median(bare):>13.2f}s"
    print(f"{label:24}{numbers}{statistics.median(ratios):>8.3f}")


def peak(number: int) -> float:
    """MiB of a process that audits `number` files."""
    model = roteq.create("se2cnn", in_channels=3, num_classes=8).eval()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(number):
            Image.fromarray(generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(Path(folder, f"{i:05}.png"))
        roteq.audit(model, folder, size=32, resize=0, normalize="unit", config=AuditConfig(images=0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
