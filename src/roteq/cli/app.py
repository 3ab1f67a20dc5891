"""The command line: parses, calls, prints. Everything heavy is imported inside the command that needs it."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Annotated, Any

import typer

from .._version import __version__
from ..errors import RoteqError, UsageError

app = typer.Typer(
    name="roteq",
    help="Measure how image networks behave when the picture is turned, and find out whether equivariance pays.",
    epilog="Example:  roteq demo",
    no_args_is_help=True,
    rich_markup_mode=None,  # the coloured help costs 0.1 s
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
DRY_RUN_WORKS = "The dry run works: one batch went through everything; nothing was kept."
PATIENCE = 2.0  # seconds without a word
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


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Say on stderr what is being done, once it has taken a while."""
    from rich.console import Console

    status = Console(stderr=True).status(doing)
    patience = Timer(PATIENCE, status.start)
    patience.daemon = True
    patience.start()
    try:
        yield
    finally:
        patience.cancel()
        patience.join()
        status.stop()


def show(*renderables: Any) -> None:
    from rich.console import Console

    console = Console()
    for renderable in renderables:
        console.print(renderable)


def show_findings(findings: Sequence[Any]) -> None:
    """What a guard saw goes to stderr, so that it is read beside JSON too."""
    if findings:
        from rich.console import Console

        from ..report.text import findings_panel

        Console(stderr=True).print(findings_panel(findings))


def fail_on_stop(findings: Sequence[Any]) -> None:
    """Exit with 1, after everything is printed, where a guard said stop: the numbers exist and mean nothing."""
    if any(finding.level == "stop" for finding in findings):
        raise typer.Exit(1)


def show_json(result: Any) -> None:
    from ..files import to_json

    typer.echo(to_json(result), nl=False)
