"""Converted networks beside their originals: conversion, training step, inference, memory.

    python benchmarks/convert.py [NAME ...] [--width channels] [--group p4m] [--size 224] [--batch 16] [--rounds 7]

Names are those of timm. Original, twin, the twin's plain(), and plain() with folded norms beside the original with
folded norms alternate in one process; a ratio is the median over the rounds of the ratios within a round. Memory is the
peak of a training step, weights included, each network in a process of its own; exact because every large block goes
back at once (Linux only).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from roteq import convert
from roteq.nn import plain

NAMES = ("resnet18", "resnet50", "convnext_atto", "efficientnet_b0", "densenet121")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES)
    parser.add_argument("--group", default="p4m")
    parser.add_argument("--width", default="channels")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", choices=("original", "twin"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(_peak(_networks(args.names[0], args)[args.peak], args))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.size} px, batch {args.batch}")
    for name in args.names:
        _compare(name, args)


def _networks(name: str, args: argparse.Namespace) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    original = timm.create_model(name, num_classes=10)
    sample = torch.zeros(1, 3, args.size, args.size)
    return {"original": original, "twin": convert(original, args.group, sample=sample, width=args.width)}


def _compare(name: str, args: argparse.Namespace) -> None:
    begin = time.perf_counter()
    networks = _networks(name, args)
    seconds = time.perf_counter() - begin
    original, twin = networks["original"], networks["twin"]
    report = twin.conversion
    images = torch.randn(args.batch, 3, args.size, args.size)
    labels = torch.randint(10, (args.batch,))
    steps = {n: (torch.optim.SGD(net.parameters(), 1e-3), net) for n, net in networks.items()}
    training = _ratios([lambda s=s: _step(*s, images, labels) for s in steps.values()], args.rounds)
    original.eval(), twin.eval()
    folded = [plain(net, fold=images[:2]) for net in (original, twin)]
    runs = [original, twin, plain(twin), *folded]
    inference = _ratios([lambda net=net: _infer(net, images) for net in runs], args.rounds)
    sizes = report.parameters[1] / report.parameters[0], report.flops[1] / report.flops[0]
    print(
        f"{name} {args.width} {report.group}: convert {seconds:.1f} s, error {max(report.errors.values()):.0e}, "
        f"parameters {sizes[0]:.3f}, FLOPs {sizes[1]:.3f}; training step {training[1]:.3f}; inference "
        f"{inference[1]:.3f}, plain() {inference[2]:.3f}, folded {inference[4] / inference[3]:.3f}",
        end="",
        flush=True,
    )
    peaks = {} if args.no_memory else {which: _peak_in_process(name, which, args) for which in ("original", "twin")}
    print(f"; memory of a step {peaks['twin'] / peaks['original']:.3f}" if peaks else "", flush=True)


def _ratios(runs: list[Callable[[], object]], rounds: int) -> list[float]:
    times = [[_seconds(run) for run in runs] for _ in range(rounds + 1)][1:]
    return [statistics.median(row[i] / row[0] for row in times) for i in range(len(runs))]


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _step(optimizer: torch.optim.Optimizer, net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(net.train()(images), labels).backward()
    optimizer.step()


@torch.no_grad()
def _infer(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return net(images)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak(net: nn.Module, args: argparse.Namespace) -> int:
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.randint(10, (args.batch,))
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    _step(torch.optim.SGD(net.parameters(), 1e-3), net, images, labels)
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmHWM"))
    weights = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    return int(line.split()[1]) * 1024 - before + weights


def _peak_in_process(name: str, which: str, args: argparse.Namespace) -> int:
    options = [f"--{key}={getattr(args, key)}" for key in ("group", "width", "size", "batch")]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, name, f"--peak={which}", *options]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
