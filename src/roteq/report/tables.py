"""Every table once, as plain text cells; `text` gives it to the terminal and `html` to the browser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..results import (
    AuditResult,
    DatasetInfo,
    Difference,
    Evaluation,
    Fit,
    Interval,
    Reproduction,
    Spread,
    Study,
    Summary,
)
from .maps import FEW, is_maps, leading_metric, resampled, units
from .pairs import change
from .words import NONE, SHORT, duration, error, human, interval, number, p_value, percent, plural, spread

SCORES = ("auc", "accuracy", "balanced_accuracy", "mcc", "nll", "ece")  # of patches, compared


@dataclass(frozen=True)
class Table:
    """The first column names the row. `alert` rows are marked as not to be trusted."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    alert: frozenset[int] = frozenset()
    facts: bool = False  # names and values of all kinds, which are not aligned like numbers

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are aligned to the right."""
        cells = [row[column] for row in self.rows]
        return (
            column > 0 and not self.facts and all(cell.lstrip("+−<±")[:1].isdigit() or cell == NONE for cell in cells)
        )


def majority_rate(study: Study) -> float | None:
    """The accuracy of always giving the most frequent answer; the same for every run, as the test images are."""
    return study.runs[0].evaluation.majority_rate if study.runs else None


def _audit(summary: Summary, key: str) -> float | None:
    return summary.audit.get(key, Spread(None, None, 0)).mean


def comparison(study: Study, brief: bool = False) -> Table:
    """One row a model: mean ± standard deviation over its seeds. `brief` keeps what fits into a terminal."""
    majority, maps = number(majority_rate(study)), is_maps(study)
    shown = [k for k in SHORT if any(k in s.metrics for s in study.summaries)] if maps else list(SCORES)
    flips, speed = ("pixels flipped", "windows/s") if maps else ("flips", "images/s")
    rows = []
    for s in study.summaries:
        row = {
            "model": s.label + (f" (collapsed: {s.collapsed} of {s.seeds})" if s.collapsed else ""),
            "seeds": str(s.seeds),
        }
        for key in shown:
            row[SHORT[key]] = spread(s.metrics.get(key))
            row |= {"majority rate": majority} if key == "accuracy" else {}
        row |= {
            f"{flips}, quarter turns": percent(_audit(s, "exact_flip_rate")),
            f"{flips}, any angle": percent(_audit(s, "interpolated_flip_rate")),
            "error, quarter turns": error(_audit(s, "exact_error")),
            "error, any angle": error(_audit(s, "interpolated_error")),
            "parameters": human(s.parameters) if brief else f"{s.parameters:,}",
            "FLOPs": human(s.flops),
            speed: human(s.images_per_second),
            "training": duration(s.seconds),
        }
        rows.append(row)
    lead = [SHORT[leading_metric(study)]] if maps else []
    ends = [f"{flips}, {turn}" for turn in (("quarter turns",) if maps else ("quarter turns", "any angle"))]
    short = list(dict.fromkeys(["model", *lead, "AUC", "accuracy", *ends, "parameters"]))
    columns = short if brief else list(rows[0] if rows else ["model"])
    caption = f"Mean ± standard deviation over the seeds, {_tested(study)}"
    caption += f" (majority rate: {majority})" if brief else ""
    alert = frozenset(i for i, s in enumerate(study.summaries) if s.collapsed)
    return Table(caption, tuple(columns), tuple(tuple(row[c] for c in columns) for row in rows), alert)


def _tested(study: Study) -> str:
    if not (is_maps(study) and study.runs):
        return "on the test images"
    evaluation = study.runs[0].evaluation
    return f"on the {plural(evaluation.n, 'pixel')} of {plural(evaluation.images or 0, 'test image')}"


def differences(study: Study, brief: bool = False) -> Table:
    """One row a pair; of maps every metric with its interval, in place of McNemar's count of images."""
    level = f"({100 * study.confidence:g} % interval)"
    collapsed = {s.label for s in study.summaries if s.collapsed}
    alert = frozenset(i for i, d in enumerate(study.differences) if {d.a, d.b} & collapsed)
    if is_maps(study):
        return _map_differences(study, level, alert, brief)
    columns = ("model a − model b", f"AUC {level}", f"accuracy {level}", "McNemar p", "only a right", "only b right")
    rows = [_difference_row(d, bool({d.a, d.b} & collapsed)) for d in study.differences]
    caption = "Paired differences on the same test images; McNemar on the mean probability over the seeds"
    end = 3 if brief else 6
    return Table(caption, columns[:end], tuple(row[:end] for row in rows), alert)


def _pair_name(d: Difference, collapsed: bool) -> str:
    return f"{d.a} − {d.b}{' (collapsed)' if collapsed else ''}"


def _difference_row(d: Difference, collapsed: bool) -> tuple[str, ...]:
    auc, accuracy = interval(d.auc, sign=True), interval(d.accuracy, sign=True)
    counts = [NONE if n is None else f"{n:,}" for n in (d.only_a_right, d.only_b_right)]
    return _pair_name(d, collapsed), auc, accuracy, p_value(d.mcnemar_p), *counts


def _map_differences(study: Study, level: str, alert: frozenset[int], brief: bool) -> Table:
    measured = {"auc", "accuracy", *(k for d in study.differences for k in d.metrics)}
    metrics = [k for k in SHORT if k in measured]
    metrics = list(dict.fromkeys([leading_metric(study), "auc"])) if brief else metrics
    rows = [
        (_pair_name(d, i in alert), *(interval(change(d, k), sign=True) for k in metrics))
        for i, d in enumerate(study.differences)
    ]
    over = f", resampled over {resampled(study.runs[0].evaluation)}" if study.runs else ""
    columns = ("model a − model b", *(f"{SHORT[k]} {level}" for k in metrics))
    return Table(f"Paired differences on the same test images{over}", columns, tuple(rows), alert)


def dataset(info: DatasetInfo) -> Table:
    """Images per split and class; of masks pixels, and how many images they are in."""
    what = "pixels" if info.images else "images"
    columns = ("split", *info.classes, what, *(["images"] if info.images else []), *(["groups"] if info.groups else []))
    rows = []
    for split, counts in info.counts.items():
        cells = [split, *(f"{counts.get(c, 0):,}" for c in info.classes), f"{sum(counts.values()):,}"]
        rows.append((*cells, *(f"{found.get(split, 0):,}" for found in (info.images, info.groups) if found)))
    return Table(f"{what.capitalize()} of {info.name} per split and class", columns, tuple(rows))


def dataset_facts(info: DatasetInfo) -> dict[str, str]:
    """The rest of the summary: what the images are, how they were split, what was left out and why."""
    size = "sizes differ" if info.size is None else f"{info.size[1]} × {info.size[0]} pixels"
    skipped = "; ".join(f"{count:,} {reason}" for reason, count in info.skipped.items())
    return {
        "source": f"{info.source} ({info.kind})",
        "images": f"{size}, {info.channels} channel{'s' if info.channels != 1 else ''}",
        **({} if info.mpp is None else {"microns per pixel": f"{info.mpp:g}"}),
        "split": f"{info.split_rule}, seed {info.seed}",
        "skipped": skipped or "none",
        "duplicates": f"{info.duplicates:,} (identical images are kept together in one split)",
        "SHA-256": info.sha256 or NONE,
        **{key: str(value) for key, value in info.options.items()},
    }


def metrics(evaluation: Evaluation) -> Table:
    majority = ("majority rate", number(evaluation.majority_rate))
    prior = ("prior entropy", number(evaluation.prior_entropy))
    if evaluation.images is not None:
        return _map_metrics(evaluation, majority, prior)
    rows = [(SHORT.get(key, key), interval(value)) for key, value in evaluation.metrics.items()]
    over = f"resampled over {evaluation.clusters} groups" if evaluation.clusters else "resampled over images"
    return grid(f"{evaluation.n:,} images; intervals {over}", ("metric", "value (interval)"), [*rows, majority, prior])


def _map_metrics(evaluation: Evaluation, majority: tuple[str, str], prior: tuple[str, str]) -> Table:
    rows = []
    for key in [*(k for k in SHORT if k in evaluation.metrics), *(k for k in evaluation.metrics if k not in SHORT)]:
        rows.append((SHORT.get(key, key), interval(evaluation.metrics[key])))
        rows += [majority] if key == "accuracy" else []
    pixels = f"{evaluation.n:,} pixels of {plural(evaluation.images or 0, 'image')}"
    rough = ", which are few, so they are rough" if units(evaluation) < FEW else ""
    caption = f"{pixels}; intervals resampled over {resampled(evaluation)}{rough}"
    return grid(caption, ("metric", "value (interval)"), [*rows, prior])


def classes(evaluation: Evaluation) -> Table:
    rows = []
    for c in evaluation.classes:
        recall, precision = (
            interval(values.get(c, Interval(None))) for values in (evaluation.recall, evaluation.precision)
        )
        rows.append((c, f"{evaluation.counts.get(c, 0):,}", recall, precision))
    what = "images" if evaluation.images is None else "pixels"
    return Table("Per class", ("class", what, "recall (interval)", "precision (interval)"), tuple(rows))


def turns(audit: AuditResult) -> Table:
    """One row a turn. Exact turns come first and are never averaged with the interpolated ones."""
    maps = audit.kind == "map"  # of which a turn has no accuracy
    columns = ("turn", "kind", "flips", "accuracy", "between-image error", "floor", "relative error")
    rows = [
        (
            f"{'mirror, ' if t.mirror else ''}{t.angle:g}°",
            "exact" if t.exact else "interpolated",
            percent(t.flip_rate.value),
            percent(t.floors.get("flip_rate")) if maps else number(t.accuracy.value),
            error(t.between_image_error),
            NONE if t.exact else error(t.floor),
            error(t.relative_error),
        )
        for t in audit.turns
    ]
    if maps:
        columns = ("turn", "kind", "pixels flipped", "floor of these", *columns[4:5], "floor of it", columns[6])
    what = "squares of the images" if maps else "images"
    return Table(f"{audit.images:,} {what} at every turn", columns, tuple(rows))


def audit_facts(audit: AuditResult) -> dict[str, str]:
    degenerate = "degenerate: the output hardly varies between images, so no error can be stated"
    maps = audit.kind == "map"
    flips = "pixels flipped" if maps else "flips"
    scores = {
        "upright accuracy": number(audit.upright_accuracy),
        "worst accuracy of a turn": number(audit.worst_angle_accuracy),
        "right at every turn": percent(audit.always_right),
    }
    return {
        f"{flips}, quarter turns": percent(audit.exact_flip_rate),
        f"{flips}, mirrors": percent(audit.mirror_flip_rate),
        f"{flips}, any angle": percent(audit.interpolated_flip_rate),
        "error, quarter turns": degenerate if audit.degenerate else error(audit.exact_error),
        "error, mirrors": degenerate if audit.degenerate else error(audit.mirror_error),
        "error, any angle": degenerate if audit.degenerate else error(audit.interpolated_error),
        "floor, any angle": error(audit.interpolated_floor),
        **({} if maps else scores),
        "turned by": audit.method or NONE,
    }


def fit_facts(fit: Fit, item: str = "image") -> dict[str, str]:
    """`item`: what one forward pass sees, an image or a window of one."""
    return {
        "epochs": f"{fit.epochs}, best weights from epoch {fit.best_epoch}",
        "training": f"{duration(fit.seconds)}, {human(fit.images_per_second)} {item}s/s",
        "parameters": f"{fit.parameters:,}",
        f"FLOPs of one {item}": human(fit.flops),
    }


def mapping(caption: str, names: tuple[str, str], values: Mapping[str, str]) -> Table:
    return Table(caption, names, tuple(values.items()), facts=True)


def grid(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(caption, tuple(columns), tuple(tuple(row) for row in rows))


def reproduction(result: Reproduction) -> Table:
    """published | obtained ± spread | inside or outside."""
    unit = "" if result.metric == "nll" else " %"
    less_is_better = result.metric in ("error", "nll")
    better = ((result.obtained.mean or 0) < result.published) == less_is_better
    verdict = "inside" if result.inside else f"outside ({'better' if better else 'worse'})"
    row = (
        f"test {result.metric}{unit}",
        _plus_minus(result.published, result.published_spread),
        NONE if result.obtained.mean is None else _plus_minus(result.obtained.mean, result.obtained.std),
        f"{verdict}, ±{result.margin:.2f}",
        f"{_per(result.metric, result.majority_rate):.2f}" if result.metric in ("error", "accuracy") else NONE,
    )
    columns = ("", "published", "obtained", "agreement", "one class always")
    return Table(f"{result.name}: {result.source}", columns, (row,), facts=True)


def _plus_minus(value: float, std: float | None) -> str:
    return f"{value:.2f}" + ("" if std is None else f" ± {std:.2f}")


def _per(metric: str, rate: float) -> float:
    return 100 * (1 - rate if metric == "error" else rate)


def trials(result: Reproduction) -> Table:
    """One row a seed, with the interval over the test images."""
    rows = tuple(
        (
            str(trial.seed),
            NONE if trial.value.value is None else f"{trial.value.value:.2f}",
            f"{trial.value.low:.2f} to {trial.value.high:.2f}"
            if trial.value.low is not None and trial.value.high is not None
            else NONE,
            str(trial.fit.epochs),
            duration(trial.fit.seconds),
        )
        for trial in result.trials
    )
    columns = ("seed", result.metric, "95 % interval", "epochs", "training")
    return Table(f"{result.test_images:,} test images", columns, rows, facts=True)


def cautions(result: Reproduction) -> list[str]:
    """What to know before the two numbers are compared."""
    found = []
    if not result.original:
        found.append("The data are not the published ones but a stand-in: comparable in kind, not number for number.")
    if result.retold:
        found.append("The published number is retold by others than its authors.")
    for word, (here, there) in (("seeds", result.seeds), ("epochs", result.epochs)):
        if here != there:
            found.append(f"{word.capitalize()}: {here}, published with {there}.")
    return found
