"""convert: networks written in other ways, several inputs, frozen parts; and what is refused, and how it is said."""

import copy
import warnings

import pytest
import timm
import torch
from conversions import average, errors, head, made, network, noise
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from roteq import convert
from roteq.errors import UsageError
from roteq.groups import group as named_group
from roteq.nn import GroupConv2d, LiftingConv2d, plain

D4 = named_group("D4")


class Functional(nn.Module):
    """Nothing but functions and parameters."""

    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(0.2 * torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.w2 = nn.Parameter(0.2 * torch.randn(12, 8, 3, 3))
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))
        self.w3, self.b3 = nn.Parameter(torch.randn(4, 12)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        x = F.conv2d(x, self.w1, self.b1, stride=2, padding=1)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.scale, self.shift, self.training)
        x = F.max_pool2d(F.relu(x), 2, stride=2)
        x = F.conv2d(x, self.w2, padding=1).relu()
        return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), self.w3, self.b3)


class Free(nn.Module):
    """Layers of one's choice, and a forward of one's choice."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)


class One(Free):
    def forward(self, x):
        return self.run(self, x)


class Two(Free):
    def forward(self, x, other):
        return self.run(self, x, other)


def one(forward, **layers):
    return made(lambda: One(forward, **({"a": nn.Conv2d(3, 8, 3, padding=1), "head": head(8)} | layers)))


def two(forward, **layers):
    return made(lambda: Two(forward, **({"a": nn.Conv2d(3, 8, 3, padding=1)} | layers)))


@pytest.mark.parametrize("width", ["parameters", 0.5, "features"])
def test_functions_and_parameters_alone_become_exact(width):
    net, x = made(Functional), noise(3, 3, 12, 12)
    twin = convert(net, "p4m", sample=x, width=width)
    assert max(errors(twin, x, "p4m", "invariant") + errors(twin, x[..., 1:, 1:], "p4m", "invariant")) < 1e-11
    assert min(errors(net, x, "p4m", "invariant")) > 0.02
    assert twin.conversion.exact and twin.conversion.rewritten == ("",)
    assert_close(plain(twin)(x), twin(x), atol=1e-5, rtol=1e-5)


def test_functions_gather_statistics_by_feature_and_train():
    net, x = made(Functional), noise(3, 3, 15, 15)
    twin = convert(net, "p4m", sample=x, width="features").train()
    before = copy.deepcopy(twin.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    twin(x).square().sum().backward()
    optimizer.step()
    assert not [key for key, value in twin.state_dict().items() if torch.equal(value, before[key])]
    assert twin.running_mean.shape == (8,) and max(errors(twin, x, "p4m", "invariant")) < 1e-11


@pytest.mark.parametrize("side", [15, 14, 12])
def test_functions_keep_the_average(side):
    net, x = made(Functional), noise(3, 3, side, side)
    twin = convert(net, "p4m", sample=x, width="features")
    assert_close(twin(x), average(net, x, "p4m"), atol=1e-5, rtol=1e-5)
    assert twin.conversion.difference < 1e-12


def test_a_norm_that_is_always_frozen_stays_so():
    """Its code says training=False, whatever the mode."""
    net = one(
        lambda m, x: m.head(F.max_pool2d(F.batch_norm(m.a(x), m.mean, m.var), 2)),
        mean=nn.Parameter(torch.zeros(8), False),
        var=nn.Parameter(torch.ones(8), False),
    )
    twin = convert(net, "p4m", sample=noise(1, 3, 9, 9), width=0.5)
    before = twin.mean.clone()
    x = noise(3, 3, 9, 9)
    assert_close(twin.train()(x), twin.eval()(x), atol=0, rtol=0)
    assert torch.equal(twin.mean, before)


def test_nested_sequences_become_exact():
    inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
    body = nn.Sequential(nn.Sequential(nn.Sequential(inner, nn.Conv2d(8, 8, 3))))
    net, x = made(lambda: nn.Sequential(body, head(8))), noise(3, 3, 9, 9)
    twin = convert(net, "p4m", sample=x, width="features")
    assert max(errors(twin, x, "p4m", "invariant")) < 1e-11
    assert isinstance(twin[0][0][0][0][0], LiftingConv2d) and isinstance(twin[0][0][0][1], GroupConv2d)


def test_a_layer_that_is_called_twice_stays_one_layer():
    net = one(lambda m, x: m.head(m.b(m.b(m.a(x).relu()).relu())), b=nn.Conv2d(8, 8, 3, padding=1))
    x = noise(3, 3, 9, 9)
    twin = convert(net, "p4m", sample=x, width="features")
    assert max(errors(twin, x, "p4m", "invariant")) < 1e-11
    assert_close(twin(x), average(net, x, "p4m"), atol=1e-5, rtol=1e-5)
    again = made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), *[nn.Conv2d(8, 8, 3)] * 2, head(8)))
    twin = convert(again, "p4m", sample=x, width=0.5)
    assert twin[1] is twin[2] and isinstance(twin[1], GroupConv2d)


def test_shared_weights_stay_shared():
    net = one(lambda m, x: m.head(m.c(m.b(m.a(x).relu()).relu())), b=nn.Conv2d(8, 8, 3), c=nn.Conv2d(8, 8, 3, 2, 1))
    net.c.weight = net.b.weight
    x = noise(3, 3, 12, 12)
    for width in (0.5, "features"):
        twin = convert(net, "p4m", sample=x, width=width)
        assert twin.c.weight is twin.b.weight and twin.c.bias is not twin.b.bias
        assert max(errors(twin, x, "p4m", "invariant")) < 1e-11


# Several inputs


def moved(inputs, g):
    return [D4.act_on_image(x.double(), g) if x.ndim == 4 else x.double() for x in inputs]


SEVERAL = {
    "two pictures": (
        lambda m, x, y: m.head(torch.cat([m.a(x).relu().mean((2, 3)), m.b(y).relu().mean((2, 3))], 1)),
        {"b": nn.Conv2d(1, 8, 3), "head": nn.Linear(16, 4)},
        (3, 1, 9, 9),
    ),
    "features beside a picture": (
        lambda m, x, y: m.head(m.b(torch.cat([y, m.a(x).relu()], 1)).relu()),
        {"b": nn.Conv2d(9, 8, 3), "head": head(8)},
        (3, 1, 9, 9),
    ),
    "a vector before the head": (
        lambda m, x, age: m.head(torch.cat([m.a(x).relu().mean((2, 3)), age], 1)),
        {"head": nn.Linear(11, 4)},
        (3, 3),
    ),
    "a vector before a hidden layer": (
        lambda m, x, age: m.head(m.hidden(torch.cat([m.a(x).relu().mean((2, 3)), age], 1)).relu()),
        {"hidden": nn.Linear(11, 8), "head": nn.Linear(8, 4)},
        (3, 3),
    ),
    "a vector with a layer of its own": (
        lambda m, x, age: m.head(torch.cat([m.a(x).relu().mean((2, 3)), m.own(age).relu()], 1)),
        {"own": nn.Linear(3, 5), "head": nn.Linear(13, 4)},
        (3, 3),
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("width", [0.5, "features"])
def test_several_inputs_are_told_apart(kind, width):
    forward, layers, shape = SEVERAL[kind]
    net, inputs = two(forward, **copy.deepcopy(layers)), (noise(3, 3, 9, 9), noise(*shape, seed=1))
    torch.manual_seed(1)
    twin = convert(net, "p4m", sample=inputs, width=width)
    assert twin.conversion.exact and twin.conversion.unused == ()
    twin = copy.deepcopy(twin).double()
    for training in (True, False):
        upright = twin.train(training)(*moved(inputs, 0))
        for g in (1, 4):
            assert_close(twin(*moved(inputs, g)), upright, atol=1e-12, rtol=1e-12)
        for other in ((inputs[0].roll(1, 0), inputs[1]), (inputs[0], inputs[1].roll(1, 0))):
            assert (twin(*moved(other, 0)) - upright).norm() > 1e-3 * upright.norm()  # it uses both
    if width == "features":
        answers = [net.double().eval()(*moved(inputs, g)) for g in range(8)]
        assert_close(twin(*moved(inputs, 0)), torch.stack(answers).mean(0), atol=1e-12, rtol=1e-12)


def test_a_picture_joined_with_features_turns_with_them():
    """The skip of a U-Net from its input."""
    layers = {"b": nn.Conv2d(11, 4, 3), "out": nn.Conv2d(4, 2, 1)}
    net = one(lambda m, x: m.out(m.b(torch.cat([x, m.a(x).relu()], 1)).relu()), **layers)
    x = noise(3, 3, 9, 9)
    twin = convert(net, "p4m", sample=x, width="features")
    assert max(errors(twin, x, "p4m", "trivial")) < 1e-11
    assert_close(twin(x), average(net, x, "p4m"), atol=1e-5, rtol=1e-5)


# What stays as it was


def test_the_original_is_untouched():
    for name in ("residual", "cut by numbers", "shuffled by hand", "PReLU"):
        net, x = network(name)
        net.train()
        net.register_forward_hook(lambda *_: None)
        state, modules = copy.deepcopy(net.state_dict()), [*net.modules()]
        rng = torch.random.get_rng_state()
        convert(net, "p4m", sample=x, width="features")
        assert state.keys() == net.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert [*net.modules()] == modules and all(m.training for m in modules)
        assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules] == [1, *[0] * (len(modules) - 1)]
        assert all(p.grad is None for p in net.parameters())
        assert torch.equal(torch.random.get_rng_state(), rng)


def test_a_twin_shares_nothing_with_its_original():
    net, x = network("residual")
    twin = convert(net, "p4m", sample=x, width="features")
    before = net(x)
    with torch.no_grad():
        for value in [*twin.parameters(), *twin.buffers()]:
            value.fill_(0)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_frozen_parts_survive(training):
    net, x = network("residual")
    net.train(training)
    net[1].train(not training)
    net[4].norm1.eval()
    for parameter in [*net[0].parameters(), *net[1].parameters(), *net[4].conv2.parameters()]:
        parameter.requires_grad_(False)
    twin = convert(net, "p4m", sample=x, width="features")
    assert twin.training is twin[5].training is training and twin[1].training is not training
    assert not twin[4].norm1.training and twin[4].norm2.training is training
    frozen = [name for name, p in twin.named_parameters() if not p.requires_grad]
    assert frozen == ["0.weight", "1.weight", "1.bias", "4.conv2.weight"]


def test_a_rewritten_forward_that_fails_prints_nothing(capfd):
    """A GraphModule would write every error of its code to the screen, also one that is handled."""
    net = one(lambda m, x: m.head(F.max_pool2d(m.a(x * x.chunk(2, 1)[1]), 2)))
    twin = convert(net, "p4m", sample=noise(1, 3, 9, 9), width=0.5)
    assert twin.conversion.rewritten == ("",)
    with pytest.raises(IndexError, match="tuple index out of range"):
        twin(noise(1, 1, 9, 9))
    assert capfd.readouterr() == ("", "")


def test_dtype_and_sample_of_ones_are_taken_as_they_are():
    net, x = network("residual")
    twin = convert(net.double(), "p4", sample=torch.ones_like(x[:1]).double(), width="channels")
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    assert twin.conversion.exact


# Refusals


B = nn.Conv2d(8, 8, 3)
REFUSED = {  # forward, layers, message
    "position embedding": (
        lambda m, x: m.head((m.a(x) + m.position).relu()),
        {"position": nn.Parameter(noise(1, 1, 12, 12))},
        r"the network itself: add with position \(1, 1, 12, 12\), which has a value for every position .*leave it out",
    ),
    "position embedding of channels": (
        lambda m, x: m.head((m.a(x) + m.position).relu()),
        {"position": nn.Parameter(noise(1, 8, 12, 12))},
        r"add with position \(1, 8, 12, 12\).*or use roteq\.Symmetrized\(model, group\)",
    ),
    "padding of one side": (
        lambda m, x: m.head(m.b(F.pad(m.a(x), (0, 1, 0, 1))).relu()),
        {"b": B},
        r"the network itself: pad: breaks equivariance, \(2, 32, 12, 12\) -> \(2, 32, 13, 13\); pad all sides alike",
    ),
    "padding layer of one side": (
        lambda m, x: m.head(m.b(m.pad(m.a(x))).relu()),
        {"b": B, "pad": nn.ZeroPad2d((0, 1, 0, 1))},
        r"^pad: breaks equivariance, \(2, 32, 12, 12\) -> \(2, 32, 13, 13\)",
    ),
    "crop of one side": (
        lambda m, x: m.head(m.a(x)[:, :, 1:, 1:].relu()),
        {},
        r"__getitem__: breaks equivariance, \(2, 32, 12, 12\) -> \(2, 32, 11, 11\); crop all sides alike",
    ),
    "pixel shuffle": (
        lambda m, x: m.head(m.b(m.shuffle(m.a(x))).relu()),
        {"shuffle": nn.PixelShuffle(2), "b": nn.Conv2d(2, 8, 3)},
        r"^shuffle: PixelShuffle gives every pixel or token a place of its own",
    ),
    "function pixel shuffle": (
        lambda m, x: m.head(m.b(F.pixel_shuffle(m.a(x), 2)).relu()),
        {"b": nn.Conv2d(2, 8, 3)},
        r"the network itself: pixel_shuffle: breaks equivariance",
    ),
    "linear map of the picture": (
        lambda m, x: m.linear(x.flatten(1)),
        {"linear": nn.Linear(432, 4)},
        r"^linear: a linear map of the picture itself, which no turn leaves as it is",
    ),
    "constant": (
        lambda m, x: m.head(m.a(x) * 0),
        {},
        r"its output does not vary between pictures, so nothing can be verified; is it trained, or initialised\?",
    ),
    "plain list": (
        lambda m, x: m.head(m.layers[0](m.a(x))),
        {"layers": [nn.Conv2d(8, 8, 3)]},
        r"a Conv2d is called that no module owns, from a plain list perhaps; keep it in an nn\.ModuleList",
    ),
    "one layer in two places": (
        lambda m, x: m.head(m.c(m.b(m.b(x)))),
        {"b": nn.Conv2d(3, 3, 3), "c": nn.Conv2d(3, 8, 3)},
        r"^b: called on the picture \(2, 3, 12, 12\) and on features \(2, 3, 10, 10\).*use two layers",
    ),
    "different strides": (
        lambda m, x: m.head(m.b(m.a(x))),
        {"b": nn.Conv2d(8, 8, 3, (2, 1))},
        r"^b: expected the same stride both ways, got \(2, 1\): what is turned exchanges them",
    ),
    "different paddings": (
        lambda m, x: m.head(m.b(m.a(x))),
        {"b": nn.Conv2d(8, 8, 3, padding=(1, 0))},
        r"^b: expected the same padding both ways, got \(1, 0\)",
    ),
    "same padding of an even kernel": (
        lambda m, x: m.head(m.b(m.a(x))),
        {"b": nn.Conv2d(8, 8, 4, padding="same")},
        r"^b: padding='same' with an even kernel pads one side more; give a number",
    ),
    "rectangular and reflecting": (
        lambda m, x: m.head(m.b(m.a(x))),
        {"b": nn.Conv2d(8, 8, (1, 3), padding=(0, 1), padding_mode="reflect")},
        r"^b: a rectangular kernel with padding_mode 'reflect'; use 'zeros'",
    ),
    "indices of a pool": (
        lambda m, x: m.head(m.pool(m.a(x))[0]),
        {"pool": nn.MaxPool2d(2, return_indices=True)},
        r"^pool: indices of a max pool name pixels, which a turn moves; unpool with an upsampling",
    ),
    "divisor of a pool": (
        lambda m, x: m.head(m.pool(m.a(x))),
        {"pool": nn.AvgPool2d(2, divisor_override=3)},
        r"^pool: divisor_override has no counterpart",
    ),
    "norm of pixels": (
        lambda m, x: m.head(m.norm(m.a(x))),
        {"norm": nn.LayerNorm((8, 12, 12))},
        r"^norm: a norm with a weight for every pixel, \(8, 12, 12\)",
    ),
    "one dimension": (
        lambda m, x: m.head(m.b(m.a(x).flatten(2)).unflatten(2, (12, 12))),
        {"b": nn.Conv1d(8, 8, 3, padding=1)},
        r"^b: Conv1d works on something else than a picture",
    ),
    "transposed convolution of the picture": (
        lambda m, x: m.head(m.a(x)),
        {"a": nn.ConvTranspose2d(3, 8, 2, 2)},
        r"^a: a transposed convolution of the picture itself; begin with a convolution",
    ),
    "output_padding": (
        lambda m, x: m.head(m.b(m.a(x))),
        {"b": nn.ConvTranspose2d(8, 8, 3, 3, output_padding=2)},
        r"^b: output_padding 2 adds pixels on one side only; use kernel_size 4",
    ),
    "flattened rectangle": (
        lambda m, x: m.linear(m.a(x)[:, :, 1:-1].flatten(1)),
        {"linear": nn.Linear(960, 4)},
        r"^linear: a linear map of a flattened map of 10x12; a square one can be turned",
    ),
    "attention": (
        lambda m, x: m.linear(m.attention(*[m.a(x).flatten(2).mT] * 3)[0].mean(1)),
        {"attention": nn.MultiheadAttention(8, 2, batch_first=True), "linear": nn.Linear(8, 4)},
        r"^attention: attention \(multi_head_attention_forward\).*roteq\.Symmetrized\(model, group\) makes any model",
    ),
    "attention by hand": (
        lambda m, x: m.linear((m.a(x).flatten(2).mT @ m.a(x).flatten(2)).softmax(-1).mean(1)),
        {"linear": nn.Linear(144, 4)},
        r"^One: attention \(matmul\) relates positions to each other and has no group convolution",
    ),
    "a pool behind a decision": (
        lambda m, x: m.head(F.max_pool2d(m.a(x), 2) if x.mean() < 9 else x),
        {},
        r"^One: its forward calls functions that have to be exchanged, and cannot be captured .*\(nn\.MaxPool2d",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused_by_its_name(case):
    forward, layers, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        convert(one(forward, **copy.deepcopy(layers)), "p4m", sample=noise(1, 3, 12, 12), width=0.5)
    assert len(str(caught.value).splitlines()) == 1


def test_a_vision_transformer_is_refused_with_advice():
    net = timm.create_model("test_vit", img_size=32, num_classes=4)
    with pytest.raises(UsageError, match=r"blocks\.0\.attn: attention .*roteq\.Symmetrized\(model, group\) makes any"):
        convert(net, "p4m", sample=noise(1, 3, 32, 32))


LEFT = [
    "position embedding",
    "padding of one side",
    "padding layer of one side",
    "crop of one side",
    "pixel shuffle",
    "function pixel shuffle",
    "constant",
]


@pytest.mark.parametrize("case", LEFT)
def test_not_strict_it_is_left_and_the_report_says_so(case):
    forward, layers, _ = REFUSED[case]
    net, x = one(forward, **copy.deepcopy(layers)), noise(3, 3, 12, 12)
    twin = convert(net, "p4m", sample=x, width=0.5, strict=False)
    assert twin.conversion.broken and not twin.conversion.exact
    assert all(where and why and "\n" not in why for where, why in twin.conversion.broken.items())
    if case == "constant":
        assert set(twin.conversion.errors.values()) == {None}
    else:
        assert max(twin.conversion.errors.values()) > 1e-3 and max(errors(twin, x, "p4m", "invariant")) > 1e-3
    assert isinstance(twin.a, LiftingConv2d)


@pytest.mark.parametrize(
    ("sample", "shown"),
    [
        (torch.zeros(3, 12, 12), r"got \(3, 12, 12\)"),
        (torch.zeros(2, 9), r"got \(2, 9\)"),
        ("picture", "got str"),
        (None, "got NoneType"),
        ((torch.zeros(2, 9),), "got tuple"),
    ],
)
def test_samples_without_a_picture_are_refused(sample, shown):
    net, _ = network("grouped")
    with pytest.raises(UsageError, match=rf"convert: expected sample to be a picture \(B, C, H, W\).*{shown}"):
        convert(net, "p4", sample=sample)


def test_a_sample_that_the_model_does_not_take_fails_as_the_model_does():
    net, _ = network("grouped")
    with pytest.raises(RuntimeError, match=r"expected input.*to have 3 channels, but got 5"):
        convert(net, "p4", sample=noise(1, 5, 9, 9))


def test_no_warning_is_given():
    net, x = network("residual")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = convert(net, "p4m", sample=x)
    assert twin.conversion.exact


def test_frozen_parameters_of_no_layer_stay_frozen():
    net, x = made(Functional), noise(1, 3, 12, 12)
    for parameter in (net.w2, net.b1, net.scale):
        parameter.requires_grad_(False)
    twin = convert(net, "p4m", sample=x, width=0.5)
    frozen = {name for name, p in twin.named_parameters() if not p.requires_grad}
    assert frozen == {"parametrizations.w2.original", "parametrizations.b1.original", "scale"}
