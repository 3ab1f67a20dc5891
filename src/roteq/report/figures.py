"""The figures that compare models. Each function takes results and returns a `Plot`; see pictures.py for those that
show one model. All are small panels (360 points wide), so that they can be read on a phone."""

from collections.abc import Mapping, Sequence
from math import floor, log10, radians
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..results import AuditResult, Interval, Run, Study
from .pairs import change, side
from .svg import INK, PAPER, Look, Plot, canvas, drawn, finish, look, visible
from .tables import Table, grid
from .words import NONE, SHORT, error, interval, number

ROC_POINTS = 200
NARROW = 0.03  # of an axis of differences


def runs_by_label(study: Study) -> dict[str, list[Run]]:
    """The runs of each model, in the order of the summaries."""
    labels = dict.fromkeys([*(s.label for s in study.summaries), *(r.label for r in study.runs)])
    found = {label: [r for r in study.runs if r.label == label] for label in labels}
    return {label: runs for label, runs in found.items() if runs}


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row a label, the first on top."""
    ax.set_yticks(range(len(labels)), [shorten(label) for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def shorten(label: str, length: int = 24) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


@drawn
def metric_by_model(study: Study, metric: str = "auc") -> Plot:
    """Every run with its interval, the mean over the seeds, and for the accuracy the majority rate."""
    models = runs_by_label(study)
    figure, ax = canvas(360, 90 + 34 * len(models))
    for row, (label, runs) in enumerate(models.items()):
        _metric_row(ax, row, look(row), [r.evaluation.metrics.get(metric, Interval(None)) for r in runs])
        summary = next((s for s in study.summaries if s.label == label), None)
        mean = summary.metrics[metric].mean if summary and metric in summary.metrics else None
        if mean is not None:
            ax.plot([mean], [row], marker="|", markersize=17, markeredgewidth=2.2, color=INK, zorder=4)
    _rows(ax, list(models))
    name = capital(SHORT[metric])
    ax.set_xlabel(f"{name} on the test images")
    handles = [
        Line2D([], [], color=INK, marker="o", linewidth=1, markersize=4, label="one run, interval"),
        Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, markeredgewidth=2.2, label="mean"),
    ]
    majority = study.runs[0].evaluation.majority_rate if study.runs else None
    if metric == "accuracy" and majority is not None:
        ax.axvline(majority, color=INK, linestyle=(0, (4, 3)), linewidth=1)
        handles.append(Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="majority rate"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=1.6)
    rows = [
        (label, str(r.seed), interval(r.evaluation.metrics.get(metric, Interval(None))))
        for label, runs in models.items()
        for r in runs
    ]
    beside = f" The majority rate is {number(majority)}." if metric == "accuracy" else ""
    table = grid(f"{name} of every run", ("model", "seed", f"{name} (interval)"), rows)
    return finish(figure, f"{name} of every run", f"One dot a run with its confidence interval.{beside}", table)


def capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def _metric_row(ax: Axes, row: int, style: Look, values: list[Interval]) -> None:
    """The seeds of a model, spread over the height of its row."""
    for i, value in enumerate(values):
        y = row + (0.0 if len(values) == 1 else 0.46 * (i / (len(values) - 1) - 0.5))
        if value.value is None:
            continue
        if value.low is not None and value.high is not None:
            ax.plot([value.low, value.high], [y, y], color=style.color, linewidth=1.1)
        ax.plot([value.value], [y], color=style.color, marker=style.marker, markersize=4.5, zorder=3)


@drawn
def differences(study: Study, metric: str = "auc") -> Plot:
    """Filled where the interval excludes 0, hollow where it does not."""
    shown = [d for d in study.differences if change(d, metric).value is not None]
    figure, ax = canvas(360, 90 + 26 * len(shown))
    word = SHORT[metric]
    blue, grey = look(0).color, look(7).color
    for row, d in enumerate(shown):
        value = change(d, metric)
        sure = side(value) != 0
        color = blue if sure else grey
        if value.low is not None and value.high is not None:
            ax.plot([value.low, value.high], [row, row], color=color, linewidth=1.6)
        ax.plot([value.value or 0], [row], marker="o", color=color, markerfacecolor=color if sure else PAPER, zorder=3)
    ax.axvline(0, color=INK, linewidth=1)
    labels = [f"{shorten(d.a, 22)}\n− {shorten(d.b, 22)}" for d in shown]
    _rows(ax, labels)
    ax.set_yticks(range(len(labels)), labels, fontsize=9)
    left, right = ax.get_xlim()
    if right - left < NARROW:
        ax.locator_params(axis="x", nbins=5)  # its numbers are long
    ax.set_xlabel(f"{capital(word)}, first minus second")
    rows = [(f"{d.a} − {d.b}", interval(change(d, metric), sign=True)) for d in shown]
    level = f"{100 * study.confidence:g} % interval"
    return finish(
        figure,
        f"Differences in {word}",
        f"Each pair on the same test images with its {level}. Filled: the interval excludes 0. To the right of 0 "
        "the first model is better.",
        grid(f"Differences in {word}", ("pair", f"difference ({level})"), rows),
    )


@drawn
def roc(study: Study) -> Plot | None:
    """One line a run; None without points (more than two classes)."""
    title = "ROC curves"
    text = "True against false positives for every threshold, one line a run. The diagonal is chance."
    return _rates(study, "roc", title, text, ("false positive rate", "true positive rate"))


@drawn
def precision_recall(study: Study) -> Plot | None:
    title = "Precision and recall"
    text = "Precision against recall for every threshold, one line a run. The level line is the share of positives."
    return _rates(study, "pr", title, text, ("recall", "precision"))


def _rates(study: Study, field: str, title: str, text: str, axes: tuple[str, str]) -> Plot | None:
    models = runs_by_label(study)
    if not any(getattr(r.evaluation, field) for runs in models.values() for r in runs):
        return None
    figure, ax = canvas(360, 330)
    for i, runs in enumerate(models.values()):
        for run in runs:
            points = thin(getattr(run.evaluation, field))
            ax.plot(*zip(*points, strict=True), color=look(i).color, linestyle=look(i).line, linewidth=1.2)
    evaluation = study.runs[0].evaluation
    positives = evaluation.counts.get(evaluation.classes[-1], 0) / evaluation.n
    chance = ([0, 1], [0, 1]) if field == "roc" else ([0, 1], [positives, positives])
    ax.plot(*chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=axes[0], ylabel=axes[1], aspect="equal")
    ax.grid()
    _legend(figure, list(models), markers=False)
    metric = {"roc": "auc", "pr": "average_precision"}[field]
    rows = [
        (label, str(r.seed), interval(r.evaluation.metrics.get(metric, Interval(None))))
        for label, runs in models.items()
        for r in runs
    ]
    name = {"roc": "area under the curve", "pr": "average precision"}[field]
    return finish(figure, title, text, grid(title, ("model", "seed", f"{name} (interval)"), rows))


def thin(points: Sequence[tuple[float, float]], most: int = ROC_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, evenly over the sequence, both ends kept.

    >>> thin([(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)], most=2)
    [(0.0, 0.0), (1.0, 1.0)]
    """
    if len(points) <= most:
        return list(points) or [(float("nan"), float("nan"))]
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _legend(figure, labels: Sequence[str], markers: bool = True, extra: Sequence[Line2D] = ()) -> None:  # type: ignore[no-untyped-def]
    handles = [
        Line2D([], [], color=look(i).color, linestyle=look(i).line, marker=look(i).marker if markers else "", label=x)
        for i, x in enumerate(visible(shorten(label)) for label in labels)
    ]
    figure.legend(handles=[*handles, *extra], loc="outside lower center", ncols=2, columnspacing=1.4)


@drawn
def accuracy_by_angle(audits: Mapping[str, Sequence[AuditResult]], majority: float | None = None) -> Plot:
    """Polar: the angle by which the pictures were turned, and how often the model is then right (mean over seeds)."""
    figure, ax = canvas(360, 380, projection="polar")
    draw_accuracy_by_angle(ax, audits, majority)
    ring = Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="majority rate")
    _legend(figure, list(audits), extra=[ring] if majority is not None else [])
    means = {label: turn_means(results) for label, results in audits.items()}
    angles = sorted({key for found in means.values() for key in found}, key=lambda key: (key[1], key[0]))
    rows = [
        (
            f"{angle:g}°{', mirrored' if mirror else ''}",
            "exact" if exact else "interpolated",
            *(number(means[label].get((angle, mirror, exact))) for label in audits),
        )
        for angle, mirror, exact in angles
    ]
    return finish(
        figure,
        "Accuracy against angle",
        "Filled markers are exact turns, which only move pixels; the line joins them with the interpolated angles. "
        "An even ring is a model that does not care how the picture lies. The rings do not start at 0.",
        Table("Accuracy at every turn, mean over the seeds", ("turn", "kind", *audits), tuple(rows)),
    )


def draw_accuracy_by_angle(
    ax: Axes, audits: Mapping[str, Sequence[AuditResult]], majority: float | None = None
) -> None:
    values = [majority] if majority is not None else []
    for i, results in enumerate(audits.values()):
        style, means = look(i), turn_means(results)
        ring = sorted((angle, exact, value) for (angle, mirror, exact), value in means.items() if not mirror)
        values += [value for _, _, value in ring]
        closed = [*ring, *[(angle + 360, exact, value) for angle, exact, value in ring[:1]]]
        ax.plot([radians(a) for a, _, _ in closed], [v for _, _, v in closed], color=style.color, linestyle=style.line)
        exact_turns = [(radians(angle), value) for angle, exact, value in ring if exact]
        if exact_turns:
            ax.plot(*zip(*exact_turns, strict=True), color=style.color, linestyle="", marker=style.marker)
    low, high = radial_range(values)
    if majority is not None:
        ax.plot([radians(a) for a in range(361)], [majority] * 361, color=INK, linestyle=(0, (4, 3)), linewidth=1)
    ax.set_theta_zero_location("N")  # type: ignore[attr-defined]
    ax.set_thetagrids(range(0, 360, 45), [f"{a}°" for a in range(0, 360, 45)])  # type: ignore[attr-defined]
    ax.set_ylim(low, high)
    ax.set_rorigin(low - 0.25 * (high - low))  # type: ignore[attr-defined]
    step = next(s for s in (0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 5.01)
    ticks = [
        t for k in range(1, 60) if low - 1e-9 <= (t := round(floor(low / step) * step + k * step, 2)) <= high + 1e-9
    ]
    ax.set_rgrids(ticks, [f"{t:.2f}" for t in ticks], angle=22.5, fontsize=9, ha="center", va="center")  # type: ignore[attr-defined]
    for spine in ax.spines.values():
        spine.set_linewidth(0)  # drawing makes the inner one visible again
    ax.tick_params(axis="x", pad=1)


def radial_range(values: Sequence[float]) -> tuple[float, float]:
    """From a little under the smallest value to a little above the largest, on a twentieth, at least 0.1 wide.

    >>> radial_range([0.598, 0.86, 0.91])
    (0.55, 0.95)
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = floor(20 * low - 0.2) / 20, -floor(-20 * high - 0.2) / 20
    return max(0.0, round(min(low, high - 0.1), 2)), min(1.0, round(high, 2))


def turn_means(audits: Sequence[AuditResult]) -> dict[tuple[float, bool, bool], float]:
    """(angle, mirror, exact) -> accuracy, mean over the seeds; the upright pictures are the exact turn by 0."""
    found: dict[tuple[float, bool, bool], list[float]] = {}
    for audit in audits:
        if audit.upright_accuracy is not None and not any(t.angle == 0 and not t.mirror for t in audit.turns):
            found.setdefault((0.0, False, True), []).append(audit.upright_accuracy)
        for t in audit.turns:
            if t.accuracy.value is not None:
                found.setdefault((t.angle, t.mirror, t.exact), []).append(t.accuracy.value)
    return {key: fmean(values) for key, values in found.items()}


@drawn
def equivariance_error(audits: Mapping[str, Sequence[AuditResult]]) -> Plot:
    """Exact turns, interpolated angles and their floor on one logarithmic axis, all seeds."""
    figure, ax = canvas(360, 90 + 34 * len(audits))
    smallest = 1e-8  # everything below, 0 too, is drawn here
    rows = []
    for row, (label, results) in enumerate(audits.items()):
        style = look(row)
        for audit in results:
            marks = ((audit.interpolated_floor, "|", INK, 12.0), (audit.interpolated_error, style.marker, PAPER, 6.0))
            for value, marker, face, size in (*marks, (audit.exact_error, style.marker, style.color, 6.0)):
                if value is None or (audit.degenerate and marker != "|"):
                    continue
                edge = INK if marker == "|" else style.color
                x = max(value, smallest)
                ax.plot([x], [row], marker, color=edge, markerfacecolor=face, markersize=size, clip_on=False)
        if all(a.degenerate for a in results):
            ax.text(0.5, row, "degenerate: no error", transform=ax.get_yaxis_transform(), va="center", ha="center")
        rows.append((label, *(_all_seeds(results, name) for name in ("exact", "interpolated"))))
        rows[-1] += (", ".join(error(a.interpolated_floor) for a in results),)
    ax.set_xscale("log")
    ax.set_xlim(smallest, 2)
    ax.set_xticks([10.0**k for k in range(-8, 1, 2)], ["≤10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"])
    ax.minorticks_off()
    ax.axvline(1, color=INK, linestyle=(0, (4, 3)), linewidth=0.8)
    _rows(ax, list(audits))
    ax.set_xlabel("between-image error")
    grey = look(7).color
    handles = [
        Line2D([], [], color=grey, marker="o", linestyle="", label="exact turns"),
        Line2D([], [], color=grey, marker="o", markerfacecolor=PAPER, linestyle="", label="any angle"),
        Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, label="floor"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2)
    maps = any(a.kind == "map" for results in audits.values() for a in results)
    still = "the map turns with the picture" if maps else "turning does not change the output"
    return finish(
        figure,
        "Equivariance error",
        f"0: {still}; 1: turning changes it as much as exchanging the picture. The floor is "
        "what the resampling of the pictures does by itself.",
        grid("Equivariance error of every seed", ("model", "exact turns", "any angle", "floor"), rows),
    )


def _all_seeds(audits: Sequence[AuditResult], kind: str) -> str:
    return ", ".join("degenerate" if a.degenerate else error(getattr(a, f"{kind}_error")) for a in audits) or NONE


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between low and high.

    >>> log_ticks(0.1, 1)
    [0.1, 0.2, 0.5, 1.0]
    """
    powers = range(floor(log10(low)) - 1, floor(log10(high)) + 2)
    found = [round(k * 10.0**p, -p + 1) for p in powers for k in (1, 2, 5)]
    return [t for t in found if 0.999 * low <= t <= 1.001 * high]
