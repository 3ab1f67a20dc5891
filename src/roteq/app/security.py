"""Who may ask: browsers of this machine, on pages of ours, and with a token where the server is open to others."""

import secrets
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
OURS = "open the address that roteq explore printed"


class Guard:
    """ASGI middleware.

    The Host must be one of ours, so that no name of another site can be pointed at this server (DNS rebinding); ():
    any. Pages of other sites can neither send nor load anything (Origin, Sec-Fetch-Site). With a token, only who
    brought it once in the address is let in: a cookie remembers it, and the address is cleaned.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, hosts: Sequence[str] = LOOPBACK) -> None:
        self.app, self.token, self.hosts = app, token, tuple(host.lower().strip("[]") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there is nothing else here

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    added.setdefault(name, value)
                if scope["path"].startswith("/api"):
                    added.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (self.app if refusal is None else refusal)(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            return _refused(403, f"this is no address of this page: {host[:80]!r}; {OURS}")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        is_foreign |= scope["path"].startswith("/api") and site in ("cross-site", "same-site")
        if is_foreign:
            return _refused(403, f"a page of another site asked; {OURS}")
        return None if self.token is None else self._asks_for_token(scope, headers, site)

    def _asks_for_token(self, scope: Scope, headers: Headers, site: str) -> Response | None:
        cookie = f"roteq-{(scope.get('server') or ('', 0))[1]}"  # cookies do not know ports
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in query if key == "token"]
        if given:
            if not self._is_token(given[0]):
                return _refused(401, f"the token in the address is not the right one; {OURS}")
            return self._let_in(scope, cookie, [part for part in query if part[0] != "token"], site)
        if not self._is_token(cookie_parser(headers.get("cookie", "")).get(cookie, "")):
            return _refused(401, f"this page asks for a token; {OURS}, with the token in it")
        return None

    def _let_in(self, scope: Scope, cookie: str, query: list[tuple[str, str]], site: str) -> Response:
        clean = "/" + scope["path"].lstrip("/") + ("?" + urlencode(query) if query else "")
        answer: Response = RedirectResponse(clean, status_code=303)
        if site in ("cross-site", "same-site"):  # on a redirect from a link elsewhere the strict cookie is not sent
            answer = Response(headers={"refresh": "0; url=" + answer.headers["location"]}, media_type="text/html")
        assert self.token is not None
        answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
        answer.headers["cache-control"] = "no-store"
        return answer

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return secrets.compare_digest(given.encode(), self.token.encode())


def _refused(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status_code=status)


def _name(host: str) -> str:
    """Without the port.

    >>> _name("localhost:8420"), _name("[::1]:8420"), _name("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
