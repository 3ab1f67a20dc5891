"""Draw docs/figures/networks/*.svg, one picture for each network of docs/networks.md, and print what each costs.

    .venv/bin/python docs/make_networks.py

The pictures are drawn from the networks themselves: one box for the maps between two steps, as high as the map (in
logarithms), as wide as it has features, in the colour of what its channels are.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from roteq.conversion.layers import MeanOverGroup
from roteq.models import MODELS, create
from roteq.models.unet import Double, GUNet, Halve
from roteq.nn import GroupConv2d, GroupPool, LiftingConv2d, plain
from roteq.nn.pool import _SymmetricPool2d
from roteq.nn.steps import _CentredPool2d
from roteq.report.svg import INK, LOOKS, drawn, to_svg

OUT = Path(__file__).parent / "figures" / "networks"
NETWORKS = {  # as published where that says something, else as they are by default: channels, classes, side
    "allcnn_c": ({"group": "p4m"}, 3, 10, 32),
    "alexnet": ({}, 3, 2, 224),
    "cnn": ({}, 3, 2, 36),
    "densenet121": ({}, 3, 2, 224),
    "e2_mnist": ({"group": "D16", "restrict": "C16"}, 1, 10, 28),
    "g_unet": ({}, 3, 2, 96),
    "p4cnn": ({}, 1, 10, 28),
    "p4cnn_rotation_pooling": ({}, 1, 10, 28),
    "p4m_densenet": ({}, 3, 2, 96),
    "resnet18": ({}, 3, 2, 224),
    "resnet26": ({"group": "p4m"}, 3, 10, 32),
    "resnet44": ({"group": "p4m"}, 3, 10, 32),
    "resnet50": ({}, 3, 2, 224),
    "se2_pcam": ({"group": "C8"}, 3, 2, 88),
    "se2cnn": ({"group": "C12"}, 3, 2, 36),
    "se2cnn_study": ({}, 1, 2, 36),
    "twin": ({"group": "p4m"}, 3, 2, 224),
    "z2cnn": ({}, 1, 10, 28),
}
BLUE, ORANGE, GREEN, PINK = (look.color for look in LOOKS[:4])
COLOURS = {
    "picture": "#8b929c",
    "features on the group": BLUE,
    "invariant": ORANGE,
    "plain features": PINK,
    "logits": GREEN,
}


@dataclass(frozen=True)
class Step:
    """What leads to a map, and the map."""

    label: str
    side: int  # 0: no map, a vector
    features: int
    order: int
    kind: str


def build(name: str) -> tuple[nn.Module, Tensor]:
    options, channels, classes, side = NETWORKS[name]
    torch.manual_seed(0)
    net = create(name, in_channels=channels, num_classes=classes, **options).eval()
    return net, torch.zeros(1, channels, side, side)


def cost(name: str) -> tuple[int, int]:
    """Parameters, and FLOPs of one picture after plain() (2 for a multiply-add)."""
    net, x = build(name)
    twin = plain(net).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(x.to("meta"))
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops()


def steps(name: str) -> list[Step]:
    """The network in the order in which it computes, neighbours alike drawn together."""
    net, x = build(name)
    found = [Step("", x.shape[-1], x.shape[1], 1, "picture")]
    order = [1]

    def seen(layer: nn.Module, _: object, y: Tensor) -> None:
        shape = y.shape
        if isinstance(layer, LiftingConv2d | GroupConv2d):
            order[0] = layer.group.order
        if isinstance(layer, GroupPool | MeanOverGroup) or (isinstance(layer, nn.Conv2d) and order[0] > 1):
            order[0] = 1
        side = shape[-1] if y.ndim == 4 else 0
        if words(layer) == "pool" and side == found[-1].side:  # of a shortcut, beside what was drawn
            return
        pools = any(isinstance(m, GroupPool | MeanOverGroup) for m in net.modules())
        invariant = pools and any(s.order > 1 for s in found)
        kind = "features on the group" if order[0] > 1 else "invariant" if invariant else "plain features"
        found.append(Step(words(layer), side, shape[1] // order[0], order[0], kind))

    hooks = [m.register_forward_hook(seen) for path, m in net.named_modules() if words(m) and "shortcut" not in path]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    last, maps = found[-1], isinstance(net, GUNet)
    return [*together(found[:-1]), Step(last.label, maps * last.side, last.features, 1, "logits")]


def words(layer: nn.Module) -> str:
    """A step in words; "" for what is not drawn."""
    if isinstance(layer, LiftingConv2d):
        return f"lift {kernel(layer)}"
    if isinstance(layer, GroupConv2d | nn.Conv2d):
        return f"conv {kernel(layer)}"
    if isinstance(layer, GroupPool):
        return f"{layer.mode} over {layer.group.name}" if layer.group.order > 1 else ""
    if isinstance(layer, MeanOverGroup):
        return f"mean over {layer.group.name}"
    if isinstance(layer, _SymmetricPool2d | _CentredPool2d | nn.MaxPool2d | nn.AvgPool2d):
        return "pool"
    if isinstance(layer, Halve | Double):
        return type(layer).__name__.lower()
    return "linear" if isinstance(layer, nn.Linear) else ""


def kernel(layer: nn.Module) -> int:
    size = layer.kernel_size
    return size if isinstance(size, int) else size[0]


def together(found: list[Step]) -> Iterator[Step]:
    """Convolutions in a row whose maps have one size are one step: "13 x conv 3"."""
    run: list[Step] = []
    for step in [*found, None]:
        alike = run and step and step.label.startswith("conv") and run[-1].label.startswith("conv")
        if alike and (step.side, step.kind) == (run[-1].side, run[-1].kind):
            run.append(step)
            continue
        if run:
            kernels = sorted({s.label.removeprefix("conv ") for s in run})
            label = run[-1].label if len(run) == 1 else f"{len(run)} × conv {', '.join(kernels)}"
            yield Step(label, run[-1].side, run[-1].features, run[-1].order, run[-1].kind)
        run = [step] if step else []


def picture(name: str) -> Figure:
    figure = Figure(figsize=(600 / 72, 190 / 72), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_axis_off()
    x, drawn_steps = 0.0, steps(name)
    tall = math.log2(1 + max(step.side for step in drawn_steps))
    wide = max(step.features * step.order for step in drawn_steps)
    for step in drawn_steps:
        height = max(0.06, math.log2(1 + step.side) / tall) if step.side else 0.06
        width = 0.25 + 0.9 * math.log2(1 + step.features * step.order) / math.log2(1 + wide)
        room = max(width, 0.17 * max(len(step.label), 7))
        left = x + (room - width) / 2
        axes.add_patch(Rectangle((left, 0.5 - height / 2), width, height, color=COLOURS[step.kind], alpha=0.85, lw=0))
        size = f"{step.features} × {step.order}" if step.order > 1 else f"{step.features}"
        axes.text(left + width / 2, 1.1, size, ha="center", va="bottom", fontsize=8)
        axes.text(left + width / 2, -0.1, step.label, ha="center", va="top", fontsize=7.5)
        if step.side:
            axes.text(left + width / 2, -0.28, f"{step.side}²", ha="center", va="top", fontsize=8, alpha=0.7)
        x += room + 0.22
    axes.set_xlim(-0.1, x)
    axes.set_ylim(-0.62, 1.35)
    present = [kind for kind in COLOURS if any(step.kind == kind for step in drawn_steps)]
    for i, kind in enumerate(present):
        at = 0.22 * i
        axes.add_patch(Rectangle((at * x, -0.6), 0.012 * x, 0.09, color=COLOURS[kind], alpha=0.85, lw=0))
        axes.text(at * x + 0.018 * x, -0.6, kind, fontsize=8, va="bottom", color=INK)
    return figure


def sentence(name: str) -> str:
    """The picture in words."""
    return " → ".join(
        ([step.label + ": "] if step.label else [""])[0]
        + (f"{step.features}×{step.order}" if step.order > 1 else f"{step.features}")
        + (f" at {step.side}×{step.side}" if step.side else "")
        for step in steps(name)
    )


@drawn
def save(name: str) -> None:
    svg = re.sub(r"var\(--\w+, ([^)]*)\)", r"\1", to_svg(picture(name), name, sentence(name)))
    svg = svg.replace("currentColor", "#1c2127").replace('viewBox="', 'width="600" height="190" viewBox="', 1)
    svg = svg.replace(">", '><rect width="600" height="190" rx="6" fill="#fff" />', 1)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    assert set(NETWORKS) == set(MODELS)
    for network in NETWORKS:
        save(network)
        parameters, flops = cost(network)
        print(f"| `{network}` | {parameters:,} | {flops / 1e6:,.1f} |")
