"""The command line: parses, calls, prints. Everything heavy is imported inside the command that needs it."""

from . import studies, runs, machine  # noqa: F401, I001  # the order of the commands in the help
from .app import app

__all__ = ["main"]


def main() -> None:
    app(prog_name="roteq")
