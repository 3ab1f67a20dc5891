"""The numbers of an audit as tables of plain text cells, and as rows for a CSV file.

Beside every interpolated number stands its floor, the same number of pictures that were turned there and back.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..results import AuditDifference, AuditReport, AuditResult, Control, Finding, Interval, Turn
from .tables import Table, grid
from .words import NONE, duration, error, number, percent, plural, signed

WORST = 30  # classes in a table, the worst of them
RECALLS = 100  # classes whose recall is in the CSV file
NOTHING = Interval(None)
Cell = Callable[[Any], str]


def rate(value: Interval | None) -> str:
    """A share with its interval; an interval without width is none.

    >>> rate(Interval(0.234, 0.201, 0.268)), rate(Interval(0.0, 0.0, 0.0)), rate(None)
    ('23.4 % (20.1 to 26.8)', '0 %', '–')
    """
    if value is None or value.value is None:
        return NONE
    if value.low is None or value.high is None or value.low == value.high:
        return percent(value.value)
    return f"{percent(value.value)} ({number(100 * value.low, 1)} to {number(100 * value.high, 1)})"


def points(value: Interval) -> str:
    """A difference of shares in percentage points.

    >>> points(Interval(-0.031, -0.05, -0.012)), points(Interval(None))
    ('−3.1 (−5.0 to −1.2)', '–')
    """
    parts = [signed(None if v is None else 100 * v, 1) for v in (value.value, value.low, value.high)]
    return parts[0] if NONE in parts else f"{parts[0]} ({parts[1]} to {parts[2]})"


def shorten(label: str, length: int = 40) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def turn_name(angle: float, mirror: bool) -> str:
    """
    >>> turn_name(0.0, True), turn_name(37.5, False)
    ('mirror, 0°', '37.5°')
    """
    return f"{'mirror, ' if mirror else ''}{angle:g}°"


def stops(result: AuditResult) -> list[Finding]:
    return [f for f in result.findings if f.level == "stop"]


def failed(result: AuditResult) -> list[Control]:
    return [c for c in result.controls if not c.passed]


def is_void(result: AuditResult) -> bool:
    """Whether nothing can be concluded: the output hardly varies, a guard stopped, or a control failed."""
    return result.degenerate or bool(stops(result)) or bool(failed(result))


def named(result: AuditResult) -> str:
    """The label, and why not to believe the row."""
    if result.degenerate:
        return f"{result.label} (degenerate)"
    guards = dict.fromkeys([f.guard for f in stops(result)] + ["control failed"] * bool(failed(result)))
    return f"{result.label} ({', '.join(guards)})" if guards else result.label


def flips(a: AuditResult, exact: bool) -> tuple[Interval, Interval]:
    """(flips, floor) over all turns of one kind; where only single turns are known (maps), at the worst of them."""
    orbit = a.exact if exact else a.interpolated
    if orbit is not None:
        return orbit.flip_rate, orbit.floor_flip_rate
    turn = worst_turn(a, "flip_rate", exact)
    return (NOTHING, NOTHING) if turn is None else (turn.flip_rate, Interval(floor_of(turn, "flip_rate")))


def floor_said(a: AuditResult) -> str:
    """For numbers of the other angles that have no floor of their own."""
    floor = flips(a, exact=False)[1]
    return "" if floor.value is None else f"Resampling alone flips {percent(floor.value)} of the images (floor)."


def accuracies(a: AuditResult) -> tuple[Interval, Interval]:
    """(worst, upright), over all exact turns, else at the worst of them."""
    if a.exact is not None:
        return a.exact.worst_accuracy, a.exact.upright_accuracy
    turn = worst_turn(a, "accuracy", exact=True, least=True)
    return turn.accuracy if turn else NOTHING, Interval(a.upright_accuracy)


def kept(columns: Sequence[str], rows: Sequence[Sequence[str]], always: Iterable[str] = ()) -> list[int]:
    """The columns that say something: a column of dashes goes, and its floor with it."""
    said = {name for i, name in enumerate(columns) if any(row[i] != NONE for row in rows)} | set(always)
    stem = {name: name.removesuffix(", floor") for name in columns}
    return [i for i, name in enumerate(columns) if (stem[name] if stem[name] in columns else name) in said]


def _trimmed(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], **options: Any) -> Table:
    keep = kept(columns, rows, columns[:1])
    return Table(
        caption, tuple(columns[i] for i in keep), tuple(tuple(row[i] for i in keep) for row in rows), **options
    )


def summary(report: AuditReport, brief: bool = False) -> Table:
    """One row a model. A model about which nothing can be said has no flip rate. `brief`: what fits a terminal, the
    intervals are in the headlines."""
    rows = [_summary(a) for a in report.audits]
    columns = list(rows[0]) if rows else ["model"]
    if brief:
        left_out = ("mean", "error", "divergence", "stable")
        columns = [c for c in columns if not c.startswith(left_out)]
        rows = [{c: cell if c == "model" else cell.partition(" (")[0] for c, cell in row.items()} for row in rows]
    alert = frozenset(i for i, a in enumerate(report.audits) if is_void(a))
    images = " or ".join(dict.fromkeys(f"{a.images:,}" for a in report.audits))
    caption = f"{images or 'No'} images"
    kinds = {a.kind for a in report.audits if not is_void(a)}
    caption += "; flips: decisions that change at some turn" if kinds & {"classes", "labels"} else ""
    caption += "; flips of a map: pixels that change at the worst turn" if "map" in kinds else ""
    caption += "; of embeddings the worst turn" if "embedding" in kinds else ""
    return _trimmed(caption, columns, [[row[c] for c in columns] for row in rows], alert=alert)


def _summary(a: AuditResult) -> dict[str, str]:
    exact, other, void = a.exact, a.interpolated, is_void(a)
    (changed, _), (changed_between, ground), (lowest, upright) = flips(a, True), flips(a, False), accuracies(a)
    return {
        "model": named(a),
        "flips, exact turns": NONE if void else rate(changed),
        "worst accuracy": rate(lowest),
        "upright accuracy": rate(upright),
        "majority rate": percent(a.majority_rate),
        "mean accuracy": rate(exact.mean_accuracy) if exact else NONE,
        "flips, other angles": NONE if void else rate(changed_between),
        "flips, other angles, floor": NONE if void else rate(ground),
        **{label: NONE if void else cell for label, cell in _worst_of_embeddings(a).items()},
        "error, exact turns": error(None if void else a.exact_error),
        "error, other angles": error(None if void else a.interpolated_error),
        "error, other angles, floor": error(None if void else a.interpolated_floor),
        "divergence, exact turns": error(None if void or exact is None else exact.divergence),
        "divergence, other angles": error(None if void or other is None else other.divergence),
        "divergence, other angles, floor": error(None if void or other is None else other.floor_divergence),
        "stable and wrong": rate(exact.stable_wrong) if exact and not void else NONE,
    }


def _worst_of_embeddings(a: AuditResult) -> dict[str, str]:
    """The worst exact turn, the worst other angle and its floor."""
    found = {}
    kinds: tuple[tuple[str, str, Cell, bool], ...] = (
        ("cosine distance", "cosine_distance", error, False),
        ("neighbours kept", "neighbours", percent, True),
    )
    for label, name, show, least in kinds:
        exact, other = worst_turn(a, name, True, least), worst_turn(a, name, False, least)
        found[f"{label}, exact turns"] = show(None if exact is None else value_of(exact, name))
        found[f"{label}, other angles"] = show(None if other is None else value_of(other, name))
        found[f"{label}, other angles, floor"] = show(floor_of(other, name))
    return found


def floor_of(turn: Turn | None, name: str = "cosine_distance") -> float | None:
    if turn is None or turn.exact:
        return None
    return turn.floors.get(name, turn.floor if name == "between_image_error" else None)


def value_of(turn: Turn, name: str) -> float | None:
    """A number of a turn, without its interval."""
    found = getattr(turn, name)
    return found.value if isinstance(found, Interval) else found


def worst_turn(a: AuditResult, name: str, exact: bool, least: bool = False) -> Turn | None:
    """The turn of one kind with the largest (or least) such number."""
    found = [(v, -i, t) for i, t in enumerate(a.turns) if t.exact is exact and (v := value_of(t, name)) is not None]
    return (min if least else max)(found, key=lambda x: (x[0], x[1]))[2] if found else None


TURN_COLUMNS: tuple[tuple[str, str, Cell, Cell], ...] = (
    ("flips", "flip_rate", rate, percent),
    ("accuracy", "accuracy", rate, percent),
    ("AUC", "auc", number, number),
    ("ECE", "ece", number, number),
    ("divergence", "divergence", error, error),
    ("cosine distance", "cosine_distance", error, error),
    ("neighbours kept", "neighbours", percent, percent),
    ("alignment", "alignment", number, number),
    ("between-image error", "between_image_error", error, error),
    ("relative error", "relative_error", error, error),
)


def turns(result: AuditResult, brief: bool = False) -> Table:
    """One row a turn, the exact ones first; beside every number its floor."""
    wanted = [c for c in TURN_COLUMNS if not brief or c[1] in ("flip_rate", "accuracy", "cosine_distance")]
    columns = ["turn", "kind", *(name for label, *_ in wanted for name in (label, f"{label}, floor"))]
    alone = all(t.exact for t in result.turns)  # nothing has a floor
    rows = []
    for t in sorted(result.turns, key=lambda t: not t.exact):
        cells = [turn_name(t.angle, t.mirror), "exact" if t.exact else "interpolated"]
        for _, name, show, show_floor in wanted:
            hidden = result.degenerate and name == "flip_rate"
            value = show_floor(value_of(t, name)) if brief and name == "flip_rate" else show(getattr(t, name))
            cells += [NONE, NONE] if hidden else [value, show_floor(floor_of(t, name))]
        rows.append(cells)
    caption = f"{result.images:,} images at every turn"
    if any(t.accuracy.value is not None for t in result.turns) and result.majority_rate is not None:
        caption += f"; majority rate {percent(result.majority_rate)}, upright {percent(result.upright_accuracy)}"
    shown = [i for i, c in enumerate(columns) if not (alone and c.endswith(", floor"))]
    return _trimmed(caption, [columns[i] for i in shown], [[row[i] for i in shown] for row in rows])


def per_class(result: AuditResult) -> Table:
    """Every class, or the worst of many."""
    found = worst_classes(result)
    rows = [
        (
            c.name,
            f"{c.images:,}",
            *map(percent, (c.accuracy, c.worst_accuracy, c.exact_flip_rate, c.interpolated_flip_rate)),
        )
        for c in found
    ]
    labelled = any(c.accuracy is not None for c in result.per_class)
    caption = "Per class" if labelled else "Per class (upright decision)"
    if len(found) < len(result.per_class):
        caption += f": the worst {len(found)} of {len(result.per_class):,}"
    if labelled and result.majority_rate is not None:
        caption += f"; majority rate {percent(result.majority_rate)}"
    if (floor := flips(result, exact=False)[1]).value is not None:
        caption += f"; floor of the other angles {percent(floor.value)}, over all classes"
    columns = ("class", "images", "upright accuracy", "worst accuracy", "flips, exact turns", "flips, other angles")
    return _trimmed(caption, columns, rows)


def worst_classes(result: AuditResult, most: int = WORST) -> list[Any]:
    """In their own order if there are few, else by how badly turning hurts them."""
    if len(result.per_class) <= most:
        return list(result.per_class)

    def badness(c: Any) -> float:
        if c.accuracy is not None and c.worst_accuracy is not None:
            return c.worst_accuracy - c.accuracy
        return -max(c.exact_flip_rate or 0.0, c.interpolated_flip_rate or 0.0)

    return sorted(result.per_class, key=badness)[:most]


def changes(result: AuditResult, most: int = WORST) -> Table:
    """Which decision turns into which; exact turns and other angles apart."""
    counts: dict[tuple[str, str], list[str]] = {}
    for i, orbit in enumerate((result.exact, result.interpolated)):
        for change in orbit.changes if orbit else ():
            counts.setdefault((change.before, change.after), [NONE, NONE])[i] = f"{change.count:,}"
    rows = [(f"{before} → {after}", *found) for (before, after), found in counts.items()]
    caption = "Decisions that changed, counted over images and turns"
    if len(rows) > most:
        caption += f": {most} of {len(rows):,} pairs"
    caption += f". {floor_said(result)}" if floor_said(result) else ""
    return _trimmed(caption, ("decision", "exact turns", "other angles"), rows[:most])


def averaged(result: AuditResult) -> Table:
    """The model as it is, then averaged over each group."""
    (changed, _), (changed_between, ground), (_, upright) = (
        flips(result, True),
        flips(result, False),
        accuracies(result),
    )
    auc, ece = (number(result.upright.get(key)) for key in ("auc", "ece"))
    rows = [["as it is", "1", rate(upright), auc, ece, rate(changed), rate(changed_between)]]
    for a in result.averaged:
        scores = [rate(a.accuracy), number(a.auc), number(a.ece)]
        rows.append([f"over {a.group}", str(a.passes), *scores, percent(0.0), rate(a.interpolated_flip_rate)])
    columns = ["answers averaged", "passes", "accuracy", "AUC", "ECE", "flips, exact turns", "flips, other angles"]
    rows = [[*row, NONE if row[-1] == NONE else rate(ground)] for row in rows]
    caption = "Averaging the answers over a group, which changes nothing at its exact turns, by construction"
    if result.majority_rate is not None:
        caption += f"; majority rate {percent(result.majority_rate)}"
    return _trimmed(caption, [*columns, "floor, as it is"], rows if result.averaged else [])


def layers(result: AuditResult) -> Table:
    rows = [
        (
            layer.path or "the network",
            layer.kind,
            f"{layer.channels:,} × {layer.size[0]} × {layer.size[1]}",
            {"linear": "none"}.get(layer.representation, layer.representation),
            *map(error, (layer.between_image_error, layer.linear_error, layer.relative_error)),
        )
        for layer in result.layers
    ]
    columns = ("layer", "class", "maps", "promise", "error", "error after the best linear map", "relative error")
    return _trimmed("Mean over the exact turns, in the order of the network", columns, rows)


def lie(result: AuditResult) -> Table:
    rows = [
        (f"{e.motion}, per {e.unit}", error(e.between_image_error), error(e.mean_square), e.method) for e in result.lie
    ]
    columns = ("motion", "between-image error", "mean square", "method")
    return grid("How fast the output changes when the picture begins to move", columns, rows)


def controls(result: AuditResult) -> Table:
    rows = tuple((c.name, c.expected, c.found, "passed" if c.passed else "FAILED") for c in result.controls)
    alert = frozenset(i for i, c in enumerate(result.controls) if not c.passed)
    return Table(
        "Models whose result is known, sent through the same audit",
        ("control", "expected", "found", "result"),
        rows,
        alert,
        facts=True,
    )


def differences(report: AuditReport, brief: bool = False) -> Table:
    """Model a minus model b, in percentage points."""
    void = {a.label for a in report.audits if is_void(a)}
    cells = [(d, _difference(d, bool({d.a, d.b} & void))) for d in report.differences]
    shown = [(d, [c.replace(" (", "\n(") for c in row] if brief else row) for d, row in cells if {*row[1:]} != {NONE}]
    level = 100 * (report.audits[0].confidence if report.audits else 0.95)
    columns = ("model a − model b", "upright accuracy", "flips, exact turns", "worst accuracy, exact turns")
    columns += () if brief else ("flips, other angles", "worst accuracy, other angles")  # type: ignore[assignment]
    alert = frozenset(i for i, (d, _) in enumerate(shown) if {d.a, d.b} & void)
    caption = f"Paired differences on the same images, in percentage points ({level:g} % interval)"
    return _trimmed(caption, columns, [row[: len(columns)] for _, row in shown], alert=alert)


def _difference(d: AuditDifference, void: bool) -> tuple[str, ...]:
    changed, between = (NOTHING, NOTHING) if void else (d.exact_flip_rate, d.interpolated_flip_rate)
    shown = (d.accuracy, changed, d.exact_worst_accuracy, between, d.interpolated_worst_accuracy)
    return (f"{d.a} − {d.b}", *map(points, shown))


def facts(result: AuditResult) -> dict[str, str]:
    said = {
        "images": f"{result.images:,}",
        "turns": f"{sum(t.exact for t in result.turns)} exact, {sum(not t.exact for t in result.turns)} interpolated",
        "turned by": result.method,
        "majority rate": "" if result.majority_rate is None else percent(result.majority_rate),
        "right upright and at every turn": "" if result.always_right is None else percent(result.always_right),
        "asked about": plural(result.passes, "picture") + f" in {duration(result.seconds)}" if result.passes else "",
        "intervals": f"{100 * result.confidence:g} %, bootstrap over images or groups",
        **result.facts,
    }
    return {name: value for name, value in said.items() if value}


CSV = (
    "auc",
    "ece",
    "divergence",
    "between_image_error",
    "relative_error",
    "cosine_distance",
    "neighbours",
    "alignment",
)


def csv_rows(report: AuditReport) -> list[dict[str, Any]]:
    """One row a model and turn with every number; all rows have the same columns, and None where there is no number."""
    classes = list(dict.fromkeys(c for a in report.audits if len(a.classes) <= RECALLS for c in a.classes))
    return [_csv(a, t, classes) for a in report.audits for t in a.turns]


def _csv(a: AuditResult, t: Turn, classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": a.label, "kind": a.kind, "images": a.images, "degenerate": a.degenerate}
    row |= {"stopped": bool(stops(a)), "angle": t.angle, "mirror": t.mirror, "exact": t.exact}
    row |= {"majority_rate": a.majority_rate, "upright_accuracy": a.upright_accuracy}
    for name in ("flip_rate", "accuracy"):
        value: Interval = getattr(t, name)
        row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        row[f"floor_{name}"] = floor_of(t, name)
    for name in CSV:
        row |= {name: getattr(t, name), f"floor_{name}": floor_of(t, name)}
    recall = dict(zip(a.classes, t.recall, strict=False))
    return row | {f"recall {c}": recall.get(c) for c in classes}
