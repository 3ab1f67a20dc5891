"""The command line: parses, calls, prints. Everything heavy is imported inside the command that needs it."""

from . import studies, prepare, runs, audit, explore, covariance, convert, slide, animate, machine  # noqa: F401, I001  # in this order the help lists the commands
from .app import app

__all__ = ["main"]


def main() -> None:
    app(prog_name="roteq")
