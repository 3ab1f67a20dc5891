import threading
from typing import Any

import numpy as np
import pytest
import torch
from auditing import smooth_images
from PIL import Image
from torch import nn

from roteq.app.album import Album
from roteq.app.explorer import Explorer
from roteq.app.survey import Survey
from roteq.auditing.loading import as_subject
from roteq.errors import UsageError

PIXELS = smooth_images(6, 1, 24, seed=3)
LEVELS = (20, 220, 90, 140, 180, 60)  # a grey value for each image
FLAT = np.stack([np.full((1, 24, 24), level, np.uint8) for level in LEVELS])


def brightness(x: torch.Tensor) -> torch.Tensor:
    """Bright or not; the surer, the farther from the middle."""
    z = (x.mean((1, 2, 3)) - 127) / 40
    return torch.stack([-z, z], 1)


def west(x: torch.Tensor) -> torch.Tensor:
    side = x.shape[-1] // 2
    z = (x[..., :side].mean((1, 2, 3)) - x[..., side:].mean((1, 2, 3))) / 10
    return torch.stack([-z, z], 1)


def survey(models: dict[str, Any], pixels: np.ndarray = PIXELS, **options: Any) -> Survey:
    about = {"normalize": "raw", "size": 16, "resize": 0, "classes": ("no", "yes")}
    about |= {key: options.pop(key) for key in ("kind", "classes", "size") if key in options}
    subjects = [as_subject(model, name=name, **about) for name, model in models.items()]
    return Survey(Explorer(subjects, Album(pixels, **options)))


def judged(found: Survey) -> Survey:
    for _ in found.work():
        pass
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [item["id"] for item in found["items"]]


def test_a_row_holds_what_the_circle_of_the_page_says() -> None:
    found = judged(survey({"west": west, "bright": brightness}))
    explorer = found.explorer
    item = found.rows()["items"][2]
    assert (item["id"], item["name"], item["truth"]) == ("2", "image 2", None)
    for model in range(2):
        answers = list(explorer.circle(model, "2", step=15))
        assert len(answers) == 24
        row, upright = item["models"][model], answers[0]
        assert {key: row[key] for key in ("exact_flips", "interpolated_flips")} == explorer.summary(model, answers)
        assert row["decision"] == ("no", "yes")[upright.decision]
        assert row["confidence"] == upright.values[upright.decision]
        assert (row["wrong"], row["changed"], row["error"]) == (None, None, None)
    assert item["models"][0]["interpolated_flips"] == [10, 20] and item["models"][1]["interpolated_flips"] == [0, 20]


def test_work_is_done_in_single_looks_and_goes_on_where_it_was() -> None:
    asked = []

    def ask(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return west(x)

    found = survey({"west": ask, "bright": brightness})
    work = found.work()
    next(work)
    first = len(asked)  # the first question, and the first look
    for _ in range(10):
        before = len(asked)
        next(work)
        assert len(asked) <= before + 1
    assert found.done() == 0 and found.rows()["items"][0]["models"] == [None, None]
    work.close()
    before = len(asked)
    list(found.work())
    assert len(asked) == first + 6 * 24 - 1 and before < len(asked)  # no look twice
    assert found.done() == found.total == 6 and found.rows()["judged"] == 6
    assert list(found.work()) == []


def test_images_are_sorted_and_what_is_not_judged_comes_last() -> None:
    found = survey({"bright": brightness}, FLAT, labels=["no", "yes", "yes", "yes", "no", "no"])
    work = found.work()
    while found.done() < 5:
        next(work)
    assert ids(found.rows("confidence")) == list("324105")
    assert ids(found.rows("confidence", order="descending")) == list("014235")
    assert ids(found.rows("mistakes")) == list("420135")
    assert ids(found.rows("name")) == list("012345") and ids(found.rows("name", order="descending")) == list("543210")
    assert [item["models"][0]["wrong"] for item in found.rows()["items"][:5]] == [False, False, True, False, True]
    part = found.rows("confidence", offset=2, limit=2)
    assert ids(part) == ["4", "1"] and (part["total"], part["judged"]) == (6, 5)
    assert ids(found.rows(offset=99)) == ids(found.rows(limit=0)) == ids(found.rows(limit=-1)) == []


def test_the_most_turned_come_first_for_the_model_that_is_asked_for() -> None:
    def up_when_bright(x: torch.Tensor) -> torch.Tensor:
        return west(x) * (x.mean((1, 2, 3)) > 127).float()[:, None]

    found = judged(survey({"some": up_when_bright, "none": lambda x: brightness(x * 0)}))
    rows = [item["models"][0] for item in found.rows("flips")["items"]]
    flips = [(row["exact_flips"][0], row["interpolated_flips"][0]) for row in rows]
    assert flips == sorted(flips, reverse=True) and flips[0] > (0, 0) == flips[-1]
    assert ids(found.rows("flips", model=1)) == list("012345")  # as they were


def test_names_are_sorted_as_people_count() -> None:
    pixels = np.zeros((12, 1, 24, 24), np.uint8)
    rows = survey({"bright": brightness}, pixels).rows("name")["items"]
    assert [item["name"] for item in rows][1:3] == ["image 1", "image 2"]


def test_a_map_has_shares_and_an_embedding_similarities() -> None:
    dense = judged(survey({"dense": lambda x: x - 127}))
    row = dense.rows("flips")["items"][0]["models"][0]
    assert (row["decision"], row["exact_flips"], row["exact_changed"]) == (None, None, 0.0)
    assert row["changed"] == row["interpolated_changed"] > 0
    changed = [item["models"][0]["changed"] for item in dense.rows("flips")["items"]]
    assert changed == sorted(changed, reverse=True)
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    row = judged(survey({"net": net}, kind="embedding")).rows("flips")["items"][0]["models"][0]
    assert (row["decision"], row["changed"], row["exact_flips"]) == (None, None, None)
    assert 0 < row["interpolated_similarity"] < 1


def test_labels_are_named() -> None:
    found = judged(survey({"labels": lambda x: brightness(x)}, FLAT, kind="labels", labels="none"))
    rows = [item["models"][0] for item in found.rows()["items"]]
    assert [row["decision"] for row in rows[:3]] == ["no", "yes", "no"]
    never = judged(survey({"labels": lambda x: brightness(x) * 0 - 1}, FLAT, kind="labels", labels="none"))
    assert {item["models"][0]["decision"] for item in never.rows()["items"]} == {"none"}


def test_an_oblong_input_is_judged_by_its_half_turn() -> None:
    found = judged(survey({"west": west}, size=(16, 8)))
    assert found.rows()["items"][0]["models"][0]["exact_flips"] == [1, 1]


class Some:
    """The second picture is lost, the third is too small."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Image.Image:
        if index == 1:
            raise OSError("lost")
        side = 10 if index == 2 else 24
        return Image.fromarray(PIXELS[index, 0, :side, :side])


def test_what_fails_is_said_in_its_row_and_the_others_are_judged() -> None:
    found = judged(survey({"west": west}, Some()))
    rows = [item["models"][0] for item in found.rows()["items"]]
    assert rows[1]["error"] == "unreadable: image 1: OSError: lost" and rows[1]["exact_flips"] is None
    assert "10x10 as stored, smaller than the model's input 16x16" in rows[2]["error"]
    assert rows[0]["error"] is rows[3]["error"] is None and found.done() == 4
    assert set(ids(found.rows("flips"))[2:]) == {"1", "2"}


def test_rows_are_asked_for_from_another_thread_meanwhile() -> None:
    found, failed, ended = survey({"west": west, "bright": brightness}), [], threading.Event()

    def ask() -> None:
        try:
            while not ended.wait(0.001):
                shown = found.rows("flips")
                assert sorted(ids(shown)) == list("012345") and shown["judged"] <= 6
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    judged(found)
    ended.set()
    thread.join()
    assert failed == [] and found.done() == 6


def test_what_cannot_be_sorted_by() -> None:
    found = survey({"bright": brightness})
    with pytest.raises(UsageError, match="sort: unknown 'flip'; did you mean 'flips'"):
        found.rows("flip")
    with pytest.raises(UsageError, match="order: unknown 'up'; choose from 'ascending', 'descending'"):
        found.rows(order="up")
    with pytest.raises(UsageError, match="model: expected 0 to 0, got 1"):
        found.rows(model=1)
    empty = Survey(Explorer([found.explorer.networks[0].subject], Album()))
    assert empty.rows() == {"total": 0, "judged": 0, "items": []} and list(empty.work()) == []
