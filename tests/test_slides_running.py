"""Maps of slides: a cell is the network's own answer, whatever the tiles, the level and the end of the process."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from slides import FakeSlide, network, put, tissue
from torch import Tensor
from torch.nn import functional as F

from roteq.errors import RoteqError, UsageError
from roteq.results import SlideResult
from roteq.slides import SlideConfig, map_slide, reading, write_slide
from roteq.slides import journal as journals
from roteq.slides.asking import Asker
from roteq.slides.heatmap import probability
from roteq.slides.reading import Scale, Source, read_region
from roteq.training import Classifier, Segmenter

QUANTUM = 0.5 / 254 + 1e-5  # a map is precise to half a step of a byte
SMALL = {"name": "p4m_densenet", "group": "p4", "growth": 2, "depth": 3}  # window 24, stride 4
CONFIG = SlideConfig(workers=0, tile=96)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def densenet() -> Classifier:
    return network(**SMALL)


def read_map(result: SlideResult, out: Path) -> np.ndarray:
    """uint8 (C, h, w)."""
    values = tifffile.imread(out / result.files["heat map"])
    return values.reshape(-1, *result.map_size)


def framed(pixels: np.ndarray, top: int, left: int, height: int, width: int) -> Tensor:
    """A slide within white, as a batch."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return torch.from_numpy(image).movedim(2, 0)[None]


def one_pass(model: Classifier, pixels: np.ndarray, pool: int) -> np.ndarray:
    """float32 (h, w): the positive class from one pass of the dense network over the whole slide in white."""
    geometry = model.network.geometry
    stride = geometry.stride * pool
    height, width = (-(-side // stride) * pool for side in pixels.shape[:2])  # answers
    if geometry.padding:
        around = 64  # more than the network sees, a multiple of its grid
        image = framed(pixels, around, around, height + 2 * around, width + 2 * around)
        answers = model.answer(image.float())[:, :, around:-around, around:-around]
    else:
        sides = (geometry.window + (n - 1) * geometry.stride for n in (height + pool, width + pool))
        model.network.dense = True
        answers = model.answer(framed(pixels, geometry.begin, geometry.begin, *sides).float())[:, :, :height, :width]
        model.network.dense = False
    return F.avg_pool2d(answers.softmax(1)[:, -1:], pool)[0, 0].detach().numpy()


@pytest.mark.parametrize("tile", [96, 200])
@pytest.mark.parametrize(
    ("make", "stride", "pool"),
    [
        (lambda: network(**SMALL), None, 1),
        (lambda: network(**SMALL), 12, 3),
        (lambda: network("se2cnn", group="C4", width=2), None, 1),
        (lambda: network("g_unet", group="p4", width=2, levels=3, kind=Segmenter), None, 4),
    ],
    ids=["densenet", "densenet, larger cells", "se2cnn", "g_unet"],
)
def test_the_tiles_join_to_one_pass(make, stride, pool, tile, tmp_path, monkeypatch) -> None:
    pixels, model = tissue(170, 215), make()
    path = put(FakeSlide(pixels), monkeypatch, tmp_path)
    result = map_slide(model, path, tmp_path / "out", CONFIG.model_copy(update={"tile": tile, "stride": stride}))
    values = read_map(result, tmp_path / "out")[0]
    with torch.inference_mode():
        expected = one_pass(model, pixels, pool)
    known = values > 0
    assert result.tiles > 1 or tile == 200
    assert 0.4 < known.mean() < 0.6  # the disc is half of the slide
    assert expected[known].std() > 5 * QUANTUM
    np.testing.assert_allclose(probability(values)[known], expected[known], atol=QUANTUM)


def test_a_classifier_without_a_dense_form_answers_windows(tmp_path, monkeypatch) -> None:
    pixels, model = tissue(90, 120), network("z2cnn", crop=28, side=28)
    path = put(FakeSlide(pixels), monkeypatch, tmp_path)
    result = map_slide(model, path, tmp_path / "out", CONFIG)
    assert (result.stride, result.map_size) == (7, (13, 18))
    values = read_map(result, tmp_path / "out")[0]
    image = framed(pixels, 28, 28, 200, 200)
    for row, column in ((6, 9), (4, 4), (9, 12)):  # cell (r, c) is the middle 7 x 7 pixels of its window, nearly
        top, left = 28 + 7 * row - 10, 28 + 7 * column - 10
        expected = model(image[:, :, top : top + 28, left : left + 28]).softmax(1)[0, 1].item()
        assert probability(values[row : row + 1, column])[0] == pytest.approx(expected, abs=QUANTUM)


def test_several_classes_have_a_channel_each(tmp_path, monkeypatch) -> None:
    model = network(**SMALL, classes=("fat", "gland", "stroma"))
    result = map_slide(model, put(FakeSlide(tissue(100, 100)), monkeypatch, tmp_path), tmp_path / "out", CONFIG)
    values = read_map(result, tmp_path / "out")
    assert [found.name for found in result.areas] == ["fat", "gland", "stroma"]
    np.testing.assert_allclose(probability(values).sum(0)[values[0] > 0], 1, atol=3 * QUANTUM)


@pytest.mark.parametrize("factor", [0.7, 1.3, 2.0, 3.7])
def test_a_pixel_does_not_depend_on_the_region_it_is_read_in(factor) -> None:
    slide = FakeSlide(tissue(300, 300))
    scale = Scale(0, factor, 0.5 * factor, factor)
    y, x = (round(at / factor) for at in (150, 110))
    whole = read_region(slide, scale, y - 19, x - 13, 64)  # type: ignore[arg-type]
    part = read_region(slide, scale, y, x, 20)  # type: ignore[arg-type]
    assert part.std() > 10
    difference = np.abs(whole[19:39, 13:33].astype(int) - part)
    assert difference.max() <= 1  # a byte is rounded either way


def test_a_coarser_network_reads_a_coarser_level_and_resizes(densenet, tmp_path, monkeypatch) -> None:
    slide = FakeSlide(tissue(800, 800), mpp=0.1, levels=2)  # levels of 0.1 and 0.4
    result = map_slide(densenet, put(slide, monkeypatch, tmp_path), tmp_path / "out", CONFIG)
    assert (result.level, result.mpp, result.downsample) == (1, 0.5, 20)
    assert result.map_size == (40, 40)
    assert result.tissue_area == pytest.approx(0.5 * 0.08**2, rel=0.1)


def test_another_level_than_that_of_the_training_is_told(densenet, tmp_path, monkeypatch) -> None:
    slide = FakeSlide(tissue(400, 400), mpp=0.25, levels=2)
    path = put(slide, monkeypatch, tmp_path)
    there = CONFIG.model_copy(update={"level": 0, "mpp": 0.25})
    result = map_slide(densenet, path, tmp_path / "out", there)
    assert (result.level, result.mpp, result.downsample) == (0, 0.25, 4)
    assert "sees 0.25 microns per pixel and was trained on 0.5" in result.findings[0].message
    coarse = map_slide(densenet, path, tmp_path / "coarse", CONFIG.model_copy(update={"level": 1}))
    assert (coarse.level, coarse.mpp) == (1, 0.5)
    assert "enlarged 2 times" in coarse.findings[0].message


def test_unfamiliar_colours_are_told(densenet, tmp_path, monkeypatch) -> None:
    dark = (tissue(100, 100) * 0.3).astype(np.uint8)
    path = put(FakeSlide(dark), monkeypatch, tmp_path)
    result = map_slide(densenet, path, tmp_path / "out", CONFIG)
    assert ["darker than those of the training" in found.message for found in result.findings] == [True]


def test_a_slide_without_tissue_is_unknown_everywhere(densenet, tmp_path, monkeypatch) -> None:
    path = put(FakeSlide(np.full((200, 200, 3), 250, np.uint8)), monkeypatch, tmp_path)
    result = map_slide(densenet, path, tmp_path / "out", CONFIG)
    assert [found.guard for found in result.findings] == ["empty slide"]
    assert (result.tiles, result.tiles_per_second, result.areas[0].share) == (0, None, None)
    assert not read_map(result, tmp_path / "out").any()
    assert all((tmp_path / "out" / name).is_file() for name in result.files.values())


def test_a_slide_smaller_than_a_tile(densenet, tmp_path, monkeypatch) -> None:
    pixels = np.full((10, 7, 3), 245, np.uint8)
    pixels[:, :4] = (180, 90, 160)
    result = map_slide(densenet, put(FakeSlide(pixels), monkeypatch, tmp_path), tmp_path / "out", CONFIG)
    assert (result.map_size, result.tiles) == ((3, 2), 1)
    assert (read_map(result, tmp_path / "out")[0] > 0).tolist() == [[True, False]] * 3


def test_a_tile_that_does_not_decode_is_unknown_and_told(densenet, tmp_path, monkeypatch) -> None:
    slide = FakeSlide(tissue(300, 300), broken=((110, 190),))
    config = CONFIG.model_copy(update={"batch_size": 3})
    result = map_slide(densenet, put(slide, monkeypatch, tmp_path), tmp_path / "out", config)
    (place,) = result.failed
    assert place.y <= 110 < place.y + place.height
    assert place.x <= 190 < place.x + place.width
    assert "does not decode" in place.reason
    values = read_map(result, tmp_path / "out")[0]
    there = slice(place.y // 4, (place.y + place.height) // 4), slice(place.x // 4, (place.x + place.width) // 4)
    assert not values[there].any()
    assert result.unknown_area == pytest.approx(place.height * place.width * 0.25e-6)
    assert (values > 0).sum() * 4e-6 == pytest.approx(result.tissue_area - result.unknown_area)
    assert [found.level for found in result.findings] == ["warn"]
    assert place.reason in (tmp_path / "out" / result.files["page"]).read_text(encoding="utf-8")


def test_a_slide_of_which_nothing_decodes_is_no_result(densenet, tmp_path, monkeypatch) -> None:
    slide = FakeSlide(tissue(100, 100), broken=tuple((y, x) for y in range(0, 100, 9) for x in range(0, 100, 9)))
    result = map_slide(densenet, put(slide, monkeypatch, tmp_path), tmp_path / "out", CONFIG)
    assert [(found.guard, found.level) for found in result.findings] == [("unread tiles", "stop")]


# Stopped and continued


class Stopped(Exception):
    pass


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, asked = Asker.__call__, iter(range(batches))

    def asking(self: Asker, tiles: Tensor, wanted: Tensor) -> Tensor:
        if next(asked, None) is None:
            raise Stopped
        return ask(self, tiles, wanted)

    monkeypatch.setattr(Asker, "__call__", asking)


@pytest.mark.parametrize("lost", [1, 9], ids=["the end of a line", "a part of a line"])
def test_a_stopped_map_continues_and_ends_the_same(lost, densenet, tmp_path, monkeypatch) -> None:
    path = put(FakeSlide(tissue(300, 300), broken=((60, 150),)), monkeypatch, tmp_path)
    undisturbed = map_slide(densenet, path, tmp_path / "a", CONFIG)
    for batches in (4, 5):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            stop_after(batches, patch)
            map_slide(densenet, path, tmp_path / "b", CONFIG)
    journal = tmp_path / "b" / "case.work" / "journal.jsonl"
    noted = journal.read_text(encoding="utf-8")
    assert len(noted.splitlines()) == 3  # whose it is, and two runs
    journal.write_text(noted[:-lost], encoding="utf-8")  # never written
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(4, patch)
        map_slide(densenet, path, tmp_path / "b", CONFIG)
    with monkeypatch.context() as patch:
        stop_after(undisturbed.tiles - 6, patch)  # the last answer of a run that fails is not written
        continued = map_slide(densenet, path, tmp_path / "b", CONFIG)
    np.testing.assert_array_equal(read_map(continued, tmp_path / "b"), read_map(undisturbed, tmp_path / "a"))
    assert continued.failed == undisturbed.failed
    assert continued.areas == undisturbed.areas
    assert not (tmp_path / "b" / "case.work").exists()


def slowly(model: Classifier, path: Path, out: Path) -> None:
    ask = Asker.__call__

    def asking(self: Asker, tiles: Tensor, wanted: Tensor) -> Tensor:
        time.sleep(0.05)
        return ask(self, tiles, wanted)

    Asker.__call__ = asking  # type: ignore[method-assign]
    journals.COMMIT = 0
    map_slide(model, path, out, CONFIG, progress=False)


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_killed_process_lets_go_and_the_next_ends_the_same(densenet, tmp_path, monkeypatch) -> None:
    path = put(FakeSlide(tissue(300, 300)), monkeypatch, tmp_path)
    undisturbed = map_slide(densenet, path, tmp_path / "a", CONFIG)
    journal = tmp_path / "b" / "case.work" / "journal.jsonl"
    process = multiprocessing.get_context("fork").Process(target=slowly, args=(densenet, path, tmp_path / "b"))
    process.start()
    end = time.monotonic() + 20
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 2) and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another process is working on this slide"):
        map_slide(densenet, path, tmp_path / "b", CONFIG)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert 3 <= journal.read_bytes().count(b"\n") < undisturbed.tiles
    continued = map_slide(densenet, path, tmp_path / "b", CONFIG)
    np.testing.assert_array_equal(read_map(continued, tmp_path / "b"), read_map(undisturbed, tmp_path / "a"))


def test_a_finished_map_is_only_read(densenet, tmp_path, monkeypatch) -> None:
    slide = FakeSlide(tissue(100, 100))
    path = put(slide, monkeypatch, tmp_path)
    first = map_slide(densenet, path, tmp_path / "out", CONFIG)
    slide.reads.clear()
    assert map_slide(densenet, path, tmp_path / "out", CONFIG.model_copy(update={"workers": 2})) == first
    assert slide.reads == []


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_another_map_is_refused(finished, densenet, tmp_path, monkeypatch) -> None:
    path = put(FakeSlide(tissue(150, 150)), monkeypatch, tmp_path)
    with monkeypatch.context() as patch:
        if not finished:
            stop_after(2, patch)
        try:
            map_slide(densenet, path, tmp_path / "out", CONFIG)
        except Stopped:
            assert not finished
    with pytest.raises(UsageError, match=r"made with another threshold \(0\.5, now 0\.7\); choose another folder"):
        map_slide(densenet, path, tmp_path / "out", CONFIG.model_copy(update={"threshold": 0.7}))
    with pytest.raises(UsageError, match="made with another model"):
        map_slide(network(**SMALL | {"growth": 3}), path, tmp_path / "out", CONFIG)
    path.write_bytes(b"longer")
    with pytest.raises(UsageError, match="made with another slide"):
        map_slide(densenet, path, tmp_path / "out", CONFIG)


# What cannot be done is said before anything is done


@pytest.mark.parametrize(
    ("of_model", "of_slide", "config", "message"),
    [
        ({"mpp": None}, {}, {}, r"mpp: the checkpoint does not say .* such as --mpp 0\.5, or --level 0"),
        ({}, {"mpp": None}, {}, "give --slide-mpp"),
        ({"mpp": None}, {"mpp": None}, {"level": 0}, "give --slide-mpp"),
        ({}, {}, {"level": 3}, "no level 3"),
        ({"channels": 1}, {}, {}, "3 channels of a slide, got one for 1"),
        ({}, {}, {"stride": 7}, "answers every 4 pixels; expected a multiple of that, got 7; nearest: 8"),
        ({"name": "z2cnn", "side": 28}, {}, {}, "window: the checkpoint of z2cnn does not say"),
        ({"name": "z2cnn", "side": 28, "crop": 28}, {}, {"window": 32}, "trained on 28 pixels, got 32"),
    ],
)
def test_what_does_not_fit_is_refused(of_model, of_slide, config, message, tmp_path, monkeypatch) -> None:
    path = put(FakeSlide(tissue(50, 50), **of_slide), monkeypatch, tmp_path)
    model = network(**({} if "name" in of_model else SMALL) | of_model)
    with pytest.raises(UsageError, match=message):
        map_slide(model, path, tmp_path / "out", CONFIG.model_copy(update=config))
    assert not list(tmp_path.glob("out/*.json"))


def test_a_level_is_taken_as_it_is_where_the_network_says_nothing(tmp_path, monkeypatch) -> None:
    path = put(FakeSlide(tissue(200, 200), mpp=0.3, levels=2), monkeypatch, tmp_path)
    result = map_slide(network(**SMALL, mpp=None), path, tmp_path / "out", CONFIG.model_copy(update={"level": 1}))
    assert (result.level, result.mpp, result.downsample) == (1, pytest.approx(1.2), 16)


def test_the_processes_that_read_need_no_torch() -> None:
    code = "import sys, roteq.slides.reading; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_readers_do_not_run_the_script_again_that_calls(tmp_path) -> None:
    write_slide(tmp_path / "a.tif", (300, 300), mpp=0.5)
    script = f"""
from pathlib import Path
from roteq.slides.reading import Scale, Source, stream
print("once")
source = Source(Path({str(tmp_path / "a.tif")!r}), None, Scale(0, 1.0, 0.5, 1.0), 64)
found = list(stream(source, [[(0, 0)], [(100, 100), (10, 10)]], 2))
print([batch.pixels.shape for batch in found], __spec__, __file__[-5:])
"""
    (tmp_path / "my.py").write_text(script, encoding="utf-8")
    ran = subprocess.run([sys.executable, tmp_path / "my.py"], capture_output=True, text=True, check=True)
    assert ran.stdout == "once\n[(1, 64, 64, 3), (2, 64, 64, 3)] None my.py\n"


def test_a_reading_process_that_dies_is_said(tmp_path, monkeypatch) -> None:
    write_slide(tmp_path / "a.tif", (300, 300), mpp=0.5)
    source = Source(tmp_path / "a.tif", None, Scale(0, 1.0, 0.5, 1.0), 64)
    (tmp_path / "dying.py").write_text("import os\ndef die(*_): os._exit(1)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reading, "read_batch", importlib.import_module("dying").die)
    with pytest.raises(RoteqError, match="a reading process died; out of memory"):
        list(reading.stream(source, [[(0, 0)]], 1))


def test_what_is_no_checkpoint_and_what_is_no_slide(densenet, tmp_path) -> None:
    (tmp_path / "a.svs").write_bytes(b"not a slide")
    with pytest.raises(RoteqError, match="not a checkpoint"):
        map_slide(tmp_path / "a.svs", tmp_path / "a.svs", tmp_path / "out", CONFIG)
    with pytest.raises(RoteqError, match=r"a\.svs"):
        map_slide(densenet, tmp_path / "a.svs", tmp_path / "out", CONFIG)
    assert not (tmp_path / "out" / "a.json").exists()
