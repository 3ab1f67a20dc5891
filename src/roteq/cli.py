"""The command line: parses, calls, prints. Everything heavy is imported inside the command that needs it."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ._version import __version__
from .errors import RoteqError, UsageError, nearest

app = typer.Typer(
    name="roteq",
    help="Measure how image networks behave when the picture is turned, and find out whether equivariance pays.",
    epilog="Example:  roteq demo",
    no_args_is_help=True,
    rich_markup_mode=None,  # the coloured help costs 0.1 s
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, such as train.epochs=5.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="One batch through everything; keeps nothing.")]
MaxTime = Annotated[str | None, typer.Option("--max-time", metavar="HH:MM:SS", help="Stop training after this long.")]
Split = Annotated[str, typer.Option("--split", help="The part of the prepared data to use.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a checkpoint of roteq.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roteq {__version__}")
        raise typer.Exit


@app.callback()
def roteq(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


def command(example: str, continues: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors become one sentence and an exit code; `continues`: it resumes when repeated."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except (typer.Exit, typer.Abort, BrokenPipeError):
                raise
            except (Exception, KeyboardInterrupt) as error:
                if _debug:
                    raise
                message, code = describe(error, continues)
                typer.echo(message, err=True)
                raise typer.Exit(code) from None

        return app.command(epilog=f"Example:  {example}")(guarded)

    return register


def describe(error: BaseException, continues: bool) -> tuple[str, int]:
    """The sentence for the user and the exit code.

    >>> describe(UsageError("--split: unknown split 'tets'; did you mean 'test'?"), continues=False)
    ("Error: --split: unknown split 'tets'; did you mean 'test'?", 2)
    """
    if isinstance(error, KeyboardInterrupt):
        return "Stopped." + (" The same command continues where it stopped." if continues else ""), 130
    if isinstance(error, RoteqError):
        return f"Error: {error}", 2 if isinstance(error, UsageError) else 1
    hint = "for the traceback: roteq --debug " + (sys.argv[1] if len(sys.argv) > 1 else "")
    return f"Error: unexpected {type(error).__name__}: {error} ({hint.strip()} ...)", 1


def show(*renderables: Any) -> None:
    from rich.console import Console

    console = Console()
    for renderable in renderables:
        console.print(renderable)


def show_json(result: Any) -> None:
    from .files import to_json

    typer.echo(to_json(result), nl=False)


@command("roteq demo demo", continues=True)
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the data, the runs and report.html.")] = Path(
        "demo"
    ),
    json: Json = False,
) -> None:
    """The whole investigation, on built-in data."""
    from .study import demo as run_demo

    _show_study(run_demo(out, progress=not json), out, json)


@command("roteq investigate study.yaml train.epochs=20", continues=True)
def investigate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The configuration of the study.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    max_time: MaxTime = None,
    json: Json = False,
) -> None:
    """Train networks under one protocol, compare, report."""
    from .config import load_config
    from .study import StudyConfig
    from .study import investigate as run_study

    config = load_config(StudyConfig, study, overrides or [])
    _show_study(run_study(config, progress=not json, dry_run=dry_run, max_time=max_time), config.out, json)


def _show_study(study: Any, out: Path, json: bool) -> None:
    if json:
        return show_json(study)
    from .report import verdict
    from .report.text import summary_table, verdict_panel

    show(summary_table(study), verdict_panel(verdict(study)))
    report = out / "report.html"
    if report.exists():
        typer.echo(f"Report: {report}")


@command("roteq train se2cnn data/tissue runs/one model.group=C8 train.epochs=10", continues=True)
def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that `roteq models` lists.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A prepared dataset.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for this run.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    max_time: MaxTime = None,
    json: Json = False,
) -> None:
    """Train one network once."""
    from .training import fit

    model_config, train_config = training_configs(model, overrides or [])
    result = fit(model_config, data, train_config, out, progress=not json, dry_run=dry_run, max_time=max_time)
    if json:
        return show_json(result)
    from .report.text import findings_panel

    if result.findings:
        show(findings_panel(result.findings))
    typer.echo(f"{result.epochs} epochs in {result.seconds:.0f} s, best epoch {result.best_epoch}: {out}/best.ckpt")


def training_configs(model: str, overrides: list[str]) -> tuple[Any, Any]:
    """ModelConfig and TrainConfig of `roteq train`: overrides have the keys of a study, model.* and train.*."""
    from .config import apply_override, validate
    from .models import ModelConfig
    from .training import TrainConfig

    tree: dict[str, Any] = {"model": {"name": model}, "train": {}}
    for override in overrides:
        apply_override(tree, override)
    for key in tree:
        if key not in ("model", "train"):
            raise UsageError(f"override: unknown key {key!r}; {nearest(key, ('model', 'train'))}")
    return validate(ModelConfig, tree["model"], "model"), validate(TrainConfig, tree["train"], "train")


@command("roteq models --json")
def models(json: Json = False) -> None:
    """The networks there are, and their options."""
    from .models import MODELS
    from .models.registry import defaults

    rows = {
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
    from .doctor import examine

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


def main() -> None:
    app(prog_name="roteq")


if __name__ == "__main__":
    main()
