"""The page in a real browser: what a person does with it, and whether the numbers that appear are those of the library.

Needs Chromium (from the system, or by `playwright install chromium`). The screenshots stay in screenshots/.
"""

import math
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import roteq
from roteq.app.album import Album
from roteq.app.explorer import Explorer
from roteq.auditing.loading import as_subject

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")

SIDE, CROP = 64, 32
CLASSES = ("normal", "tumour", "<img src=x onerror=alert(1)>")
SCREENSHOTS = Path(__file__).resolve().parents[1] / "screenshots"


def chromium(playwright: Any) -> str:
    """Of the system, or what playwright installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
    if not Path(found).exists():
        pytest.skip("no Chromium here; playwright install chromium brings one")
    return found


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i, name in enumerate(CLASSES[:2] * 2):
        (folder / name).mkdir(exist_ok=True)
        small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name / f"{i}.png")
    torch.manual_seed(0)
    subjects = []
    for label, group in (("equivariant", "C4"), ("plain", "Z2")):
        network = roteq.create("se2cnn", group=group, in_channels=3, num_classes=3).eval()
        with torch.no_grad():
            for layer in list(network.modules())[-1:]:
                for parameter in layer.parameters():
                    parameter.mul_(4)  # answers that differ enough to be read
        subjects.append(as_subject(network, name=label, normalize="imagenet", size=CROP, resize=0, classes=CLASSES))
    return Explorer(subjects, Album(folder))


@pytest.fixture(scope="module")
def address(explorer: Explorer) -> Iterator[str]:
    import uvicorn

    from roteq.app.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(explorer), port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(playwright), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Open the page as another person each time; whatever it complains about fails the test."""
    contexts, complaints = [], []

    def open_page(fragment: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(address + "/" + fragment)
        return page

    yield SimpleNamespace(open=open_page)
    for context in contexts:
        context.close()
    unexpected = [text for text in complaints if "status of 4" not in text]  # what was refused on purpose
    assert unexpected == []


def keep(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    with suppress(OSError):
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def ready(page: Any, angle: int) -> None:
    """Every model's numbers belong to this angle."""
    for model in (0, 1):
        page.wait_for_selector(f'[data-model="{model}"][data-angle="{angle}"]')


def bars(page: Any, model: int) -> dict[int, float]:
    rows = page.locator(f'[data-model="{model}"] .bars [data-class]')
    return {int(row.get_attribute("data-class")): float(row.locator(".value").inner_text()) for row in rows.all()}


def asked(explorer: Explorer, model: int, picture: Image.Image, quarters: int) -> list[float]:
    """The probabilities without anything of the page: the centre, turned by quarters, into the model."""
    start = (SIDE - CROP) // 2
    pixels = np.rot90(np.asarray(picture)[start : start + CROP, start : start + CROP], quarters).copy()
    subject = explorer.networks[model].subject
    x = subject.normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    return subject.ask(x).softmax(1)[0].tolist()


def drag(page: Any, start: int, end: int, steps: int = 20) -> None:
    """On the dial, from one angle to another, along the circle; 0 is at the top and angles go counter-clockwise."""
    box = page.locator("#dial").bounding_box()
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    radius = 0.4 * min(box["width"], box["height"])

    def place(angle: float) -> tuple[float, float]:
        t = math.radians(angle)
        return centre[0] - radius * math.sin(t), centre[1] - radius * math.cos(t)

    page.mouse.move(*place(start))
    page.mouse.down()
    for i in range(1, steps + 1):
        page.mouse.move(*place(start + (end - start) * i / steps))
    page.mouse.up()


def test_dropping_and_turning_shows_what_the_library_says(visit: Any, explorer: Explorer, tmp_path: Path) -> None:
    page = visit.open()
    ready(page, 0)
    small = np.random.default_rng(7).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "dropped <img src=x>.png")
    page.set_input_files("#file", tmp_path / "dropped <img src=x>.png")
    sync_api.expect(page.locator("#image-name")).to_have_text("dropped <img src=x>.png")
    ready(page, 0)
    drag(page, 0, 90)
    assert page.locator("#degrees").input_value() == "90"
    ready(page, 90)
    keep(page, "dropped-90")
    for model in (0, 1):
        shown, expected = bars(page, model), asked(explorer, model, picture, 1)
        assert set(shown) == {0, 1, 2}
        assert [shown[k] for k in range(3)] == pytest.approx(expected, abs=6e-4)  # three decimals
    upright = [asked(explorer, model, picture, 0) for model in (0, 1)]
    assert [bars(page, 0)[k] for k in range(3)] == pytest.approx(upright[0], abs=6e-4)  # the equivariant one stays
    assert max(abs(bars(page, 1)[k] - upright[1][k]) for k in range(3)) > 0.01  # the plain one does not


def test_the_keyboard_turns_mirrors_and_the_link_restores_the_view(visit: Any, explorer: Explorer) -> None:
    page = visit.open("#image=1")
    ready(page, 0)
    page.locator("#dial").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    turned = int(page.locator("#degrees").input_value())
    assert turned in (3, 357)
    page.locator("#mirror").click()
    ready(page, turned)
    page.wait_for_url(re.compile(f"#.*angle={turned}.*mirror=1"))
    shown = bars(page, 1)
    answer = explorer.answer(1, "1", turned, True)
    assert [shown[k] for k in range(3)] == pytest.approx([answer.values[k] for k in range(3)], abs=6e-4)
    again = visit.open(page.url[page.url.index("#") :])
    ready(again, turned)
    assert again.locator("#mirror").get_attribute("aria-pressed") == "true"
    assert bars(again, 1) == shown


def test_two_browsers_do_not_mix_their_views(visit: Any) -> None:
    one, other = visit.open("#image=0&angle=30"), visit.open("#image=2&angle=200")
    ready(one, 30)
    ready(other, 200)
    one.locator("#degrees").fill("60")
    one.locator("#degrees").press("Enter")
    ready(one, 60)
    assert other.locator("#degrees").input_value() == "200"
    assert other.locator('[data-model="0"]').get_attribute("data-angle") == "200"
    assert bars(one, 1) != bars(other, 1)


def test_the_whole_circle_is_drawn_and_has_a_table_behind_it(visit: Any, explorer: Explorer) -> None:
    page = visit.open("#image=3")
    for model in (0, 1):
        page.wait_for_selector(f'[data-model="{model}"][data-ready="true"]')
        card = page.locator(f'[data-model="{model}"]')
        assert card.locator(".polar svg").count() >= 1
        answers = list(explorer.circle(model, "3"))
        flips, number = explorer.summary(model, answers)["exact_flips"]
        assert number == 3
        assert f"{flips} of 3" in card.locator(".flips").inner_text()
        assert len(card.locator("table tbody tr").all()) >= 72
    keep(page, "desktop")


def test_the_ring_turns_with_the_picture(visit: Any) -> None:
    page = visit.open("#image=0&angle=0")
    ready(page, 0)
    page.locator("#inside").scroll_into_view_if_needed()
    page.wait_for_selector('#ring-0[data-angle="0"]')
    page.locator("#degrees").fill("90")
    page.locator("#degrees").press("Enter")
    page.wait_for_selector('#ring-0[data-angle="90"]')
    page.wait_for_selector('#ring-1[data-angle="90"]')
    errors = [float(text.split()[0]) for text in page.locator("#inside .error-number").all_inner_texts()]
    assert len(errors) == 2
    assert errors[0] < 0.001 < 0.1 < errors[1]
    keep(page, "inside-90")


def test_the_gallery_opens_an_image(visit: Any) -> None:
    page = visit.open()
    page.wait_for_selector('#gallery [data-image="3"]')
    page.locator('#gallery [data-image="3"]').click()
    page.wait_for_url(re.compile("#.*image=3"))
    sync_api.expect(page.locator("#image-name")).to_have_text("3.png")
    keep(page, "gallery")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(visit: Any, theme: str) -> None:
    page = visit.open("#image=0", color_scheme=theme, has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 360, "height": 780})
    ready(page, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    keep(page, f"phone-{theme}")


BROKEN = {
    "notes.txt": (b"this is no picture", "text"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "SVG"),
    "cut.jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xdb\x00C\x00", "truncated"),
    "empty.png": (b"", "empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_refused_in_words_and_the_page_goes_on(visit: Any, tmp_path: Path, name: str) -> None:
    page = visit.open("#image=0")
    ready(page, 0)
    (tmp_path / name).write_bytes(BROKEN[name][0])
    page.set_input_files("#file", tmp_path / name)
    sync_api.expect(page.locator("#complaint")).to_contain_text(BROKEN[name][1])
    page.locator("#degrees").fill("15")
    page.locator("#degrees").press("Enter")
    ready(page, 15)


def test_every_degree_is_computed_in_advance(visit: Any, explorer: Explorer) -> None:
    page = visit.open("#image=2")
    ready(page, 0)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))

    def asks(angle: int) -> bool:
        before = len(requests)
        page.locator("#degrees").fill(str(angle))
        ready(page, angle)
        return any("/api/answer" in url for url in requests[before:])

    last = explorer.networks[1].angles(1)[:-30:-1]
    assert any(not asks(angle) or page.wait_for_timeout(1000) for angle in last)  # a question holds the rest up
    for angle in (8, 124, 302):
        assert not asks(angle)
        answer = explorer.answer(1, "2", angle)
        assert [bars(page, 1)[k] for k in range(3)] == pytest.approx([answer.values[k] for k in range(3)], abs=6e-4)
