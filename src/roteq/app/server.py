"""The page's server: a few addresses, each a question to the explorer, checked before it is asked."""

import asyncio
import hashlib
import io
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..auditing.rows import spread_out
from ..data.images import BadImage
from ..errors import RoteqError, UsageError
from .animate import film_pieces
from .asked import Asked
from .explorer import STEP, Explorer
from .inside import comparing, filters, inside, turned_map
from .networks import Answer
from .security import LOOPBACK, Guard
from .sheet import THEMES
from .streams import Lines, UntilGone, body_of
from .survey import ORDERS, SORTS, Survey
from .worker import Busy, Pieces, Priority, Stopping, Worker

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
MEDIA = {"png": "image/png", "gif": "image/gif", "webp": "image/webp", "mp4": "video/mp4"}
DECODING, UPLOADING = 2, 4  # pictures at once: decoded, a large one takes 200 MB; on their way, 32 MiB
REFERENCES = 16  # images that the error of a layer is measured against
PAGE = 200  # images in one answer
MOST = 10**6  # features and sources
log = logging.getLogger("roteq.explore")


def create_app(
    explorer: Explorer, *, token: str | None = None, hosts: Sequence[str] = LOOPBACK, debug: bool = False
) -> Starlette:
    """The page and its questions as an ASGI application; the gallery is judged while nothing else is asked.

    token: who does not bring it is refused. hosts: names under which the server may be addressed, () for any. debug:
    what was not expected is logged with its traceback. `app.state.worker` is the worker.
    """
    served = _Served(explorer, debug)
    app = Starlette(
        routes=served.routes(), lifespan=served.lifespan, exception_handlers={HTTPException: _refused_by_starlette}
    )
    app.add_middleware(UntilGone)
    app.add_middleware(Guard, token=token, hosts=hosts)
    app.state.worker = served.worker
    return app


class _Static(NamedTuple):
    body: bytes
    type: str
    tag: str


class _Served:
    def __init__(self, explorer: Explorer, debug: bool) -> None:
        self.explorer, self.survey, self.worker = explorer, Survey(explorer), Worker()
        self.debug, self.files = debug, _static()
        self.decoders = ThreadPoolExecutor(DECODING, "roteq pictures")
        self.uploading = asyncio.Semaphore(UPLOADING)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.worker.background(self.survey.work(), partial(self._log, "the gallery"))
        yield
        self.decoders.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.worker.stop)

    def routes(self) -> list[Route]:
        api: dict[str, Handler] = {
            "about": self.about,
            "images": self.images,
            "images/{id}": self.image,
            "images/{id}/stage.png": self.stage,
            "images/{id}/thumb.png": self.thumb,
            "answer": self.answer,
            "circle": self.circle,
            "inside": self.inside,
            "filters": self.filters,
            "map": self.map,
            "export": self.export,
        }
        upload = Route("/api/images", self._answered(self.upload), methods=["POST"])
        found = [Route(f"/api/{path}", self._answered(handler)) for path, handler in api.items()]
        return [*found, upload, Route("/", self.static), Route("/static/{name}", self.static)]

    async def static(self, request: Request) -> Response:
        """Only what the package brings, from memory."""
        found = self.files.get(request.path_params.get("name", "page.html"))
        if found is None:
            raise HTTPException(404)
        headers = {"etag": found.tag, "cache-control": "no-cache"}  # asked again each time: another version may run
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.body, media_type=found.type, headers=headers)

    async def about(self, request: Request) -> Response:
        return Json(await self.worker.do(Priority.ANSWER, self.explorer.about))

    async def images(self, request: Request) -> Response:
        asked = self._asked(request)
        sort, order = asked.one_of("sort", SORTS, "name"), asked.one_of("order", ORDERS)
        offset, limit = asked.number("offset", 0, 10**9 - 1, 0), asked.number("limit", 1, PAGE, 60)
        return Json(self.survey.rows(sort or "name", asked.model(0), offset, limit, order))

    async def image(self, request: Request) -> Response:
        return Json(await self._decoding(partial(self.explorer.image, self._asked(request).image())))

    async def stage(self, request: Request) -> Response:
        return await self._picture(self.explorer.stage, self._asked(request).image())

    async def thumb(self, request: Request) -> Response:
        return await self._picture(self.explorer.thumb, self._asked(request).image())

    async def upload(self, request: Request) -> Response:
        name = unquote(request.headers.get("x-name", ""))
        async with self.uploading:
            entry = await self._decoding(partial(self.explorer.album.add, await body_of(request), name))
        return Json(await self._decoding(partial(self.explorer.image, entry.id)), status_code=201)

    async def answer(self, request: Request) -> Response:
        look = self._asked(request).look()
        found = await self.worker.do(Priority.ANSWER, partial(self.explorer.answer, *look))
        return Json({"model": look.model, "image": look.image, **_said(found)})

    async def circle(self, request: Request) -> Response:
        asked = self._asked(request)
        model, id, mirror = asked.model(), asked.image(), asked.mirror()
        fine = asked.one_of("step", ("1", str(STEP)), str(STEP)) == "1"  # so that nothing has to be waited for later
        circle = self.explorer.circle(model, id, mirror, 1 if fine else STEP)
        pieces = self.worker.each(Priority.FINE if fine else Priority.CIRCLE, circle)
        return Lines(self._circle(pieces, model), pieces)

    async def _circle(self, pieces: Pieces[Answer], model: int) -> AsyncGenerator[bytes, None]:
        answers = []
        try:
            async for found in pieces:
                answers.append(found)
                yield _line(_said(found))
            seconds = self.explorer.networks[model].seconds
            yield _line({"done": True, "summary": self.explorer.summary(model, answers), "seconds": seconds})
        except Exception as error:
            yield _line({"error": self._failure(error, "circle")[1]})

    async def inside(self, request: Request) -> Response:
        asked = self._asked(request)
        model, id, degrees, mirror = asked.look()
        layer, feature = asked.text("layer"), asked.number("feature", 0, MOST, 0)
        network, album = self.explorer.networks[model], self.explorer.album
        references = [str(i) for i in spread_out(len(album.entries), REFERENCES)] if album.entries else []

        def pieces() -> Iterator[dict[str, Any] | None]:
            yield from comparing(network, album, id, layer, references)
            yield inside(network, album, id, degrees, mirror, layer, feature, references)

        found = await self.worker.last(Priority.LOOK, pieces())
        return Json({"model": model, **(found or {})})

    async def filters(self, request: Request) -> Response:
        asked = self._asked(request)
        network, layer = self.explorer.networks[asked.model()], asked.text("layer")
        feature, source = asked.number("feature", 0, MOST, 0), asked.number("source", 0, MOST, 0)
        return Json(await self.worker.do(Priority.LOOK, partial(filters, network, layer, feature, source)))

    async def map(self, request: Request) -> Response:
        model, id, degrees, mirror = self._asked(request).look()
        seen = partial(turned_map, self.explorer.networks[model], self.explorer.album, id, degrees, mirror)
        return Json(await self.worker.do(Priority.LOOK, seen))

    async def export(self, request: Request) -> Response:
        asked = self._asked(request)
        id, degrees, mirror = asked.image(), asked.angle(0), asked.mirror()
        kind, theme = asked.one_of("format", tuple(MEDIA), "png") or "", asked.one_of("theme", THEMES, "light") or ""
        frames = degrees if kind == "png" else None
        film = film_pieces(self.explorer, id, mirror, asked.models(), theme, kind, degrees=frames)
        body = await self.worker.last(Priority.EXPORT, film)
        name = f"roteq-{Path(self.explorer.album.entry(id).name).stem}.{kind}"
        headers = {"content-disposition": f"attachment; filename=\"roteq.{kind}\"; filename*=UTF-8''{quote(name)}"}
        return Response(body, media_type=MEDIA[kind], headers=headers)

    def _asked(self, request: Request) -> Asked:
        return Asked(request, self.explorer)

    async def _picture(self, make: Callable[[str], Image.Image], id: str) -> Response:
        return Response(await self._decoding(lambda: _png(make(id))), media_type="image/png")

    async def _decoding(self, function: Callable[[], T]) -> T:
        """In a thread of its own, beside the models; two at a time."""
        return await asyncio.get_running_loop().run_in_executor(self.decoders, function)

    def _answered(self, handler: Handler) -> Handler:
        """Every failure as one sentence; the server goes on."""

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except HTTPException:
                raise
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:
                status, sentence = self._failure(error, request.url.path, request.method == "POST")
                headers = {"retry-after": "1"} if status in (429, 503) else None
                return Json({"error": sentence}, status_code=status, headers=headers)

        return answer

    def _failure(self, error: Exception, where: str, is_upload: bool = False) -> tuple[int, str]:
        """The status and the sentence."""
        kinds: tuple[tuple[type[Exception], int], ...] = (
            (Stopping, 503),
            (Busy, 429),
            (BadImage, 415 if is_upload else 422),
            (UsageError, 400),
            (RoteqError, 422),
        )
        status = next((status for kind, status in kinds if isinstance(error, kind)), 500)
        if status < 500 or isinstance(error, Stopping):
            return status, str(error)
        self._log(where, error)
        return status, _unexpected(error)

    def _log(self, where: str, error: Exception) -> None:
        log.error("%s: %s", where, _unexpected(error), exc_info=error if self.debug else None)


class Json(JSONResponse):
    """In ASCII: names of folders may hold what no encoding has."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}"


async def _refused_by_starlette(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is nothing at this address", 405: f"{request.method} cannot be used here"}
    is_theirs = error.detail in ("Not Found", "Method Not Allowed")
    words = sentence[error.status_code] if is_theirs else error.detail
    return Json({"error": words}, status_code=error.status_code, headers=error.headers)


def _said(found: Answer) -> dict[str, Any]:
    said = asdict(found)
    return {"angle": said.pop("degrees"), "mirror": int(said.pop("mirror")), **said}


def _line(found: dict[str, Any]) -> bytes:
    return bytes(Json(found).body) + b"\n"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _static() -> dict[str, _Static]:
    """What lies in the folder now; nothing is read later."""
    found = {}
    for one in resources(__package__).joinpath("static").iterdir():
        kind = TYPES.get(Path(one.name).suffix)
        if kind is not None:
            body = one.read_bytes()
            found[one.name] = _Static(body, kind, f'"{hashlib.sha256(body).hexdigest()[:20]}"')
    return found
