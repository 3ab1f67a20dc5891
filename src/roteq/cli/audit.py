"""How any model behaves when the picture is turned."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RoteqError, UsageError
from .app import Json, busy, command, show, show_findings, show_json
from .models import (
    IMAGES,
    MODEL,
    Classes,
    Device,
    Download,
    LabelColumn,
    Labels,
    Normalize,
    Output,
    OutputKey,
    Pretrained,
    Resize,
    Size,
    Trust,
    Weights,
    as_options,
    guests,
    subjects_of,
)
from .runs import data_of, write_csv


@command("roteq audit timm:resnet50 images/ --max-flip-rate 0.01 --report out.html")
def audit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... IMAGES [KEY=VALUE...]",
            help=f"MODEL: {MODEL}. IMAGES: {IMAGES}. Settings: angles=24 or [15,45], images=500 (0: all), "
            "mirrors=true, corners=disc (mirror, edge, black), interpolation=spline (bicubic, bilinear), bootstrap, "
            "confidence, seed.",
        ),
    ],
    labels: Labels = None,
    classes: Classes = None,
    label_column: LabelColumn = None,
    split: Annotated[str | None, typer.Option("--split", help="The part of prepared data to use (test).")] = None,
    size: Size = None,
    resize: Resize = None,
    normalize: Normalize = None,
    output: Output = None,
    output_key: OutputKey = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    download: Download = False,
    trust: Trust = False,
    device: Device = None,
    max_flip_rate: Annotated[
        float | None,
        typer.Option("--max-flip-rate", min=0, max=1, help="Exit with 1 if more images change their decision."),
    ] = None,
    min_worst_accuracy: Annotated[
        float | None,
        typer.Option("--min-worst-accuracy", min=0, max=1, help="Exit with 1 if fewer images are right at every turn."),
    ] = None,
    max_error: Annotated[
        float | None, typer.Option("--max-error", min=0, help="Exit with 1 past this equivariance error.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page to look at.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every turn's numbers.")] = None,
    json: Json = False,
) -> None:
    """What turning the pictures does to any model."""
    models, images, overrides = _arguments(arguments)
    _check_targets(report=report, csv=csv)
    with busy("reading"), as_options(), guests():
        from ..auditing import AuditConfig, audit_subjects, broken_limits
        from ..config import load_config

        config = load_config(AuditConfig, overrides=overrides)
        if images is None:
            images = data_of(Path(models[0]))
        about: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust": trust, "device": device}
        about |= {"size": size, "resize": resize, "normalize": normalize, "output": output, "output_key": output_key}
        subjects = subjects_of(models, classes=classes, **about)
    with as_options(), guests():
        where: dict[str, Any] = {"labels": labels, "split": split, "label_column": label_column, "download": download}
        found = audit_subjects(subjects, images, config, progress=not json, **where)
        limits = {"max_flip_rate": max_flip_rate, "min_worst_accuracy": min_worst_accuracy, "max_error": max_error}
        broken = [sentence for result in found.audits for sentence in broken_limits(result, **limits)]
    if report:
        from ..report.audit import write_audit_report

        write_audit_report(found, report)
    if csv:
        from ..report.audit import csv_rows

        write_csv(csv_rows(found), csv)
    for result in found.audits:
        show_findings(result.findings)
    if json:
        show_json(without_pictures(found))
    else:
        from ..report.text import audit_report

        show(audit_report(found))
        for path in filter(None, (report, csv)):
            typer.echo(f"Written: {path}")
    if any(finding.level == "stop" for result in found.audits for finding in result.findings) or broken:
        for sentence in broken:
            typer.echo(f"Failed: {sentence}", err=True)
        raise typer.Exit(1)


def _arguments(given: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Models, images (None: those of the run), settings.

    >>> _arguments(["a.pt2", "b.pt2", "images", "angles=4"])
    (['a.pt2', 'b.pt2'], 'images', ['angles=4'])
    >>> _arguments(["runs/one"])
    (['runs/one'], None, [])
    """
    overrides = [word for word in given if re.fullmatch(r"[\w.]*=.*", word) and not Path(word).exists()]
    places = [word for word in given if word not in overrides]
    if not places:
        raise UsageError("expected MODEL and IMAGES: roteq audit MODEL IMAGES")
    if len(places) == 1:
        if ":" in places[0] or Path(places[0]).suffix not in ("", ".ckpt"):
            raise UsageError(f"IMAGES: expected a folder, a table or a dataset after {places[0]}")
        return places, None, overrides
    return places[:-1], places[-1], overrides


def _check_targets(**given: Path | None) -> None:
    """What is written at the end must be a place for a file, and that is said at the beginning."""
    paths = {option: path for option, path in given.items() if path is not None}
    for option, path in paths.items():
        parent = next(folder for folder in path.absolute().parents if os.path.exists(folder))
        if path.name == "" or (os.path.exists(path) and not os.path.isfile(path)):
            raise UsageError(f"--{option}: expected the path of a file, got {str(path)!r}")
        if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
            raise RoteqError(f"--{option}: {path}: no file can be written into {parent}")
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise UsageError(f"--{' and --'.join(paths)}: expected different files, got {next(iter(paths.values()))} twice")


def without_pictures(found: Any) -> Any:
    """The result without the examples' pixels, which belong into the page."""
    audits = []
    for result in found.audits:
        examples = (replace(e, looks=tuple(replace(look, png="") for look in e.looks)) for e in result.examples)
        audits.append(replace(result, examples=tuple(examples)))
    return replace(found, audits=tuple(audits))
