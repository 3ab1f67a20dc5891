"""Files that are whole or absent: everything is written under a temporary name and renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from .errors import RoteqError

T = TypeVar("T")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; rename it to `path` at the end, remove it on any error.

    The suffix is kept (some writers choose the format by it) and the name starts with a dot, so no loader sees it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise RoteqError(f"{path}: could not be written: expected a plain file, and this is something else")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise RoteqError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_json(result: Any, path: str | Path) -> None:
    """Save a result (a dataclass of roteq.results) as JSON; NaN and infinities become null."""
    write_text(path, to_json(result))


def to_json(result: Any) -> str:
    from pydantic import RootModel

    model: Any = RootModel[type(result)]  # type: ignore[misc]
    return model(result).model_dump_json(indent=1) + "\n"


def load_json(kind: type[T], path: str | Path) -> T:
    """Load what `save_json` wrote. Raises RoteqError if the file is not such a result."""
    from pydantic import TypeAdapter, ValidationError

    path = Path(path)
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RoteqError(f"{path}: no such file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RoteqError(f"{path}: not a {kind.__name__} of roteq ({where or 'file'}: {first['msg']})") from None
