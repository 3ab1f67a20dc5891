"""What there is: networks, and this machine."""

from typing import Any

import typer

from .app import Json, command, show, show_json


@command("roteq models --json")
def models(json: Json = False) -> None:
    """The networks there are, and their options."""
    from ..models import MODELS
    from ..models.registry import defaults

    rows: dict[str, dict[str, Any]] = {
        name: {"summary": (function.__doc__ or "").strip().splitlines()[0], "options": defaults(name)}
        for name, function in MODELS.items()
    }
    if json:
        return show_json(rows)
    from rich.table import Table

    table = Table("model", "what it is", "options and their defaults", box=None, padding=(0, 2, 0, 0))
    for name, row in rows.items():
        options = row["options"]
        table.add_row(name, row["summary"], " ".join(f"{key}={value}" for key, value in options.items()))
    show(table)


@command("roteq doctor")
def doctor(json: Json = False) -> None:
    """What this machine can do, and what is broken in it."""
    from ..doctor import examine

    checks = examine()
    if json:
        show_json(checks)
    else:
        from rich.table import Table
        from rich.text import Text

        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for check in checks:
            detail = Text(check.detail + (f"\n-> {check.advice}" if check.advice else ""))
            table.add_row(Text(check.status, colours[check.status]), check.name, detail)
        show(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
