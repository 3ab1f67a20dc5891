"""report.html: one file that opens offline, for the eye, the phone, the printer and the screen reader."""

import re
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from .._version import __version__
from ..files import write_text
from ..results import Mistake, Run, Study
from . import tables, words
from .maps import is_maps, leading_metric, resampled
from .pairs import change, stop_guards
from .tables import Table
from .verdict import all_findings, verdict


@dataclass(frozen=True)
class RunDetails:
    run: Run
    name: str
    failed: bool
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Section:
    """A group of figures under one heading."""

    anchor: str
    title: str
    text: str
    plots: tuple


def write_report(study: Study, path: str | Path) -> None:
    """Write the whole study as one HTML file, or nothing. Raises RoteqError if it cannot be written."""
    write_text(path, render(study))


def render(study: Study) -> str:
    """The report as text. Every string of the study is escaped; only the SVG of our own figures is not."""
    return render_page(
        "template.html",
        study=study,
        gallery=_gallery(study),
        resampled=resampled(study.runs[0].evaluation) if is_maps(study) and study.runs else None,
        maps=is_maps(study),
        verdict=verdict(study),
        findings=all_findings(study),
        comparison=tables.comparison(study),
        differences=tables.differences(study),
        sections=_sections(study),
        runs=[_details(run) for run in study.runs],
        mistakes=_mistakes(study),
        dataset=tables.dataset(study.dataset),
        facts=tables.mapping("How the data were made", ("what", "value"), tables.dataset_facts(study.dataset)),
        environment=tables.mapping("Where and with what this ran", ("what", "value"), study.environment),
        words=words,
    )


def render_page(name: str, **values: Any) -> str:
    """One of our templates, filled; every string is escaped unless the template says |safe."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = lambda text: re.sub(r"(?<=\d) (?=%)", "\u00a0", text)
    return environment.get_template(name).render(version=__version__, style=_resource("style.css"), **values)


def _resource(name: str) -> str:
    return resources(__package__).joinpath(name).read_text(encoding="utf-8")


def _sections(study: Study) -> list[Section]:
    from . import figures, map_figures, pictures

    if not study.runs:
        return []
    models = figures.runs_by_label(study)
    audits = {label: [run.audit for run in runs] for label, runs in models.items()}
    majority = study.runs[0].evaluation.majority_rate
    limits = pictures.loss_limits(study.runs)
    maps = is_maps(study)
    metrics = tuple(dict.fromkeys((leading_metric(study), "auc"))) if maps else ("auc", "accuracy")
    pairs = [
        figures.differences(study, m) for m in metrics if any(change(d, m).value is not None for d in study.differences)
    ]
    by_angle = map_figures.flips_by_angle(audits) if maps else figures.accuracy_by_angle(audits, majority)
    found = [
        Section(
            "scores",
            "How well the models do",
            "Upper row: every run by itself. Lower row: the paired differences, on which the verdict rests.",
            (*(figures.metric_by_model(study, m) for m in metrics if _has(study, m)), *pairs),
        ),
        Section(
            "turning",
            "What happens when the picture is turned",
            "Quarter turns and mirrors are exact: they only move pixels. All other angles need interpolation, which "
            "has an error of its own, so the two are never mixed. Mirror images are listed with every run; a network "
            "built on a group without mirrors promises nothing about them.",
            (by_angle, figures.equivariance_error(audits)),
        ),
        Section("thresholds", "Over all thresholds", "", (figures.roc(study), figures.precision_recall(study))),
        Section(
            "training",
            "How the training went",
            "All models share one scale for the loss.",
            tuple(pictures.curves(label, runs, limits) for label, runs in models.items() if _has_history(runs)),
        ),
        Section(
            "confusions",
            "Which classes are confused",
            "",
            tuple(pictures.confusion(label, runs) for label, runs in models.items()),
        ),
        Section(
            "kernels",
            "The turned kernels",
            "Each filter is learnt once and used at every angle.",
            tuple(pictures.kernels(label, runs[0]) for label, runs in models.items()),
        ),
    ]
    kept = [Section(s.anchor, s.title, s.text, tuple(p for p in s.plots if p is not None)) for s in found]
    return [section for section in kept if section.plots]


def _gallery(study: Study) -> Any:
    if not any(run.maps for run in study.runs):
        return None
    from .map_figures import gallery

    return gallery(study)


def _has(study: Study, metric: str) -> bool:
    return any((i := run.evaluation.metrics.get(metric)) is not None and i.value is not None for run in study.runs)


def _has_history(runs: list[Run]) -> bool:
    return any(run.fit.history for run in runs)


def _details(run: Run) -> RunDetails:
    name = f"{run.label}, seed {run.seed}"
    return RunDetails(
        run,
        name,
        bool(stop_guards(run)),
        (
            tables.metrics(run.evaluation),
            tables.classes(run.evaluation),
            tables.mapping(
                "Training",
                ("what", "value"),
                tables.fit_facts(run.fit, "image" if run.evaluation.images is None else "window"),
            ),
            tables.mapping("Turning, in short", ("what", "value"), tables.audit_facts(run.audit)),
            tables.turns(run.audit),
        ),
    )


def _mistakes(study: Study) -> list[tuple[str, tuple[Mistake, ...]]]:
    """Of each model the mistakes of its first run that has any."""
    first: dict[str, tuple[str, tuple[Mistake, ...]]] = {}
    for run in study.runs:
        if run.mistakes:
            first.setdefault(run.label, (f"{run.label}, seed {run.seed}", run.mistakes))
    return list(first.values())
