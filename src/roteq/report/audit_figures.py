"""The figures of an audit that compare models; those of one model are in audit_pictures.py."""

from collections.abc import Callable, Sequence
from math import floor, isnan, log10, nan, radians

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..results import AuditReport, AuditResult, Turn
from . import audit_tables as tables
from .audit_tables import floor_of, is_void, lie, rate, turn_name, value_of
from .figures import radial_range, shorten
from .svg import INK, PAPER, Plot, canvas, drawn, finish, look, visible
from .tables import Table, grid
from .words import error, percent

DASHED, DOTS = (0, (4, 3)), (0, (2, 1.6))
Model = tuple[int, AuditResult]  # with its place in the report, which is its look
SectionParts = tuple[str, str, str, tuple[Plot, ...]]


def draw(report: AuditReport) -> list[SectionParts]:
    """Anchor, title, text and plots of every section that has any."""
    from . import audit_pictures as pictures

    models = [(i, a) for i, a in enumerate(report.audits) if not is_void(a)]
    every = [a for _, a in models]
    decided = [(i, a) for i, a in models if a.kind != "embedding"]
    embedded = [(i, a) for i, a in models if a.kind == "embedding"]
    left_out = ", ".join(a.label for a in report.audits if is_void(a))
    without = f" Not drawn, as nothing can be said about it: {left_out}." if left_out else ""
    sections = [
        (
            "turning",
            "What happens when the picture is turned",
            "Quarter turns and mirrors are exact: they only move pixels. All other angles need interpolation, which "
            "changes pictures by itself; the floor shows how much: the same number for pictures that were turned by "
            f"the angle and back. The two kinds are never mixed.{without}",
            (overview(decided), flips(decided), accuracy(decided), distance(embedded)),
        ),
        (
            "classes",
            "Which classes suffer",
            "",
            tuple(p for a in every for p in (pictures.classes(a), pictures.recall(a))),
        ),
        (
            "changes",
            "Which class turns into which",
            "",
            tuple(p for a in every for p in (pictures.confusions(a), pictures.changes(a))),
        ),
        (
            "layers",
            "Where in the network it happens",
            "The error of the maps, layer by layer, at the exact turns. 0: they turn with the picture; 1: turning "
            "the picture changes them as much as exchanging it.",
            (*(pictures.layers(a) for a in every), derivatives(models)),
        ),
    ]
    found = [(anchor, title, text, tuple(p for p in plots if p)) for anchor, title, text, plots in sections]
    return [section for section in found if section[3]]


def label_rows(ax: Axes, labels: Sequence[str], length: int = 24) -> None:
    """One row a label, the first on top."""
    ax.set_yticks(range(len(labels)), [shorten(label, length) for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def percent_axis(ax: Axes, high: float = 1.0) -> None:
    """A horizontal axis of shares, from 0 to a little above the largest."""
    top = next((t for t in (0.1, 0.2, 0.4, 0.6, 0.8) if high <= t), 1.0)
    ax.set_xlim(-0.015 * top, 1.015 * top)
    ticks = [top * k / (4 if top not in (0.1, 0.2, 1.0) else 5) for k in range(6)]
    ticks = [t for t in ticks if t <= top + 1e-9]
    ax.set_xticks(ticks, [f"{100 * t:g} %" for t in (round(t, 4) for t in ticks)])


@drawn
def overview(models: Sequence[Model]) -> Plot | None:
    """Flips over all turns of one kind, one row a model; None for a single one, whose sentence says it."""
    if len(models) < 2 or all(tables.flips(a, True)[0].value is None for _, a in models):
        return None
    figure, ax = canvas(360, 90 + 38 * len(models))
    rows, largest = [], 0.0
    for row, (i, a) in enumerate(models):
        style = look(i)
        (exact, _), (other, ground) = tables.flips(a, True), tables.flips(a, False)
        for value, y, face in ((exact, row - 0.14, style.color), (other, row + 0.14, PAPER)):
            if value.value is None:
                continue
            if value.low is not None and value.high is not None:
                ax.plot([value.low, value.high], [y, y], color=style.color, linewidth=1.2)
            ax.plot([value.value], [y], style.marker, color=style.color, markerfacecolor=face, markersize=6, zorder=3)
        if ground.value is not None:
            ax.plot([ground.value], [row + 0.14], "|", color=INK, markersize=12, zorder=4)
        largest = max(largest, *(v for x in (exact, other, ground) for v in (x.value or 0, x.high or 0)))
        rows.append((a.label, rate(exact), rate(other), rate(ground)))
    label_rows(ax, [a.label for _, a in models])
    percent_axis(ax, largest)
    ax.set_xlabel("images that change at some turn")
    figure.legend(handles=kinds(), loc="outside lower center", ncols=3, columnspacing=1.2)
    return finish(
        figure,
        "Flips",
        "How many images change their decision at some turn, with intervals. An interpolated number means something "
        "only to the right of its floor.",
        grid("Images whose decision changes at some turn", ("model", "exact turns", "other angles", "floor"), rows),
    )


def kinds() -> list[Line2D]:
    grey = look(7).color
    return [
        Line2D([], [], color=grey, marker="o", linestyle="", label="exact turns"),
        Line2D([], [], color=grey, marker="o", markerfacecolor=PAPER, linestyle="", label="other angles"),
        Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, label="floor"),
    ]


@drawn
def flips(models: Sequence[Model]) -> Plot | None:
    text = (
        "The share of images whose decision changes, by the angle of the turn: an invariant model stays at the centre."
    )
    values = [value_of(t, "flip_rate") for _, a in models for t in a.turns]
    if not any(v is not None for v in values):
        return None
    return _polar(models, "flip_rate", "Flips against angle", text, rate, percent)


@drawn
def accuracy(models: Sequence[Model]) -> Plot | None:
    labelled = [(i, a) for i, a in models if any(t.accuracy.value is not None for t in a.turns)]
    if not labelled:
        return None
    text = "How often the model is right, by the angle of the turn: an even ring does not care how the picture lies. "
    return _polar(
        labelled, "accuracy", "Accuracy against angle", text + "The rings do not start at 0.", rate, percent, ring=True
    )


@drawn
def distance(models: Sequence[Model]) -> Plot | None:
    shown = [(i, a) for i, a in models if any(t.cosine_distance is not None for t in a.turns)]
    if not shown:
        return None
    text = (
        "How far the embedding moves, by the angle of the turn (mean over the images): an invariant one stays at the "
    )
    text += "centre."
    return _polar(shown, "cosine_distance", "Cosine distance against angle", text, error, error)


def _polar(
    models: Sequence[Model],
    name: str,
    title: str,
    text: str,
    show: Callable,
    show_floor: Callable,
    ring: bool = False,
) -> Plot:
    """Exact turns as markers, the arcs between them as lines, floors dotted; an arc never joins an exact turn."""
    figure, ax = canvas(360, 400, projection="polar")
    values: list[float] = []
    for i, a in models:
        values += _model(ax, i, a, name)
    majority = next((a.majority_rate for _, a in models if a.majority_rate is not None), None) if ring else None
    low, high = radial_range([*values, *([majority] if majority is not None else [])])
    low, high = (low, high) if ring else (0.0, _top(max(values, default=0.0)))
    if majority is not None:
        ax.plot([radians(d) for d in range(361)], [majority] * 361, color=INK, linestyle=DASHED, linewidth=1)
    _rings(ax, low, high, share=name != "cosine_distance", hole=0.25 if ring else 0.0)
    marks = [
        Line2D(
            [], [], color=look(i).color, linestyle=look(i).line, marker=look(i).marker, label=visible(shorten(a.label))
        )
        for i, a in models
    ]
    if any(t.mirror and value_of(t, name) is not None for _, a in models for t in a.turns):
        marks.append(Line2D([], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle="", label="mirrored"))
    if any(floor_of(t, name) is not None for _, a in models for t in a.turns):
        marks.append(Line2D([], [], color=INK, linestyle=DOTS, linewidth=1, label="floor"))
    if majority is not None:
        marks.append(Line2D([], [], color=INK, linestyle=DASHED, linewidth=1, label="majority rate"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2, columnspacing=1.4)
    described = (
        f"{text} Large markers are exact turns, hollow where mirrored too; lines are interpolated angles, dotted lines "
        "their floor: the same for pictures turned there and back."
    )
    beside = f" The majority rate is {percent(majority)}." if majority is not None else ""
    return finish(figure, title, described + beside, _by_turn(models, name, title, show, show_floor))


def _model(ax: Axes, index: int, a: AuditResult, name: str) -> list[float]:
    """Draw one model; the values that were drawn."""
    style = look(index)
    known = [(t, v) for t in a.turns if (v := value_of(t, name)) is not None]
    plain = [(t, v) for t, v in known if not t.mirror]
    if name == "accuracy" and a.upright_accuracy is not None and not any(t.angle == 0 for t, _ in plain):
        ax.plot([0.0], [a.upright_accuracy], style.marker, color=style.color, clip_on=False)
    arcs = arcs_of(plain)
    ground = arcs_of([(t, f) for t, _ in plain if not t.exact and (f := floor_of(t, name)) is not None])
    for points, line, width, dot in ((arcs, style.line, 1.5, 3.5), (ground, DOTS, 1.2, 2.0)):
        where, values = [radians(x) for x, _ in points], [y for _, y in points]
        ax.plot(where, values, color=style.color, linestyle=line, linewidth=width, marker="o", markersize=dot)
    for mirror, face in ((True, PAPER), (False, style.color)):
        marks = [(radians(t.angle), v) for t, v in known if t.exact and t.mirror is mirror]
        if marks:
            ax.plot(
                *zip(*marks, strict=True),
                style.marker,
                color=style.color,
                markerfacecolor=face,
                clip_on=False,
                markersize=5 if not mirror else 6.5,
                zorder=3 if not mirror else 2.5,
            )
    upright = [a.upright_accuracy] if name == "accuracy" and a.upright_accuracy is not None else []
    return [v for _, v in known] + [y for _, y in ground if not isnan(y)] + upright


def arcs_of(values: Sequence[tuple[Turn, float]]) -> list[tuple[float, float]]:
    """The interpolated angles in order, with a gap wherever an exact quarter lies between two of them."""
    points = sorted((t.angle % 360, v) for t, v in values if not t.exact)
    out: list[tuple[float, float]] = []
    for angle, value in points:
        if out and angle // 90 != out[-1][0] // 90:
            out.append((angle // 90 * 90, nan))
        out.append((angle, value))
    return out


def _top(largest: float) -> float:
    """A round number a little above the largest value.

    >>> _top(0.234), _top(0.0)
    (0.25, 0.02)
    """
    return next((t for t in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if largest <= t), 2.0)


def _rings(ax: Axes, low: float, high: float, share: bool, hole: float) -> None:
    ax.set_theta_zero_location("N")  # type: ignore[attr-defined]
    ax.set_thetagrids(range(0, 360, 45), [f"{a}°" for a in range(0, 360, 45)])  # type: ignore[attr-defined]
    ax.set_ylim(low, high)
    ax.set_rorigin(low - hole * (high - low))  # type: ignore[attr-defined]
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 5.01)
    ticks = [k * step for k in range(floor(low / step) + 1, floor(high / step + 1e-9) + 1)]
    names = [f"{100 * t:g} %" if share else f"{t:g}" for t in (round(t, 4) for t in ticks)]
    ax.set_rgrids(ticks, names, angle=22.5, fontsize=9, ha="center", va="center")  # type: ignore[attr-defined]
    for spine in ax.spines.values():
        spine.set_linewidth(0)
    ax.tick_params(axis="x", pad=2)


def _by_turn(models: Sequence[Model], name: str, title: str, show: Callable, show_floor: Callable) -> Table:
    """One row a turn, for each model the number and its floor."""
    found = {(not t.exact, t.mirror, t.angle): {} for _, a in models for t in a.turns}  # type: ignore[var-annotated]
    for i, a in models:
        for t in a.turns:
            found[not t.exact, t.mirror, t.angle][i] = (show(getattr(t, name)), show_floor(floor_of(t, name)))
    rows = []
    for inexact, mirror, angle in sorted(found):
        cells = [x for i, _ in models for x in found[inexact, mirror, angle].get(i, ("–", "–"))]
        rows.append((turn_name(angle, mirror), "interpolated" if inexact else "exact", *cells))
    columns = ("turn", "kind", *(x for _, a in models for x in (a.label, f"{a.label}, floor")))
    return grid(title, columns, rows)


@drawn
def derivatives(models: Sequence[Model]) -> Plot | None:
    """One panel a motion, one row a model: their units differ, so they share no axis."""
    shown = [(i, a) for i, a in models if any(e.between_image_error is not None for e in a.lie)]
    if not shown:
        return None
    motions = list(dict.fromkeys(e.motion for _, a in shown for e in a.lie))
    figure = Figure(figsize=(5, 0.5 + len(motions) * (0.55 + 0.26 * len(shown))), layout="constrained")
    for ax, motion in zip(figure.subplots(len(motions), 1, squeeze=False)[:, 0], motions, strict=True):
        unit, values = "", []
        for row, (i, a) in enumerate(shown):
            for e in a.lie:
                if e.motion != motion or e.between_image_error is None:
                    continue
                unit, value = e.unit, e.between_image_error
                values.append(value)
                ax.barh([row], [value], height=0.5, color=look(i).color, alpha=0.85, linewidth=0)
                ax.annotate(error(value), (value, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        label_rows(ax, [a.label for _, a in shown], 20)
        ax.set_xlim(0, 1.22 * max(values, default=1.0) or 1.0)
        ax.xaxis.get_major_locator().set_params(nbins=5)
        ax.set_title(f"{motion}, per {unit}" if unit else motion, fontsize=10, loc="left")
    rows = [(a.label, *row) for _, a in shown for row in lie(a).rows]
    return finish(
        figure,
        "When the picture begins to move",
        "How fast the output changes when the picture begins to turn, to shift or to grow (Lie derivative), against "
        "the distance between two images. The motions have different units, so each has its own axis.",
        grid("Lie derivatives", ("model", "motion", "between-image error", "mean square", "method"), rows),
    )


def decades(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic axis at powers of ten, at most about six.

    >>> decades(1e-7, 1)[1]
    ['10⁻⁷', '10⁻⁵', '10⁻³', '0.1']
    """
    first, last = floor(log10(low) + 1e-9), -floor(-log10(high) + 1e-9)
    powers = range(first, last + 1, 1 + (last - first) // 5)
    small = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    names = {p: f"10{str(p).translate(small)}" for p in powers} | {-2: "0.01", -1: "0.1", 0: "1", 1: "10"}
    return [10.0**p for p in powers], [names[p] for p in powers]
