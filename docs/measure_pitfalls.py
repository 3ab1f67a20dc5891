"""Measure the numbers of docs/pitfalls.md: one function a table, the same words in its rows.

    .venv/bin/python docs/measure_pitfalls.py ["a heading"]

Errors are between-image errors (docs/conventions.md), the largest over the elements where not said otherwise. The tests
compare the tables with these functions.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roteq.filters import make_basis
from roteq.groups import Group, group
from roteq.nn import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupDropout2d,
    GroupPool,
    LiftingConv2d,
    SymmetricAvgPool2d,
    SymmetricBlurPool2d,
    SymmetricMaxPool2d,
    SymmetricUpsample2d,
    VectorHead,
)
from roteq.testing import equivariance_error

Rows = dict[str, tuple[float, ...]]
PITFALLS = Path(__file__).with_name("pitfalls.md")
EXACT = 1e-5  # what the tables call exact is rounding, in float32 at most this much
D4 = group("D4")


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def noise(*shape: int) -> Tensor:
    """White noise, the hardest maps there are. float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def smooth_pictures(size: int, degrees: float = 0.0, *, seed: int = 0, batch: int = 32) -> Tensor:
    """Pictures given by a formula, turned by turning the formula, so without resampling: sums of 24 plane waves of at
    most 4 periods a side, faded out to a disc. (batch, 1, size, size), float64."""
    generator = torch.Generator().manual_seed(seed)
    radius, direction, phase = torch.rand(3, batch, 24, 1, 1, dtype=torch.float64, generator=generator)
    frequency, direction = math.pi * 4 * radius.sqrt(), 2 * math.pi * direction
    side = (torch.arange(size, dtype=torch.float64) * 2 + 1) / size - 1
    y, x = torch.meshgrid(-side, side, indexing="ij")
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = c * x + s * y, c * y - s * x  # where the turned picture looks into the upright one
    waves = (frequency * (direction.cos() * x + direction.sin() * y) + 2 * math.pi * phase).cos().sum(1)
    fade = ((torch.hypot(x, y) - 0.7) / 0.22).clamp(0, 1)
    return (waves * (0.5 + 0.5 * (math.pi * fade).cos()) / 12**0.5)[:, None]


def worst(module: nn.Module, x: Tensor, over: Group = D4, input: str = "regular", output: str = "regular") -> float:
    """The largest error over the exact elements of a group."""
    errors = [equivariance_error(module, over, x, g, input=input, output=output) for g in over.exact_elements[1:]]
    return max(float("nan") if error is None else error for error in errors)


def between(turned: Tensor, upright: Tensor) -> float:
    return ((turned - upright).norm() / (upright - upright.roll(1, 0)).norm()).item()


def fixed_statistics(net: nn.Module, seed: int = 100) -> nn.Module:
    """An untrained network with the BatchNorm statistics of 128 smooth pictures, in evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # a plain average over the batches
    like = next(net.parameters())
    with torch.no_grad():
        for batch in range(4):
            net.train()(smooth_pictures(28, seed=seed + batch).to(like))
    return net.eval()


def block(convolution: nn.Module, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, norm, nn.ReLU())


def small_network(name: str, width: int = 8) -> nn.Sequential:
    """Two 5x5 convolutions and a pool in between."""
    return nn.Sequential(
        block(LiftingConv2d(1, width, 5, padding=2, group=name), GroupBatchNorm2d(width, group=name)),
        SymmetricMaxPool2d(),
        block(GroupConv2d(width, width, 5, padding=2, group=name), GroupBatchNorm2d(width, group=name)),
        VectorHead(width, 10, group=name),
    )


def mean_over_seeds(measure: Callable[..., tuple[float, ...]], *arguments: object) -> tuple[float, ...]:
    """The mean of 3 untrained networks."""
    values = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            values.append(measure(*arguments))
    return tuple(sum(column) / len(column) for column in zip(*values, strict=True))


def bank_of(kernel_size: int) -> Tensor:
    """The filter bank of a group convolution over D4, 4 to 4 features. float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GroupConv2d(4, 4, kernel_size, group=D4).double().bank().detach()


def strides() -> Rows:
    x, three, four = noise(8, 4 * 8, 28, 28), bank_of(3), bank_of(4)
    return {
        "3x3 convolution, stride 2, padding 1": (worst(Step(lambda x: F.conv2d(x, three, None, 2, 1)), x),),
        "3x3 max pool, stride 2, padding 1": (worst(nn.MaxPool2d(3, 2, 1), x),),
        "2x2 max pool, on a map of 27x27": (worst(nn.MaxPool2d(2), x[..., 1:, 1:]),),
        "4x4 convolution, stride 2, padding 1": (worst(Step(lambda x: F.conv2d(x, four, None, 2, 1)), x),),
        "2x2 average pool, then 3x3 convolution": (worst(Step(lambda x: F.conv2d(F.avg_pool2d(x, 2), three)), x),),
        "2x2 max pool": (worst(nn.MaxPool2d(2), x),),
        "3x3 max pool at stride 1, then 2x2 average pool": (
            worst(nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2)), x),
        ),
    }


def even_kernels() -> Rows:
    x, three, four = noise(8, 4 * 8, 28, 28), bank_of(3), bank_of(4)
    return {
        '4x4 convolution, `padding="same"` of torch': (
            worst(Step(lambda x: F.conv2d(F.pad(x, (1, 2, 1, 2)), four)), x),
        ),
        "4x4 convolution, padding 1: 28x28 becomes 27x27": (worst(Step(lambda x: F.conv2d(x, four, None, 1, 1)), x),),
        '3x3 convolution, `padding="same"`': (worst(Step(lambda x: F.conv2d(x, three, None, 1, "same")), x),),
    }


def upsampling() -> Rows:
    def errors(up: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, ...]:
        like = (noise(1, 1, 2 * n + odd, 2 * n + odd) for n, odd in ((8, 0), (7, 1), (8, 1)))
        maps = (noise(8, 4, n, n) for n in (8, 7, 8))
        return tuple(
            worst(Step(lambda x, to=to: up(x, to)), x, input="trivial", output="trivial")
            for x, to in zip(maps, like, strict=True)
        )

    return {
        "nearest": errors(lambda x, to: F.interpolate(x, size=to.shape[-2:], mode="nearest")),
        "nearest-exact": errors(lambda x, to: F.interpolate(x, size=to.shape[-2:], mode="nearest-exact")),
        "`SymmetricUpsample2d`": errors(SymmetricUpsample2d()),
    }


def batch_norm() -> Rows:
    """By a quarter turn: of one image in a batch of 8, in training mode; of all, after 50 steps, in evaluation mode."""
    x, test = smooth_pictures(28, seed=1, batch=256).float(), smooth_pictures(28, seed=2).float()
    energy = x.square().mean((1, 2, 3))
    y = (energy > energy.median()).long()
    one = x[:8].clone()
    one[0] = torch.rot90(one[0], 1, (-2, -1))

    def errors(per_channel: bool) -> tuple[float, ...]:
        net = small_network("p4")
        if per_channel:
            net[0][1], net[2][1] = nn.BatchNorm2d(32), nn.BatchNorm2d(32)
        with torch.no_grad():
            upright, turned = net.train()(x[:8]), net(one)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(50):
            batch = torch.randint(256, (32,))
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        return between(turned, upright), worst(net.eval(), test, group("p4"), "trivial", "invariant")

    ways = {"`nn.BatchNorm2d`, per channel": True, "`GroupBatchNorm2d`": False}
    return {name: mean_over_seeds(errors, per_channel) for name, per_channel in ways.items()}


def dropout() -> Rows:
    x = noise(8, 4 * 8, 28, 28)
    layers = {"`nn.Dropout(0.5)`": nn.Dropout(0.5), "`nn.Dropout2d(0.5)`": nn.Dropout2d(0.5)}
    layers['`GroupDropout2d(0.5, group="p4m")`'] = GroupDropout2d(0.5, group=D4)
    return {name: (worst(layer.train(), x),) for name, layer in layers.items()}


def orientations() -> Rows:
    def error(third: Callable[[], nn.Module], read: Callable[[Tensor], Tensor]) -> tuple[float]:
        net = nn.Sequential(small_network("p4")[:-1], third(), Step(read))
        return (worst(fixed_statistics(net), smooth_pictures(28).float(), group("p4"), "trivial", "invariant"),)

    def grouped() -> nn.Module:
        return block(GroupConv2d(8, 8, 5, group="p4"), GroupBatchNorm2d(8, group="p4"))

    def plain() -> nn.Module:
        return block(nn.Conv2d(32, 32, 5), nn.BatchNorm2d(32))

    pool = GroupPool("p4")
    ways = {
        "group convolution; pooled over the group and over space": (grouped, lambda x: pool(x).mean((2, 3))),
        "group convolution; mean over space only": (grouped, lambda x: x.mean((2, 3))),
        "group convolution; pooled over the group, read at a corner": (grouped, lambda x: pool(x)[..., 0, 0]),
        "plain convolution; mean over space": (plain, lambda x: x.mean((2, 3))),
        "plain convolution; read at a corner": (plain, lambda x: x[..., 0, 0]),
    }
    return {name: mean_over_seeds(error, *way) for name, way in ways.items()}


def other_group() -> Rows:
    def error(lifted: str, convolved: str) -> tuple[float]:
        net = small_network(convolved)
        net[0][0] = LiftingConv2d(1, 8, 5, padding=2, group=lifted)
        return (worst(fixed_statistics(net), smooth_pictures(28).float(), group("p4"), "trivial", "invariant"),)

    pairs = (("D4", "C8"), ("C8", "D4"), ("D4", "D4"), ("C8", "C8"))
    return {f"{a}, then {b}": mean_over_seeds(error, a, b) for a, b in pairs}


def energy() -> Rows:
    """The energy of white noise in a turned filter, by degrees 0, 15, 30, 45, upright without a disc 1; and how
    much the ratio of turned to upright differs between single filters."""

    def kept(name: str, k: int) -> tuple[float, ...]:
        basis = make_basis(name, Group(24), k)
        whole = make_basis("pixel" if name == "disc" else name, Group(24), k)[0].square().sum()
        return tuple((basis.square().sum((1, 2))[:4] / whole).tolist())

    def spread(k: int) -> tuple[float, ...]:
        basis = make_basis("harmonic", Group(24), k)
        energies = torch.einsum("fp,gpk->fgk", noise(4000, basis.shape[1]), basis).square().sum(2)
        return tuple((energies / energies[:, :1]).std(0)[:4].tolist())

    names = (("disc", 5), ("pixel", 5), ("pixel", 3), ("harmonic", 5), ("harmonic", 3))
    means = {f"{k}x{k}, `{name}`": kept(name, k) for name, k in names}
    return means | {f"{k}x{k}, `harmonic`: standard deviation between filters": spread(k) for k in (5, 3)}


def between_quarter_turns() -> Rows:
    """Networks of 6 layers, 28x28, at 45 degrees: C8 in every basis, and a plain one of as many physical channels."""

    def error(name: str, width: int, k: int, basis: str | None, pool: type[nn.Module]) -> tuple[float]:
        layers: list[nn.Module] = []
        for i in range(6):
            if i in (2, 4):
                layers.append(pool())
            convolution = GroupConv2d if i else LiftingConv2d
            layers.append(convolution(width if i else 1, width, k, padding=k // 2, group=name, basis=basis))
            layers += [GroupBatchNorm2d(width, group=name), nn.ReLU()]
        net = fixed_statistics(nn.Sequential(*layers, VectorHead(width, 10, group=name)))
        with torch.no_grad():
            return (between(net(smooth_pictures(28, 45.0).float()), net(smooth_pictures(28).float())),)

    ways = {f"C8, `{basis}`": ("C8", 8, 5, basis) for basis in ("harmonic", "disc", "pixel")}
    ways |= {"C8, `harmonic`, 3x3 kernels": ("C8", 8, 3, "harmonic"), "plain": ("Z2", 64, 5, None)}
    pools = (SymmetricMaxPool2d, SymmetricAvgPool2d, SymmetricBlurPool2d)
    return {name: tuple(mean_over_seeds(error, *way, pool)[0] for pool in pools) for name, way in ways.items()}


def precision() -> Rows:
    """Of a p4m network: the error at the exact elements, and the distance of its answers from those in float64, against
    the variation between images too."""

    def errors(dtype: torch.dtype) -> tuple[float, ...]:
        net, x = fixed_statistics(small_network("p4m").double()), smooth_pictures(28)
        with torch.no_grad():
            expected = net(x)
            rounded = net.to(dtype)(x.to(dtype)).double()
        return worst(net, x.to(dtype), D4, "trivial", "invariant"), between(rounded, expected)

    return {name: mean_over_seeds(errors, getattr(torch, name)) for name in ("float64", "float32", "bfloat16")}


def nan_weight() -> Rows:
    """Share of the values that are NaN after every layer, one weight of the first convolution being NaN."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = small_network("p4m").eval()
    with torch.no_grad():
        net[0][0].weight[0, 0, 0] = float("nan")
        x, rows = smooth_pictures(28).float(), {}
        for name, part in (("first convolution, 5x5", 0), ("pool", 1), ("second convolution, 5x5", 2), ("logits", 3)):
            if isinstance(net[part], nn.Sequential) and isinstance(net[part][0], LiftingConv2d | GroupConv2d):
                convolution, *rest = net[part]
                x = nn.Sequential(*rest)(F.conv2d(x, convolution.bank(), convolution.plain_bias(), padding=2))
            else:
                x = net[part](x)
            rows[name] = (x.isnan().double().mean().item(),)
    return rows


TABLES: dict[str, Callable[[], Rows]] = {
    "Strides that are not symmetric": strides,
    "Even kernels with the same size": even_kernels,
    "Nearest-neighbour up-sampling": upsampling,
    "BatchNorm per channel": batch_norm,
    "Dropout of single orientations": dropout,
    "Orientations treated as plain channels": orientations,
    "Channels of another group": other_group,
    "Turned kernels lose energy": energy,
    "Angles between the quarter turns": between_quarter_turns,
    "Half precision": precision,
    "A weight that is NaN": nan_weight,
}


def table(heading: str) -> dict[str, list[str]]:
    """The first table under a heading of pitfalls.md: row names to cells, the head included as the first row."""
    section = PITFALLS.read_text(encoding="utf-8").split(f"\n### {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("|--")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for heading in sys.argv[1:] or TABLES:
        print(f"\n{heading}")
        start = time.perf_counter()
        for name, values in TABLES[heading]().items():
            print("|", name, "|", " | ".join("exact" if v < EXACT else f"{v:.3g}" for v in values), "|", values)
        print(f"{time.perf_counter() - start:.1f} s")
