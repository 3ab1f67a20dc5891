"""Draw docs/figures/pitfalls/*.svg, the pictures of docs/pitfalls.md: 600 x 220 pixels each, the same bytes every time.

    .venv/bin/python docs/make_pitfalls.py [name ...]

Numbers are those of pitfalls.md, whose tables the tests compare with measure_pitfalls.py; kernels, masks, patches and
splits are computed by roteq. The words of a picture, for those who do not see it, are those of pitfalls.md.
"""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle, Wedge
from measure_pitfalls import PITFALLS, table
from torch import nn
from torch.nn import functional as F

from roteq.data.splits import assign, joined
from roteq.data.synthetic import draw_patch, draw_stain, smooth_noise
from roteq.filters import make_basis
from roteq.groups import Group, turn_image
from roteq.nn import GroupDropout2d
from roteq.report.svg import INK, LOOKS, drawn, to_svg

OUT = Path(__file__).parent / "figures" / "pitfalls"
TEXT = PITFALLS.read_text(encoding="utf-8")
BLUE, ORANGE, GREEN, PINK = (look.color for look in LOOKS[:4])
PALE, GREY = "#c9ced6", "#8b929c"
DASHED = {"color": INK, "linestyle": (0, (4, 3)), "linewidth": 1}


def canvas(*widths: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(600 / 72, 220 / 72), layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    return figure, list(axes)


@drawn
def save(name: str) -> None:
    """White paper and fixed colours: the picture stands alone in a page whose colours it does not know."""
    heading, words = picture_words(name)
    svg = re.sub(r"var\(--\w+, ([^)]*)\)", r"\1", to_svg(FIGURES[name](), heading, words)).replace(
        "currentColor", "#1c2127"
    )
    svg = svg.replace('viewBox="', 'width="600" height="220" viewBox="', 1)
    svg = svg.replace(">", '><rect width="600" height="220" rx="6" fill="#fff" />', 1)
    (OUT / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")


def picture_words(name: str) -> tuple[str, str]:
    """The heading under which pitfalls.md shows a picture, and its words."""
    before, after = TEXT.split(f"](figures/pitfalls/{name}.svg)")[0].rsplit("\n![", 1)
    return before.rsplit("\n### ", 1)[1].splitlines()[0], after


def value(cell: str) -> float:
    """The number of a cell; 0 for "exact", NaN where there is none."""
    number = re.match(r"[\d.]+", cell)
    return float(number[0]) if number else 0.0 if cell == "exact" else math.nan


def rows_of(heading: str, column: int = 0) -> tuple[str, list[tuple[str, str]]]:
    """The name of a column of a table, and (row, cell) of its rows."""
    head, *rows = table(heading).items()
    broken = (re.sub("(; |, (?=then area))", lambda m: m[0].strip() + "\n", name.replace("`", "")) for name, _ in rows)
    return head[1][column], [(name, row[column]) for name, (_, row) in zip(broken, rows, strict=True)]


def bars(ax: Axes, title: str, rows: list[tuple[str, str]], good: tuple[str, ...] = ()) -> None:
    """One bar a row, its cell beside it; blue if exact or named good, else orange."""
    values = [value(cell) for _, cell in rows]
    for y, ((name, cell), size) in enumerate(zip(rows, values, strict=True)):
        color = BLUE if cell == "exact" or name in good else ORANGE
        ax.barh(y, size, 0.62, color=color)
        ax.annotate(cell, (size, y), (4, 0), textcoords="offset points", va="center", color=color, fontweight="bold")
    ax.set_xlim(0, max(values) * 1.22)
    row_labels(ax, [name for name, _ in rows])
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)


def row_labels(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def bare(ax: Axes, title: str = "", color: str = INK, **kwargs: str) -> None:
    ax.set(xticks=[], yticks=[], **kwargs)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title, fontsize=10, color=color)


def box(ax: Axes, x: float, y: float, width: float, height: float, **kwargs: object) -> None:
    ax.add_patch(Rectangle((x, y), width, height, **{"edgecolor": "none"} | kwargs))


def only_bars(heading: str, log: bool = False) -> Figure:
    """A table, its columns side by side on one scale."""
    columns = len(next(iter(table(heading).values())))
    figure, axes = canvas(*[1] * columns)
    for column, ax in enumerate(axes):
        bars(ax, *rows_of(heading, column))
        if column:
            ax.set_yticklabels([])
    top = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        if log:
            ax.set_xscale("log")
            ax.set_xticks([])
            ax.minorticks_off()
        ax.set_xlim(0.002 if log else 0, top * 4 if log else top)
    return figure


def constant() -> Figure:
    figure, (left, right) = canvas(1, 1)
    bars(left, "accuracy, %", [("SE2CNN", "59.825"), ("ResNet50", "60.180")])
    left.axvline(59.825020, **DASHED)
    left.annotate("majority rate", (59.8, 1.55), (-5, 0), textcoords="offset points", ha="right", va="center")
    left.set_ylim(1.8, -0.6)
    recalls = {"SE2CNN": (0.0, 1.0), "ResNet50": (0.00996, 0.99924)}
    for y, (_, pair) in enumerate(recalls.items()):
        for shift, recall, color in zip((-0.18, 0.18), pair, (ORANGE, BLUE), strict=True):
            right.barh(y + shift, recall, 0.3, color=color)
            text = f"{recall:g}"
            right.annotate(text, (recall, y + shift), (4, 0), textcoords="offset points", va="center", color=color)
    row_labels(right, list(recalls))
    right.set_xlim(0, 1.25)
    right.set_xticks([0, 0.5, 1])
    right.set_title("recall of the smaller and of the larger class", fontsize=10, loc="left")
    return figure


def prior() -> Figure:
    figure, (ax,) = canvas(1)
    ax.fill_between([1, 9], 0.6754, 0.6755, color=ORANGE, linewidth=4)
    ax.axhline(0.6753, **DASHED)
    ax.axhline(0, color=PALE, linewidth=0.6)
    ax.annotate(
        "training loss: 0.6754 to 0.6755", (5, 0.69), (0, 5), textcoords="offset points", ha="center", color=ORANGE
    )
    ax.annotate(
        "entropy of the class prior: 0.6753", (5, 0.66), (0, -5), textcoords="offset points", ha="center", va="top"
    )
    ax.annotate("a network that learns goes down from here", (5, 0.3), ha="center", color="#6a717b")
    ax.set(ylim=(0, 0.85), xlim=(0.6, 9.4), xlabel="epoch", ylabel="nats", xticks=range(1, 10))
    return figure


def impossible() -> Figure:
    figure, (ax,) = canvas(1)
    line = np.linspace(0.4, 1, 7)
    ax.plot(line, (1 - line) * math.log(2), color=INK)
    ax.fill_between(line, 0, (1 - line) * math.log(2), color=PALE, alpha=0.6, linewidth=0)
    ax.plot([0.5955], [0.0267], "o", color=ORANGE, markersize=8)
    ax.annotate(
        "reported: 0.0267", (0.5955, 0.0267), (10, 2), textcoords="offset points", color=ORANGE, fontweight="bold"
    )
    least = (1 - 0.5955) * math.log(2)
    ax.annotate(f"least possible: {least:.3f}", (0.5955, least), (10, 4), textcoords="offset points")
    ax.text(0.43, 0.1, "impossible", color="#5a616b")
    ax.set(xlim=(0.4, 1), ylim=(0, 0.5), xlabel="accuracy, two classes", ylabel="loss (nats)")
    return figure


def seeds() -> Figure:
    figure, (ax,) = canvas(1)
    rows = list(table("One run is no result").items())[1:]
    for y, (_, (mean, deviation)) in enumerate(rows):
        ax.errorbar(
            float(mean),
            y,
            xerr=float(deviation),
            color=ORANGE if y == 2 else BLUE,
            marker="o",
            capsize=4,
            linewidth=2.5,
        )
        ax.annotate(f"{mean} ± {deviation}", (float(mean), y), (0, 9), textcoords="offset points", ha="center")
    row_labels(ax, [name for name, _ in rows])
    ax.set(xlabel="test AUC, mean ± standard deviation over 3 seeds", ylim=(2.5, -0.8))
    return figure


def windows(ax: Axes, title: str, starts: range, size: int, color: str) -> None:
    """8 pixels in a row, and below them where the windows of a step lie; outside the map is padding."""
    for x in range(min(starts), max(starts) + size):
        inside = {"facecolor": PALE} if 0 <= x < 8 else {"facecolor": "none", "linestyle": (0, (2, 2))}
        box(ax, x, 0, 1, 0.8, edgecolor=GREY, linewidth=0.7, **inside)
    for row, start in enumerate(starts):
        box(ax, start + 0.12, -0.75 - 0.6 * row, size - 0.24, 0.36, facecolor=color)
    ax.axvline(4, **DASHED)
    bare(ax, title)
    ax.set(xlim=(-1.6, 10.1), ylim=(-0.9 - 0.6 * len(starts), 1.2))


def strides() -> Figure:
    figure, axes = canvas(1, 1)
    windows(axes[0], "window 3, stride 2, padding 1:\nnot symmetric about the centre", range(-1, 6, 2), 3, ORANGE)
    windows(axes[1], "window 4, stride 2, padding 1:\nsymmetric", range(-1, 7, 2), 4, BLUE)
    return figure


def same() -> Figure:
    figure, axes = canvas(1, 1)
    windows(axes[0], 'window 4, padding="same" of torch:\n1 pixel on the left, 2 on the right', range(-1, 7), 4, ORANGE)
    windows(axes[1], 'window 3, padding="same":\nsymmetric', range(-1, 7), 3, BLUE)
    return figure


def upsample() -> Figure:
    figure, axes = canvas(1, 1, 1)
    colors = np.array([[0.0, 0.447, 0.698], [0.85, 0.75, 0.25], [0.84, 0.37, 0.0], [0.72, 0.41, 0.63]])
    source = torch.tensor(colors.T[None])  # (1, 3, 4): a row of 4 pixels
    for ax, mode in zip(axes, ("nearest", "nearest-exact", "linear"), strict=True):
        out = F.interpolate(source, size=9, mode=mode)[0].T.numpy()
        mirrored = F.interpolate(source.flip(-1), size=9, mode=mode)[0].T.numpy()[::-1]
        for y, row in ((0, colors), (-1.5, out), (-2.7, mirrored)):
            width = 9 / len(row)
            for i, color in enumerate(row):
                box(ax, i * width, y, width, 0.9, facecolor=tuple(color), edgecolor="white")
        bare(ax, "SymmetricUpsample2d" if mode == "linear" else mode)
        ax.set(xlim=(0, 9), ylim=(-3.7, 1.0))
        words, color = ("the same", BLUE) if np.allclose(out, mirrored) else ("not the same", ORANGE)
        ax.text(4.5, -3.6, words, ha="center", color=color, fontweight="bold")
    for y, text in ((0.45, "4 pixels"), (-1.05, "9 pixels"), (-2.25, "mirrored,\nthen back")):
        axes[0].text(-0.4, y, text, ha="right", va="center", fontsize=9)
    return figure


def dropout() -> Figure:
    figure, axes = canvas(1, 1)
    layers = {"nn.Dropout2d(0.5)": nn.Dropout2d(0.5)}
    layers['GroupDropout2d(0.5, group="p4m")'] = GroupDropout2d(0.5, group="p4m")
    for ax, (title, layer) in zip(axes, layers.items(), strict=True):
        torch.manual_seed(3)
        kept = layer(torch.ones(1, 48, 1, 1)).view(6, 8) > 0
        for feature, g in np.ndindex(6, 8):
            color = BLUE if kept[feature, g] else "none"
            box(ax, g + 0.05, feature + 0.08, 0.9, 0.84, facecolor=color, edgecolor=GREY, linewidth=0.6)
        bare(ax, title, xlabel="8 orientations")
        ax.set(xlim=(-0.1, 8.1), ylim=(6.1, -0.1))
    axes[0].set_ylabel("6 features")
    return figure


def energy() -> Figure:
    figure = Figure(figsize=(600 / 72, 220 / 72), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    generator = torch.Generator().manual_seed(4)
    for row, name in zip(left.subplots(2, 4), ("pixel", "harmonic"), strict=True):
        basis = make_basis(name, Group(24), 5)
        turned = torch.einsum("p,gpk->gk", torch.randn(basis.shape[1], dtype=basis.dtype, generator=generator), basis)
        limit = turned[0].abs().max().item()
        for g, ax in enumerate(row):
            ax.imshow(turned[g].view(5, 5).numpy(), cmap="RdBu", vmin=-limit, vmax=limit, interpolation="none")
            kept = turned[g].square().sum() / turned[0].square().sum()
            bare(ax, f"{15 * g}°" if name == "pixel" else "", xlabel=f"{kept:.2f}")
        row[0].set_ylabel(name)
    ax = right.subplots()
    _, *rows = table("Turned kernels lose energy").items()
    for (name, cells), look in zip((rows[i] for i in (1, 3)), (LOOKS[1], LOOKS[0]), strict=True):
        kept = [float(cell) for cell in cells]
        ax.plot(range(0, 91, 15), [*kept, *kept[-2::-1]], color=look.color, marker=look.marker, linestyle=look.line)
        text = name.replace("`", "")
        ax.annotate(text, (45, kept[-1]), (0, -14), textcoords="offset points", ha="center", color=look.color)
    ax.set(ylim=(0, 1.1), xticks=range(0, 91, 15), xlabel="degrees")
    ax.set_title("energy kept, on average", fontsize=10, loc="left")
    return figure


def between() -> Figure:
    figure, (ax,) = canvas(1)
    head, *rows = table("Angles between the quarter turns").items()
    for y, (_, cells) in enumerate(rows):
        for cell, look, pool in zip(cells, LOOKS[1::-1] + LOOKS[2:3], head[1], strict=True):
            ax.plot([float(cell)], [y], look.marker, color=look.color, markersize=8, label=pool if y == 0 else None)
    row_labels(ax, [name.replace("`", "") for name, _ in rows])
    ax.set(xlim=(0, 0.72), xlabel="error at 45 degrees")
    ax.grid(axis="both")
    ax.legend(loc="upper right")
    return figure


def relative() -> Figure:
    figure, axes = canvas(1, 1)
    for column, (ax, good) in enumerate(zip(axes, ("plain CNN", "C8 (escnn)"), strict=True)):
        title, rows = rows_of("The relative error flatters", column)
        bars(ax, f"{title}: which is better?", [("plain CNN", rows[0][1]), ("C8 (escnn)", rows[1][1])], (good,))
    return figure


def corners() -> Figure:
    figure, axes = canvas(1, 1, 1, 1)
    rng = np.random.default_rng([0, 0])
    tile, stain = smooth_noise(rng, 512, 8.0), draw_stain(rng)
    tissue = (
        torch.tensor(draw_patch(np.random.default_rng([0, 1, 5]), 1, 96, stain, tile)).permute(2, 0, 1).double() / 255
    )
    patch, turned = tissue[:, 16:80, 16:80], turn_image(tissue, 45.0)[:, 16:80, 16:80]
    side = torch.arange(64.0) - 31.5
    outside = torch.hypot(side[:, None], side) > 32
    disc = torch.where(outside, 0.0, turned)
    empty = turn_image(patch, 45.0)
    titles = ("64x64 patch", "turned: corners", "turned in 96x96,\nthen cropped", "under a disc")
    for ax, title, picture in zip(axes, titles, (patch, empty, turned, disc), strict=True):
        ax.imshow((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy(), interpolation="none")
        bare(ax, title, color=ORANGE if "corners" in title else INK)
    return figure


def radians() -> Figure:
    figure, axes = canvas(1, 1)
    for ax, title, half, color in (
        (axes[0], "meant: -180° to 180°", 180.0, BLUE),
        (axes[1], "done: -3.14° to 3.14°", 3.14, ORANGE),
    ):
        ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=GREY, linewidth=0.8))
        ax.add_patch(Wedge((0, 0), 1, 90 - half, 90 + half, color=color))
        bare(ax, title)
        ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
    return figure


def shared() -> Figure:
    figure, axes = canvas(1, 1)
    ids = [f"{slide:02d}-{patch}" for slide in range(12) for patch in range(8)]
    labels, slides = [i % 2 for i in range(96)], [i // 8 for i in range(96)]
    color = {"train": PALE, "validation": GREY, "test": ORANGE}
    for ax, title, keys in ((axes[0], "split by patch", []), (axes[1], "split by slide", [slides])):
        split = assign(ids, labels, joined(ids, *keys), {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=0)
        for i, name in enumerate(split):
            box(ax, i // 8 + 0.06, i % 8 + 0.08, 0.88, 0.84, facecolor=color[name])
        both = sum({"train", "test"} <= {split[i] for i in range(96) if slides[i] == s} for s in range(12))
        bare(ax, f"{title}: {both} of 12 slides in training and test", xlabel="12 slides of 8 patches")
        ax.set(xlim=(0, 12), ylim=(8, 0))
    handles = [Rectangle((0, 0), 1, 1, color=shade) for shade in color.values()]
    figure.legend(handles, color, loc="outside lower center", ncols=3)
    return figure


def half() -> Figure:
    figure, (ax,) = canvas(1)
    title, rows = rows_of("Half precision", 2)
    bars(ax, title, [row for row in rows if row[1]], ("float32", "bfloat16"))
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "constant": constant,
    "prior": prior,
    "impossible": impossible,
    "seeds": seeds,
    "strides": strides,
    "same": same,
    "upsample": upsample,
    "batchnorm": lambda: only_bars("BatchNorm per channel"),
    "dropout": dropout,
    "orientations": lambda: only_bars("Orientations treated as plain channels"),
    "other_group": lambda: only_bars("Channels of another group"),
    "energy": energy,
    "between": between,
    "half": half,
    "nan": lambda: only_bars("A weight that is NaN"),
    "relative": relative,
    "corners": corners,
    "price": lambda: only_bars("Turning has a price of its own", log=True),
    "radians": radians,
    "shared": shared,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or FIGURES:
        save(name)
