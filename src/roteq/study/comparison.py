"""Several runs beside each other: one summary per model, one difference per pair of models, one CSV."""

import csv
import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ..data.masks import is_masks
from ..inference import Predictions
from ..metrics import compare, spread
from ..metrics.maps import compare_maps, load_counts
from ..results import Difference, Run, Spread, Study, Summary
from .config import StudyConfig

AUDIT = ("exact_error", "exact_flip_rate", "interpolated_error", "interpolated_floor", "interpolated_flip_rate",
         "worst_angle_accuracy", "always_right")  # fmt: skip


def summarise(runs: Sequence[Run]) -> tuple[Summary, ...]:
    """One row per model, over its seeds, in the order of the runs."""
    labels = list(dict.fromkeys(run.label for run in runs))
    return tuple(_summary([run for run in runs if run.label == label]) for label in labels)


def _summary(runs: list[Run]) -> Summary:
    first = runs[0]
    return Summary(
        label=first.label,
        group=first.group,
        seeds=len(runs),
        parameters=first.fit.parameters,
        flops=first.fit.flops,
        seconds=float(np.mean([run.fit.seconds for run in runs])),
        images_per_second=float(np.mean([run.fit.images_per_second for run in runs])),
        metrics={
            name: spread([run.evaluation.metrics[name].value for run in runs]) for name in first.evaluation.metrics
        },
        audit={name: spread([getattr(run.audit, name) for run in runs]) for name in AUDIT},
        collapsed=sum(any(finding.level == "stop" for finding in run.findings) for run in runs),
    )


def differences(config: StudyConfig, runs: Sequence[Run]) -> tuple[Difference, ...]:
    """Every pair of models, the equivariant one first where only one is."""
    compared = _of_maps if is_masks(config.root) else _of_patches
    groups = {run.label: run.group for run in runs}
    pairs = [(b, a) if groups[b] and not groups[a] else (a, b) for a, b in combinations(groups, 2)]
    return tuple(compared(config, a, b) for a, b in pairs)


def _of_patches(config: StudyConfig, a: str, b: str) -> Difference:
    of_a, of_b = ([Predictions.load(file) for file in _files(config, label, "predictions.parquet")] for label in (a, b))
    return compare(
        a, b, np.asarray(of_a[0].labels),
        np.stack([answers.probabilities for answers in of_a]),
        np.stack([answers.probabilities for answers in of_b]),
        groups=of_a[0].groups, bootstrap=config.bootstrap, confidence=config.confidence,
    )  # fmt: skip


def _of_maps(config: StudyConfig, a: str, b: str) -> Difference:
    of_a, of_b = ([load_counts(file) for file in _files(config, label, "counts.npz")] for label in (a, b))
    return compare_maps(
        a, b, [counts for *_, counts in of_a], [counts for *_, counts in of_b],
        groups=of_a[0][1], bootstrap=config.bootstrap, confidence=config.confidence,
    )  # fmt: skip


def _files(config: StudyConfig, label: str, name: str) -> list[Path]:
    model = next(model for model in config.models if model.label == label)
    return [config.run_folder(model, seed) / name for seed in config.seeds]


def comparison_csv(study: Study) -> str:
    """One row per model: mean and standard deviation over the seeds of every number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    majority = study.runs[0].evaluation.majority_rate
    names = [*study.summaries[0].metrics, *study.summaries[0].audit]
    spreads = [f"{name}{suffix}" for name in names for suffix in ("", "_std")]
    writer.writerow(["model", "group", "seeds", "collapsed", "majority_rate", *spreads,
                     "parameters", "flops", "images_per_second", "seconds"])  # fmt: skip
    for row in study.summaries:
        values: dict[str, Spread] = {**row.metrics, **row.audit}
        numbers = [_number(part) for name in names for part in (values[name].mean, values[name].std)]
        writer.writerow([row.label, row.group or "", row.seeds, row.collapsed, _number(majority), *numbers,
                         row.parameters, row.flops or "", _number(row.images_per_second),
                         _number(row.seconds)])  # fmt: skip
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
