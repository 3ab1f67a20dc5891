"""The figures of an audit that show one model: its classes, its confusions, its layers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..results import AuditResult, Orbit
from . import audit_tables as tables
from .audit_figures import DOTS, decades, label_rows, percent_axis
from .audit_tables import WORST, turn_name, worst_turn
from .figures import shorten
from .svg import INK, PAPER, Plot, canvas, drawn, finish, look, visible
from .tables import grid
from .words import error, percent

MATRIX = 16  # classes of a drawn matrix
TINY = 1e-8  # everything below, 0 too, is drawn here


@drawn
def classes(a: AuditResult) -> Plot | None:
    """Two panels with one row a class: upright and worst accuracy; flips."""
    shown = tables.worst_classes(a)
    if not shown or all(c.exact_flip_rate is None and c.accuracy is None for c in shown):
        return None
    labelled = any(c.accuracy is not None for c in shown)
    figure = Figure(figsize=(5, 1.1 + (0.24 * len(shown) + 0.5) * (2 if labelled else 1)), layout="constrained")
    axes = figure.subplots(2 if labelled else 1, 1, squeeze=False)[:, 0]
    blue, red = look(0), look(1)
    if labelled:
        for row, c in enumerate(shown):
            _pair(axes[0], row, c.accuracy, c.worst_accuracy, blue.color)
        if a.majority_rate is not None:
            axes[0].axvline(a.majority_rate, color=INK, linestyle=(0, (4, 3)), linewidth=1)
        percent_axis(axes[0])
        axes[0].set_title("accuracy: upright, and right at every exact turn", fontsize=10, loc="left")
    flips = [v for c in shown for v in (c.exact_flip_rate, c.interpolated_flip_rate) if v is not None]
    for row, c in enumerate(shown):
        for value, face in ((c.interpolated_flip_rate, PAPER), (c.exact_flip_rate, red.color)):
            if value is not None:
                axes[-1].plot([value], [row], red.marker, color=red.color, markerfacecolor=face, zorder=3)
    floor = tables.flips(a, exact=False)[1].value
    if floor is not None:
        axes[-1].axvline(floor, color=red.color, linestyle=DOTS, linewidth=1.2)
    percent_axis(axes[-1], max([*flips, floor or 0.0], default=1.0))
    axes[-1].set_title("flips: at some exact turn, at some other angle", fontsize=10, loc="left")
    for ax in axes:
        label_rows(ax, [visible(c.name) for c in shown], 20)
    marks = [
        Line2D([], [], color=blue.color, marker="o", markerfacecolor=PAPER, linestyle="", label="upright"),
        Line2D([], [], color=blue.color, marker="o", linestyle="", label="worst"),
        Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="majority rate"),
    ]
    ends = [
        Line2D([], [], color=red.color, marker="s", linestyle="", label="flips, exact"),
        Line2D([], [], color=red.color, marker="s", markerfacecolor=PAPER, linestyle="", label="flips, other"),
        Line2D([], [], color=red.color, linestyle=DOTS, linewidth=1.2, label="floor, all classes"),
    ]
    shown_marks = marks[: 3 if a.majority_rate is not None else 2] if labelled else []
    figure.legend(
        handles=[*shown_marks, *ends[: 2 if floor is None else 3]],
        loc="outside lower center",
        ncols=3,
        columnspacing=1.2,
    )
    table = tables.per_class(a)
    some = f" The worst {len(shown)} of {len(a.per_class):,} classes." if len(shown) < len(a.per_class) else ""
    truth = "" if labelled else " There are no labels: a class is an upright decision."
    return finish(figure, f"Classes of {a.label}", f"What turning does to each class.{some}{truth}", table)


def _pair(ax: Axes, row: int, upright: float | None, worst: float | None, color: str) -> None:
    if upright is not None and worst is not None:
        ax.plot([worst, upright], [row, row], color=color, linewidth=1.4, alpha=0.6)
    for value, face in ((upright, PAPER), (worst, color)):
        if value is not None:
            ax.plot([value], [row], "o", color=color, markerfacecolor=face, zorder=3)


@drawn
def recall(a: AuditResult) -> Plot | None:
    """A heat map: one row a turn, one column a class; exact turns and other angles in blocks of their own."""
    order = sorted(a.turns, key=lambda t: (not t.exact, t.mirror, t.angle))
    shown = [t for t in order if any(v is not None for v in t.recall)]
    k = len(a.classes)
    if not shown or not 1 < k <= WORST or any(len(t.recall) != k for t in shown):
        return None
    upright = {c.name: c.accuracy for c in a.per_class}
    exact, other = [t for t in shown if t.exact], [t for t in shown if not t.exact]
    rows: list[tuple[str, Sequence[float | None]]] = [("upright", [upright.get(c) for c in a.classes])]
    rows += [(turn_name(t.angle, t.mirror), t.recall) for t in exact]
    split = len(rows)
    rows += [("", [None] * k), *((turn_name(t.angle, t.mirror), t.recall) for t in other)] if other else []
    figure, ax = canvas(360, 110 + 15 * len(rows))
    values = np.array([[np.nan if v is None else v for v in row] for _, row in rows])
    texts = np.array([["" if v is None else f"{100 * v:.0f}" for v in row] for _, row in rows])
    matrix(ax, 0.6 * values, texts if k <= 12 else None)
    ax.set_yticks([i for i, (name, _) in enumerate(rows) if name], [name for name, _ in rows if name], fontsize=8.5)
    names = [shorten(visible(c), 14) for c in a.classes]
    ax.set_xticks(range(k), names, rotation=40, rotation_mode="xtick", fontsize=9)
    if other:
        ax.text(-0.4, split, "interpolated", va="center", fontsize=9, style="italic")
    ax.set_title("exact", fontsize=9, loc="left", style="italic")
    cells = [(name, *map(percent, row)) for name, row in rows if name]
    table = grid(f"Recall of {a.label}", ("turn", *a.classes), cells)
    text = "How many images of each class are still recognised at each turn, in per cent."
    text += " Rows have no floor of their own: see the accuracy against the angle." if other else ""
    return finish(figure, f"Recall of {a.label}", text, table)


def matrix(ax: Axes, shares: np.ndarray, texts: np.ndarray | None = None, size: float = 8) -> None:
    """Squares whose shade is a share in [0, 1]; nothing where there is no number."""
    height, width = shares.shape
    cells = [(i, j) for i in range(height) for j in range(width) if np.isfinite(shares[i, j])]
    corners = [
        [(j + x, i + y) for x, y in ((-0.48, -0.47), (0.48, -0.47), (0.48, 0.47), (-0.48, 0.47))] for i, j in cells
    ]
    shades = [to_rgba(look(0).color, 0.05 + 0.85 * float(np.clip(shares[cell], 0, 1))) for cell in cells]
    ax.add_collection(PolyCollection(corners, facecolors=shades, linewidths=0), autolim=False)
    for i, j in cells:
        if texts is not None and texts[i, j]:
            ax.text(j, i, texts[i, j], ha="center", va="center", fontsize=size, in_layout=False)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


@drawn
def confusions(a: AuditResult) -> Plot | None:
    """The upright confusions, those of the worst exact turn, and those of the worst other angle."""
    shown = [(f"upright: accuracy {percent(a.upright_accuracy)}", a.confusion)] if a.confusion else []
    for exact in (True, False):
        turn = worst_turn(a, "accuracy", exact, least=True)
        if turn is not None and turn.confusion:
            kind = "exact" if exact else "interpolated"
            floor = "" if exact else f", floor {percent(tables.floor_of(turn, 'accuracy'))}"
            name = f"{turn_name(turn.angle, turn.mirror)} ({kind}): accuracy {percent(turn.accuracy.value)}{floor}"
            shown.append((name, turn.confusion))
    k = len(a.classes)
    shown = [s for s in shown if len(s[1]) == k and all(len(row) == k for row in s[1])]
    if not shown or not 1 < k <= MATRIX:
        return None
    side = 130 + 17 * k
    figure = Figure(figsize=(5, (len(shown) * (side + 8) + 40) / 72), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    names = [shorten(visible(c), 14) for c in a.classes]
    rows = []
    for ax, (name, found) in zip(axes, shown, strict=True):
        counts = np.array(found)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        texts = np.array([[f"{100 * v:.0f}" if v >= 0.005 else "" for v in row] for row in shares])
        matrix(ax, 0.6 * shares, texts, 9 if k <= 8 else 7)
        ax.set_yticks(range(k), names)
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_ylabel("truth")
        rows += [
            (f"{name.partition(':')[0]}: {c}", *(f"{n:,}" for n in row))
            for c, row in zip(a.classes, counts.tolist(), strict=True)
        ]
    axes[-1].set_xticks(range(k), names, rotation=40 if k > 3 else 0, rotation_mode="xtick" if k > 3 else "default")
    axes[-1].set_xlabel("decision")
    majority = f" The majority rate is {percent(a.majority_rate)}." if a.majority_rate is not None else ""
    text = f"Per cent of each row; the turns of each kind with the lowest accuracy.{majority}"
    table = grid(f"Confusions of {a.label}, images", ("truth", *a.classes), rows)
    return finish(figure, f"Confusions of {a.label}", text, table)


@drawn
def changes(a: AuditResult) -> Plot | None:
    """Which upright decision (row) turns into which (column), at exact turns and at other angles."""
    orbits: list[tuple[str, Orbit]] = [
        (name, o) for name, o in (("exact turns", a.exact), ("other angles", a.interpolated)) if o and o.changes
    ]
    if not orbits or a.kind == "labels":  # there each label changes by itself: a table says it better
        return None
    found = [c for _, o in orbits for c in o.changes]
    totals: dict[str, int] = {}
    for c in found:
        totals[c.before] = totals.get(c.before, 0) + c.count
        totals[c.after] = totals.get(c.after, 0) + c.count
    most = sorted(totals, key=lambda c: -totals[c])[:MATRIX]
    order = {c: i for i, c in enumerate(a.classes)}
    names = sorted(most, key=lambda c: (order.get(c, len(order)), c))
    k = len(names)
    figure = Figure(figsize=(5, (len(orbits) * (130 + 17 * k + 8) + 40) / 72), layout="constrained")
    axes = figure.subplots(len(orbits), 1, squeeze=False, sharex=True)[:, 0]
    for ax, (name, orbit) in zip(axes, orbits, strict=True):
        counts = np.zeros((k, k), dtype=int)
        for c in orbit.changes:
            if c.before in names and c.after in names:
                counts[names.index(c.before), names.index(c.after)] = c.count
        texts = np.array([[_count(n) for n in row] for row in counts])
        matrix(ax, 0.6 * counts / max(counts.max(), 1), texts, 9 if k <= 8 else 7)
        ax.set_yticks(range(k), [shorten(visible(c), 14) for c in names])
        ax.set_title(f"{name} ({orbit.turns})", fontsize=10, loc="left")
        ax.set_ylabel("upright decision")
    labels = [shorten(visible(c), 14) for c in names]
    axes[-1].set_xticks(range(k), labels, rotation=40 if k > 3 else 0, rotation_mode="xtick" if k > 3 else "default")
    axes[-1].set_xlabel("turns into")
    some = f" The {k} classes that change most." if len(totals) > k else ""
    text = f"Changed decisions, counted over images and turns.{some} {tables.floor_said(a)}".rstrip()
    return finish(figure, f"Changes of {a.label}", text, tables.changes(a))


def _count(n: int) -> str:
    return "" if n == 0 else f"{n / 1000:.0f}k" if n >= 9999.5 else str(n)


@drawn
def layers(a: AuditResult) -> Plot | None:
    """The error along the depth of the network, on a logarithmic axis."""
    known = [(i, x) for i, x in enumerate(a.layers) if x.between_image_error is not None]
    if not known:
        return None
    figure, ax = canvas(360, 270)
    promised = [(i, x.between_image_error) for i, x in known if x.representation != "linear"]
    plain = [(i, x.between_image_error) for i, x in known if x.representation == "linear"]
    fitted = [(i, x.linear_error) for i, x in known if x.linear_error is not None]
    drawn_lines: list[tuple[Sequence[tuple[int, float | None]], str, int, bool]] = [
        (promised, "promised", 0, True),
        (plain, "as they are", 1, True),
        (fitted, "after the best linear map", 2, False),
    ]
    values = []
    for points, name, i, filled in drawn_lines:
        if not points:
            continue
        ys = [max(v or 0.0, TINY) for _, v in points]
        values += ys
        face = look(i).color if filled else PAPER
        style = {"color": look(i).color, "marker": look(i).marker, "linestyle": look(i).line}
        ax.plot([x for x, _ in points], ys, **style, markerfacecolor=face, markersize=4, linewidth=1.3, label=name)
    low, high = min(values), max(*values, 1.0)
    ax.set_yscale("log")
    ticks, names = decades(min(low, 0.01), high)
    names[0] = f"≤{names[0]}" if ticks[0] <= TINY * 1.01 else names[0]
    ax.set_yticks(ticks, names)
    ax.set_ylim(min(low / 1.6, ticks[0]), 1.6 * high)
    ax.minorticks_off()
    ax.axhline(1, color=INK, linewidth=0.8, linestyle=DOTS)
    step = 1 + len(a.layers) // 12
    places = range(0, len(a.layers), step)
    ax.set_xticks(places, [shorten(visible(a.layers[i].path or "network"), 18) for i in places], fontsize=8)
    ax.tick_params(axis="x", rotation=40, rotation_mode="xtick")
    ax.set_ylabel("between-image error")
    ax.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2)
    last = known[-1][1]
    text = "Maps are turned back before they are compared. "
    if plain:
        text += "A plain network promises nothing; what is left after the best linear map is what it really loses. "
    linear = "" if last.linear_error is None else f", {error(last.linear_error)} after the best linear map"
    text += f"Last layer: {error(last.between_image_error)}{linear}."
    return finish(figure, f"Layers of {a.label}", text, tables.layers(a))
