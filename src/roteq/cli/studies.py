"""The whole investigation: on the user's data, or on built-in data."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import (
    DRY_RUN_WORKS,
    DryRun,
    Json,
    MaxTime,
    Overrides,
    command,
    fail_on_stop,
    show,
    show_findings,
    show_json,
)


@command("roteq demo demo", continues=True)
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the data, the runs and report.html.")] = Path(
        "demo"
    ),
    json: Json = False,
) -> None:
    """The whole investigation, on built-in data."""
    from ..study import demo as run_demo
    from ..study.demo import demo_config

    _show_study(run_demo(out, progress=not json), demo_config(out).folder, json)


@command("roteq investigate study.yaml train.epochs=20", continues=True)
def investigate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The configuration of the study.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    max_time: MaxTime = None,
    json: Json = False,
) -> None:
    """Train networks under one protocol, compare, report."""
    from ..config import load_config
    from ..study import StudyConfig
    from ..study import investigate as run_study

    config = load_config(StudyConfig, study, overrides or [])
    limit = duration(max_time)
    result = run_study(config, progress=not json, dry_run=dry_run, max_time=limit)
    if dry_run:  # one batch bears no verdict
        return show_json(result) if json else typer.echo(DRY_RUN_WORKS)
    _show_study(result, config.folder, json)


@command("roteq reproduce rotated_mnist_p4cnn --data mnist_rot/ --seeds 3", continues=True)
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A name that --list shows.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="The raw data.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the prepared data and the runs.")] = Path(
        "reproductions"
    ),
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Instead of as many as published.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of as many as published.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="The published numbers there are.")] = False,
    json: Json = False,
) -> None:
    """Run a published experiment again, and say how close it comes."""
    from ..report.text import reproduction_table
    from ..study.reproduce import reproduce as run
    from ..study.reproduce import reproduction, reproductions

    if list_all:
        return _list_reproductions(json)
    if name is None:
        raise UsageError(f"NAME: expected one of {', '.join(reproductions())}; `roteq reproduce --list` describes them")
    if data is None:
        raise UsageError(f"--data: {name} needs {reproduction(name).needs}")
    result = run(name, data, out, seeds=seeds, epochs=epochs, progress=not json)
    findings = [finding for trial in result.trials for finding in trial.findings]
    show_findings(findings)
    if json:
        show_json(result)
    else:
        show(reproduction_table(result))
    fail_on_stop(findings)


def _list_reproductions(json: bool) -> None:
    from ..study.reproduce import reproduction, reproductions

    configs = {name: reproduction(name) for name in reproductions()}
    if json:
        return show_json({name: config.model_dump(mode="json") for name, config in configs.items()})
    from rich.table import Table

    table = Table("name", "published", "network", "source", box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    for name, config in configs.items():
        found = config.published
        spread = "" if found.spread is None else f" ± {found.spread:g}"
        unit = "" if found.metric == "nll" else " %"
        table.add_row(name, f"{found.metric} {found.value:g}{spread}{unit}", config.model.label, found.source)
    show(table)


def duration(text: str | None) -> timedelta | None:
    """
    >>> duration("01:30:00")
    datetime.timedelta(seconds=5400)
    """
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise UsageError(f"--max-time: expected HH:MM:SS, such as 01:30:00, got {text!r}")
    hours, minutes, seconds = map(int, parts)
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def _show_study(study: Any, out: Path, json: bool) -> None:
    """The study, and exit code 1 where a guard voids (a part of) it."""
    from ..report import verdict
    from ..report.text import summary_table, verdict_panel

    found = verdict(study)
    if json:
        show_json(study)
    else:
        show(summary_table(study), verdict_panel(found))
        report = out / "report.html"
        if report.exists():
            typer.echo(f"Report: {report}")
    if found.void:
        raise typer.Exit(1)
