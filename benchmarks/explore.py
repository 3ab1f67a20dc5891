"""How soon the page answers while the picture is turned: from the pointer's move to the bars of the same angle.

    python benchmarks/explore.py IMAGES MODEL...      for example  images/ timm:resnet18 runs/tissue/se2cnn-s0

Budget: 100 ms for models that infer under 50 ms. A real browser (Chromium, driven by playwright) drags the dial round
and round, some 30 moves a second. Two states: as soon as an image is opened, while its circle is still being computed,
and once every degree is known. What the browser measures is printed per model: median and 95th percentile; beside it
one forward pass alone, in this process and with as many threads.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from roteq.app.album import Album
from roteq.app.explorer import Explorer
from roteq.auditing.loading import load_subject

MOVES = 30  # a second


def alone(models: list[str], images: Path, trust: bool) -> list[float]:
    """Median ms of a forward pass of one picture."""
    explorer = Explorer([load_subject(model, trust=trust) for model in models], Album(images, most=4))
    found = []
    for i, network in enumerate(explorer.networks):
        explorer.answer(i, "0", 0)
        x = network.input(explorer.album, "0", 0)
        times = []
        for _ in range(30):
            begin = time.perf_counter()
            network.subject.ask(x)
            times.append(1000 * (time.perf_counter() - begin))
        found.append(statistics.median(times))
    return found


def drag(page: Any, seconds: float, degrees: float = 70.0) -> None:
    """Round and round, so many degrees a second."""
    box = page.locator("#dial").bounding_box()
    centre, radius = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), 0.4 * box["width"]

    def place(angle: float) -> tuple[float, float]:
        return centre[0] - radius * math.sin(math.radians(angle)), centre[1] - radius * math.cos(math.radians(angle))

    page.mouse.move(*place(0))
    page.mouse.down()
    begin = time.perf_counter()
    while (now := time.perf_counter() - begin) < seconds:
        page.mouse.move(*place(degrees * now))
        time.sleep(max(0.0, 1 / MOVES - (time.perf_counter() - begin - now)))
    page.mouse.up()


def measured(page: Any, models: int) -> list[list[float]]:
    """What the page noted since the last time: [{model, ms}]."""
    noted = page.evaluate("() => { const all = window.roteq.latencies; window.roteq.latencies = []; return all; }")
    return [[one["ms"] for one in noted if one["model"] == model] for model in range(models)]


def words(times: list[float]) -> str:
    if len(times) < 2:
        return "not enough answers"
    most = statistics.quantiles(times, n=20)[-1]
    return f"median {statistics.median(times):.0f} ms, 95 % below {most:.0f} ms (n = {len(times)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--patience", type=float, default=30, help="seconds for the degrees between")
    parser.add_argument("--trust", action="store_true", help="of roteq explore: models in FILE.py:FUNCTION")
    parser.add_argument("--port", type=int, default=8479)
    options = parser.parse_args()
    forward = alone(options.models, options.images, options.trust)
    command = [sys.executable, "-m", "roteq.cli", "explore", *options.models, "--images", str(options.images)]
    command += ["--port", str(options.port), *(["--trust"] if options.trust else [])]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = next(line for line in server.stdout if "http" in line)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(next(word for word in line.split() if word.startswith("http")) + "#image=0")
            page.wait_for_selector('[data-model="0"][data-angle="0"]')
            drag(page, options.seconds)
            states = {"while the circle is computed": measured(page, len(forward))}
            for i in range(len(forward)):
                page.wait_for_selector(f'[data-model="{i}"][data-ready="true"]', timeout=120_000)
            page.wait_for_timeout(1000 * options.patience)
            drag(page, options.seconds)
            states["once every degree is known"] = measured(page, len(forward))
            browser.close()
    finally:
        server.terminate()
        server.wait(10)
    for i, model in enumerate(options.models):
        print(f"{model}: one forward pass {forward[i]:.1f} ms")
        for state, found in states.items():
            print(f"  {state}: {words(found[i])}")
    print(json.dumps({"forward": forward, "latencies": states}), file=sys.stderr)


if __name__ == "__main__":
    main()
