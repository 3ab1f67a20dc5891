"""Training steps of the networks, beside the same networks made of plain nn.Conv2d with as many channels.

    python benchmarks/networks.py [NAME ...] [--rounds 9]

The two alternate in one process; the ratio is the median over the rounds. Sizes and batches are those of the papers,
batches smaller where a step would take long. Building is the fastest of five, in a process that has built others. The
founding study reached 80 to 160 images/s with its network.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

from roteq.models import create
from roteq.nn import plain

NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {  # model, options, channels, side, batch
    "z2cnn": ("z2cnn", {}, 1, 28, 128),
    "p4cnn_rotation_pooling": ("p4cnn_rotation_pooling", {}, 1, 28, 128),
    "p4cnn": ("p4cnn", {}, 1, 28, 128),
    "e2_mnist C8 small": ("e2_mnist", {"group": "C8", "width": 0.25, "kernel": 5}, 1, 28, 64),
    "allcnn_c p4m": ("allcnn_c", {"group": "p4m"}, 3, 32, 32),
    "resnet44 p4m": ("resnet44", {"group": "p4m"}, 3, 32, 16),
    "resnet26 p4m": ("resnet26", {"group": "p4m"}, 3, 32, 8),
    "g_unet p4": ("g_unet", {"group": "p4"}, 3, 96, 8),
    "g_unet p4m": ("g_unet", {"group": "p4m"}, 3, 96, 8),
    "g_unet C8": ("g_unet", {"group": "C8"}, 3, 96, 8),
    "p4m_densenet p4m": ("p4m_densenet", {}, 3, 96, 8),
    "p4m_densenet Z2": ("p4m_densenet", {"group": "Z2"}, 3, 96, 16),
    "se2_pcam C8": ("se2_pcam", {"group": "C8"}, 3, 96, 16),
    "se2cnn C12": ("se2cnn", {"group": "C12"}, 1, 32, 64),
    "se2cnn C12, large batch": ("se2cnn", {"group": "C12"}, 1, 32, 256),
}
DIGITS = 12_000  # of rotated MNIST, in an epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.names or NETWORKS:
        model, options, channels, side, batch = NETWORKS[name]
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            tied = create(model, in_channels=channels, num_classes=10, **options)
            seconds.append(time.perf_counter() - begin)
        twin = plain(tied).train()
        images, labels = torch.randn(batch, channels, side, side), torch.randint(10, (batch, side, side))
        labels = labels if model == "g_unet" else labels[:, 0, 0]
        optimizers = {net: torch.optim.Adam(net.parameters()) for net in (tied, twin)}
        rounds = [[_step(net, optimizers[net], images, labels) for net in (tied, twin)] for _ in range(args.rounds + 1)]
        ours, theirs = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
        ratio = statistics.median(a / b for a, b in rounds[1:])
        epoch = f", {DIGITS / batch * ours:.1f} s for 12,000 digits (plain {DIGITS / batch * theirs:.1f} s)" * (
            side == 28
        )
        print(
            f"{name}, {side}x{side}x{channels}, batch {batch}: ratio {ratio:.3f}, {batch / ours:,.0f} images/s "
            f"(plain {batch / theirs:,.0f}){epoch}, built in {1000 * min(seconds):.0f} ms",
            flush=True,
        )


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
