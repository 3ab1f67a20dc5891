"""Training throughput of se2cnn (C12, 32x32x1), beside the same network made of plain nn.Conv2d with as many channels.

    python benchmarks/training_step.py [--batch 64 256] [--group C12] [--rounds 15]

The two networks alternate in one process; the ratio is the median over the rounds. The founding study reached 80 to 160
images/s with its 36x36x1 network.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from roteq.models import create
from roteq.nn import plain

STEPS = 4  # in a row, before it is the other network's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--group", default="C12")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.size}x{args.size}x1, {args.group}")
    for batch in args.batch:
        torch.manual_seed(0)
        tied = create("se2cnn", in_channels=1, num_classes=2, group=args.group)
        twin = plain(tied).train()
        images, labels = torch.randn(batch, 1, args.size, args.size), torch.randint(2, (batch,))
        optimizers = {net: torch.optim.Adam(net.parameters()) for net in (tied, twin)}
        for net in (tied, twin):
            steps(net, optimizers[net], images, labels)
        times = [[steps(net, optimizers[net], images, labels) for net in (tied, twin)] for _ in range(args.rounds)]
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(
            f"batch {batch}: se2cnn {STEPS * batch / ours:,.0f} images/s, "
            f"plain twin {STEPS * batch / theirs:,.0f} images/s, ratio {ratio:.3f}"
        )


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
