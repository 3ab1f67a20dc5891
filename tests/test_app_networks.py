import copy
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from auditing import make_cnn, smooth_images
from PIL import Image
from torch import nn
from torch.testing import assert_close

import roteq
from roteq.app import explorer as explorer_module
from roteq.app.album import Album
from roteq.app.explorer import MODELS, Explorer
from roteq.app.networks import Network
from roteq.auditing import AuditConfig
from roteq.auditing.loading import as_subject
from roteq.auditing.turning import Turning, disc
from roteq.errors import RoteqError, UsageError

PIXELS = smooth_images(12, 3, 44, seed=1)
CROP = 24


def album(**options: Any) -> Album:
    return Album(PIXELS.copy(), **options)


def upright(index: int, side: int = CROP) -> torch.Tensor:
    """The centre of one picture, float (1, C, h, w)."""
    start = (PIXELS.shape[2] - side) // 2
    return torch.from_numpy(PIXELS[index : index + 1, :, start : start + side, start : start + side]).float()


def plain(channels: int = 3) -> nn.Module:
    return make_cnn(channels)


def explorer(model: Any = None, images: Album | None = None, **options: Any) -> Explorer:
    options = {"name": "net", "normalize": "raw", "size": CROP, "resize": 0} | options
    return Explorer([as_subject(plain() if model is None else model, **options)], images or album())


def probabilities(values: dict[int, float]) -> torch.Tensor:
    return torch.tensor([values[k] for k in sorted(values)])


@pytest.mark.parametrize(("degrees", "mirror"), [(0, False), (90, False), (180, False), (270, True), (0, True)])
def test_an_exact_answer_is_that_to_the_turned_pixels(degrees: int, mirror: bool) -> None:
    net = plain()
    found = explorer(net, normalize=((100, 110, 120), (50, 60, 70))).answer(0, "3", degrees, mirror)
    pixels = upright(3).flip(-1) if mirror else upright(3)
    x = torch.rot90(pixels, degrees // 90, (-2, -1)) - torch.tensor([100.0, 110, 120]).view(3, 1, 1)
    expected = net(x / torch.tensor([50.0, 60, 70]).view(3, 1, 1)).softmax(1)[0]
    assert_close(probabilities(found.values), expected, atol=1e-6, rtol=0)
    assert found.exact and found.decision == int(expected.argmax())


@pytest.mark.parametrize(("size", "masked"), [(CROP, False), (40, True)])
def test_an_interpolated_answer_is_that_to_the_look_of_an_audit(size: int, masked: bool) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 3))
    found = explorer(net, normalize="unit", size=size)
    turning = Turning((44, 44), (size, size), AuditConfig(angles=(37,), mirrors=False), torch.device("cpu"), False)
    patches = torch.from_numpy(PIXELS[3:4])
    [(_, look, _)] = turning.looks(patches, turning.upright(patches))
    assert_close(found.networks[0].input(found.album, "3", 37) * 255, look, atol=1e-3, rtol=0)
    answer = found.answer(0, "3", 37)
    assert_close(probabilities(answer.values), net(look / 255).softmax(1)[0], atol=1e-5, rtol=0)
    assert not answer.exact and turning.masked == masked
    expected = turning.reference(turning.upright(patches))
    assert_close(found.networks[0].input(found.album, "3", 0) * 255, expected, atol=1e-3, rtol=0)
    assert found.image("3")["seen"][0]["shape"] == ("disc" if masked else "square")


def test_an_equivariant_network_gives_the_same_probabilities_at_exact_turns_and_a_plain_one_does_not() -> None:
    torch.manual_seed(0)
    options = {"normalize": "imagenet", "size": 32, "resize": 0}
    nets = [roteq.create("se2cnn", group=group, in_channels=3, num_classes=3).eval() for group in ("C4", "Z2")]
    found = Explorer([as_subject(net, name=str(i), **options) for i, net in enumerate(nets)], album())
    spread = []
    for model in range(2):
        of = [[probabilities(found.answer(model, id, 90 * q).values) for q in range(4)] for id in ("0", "5", "9")]
        turned = max(float((one - values[0]).abs().max()) for values in of for one in values)
        spread.append(turned / float((of[0][0] - of[1][0]).abs().max()))
    assert spread[0] < 1e-3 < 0.1 < spread[1]
    exact = list(found.circle(0, "0", step=90))
    assert found.summary(0, exact) == {"exact_flips": [0, 3], "interpolated_flips": [0, 0]}
    about = found.about()["models"]
    assert [(one["group"], one["order"]) for one in about] == [("C4", 4), (None, 1)]


def test_answers_are_kept_and_the_circle_is_filled_evenly() -> None:
    passes = []

    def ask(x: torch.Tensor) -> torch.Tensor:
        passes.append(len(x))
        return torch.stack([x.mean((1, 2, 3)), x[:, :, :12].mean((1, 2, 3)), x[:, :, :, :12].mean((1, 2, 3))], 1)

    found = explorer(ask)
    first = found.answer(0, "1", 0)
    angles = [answer.degrees for answer in found.circle(0, "1")]
    assert angles[:8] == [0, 90, 180, 270, 45, 135, 225, 315] and sorted(angles) == list(range(0, 360, 5))
    assert sorted(angles[:24]) == list(range(0, 360, 15))
    before = len(passes)
    assert found.answer(0, "1", 0) is first and found.answer(0, "1", 360) is first
    assert next(found.circle(0, "1")) is first and len(passes) == before
    assert found.answer(0, "1", 5, True).mirror and len(passes) == before + 1


def test_flips_are_counted_apart_and_without_the_upright_picture() -> None:
    def east_or_west(x: torch.Tensor) -> torch.Tensor:
        side = x.shape[-1] // 2
        z = x[..., :side].mean((1, 2, 3)) - x[..., side:].mean((1, 2, 3))
        return torch.stack([z, -z], 1)

    found = explorer(east_or_west)
    answers = list(found.circle(0, "2"))
    changed = {a.degrees: a.changed for a in answers}
    assert changed[0] == 0 and changed[180] == 1 and all(changed[a] != changed[(a + 180) % 360] for a in changed)
    exact = sum(changed[a] for a in (90, 180, 270))
    assert found.summary(0, answers) == {"exact_flips": [exact, 3], "interpolated_flips": [36 - exact, 68]}
    mirrored = list(found.circle(0, "2", mirror=True, step=90))
    assert mirrored[0].changed == 1 and found.summary(0, mirrored)["exact_flips"] == [4 - exact, 4]


def one_score(probability: bool, shift: float = 0.0) -> Callable[[torch.Tensor], torch.Tensor]:
    def ask(x: torch.Tensor) -> torch.Tensor:
        z = (x[..., : x.shape[-1] // 2].mean((1, 2, 3)) - 127) / 20 + shift
        return z.sigmoid() if probability else z

    return ask


@pytest.mark.parametrize("shift", [0.0, -4.0], ids=["both sides", "one side"])
@pytest.mark.parametrize("batch", [None, 1])
def test_the_probability_of_a_sigmoid_and_its_logit_give_the_same(shift: float, batch: int | None) -> None:
    found = []
    for probability in (False, True):
        subject = replace(as_subject(one_score(probability, shift), normalize="raw", size=CROP, resize=0), batch=batch)
        e = Explorer([replace(subject, name="net")], album())
        found.append([probabilities(e.answer(0, str(i), 37).values) for i in range(4)])
        assert (e.networks[0].kind, e.networks[0].classes) == ("classes", ("class 0", "class 1"))
    assert_close(torch.stack(found[0]), torch.stack(found[1]), atol=1e-4, rtol=0)
    assert (torch.stack(found[0])[:, 1] < 0.5).any()


def test_a_sigmoid_that_is_never_sure_of_its_class_is_recognised_by_its_layer() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.AvgPool2d(12), nn.Flatten(), nn.Linear(12, 1))
    nn.init.constant_(body[-1].bias, -3.0)
    x = upright(0) / 255
    logit = float(body(x).detach())
    e = explorer(nn.Sequential(*body, nn.Sigmoid()), normalize="unit")
    assert e.answer(0, "0", 0).values[1] == pytest.approx(1 / (1 + torch.tensor(-logit).exp().item()), abs=1e-6)
    assert not e.about()["models"][0]["notes"]
    hidden = nn.Sequential(*body, nn.Sigmoid())
    e = explorer(lambda pixels: hidden(pixels), normalize="unit")
    assert "taken for a logit" in e.about()["models"][0]["notes"][0]


@pytest.mark.parametrize("images", [True, False], ids=["images", "no image"])
def test_softmax_is_recognised_never_by_one_picture(images: bool) -> None:
    asked = []
    net = nn.Sequential(plain(), nn.Softmax(1))

    def ask(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return net(x)

    e = explorer(ask, album() if images else Album())
    e.about()
    assert asked == [8]
    id = "0" if images else e.album.add(png(PIXELS[0]), "x.png").id
    assert_close(probabilities(e.answer(0, id, 0).values), net(upright(0))[0], atol=1e-6, rtol=0)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_independent_labels_have_no_decision_and_any_of_them_may_change() -> None:
    def ask(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3)) - 300  # never
        return torch.stack([mean, x[..., :12].mean((1, 2, 3)) - x[..., 12:].mean((1, 2, 3))], 1)

    e = explorer(ask, kind="labels", classes=("cell", "east"))
    a, b = e.answer(0, "0", 0), e.answer(0, "0", 180)
    assert (a.decision, a.changed, b.changed) == (None, 0.0, 1.0)
    score = ask(upright(0))[0]
    assert_close(probabilities(a.values), score.sigmoid(), atol=1e-6, rtol=0)
    assert a.values[1] + b.values[1] == pytest.approx(1, abs=1e-4)


def test_an_embedding_is_compared_with_that_of_the_upright_picture() -> None:
    net = nn.Sequential(nn.AvgPool2d(6), nn.Flatten())
    e = explorer(net, kind="embedding")
    zero, turned, other = (e.answer(0, "0", degrees) for degrees in (0, 90, 37))
    expected = torch.cosine_similarity(net(upright(0)), net(torch.rot90(upright(0), 1, (2, 3))))
    assert zero.values == {0: pytest.approx(1)} and turned.values[0] == pytest.approx(float(expected), abs=1e-6)
    assert zero.changed is turned.changed is zero.decision is None and other.values[0] < 0.999
    summary = e.summary(0, [zero, turned, other])
    assert summary == {"exact_similarity": turned.values[0], "interpolated_similarity": other.values[0]}
    assert e.networks[0].classes == ()


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Equivariant to exact turns: one score a pixel."""
    return nn.functional.avg_pool2d(x.mean(1, keepdim=True) - 127, 5, 1, 2)


def test_the_map_of_an_equivariant_network_turned_back_is_that_of_the_upright_picture() -> None:
    e = explorer(blurred, size=32, classes=("dark", "bright"))
    answers = {d: e.answer(0, "0", d) for d in (0, 90, 180, 37)} | {1: e.answer(0, "0", 270, True)}
    assert e.networks[0].kind == "map" and answers[0].decision is None
    assert [answers[d].changed for d in (0, 90, 180, 1)] == [0.0] * 4
    assert 0 < answers[37].changed < 0.1
    inside = blurred(e.networks[0].input(e.album, "0", 0))[0, 0][disc(32)] > 0
    assert answers[0].values[1] == pytest.approx(float(inside.float().mean())) and 0.1 < answers[0].values[1] < 0.9
    assert answers[90].values == answers[0].values
    circle = [answers[d] for d in (0, 90, 37)]
    assert e.summary(0, circle) == {"exact_changed": 0.0, "interpolated_changed": answers[37].changed}


def test_the_map_of_a_network_that_knows_up_from_down_changes() -> None:
    def ask(x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(x.shape[2], dtype=torch.float32)[:, None] - 15.5
        return torch.stack([rows.expand(x.shape[2:]), -rows.expand(x.shape[2:])])[None].repeat(len(x), 1, 1, 1)

    e = explorer(ask, size=32)
    assert e.answer(0, "0", 180).changed == 1 and e.answer(0, "0", 90).changed == pytest.approx(0.5, abs=0.05)
    assert e.answer(0, "0", 0, True).changed == 0 and e.answer(0, "0", 45).changed == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(("size", "share"), [(30, 2 * 16 / 30**2), (40, 0)], ids=["whole", "masked"])
def test_corners_that_are_not_seen_do_not_count(size: int, share: float) -> None:
    def corner(x: torch.Tensor) -> torch.Tensor:
        found = -torch.ones(len(x), 1, *x.shape[2:])
        found[:, :, :4, :4] = 1
        return found

    e = explorer(corner, size=size)
    assert e.answer(0, "0", 90).changed == pytest.approx(share)
    assert e.answer(0, "0", 45).changed == 0 and e.answer(0, "0", 0).values == {0: 1.0, 1: 0.0}


def test_only_the_largest_of_many_classes_are_kept() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Linear(48, 100))
    e = explorer(net, normalize="unit")
    found, expected = e.answer(0, "0", 0), net(upright(0) / 255).softmax(1)[0]
    assert len(found.values) == 32 and set(found.values) == set(expected.topk(32).indices.tolist())
    assert found.decision == int(expected.argmax()) and len(e.about()["models"][0]["classes"]) == 100


def test_grey_and_coloured_pictures_are_converted() -> None:
    grey, coloured = album(), Album(PIXELS[:, :1].copy())
    assert explorer(plain(3), coloured).networks[0].input(coloured, "0", 0).shape[1] == 3
    assert explorer(plain(1), grey).networks[0].input(grey, "0", 0).shape[1] == 1
    odd = Explorer([replace(as_subject(plain(), name="net", normalize="raw", size=CROP), channels=5)], grey)
    with pytest.raises(UsageError, match=r"net: takes 5 channels; pictures here are grey \(1\) or RGB \(3\)"):
        odd.answer(0, "0", 0)


def test_a_model_of_any_size_sees_512_pixels_at_most() -> None:
    subject = as_subject(lambda x: x.mean((2, 3)), name="net", normalize="raw")
    network = Network(subject)
    patch, crop, method = network.patch(Image.new("RGB", (1100, 1030)))
    assert (tuple(patch.shape), crop) == ((3, 512, 512), (512, 512))
    assert (
        method == "resized to 512 pixels on the shorter side (bicubic), the centre square, the most that is shown here"
    )
    patch, crop, method = network.patch(Image.new("RGB", (60, 50)))
    assert (tuple(patch.shape), crop, method) == ((3, 50, 50), (50, 50), "as stored, the centre square of 50 pixels")
    stored = Network(as_subject(subject, resize=0))
    assert stored.patch(Image.new("L", (600, 600)))[1] == (512, 512)


def test_what_a_model_sees_is_told_in_pixels_of_the_stored_picture() -> None:
    images = Album()
    id = images.add(png(smooth_images(1, 3, 200)[0][:, :150]), "x.png").id  # 150 high, 200 wide
    sizes = {
        "resized": {"size": 30, "resize": 75},
        "stored": {"size": 100, "resize": 0},
        "none": {"size": 160, "resize": 0},
    }
    e = Explorer([as_subject(plain(), name=name, normalize="raw", **size) for name, size in sizes.items()], images)
    found = e.image(id)
    assert (found["width"], found["height"], found["stage"]) == (200, 150, {"side": 150, "pixels": 300})
    shares = [one["share"] for one in found["seen"]]
    assert shares[:2] == [pytest.approx(60 / 150), pytest.approx(100 / 150)] and shares[2] is None
    assert "smaller than the model's input 160x160" in found["seen"][2]["error"]
    assert found["seen"][0]["size"] == [30, 30] and "resized to 75 pixels" in found["seen"][0]["method"]
    assert [one["shape"] for one in found["seen"]] == ["square", "square", None]
    with pytest.raises(UsageError, match="the picture is 150x200 as stored, smaller than the model's input 160x160"):
        e.answer(2, id, 0)


def test_the_stage_is_the_centre_with_some_surroundings() -> None:
    images = Album()
    pixels = smooth_images(1, 3, 200)[0]
    id = images.add(png(pixels), "x.png").id
    options = {"normalize": "raw", "resize": 0}
    stage = Explorer([as_subject(plain(), size=50, **options)], images).stage(id)
    assert stage.size == (240, 240)  # 80 pixels, each three times
    assert stage.getpixel((121, 3)) == tuple(pixels[:, 60 + 1, 60 + 40])
    whole = Explorer([as_subject(plain(), size=190, **options)], images)
    assert whole.stage(id).size == (400, 400) and whole.thumb(id).size == (96, 96)
    large = images.add(png(smooth_images(1, 3, 800)[0]), "y.png").id
    assert Explorer([as_subject(plain(), **{**options, "size": 700})], images).stage(large).size == (720, 720)


def test_an_oblong_input_has_half_turns_only() -> None:
    e = explorer(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LazyLinear(2)), size=(32, 16))
    assert [a.degrees for a in e.circle(0, "0")] == [0, 180] and e.answer(0, "0", 180, True).exact
    with pytest.raises(UsageError, match="expected 0 or 180 degrees for an input of 32x16, got 90"):
        e.answer(0, "0", 90)


def test_a_model_that_fails_says_so_and_the_others_go_on() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no weights")

    subjects = [
        as_subject(one, name=name, normalize="raw", size=CROP) for one, name in ((fails, "bad"), (plain(), "good"))
    ]
    e = Explorer(subjects, album())
    bad, good = e.about()["models"]
    assert bad["error"].startswith("bad: failed on pictures of 3 channel(s) and 24x24 pixels (ValueError: no weights)")
    assert (bad["kind"], bad["classes"], good["error"], good["kind"]) == (None, [], None, "classes")
    with pytest.raises(UsageError, match="no weights"):
        e.answer(0, "0", 0)
    assert e.answer(1, "0", 0).values
    unscaled = Explorer([as_subject(plain(), name="net", size=CROP)], album())
    assert "net does not say how its input is scaled" in unscaled.about()["models"][0]["error"]


def test_one_unreadable_image_of_the_first_does_not_matter() -> None:
    class Some:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Image.Image:
            if index == 0:
                raise OSError("lost")
            return Image.fromarray(PIXELS[index].transpose(1, 2, 0))

    e = explorer(images=Album(Some()))
    assert e.about()["models"][0]["error"] is None
    with pytest.raises(RoteqError, match="image 0: OSError: lost"):
        e.answer(0, "0", 0)
    assert e.answer(0, "1", 0).values


def test_labels_name_the_outputs_that_the_model_does_not() -> None:
    labels = ["b", "a", "c"] * 4
    named = explorer(images=album(labels=labels))
    assert named.about()["models"][0]["classes"] == ["a", "b", "c"]
    assert [named.networks[0].truth_of(entry) for entry in named.album.entries[:3]] == [1, 0, 2]
    own = explorer(images=album(labels=labels), classes=("c", "b", "x"))
    own.about()
    assert [own.networks[0].truth_of(entry) for entry in own.album.entries[:3]] == [1, None, 0]
    numbers = explorer(images=album(labels=[2, 0, 7] * 4))
    numbers.about()
    assert [numbers.networks[0].truth_of(entry) for entry in numbers.album.entries[:3]] == [2, 0, None]
    assert numbers.networks[0].classes == ("class 0", "class 1", "class 2")


def test_about_says_what_there_is() -> None:
    about = explorer(images=album(labels=["a", "b"] * 6)).about()
    assert about["set"] == {"source": "an array", "images": 12, "labelled": True, "split": None}
    assert (about["step"], about["coarse"], about["limits"]["uploads"]) == (5, 15, 32)
    assert about["models"][0]["size"] == [CROP, CROP] and about["version"] == roteq.__version__


def test_each_model_is_looked_into_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(explorer_module, "layers", lambda network, like: looked.append((network, like)) or [])
    e = explorer()
    assert e.about() == e.about() and looked == [(e.networks[0], None)]


def test_the_models_are_left_as_they_were() -> None:
    net = plain().train()
    before = copy.deepcopy(net.state_dict())
    explorer(net).answer(0, "0", 37)
    assert net.training and all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], f"expected 1 to {MODELS}, got 0"),
        (list("abcde"), "got 5"),
        (["a", "b", "a"], "different names, got 'a' twice"),
    ],
)
def test_one_to_four_models_of_different_names(names: str, words: str) -> None:
    net = plain()
    with pytest.raises(UsageError, match=words):
        Explorer([as_subject(net, name=name) for name in names], Album())
