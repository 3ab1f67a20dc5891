"""Models of every kind become subjects; no file runs code that was not trusted."""

import contextlib
import io
import json
import pickle
import socket
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import timm
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

from roteq.auditing import loading
from roteq.auditing.loading import (
    as_subject,
    checked_ask,
    load_subject,
    log_probabilities,
    looks_like_one_probability,
    looks_like_probabilities,
    read_answer,
)
from roteq.auditing.subject import Normalization, Subject
from roteq.errors import RoteqError, UsageError
from roteq.models import create
from roteq.models.cached import cached_weights
from roteq.models.export import write_network
from roteq.training import Classifier

IMAGENET = Normalization.of("imagenet")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and none of this machine's caches."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def small(classes: int = 3, channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def noise(batch: int = 2, channels: int = 3, side: int = 16) -> Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(1))


def scores(subject: Subject, images: Tensor) -> Tensor:
    return read_answer(checked_ask(subject, images), len(images), subject.kind, subject.name)[0]


# Files that run code


class Hostile:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def repacked(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return target


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "plain.pt2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_network(small(), path, noise())
    return path


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def of(content: dict[str, bytes], end: str) -> str:
    return next(name for name in content if name.endswith(end))


def with_samples(content: dict[str, bytes], marker: Path) -> None:
    content[of(content, "data/sample_inputs/model.pt")] = torch_bytes(((Hostile(marker),), {}))


def with_pickled_weight(content: dict[str, bytes], marker: Path) -> None:
    name = of(content, "model_weights_config.json")
    config = json.loads(content[name])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    content[name] = json.dumps(config).encode()
    content[name.replace("model_weights_config.json", first["path_name"])] = torch_bytes(Hostile(marker))


def with_legacy_weights(content: dict[str, bytes], marker: Path) -> None:
    name = of(content, "model_weights_config.json")
    content[name.replace("model_weights_config.json", "model.pt")] = torch_bytes({"a": Hostile(marker)})


def with_constant(path_name: str) -> Callable[[dict[str, bytes], Path], None]:
    def change(content: dict[str, bytes], marker: Path) -> None:
        name = of(content, "model_constants_config.json")
        payload = {"path_name": path_name, "is_param": False, "use_pickle": True, "tensor_meta": None}
        content[name] = json.dumps({"config": {"c": payload}}).encode()
        pack = pickle.dumps if path_name.startswith("opaque") else torch_bytes
        content[name.replace("model_constants_config.json", path_name)] = pack(Hostile(marker))

    return change


def in_program(change: Callable[[Any, Path], None]) -> Callable[[dict[str, bytes], Path], None]:
    def changed(content: dict[str, bytes], marker: Path) -> None:
        name = of(content, "models/model.json")
        program = json.loads(content[name])
        change(program, marker)
        content[name] = json.dumps(program).encode()

    return changed


def everywhere(value: Any, key: str, new: Any) -> Any:
    """The same tree with every `key` replaced."""
    if isinstance(value, dict):
        return {k: new if k == key else everywhere(v, key, new) for k, v in value.items()}
    return [everywhere(v, key, new) for v in value] if isinstance(value, list) else value


def evil_size(program: Any, marker: Path) -> None:
    program |= everywhere(program, "expr_str", f"open({str(marker)!r}, 'w').close()")


def evil_words(program: Any, marker: Path) -> None:
    """Letters of 'open' from the names of classes, to be evaluated."""
    program |= everywhere(program, "expr_str", "Max(('%s1' % Symbol)[5] + ('%s1' % Symbol)[9])")


def evil_attribute(program: Any, marker: Path) -> None:
    program["graph_module"]["signature"] = everywhere(
        program["graph_module"]["signature"], "parameter_name", "__class__.forward"
    )


def evil_operation(program: Any, marker: Path) -> None:
    program["graph_module"]["graph"]["nodes"][0] |= {
        "target": "torch.os.system",
        "inputs": [{"name": "", "arg": {"as_string": f"touch {marker.name}"}, "kind": 1}],
    }


def evil_file(program: Any, marker: Path) -> None:
    program["graph_module"]["graph"]["nodes"][0] |= {
        "target": "torch.ops.aten.from_file.default",
        "inputs": [
            {"name": "filename", "arg": {"as_string": marker.name}, "kind": 1},
            {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
            {"name": "size", "arg": {"as_int": 1}, "kind": 1},
        ],
    }


def evil_guard(program: Any, marker: Path) -> None:
    program["guards_code"] = [f"open({str(marker)!r}, 'w').close() is None"]


def evil_container(program: Any, marker: Path) -> None:
    context = json.dumps({"__enum__": True, "fqn": "evil:A.B", "name": "C"})
    spec = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])
    program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec
    (Path.cwd() / "evil.py").write_text(f"open({str(marker)!r}, 'w')")


def evil_name(program: Any, marker: Path) -> None:
    program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [
        f"x=open({str(marker)!r}, 'w')"
    ]


def with_library(content: dict[str, bytes], marker: Path) -> None:
    content[of(content, "models/model.json").replace("models/model.json", "data/aotinductor/model/a.so")] = b"ELF"


def with_former_format(content: dict[str, bytes], marker: Path) -> None:
    content["version"] = b"8.1"


HOSTILE = {
    "example inputs": with_samples,
    "pickled weight": with_pickled_weight,
    "former weights": with_legacy_weights,
    "pickled constant": with_constant("tensor_0"),
    "custom object": with_constant("custom_obj_0"),
    "opaque object": with_constant("opaque_obj_0"),
    "size": in_program(evil_size),
    "words": in_program(evil_words),
    "attribute": in_program(evil_attribute),
    "operation": in_program(evil_operation),
    "file": in_program(evil_file),
    "guard": in_program(evil_guard),
    "container": in_program(evil_container),
    "name": in_program(evil_name),
    "library": with_library,
    "former format": with_former_format,
}


@pytest.mark.parametrize("payload", HOSTILE)
def test_an_exported_program_with_code_is_refused(
    exported: Path, tmp_path: Path, payload: str, monkeypatch: Any
) -> None:
    marker = tmp_path / "marker"
    monkeypatch.syspath_prepend(str(tmp_path))
    path = repacked(exported, tmp_path / "hostile.pt2", lambda content: HOSTILE[payload](content, marker))
    with pytest.raises(UsageError, match=r"hostile\.pt2: holds more than tensors .* add --trust"):
        checked_ask(load_subject(str(path)), noise())
    assert not marker.exists()


@pytest.mark.parametrize("payload", ["example inputs", "pickled weight", "size", "guard", "opaque object"])
def test_the_hostile_programs_are_hostile(exported: Path, tmp_path: Path, payload: str) -> None:
    marker = tmp_path / "marker"
    path = repacked(exported, tmp_path / "hostile.pt2", lambda content: HOSTILE[payload](content, marker))
    with contextlib.suppress(RoteqError):
        checked_ask(load_subject(str(path), trust=True), noise())
    assert marker.exists()


def test_a_repacked_plain_program_answers_as_before(exported: Path, tmp_path: Path) -> None:
    path = repacked(exported, tmp_path / "plain.pt2", lambda content: None)
    expected = scores(load_subject(str(exported)), noise())
    torch.testing.assert_close(scores(load_subject(str(path)), noise()), expected)


def hostile_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(marker)))


def hostile_checkpoint(path: Path, marker: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Hostile(marker)}, path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pt", hostile_checkpoint),
        ("a.pth", hostile_checkpoint),
        ("a.ckpt", hostile_checkpoint),
        ("bare.pt", hostile_pickle),
        ("a.pkl", hostile_pickle),
        ("a.joblib", lambda path, marker: joblib.dump(Hostile(marker), path)),
    ],
)
def test_a_pickle_is_refused_without_trust_and_run_with_it(name: str, write: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    write(tmp_path / name, marker)
    with pytest.raises(UsageError, match=rf"{name}: pickled Python objects.*add --trust"):
        load_subject(name)
    assert not marker.exists()
    with pytest.raises(RoteqError, match=rf"{name}|expected a model, .* got None"):
        load_subject(name, trust=True)
    assert marker.exists()


def test_a_hostile_checkpoint_in_a_run_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    hostile_checkpoint(tmp_path / "run/best.ckpt", tmp_path / "marker")
    with pytest.raises(RoteqError, match="not a checkpoint, or a damaged one"):
        load_subject("run")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("source", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5", "resnet18"])
def test_hostile_weights_are_not_run(source: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": Hostile(tmp_path / "marker")}}, "w.pth")
    with pytest.raises(RoteqError, match=r"w\.pth: not a checkpoint of weights"):
        load_subject(source, weights="w.pth")
    assert not (tmp_path / "marker").exists()


def test_a_file_of_python_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\ndef net(): return abs\n")
    with pytest.raises(UsageError, match=r"mine\.py: .*add --trust"):
        load_subject("mine.py:net")
    assert not (tmp_path / "marker").exists()
    assert load_subject("mine.py:net", trust=True).name == "mine.py:net"
    assert (tmp_path / "marker").exists()


def test_a_torchscript_archive_needs_trust(tmp_path: Path) -> None:
    network = small().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, noise()).save("a.pt")
    with pytest.raises(UsageError, match=r"a TorchScript program, which can write files.*add --trust"):
        load_subject("a.pt")
    torch.testing.assert_close(scores(load_subject("a.pt", trust=True), noise()), network(noise()).detach())


# Programs


def test_an_exported_program_says_what_it_takes(exported: Path) -> None:
    subject = load_subject(str(exported))
    assert (subject.channels, subject.size, subject.batch) == (3, (16, 16), None)
    assert subject.normalize is None
    torch.manual_seed(0)
    torch.testing.assert_close(scores(subject, noise(5)), small().eval()(noise(5)).detach())


@pytest.mark.parametrize("name", ["vit", "guards", "dictionary"])
def test_unusual_but_plain_programs_need_no_trust(name: str, tmp_path: Path) -> None:
    class Dictionary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.net(nn.functional.max_pool2d(x, 2) if x.shape[2] % 2 == 0 else x)
            return {"logits": y, "twice": torch.einsum("bk,k->bk", y, y.new_full((3,), 2.0))}

    path = tmp_path / "a.pt2"
    if name == "vit":
        network: nn.Module = timm.create_model("test_vit", num_classes=3, img_size=32)
        images = noise(2, 3, 32)
        write_network(network, path, images)
    else:
        network, images = Dictionary(), noise()
        sides = {0: torch.export.Dim("b", max=64)}
        sides |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO} if name == "guards" else {}
        torch.export.save(torch.export.export(network.eval(), (images,), dynamic_shapes=(sides,)), path)
    subject = load_subject(str(path))
    expected = network.eval()(images)
    torch.testing.assert_close(scores(subject, images), expected if name == "vit" else expected["logits"])
    assert subject.size == (None if name == "guards" else tuple(images.shape[2:]))


def test_a_damaged_program_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"nothing")
    with pytest.raises(RoteqError, match=r"a\.pt2: not a program of torch\.export, or a damaged one"):
        load_subject("a.pt2")


def test_an_onnx_model_answers_as_the_network(tmp_path: Path) -> None:
    network = small()
    write_network(network, tmp_path / "a.onnx", noise())
    subject = load_subject("a.onnx", normalize="unit")
    assert (subject.channels, subject.size, subject.batch, subject.module) == (3, (16, 16), None, None)
    assert subject.normalize == Normalization.of("unit")
    torch.testing.assert_close(scores(subject, noise(3)), network.eval()(noise(3)).detach(), atol=1e-5, rtol=1e-4)


def onnx_file(path: Path, shape: list[Any], inputs: tuple[str, ...] = ("x",)) -> None:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("GlobalAveragePool", [inputs[0]], ["y"])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], shape[1], 1, 1])
    graph = helper.make_graph([node], "g", given, [found])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_an_onnx_model_of_one_batch_size_says_so(tmp_path: Path) -> None:
    onnx_file(tmp_path / "a.onnx", [4, 3, "h", "w"])
    subject = load_subject("a.onnx")
    assert (subject.batch, subject.size) == (4, None)
    torch.testing.assert_close(scores(subject, noise(4)), noise(4).mean((2, 3)))
    with pytest.raises(UsageError, match=r"a\.onnx: failed on pictures of 3 channel\(s\) and 16x16 .*--size"):
        checked_ask(subject, noise(2))


def test_channels_may_be_last(tmp_path: Path) -> None:
    onnx_file(tmp_path / "a.onnx", ["n", 16, 20, 3])
    subject = load_subject("a.onnx")
    assert (subject.channels, subject.size) == (3, (16, 20))
    images = torch.rand(2, 3, 16, 20)
    torch.testing.assert_close(scores(subject, images), images.mean((1, 3)))


def test_an_onnx_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    onnx_file(tmp_path / "a.onnx", ["n", 3, 8, 8], ("x", "mask"))
    with pytest.raises(UsageError, match=r"expected a model of one input, got 2 \(x, mask\)"):
        load_subject("a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    with pytest.raises(RoteqError, match=r"b\.onnx: not a model that onnxruntime can run"):
        load_subject("b.onnx")


def test_weights_alone_are_not_a_model() -> None:
    torch.save(small().state_dict(), "a.pth")
    with pytest.raises(UsageError, match=r"name the network and give the file with --weights"):
        load_subject("a.pth", trust=True)
    Path("a.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.safetensors: holds weights and not the network"):
        load_subject("a.safetensors")
    Path("b.pt").write_bytes(b"nothing")
    with pytest.raises(RoteqError, match=r"b\.pt: not a file of torch, or a damaged one|b\.pt: pickled"):
        load_subject("b.pt")


@pytest.mark.parametrize("content", [lambda net: net, lambda net: {"model": net, "epoch": 3}], ids=["bare", "below"])
def test_a_whole_network_in_a_pickle(content: Any) -> None:
    network = small()
    torch.save(content(network), "a.pt")
    subject = load_subject("a.pt", trust=True)
    torch.testing.assert_close(scores(subject, noise()), network.eval()(noise()).detach())
    torch.save({"state": Hostile(Path("m"))}, "b.pt")
    with pytest.raises(UsageError, match="expected a whole network, got dict"):
        load_subject("b.pt", trust=True)


# Networks of roteq


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    made = Classifier({"name": "cnn"}, {"crop": 32}, ["no", "yes"], 3)
    made.mean.fill_(100.0)
    made.std.fill_(50.0)
    return made.eval()


def test_a_run_of_roteq(classifier: Classifier, tmp_path: Path) -> None:
    checkpoint = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams)}
    classifier.on_save_checkpoint(checkpoint)
    (tmp_path / "runs/one").mkdir(parents=True)
    torch.save(checkpoint, "runs/one/best.ckpt")
    images = 255 * noise(2, 3, 32)
    for name in ("runs/one", "runs/one/best.ckpt"):
        subject = load_subject(name)
        assert (subject.channels, subject.size, subject.resize) == (3, (32, 32), 0)
        assert (subject.classes, subject.normalize) == (("no", "yes"), Normalization.of("raw"))
        torch.testing.assert_close(scores(subject, images), classifier.answer(images).detach())
        assert subject.module is not None
        torch.testing.assert_close(subject.module(images), classifier.answer(images))
        assert any("conv" in path for path, _ in subject.module.named_modules())
    with pytest.raises(UsageError, match="name one of its runs: one"):
        load_subject("runs")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").touch()
    with pytest.raises(UsageError, match=r"with best\.ckpt in it; did you mean hf:hf\?"):
        load_subject("hf")


# Libraries


def test_timm_with_a_file_of_weights() -> None:
    network = timm.create_model("test_resnet", num_classes=5)
    torch.save(network.state_dict(), "w.pth")
    subject = load_subject("timm:test_resnet.r160_in1k", weights="w.pth")
    assert (subject.size, subject.resize, subject.interpolation) == ((160, 160), 168, "bilinear")
    assert subject.channels == 3 and subject.normalize is not None
    assert subject.normalize.mean == pytest.approx([127.5] * 3)
    assert any("w.pth" in note for note in subject.notes)
    torch.testing.assert_close(scores(subject, noise(2, 3, 64)), network.eval()(noise(2, 3, 64)).detach())


def test_timm_of_one_channel_is_normalised_with_the_average() -> None:
    torch.save(timm.create_model("resnet18", in_chans=1, num_classes=2).state_dict(), "w.pth")
    subject = load_subject("timm:resnet18.tv_in1k", weights="w.pth", in_channels=1)
    assert subject.normalize is not None and subject.normalize.mean == pytest.approx(
        [255 * (0.485 + 0.456 + 0.406) / 3]
    )
    assert any("average over the channels" in note for note in subject.notes)


def test_features_instead_of_scores() -> None:
    network = timm.create_model("test_resnet", num_classes=5).eval()
    torch.save(network.state_dict(), "w.pth")
    images = noise(2, 3, 64)
    features = network.forward_head(network.forward_features(images), pre_logits=True).detach()
    subject = load_subject("timm:test_resnet", weights="w.pth", kind="embedding")
    torch.testing.assert_close(scores(subject, images), features)
    assert subject.kind == "embedding"


def test_a_baseline_of_roteq() -> None:
    network = create("resnet18", num_classes=5).eval()
    torch.save(network.net.state_dict(), "w.pth")
    images = noise(2, 3, 32)
    torch.testing.assert_close(scores(load_subject("resnet18", weights="w.pth"), images), network(images).detach())
    features = scores(load_subject("resnet18", weights="w.pth", kind="embedding"), images)
    torch.testing.assert_close(network.net.fc(features), network(images))


def test_a_download_is_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    state = create("resnet18", num_classes=1000).net.state_dict()
    monkeypatch.setattr("roteq.models.baselines._downloaded", lambda name: state)
    subject = load_subject("resnet18", pretrained=True)
    assert scores(subject, noise(1, 3, 32)).shape == (1, 1000)
    assert "weights: downloaded" in subject.notes


def test_random_weights_are_not_audited() -> None:
    missing = "the trained weights are not on this machine; add --pretrained to download them, or --weights FILE"
    for name in ("timm:test_resnet", "torchvision:shufflenet_v2_x0_5", "resnet18"):
        with pytest.raises(RoteqError, match=f"{name}: {missing}"):
            load_subject(name)
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), "w.pth")
    with pytest.raises(UsageError, match="answers would be random; leave --num-classes out"):
        load_subject("timm:test_resnet", weights="w.pth", num_classes=7)
    with pytest.raises(UsageError, match="--pretrained: either"):
        load_subject("timm:test_resnet", weights="w.pth", pretrained=True)


def test_timm_finds_the_weights_of_the_hugging_face_cache(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = timm.create_model("test_resnet").eval()
    folder = tmp_path / "hub/models--timm--test_resnet.r160_in1k"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    save_file(network.state_dict(), folder / "snapshots/abc/model.safetensors")
    subject = load_subject("timm:test_resnet")
    torch.testing.assert_close(scores(subject, noise(2, 3, 64)), network(noise(2, 3, 64)).detach())
    assert any("of this machine (model.safetensors)" in note for note in subject.notes)
    with pytest.raises(UsageError, match="answers would be random"):
        load_subject("timm:test_resnet", num_classes=7)


def test_torchvision_finds_its_own_downloads(tmp_path: Path) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    network = shufflenet_v2_x0_5().eval()
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / Path(ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name)
    subject = load_subject("torchvision:shufflenet_v2_x0_5")
    assert (subject.size, subject.resize, subject.interpolation) == ((224, 224), 256, "bilinear")
    assert subject.normalize is not None and subject.normalize.mean == pytest.approx(IMAGENET.mean)
    assert subject.classes is not None and len(subject.classes) == 1000
    images = noise(2, 3, 64)
    torch.testing.assert_close(scores(subject, images), network(images).detach())
    features = scores(load_subject("torchvision:shufflenet_v2_x0_5", kind="embedding"), images)
    torch.testing.assert_close(network.fc(features), network(images))
    smaller = load_subject("torchvision:shufflenet_v2_x0_5", size=112, normalize="unit", classes=["x"] * 1000)
    assert (smaller.size, smaller.resize, smaller.normalize) == ((112, 112), 128, Normalization.of("unit"))


def test_a_network_of_one_size_is_built_for_the_size_that_is_given() -> None:
    network = timm.create_model("test_vit", img_size=64, num_classes=3).eval()
    torch.save(network.state_dict(), "w.pth")
    subject = load_subject("timm:test_vit", weights="w.pth", size=64)
    assert subject.size == (64, 64)
    torch.testing.assert_close(scores(subject, noise(2, 3, 64)), network(noise(2, 3, 64)).detach())


def test_what_is_cached_is_asked_of_the_disk_only() -> None:
    assert cached_weights("timm:resnet18") is None
    assert cached_weights("timm:no_such") is None
    assert cached_weights("torchvision:resnet18") is None
    assert cached_weights("torchvision:no_such") is None


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification
    from transformers.utils import logging

    folder = tmp_path_factory.mktemp("hf") / "model"
    labels = {0: "cat", 1: "dog", 2: "eel"}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=labels)
    logging.disable_progress_bar()
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(
        size={"shortest_edge": 56}, crop_pct=0.875, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.2, 0.1]
    ).save_pretrained(folder)
    return folder


def test_a_transformers_model(hugging_face: Path) -> None:
    from transformers import ResNetForImageClassification

    network = ResNetForImageClassification.from_pretrained(hugging_face).eval()
    subject = load_subject(f"hf:{hugging_face}")
    assert (subject.size, subject.resize, subject.interpolation) == ((56, 56), 64, "bicubic")
    assert (subject.classes, subject.channels) == (("cat", "dog", "eel"), 3)
    assert subject.normalize is not None
    assert subject.normalize.mean == pytest.approx((127.5, 102, 76.5)) and subject.normalize.std[2] == pytest.approx(
        25.5
    )
    torch.testing.assert_close(scores(subject, noise(2, 3, 56)), network(noise(2, 3, 56)).logits.detach())
    torch.testing.assert_close(scores(as_subject(network), noise(2, 3, 56)), network(noise(2, 3, 56)).logits.detach())
    assert as_subject(network).classes == ("cat", "dog", "eel")
    features = load_subject(f"hf:{hugging_face}", kind="embedding")
    assert scores(features, noise(2, 3, 56)).shape == (2, 16)


def test_a_hub_model_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match=r"hf:no/such: not on this machine.*add --pretrained"):
        load_subject("hf:no/such")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RoteqError, match="hf:empty: could not be loaded"):
        load_subject("hf:empty")
    for name, error in {"hf:": "expected hf:NAME or hf:FOLDER"}.items():
        with pytest.raises(UsageError, match=error):
            load_subject(name)
    with pytest.raises(UsageError, match="--num-classes: a model of the Hugging Face hub has its own"):
        load_subject("hf:no/such", num_classes=3)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RoteqError, match=r"pip install 'roteq\[hub\]'"):
        load_subject("hf:no/such")


def test_a_hub_model_with_code_of_its_own_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "custom").mkdir()
    names = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    (tmp_path / "custom/config.json").write_text(json.dumps({"model_type": "mine", "auto_map": names}))
    (tmp_path / "custom/code.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    with pytest.raises(UsageError, match="hf:custom: comes with code of its own; add --trust"):
        load_subject("hf:custom")
    assert not (tmp_path / "marker").exists()


def test_hostile_pickled_weights_of_a_hub_model_are_not_run(hugging_face: Path, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/config.json").write_text((hugging_face / "config.json").read_text())
    torch.save({"a": Hostile(tmp_path / "marker")}, tmp_path / "evil/pytorch_model.bin")
    with pytest.raises(RoteqError, match="hf:evil: could not be loaded"):
        load_subject("hf:evil", trust=True)
    assert not (tmp_path / "marker").exists()


def test_a_hub_model_without_a_head_is_not_audited(hugging_face: Path, tmp_path: Path) -> None:
    from transformers import ResNetForImageClassification

    ResNetForImageClassification.from_pretrained(hugging_face).resnet.save_pretrained(tmp_path / "body")
    with pytest.raises(UsageError, match=r"no weights for classifier.*add --output embedding"):
        load_subject("hf:body")


# The user's own functions


def test_functions_of_a_file_and_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownmodels.py").write_text(
        "import torch\n"
        "def mean(x): return x.mean((2, 3))\n"
        "def make(side=4): return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.AdaptiveAvgPool2d(1))\n"
        "def broken(): raise KeyError('lost')\n"
        "def number(): return 3\n"
        "class Ns: inner = staticmethod(mean)\n"
        "net = make()\n"
    )
    for prefix, trust in (("ownmodels", False), ("ownmodels.py", True)):
        torch.testing.assert_close(scores(load_subject(f"{prefix}:mean", trust=trust), noise()), noise().mean((2, 3)))
        assert scores(load_subject(f"{prefix}:make", trust=trust), noise()).shape == (2, 2)
        with pytest.raises(RoteqError, match=rf"{prefix}:broken: failed with KeyError: 'lost'"):
            load_subject(f"{prefix}:broken", trust=trust)
        with pytest.raises(UsageError, match=r"expected a function that returns an nn.Module.*got int"):
            load_subject(f"{prefix}:number", trust=trust)
        with pytest.raises(UsageError, match=r"no .*'maen'.*did you mean 'mean'"):
            load_subject(f"{prefix}:maen", trust=trust)
        with pytest.raises(UsageError, match=r"--num-classes: .* decides that itself"):
            load_subject(f"{prefix}:make", trust=trust, num_classes=3)
    assert load_subject("ownmodels:net").module is not None
    assert scores(load_subject("ownmodels:Ns.inner"), noise()).shape == (2, 3)
    state = {"0.weight": torch.ones(2, 3, 1, 1), "0.bias": torch.zeros(2)}
    torch.save(state, "w.pth")
    subject = load_subject("ownmodels:make", weights="w.pth")
    torch.testing.assert_close(scores(subject, noise())[:, 0], noise().mean((2, 3)).sum(1))
    with pytest.raises(UsageError, match=r"--weights: ownmodels:mean gives function, not an nn\.Module"):
        load_subject("ownmodels:mean", weights="w.pth")
    with pytest.raises(UsageError, match="no module 'nosuchmodule', here or installed"):
        load_subject("nosuchmodule:mean")
    monkeypatch.delitem(sys.modules, "ownmodels")


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="unknown model 'resnet19'; did you mean 'resnet18'"):
        load_subject("resnet19")
    with pytest.raises(UsageError, match="unknown model 'zzz'; expected the folder of a run, timm:NAME"):
        load_subject("zzz")
    with pytest.raises(UsageError, match="unknown model 'test_resnet'; did you mean 'timm:test_resnet'"):
        load_subject("test_resnet")
    with pytest.raises(UsageError, match="no module 'tim', here or installed; did you mean 'timm'"):
        load_subject("tim:resnet18")
    for name in ("runs/none", "none.pt2"):
        with pytest.raises(UsageError, match=f"{name}: no such file or folder"):
            load_subject(name)
    Path("a.txt").touch()
    with pytest.raises(UsageError, match=r"a\.txt: cannot be told what kind of model this is"):
        load_subject("a.txt")
    Path("a.onnx").touch()
    with pytest.raises(UsageError, match=r"--weights: a\.onnx holds its own weights"):
        load_subject("a.onnx", weights="w.pth")
    with pytest.raises(UsageError, match="--size: expected a number of pixels or height and width, got 0"):
        load_subject("a.onnx", size=0)
    with pytest.raises(UsageError, match="timm: unknown model 'resnet81'"):
        load_subject("timm:resnet81")


# Objects


def test_a_module_is_asked_in_evaluation_mode_and_left_as_it_was() -> None:
    network = small().train()
    network[4].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    subject = as_subject(network, size=(16, 20), classes=["a", "b", "c"], name="mine")
    answer = subject.ask(noise())
    assert [part.training for part in network] == [True, True, True, True, False, True]
    assert not answer.requires_grad
    torch.testing.assert_close(network.state_dict(), before)
    torch.testing.assert_close(answer, small_again(network)(noise()))
    assert (subject.name, subject.size, subject.classes) == ("mine", (16, 20), ("a", "b", "c"))
    assert subject.module is network and subject.normalize is None

    def fail(*_: Any) -> None:
        raise ValueError("no\nmore")

    network[0].register_forward_hook(fail)
    with pytest.raises(UsageError, match=r"mine: failed on .* \(ValueError: no\); if it takes another size"):
        checked_ask(subject, noise())
    assert network.training


def small_again(network: nn.Module) -> nn.Module:
    copied = small()
    copied.load_state_dict(network.state_dict())
    return copied.eval()


def test_the_precision_is_that_of_the_weights() -> None:
    network = small().double()
    assert as_subject(network).ask(noise()).dtype == torch.float64
    assert read_answer(as_subject(network).ask(noise()), 2, None, "m")[0].dtype == torch.float32


def test_a_timm_network_says_its_input() -> None:
    subject = as_subject(timm.create_model("resnet18.tv_in1k"), resize=300)
    assert (subject.size, subject.resize, subject.channels) == ((224, 224), 300, 3)
    assert subject.normalize is not None and subject.normalize.mean == pytest.approx(IMAGENET.mean)


def test_a_classifier_and_a_subject(classifier: Classifier) -> None:
    subject = as_subject(classifier)
    assert (subject.classes, subject.resize, subject.size) == (("no", "yes"), 0, (32, 32))
    assert as_subject(subject, normalize="unit", name="b").normalize == Normalization.of("unit")
    assert as_subject(subject, name="b").name == "b"


def test_scikit_learn() -> None:
    rows = np.random.default_rng(0).random((60, 3 * 4 * 4)).astype(np.float32)
    forest = RandomForestClassifier(5, random_state=0).fit(rows, (rows[:, 0] > 0.5).astype(int))
    joblib.dump(forest, "a.joblib")
    with pytest.raises(UsageError, match="add --trust"):
        load_subject("a.joblib")
    Path("a.pkl").write_bytes(pickle.dumps(forest))
    for subject in (as_subject(forest), load_subject("a.joblib", trust=True), load_subject("a.pkl", trust=True)):
        assert (subject.channels, subject.size, subject.classes) == (3, (4, 4), ("0", "1"))
        found = scores(subject, torch.from_numpy(rows.reshape(60, 3, 4, 4))).softmax(1)
        np.testing.assert_allclose(found, forest.predict_proba(rows), atol=1e-6)
        with pytest.raises(UsageError, match="48 features as input"):
            checked_ask(subject, noise())
    several = types.SimpleNamespace(predict_proba=lambda x: [np.ones((2, 2))] * 2)
    with pytest.raises(UsageError, match="one answer at a time"):
        checked_ask(as_subject(several), noise())


def test_a_function_and_what_is_no_model() -> None:
    subject = as_subject(lambda x: x.mean((2, 3)).numpy(), normalize=([0.5], [0.5]))
    torch.testing.assert_close(scores(subject, noise()), noise().mean((2, 3)))
    assert subject.normalize == Normalization((127.5,), (127.5,))
    with pytest.raises(UsageError, match="expected a model, a function of pictures or an object with predict_proba"):
        as_subject(3)


def test_one_output_of_several() -> None:
    for output_key in ("1", 1):
        subject = as_subject(lambda x: (x, x.mean((2, 3))), output_key=output_key)
        torch.testing.assert_close(scores(subject, noise()), noise().mean((2, 3)))
    with pytest.raises(UsageError, match="--output-key: the model returns no 'c'; choose from 'a', 'b'"):
        checked_ask(as_subject(lambda x: {"a": x, "b": x}, output_key="c"), noise())
    again = as_subject(as_subject(lambda x: {"a": x, "b": 2 * x}), output_key="b")
    torch.testing.assert_close(again.ask(noise()), 2 * noise())


# Answers


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    "output",
    [
        torch.tensor([[1.0, 2.0]]),
        np.array([[1.0, 2.0]]),
        {"logits": torch.tensor([[1.0, 2.0]]), "other": torch.zeros(3)},
        {"any": torch.tensor([[1.0, 2.0]]), "loss": None},
        (torch.tensor([[1.0, 2.0]]), None),
        [torch.tensor([[1, 2]])],
        Output(torch.zeros(3), torch.tensor([[1.0, 2.0]])),
        torch.tensor([[[[1.0]], [[2.0]]]]),
        torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16),
    ],
    ids=["tensor", "array", "logits", "only", "tuple", "integers", "dataclass", "1x1", "bfloat16"],
)
def test_scores_are_found(output: Any) -> None:
    found, kind = read_answer(output, 1, None, "m")
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0]]))
    assert kind == "classes"


def test_one_binary_score_is_two_logits() -> None:
    z = torch.tensor([-1.0, 2.0])
    for output in (z, z[:, None], z[:, None, None, None]):
        found, _ = read_answer(output, 2, None, "m")
        torch.testing.assert_close(found.softmax(1)[:, 1], z.sigmoid())
    assert read_answer(z, 2, "labels", "m")[0].shape == (2, 1)
    assert read_answer(z[:, None], 2, "embedding", "m")[0].shape == (2, 1)


def test_maps() -> None:
    z = noise(2, 1, 4)
    found, kind = read_answer(z, 2, None, "m")
    assert kind == "map"
    torch.testing.assert_close(found.softmax(1)[:, 1:], z.sigmoid())
    torch.testing.assert_close(read_answer(z[:, 0], 2, "map", "m")[0], found)
    assert read_answer(noise(2, 5, 4), 2, None, "m")[0].shape == (2, 5, 4, 4)
    assert read_answer(noise(2, 5, 1), 2, "map", "m")[0].shape == (2, 5, 1, 1)


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4)), None, r"a tuple of 2 \(shapes 0 \(2, 3\), 1.*--output-key 0 or 1"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2)}, None, r"a dictionary with a \(2, 3\), b.*--output-key a or b"),
        ({"a": None}, None, "got dict without any tensor"),
        ("text", None, "expected a tensor of scores, got str"),
        (None, None, "expected a tensor of scores, got NoneType"),
        (torch.zeros(3, 4), None, r"expected one answer for each of 2 pictures, got an output of shape \(3, 4\)"),
        (torch.tensor(1.0), None, r"got an output of shape \(\)"),
        (torch.zeros(2, 3, dtype=torch.complex64), None, "expected real numbers, got complex64"),
        (torch.zeros(2, dtype=torch.bool), None, "expected real numbers, got bool"),
        (torch.zeros(2, dtype=torch.long), None, r"got int64 of shape \(2,\), which are decisions"),
        (torch.zeros(2, 7, 8), None, r"expected scores \(B, K\), got \(2, 7, 8\): one answer for every part"),
        (torch.zeros(2, 3, 4, 4), "classes", r"classes are \(B, K\), got maps of shape \(2, 3, 4, 4\)"),
        (torch.zeros(2, 3), "map", r"a map is \(B, K, H, W\), got \(2, 3\)"),
        (torch.zeros(2, 3), "clases", "unknown kind 'clases'; did you mean 'classes'"),
    ],
)  # fmt: skip
def test_what_is_no_score_is_refused(output: Any, kind: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_answer(output, 2, kind, "m")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_diverged_model_is_an_error(value: float) -> None:
    output = torch.zeros(3, 2)
    output[1, 0] = value
    with pytest.raises(RoteqError, match="m: the output holds NaN or infinity for 1 of 3 pictures; was its training"):
        read_answer(output, 3, None, "m")


def test_probabilities_are_told_from_logits() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    chances = logits.softmax(1)
    assert looks_like_probabilities(chances) and not looks_like_probabilities(logits)
    assert not looks_like_probabilities(logits.sigmoid())
    torch.testing.assert_close(log_probabilities(chances).softmax(1), chances)
    assert looks_like_probabilities(torch.rand(2, 3, 4, 4).softmax(1))
    both = torch.stack([torch.zeros(50), logits[:, 0]], 1)
    one = torch.stack([torch.zeros(50), logits[:, 0].sigmoid()], 1)
    assert looks_like_one_probability(one) and not looks_like_one_probability(both)
    assert not looks_like_probabilities(one) and not looks_like_one_probability(chances)
    torch.testing.assert_close(log_probabilities(one).softmax(1)[:, 1], logits[:, 0].sigmoid())


def test_lack_of_memory_is_left_to_the_caller() -> None:
    def fail(_: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA"):
        checked_ask(as_subject(fail), noise())


def test_every_public_name_is_there() -> None:
    assert sorted(loading.__all__) == list(loading.__all__) and all(hasattr(loading, name) for name in loading.__all__)
