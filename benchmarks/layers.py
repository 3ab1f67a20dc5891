"""The layers of roteq.nn against the same networks of nn.Conv2d and nn.BatchNorm2d, and beside a peer library.

    python benchmarks/layers.py                                       every table that needs no option
    python benchmarks/layers.py --quick --only speed --groups C8      one table, few rounds
    python benchmarks/layers.py --peer /path/to/python                escnn too (peer_escnn.py says how to install it)
    python benchmarks/layers.py --formats --errors equivariance_error.py

The network: six 5x5 convolutions of about 64 physical channels, each with batch norm and ReLU, 2x2 max pools after the
second and fourth, group pooling, mean over space; on 64 images of 28x28, or 1. The layer: 5x5, 8 features to 8, on 32
maps of 32x32. The control has as many physical channels, and the maximum over blocks of |G| for the group pooling.

speed    A library and its control alternate in one process. A ratio is the median over the rounds of the ratios within
         a round, ± half the interquartile range. "folded": batch norms in the convolutions, against a control as it is.
memory   Peak of a training step above what a fresh process held before it, exact to 0.3 MB because the allocator of
         that process gives every large block back at once (Linux only).
formats  bf16 (autocast) and channels_last on colour images, library and control, against the control in neither.
build    In fresh processes. "import" is beyond that of torch.
errors   FILE has `field`, `report` and `relerr`: images given by a formula, so that turning one resamples nothing.
         Between-image error of untrained networks that have seen SETTLE batches of them in training mode: mean over the
         seeds ± standard deviation. It is large: compare with many --seeds. "layer": norm error of one lifting layer
         alone, at the centre pixel of 65x65, images of up to 8 cycles turned by one step of C_N.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, pstdev, quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WIDTH = 64  # physical channels of the network
SETTLE = 12  # with momentum 0.1 the statistics come 72 % of the way
WIDE = (8, 84, 168, 336)  # features of a WideResNet-28-10 over D4 of 80 million parameters
BASES, POOLS = ("pixel", "harmonic"), ("max", "blur")

Run = Callable[[], object]
Make = Callable[["Kit"], nn.Module]


class Cell(NamedTuple):
    table: str
    row: str
    column: str
    value: float
    spread: float = 0.0


@dataclass(frozen=True)
class Kit:
    """The layers of one library over one group. A feature is |G| physical channels."""

    maker: Callable[[str], "Kit"]
    group: str
    library: str  # what a user imports
    lift: Callable[[int, int, int], nn.Module]  # (channels, features, kernel size), no bias
    conv: Callable[[int, int, int, bool], nn.Module]  # (features, features, kernel size, bias)
    norm: Callable[[int], nn.Module]
    halve: Callable[[int], nn.Module]
    group_pool: Callable[[int], nn.Module]
    relu: Callable[[int], nn.Module] = lambda features: nn.ReLU()
    chain: Callable[..., nn.Module] = nn.Sequential  # layers in a row, from tensor to tensor
    written_out: Callable[[nn.Module, Tensor], dict[str, nn.Module]] = lambda net, sample: {}  # in torch's own layers
    variants: Callable[[], dict[str, "Kit"]] = dict  # whose errors are measured

    def __reduce__(self) -> tuple[Callable[[str], "Kit"], tuple[str]]:
        return self.maker, (self.group,)

    @property
    def name(self) -> str:
        return f"{self.maker.__name__} {self.group}"


def order_of(group: str) -> int:
    return int(group[1:]) * (2 if group[0] == "D" else 1)


class BlockMax(nn.Module):
    """What group pooling costs: the maximum over blocks of channels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.size)).amax(2)


def control(group: str) -> Kit:
    n = order_of(group)
    return Kit(
        control,
        group,
        "torch.nn",
        lift=lambda channels, outputs, k: nn.Conv2d(channels, outputs * n, k, padding=k // 2, bias=False),
        conv=lambda inputs, outputs, k, bias: nn.Conv2d(inputs * n, outputs * n, k, padding=k // 2, bias=bias),
        norm=lambda features: nn.BatchNorm2d(features * n),
        halve=lambda features: nn.MaxPool2d(2),
        group_pool=lambda features: BlockMax(n),
    )


def roteq(group: str, basis: str | None = None, pool: str = "max") -> Kit:
    layers = importlib.import_module("roteq.nn")  # here, because a peer imports this file without having roteq
    tied = {"group": group, "basis": basis}
    return Kit(
        roteq,
        group,
        "roteq.nn",
        lift=lambda *shape: layers.LiftingConv2d(*shape, padding=shape[2] // 2, bias=False, **tied),
        conv=lambda *shape: layers.GroupConv2d(*shape[:3], padding=shape[2] // 2, bias=shape[3], **tied),
        norm=lambda features: layers.GroupBatchNorm2d(features, group=group),
        halve=lambda features: getattr(layers, f"Symmetric{pool.title()}Pool2d")(),
        group_pool=lambda features: layers.GroupPool(group),
        written_out=lambda net, sample: {"plain": layers.plain(net), "folded": layers.plain(net, fold=sample)},
        variants=lambda: {
            **{f"{basis}, {pool} pool": roteq(group, basis, pool) for basis, pool in product(BASES, POOLS)},
            "plain CNN": control(group),
        },
    )


def six_layers(kit: Kit, channels: int = 1) -> nn.Module:
    """Images (B, channels, H, W) -> (B, features)."""
    features = WIDTH // order_of(kit.group)
    layers: list[nn.Module] = []
    for i in range(6):
        layers.append(kit.conv(features, features, 5, False) if i else kit.lift(channels, features, 5))
        layers += [kit.norm(features), kit.relu(features)]
        layers += [kit.halve(features)] if i in (1, 3) else []
    return nn.Sequential(kit.chain(*layers, kit.group_pool(features)), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def one_layer(kit: Kit) -> nn.Module:
    return kit.chain(kit.conv(8, 8, 5, True))


def ten_layers(kit: Kit) -> nn.Module:
    features = WIDTH // order_of(kit.group)
    layers = [kit.lift(1, features, 5), *(kit.conv(features, features, 5, False) for _ in range(9))]
    return kit.chain(*(part for layer in layers for part in (layer, kit.norm(features), kit.relu(features))))


def wide_resnet(kit: Kit) -> nn.Module:
    """What has to be built of a WideResNet-28-10 (arXiv 1605.07146), whose strided steps are then average pools."""
    layers = [kit.lift(3, WIDE[0], 3)]
    for inputs, outputs in pairwise(WIDE):
        layers.append(kit.conv(inputs, outputs, 1, False))  # the shortcut
        for width in (inputs, *[outputs] * 7):
            layers += [kit.norm(width), kit.relu(width), kit.conv(width, outputs, 3, False)]
    return nn.ModuleList([*layers, kit.norm(WIDE[3]), kit.relu(WIDE[3]), kit.group_pool(WIDE[3])])


class Case(NamedTuple):
    name: str
    make: Make
    batch: int
    size: int
    channels: int = 1

    def both(self, kit: Kit) -> dict[str, nn.Module]:
        torch.manual_seed(0)
        return {"ours": self.make(kit), "control": self.make(control(kit.group))}

    def input(self, kit: Kit, batch: int | None = None) -> Tensor:
        inside = self.make is one_layer  # its input wants a gradient, as inside a network
        shape = (batch or self.batch, 8 * order_of(kit.group) if inside else self.channels, self.size, self.size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_(inside)


CASES = (Case("batch 64", six_layers, 64, 28), Case("batch 1", six_layers, 1, 28), Case("5x5 layer", one_layer, 32, 32))
COLOUR = Case("colour", lambda kit: six_layers(kit, 3), 64, 28, 3)  # one channel is channels_last either way


def training(net: nn.Module, x: Tensor, bf16: bool = False) -> Run:
    optimizer = torch.optim.SGD(net.train().parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = net(x).square().mean()
        loss.backward()
        optimizer.step()

    return step


def evaluation(net: nn.Module, x: Tensor, bf16: bool = False) -> Run:
    net.eval()

    @torch.no_grad()
    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            net(x)

    return forward


def seconds(run: Run, repeats: int = 1) -> float:
    """Of the processor with OMP_NUM_THREADS=1, which other programs disturb less; else of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def ratios(runs: dict[str, Run], rounds: int) -> dict[str, tuple[float, float]]:
    """Every run against that named control, in turn: name -> (median ratio, half the interquartile range)."""
    *_, once = [seconds(run) for run in (*runs.values(), runs["control"])]  # the control last, when all are warm
    repeats = max(1, round(0.05 / once))
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = deque(runs)
    for _ in range(rounds):
        for name in order:
            times[name].append(seconds(runs[name], repeats))
        order.rotate()
    found = {}
    for name in runs:
        low, middle, high = quantiles([a / b for a, b in zip(times[name], times["control"], strict=True)], n=4)
        found[name] = (middle, (high - low) / 2)
    return found


def speed(kit: Kit, args: argparse.Namespace) -> Iterator[Cell]:
    for case in CASES:
        x, nets, row = case.input(kit), case.both(kit), f"{kit.name} {case.name}"
        found = ratios({name: training(net, x) for name, net in nets.items()}, args.rounds)
        yield Cell("speed", row, "train", *found["ours"])
        nets |= kit.written_out(nets["ours"].eval(), x.detach())
        found = ratios({name: evaluation(net, x) for name, net in nets.items()}, args.rounds)
        for name, ratio in found.items():
            if name != "control":
                yield Cell("speed", row, "eval" if name == "ours" else name, *ratio)


def formats(kit: Kit, args: argparse.Namespace) -> Iterator[Cell]:
    x = COLOUR.input(kit)
    for use, run in (("train", training), ("eval", evaluation)):
        for form, order in (("bf16", torch.contiguous_format), ("channels_last", torch.channels_last)):
            nets = {who: net.to(memory_format=order) for who, net in COLOUR.both(kit).items()}
            runs = {who: run(net, x.contiguous(memory_format=order), form == "bf16") for who, net in nets.items()}
            runs = {"in it": runs["control"], "ours": runs["ours"], "control": run(COLOUR.both(kit)["control"], x)}
            found = ratios(runs, args.rounds)
            yield Cell("formats", kit.name, f"{form} {use}", *found["ours"])
            yield Cell("formats", f"{kit.name}'s control", f"{form} {use}", *found["in it"])


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak(kit: Kit, case: Case) -> int:
    """Bytes that a training step needs at its peak, beyond what the process holds before it."""

    def held(key: str) -> int:
        return 1024 * int(Path("/proc/self/status").read_text().partition(key)[2].split()[0])

    net = case.make(kit)
    training(net, case.input(kit, batch=2))()  # loads what is loaded at first use
    net.zero_grad()
    step = training(net, case.input(kit))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = held("VmRSS:")
    step()
    return held("VmHWM:") - before


def memory(kit: Kit, args: argparse.Namespace) -> Iterator[Cell]:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # glibc reads it when a process starts: freed blocks go back at once
    for case in CASES:
        ours, theirs = (fresh(peak, subject, case) for subject in (kit, control(kit.group)))
        for column, value in (("ratio", ours / theirs), ("MB", ours / 1e6), ("control MB", theirs / 1e6)):
            yield Cell("memory", f"{kit.name} {case.name}", column, value)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]


def construction(kit: Kit, make: Make) -> tuple[float, float, float, float]:
    """Seconds for the first network of a process, and to list its parameters; millions of them; MB of buffers."""
    nets: list[nn.Module] = []
    taken = seconds(lambda: nets.append(make(kit)))
    parameters, listing = list(nets[0].parameters()), seconds(lambda: list(nets[0].parameters()), 9)
    size = sum(buffer.numel() * buffer.element_size() for buffer in nets[0].buffers())
    return taken, listing, sum(p.numel() for p in parameters) / 1e6, size / 1e6


def build(kit: Kit, args: argparse.Namespace) -> Iterator[Cell]:
    for subject in (kit, control(kit.group)):
        taken, listing, *_ = zip(*(fresh(construction, subject, ten_layers) for _ in range(3)), strict=True)
        yield Cell("build", subject.name, "10 layers, ms", 1e3 * median(taken))
        yield Cell("build", subject.name, "parameters(), us", 1e6 * median(listing))
    if kit.group == args.groups[0]:
        code = f"import time, torch; t = time.perf_counter(); import {kit.library}; print(time.perf_counter() - t)"
        times = [float(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code])) for _ in range(7)]
        yield Cell("build", kit.name, "import, s", median(times))
    if kit.group == "D4" and not args.quick:
        columns = ("WRN-28-10, s", "parameters(), s", "M parameters", "MB buffers")
        for column, value in zip(columns, fresh(construction, kit, wide_resnet), strict=True):
            yield Cell("wide", kit.name, column, value)


@torch.no_grad()
def network_report(kit: Kit, images: Any, size: int, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    net = six_layers(kit).train()
    for batch in range(SETTLE):
        net(images.field(seed=100 + batch)(size).float())
    return images.report(net.eval(), size=size, flips=True)


@torch.no_grad()
def layer_report(kit: Kit, images: Any, size: int, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    layer, field = kit.chain(kit.lift(1, 8, 5)).eval(), images.field(kmax=8)
    maps = (layer(field(size, angle).float()) for angle in (0, 360 / order_of(kit.group)))
    straight, turned = (y[:, :, size // 2, size // 2].unflatten(1, (8, -1)) for y in maps)
    return {"norm error": images.relerr(turned, straight.roll(1, 2))}


def errors(kit: Kit, args: argparse.Namespace) -> Iterator[Cell]:
    if not (args.errors and args.errors.exists()):
        return
    sys.path.insert(0, str(args.errors.parent))
    images = importlib.import_module(args.errors.stem)
    for name, variant in kit.variants().items():
        cases = [("errors", network_report, 28), ("errors", network_report, 29)]
        cases += [("layer", layer_report, 65)] if kit.group[0] == "C" and "blur" not in name else []
        for table, report, size in cases:
            reports = [report(variant, images, size, seed) for seed in range(args.seeds)]
            for column in reports[0]:
                found = [each[column] for each in reports]
                yield Cell(table, f"{kit.name} {name} {size}x{size}", column, fmean(found), pstdev(found))


TABLES = {"speed": speed, "memory": memory, "formats": formats, "build": build, "errors": errors}


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=["C4", "D4", "C8", "C12"], metavar="GROUP")
    parser.add_argument("--only", nargs="+", choices=TABLES, metavar="TABLE", help=" ".join(TABLES))
    parser.add_argument("--formats", action="store_true", help="also bf16 and channels_last")
    parser.add_argument("--errors", type=Path, metavar="FILE", help="also the equivariance errors")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three rounds, no WideResNet")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has escnn")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 3
    args.only = args.only or [table for table in TABLES if table != "formats" or args.formats]
    return args


def measure(maker: Callable[[str], Kit], args: argparse.Namespace) -> list[Cell]:
    cells: list[Cell] = []
    for table, group in product(args.only, args.groups):
        print(f"{maker.__name__} {group}: {table}", file=sys.stderr)
        cells += TABLES[table](maker(group), args)
    return cells


def table(cells: list[Cell]) -> str:
    rows: dict[str, dict[str, str]] = {}
    for c in cells:
        rows.setdefault(c.row, {})[c.column] = f"{c.value:.3g}" + (f" ±{c.spread:.2g}" if c.spread else "")
    columns = list(dict.fromkeys(c.column for c in cells))
    lines = [["", *columns], *([row, *(texts.get(column, "") for column in columns)] for row, texts in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    args = arguments(__doc__)
    script = Path(__file__).with_name("peer_escnn.py")
    theirs = json.loads(subprocess.check_output([args.peer, script, *sys.argv[1:]])) if args.peer else []
    cells = measure(roteq, args) + [Cell(*cell) for cell in theirs]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    for name in dict.fromkeys(cell.table for cell in cells):
        print(f"\n{name}\n{table([cell for cell in cells if cell.table == name])}")


if __name__ == "__main__":
    main()
