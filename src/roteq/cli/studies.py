"""The whole investigation: on the user's data, or on built-in data."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import DRY_RUN_WORKS, DryRun, Json, MaxTime, Overrides, command, show, show_json


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
