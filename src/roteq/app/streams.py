"""What goes between browser and server in many parts, and what happens when a browser goes away."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .album import MAX_BYTES
from .worker import Pieces

READ_ON = 8 * MAX_BYTES  # bytes of a file that is too large are read and dropped, else the browser would see no answer
SILENCE = 20.0  # s in the middle of a file
GIVEN_UP = {"connection": "close"}  # the rest of the file is not waited for


class UntilGone:
    """ASGI middleware: a question whose browser goes away is cancelled, wherever it waits."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        gone, asked = asyncio.Event(), False

        async def receive_once() -> Message:
            nonlocal asked
            if asked:
                await gone.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        work = asyncio.ensure_future(_coroutine(self.app, scope, receive_once, send))
        watch = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            gone.set()
            for task in (work, watch):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


async def _coroutine(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Lines(StreamingResponse):
    """JSON, one object a line, as they come. Left early, the pieces that they are made of are closed at once."""

    def __init__(self, lines: AsyncGenerator[bytes, None], pieces: Pieces[Any]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._lines, self._pieces = lines, pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces), aclosing(self._lines):
            await super().__call__(scope, receive, send)


async def body_of(request: Request) -> bytes:
    """Of an upload, at most MAX_BYTES, whatever its header says. Raises: HTTPException; ClientDisconnect."""
    too_large = HTTPException(
        413, f"the file is larger than {MAX_BYTES >> 20} MB; make the picture smaller first", GIVEN_UP
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > READ_ON:
        raise too_large
    data, size = bytearray(), 0
    parts: Any = request.stream()
    while True:
        try:
            part = await asyncio.wait_for(anext(parts, None), SILENCE)
        except TimeoutError:
            raise HTTPException(408, f"nothing more of the file came for {SILENCE:.0f} s", GIVEN_UP) from None
        if part is None:
            break
        size += len(part)
        if size > READ_ON:
            raise too_large
        if size <= MAX_BYTES:
            data += part
        else:
            data.clear()
    if size > MAX_BYTES:
        raise too_large
    return bytes(data)
