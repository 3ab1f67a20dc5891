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
from .words import NONE, SHORT, duration, error, human, interval, number, p_value, percent, spread


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
    majority = number(majority_rate(study))
    rows = []
    for s in study.summaries:
        metric = {key: spread(s.metrics.get(key)) for key in SHORT}
        rows.append(
            {
                "model": s.label + (f" (collapsed: {s.collapsed} of {s.seeds})" if s.collapsed else ""),
                "seeds": str(s.seeds),
                "AUC": metric["auc"],
                "accuracy": metric["accuracy"],
                "majority rate": majority,
                "balanced accuracy": metric["balanced_accuracy"],
                "MCC": metric["mcc"],
                "NLL": metric["nll"],
                "ECE": metric["ece"],
                "flips, quarter turns": percent(_audit(s, "exact_flip_rate")),
                "flips, any angle": percent(_audit(s, "interpolated_flip_rate")),
                "error, quarter turns": error(_audit(s, "exact_error")),
                "error, any angle": error(_audit(s, "interpolated_error")),
                "parameters": human(s.parameters) if brief else f"{s.parameters:,}",
                "FLOPs": human(s.flops),
                "images/s": human(s.images_per_second),
                "training": duration(s.seconds),
            }
        )
    short = ["model", "AUC", "accuracy", "flips, quarter turns", "flips, any angle", "parameters"]
    columns = short if brief else list(rows[0] if rows else ["model"])
    caption = "Mean ± standard deviation over the seeds, on the test images"
    caption += f" (majority rate: {majority})" if brief else ""
    alert = frozenset(i for i, s in enumerate(study.summaries) if s.collapsed)
    return Table(caption, tuple(columns), tuple(tuple(row[c] for c in columns) for row in rows), alert)


def differences(study: Study, brief: bool = False) -> Table:
    level = f"({100 * study.confidence:g} % interval)"
    collapsed = {s.label for s in study.summaries if s.collapsed}
    columns = ("model a − model b", f"AUC {level}", f"accuracy {level}", "McNemar p", "only a right", "only b right")
    rows = [_difference_row(d, bool({d.a, d.b} & collapsed)) for d in study.differences]
    alert = frozenset(i for i, d in enumerate(study.differences) if {d.a, d.b} & collapsed)
    caption = "Paired differences on the same test images; McNemar on the mean probability over the seeds"
    end = 3 if brief else 6
    return Table(caption, columns[:end], tuple(row[:end] for row in rows), alert)


def _difference_row(d: Difference, collapsed: bool) -> tuple[str, ...]:
    name = f"{d.a} − {d.b}{' (collapsed)' if collapsed else ''}"
    auc, accuracy = interval(d.auc, sign=True), interval(d.accuracy, sign=True)
    return name, auc, accuracy, p_value(d.mcnemar_p), f"{d.only_a_right:,}", f"{d.only_b_right:,}"


def dataset(info: DatasetInfo) -> Table:
    """Images per split and class."""
    columns = ("split", *info.classes, "images", *(["groups"] if info.groups else []))
    rows = []
    for split, counts in info.counts.items():
        cells = [split, *(f"{counts.get(c, 0):,}" for c in info.classes), f"{sum(counts.values()):,}"]
        rows.append((*cells, *([f"{info.groups.get(split, 0):,}"] if info.groups else [])))
    return Table(f"Images of {info.name} per split and class", columns, tuple(rows))


def dataset_facts(info: DatasetInfo) -> dict[str, str]:
    """The rest of the summary: what the images are, how they were split, what was left out and why."""
    size = "sizes differ" if info.size is None else f"{info.size[1]} × {info.size[0]} pixels"
    skipped = "; ".join(f"{count:,} {reason}" for reason, count in info.skipped.items())
    return {
        "source": f"{info.source} ({info.kind})",
        "images": f"{size}, {info.channels} channel{'s' if info.channels != 1 else ''}",
        "split": f"{info.split_rule}, seed {info.seed}",
        "skipped": skipped or "none",
        "duplicates": f"{info.duplicates:,} (identical images are kept together in one split)",
        "SHA-256": info.sha256 or NONE,
        **{key: str(value) for key, value in info.options.items()},
    }


def metrics(evaluation: Evaluation) -> Table:
    rows = [(SHORT.get(key, key), interval(value)) for key, value in evaluation.metrics.items()]
    rows.append(("majority rate", number(evaluation.majority_rate)))
    rows.append(("prior entropy", number(evaluation.prior_entropy)))
    over = f"resampled over {evaluation.clusters} groups" if evaluation.clusters else "resampled over images"
    return Table(f"{evaluation.n:,} images; intervals {over}", ("metric", "value (interval)"), tuple(rows))


def classes(evaluation: Evaluation) -> Table:
    rows = []
    for c in evaluation.classes:
        recall, precision = (
            interval(values.get(c, Interval(None))) for values in (evaluation.recall, evaluation.precision)
        )
        rows.append((c, f"{evaluation.counts.get(c, 0):,}", recall, precision))
    return Table("Per class", ("class", "images", "recall (interval)", "precision (interval)"), tuple(rows))


def turns(audit: AuditResult) -> Table:
    """One row a turn. Exact turns come first and are never averaged with the interpolated ones."""
    columns = ("turn", "kind", "flips", "accuracy", "between-image error", "floor", "relative error")
    rows = [
        (
            f"{'mirror, ' if t.mirror else ''}{t.angle:g}°",
            "exact" if t.exact else "interpolated",
            percent(t.flip_rate.value),
            number(t.accuracy.value),
            error(t.between_image_error),
            NONE if t.exact else error(t.floor),
            error(t.relative_error),
        )
        for t in audit.turns
    ]
    return Table(f"{audit.images:,} images at every turn", columns, tuple(rows))


def audit_facts(audit: AuditResult) -> dict[str, str]:
    degenerate = "degenerate: the output hardly varies between images, so no error can be stated"
    return {
        "flips, quarter turns": percent(audit.exact_flip_rate),
        "flips, mirrors": percent(audit.mirror_flip_rate),
        "flips, any angle": percent(audit.interpolated_flip_rate),
        "error, quarter turns": degenerate if audit.degenerate else error(audit.exact_error),
        "error, mirrors": degenerate if audit.degenerate else error(audit.mirror_error),
        "error, any angle": degenerate if audit.degenerate else error(audit.interpolated_error),
        "floor, any angle": error(audit.interpolated_floor),
        "upright accuracy": number(audit.upright_accuracy),
        "worst accuracy of a turn": number(audit.worst_angle_accuracy),
        "right at every turn": percent(audit.always_right),
        "turned by": audit.method or NONE,
    }


def fit_facts(fit: Fit) -> dict[str, str]:
    return {
        "epochs": f"{fit.epochs}, best weights from epoch {fit.best_epoch}",
        "training": f"{duration(fit.seconds)}, {human(fit.images_per_second)} images/s",
        "parameters": f"{fit.parameters:,}",
        "FLOPs of one image": human(fit.flops),
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
