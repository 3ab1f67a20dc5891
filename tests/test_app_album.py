import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import folders, picture, write_rows
from PIL import Image

from roteq.app import album as album_module
from roteq.app.album import MAX_BYTES, UPLOADS, Album, Entry
from roteq.data.images import BadImage
from roteq.errors import RoteqError, UsageError


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_folders_of_classes_label_their_images(tmp_path: Path) -> None:
    album = Album(folders(tmp_path / "cells", 3))
    assert (album.source, album.split, album.classes) == ("cells", None, ("a", "b"))
    assert album.entries[4] == Entry("4", "b1.png", "b")
    assert album.picture("4").tobytes() == Image.open(tmp_path / "cells/b/b1.png").tobytes()


def test_a_large_set_is_thinned_out_evenly_and_nothing_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders(tmp_path / "cells", 30)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(album_module, "header_of", counted := Counted(album_module.header_of))
    album = Album(folder, most=7)
    paths = sorted(path.name for path in folder.rglob("*.png"))
    assert [entry.name for entry in album.entries] == [paths[i] for i in (0, 9, 19, 29, 39, 49, 59)]
    assert [entry.id for entry in album.entries] == list("0123456") and counted.times == 1


class Counted:
    def __init__(self, function: object) -> None:
        self.function, self.times = function, 0

    def __call__(self, *arguments: object) -> object:
        self.times += 1
        return self.function(*arguments)


def test_the_labels_of_a_table_and_several_labels_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for i in range(3):
        picture(i).save(folder / f"{i}.png")
    one = write_rows(tmp_path / "one.csv", ("path", "label"), *((f"{i}.png", "dog" if i else "cat") for i in range(3)))
    assert [entry.truth for entry in Album(folder, labels=one).entries] == ["cat", "dog", "dog"]
    many = write_rows(tmp_path / "many.csv", ("path", "cat", "dog"), ("0.png", 1, 1), ("1.png", 0, 1), ("2.png", 0, 0))
    assert [entry.truth for entry in Album(folder, labels=many).entries] == ["cat, dog", "dog", "none"]
    assert [entry.truth for entry in Album(folder, labels="none").entries] == [None] * 3
    with pytest.raises(UsageError, match="no row for 1 of 3 images, the first 2"):
        Album(folder, labels=write_rows(tmp_path / "few.csv", ("path", "label"), ("0.png", "a"), ("1.png", "b")))


def test_splits_are_chosen_as_in_an_audit(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folders(tmp_path / "set" / split, 2)
    assert Album(tmp_path / "set").split == "test"
    train = Album(tmp_path / "set", split="train")
    assert (train.split, train.source, len(train.entries)) == ("train", "set, train", 4)


class Pairs:
    """As a torch Dataset: (image, label)."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 2:
            raise OSError("this one is lost")
        return picture(index), index % 2


def test_labels_that_come_with_the_images() -> None:
    album = Album(Pairs())
    assert [entry.truth for entry in album.entries] == ["a", "b", None, "b"]
    assert album.entries[1].name == "image 1" and album.picture("1").tobytes() == picture(1).tobytes()
    with pytest.raises(BadImage, match="unreadable: image 2: OSError: this one is lost"):
        album.picture("2")


def test_arrays_of_pixels_are_pictures_and_others_are_refused() -> None:
    pixels = torch.randint(0, 256, (3, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(np.asarray(Album(pixels).picture("1")), pixels[1].permute(1, 2, 0))
    assert Album(pixels[:, :1]).picture("2").mode == "L"
    with pytest.raises(UsageError, match=r"expected pictures, .* got arrays of 3 channels in float"):
        Album(pixels.float())
    with pytest.raises(UsageError, match=r"got arrays of 2 channels; explore shows pictures only"):
        Album(pixels[:, :2])


@pytest.mark.parametrize("source", ["nowhere", {"a": 1}, np.zeros((8, 8), np.uint8)], ids=["path", "dict", "array"])
def test_what_is_no_source_of_images(source: object) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder|images: expected"):
        Album(source)


def test_an_unreadable_image_says_so_without_its_path_and_the_others_stay(tmp_path: Path) -> None:
    folder = folders(tmp_path / "cells", 2)
    whole = (folder / "a/a1.png").read_bytes()
    (folder / "a/a1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b/b0.png").write_text("no picture")
    (folder / "b/b1.png").unlink()
    (folder / "b/b1.png").symlink_to(folder / "gone.png")
    (folder / "b/b2.png").symlink_to(folder / "b/b2.png")
    album = Album(folder)
    assert album.picture("0").size == (12, 12)
    for id, words in (
        ("1", "truncated: a1.png: "),
        ("2", "unreadable: b0.png: not an image"),
        ("3", "missing: b1.png: "),
        ("4", "unreadable: b2.png: .*b2.png"),
    ):
        with pytest.raises(BadImage, match=words) as caught:
            album.picture(id)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("id", ["2", "-1", "u0", "../../etc/passwd", "0x0", "1" * 500, "²"])
def test_an_unknown_image_is_named(tmp_path: Path, id: str) -> None:
    album = Album(folders(tmp_path / "cells", 1))
    again = "; the oldest dropped images are forgotten, drop it again" if id[0] == "u" else ""
    with pytest.raises(RoteqError, match="image: no image") as caught:
        album.picture(id)
    assert str(caught.value).endswith(again) and len(str(caught.value)) < 150


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM"])
def test_a_dropped_image_is_told_by_its_content(format: str) -> None:
    album = Album()
    entry = album.add(encoded(picture(0), format), "C:\\photos\\..\\my\ncell.txt")
    assert entry == Entry(entry.id, "mycell.txt") and entry.id[0] == "u"
    assert album.entry(entry.id) is entry and album.entries == ()
    once = album.picture(entry.id)
    album._decoded.put("another", picture(1))
    album._decoded.most = 1
    album._decoded.put("another", picture(1))
    assert album.picture(entry.id) is not once and album.picture(entry.id).tobytes() == once.tobytes()
    assert once.size == (12, 12) and once.mode == "RGB"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/etc/passwd", "passwd"),
        ("", "image"),
        ("..", ".."),
        ("a" * 200, "a" * 80),
        ("x\x00\u202ey.png", "xy.png"),
        ("c/", "c"),
    ],
)
def test_a_name_is_a_label_only(name: str, shown: str) -> None:
    assert Album().add(encoded(picture(0)), name).name == shown


def many_pixels() -> bytes:
    """A header of 9,000 x 9,000 pixels in a file of a few bytes."""
    return encoded(Image.new("1", (9_000, 9_000)), "PNG")


PAGES = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
BAD = {
    "empty": (b"", "empty: the file holds nothing"),
    "text": ("Größe,label\n1,2\n".encode() * 200, "text: a text file, not an image"),
    "html": (b"<!doctype html><img src=x>", "text: a text file"),
    "svg": (
        b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "SVG: a drawing, not pixels; export it as PNG",
    ),
    "plain svg": (b"\xef\xbb\xbf  <SVG/>", "SVG: a drawing"),
    "pdf": (b"%PDF-1.7\n\xff", "PDF: a document"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\x01\x00", "unreadable: not an image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "unreadable: a HEIC or AVIF picture, or a video"),
    "noise": (bytes(range(256)) * 4, "unreadable: not an image"),
    "16-bit": (encoded(Image.fromarray(np.zeros((4, 4), np.uint16))), "16-bit: 16 bits a sample"),
    "truncated": (
        encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))[:900],
        "truncated",
    ),
    "header only": (encoded(picture(0))[:40], "truncated|unreadable"),
    "many pixels": (many_pixels(), "too many pixels: 9000 x 9000, more than the limit of 64,000,000"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_in_one_sentence(name: str) -> None:
    album, (data, words) = Album(), BAD[name]
    with pytest.raises(BadImage, match=words) as caught:
        album.add(data, "x.png")
    assert "\n" not in str(caught.value) and not album._uploads


def test_only_decoders_of_pixels_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    whole = Image.open

    def noting(file: object, mode: str = "r", formats: tuple[str, ...] | None = None) -> Image.Image:
        tried.append(formats)
        return whole(file, mode, formats)

    monkeypatch.setattr(Image, "open", noting)
    Album().add(encoded(picture(0)), "x.png")
    assert len(tried) == 2 and set(tried) == {album_module.FORMATS} and not {"EPS", "PSD"} & set(album_module.FORMATS)


def test_too_large_a_file_is_refused() -> None:
    with pytest.raises(BadImage, match="too large: 32 MiB, more than the limit of 32 MiB"):
        Album().add(bytes(MAX_BYTES + 1), "x.png")


def test_the_pixels_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = many_pixels()
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="too many pixels"):
        Album().add(data, "bomb.png")


def test_what_is_done_to_an_image_is_said() -> None:
    album = Album()
    animated = album.add(encoded(PAGES[0], "GIF", save_all=True, append_images=PAGES[1:]), "a.gif")
    assert animated.note == "the first of several frames or pages"
    assert album.picture(animated.id).getpixel((0, 0)) == (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = album.add(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "a.jpg")
    assert album.picture(turned.id).size == (8, 4) and "asks to be turned (EXIF), which is not done" in str(turned.note)
    clear = album.add(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), "a.png")
    assert clear.note == "transparent pixels lie over white" and album.picture(clear.id).getpixel((0, 0)) == (255,) * 3


def test_the_oldest_dropped_images_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    album = Album()
    ids = [album.add(encoded(picture(i)), f"{i}.png").id for i in range(UPLOADS + 2)]
    assert len(set(ids)) == UPLOADS + 2 and len(album._uploads) == UPLOADS
    with pytest.raises(RoteqError, match="forgotten, drop it again"):
        album.picture(ids[1])
    assert album.picture(ids[2]).size == (12, 12)
    monkeypatch.setattr(album_module, "KEPT_BYTES", 1200)
    album.add(encoded(picture(0)), "last.png")
    assert len(album._uploads) == 2  # of some 500 bytes


def test_decoded_pictures_are_few_and_bounded_by_their_pixels(tmp_path: Path) -> None:
    album = Album(folders(tmp_path / "cells", 10))
    for i in range(20):
        album.picture(str(i))
    assert len(album._decoded) == 8
    album._decoded.weight = 300  # two pictures of 144
    album.picture("0")
    assert len(album._decoded) == 2 and "0" in album._decoded


def test_pictures_are_dropped_and_read_from_several_threads(tmp_path: Path) -> None:
    album, failed = Album(folders(tmp_path / "cells", 10)), []
    data = [encoded(picture(i)) for i in range(4)]

    def use(seed: int) -> None:
        try:
            for i in range(20):
                entry = album.add(data[(i + seed) % 4], "x.png")
                assert album.picture(entry.id).size == album.picture(str(i)).size
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
