"""roteq convert: what it writes answers as the twin does, what it says is so, and wrong calls leave nothing behind."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from roteq import convert, group
from roteq.errors import RoteqError, UsageError
from roteq.files import load_json
from roteq.models import export
from roteq.models.baselines import load_adapted
from roteq.models.named import named
from roteq.report import conversion
from roteq.report.text import conversion_table
from roteq.results import Conversion, Exchanged

Roteq = Callable[..., tuple[int, str, str]]
NETWORKS = """
from dataclasses import dataclass
import torch
from torch import nn
from beside import CLASSES

@dataclass
class Options:
    classes: "int" = CLASSES

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, Options().classes),
    )

class Lopsided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(nn.functional.pad(self.conv(x), (1, 0, 1, 0)).square().diff(dim=-1).square().mean((2, 3)))

def lopsided():
    return Lopsided()

def number():
    return 3

def failing():
    raise KeyError("no such luck")

NO_FUNCTION = 1
"""
CALL = ("--trust", "--input", "3,17,17", "--group")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the user's file in it."""
    (tmp_path / "mine.py").write_text(NETWORKS)
    (tmp_path / "beside.py").write_text("CLASSES = 3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"mine.py", "beside.py", "__pycache__"}


def noise(batch: int, size: int = 17, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(batch))


def assert_invariant(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    expected = run(x)
    assert (expected[0] - expected[1]).norm() > 1e-3 * expected.norm()
    for g in range(1, 8):
        assert_close(run(group("p4m").act_on_image(x, g)), expected, atol=1e-5, rtol=1e-4)


def test_a_program_for_torch_answers_any_batch_and_turning_changes_nothing(roteq: Roteq, folder: Path) -> None:
    code, out, err = roteq("convert", "mine.py:small", "twin.pt2", *CALL, "p4m")
    assert (code, err) == (0, "")
    assert "Verified: equivariant to rounding" in out and "all 8 elements of D4" in " ".join(out.split())
    assert re.search(r"Conv2d +LiftingConv2d +1 ", out) and re.search(r"BatchNorm2d +GroupBatchNorm2d +2 ", out)
    assert "twin.pt2: torch.export, any batch, answers checked" in out
    assert files(folder) == {"twin.pt2", "twin.pt2.json"}
    program = torch.export.load("twin.pt2").module()
    assert_invariant(program, noise(5))
    assert program(noise(1)).shape == (1, 3)


def test_json_is_the_report_beside_the_file(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("convert", "mine.py:small", "sub/twin.pt", *CALL, "C4", "--width", "0.5", "--json")
    assert code == 0
    result = load_json(Conversion, "sub/twin.pt.json")
    assert json.loads(out) == json.loads(Path("sub/twin.pt.json").read_text())
    assert (result.model, result.group, result.factor, result.exact) == ("mine.py:small", "C4", 0.5, True)


def test_onnx_answers_any_batch_without_norms_if_folded(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("convert", "mine.py:small", "twin.onnx", *CALL, "p4m", "--fold")
    assert code == 0
    assert "twin.onnx: ONNX, any batch, answers checked" in out
    session = onnxruntime.InferenceSession("twin.onnx", providers=["CPUExecutionProvider"])
    assert_invariant(lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), noise(4))


def test_fold_leaves_no_norm_in_a_program(roteq: Roteq, folder: Path) -> None:
    found = []
    for fold in ([], ["--fold"]):
        assert roteq("convert", "mine.py:small", "twin.pt2", *CALL, "p4", *fold)[0] == 0
        program = torch.export.load("twin.pt2")
        found.append((sum("batch_norm" in str(n.target) for n in program.graph.nodes), program.module()(noise(3))))
    (norms, unfolded), (left, folded) = found
    assert (norms, left) == (2, 0)
    assert_close(folded, unfolded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_from_a_recipe_the_same_twin_is_built_again(roteq: Roteq, folder: Path, suffix: str) -> None:
    assert roteq("convert", "mine.py:small", f"twin.{suffix}", *CALL, "p4m", "--seed", 5)[0] == 0
    assert roteq("convert", "mine.py:small", "twin.pt2", *CALL, "p4m", "--seed", 5)[0] == 0
    recipe = json.loads(Path(f"twin.{suffix}.recipe.json").read_text())
    assert set(recipe["versions"]) >= {"roteq", "torch", "timm"} and recipe["seed"] == 5
    original = named(recipe["model"], recipe["input"][0], recipe["num_classes"], trust=True).network
    sample = torch.zeros(1, *recipe["input"])
    twin = convert(original, recipe["group"], sample=sample, width=recipe["width"], strict=recipe["strict"]).eval()
    program = torch.export.load("twin.pt2").module()
    assert not torch.allclose(twin(noise(2)), program(noise(2)), atol=1e-3)
    state = torch.load("twin.pt", weights_only=True) if suffix == "pt" else load_file("twin.safetensors")
    twin.load_state_dict(state)
    assert_close(twin(noise(2)), program(noise(2)), atol=1e-5, rtol=1e-4)


def test_with_weights_of_a_file_the_twin_is_the_average_of_the_original(roteq: Roteq, folder: Path) -> None:
    original = named("mine.py:small", trust=True).network.eval()
    torch.save({"state_dict": original.state_dict()}, "trained.pth")
    code, out, err = roteq("convert", "mine.py:small", "twin.pt2", *CALL, "p4m", "--weights", "trained.pth")
    assert (code, err) == (0, "")
    assert "the twin is equal" in " ".join(out.split()) and "features: 1 features" in out
    turned = [original(group("p4m").act_on_image(noise(2), g)) for g in range(8)]
    assert_close(torch.export.load("twin.pt2").module()(noise(2)), torch.stack(turned).mean(0), atol=1e-5, rtol=1e-4)


def test_a_head_of_another_size_is_drawn_anew_and_said(roteq: Roteq, folder: Path) -> None:
    original = named("mine.py:small", trust=True).network
    torch.save(original.state_dict(), "trained.pth")
    (folder / "beside.py").write_text("CLASSES = 12\n")
    import sys

    sys.modules.pop("beside")
    code, _, err = roteq("convert", "mine.py:small", "twin.pt", *CALL, "p4", "--weights", "trained.pth")
    assert code == 0
    assert err == "8: the weights are for 3 classes, this network has 12; drawn anew\n"


def test_a_model_of_timm_is_converted(roteq: Roteq, folder: Path) -> None:
    call = ("convert", "timm:test_resnet", "twin.safetensors", "--input", "1,32,32", "--num-classes", 3)
    code, out, _ = roteq(*call, "--group", "p4", "--width", "channels")
    assert code == 0
    assert "timm:test_resnet: its twin over C4" in out
    assert re.search(r"Linear +MeanOverGroup \+ Linear", out)
    assert load_file("twin.safetensors")["fc.1.bias"].shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["timm:resnet-18", "a.pt"], "timm: unknown model 'resnet-18'; did you mean 'resnet18'?"),
        (["timm:resnet18.a1_in2k", "a.pt"], "unknown weights 'resnet18.a1_in2k'; did you mean 'resnet18.a1_in1k'?"),
        (["timm:hf-hub:some/one", "a.pt"], "timm: unknown model 'hf-hub:some/one'"),
        (["timm:zzzz", "a.pt"], "timm.list_models() lists them"),
        (["torchvision:resnet-18", "a.pt"], "torchvision: unknown model 'resnet-18'; did you mean 'resnet18'?"),
        (["torchvision:resnet18", "a.pt", "--input", "1,32,32"], "expected pictures of 3 channels, got 1"),
        (["resnet-18", "a.pt"], "MODEL: unknown model 'resnet-18'; did you mean 'resnet18'?"),
        (["efficientnet_b0", "a.pt"], "did you mean 'timm:efficientnet_b0'?"),
        (["zzzz", "a.pt"], "expected timm:NAME, torchvision:NAME, FILE.py:FUNCTION or one of alexnet"),
        (["mine.py:small", "a.pt"], "runs the code of the file; add --trust"),
        (["mine.py:", "a.pt", "--trust"], "expected FILE.py:FUNCTION"),
        (["yours.py:small", "a.pt", "--trust"], "yours.py: no such file"),
        (["mine.py:smal", "a.pt", "--trust"], "mine.py: no function 'smal'; did you mean 'small'?"),
        (["mine.py:NO_FUNCTION", "a.pt", "--trust"], "mine.py: no function 'NO_FUNCTION'"),
        (["mine.py:number", "a.pt", "--trust"], "expected a function that returns an nn.Module, got int"),
        (["mine.py:small", "a.pt", "--trust", "--num-classes", "2"], "--num-classes: small of mine.py decides that"),
        (["mine.py:small", "a.pt", "--trust", "--pretrained"], "--pretrained: small of mine.py decides that"),
        (["mine.py:small", "a.pt", "--trust", "--input", "1,17,17"], "--input: the network does not take pictures"),
        (
            ["resnet18", "a.pt", "--input", "3,16,16"],
            "does not take pictures of 3,16,16 (resnet18: expected pictures of",
        ),
        (["resnet18", "a.pth"], "expected a file that ends with .pt2, .onnx, .pt, .safetensors, got '.pth'; did you"),
        (["resnet18", "a"], "got 'no ending'"),
        (["resnet18", "folder.pt"], "folder.pt: expected a file, got a folder"),
        (["resnet18", "a.pt", "--fold"], "--fold: a program has folded layers (.pt2, .onnx); a state (.pt) has not"),
        (["resnet18", "a.pt", "--group", "X9"], "--group: expected 'Z2', 'p4'"),
        (["resnet18", "a.pt", "--width", "feature"], "--width: unknown width 'feature'; did you mean 'features'?"),
        (["resnet18", "a.pt", "--width", "-1"], "--width: expected width to be one of"),
        (["resnet18", "a.pt", "--width", "channels", "--pretrained"], "--width: expected 'features', where trained"),
        (["resnet18", "a.pt", "--width", "1", "--weights", "b.pth"], "got '1'; or leave out --weights"),
        (["resnet18", "a.pt", "--weights", "b.pth"], "--weights: no file b.pth"),
        (["resnet18", "a.pt", "--weights", "b.pth", "--pretrained"], "--pretrained: either downloaded weights or"),
        (["resnet18", "a.pt", "--input", "224"], "--input: expected channels, height and width, such as 3,224,224"),
        (["resnet18", "a.pt", "--input", "3,0,8"], "--input: expected channels"),
        (["mine.py:lopsided", "a.pt", *CALL, "p4"], "pad: breaks equivariance"),
        (["timm:test_vit", "a.pt", "--input", "3,160,160"], "attention"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_exits_with_2_and_writes_nothing(
    roteq: Roteq, folder: Path, arguments: list[str], words: str
) -> None:
    (folder / "folder.pt").mkdir()
    code, out, err = roteq("convert", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ") and words in err
    assert "strict=False" not in err
    assert files(folder) == {"folder.pt"}


def test_without_trust_the_code_of_a_file_is_not_run(roteq: Roteq, folder: Path) -> None:
    (folder / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    assert roteq("convert", "evil.py:f", "a.pt")[0] == 2
    assert not Path("ran").exists()
    assert roteq("convert", "evil.py:f", "a.pt", "--trust")[0] == 2  # it has no f
    assert Path("ran").exists()


def test_what_the_code_of_a_file_raises_is_a_failure(roteq: Roteq, folder: Path) -> None:
    code, _, err = roteq("convert", "mine.py:failing", "a.pt", "--trust")
    assert code == 1
    assert err == "Error: mine.py:failing: failed with KeyError: 'no such luck'\n"


def test_no_strict_leaves_what_breaks_names_it_and_exits_with_1(roteq: Roteq, folder: Path) -> None:
    code, out, _ = roteq("convert", "mine.py:lopsided", "twin.pt2", *CALL, "p4", "--no-strict")
    assert code == 1
    assert "Not equivariant: 1 operation broke C4 and stayed" in out
    assert "pad: breaks equivariance" in out and "strict=False" not in out
    assert files(folder) == {"twin.pt2", "twin.pt2.json"}


def test_what_cannot_be_downloaded_is_a_failure(roteq: Roteq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from torchvision.models import ResNet18_Weights

    def offline(*_: object, **options: object) -> object:
        assert options.get("pretrained", True)
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    code, _, err = roteq("convert", "torchvision:resnet18", "a.pt", "--pretrained")
    assert code == 1 and "torchvision:resnet18: the pretrained weights could not be had: OSError: no route" in err
    monkeypatch.setattr(timm, "create_model", offline)
    code, _, err = roteq("convert", "timm:test_resnet", "a.pt", "--pretrained")
    assert code == 1 and "timm:test_resnet: the pretrained weights" in err and "give it with --weights" in err
    assert files(folder) == set()


def test_pretrained_weights_are_asked_for_and_kept(roteq: Roteq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def downloaded(name: str, pretrained: bool, **options: object) -> nn.Module:
        assert pretrained
        return create(name, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", downloaded)
    code, out, err = roteq(
        *("convert", "timm:test_resnet", "a.pt", "--group", "C2", "--input", "3,32,32", "--num-classes", 2),
        *("--pretrained", "--json"),
    )
    assert code == 0
    assert json.loads(out)["kept_weights"] is True
    assert err == "fc: the weights are for 1,000 classes, this network has 2; drawn anew\n"


# networks by name


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("timm:test_resnet", "resnet18", "torchvision:resnet18"):
        with pytest.raises(UsageError, match=r"other.pth: a checkpoint of another model: \d+ missing"):
            named(name, weights=tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["resnet18", "torchvision:squeezenet1_1"])
def test_weights_reach_a_network_and_its_head_if_it_fits(name: str, tmp_path: Path) -> None:
    trained = named(name, num_classes=5).network
    inner = trained.net if name == "resnet18" else trained
    torch.save(inner.state_dict(), tmp_path / "trained.pth")
    same, other = (named(name, num_classes=n, weights=tmp_path / "trained.pth") for n in (5, 2))
    assert_close(same.network.state_dict(), trained.state_dict())
    assert same.note is None
    assert re.fullmatch(r"[\w.]+: the weights are for 5 classes, this network has 2; drawn anew", str(other.note))


def test_weights_of_colours_are_adapted_to_one_channel(tmp_path: Path) -> None:
    trained = named("timm:test_resnet").network
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    grey = named("timm:test_resnet", 1, weights=tmp_path / "trained.pth").network
    key = "conv1.0.weight"
    assert_close(grey.state_dict()[key], trained.state_dict()[key].sum(1, keepdim=True))


def test_a_head_without_bias_or_no_head_at_all_takes_weights(tmp_path: Path) -> None:
    code = "from torch import nn\ndef bare():\n    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU())\n"
    (tmp_path / "bare.py").write_text(f"{code}def none():\n    return nn.Sequential(nn.BatchNorm2d(3))\n")
    for function, heads in (("bare", 4), ("none", 0)):
        name = f"{tmp_path / 'bare.py'}:{function}"
        state = {key: value + 1 for key, value in named(name, trust=True).network.state_dict().items()}
        torch.save(state, tmp_path / "trained.pth")
        found = named(name, weights=tmp_path / "trained.pth", trust=True)
        assert found.note is None and bool(found.head) is bool(heads)
        assert_close(found.network.state_dict(), state)
    torch.save({"0.weight": torch.ones(7, 3, 3, 3)}, tmp_path / "trained.pth")
    found = named(f"{tmp_path / 'bare.py'}:bare", weights=tmp_path / "trained.pth", trust=True)
    assert found.note == "0: the weights are for 7 classes, this network has 4; drawn anew"


def test_a_head_that_only_the_file_has_is_unknown() -> None:
    with pytest.raises(UsageError, match=r"a file: a checkpoint of another model: 1 unknown \(fc.weight\)"):
        load_adapted(nn.ReLU(), {"fc.weight": torch.zeros(2, 3)}, "a file", first="", head="fc")


def test_nothing_is_downloaded_for_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    assert named("torchvision:lraspp_mobilenet_v3_large", num_classes=2).network is not None


def test_a_number_that_a_network_cannot_have_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="timm:test_resnet: could not be built: "):
        named("timm:test_resnet", -1)


# files


class Baked(nn.Module):
    """A batch that is read as a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), -1)[:, :5] * 2


def test_where_the_batch_is_written_into_a_network_the_file_takes_one_picture(tmp_path: Path) -> None:
    written = export.write_network(Baked(), tmp_path / "twin.pt2", noise(1))
    assert "batches of 1, answers checked" in written.what
    assert written.size == (tmp_path / "twin.pt2").stat().st_size


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x)


class Undone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum().item()).hex().count("0")


@pytest.mark.parametrize(
    ("network", "words"),
    [(Random(), "answers otherwise than the network"), (Undone(), "could not be exported")],
    ids=["random", "not exportable"],
)
def test_a_program_that_fails_leaves_the_former_file(tmp_path: Path, network: nn.Module, words: str) -> None:
    path = tmp_path / "twin.pt2"
    path.write_text("the former")
    with pytest.raises(RoteqError, match=words):
        export.write_network(network, path, noise(1))
    assert path.read_text() == "the former"
    assert files(tmp_path) == {"twin.pt2"}


def test_onnx_without_its_extra_names_the_command(roteq: Roteq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_installed", lambda name: name != "onnxscript")
    code, _, err = roteq("convert", "resnet18", "a.onnx")
    assert code == 1
    assert err == "Error: a.onnx: ONNX needs onnxscript: pip install 'roteq[onnx]'\n"
    monkeypatch.setattr(export, "_installed", lambda name: name != "onnxruntime")
    written = export.write_network(nn.Conv2d(3, 2, 3), "a.onnx", noise(1))
    assert "not checked: onnxruntime is not installed" in written.what


def test_filters_too_large_for_onnx_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "LARGEST_ONNX", 200)
    with pytest.raises(RoteqError, match=r"one ONNX file holds 2; choose a smaller --width"):
        export.write_network(nn.Conv2d(3, 2, 3), tmp_path / "a.onnx", noise(1))
    assert files(tmp_path) == set()


# words


EXAMPLE = Conversion(
    model="timm:some",
    group="D4",
    width="features",
    factor=1.0,
    kept_weights=True,
    layers=(
        Exchanged("stem", "Conv2d(3, 8, [kernel])", "LiftingConv2d(3, 8)", 1e-16),
        Exchanged("a.conv", "Conv2d(8, 8)", "GroupConv2d(8, 8)", 3e-16),
        Exchanged("b.conv", "Conv2d(8, 8)", "GroupConv2d(8, 8)", 2e-16),
        Exchanged("fc", "Linear(8, 2)", "Sequential( (0): MeanOverGroup(|G|=8, dim=-1) (1): Linear(8, 2) )", None),
    ),
    errors={"90°": 2e-15, "mirror, then 0°": 4e-15},
    parameters=(1000, 2000),
    flops=(10_000, None),
    channels=(24, 192),
    asymmetric={"stem": 1, "b.conv": 1},
    symmetric_size=(225, 225),
    difference=0.25,
)


TURNED = {"layers": (Exchanged("stem", "Conv2d(3, 8)", "LiftingConv2d(3, 8, steps='turned')", 1e-16),)}


def shown(result: Conversion) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(conversion_table(result))
    return captured.get()


def test_kinds_of_layers_are_counted_with_their_largest_error() -> None:
    assert conversion.layers(EXAMPLE).rows == (
        ("Conv2d", "LiftingConv2d", "1", "1", "1e-16"),
        ("Conv2d", "GroupConv2d", "2", "1", "3e-16"),
        ("Linear", "MeanOverGroup + Linear", "1", "–", "–"),
    )


def test_costs_stand_side_by_side() -> None:
    assert [row[1:] for row in conversion.costs(EXAMPLE).rows] == [
        ("1.00 k", "2.00 k", "2.00"),
        ("10.0 k", "–", "–"),
        ("24", "192", "8.00"),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "Verified: equivariant to rounding (error at most 4e-15) for the 3 exact elements of D4; the other 5 are"),
        ({"group": "C3"}, "for all 3 elements of C3."),
        (
            {"errors": {}, "group": "C5"},
            "Not verified: no element of C5 but the identity maps the pixel grid to itself.",
        ),
        ({"errors": {"90°": 1e-3}}, "Not equivariant to rounding: the error is 0.001."),
        ({"errors": {"90°": None}}, "Not verified: the output does not vary between pictures."),
        (
            {"broken": {"head": "pad: breaks"}, "errors": {"90°": 0.5}},
            "Not equivariant: 1 operation broke D4 and stayed",
        ),
        ({"broken": {"head": "pad: breaks"}, "errors": {"90°": 0.5}}, "• head: pad: breaks"),
        ({}, "the twin is off by 0.250"),
        ({"difference": 1e-12}, "over D4 the twin is equal"),
        ({"difference": None}, "weights           kept\n"),
        ({"kept_weights": False}, "drawn anew, in the original's proportions; --width features keeps them"),
        ({}, "2 steps left pixels over on one side (stem, b.conv). Each now works on the mean of neighbours"),
        (TURNED, "the average of the original stays exact, on maps that lie a part of a step apart"),
        (TURNED, "they coincide at 225x225 pixels"),
        ({}, "the twin is its average exactly only at 225x225 pixels"),
        ({"symmetric_size": None}, "exactly only at a size where nothing is left over (none is near)"),
        ({"asymmetric": {}}, "none to mend: all were symmetric at this size"),
        ({"rewritten": ("", "a", "b", "c", "d", "e")}, "the network, a, b, c and 2 more"),
        ({"unused": ("aux",)}, "aux: not reached, and as they were"),
    ],
)
def test_what_was_found_is_said(change: dict[str, object], words: str) -> None:
    assert words in re.sub(" +\n", "\n", shown(replace(EXAMPLE, **change)))


def test_what_is_not_is_not_said() -> None:
    text = shown(replace(EXAMPLE, kept_weights=False))
    assert "225" not in text and "average" not in text
    assert "rewritten" not in text and "unused" not in text
