"""Every network: shapes, numbers, gradients, states, programs, invariance, and the published parameter counts."""

import copy
import time

import pytest
import torch
from networks import HEAVY, INVARIANT, NETWORKS, RANDOM, config, images, sweep, trained, untrained
from torch.testing import assert_close

from roteq.errors import UsageError
from roteq.models import MODELS, ModelConfig, create
from roteq.models.registry import GROUP_NETWORKS, MAP_NETWORKS
from roteq.testing import assert_equivariant, equivariance_error

PUBLISHED = {  # (model, options, channels, classes) -> parameters
    ("z2cnn", (), 1, 10): 21_750,
    ("p4cnn_rotation_pooling", (), 1, 10): 21_750,
    ("p4cnn", (), 1, 10): 24_680,
    ("allcnn_c", (("group", "Z2"),), 3, 10): 1_372_254,
    ("allcnn_c", (("group", "p4"),), 3, 10): 1_371_006,
    ("allcnn_c", (("group", "p4m"),), 3, 10): 1_219_678,
    ("resnet44", (("group", "Z2"),), 3, 10): 2_639_434,
    ("resnet44", (("group", "p4m"), ("head", "original")), 3, 10): 2_622_878,
    ("resnet26", (("group", "Z2"),), 3, 10): 7_236_046,
    ("resnet26", (("group", "p4m"), ("head", "original")), 3, 10): 7_173_110,
    ("p4m_densenet", (("group", "Z2"),), 3, 1): 111_337,
    ("p4m_densenet", (("group", "p4"),), 3, 1): 129_104,
    ("p4m_densenet", (("group", "p4m"),), 3, 1): 123_400,
}
SLOW_TO_COMPILE = (
    *HEAVY,
    "twin resnet18 p4",
    "resnet44 p4",
    "resnet26 p4m",
    "resnet18",
    "se2cnn D4",
    "e2_mnist C8",
    "p4m_densenet C8",
    "p4m_densenet",
    "p4cnn_rotation_pooling",
    "allcnn_c p4m",
    "e2_mnist D4|C4",
)


def test_every_model_is_swept():
    assert {model for model, *_ in NETWORKS.values()} == set(MODELS) - {*MAP_NETWORKS}
    assert {NETWORKS[name][0] for name in INVARIANT} == {*GROUP_NETWORKS} - {"se2cnn_study", *MAP_NETWORKS}


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_parameters_are_as_published(case):
    model, options, channels, classes = case
    net = create(model, in_channels=channels, num_classes=classes, **dict(options))
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED[case]


@pytest.mark.parametrize(
    ("order", "features", "thousands"),
    [(1, 40, 126.6), (4, 20, 127.7), (8, 14, 126.9), (12, 11, 119.2), (16, 10, 132.0)],
)
def test_weights_of_the_published_se2_pcam(order, features, thousands):
    net = create("se2_pcam", in_channels=3, num_classes=2, group=f"C{order}", basis="pixel")
    weights = sum(p.numel() for name, p in net.named_parameters() if p.ndim > 1)
    assert net.features[0].out_channels == features and round(weights / 1000, 1) == thousands


@pytest.mark.parametrize("name", sweep())
def test_logits_are_finite_and_differ_between_pictures(name):
    net, x = trained(name), images(name)
    for training in (False, True):
        with torch.no_grad():
            y = net.train(training)(x)
        assert y.shape == (4, 4) and y.isfinite().all()
        assert (y - y.roll(1, 0)).norm() > 1e-3 * y.norm()


@pytest.mark.parametrize("name", sweep())
def test_every_parameter_gets_a_gradient(name):
    """In eval mode: in training the bias before a BatchNorm has none but rounding."""
    net = trained(name)
    net(images(name, 8)).square().sum().backward()
    without = [
        key for key, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert not without


@pytest.mark.parametrize("name", sweep(INVARIANT))
def test_networks_are_invariant_under_their_exact_elements(name):
    """float32 and float64, train and eval, odd and even sides."""
    net, group, side = trained(name), config(name).group, NETWORKS[name][3]
    fits = side > {"e2_mnist D4|C4": 20, "se2_pcam C8": 88}.get(name, 0)
    assert_equivariant(net, group, images(name), output="invariant", parities=fits)


@pytest.mark.parametrize("name", sweep([name for name in NETWORKS if name not in INVARIANT]))
def test_plain_networks_fail_the_same_check(name):
    error = equivariance_error(trained(name), "C4", images(name), 1)
    assert error is not None and error > 0.05


@pytest.mark.parametrize("name", INVARIANT)
def test_a_group_network_over_the_trivial_group_fails_too(name):
    model, options, channels, _ = NETWORKS[name]
    torch.manual_seed(0)
    plain = {key: value for key, value in options.items() if key != "restrict"} | {"group": "Z2"}
    net = create(model, in_channels=channels, num_classes=4, **plain).eval()
    error = equivariance_error(net, "C4", images(name), 1)
    assert error is not None and error > 0.05


@pytest.mark.parametrize("name", sweep())
def test_states_load_in_both_modes(name):
    net, x = trained(name), images(name)
    for training in (True, False):
        other = untrained(name).train(training)
        other.load_state_dict(net.state_dict())
        assert torch.equal(other.eval()(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(slow=SLOW_TO_COMPILE))
def test_networks_compile_into_one_graph(name):
    torch.compiler.reset()
    net, x = trained(name), images(name)
    twin = copy.deepcopy(net)
    twin.compile(fullgraph=True, backend="aot_eager")
    assert_close(twin(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(slow=(*HEAVY, "resnet44 p4", "resnet26 p4m")))
def test_networks_export_for_any_batch(name):
    net, x = trained(name), images(name)
    program = torch.export.export(copy.deepcopy(net), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = images(name, 6)
    assert_close(program.module()(more), net(more), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in RANDOM])
def test_networks_train_compiled(name):
    torch.compiler.reset()
    net, x = trained(name).train(), images(name)
    twin = copy.deepcopy(net)
    twin.compile(fullgraph=True, backend="inductor")
    assert_close(twin(x), net(x), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted({*MODELS} - {"twin"}))
def test_networks_are_built_at_once(model):
    """0.2 s is the budget; the slack is for a machine that does other things. A twin is measured before it is given."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        create(model, in_channels=3 if model != "se2cnn_study" else 1, num_classes=2)
        times.append(time.perf_counter() - begin)
    assert min(times[1:]) < 0.4


@pytest.mark.parametrize("model", GROUP_NETWORKS)
def test_a_group_that_is_none_is_refused(model):
    with pytest.raises(UsageError, match="group: expected 'Z2', 'p4', 'p4m', 'C<N>', 'D<N>' or 'SE"):
        create(model, in_channels=1, num_classes=2, group="p5")


def test_a_network_promises_the_elements_that_it_keeps():
    trees = [
        {"name": "e2_mnist", "group": "D8", "restrict": "C8"},
        {"name": "resnet44", "head": "original"},
        {"name": "resnet44"},
    ]
    assert [ModelConfig.model_validate(tree).group for tree in trees] == ["C8", None, "D4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "resnet-18"}, r"twin: unknown network 'resnet-18'; did you mean 'resnet18'\?"),
        ({"weights": "pretrained"}, r"twin: weights need width='features'.*got width='parameters'"),
        ({"weights": "x.pt", "width": 0.5}, r"twin: weights need width='features'.*got width=0\.5"),
        ({"width": "chanels"}, r"width.*'chanels'"),
        ({"group": "p5"}, "group: expected"),
    ],
)
def test_impossible_twins_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        create("twin", in_channels=3, num_classes=2, **options)
