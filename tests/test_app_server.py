"""The server of the page: what it answers, what it refuses, and what happens when much is asked or nobody listens."""

import asyncio
import http.client
import io
import json
import logging
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

import roteq
from roteq.app import serving, streams
from roteq.app.album import MAX_BYTES, Album, Entry
from roteq.app.explorer import Explorer
from roteq.app.networks import Answer
from roteq.app.security import Guard
from roteq.app.server import create_app
from roteq.app.serving import address_of, is_open_to_others, listen, server_of
from roteq.auditing.loading import as_subject
from roteq.errors import RoteqError, UsageError

FAILS = {1: ValueError("odd"), 2: RoteqError("no answer today"), 3: UsageError("not this one")}


class Fake:
    """An explorer whose answers take a while and are counted."""

    def __init__(self, images: int = 0, pause: float = 0.0) -> None:
        self.pause, self.calls, self.closed = pause, list[tuple[str, int]](), threading.Event()
        self.networks = tuple(
            SimpleNamespace(name=name, angles=lambda step: list(range(0, 360, step)), kind="map", seconds=pause)
            for name in ("one", "two")
        )
        self.album = Album()
        self.album.entries = tuple(Entry(str(i), f"cells {i}.png", None) for i in range(images))

    def about(self) -> dict[str, Any]:
        return {"models": []}

    def answer(self, model: int, id: str, degrees: int, mirror: bool = False) -> Answer:
        self.calls.append((id, degrees))
        time.sleep(self.pause)
        if degrees in FAILS:
            raise FAILS[degrees]
        return Answer(degrees, mirror, degrees % 90 == 0, {0: 0.75, 1: 0.25}, 0, 0.0)

    def circle(self, model: int, id: str, mirror: bool = False, step: int = 5) -> Iterator[Answer]:
        try:
            for degrees in range(0, 360, step) if model == 0 else (0, 1):
                yield self.answer(model, id, degrees, mirror)
        finally:
            self.closed.set()

    def summary(self, model: int, answers: list[Answer]) -> dict[str, Any]:
        return {"interpolated_changed": 0.0, "exact_changed": 0.0, "answers": len(answers)}

    def image(self, id: str) -> dict[str, Any]:
        return {"id": id, "name": self.album.entry(id).name}

    def stage(self, id: str) -> Image.Image:
        return Image.new("RGB", (5, 5))


@contextmanager
def served(explorer: Any, **options: Any) -> Iterator[Any]:
    """A real server: client, app, port, explorer."""
    app = create_app(explorer, **options)
    server = server_of(app)
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                yield SimpleNamespace(client=client, app=app, port=port, explorer=explorer, server=server)
        finally:
            server.should_exit = True
            thread.join(5)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def fake() -> Iterator[Any]:
    with served(Fake(images=1)) as found:
        yield found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"cells {i}.png")
    torch.manual_seed(0)
    subjects = []
    for group in ("C4", "Z2"):
        network = roteq.create("se2cnn", group=group, in_channels=3, num_classes=2).eval()
        subjects.append(as_subject(network, name=group, normalize="unit", size=16, resize=0, classes=("a", "b")))
    with served(Explorer(subjects, Album(folder))) as found:
        yield found


def raw(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """As it stands: httpx would tidy the path up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    found = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return found


def test_every_question_is_answered_as_the_library_does(real: Any) -> None:
    client, explorer = real.client, real.explorer
    about = client.get("/api/about").json()
    assert [model["name"] for model in about["models"]] == ["C4", "Z2"] and about["set"]["images"] == 3
    found = client.get("/api/answer?model=1&image=2&angle=37&mirror=1").json()
    answer = explorer.answer(1, "2", 37, True)
    said = {"model": 1, "image": "2", "angle": 37, "mirror": 1, "exact": False, "decision": answer.decision}
    assert found == said | {"values": {str(k): v for k, v in answer.values.items()}, "changed": answer.changed}
    lines = [json.loads(line) for line in client.get("/api/circle?model=0&image=0").text.splitlines()]
    assert len(lines) == 73 and {line["angle"] for line in lines[:-1]} == set(range(0, 360, 5))
    assert 0 < lines[-1].pop("seconds") < 5
    assert lines[-1] == {"done": True, "summary": explorer.summary(0, list(explorer.circle(0, "0")))}
    fine = [json.loads(line) for line in client.get("/api/circle?model=0&image=0&step=1").text.splitlines()]
    assert len(fine) == 361 and [line["angle"] for line in fine[:4]] == [0, 90, 180, 270]
    layer = about["models"][0]["layers"][0]["path"]
    inside = client.get("/api/inside", params={"model": 0, "image": 0, "angle": 90, "layer": layer}).json()
    assert inside["model"] == 0 and inside["order"] == 4 and inside["error"]["between"] < 1e-5
    assert client.get("/api/filters", params={"model": 0, "layer": layer}).json()["sources"] == 3
    image = client.get("/api/images/1").json()
    assert image["name"] == "cells 1.png" and image["width"] == 24
    stage = Image.open(io.BytesIO(client.get("/api/images/1/stage.png").content))
    assert stage.size == explorer.stage("1").size and client.get("/api/images/1/thumb.png").headers["content-type"]
    refused = client.get("/api/map?model=0&image=0&angle=0")
    assert refused.status_code == 400 and "not with a map" in refused.json()["error"]


def test_a_view_is_exported_under_a_name_of_its_own(real: Any) -> None:
    found = real.client.get("/api/export?format=png&image=0&angle=30&models=1&theme=dark")
    assert found.headers["content-type"] == "image/png" and Image.open(io.BytesIO(found.content)).width > 300
    assert found.headers["content-disposition"].endswith("filename*=UTF-8''roteq-cells%200.png")


def test_a_dropped_picture_can_be_asked_about(real: Any) -> None:
    data = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(data, "PNG")
    found = real.client.post("/api/images", content=data.getvalue(), headers={"X-Name": "..%2Fred%20%3Cb%3E.png"})
    assert found.status_code == 201 and found.json()["name"] == "red <b>.png"
    answer = real.client.get("/api/answer", params={"model": 0, "image": found.json()["id"], "angle": 5})
    assert answer.status_code == 200


def test_the_gallery_fills_and_is_sorted(real: Any) -> None:
    until(lambda: real.client.get("/api/images").json()["judged"] == 3)
    page = real.client.get("/api/images?sort=flips&model=1&order=ascending&limit=2").json()
    assert page["total"] == 3 and len(page["items"]) == 2
    flips = [item["models"][1]["interpolated_flips"][0] for item in page["items"]]
    assert flips == sorted(flips)


WRONG = [
    ("/api/answer?image=0&angle=0", 400, "model: expected a value"),
    ("/api/answer?model=2&image=0&angle=0", 400, "model: expected 0 (one), 1 (two); got '2'"),
    ("/api/answer?model=-1&image=0&angle=0", 400, "model: expected 0 (one)"),
    ("/api/answer?model=x&image=0&angle=0", 400, "got 'x'"),
    ("/api/answer?model=²&image=0&angle=0", 400, "got '²'"),
    ("/api/answer?model=0&image=0&angle=360", 400, "angle: expected whole degrees from 0 to 359, got '360'"),
    ("/api/answer?model=0&image=0&angle=1.5", 400, "angle: expected whole degrees"),
    ("/api/answer?model=0&image=0&angle=" + "9" * 200, 400, "angle: expected whole degrees"),
    ("/api/answer?model=0&image=0&angle=" + "9" * 5000, 400, "angle: expected a value of at most 300"),
    ("/api/answer?model=0&image=0&angle=0&mirror=yes", 400, "mirror: unknown 'yes'; choose from '0', '1'"),
    ("/api/answer?model=0&image=7&angle=0", 404, "image: no image '7'"),
    ("/api/answer?model=0&image=u0123456789abcdef&angle=0", 404, "drop it again"),
    ("/api/answer?model=0&image=" + "9" * 250 + "&angle=0", 404, "image: no image '999"),
    ("/api/answer?model=0&image=0&angle=1", 500, "unexpected ValueError: odd"),
    ("/api/answer?model=0&image=0&angle=2", 422, "no answer today"),
    ("/api/answer?model=0&image=0&angle=3", 400, "not this one"),
    ("/api/images?sort=flip", 400, "sort: unknown 'flip'; did you mean 'flips'?"),
    ("/api/images?order=up", 400, "order: unknown 'up'; choose from 'ascending'"),
    ("/api/images?limit=0", 400, "limit: expected a whole number from 1 to 200, got '0'"),
    ("/api/inside?model=0&image=0&angle=0", 400, "layer: expected a value"),
    ("/api/export?image=0&format=gi", 400, "format: unknown 'gi'; did you mean 'gif'?"),
    ("/api/export?image=0&format=png&models=0,7", 400, "models: expected numbers from 0 to 1"),
    ("/api/circle?model=0&image=9", 404, "image: no image '9'"),
    ("/api/images/%2e%2e", 404, "image: no image '..'"),
    ("/api/images/" + "9" * 5000, 404, "image: no image '9999"),
    ("/api/nothing", 404, "there is nothing at this address"),
    ("/nothing", 404, "there is nothing at this address"),
]


@pytest.mark.parametrize(("path", "status", "words"), WRONG, ids=[path[:50] for path, *_ in WRONG])
def test_what_cannot_be_is_one_sentence(fake: Any, path: str, status: int, words: str) -> None:
    found = fake.client.get(path)
    assert found.status_code == status and words in found.json()["error"]
    assert "Traceback" not in found.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/static/..\\server.py",
        "/static/__init__.py",
        "/../server.py",
        "//etc/passwd",
        "/api/images/..%2f..%2fserver.py",
        "/api/images/..%2f/stage.png",
        "/api/images/%00/stage.png",
        "/static/state.js%00.css",
    ],
)
def test_nothing_else_of_the_disk_is_shown(fake: Any, path: str) -> None:
    status, headers, body = raw(fake.port, path)
    assert status == 404 and headers["content-type"] == "application/json" and list(json.loads(body)) == ["error"]


def test_files_of_the_page_come_from_memory_with_their_types(fake: Any) -> None:
    found = fake.client.get("/static/state.js")
    folder = Path(roteq.__file__).parent / "app" / "static"
    assert found.content == (folder / "state.js").read_bytes()
    assert found.headers["content-type"] == "text/javascript; charset=utf-8"
    assert fake.client.get("/static/gallery.css").headers["content-type"] == "text/css; charset=utf-8"
    again = fake.client.get("/static/state.js", headers={"If-None-Match": found.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


@pytest.mark.parametrize("path", ["/static/state.js", "/api/about", "/api/answer?model=0&image=0&angle=5"])
def test_head_has_the_headers_and_no_body(fake: Any, path: str) -> None:
    status, headers, body = raw(fake.port, path, "HEAD")
    assert status == 200 and body == b"" and headers["content-length"] == str(len(fake.client.get(path).content))


def test_other_methods_are_refused(fake: Any) -> None:
    for method, path in (("POST", "/api/answer"), ("DELETE", "/api/images/0"), ("PUT", "/static/state.js")):
        found = fake.client.request(method, path)
        assert found.status_code == 405 and found.json() == {"error": f"{method} cannot be used here"}


def test_headers_keep_the_page_to_itself(fake: Any) -> None:
    for path in ("/static/state.js", "/api/about", "/api/nothing"):
        headers = fake.client.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; img-src 'self' data: blob:; style-src"
        )
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and "server" not in headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert (headers.get("cache-control") == "no-store") == path.startswith("/api")


def test_names_that_no_encoding_has_are_answered() -> None:
    explorer = Fake(images=1)
    explorer.album.entries = (Entry("0", "\udcff \u00fc", None),)
    status, _, body = asyncio.run(asked(create_app(explorer), "/api/images/0"))
    assert status == 200 and json.loads(body)["name"] == "\udcff \u00fc"


# Uploads.


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_file_that_is_too_large_is_refused_and_not_kept(fake: Any, is_chunked: bool) -> None:
    part = bytes(1 << 20)
    parts = (part for _ in range(40))
    body: Any = parts if is_chunked else b"".join(parts)
    found = fake.client.post("/api/images", content=body)
    assert found.status_code == 413
    assert found.json()["error"] == "the file is larger than 32 MB; make the picture smaller first"


def test_a_file_that_is_too_large_takes_no_more_memory_than_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", 1 << 20)
    part = bytes(1 << 18)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield part

    request: Any = SimpleNamespace(headers={}, stream=parts)
    tracemalloc.start()
    with pytest.raises(HTTPException, match="larger than 1 MB"):
        asyncio.run(streams.body_of(request))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_what_is_said_to_be_far_too_large_is_not_read(fake: Any) -> None:
    with socket.create_connection(("127.0.0.1", fake.port), timeout=5) as browser:
        browser.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert browser.recv(12) == b"HTTP/1.1 413"


def test_a_file_that_stops_in_the_middle_is_given_up(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SILENCE", 0.05)
    with socket.create_connection(("127.0.0.1", fake.port), timeout=5) as browser:
        browser.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nsome")
        start = time.monotonic()
        answer = b"".join(iter(lambda: browser.recv(4096), b""))  # until it is closed
    assert answer.startswith(b"HTTP/1.1 408") and b"nothing more of the file came" in answer
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "empty"), (b"notes about cells", "a text file"), (b"<svg xmlns='x'></svg>", "SVG"), (b"\x89PNG\r\n", "")],
    ids=["nothing", "text", "drawing", "cut"],
)
def test_what_is_no_picture_is_refused_in_words(fake: Any, data: bytes, words: str) -> None:
    found = fake.client.post("/api/images", content=data)
    assert found.status_code == 415 and words in found.json()["error"]


def test_the_limit_of_uploads_is_that_of_the_album() -> None:
    assert MAX_BYTES == 32 << 20 and streams.READ_ON > MAX_BYTES


# Much at once, and browsers that go away.


def test_two_browsers_that_ask_too_much_are_told_so_and_the_server_goes_on() -> None:
    with served(Fake(images=1, pause=0.02)) as found:
        found.app.state.worker.most = 5

        def ask(k: int) -> httpx.Response:
            return found.client.get(f"/api/answer?model=0&image=0&angle={k + 20}")

        with ThreadPoolExecutor(20) as browsers:
            answers = list(browsers.map(ask, range(40)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429} and 5 <= statuses.count(200) < 40
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"] == "busy: 5 questions are waiting already; try again in a moment"
        assert refused.headers["retry-after"] == "1"
        assert len(found.explorer.calls) >= statuses.count(200)
        assert ask(300).status_code == 200
        found.explorer.pause = 0.0
        circle = found.client.get("/api/circle?model=0&image=0")
        assert circle.status_code == 200 and json.loads(circle.text.splitlines()[-1])["summary"]["answers"] == 72


def test_a_browser_that_goes_away_ends_its_circle() -> None:
    with served(Fake(images=1, pause=0.005)) as found:
        with found.client.stream("GET", "/api/circle?model=0&image=0") as response:
            lines = response.iter_lines()
            assert [json.loads(next(lines))["angle"] for _ in range(3)] == [0, 5, 10]
        assert found.explorer.closed.wait(2)
        before = len([call for call in found.explorer.calls if call[1] % 15])
        time.sleep(0.03)
        assert len([call for call in found.explorer.calls if call[1] % 15]) == before < 48


def test_a_question_whose_browser_has_gone_is_dropped_before_it_runs(fake: Any) -> None:
    gate, entered = threading.Event(), threading.Event()

    def wait() -> Iterator[None]:
        entered.set()
        gate.wait(5)
        yield

    worker = fake.app.state.worker
    worker._put(-1, wait(), lambda kind, value: None)
    assert entered.wait(2)
    with socket.create_connection(("127.0.0.1", fake.port)) as browser:
        browser.sendall(b"GET /api/answer?model=0&image=0&angle=222 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: worker.waiting == 1)
    until(lambda: worker.waiting == 0)
    gate.set()
    assert fake.client.get("/api/answer?model=0&image=0&angle=223").status_code == 200
    assert ("0", 222) not in fake.explorer.calls and ("0", 223) in fake.explorer.calls


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 3
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_answer_is_given_within_a_piece_while_the_gallery_is_judged() -> None:
    with served(Fake(images=50, pause=0.01)) as found:
        calls = found.explorer.calls
        until(lambda: len(calls) > 2)
        for angle in (37, 38, 39):
            before = len(calls)
            assert found.client.get(f"/api/answer?model=0&image=0&angle={angle}").status_code == 200
            assert calls.index(("0", angle)) - before <= 2
        assert found.client.get("/api/images").json()["total"] == 50


def test_a_circle_that_fails_in_the_middle_says_so_in_its_last_line(fake: Any) -> None:
    lines = [json.loads(line) for line in fake.client.get("/api/circle?model=1&image=0").text.splitlines()]
    assert lines[0]["angle"] == 0 and lines[1:] == [{"error": "unexpected ValueError: odd"}]


@pytest.mark.parametrize("debug", [False, True])
def test_what_was_not_expected_is_logged_once(debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> int:
        app = create_app(Fake(images=1), debug=debug)
        status, _, _ = await asked(app, "/api/answer?model=0&image=0&angle=1")
        app.state.worker.stop()
        return status

    with caplog.at_level(logging.ERROR, "roteq.explore"):
        assert asyncio.run(ask()) == 500
    (record,) = caplog.records
    assert record.getMessage() == "/api/answer: unexpected ValueError: odd"
    assert bool(record.exc_info) == debug


def test_it_stops_at_once_in_the_middle_of_everything() -> None:
    with served(Fake(images=50, pause=0.02)) as found, ThreadPoolExecutor(1) as other:
        with httpx.Client(base_url=f"http://127.0.0.1:{found.port}") as client:
            circle = other.submit(client.get, "/api/circle?model=0&image=0")
            until(lambda: len(found.explorer.calls) > 3)
            start = time.monotonic()
            found.server.should_exit = True
            last = circle.result(5).text.splitlines()[-1]
        assert json.loads(last) == {"error": "the server is stopping"}
        assert time.monotonic() - start < 1.5


# Who may ask.


async def asked(app: Any, path: str, method: str = "GET", **given: str) -> tuple[int, dict[str, str], bytes]:
    """One question without a network."""
    place, _, query = path.partition("?")
    headers = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "localhost", **given}.items()
    ]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": place, "query_string": query.encode()}
    scope |= {"headers": headers, "server": ("127.0.0.1", 8420), "scheme": "http", "root_path": "", "asgi": {}}
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent)


def ask(
    path: str = "/api/about", method: str = "GET", token: str | None = None, hosts: Any = None, **headers: str
) -> Any:
    options = {} if hosts is None else {"hosts": hosts}
    guard = Guard(PlainTextResponse("in"), token=token, **options)
    return asyncio.run(asked(guard, path, method, **headers))


@pytest.mark.parametrize("host", ["localhost", "localhost:8420", "127.0.0.1:1", "[::1]:8420", "LocalHost:80"])
def test_names_of_this_machine_are_let_in(host: str) -> None:
    assert ask(host=host)[0] == 200


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example:8420", "127.0.0.1.nip.io", "[::2]:8420"])
def test_names_of_others_are_refused(host: str) -> None:
    status, _, body = ask("/", host=host)
    assert status == 403 and b"this is no address of this page" in body
    assert ask("/", host="[::2]", hosts=["::2"])[0] == ask("/", host=host, hosts=())[0] == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"origin": "http://localhost:8420"}, 200),
        ("POST", {}, 200),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "http://localhost:9999"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("GET", {"sec_fetch_site": "cross-site"}, 403),
        ("GET", {"sec_fetch_site": "same-site"}, 403),
        ("GET", {"sec_fetch_site": "same-origin"}, 200),
        ("GET", {"sec_fetch_site": "none"}, 200),
    ],
)
def test_pages_of_other_sites_can_neither_send_nor_load(method: str, headers: dict[str, str], status: int) -> None:
    found = ask("/api/images", method, host="localhost:8420", **headers)
    assert found[0] == status and (status == 200 or b"a page of another site asked" in found[2])


def test_a_link_on_another_site_opens_the_page() -> None:
    assert ask("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200


def test_a_token_in_the_address_becomes_a_cookie_and_the_address_clean() -> None:
    status, headers, _ = ask("/?token=secret&a=1", token="secret")
    assert status == 303 and headers["location"] == "/?a=1"
    cookie = headers["set-cookie"]
    assert cookie.startswith("roteq-8420=secret;") and "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert ask(token="secret", cookie="other={odd}; roteq-8420=secret")[0] == 200
    for path, cookie, words in (
        ("/", "", b"this page asks for a token"),
        ("/api/about", "roteq-8420=secre", b"asks for a token"),
        ("/api/about", "roteq-8421=secret", b"asks for a token"),
        ("/?token=wrong", "roteq-8420=secret", b"not the right one"),
        ("/?token=", "", b"not the right one"),
        ("/?token=%C3%BC", "", b"not the right one"),
    ):
        status, headers, body = ask(path, token="secret", cookie=cookie)
        assert status == 401 and words in body and "set-cookie" not in headers


def test_the_clean_address_is_always_here() -> None:
    assert ask("//evil.example/?token=secret", token="secret")[1]["location"] == "/evil.example/"
    status, headers, _ = ask("/?token=secret", token="secret", sec_fetch_site="cross-site")
    assert status == 200 and headers["refresh"] == "0; url=/"  # the cookie would not come with a redirect


# Ports.


def test_a_port_in_use_is_said_with_the_option() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RoteqError, match=f"--port: {port} is in use; give another"):
            listen("127.0.0.1", port)


def test_without_a_port_the_next_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", port)
        with listen("127.0.0.1") as other:
            assert port < other.getsockname()[1] <= port + 20
        monkeypatch.setattr(serving, "TRIED", 0)
        with pytest.raises(RoteqError, match=f"--port: {port} to {port} are all in use"):
            listen("127.0.0.1")


@pytest.mark.parametrize("host", ["203.0.113.7", "unknown", "x" * 300])
def test_a_host_of_others_is_no_place_to_listen(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host == "unknown":  # whom a real one asks may take its time
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UsageError, match=r"--host: .*127\.0\.0\.1 is always one"):
        listen(host, 0)


def test_a_port_that_needs_rights_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(RoteqError, match="--port: 80 is not allowed for this user; take one above 1023"):
        listen("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("host", "token", "address", "is_open"),
    [
        ("127.0.0.1", None, r"http://127.0.0.1:\d+/", False),
        ("localhost", None, r"http://localhost:\d+/", False),
        ("0.0.0.0", "abc", rf"http://{re.escape(socket.gethostname())}:\d+/\?token=abc", True),
        ("::1", None, r"http://\[::1\]:\d+/", False),
    ],
)
def test_the_address_can_be_typed_into_a_browser(host: str, token: str | None, address: str, is_open: bool) -> None:
    with suppress(UsageError), listen(host, 0) as listening:  # not every machine has IPv6
        assert re.fullmatch(address, address_of(listening, host, token))
        assert is_open_to_others(listening) == is_open
