"""Symmetrized: the average written out by hand, invariance of any model, decisions that are taken early."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from roteq.conversion.symmetrized import TIE, Symmetrized
from roteq.errors import UsageError
from roteq.groups import group as named_group
from roteq.testing import assert_equivariant, equivariance_error

REDUCTIONS = ("mean", "logits", "vote")
D4 = named_group("D4")
SURE = 200.0  # a logit whose probability is 1 in float32


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def linear():
    return made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 4)))


def cnn():
    """Nothing in it is symmetric, not even its steps on an even map."""
    layers = (lambda: nn.Conv2d(3, 8, 3, 2), lambda: nn.BatchNorm2d(8), nn.ReLU, lambda: nn.AdaptiveAvgPool2d(3))
    return made(lambda: nn.Sequential(*(layer() for layer in layers), nn.Flatten(), nn.Linear(72, 4)))


def mapper(channels=8):
    return made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, channels, 5, padding=2)))


def vit(size=32):
    make = timm.create_model
    return made(lambda: make("vit_tiny_patch16_224", img_size=size, patch_size=8, embed_dim=48, depth=2, num_classes=4))


class Nested(nn.Module):
    """A dictionary of tuples, as segmentation networks answer, of two images and other inputs."""

    def __init__(self):
        super().__init__()
        self.net = mapper()

    def forward(self, images, age, *, before, scale=1.0):
        y = self.net(images - before) * scale + age[:, :, None, None]
        return {"out": y, "class": (y[:, :, 0, 0], [y.mean((2, 3))])}


class Oracle:
    """A model whose answer to copy g of image b is written down, table[b, g]: whatever a D4 average can meet."""

    def __init__(self, table):
        upright = torch.arange(9.0).reshape(1, 3, 3)
        number = torch.arange(len(table))[:, None, None, None].expand(-1, 1, 3, 3)
        self.copies = torch.stack([D4.act_on_image(upright, g) for g in range(8)])
        self.images = torch.cat([upright.expand(len(table), 1, 3, 3), number], 1)
        self.table, self.seen = table, []

    def __call__(self, x):
        self.seen.append(len(x))
        which = (x[:, None, :1] == self.copies).flatten(2).all(2)
        assert which.sum(1).eq(1).all()
        return self.table[x[:, 1, 0, 0].long(), which.int().argmax(1)]


def two_classes(logits):
    """(|G|,) logits of class 0 against class 1, in the order of the elements -> an oracle of one image."""
    return Oracle(torch.tensor([[[value, 0.0] for value in logits]]))


def by_hand(model, x, score=lambda y: y):
    """The average over D4, with nothing of roteq in it."""
    answers = []
    for mirror in (False, True):
        for turns in range(4):
            y = score(model(torch.rot90(x.flip(-1) if mirror else x, turns, (-2, -1))))
            if y.ndim == 4:
                y = torch.rot90(y, -turns, (-2, -1))
                y = y.flip(-1) if mirror else y
            answers.append(y)
    return torch.stack(answers).mean(0)


def votes(logits):
    winners = F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits)
    return (1 - TIE) * winners + TIE * logits.softmax(1)


SCORES = {"mean": lambda y: y.softmax(1), "logits": lambda y: y, "vote": votes}


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(
    ("make", "shape"), [(cnn, (3, 8, 8)), (cnn, (3, 6, 9)), (mapper, (3, 6, 6)), (mapper, (3, 4, 7))]
)
def test_it_is_the_average_written_out(make, shape, reduce):
    model, x = make().double(), noise(5, *shape, dtype=torch.float64)
    answer = Symmetrized(model, "D4", reduce)(x)
    assert_close(answer if reduce == "logits" else answer.exp(), by_hand(model, x, SCORES[reduce]))
    if reduce != "logits":
        assert_close(answer.softmax(1), answer.exp())


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("make", [cnn, vit])
def test_any_model_becomes_invariant(make, reduce, group):
    x = noise(3, 3, 32, 32)
    assert_equivariant(Symmetrized(make(), group, reduce), group, x, parities=make is cnn)


@pytest.mark.parametrize("make", [cnn, vit])
def test_the_same_model_alone_is_not_invariant(make):
    with pytest.raises(AssertionError, match="is not equivariant under C4"):
        assert_equivariant(make(), "C4", noise(3, 3, 32, 32), parities=False)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize(
    ("reduce", "output"),
    [("mean", "trivial"), ("logits", "trivial"), ("vote", "trivial"), ("logits", "regular"), ("logits", "vector")],
)
def test_maps_become_equivariant(reduce, output, group):
    model, x = mapper(), noise(2, 3, 6, 6)
    assert_equivariant(Symmetrized(model, group, reduce, output=output), group, x, output=output)
    with pytest.raises(AssertionError, match=f"is not equivariant under {group}"):
        assert_equivariant(model, group, x, output=output)


def test_maps_without_channels_are_turned_back_on_demand():
    model, x = mapper(1), noise(2, 3, 6, 6)
    network = Symmetrized(lambda images: model(images)[:, 0], "D4", "logits", output="trivial")
    assert_close(network(x), by_hand(model, x)[:, 0])


def test_invariant_maps_are_left_as_they_are():
    model, x, group = mapper(), noise(2, 3, 6, 6), named_group("C8")
    answer = Symmetrized(model, group, "logits", output="invariant")(x)
    assert_close(answer, torch.stack([model(group.act_on_image(x, g)) for g in range(8)]).mean(0))


@pytest.mark.parametrize("side", [8, 9])
def test_interpolated_groups_are_invariant_at_their_exact_elements_only(side):
    network, x = Symmetrized(cnn().double(), "C8", "logits"), noise(3, 3, side, side, dtype=torch.float64)
    errors = [equivariance_error(network, "C8", x, g) for g in range(1, 8)]
    assert max(errors[1::2]) < 1e-12 and min(errors[::2]) > 1e-3


@pytest.mark.parametrize("number", [None, 1, 3, 8, 20, 1000])
@pytest.mark.parametrize(("make", "shape"), [(cnn, (3, 8, 8)), (mapper, (3, 5, 8))])
def test_chunks_bound_the_batch_and_compute_the_same(make, shape, number):
    model, x, seen = make(), noise(5, *shape), []
    network = Symmetrized(lambda images: seen.append(len(images)) or model(images), "D4", "mean", batch_size=number)
    assert_close(network(x), Symmetrized(model, "D4")(x))
    assert sum(seen) == 40 and max(seen) <= (number or 40)
    assert number != 1000 or len(seen) == 1 + (shape[1] != shape[2])


def test_all_copies_of_an_image_share_a_batch_norm_in_chunks_too():
    x = noise(6, 3, 8, 8, dtype=torch.float64)
    assert_equivariant(Symmetrized(cnn().train(), "D4", batch_size=16), "D4", x)


@pytest.mark.parametrize("batch_size", [None, 3, 16])
def test_every_image_is_turned_and_every_tensor_of_a_nested_answer_averaged(batch_size):
    model, x, before, age = Nested().double(), *(noise(5, 3, 4, 6, seed=i, dtype=torch.float64) for i in (0, 1)), None
    age = noise(5, 8, dtype=torch.float64)
    answer = Symmetrized(model, "D4", "logits", batch_size=batch_size)(x, age, before=before, scale=2.0)
    both = torch.cat([x, before], 1)
    expected = by_hand(lambda y: model(y[:, :3], age, before=y[:, 3:], scale=2.0)["out"], both)
    corner = by_hand(lambda y: model(y[:, :3], age, before=y[:, 3:], scale=2.0)["class"][0], both)
    assert_close(answer, {"out": expected, "class": (corner, [expected.mean((2, 3))])})


def test_images_given_by_name_are_turned():
    x = noise(2, 3, 4, 4)
    network = Symmetrized(lambda *, pixels: mapper()(pixels), "D4", "logits")
    assert_close(network(pixels=x), by_hand(mapper(), x))


def test_gradients_are_those_of_the_average():
    model, x, labels = cnn(), noise(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    F.cross_entropy(Symmetrized(model, "D4")(x), labels).backward()
    found = [parameter.grad for parameter in model.parameters()]
    other = cnn()
    F.nll_loss(by_hand(other, x, SCORES["mean"]).log(), labels).backward()
    assert_close(found, [parameter.grad for parameter in other.parameters()])


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_impossible_classes_leave_gradients_finite(reduce):
    model, x = linear(), noise(2, 3, 6, 6).requires_grad_()
    scale = torch.tensor([1.0, 1.0, 1e6, 1.0])
    mask = torch.tensor([0.0, 0.0, 0.0, -torch.inf])
    network = Symmetrized(lambda images: model(images) * scale + mask, "D4", reduce)
    F.cross_entropy(network(x), torch.tensor([0, 1])).backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_half_precision_is_averaged_in_single_precision():
    answer = Symmetrized(cnn().bfloat16(), "D4", "logits")(noise(2, 3, 8, 8).bfloat16())
    assert answer.dtype == torch.float32


def vote_and_mean(oracle):
    return [Symmetrized(oracle, "D4", reduce)(oracle.images).argmax(1).tolist() for reduce in ("vote", "mean")]


def test_five_weak_votes_beat_three_sure_ones():
    assert vote_and_mean(two_classes([0.1] * 5 + [-SURE] * 3)) == [[0], [1]]


@pytest.mark.parametrize(("logits", "winner"), [([3.0, -1.0], 0), ([1.0, -3.0], 1)])
@torch.no_grad()
def test_equal_votes_go_to_the_larger_probability(logits, winner):
    oracle = two_classes(logits * 4)
    for g in range(8):
        x = D4.act_on_image(oracle.images, g)
        answer = Symmetrized(oracle, "D4", "vote")(x)
        assert answer.argmax(1).tolist() == [winner]
        assert answer.exp()[0, winner] == pytest.approx(0.5, abs=TIE)
        assert Symmetrized(oracle, "D4", "vote", early_stop=True)(x).argmax(1).tolist() == [winner]


def test_a_copy_that_finds_all_classes_equal_votes_for_the_lowest():
    oracle = two_classes([0.0] * 4 + [-1.0] * 3 + [0.0])
    assert vote_and_mean(oracle) == [[0], [1]]


CONFIDENT = noise(300, 1, 5, seed=1) * 8 + noise(300, 8, 5, seed=2) * 4


@pytest.mark.parametrize("reduce", ["mean", "vote"])
@pytest.mark.parametrize("batch_size", [None, 20])
@torch.no_grad()
def test_a_decision_taken_early_is_that_of_the_full_average(reduce, batch_size):
    oracle = Oracle(CONFIDENT)
    network = Symmetrized(oracle, "D4", reduce, batch_size=batch_size, early_stop=True)
    expected = Symmetrized(Oracle(CONFIDENT), "D4", reduce)(oracle.images)
    answer = network(oracle.images)
    assert answer.argmax(1).equal(expected.argmax(1))
    assert sum(oracle.seen) == network.passes.sum() < 0.8 * 8 * 300
    assert max(oracle.seen) <= (batch_size or 5 * 300)
    assert batch_size or len(oracle.seen) == 4
    assert set(network.passes.tolist()) == {5, 6, 7, 8}
    full = network.passes == 8
    assert_close(answer[full], expected[full])
    assert_close(answer.exp().sum(1), torch.ones(300))
    for g in range(8):
        assert network(D4.act_on_image(oracle.images, g)).argmax(1).equal(expected.argmax(1))


@pytest.mark.parametrize(
    ("logits", "winner", "passes"),
    [
        ([SURE] * 8, 0, 5),
        ([SURE] * 5 + [-SURE] * 3, 0, 5),
        ([SURE, SURE, SURE, SURE, -SURE, SURE, -SURE, -SURE], 0, 6),
        ([4.0, 4.0, 4.0, 4.0, -SURE, -SURE, -SURE, -SURE], 1, 8),
        ([SURE, SURE, SURE, SURE, -SURE, -SURE, -SURE, -SURE], 0, 8),
        ([-4.0, -4.0, -4.0, -4.0, SURE, SURE, SURE, SURE], 0, 8),
    ],
    ids=["unanimous", "five are enough", "six are enough", "turned by the last", "a tie", "turned back by the last"],
)
@pytest.mark.parametrize("reduce", ["mean", "vote"])
@torch.no_grad()
def test_no_decision_is_taken_while_the_last_answer_can_turn_it(reduce, logits, winner, passes):
    oracle = two_classes(logits)
    network = Symmetrized(oracle, "D4", reduce, early_stop=True)
    assert (network(oracle.images).argmax(1).item(), network.passes.item()) == (winner, passes)


def test_doubtful_probabilities_are_never_decided_early():
    oracle = two_classes([0.1] * 8)
    network = Symmetrized(oracle, "D4", "mean", early_stop=True)
    with torch.no_grad():
        network(oracle.images)
    assert network.passes.tolist() == [8]


def test_training_and_gradients_see_the_full_average():
    network, x = Symmetrized(cnn(), "D4", early_stop=True), noise(4, 3, 8, 8)
    expected = Symmetrized(cnn(), "D4")(x)
    with torch.no_grad():
        network(x)
    assert network.passes is not None and not network.training
    assert_close(network(x), expected)
    assert network.passes is None
    with torch.no_grad():
        network.train()(x)
    assert network.passes is None


@torch.no_grad()
def test_oblong_images_and_an_empty_batch_may_stop_early():
    model = cnn()
    network = Symmetrized(lambda images: model(images) * 100, "D4", early_stop=True)
    x = noise(20, 3, 6, 9)
    assert network(x).argmax(1).equal(Symmetrized(network.model, "D4")(x).argmax(1))
    assert 5 <= network.passes.float().mean() < 8
    assert network(x[:0]).shape == (0, 4)
    assert Symmetrized(model, "D4", batch_size=4)(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_it_takes_any_batch(strict):
    network, batch = Symmetrized(cnn(), "D4"), {0: torch.export.Dim("batch")}
    program = torch.export.export(network, (noise(2, 3, 8, 8),), dynamic_shapes=(batch,), strict=strict)
    x = noise(5, 3, 8, 8, seed=1)
    assert_close(program.module()(x), network(x))


@pytest.mark.parametrize(("reduce", "shape"), [("mean", (2, 3, 8, 8)), ("vote", (2, 3, 6, 9))])
def test_compiled_into_one_graph_it_computes_the_same(reduce, shape):
    torch.compiler.reset()
    network = Symmetrized(cnn(), "D4", reduce)
    twin = copy.deepcopy(network)
    twin.compile(fullgraph=True, backend="aot_eager")
    assert_close(twin(noise(*shape)), network(noise(*shape)))


def test_it_is_a_module_like_any_other():
    model, x = cnn(), noise(2, 3, 8, 8)
    network = Symmetrized(model, "p4m")
    assert list(network.state_dict()) == [f"model.{key}" for key in model.state_dict()]
    assert_close(pickle.loads(pickle.dumps(network))(x), network(x))
    assert copy.deepcopy(network).double()(x.double()).dtype == torch.float64
    assert Symmetrized(cnn().train(), "p4m").eval().model.training is False
    assert repr(network).startswith("Symmetrized(\n  'D4', reduce='mean'\n  (model): Sequential(")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (3, {}, "expected a model or another callable, got int"),
        (abs, {"reduce": "meen"}, "unknown reduce 'meen'; did you mean 'mean'"),
        (abs, {"group": "C0"}, "expected 'Z2', 'p4'.* got 'C0'"),
        (abs, {"output": "map"}, "unknown output 'map'; choose from 'invariant'"),
        (abs, {"output": "vector"}, "vector outputs have no classes, got reduce='mean'; use 'logits'"),
        (abs, {"reduce": "logits", "early_stop": True}, "early_stop, got 'logits'; logits have no bound"),
        (abs, {"batch_size": 0}, "expected batch_size to be a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_refused(model, options, message):
    with pytest.raises(UsageError, match=f"(Symmetrized|group): .*{message}"):
        Symmetrized(model, **{"group": "D4", **options})


def rows(images):
    return images.flatten(1)


@pytest.mark.parametrize(
    ("model", "options", "inputs", "message"),
    [
        (rows, {}, (noise(3, 6, 6),), "expected a batch of images .* got none"),
        (rows, {}, (noise(2, 3, 6, 6), noise(1, 3, 6, 6)), r"as many images in every 4-D input, got \[2, 1\]"),
        (lambda x: x.sum(), {}, (noise(2, 3, 6, 6),), r"one row for each of 8 images.* got float32 \(\)"),
        (lambda x: rows(x).argmax(1), {}, (noise(2, 3, 6, 6),), r"floating-point .* got int64 \(8,\)"),
        (lambda x: (rows(x), None), {}, (noise(2, 3, 6, 6),), "floating-point tensors .* got NoneType"),
        (lambda x: rows(x)[:, :1], {}, (noise(2, 3, 6, 6),), r"2 classes or more.* got an output \(8, 1\); use reduce"),
        (lambda x: x[:, 0], {"reduce": "vote"}, (noise(2, 3, 6, 6),), r"reduce='vote' expects .* \(8, 6, 6\)"),
        (lambda x: x, {"group": "C8"}, (noise(2, 3, 6, 6),), "multiples of 90° only, got C8; use 'C4'"),
        (lambda x: x[..., :1], {}, (noise(2, 3, 6, 6),), r"one shape, got \(2, 3, 6, 1\) and \(2, 3, 1, 6\)"),
        (vit((32, 24)), {}, (noise(2, 3, 32, 24),), "fails on oblong images turned by 90°.* quarter turns: C2"),
        (vit((32, 24)), {"group": "D4"}, (noise(2, 3, 32, 24),), "fails on oblong .* quarter turns: D2"),
        (lambda x: x, {"early_stop": True}, (noise(2, 3, 6, 6),), r"early_stop expects class scores \(B, K\)"),
    ],
)
@torch.no_grad()
def test_a_wrong_call_is_refused(model, options, inputs, message):
    with pytest.raises(UsageError, match=f"Symmetrized: .*{message}"):
        Symmetrized(model, **{"group": "C4", **options})(*inputs)


@pytest.mark.parametrize("group", ["C2", "D2"])
def test_a_model_of_one_oblong_size_is_averaged_without_quarter_turns(group):
    assert_equivariant(Symmetrized(vit((32, 24)), group), group, noise(3, 3, 32, 24), parities=False)


def test_errors_of_the_model_on_upright_images_are_its_own():
    with pytest.raises(AssertionError, match="doesn't match model"):
        Symmetrized(vit((32, 24)), "C4")(noise(2, 3, 16, 24))
