"""The two errors roteq raises on purpose, and the sentence that names the nearest valid choice."""

from collections.abc import Iterable
from difflib import get_close_matches


class RoteqError(Exception):
    """A job that could not be done. The command line prints the message and exits with 1."""


class UsageError(RoteqError, ValueError):
    """A wrong call: an option, key or value that cannot be right. The command line exits with 2."""


def nearest(value: object, choices: Iterable[object]) -> str:
    """The end of an error message: the nearest valid choice, or all of them where none is near.

    >>> nearest("resnet-50", ["resnet50", "alexnet"])
    "did you mean 'resnet50'?"
    >>> nearest("zzz", ["resnet50", "alexnet"])
    "choose from 'alexnet', 'resnet50'"
    """
    names = sorted({str(choice) for choice in choices})
    lowered = {name.lower(): name for name in names}
    close = get_close_matches(str(value).lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    return "choose from " + ", ".join(repr(name) for name in names)
