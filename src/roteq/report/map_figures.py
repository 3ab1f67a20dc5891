"""What a report of dense networks shows besides: flips against the angle, and maps that turn with their picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib import colormaps
from matplotlib.lines import Line2D

from ..results import AuditResult, MapExample, Run, Study, Turn
from .audit_figures import arcs_of
from .audit_tables import floor_of, turn_name, value_of
from .figures import runs_by_label, shorten
from .pairs import stop_guards
from .svg import INK, PAPER, Plot, canvas, drawn, finish, look, visible
from .tables import Table, grid
from .words import NONE, SHORT, error, listing, number, percent

Turned = tuple[Turn, float, float | None]  # a turn, its flips and their floor, means over the seeds
PALE = 0.35
STOPS = 11  # of the colours of a difference


@drawn
def flips_by_angle(audits: Mapping[str, Sequence[AuditResult]]) -> Plot | None:
    """Exact turns as markers, other angles as lines that never join them, their floor pale."""
    means = {label: _means(results) for label, results in audits.items()}
    if not any(means.values()):
        return None
    figure, ax = canvas(360, 300)
    for i, turned in enumerate(means.values()):
        style = look(i)
        arcs = arcs_of([(t, v) for t, v, _ in turned if not t.mirror])
        ground = arcs_of([(t, f) for t, _, f in turned if not t.mirror and f is not None])
        for points, line, alpha in ((ground, "-", PALE), (arcs, style.line, 1.0)):
            ax.plot(
                [x for x, _ in points], [100 * y for _, y in points], color=style.color, linestyle=line, alpha=alpha
            )
        for mirror, face, size in ((True, PAPER, 7.5), (False, style.color, 5)):
            marks = [(t.angle, 100 * v) for t, v, _ in turned if t.exact and t.mirror is mirror]
            ax.plot(
                [x for x, _ in marks], [y for _, y in marks], style.marker, color=style.color, markerfacecolor=face,
                markersize=size, clip_on=False, zorder=3,
            )  # fmt: skip
    ax.set_xlim(0, 360)
    ax.set_ylim(bottom=0)
    ax.set_xticks(range(0, 361, 90), [f"{a}°" for a in range(0, 361, 90)])
    ax.set(xlabel="the picture is turned by", ylabel="pixels flipped (%)")
    ax.grid()
    handles = [
        Line2D(
            [], [], color=look(i).color, linestyle=look(i).line, marker=look(i).marker, label=visible(shorten(label))
        )
        for i, label in enumerate(audits)
    ]
    handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle="", label="mirrored"))
    handles.append(Line2D([], [], color=INK, alpha=PALE, label="floor"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.4)
    title = "Pixels flipped against angle"
    return finish(
        figure,
        title,
        "The share of the pixels whose class changes when the picture is turned and its map turned back, mean over "
        "the seeds. Markers are exact turns, hollow where mirrored too; lines are interpolated angles, pale lines "
        "their floor: the same for pictures and maps turned there and back.",
        _flip_table(title, means),
    )


def _means(results: Sequence[AuditResult]) -> list[Turned]:
    """Every turn of the first seed with its means over all of them."""
    found: dict[tuple[float, bool, bool], list[Turn]] = {}
    for audit in results:
        for turn in audit.turns:
            found.setdefault((turn.angle, turn.mirror, turn.exact), []).append(turn)
    out = []
    for turns in found.values():
        values = [v for t in turns if (v := value_of(t, "flip_rate")) is not None]
        floors = [f for t in turns if (f := floor_of(t, "flip_rate")) is not None]
        if values:
            out.append((turns[0], fmean(values), fmean(floors) if floors else None))
    return out


def _flip_table(title: str, means: Mapping[str, list[Turned]]) -> Table:
    cells = {
        label: {(not t.exact, t.mirror, t.angle): (percent(v), percent(f)) for t, v, f in turned}
        for label, turned in means.items()
    }
    rows = [
        (
            turn_name(angle, mirror),
            "interpolated" if inexact else "exact",
            *(x for found in cells.values() for x in found.get((inexact, mirror, angle), (NONE, NONE))),
        )
        for inexact, mirror, angle in sorted({key for found in cells.values() for key in found})
    ]
    return grid(title, ("turn", "kind", *(x for label in means for x in (label, f"{label}, floor"))), rows)


@dataclass(frozen=True)
class Frame:
    """One picture of a row."""

    name: str
    png: str
    alt: str
    is_difference: bool = False


@dataclass(frozen=True)
class Strip:
    """One test image: upright, turned, turned back."""

    id: str
    text: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Model:
    """The strips of one model, one seed, with the error of its map in words."""

    name: str
    stopped: bool
    text: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Gallery:
    """Every model on one scale: black is no difference, the brightest colour one of `top`. `heat`: red, green and blue
    of the colours between, for an SVG filter, as the pictures themselves are grey."""

    shown: str  # of what the maps are probabilities
    top: float
    models: tuple[Model, ...]

    @property
    def grey(self) -> int:
        """The grey of a difference of `top`."""
        return round(255 * self.top)

    @property
    def heat(self) -> tuple[str, str, str]:
        colours = [colormaps["inferno"](i / (STOPS - 1))[:3] for i in range(STOPS)]
        red, green, blue = (" ".join(f"{c[k]:.3f}" for c in colours) for k in range(3))
        return red, green, blue


def gallery(study: Study) -> Gallery | None:
    """The first run with pictures of every model."""
    first = [run for runs in runs_by_label(study).values() if (run := next((r for r in runs if r.maps), None))]
    if not first:
        return None
    largest = max(example.largest for run in first for example in run.maps)
    top = next((t for t in (0.1, 0.2, 0.5) if largest <= t), 1.0)
    background, *others = first[0].evaluation.classes
    shown = f"'{others[0]}'" if len(others) == 1 else f"anything but '{background}'"
    return Gallery(shown, top, tuple(_model(run, top, shown) for run in first))


def _model(run: Run, top: float, shown: str) -> Model:
    return Model(
        f"{run.label}, seed {run.seed}",
        bool(stop_guards(run)),
        _errors(run),
        tuple(_strip(example, top, shown) for example in run.maps),
    )


def _errors(run: Run) -> str:
    """The equivariance error of the map, exact turns and other angles apart."""
    guards, audit = stop_guards(run), run.audit
    if guards:
        return (
            f"Stopped by a guard: {listing(dict.fromkeys(guards))}. However little its map changes, this row proves "
            "nothing."
        )
    if audit.degenerate:
        return "The map hardly varies between images, so it has no error and its steadiness means nothing."
    floor = "" if audit.interpolated_floor is None else f" (floor {error(audit.interpolated_floor)})"
    kinds = (
        ("Quarter turns", audit.exact_error, "", audit.exact_flip_rate),
        ("Mirrors", audit.mirror_error, "", audit.mirror_flip_rate),
        ("Other angles", audit.interpolated_error, floor, audit.interpolated_flip_rate),
    )
    return " ".join(
        f"{kind}: error of the map {error(size)}{beside}, {percent(flips)} of the pixels flipped."
        for kind, size, beside, flips in kinds
        if size is not None
    )


def _strip(example: MapExample, top: float, shown: str) -> Strip:
    turn = f"{example.angle:g}°"
    scores = [f"{SHORT.get(key, key)} {number(value)}" for key, value in example.scores.items() if value is not None]
    text = f"Turned by {turn} ({'exact' if example.angle % 90 == 0 else 'interpolated'})"
    text += f"; upright {listing(scores)} in this picture" if scores else ""
    text += f"; largest difference {error(example.largest)}."
    of = f"of {example.id}"
    return Strip(
        example.id,
        text,
        (
            Frame("input", example.image, f"Input {example.id}"),
            Frame("truth", example.truth, f"Truth {of}: white is {shown}"),
            Frame("map", example.map, f"Map {of}: the probability of {shown}, white is 1"),
            Frame(f"turned {turn}", example.turned_image, f"Input {example.id}, turned by {turn}"),
            Frame("its map", example.turned_map, f"Map of the turned input {example.id}"),
            Frame("turned back", example.turned_back, f"Map of the turned input {example.id}, turned back"),
            Frame(
                f"difference, to {top:g}",
                example.difference,
                f"Difference between the map {of} and the map turned back, largest {error(example.largest)}",
                is_difference=True,
            ),
        ),
    )
