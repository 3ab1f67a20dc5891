"""The registry, the model configuration, and the standard networks with their weights."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from roteq.config import load_config, save_yaml, to_yaml, validate
from roteq.errors import RoteqError, UsageError
from roteq.models import MODELS, ModelConfig, create
from roteq.models.baselines import load_adapted


def images(channels: int = 3, size: int = 32, n: int = 2) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file of resnet18 weights of a 1000-class network for colour pictures."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(create("resnet18", num_classes=1000).net.state_dict(), path)
    return str(path)


def one_step(model: nn.Module) -> None:
    model.train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(model(images(n=4)), torch.tensor([0, 1, 0, 1])).backward()
    optimiser.step()


# registry


def test_the_registry_is_sorted_and_every_function_takes_channels_and_classes():
    assert list(MODELS) == sorted(MODELS)
    for name in MODELS:
        assert ModelConfig(name=name).name == name


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet-18", {}, "unknown model 'resnet-18'; did you mean 'resnet18'"),
        ("resnet18", {"frieze": True}, r"resnet18: unknown option 'frieze'; did you mean 'freeze'\? \(options: in_ch"),
        ("cnn", {"match": "width"}, "cnn: match: should be 'parameters' or 'channels', got 'width'"),
        ("resnet18", {"resize": "big"}, "resnet18: resize: should be a valid integer, got 'big'"),
    ],
)
def test_a_wrong_name_option_or_value_is_refused_with_the_nearest(name, options, message):
    with pytest.raises(UsageError, match=message):
        create(name, **options)


@pytest.mark.parametrize(
    "tree, label, group",
    [
        ({"name": "se2cnn"}, "se2cnn C12", "C12"),
        ({"name": "se2cnn", "group": "p4m", "width": 3}, "se2cnn p4m width=3", "D4"),
        ({"name": "se2cnn", "group": "Z2"}, "se2cnn Z2", None),
        ({"name": "cnn", "group": "C8"}, "cnn parameters group=C8", None),
        ({"name": "cnn", "match": "channels"}, "cnn channels", None),
        ({"name": "resnet18"}, "resnet18", None),
        ({"name": "resnet18", "weights": "pretrained", "freeze": True}, "resnet18 pretrained freeze", None),
        ({"name": "resnet18", "label": "ours"}, "ours", None),
    ],
)
def test_a_model_configuration_survives_the_round_trip_through_yaml(tmp_path, tree, label, group):
    config = validate(ModelConfig, tree, "study")
    assert (config.label, config.group) == (label, group)
    save_yaml(config, tmp_path / "model.yaml")
    assert load_config(ModelConfig, tmp_path / "model.yaml") == config
    assert set(tree) <= set(config.model_dump())
    assert "options" not in config.model_dump()


def test_a_label_that_nobody_chose_follows_an_override(tmp_path):
    save_yaml(ModelConfig(name="se2cnn"), tmp_path / "model.yaml")
    assert load_config(ModelConfig, tmp_path / "model.yaml", ["group=C8"]).label == "se2cnn C8"
    assert "label" not in to_yaml(ModelConfig(name="se2cnn"))


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"name": "se2cnn", "widht": 4}, "se2cnn: unknown option 'widht'; did you mean 'width'"),
        ({"name": "se2cnn", "in_channels": 1}, "se2cnn: in_channels is given by the data and cannot be set"),
        ({"name": "se2cnn", "group": "E8"}, "expected 'Z2', 'p4', 'p4m'"),
        ({"group": "C8"}, "missing key 'name'"),
        ("se2cnn", "expected a model as keys and values"),
        ({"name": "densenet"}, "unknown model 'densenet'; did you mean 'densenet121'"),
    ],
)
def test_a_wrong_model_configuration_is_refused(tree, message):
    with pytest.raises(UsageError, match=message):
        validate(ModelConfig, tree, "study")


def test_a_configuration_builds_its_network_and_a_shell_without_weights(weights):
    config = ModelConfig.model_validate({"name": "resnet18", "weights": weights, "freeze": True})
    built, shell = config.build(3, 2), config.build(3, 2, weights=False)
    assert built.frozen and not shell.frozen
    assert not torch.equal(built.net.conv1.weight, shell.net.conv1.weight)
    shell.load_state_dict(built.state_dict())


# networks


@pytest.mark.parametrize("name, size", [("alexnet", 63), ("densenet121", 32), ("resnet18", 32), ("resnet50", 32)])
def test_every_baseline_gives_logits_at_its_smallest_size_and_refuses_less(name, size):
    model = create(name, in_channels=1, num_classes=3).eval()
    logits = model(images(1, size))
    assert logits.shape == (2, 3) and logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])
    with pytest.raises(
        UsageError, match=f"{name}: expected pictures of at least {size}x{size} .*set resize={2 * size}"
    ):
        model(images(1, size - 1))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_alexnet_and_resnet_take_any_number_of_channels(channels):
    assert create("alexnet", in_channels=channels, resize=64)(images(channels, 20)).shape == (2, 2)
    assert create("resnet18", in_channels=channels)(images(channels)).shape == (2, 2)


def test_resize_happens_inside_the_network():
    model = create("resnet18", resize=48).eval()
    for size in (32, 96):
        resized = nn.functional.interpolate(images(size=size), (48, 48), mode="bilinear", antialias=True)
        assert_close(model(images(size=size)), model.net(resized))
    with pytest.raises(UsageError, match="alexnet: resize: expected at least 63 pixels, got 40"):
        create("alexnet", resize=40)


def test_every_parameter_of_resnet18_gets_a_gradient():
    model = create("resnet18")
    model(images(size=64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# weights


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module.", "safetensors"])
def test_local_weights_are_loaded_from_every_usual_form(tmp_path, weights, wrap):
    state = torch.load(weights, weights_only=True)
    path = tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pt")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "module.":
        torch.save({"module." + key: value for key, value in state.items()}, path)
    else:
        torch.save(state if wrap == "bare" else {wrap: state, "epoch": 3}, path)
    model = create("resnet18", weights=str(path))
    assert_close(model.net.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    assert model.net.fc.weight.shape == (2, 512)


def test_a_head_of_the_same_size_is_kept(weights):
    model = create("resnet18", num_classes=1000, weights=weights)
    assert_close(model.net.fc.weight, torch.load(weights, weights_only=True)["fc.weight"])


def test_the_first_convolution_answers_a_grey_picture_as_it_answered_it_in_three_channels(weights):
    grey = images(1)
    one, three = create("resnet18", in_channels=1, weights=weights), create("resnet18", weights=weights)
    assert_close(one.net.conv1(grey), three.net.conv1(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    four = create("resnet18", in_channels=4, weights=weights).net.conv1.weight
    assert_close(four[:, :3], three.net.conv1.weight * 3 / 4)


def test_torchvision_files_fit_old_names_included(tmp_path):
    """torchvision's densenet121 file says norm.1 where networks say norm1, and has no batch counters."""
    own = create("densenet121", num_classes=5).net.state_dict()
    old = {
        key.replace("norm1", "norm.1").replace("conv1", "conv.1") if "denselayer" in key else key: value
        for key, value in own.items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "old.pth")
    model = create("densenet121", num_classes=5, weights=str(tmp_path / "old.pth"))
    assert_close(dict(model.net.state_dict()), dict(own))


def test_weights_of_another_model_are_refused_with_their_keys(weights):
    with pytest.raises(
        UsageError, match=r"another model: \d+ missing \(classifier.1.bias, .*unknown \(bn1.bias, .*\.\.\.\)"
    ):
        create("alexnet", weights=weights)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2, 2))
    state = {**net.state_dict(), "1.weight": torch.zeros(2, 2, 5, 5)}
    with pytest.raises(UsageError, match=r"here: a checkpoint of another model: 1 of another shape \(1.weight\)"):
        load_adapted(net, state, "here", first="0", head="2")


@pytest.mark.parametrize(
    "content, suffix, message",
    [
        (b"not weights at all", ".pth", "not a checkpoint of weights, or a damaged one"),
        (b"not weights at all", ".safetensors", "not a checkpoint of weights, or a damaged one"),
        ({"epoch": 3}, ".pt", "not a checkpoint of weights: expected tensors by name"),
        (nn.Linear(2, 2), ".pt", "not a checkpoint of weights, or a damaged one"),  # a pickle that would run code
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_a_failed_job(tmp_path, content, suffix, message):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(RoteqError, match=message) as caught:
        create("resnet18", weights=str(path))
    assert not isinstance(caught.value, UsageError)


def test_a_missing_file_is_a_wrong_call():
    with pytest.raises(UsageError, match="weights: no file pretraind; expected 'pretrained' or the path"):
        create("resnet18", weights="pretraind")


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_a_failed_download_names_the_local_file(monkeypatch, name):
    import timm
    from torchvision.models import AlexNet_Weights

    def offline(*args, **kwargs):
        if not kwargs.get("pretrained", True):
            return original(*args, **kwargs)
        raise OSError("no route to host")

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", offline)
    with pytest.raises(RoteqError, match=rf"{name}: the pretrained .*\(no route to host\).*give its path as weights="):
        create(name, weights="pretrained")


# frozen


def test_a_frozen_backbone_does_not_move_and_its_head_learns(weights):
    model = create("resnet18", weights=weights, freeze=True)
    before = {key: value.clone() for key, value in model.net.state_dict().items()}
    one_step(model)
    moved = {key for key, value in model.net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"fc.weight", "fc.bias"}
    assert not model.net.bn1.training and model.training and model.head.training


def test_an_unfrozen_backbone_moves_statistics_included(weights):
    model = create("resnet18", weights=weights)
    before = {key: value.clone() for key, value in model.net.state_dict().items()}
    one_step(model)
    moved = {key for key, value in model.net.state_dict().items() if not torch.equal(value, before[key])}
    assert {"conv1.weight", "bn1.running_mean", "fc.weight"} <= moved


def test_a_frozen_network_answers_alike_in_training_and_evaluation(weights):
    model = create("resnet18", weights=weights, freeze=True)
    assert_close(model.train()(images()), model.eval()(images()))
    assert math.isfinite(model(images()).sum().item())


def test_freezing_random_features_is_refused():
    with pytest.raises(UsageError, match="resnet18: freeze=True would keep random features; set weights too"):
        create("resnet18", freeze=True)
