"""The parameters of a question to the server, checked before anything is asked."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..errors import RoteqError, UsageError, nearest
from .explorer import Explorer

NUMBER, LONGEST = re.compile(r"[0-9]{1,9}"), 300
IMAGE = re.compile(r"[0-9]{1,9}|u[0-9a-f]{1,40}")


class Look(NamedTuple):
    """What most questions are about."""

    model: int
    image: str
    degrees: int
    mirror: bool


class Asked:
    """Raises: UsageError for values that cannot be, naming those that can; HTTPException 404 for unknown images."""

    def __init__(self, request: Request, explorer: Explorer) -> None:
        self.given, self.path = request.query_params, request.path_params
        self.explorer = explorer

    def text(self, name: str, default: str | None = None) -> str:
        value = self.given.get(name, default)
        if value is None or len(value) > LONGEST:
            raise UsageError(f"{name}: expected a value{'' if value is None else f' of at most {LONGEST} characters'}")
        return value

    def number(self, name: str, low: int, high: int, default: int | None = None, what: str = "a whole number") -> int:
        text = self.text(name, None if default is None else str(default))
        if not NUMBER.fullmatch(text) or not low <= int(text) <= high:
            raise UsageError(f"{name}: expected {what} from {low} to {high}, got {text[:40]!r}")
        return int(text)

    def one_of(self, name: str, known: Sequence[str], default: str | None = None) -> str | None:
        value = self.given.get(name, default)
        if value is not None and value not in known:
            raise UsageError(f"{name}: unknown {value[:40]!r}; {nearest(value[:40], known)}")
        return value

    def model(self, default: int | None = None) -> int:
        names = [network.name for network in self.explorer.networks]
        text = self.text("model", None if default is None else str(default))
        if not NUMBER.fullmatch(text) or int(text) >= len(names):
            known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
            raise UsageError(f"model: expected {known}; got {text[:40]!r}")
        return int(text)

    def models(self) -> list[int]:
        """The chosen ones, in their order on the page; all if none is."""
        given, most = self.text("models", ""), len(self.explorer.networks) - 1
        parts = given.split(",") if given else []
        if not all(NUMBER.fullmatch(part) and int(part) <= most for part in parts):
            raise UsageError(f"models: expected numbers from 0 to {most} with commas between them, got {given[:40]!r}")
        return sorted({int(part) for part in parts}) or list(range(most + 1))

    def image(self) -> str:
        """Of the path or of the parameters."""
        id = self.path.get("id") or self.text("image")
        if not IMAGE.fullmatch(id):
            raise HTTPException(404, f"image: no image {id[:40]!r}")
        try:
            return self.explorer.album.entry(id).id
        except RoteqError as error:
            raise HTTPException(404, str(error)) from None

    def angle(self, default: int | None = None) -> int:
        return self.number("angle", 0, 359, default, "whole degrees")

    def mirror(self) -> bool:
        return self.one_of("mirror", ("0", "1"), "0") == "1"

    def look(self) -> Look:
        return Look(self.model(), self.image(), self.angle(), self.mirror())
