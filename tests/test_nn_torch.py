"""Layers as torch modules: copied, saved, cast, moved, averaged and differentiated like torch's own."""

import copy
import io
import pickle
from itertools import pairwise

import pytest
import torch
from layers import BFLOAT16_IN_AUTOCAST, CASES, LAST, OTHERS, RUNS, VECTORS, images, layer, noise, outcome, run
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, replace_all_batch_norm_modules_, stack_module_state, vjp, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close

from roteq import filters, groups
from roteq.errors import UsageError
from roteq.nn import GroupBatchNorm2d, GroupConv2d, GroupConvTranspose2d, plain
from roteq.nn.conv import TiedConv2d

JVP = pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # torch's own derivatives are written in it
LEARNING = [name for name in CASES if list(layer(name).parameters())]
NORMS = tuple(name for name in OTHERS if "norm" in name)


def saved(obj, **how):
    file = io.BytesIO()
    torch.save(obj, file)
    file.seek(0)
    return torch.load(file, **how)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": lambda module: saved(module, weights_only=False),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize(("name", "training"), RUNS)
def test_a_copy_computes_the_same_and_shares_nothing(name, training, way):
    module = layer(name, training)
    twin = COPIES[way](module)
    assert twin.training is training and repr(twin) == repr(module)
    assert_close(outcome(twin, images(name)), outcome(module, images(name)), rtol=0, atol=0)
    tensors = [{t.data_ptr() for t in (*m.parameters(), *m.buffers())} for m in (module, twin)]
    assert tensors[0].isdisjoint(tensors[1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LEARNING)
def test_a_state_saved_in_one_mode_loads_in_the_other(name, training):
    module, other = layer(name, training), layer(name, not training, seed=1)
    run(module, images(name))  # moves running statistics
    assert not torch.allclose(run(other.eval(), images(name)), run(module.eval(), images(name)))
    other.train(not training).load_state_dict(saved(module.train(training).state_dict(), weights_only=True))
    assert torch.equal(run(other.eval(), images(name)), run(module.eval(), images(name)))


@pytest.mark.parametrize("name", CASES)
def test_the_state_holds_parameters_and_running_statistics_only(name):
    module = layer(name)
    statistics = {key for key in module.state_dict() if key.rpartition(".")[2].startswith(("running_", "num_batches"))}
    assert set(module.state_dict()) == {key for key, _ in module.named_parameters()} | statistics


@pytest.mark.parametrize(("name", "training"), RUNS)
def test_double_and_bfloat16_compute_the_same_in_their_precision(name, training):
    expected = run(layer(name, training), images(name))
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 2e-2)):
        y = run(layer(name, training, dtype), images(name, dtype=dtype))
        assert y.dtype == dtype
        if (name, training, dtype) != ("dropout", True, torch.bfloat16):  # its random numbers are others
            assert (y - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize(("name", "training"), RUNS)
def test_autocast_convolves_in_bfloat16_and_keeps_gradients_in_float32(name, training):
    module = layer(name, training)
    expected, exact, _ = outcome(module, images(name))
    with torch.autocast("cpu", torch.bfloat16):
        y, gradients, _ = outcome(layer(name, training), images(name))
    assert y.dtype == (torch.bfloat16 if name in BFLOAT16_IN_AUTOCAST else torch.float32)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    for found, wanted in zip((y, *gradients), (expected, *exact), strict=True):
        assert (found - wanted).norm() <= 5e-2 * wanted.norm()  # bfloat16 has 8 bits


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_norms_take_what_convolutions_give_under_autocast(name, training):
    x = images(name, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(name, training)(*x)
    expected = layer(name, training)(*(value.float() for value in x))
    assert (found - expected).norm() < 1e-2 * expected.norm()


def layout(x):
    """ "both" where the map has one channel or one pixel."""
    return {(True, False): "contiguous", (False, True): "channels_last", (True, True): "both"}.get(
        (x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)), "neither"
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith((LAST, *VECTORS))])
def test_the_memory_layout_is_kept_and_changes_nothing(name, training):
    expected = outcome(layer(name, training), images(name))
    found = outcome(layer(name, training), [x.contiguous(memory_format=torch.channels_last) for x in images(name)])
    assert_close(found, expected, atol=1e-4, rtol=1e-5)  # the sums of a gradient run in another order
    if expected[0].ndim == 4:
        assert (layout(expected[0]), layout(found[0])) == ("contiguous", "channels_last")


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_goes_through_the_network(training):
    module, seen = layer("network, odd map" + LAST, training), []
    for child in module[:-1]:
        child.register_forward_hook(lambda _, __, output: seen.append(layout(output)))
    module(*images("network, odd map" + LAST))
    assert seen == ["channels_last"] * 5


@pytest.mark.parametrize("name", ["lifting", "group", "transposed"])
def test_a_layer_in_channels_last_writes_channels_last_whatever_it_reads(name):
    name = next(case for case in CASES if case.startswith(name))
    module, inputs = layer(name, False), images(name)
    expected = run(module, inputs)
    last = copy.deepcopy(module).to(memory_format=torch.channels_last)
    for twin in (last, copy.deepcopy(last).double().float(), pickle.loads(pickle.dumps(last)), plain(last)):
        assert layout(run(twin, inputs)) == "channels_last"
        assert_close(run(twin, inputs), expected, atol=1e-5, rtol=1e-5)
    assert layout(run(last.to(memory_format=torch.contiguous_format), inputs)) == "contiguous"
    assert all(parameter.is_contiguous() for parameter in last.parameters())


@pytest.mark.parametrize("name", LEARNING)
def test_eval_mode_has_gradients(name):
    _, gradients, _ = outcome(layer(name), images(name))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def small(name, training):
    """The function of inputs and parameters that a layer is, in float64, and arguments for it."""
    module, x = layer(name, training, torch.float64), images(name, batch=2, dtype=torch.float64)
    keys = [key for key, _ in module.named_parameters()]

    def function(*arguments):
        return functional_call(module, dict(zip(keys, arguments[len(x) :], strict=True)), arguments[: len(x)])

    return function, tuple(value.detach().requires_grad_() for value in (*x, *module.parameters()))


SMOOTH = [each for each in RUNS if each != ("dropout", True) and each[0] != "upsample like"]  # which reads a size


@JVP
@pytest.mark.parametrize(("name", "training"), SMOOTH)
def test_gradients_of_first_and_second_order_are_those_of_finite_differences(name, training):
    function, arguments = small(name, training)
    assert gradcheck(function, arguments, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, arguments, fast_mode=True, check_batched_grad=True)
    y = function(*arguments)
    direction = noise(*y.shape, dtype=y.dtype)
    differentiable = torch.autograd.grad(function(*arguments), arguments, direction, create_graph=True)
    assert_close(differentiable, torch.autograd.grad(y, arguments, direction))  # layers take another way for the former


@JVP
@pytest.mark.parametrize(("name", "training"), [each for each in RUNS if each[0] in LEARNING])
def test_jvp_is_the_adjoint_of_vjp(name, training):
    module, x = layer(name, training, torch.float64), images(name, dtype=torch.float64)
    if training:
        replace_all_batch_norm_modules_(module)  # what torch asks for: a transform changes no running statistics
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    direction = {key: noise(*value.shape, seed=3, dtype=value.dtype) for key, value in parameters.items()}
    call = lambda weights: functional_call(module, weights, x)  # noqa: E731
    y, pushed = jvp(call, (parameters,), (direction,))
    assert_close(y, functional_call(module, parameters, x))
    cotangent = noise(*y.shape, seed=4, dtype=y.dtype)
    (pulled,) = vjp(call, parameters)[1](cotangent)
    assert_close((pushed * cotangent).sum(), sum((direction[key] * pulled[key]).sum() for key in parameters))


@pytest.mark.parametrize("name", [name for name in LEARNING if name != "batch norm of the batch"])
def test_the_gradients_of_the_samples_add_up_to_that_of_the_batch(name):
    module, x = layer(name), images(name)
    parameters = {key: value.detach() for key, value in module.named_parameters()}

    def loss(weights, *sample):
        return functional_call(module, weights, tuple(value[None] for value in sample)).square().sum()

    each = vmap(grad(loss), in_dims=(None, *(0 for _ in x)))(parameters, *x)
    expected = torch.autograd.grad(module(*x).square().sum(), list(module.parameters()))
    assert_close([value.sum(0) for value in each.values()], list(expected), rtol=1e-4, atol=1e-3)  # sums of float32


@pytest.mark.parametrize(("name", "training"), [each for each in RUNS if each[0] in LEARNING])
def test_vmap_over_stacked_parameters_runs_an_ensemble(name, training):
    members, x = [layer(name, training, seed=seed) for seed in (0, 1)], images(name)
    stacked = stack_module_state(members)
    found = vmap(lambda *state: functional_call(members[0], state, x))(*stacked)
    assert_close(found, torch.stack([member(*x) for member in members]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name != "batch norm of the batch"])
def test_a_batch_is_its_samples_side_by_side(name):
    module, x = layer(name), images(name)
    found = vmap(lambda *sample: module(*(value[None] for value in sample))[0])(*x)
    assert_close(found, module(*x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_in_eval_mode_is_seen_by_the_next_forward(name):
    module, x = layer(name), images(name)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    with torch.no_grad():
        outputs = [module(*x)]
    for _ in range(2):
        optimizer.zero_grad()
        module(*x).square().mean().backward()
        with torch.no_grad():
            optimizer.step()
            outputs.append(module(*x))
            fresh = layer(name, seed=1)
            fresh.load_state_dict(module.state_dict())
            assert torch.equal(outputs[-1], fresh(*x))
    assert all(not torch.allclose(a, b, rtol=1e-7, atol=1e-7) for a, b in pairwise(outputs))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
        assert not torch.allclose(module(*x), outputs[-1])


@pytest.mark.parametrize("name", LEARNING)
def test_an_averaged_model_is_the_average(name):
    module, x = layer(name), images(name)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    by_hand = {key: value.clone() for key, value in module.named_parameters()}
    for _ in range(2):
        with torch.no_grad():
            for seed, parameter in enumerate(module.parameters()):
                parameter.add_(noise(*parameter.shape, seed=seed))
        average.update_parameters(module)
        by_hand = {key: 0.9 * by_hand[key] + 0.1 * value.detach() for key, value in module.named_parameters()}
        assert not torch.allclose(average.eval()(*x), module(*x), rtol=1e-3)
    assert_close(average(*x), functional_call(module, by_hand, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [nn.Module.double, lambda module: module.to("meta")], ids=["double", "meta"])
@pytest.mark.parametrize("name", CASES)
def test_a_change_of_one_leaves_others_and_later_ones_alone(name, change):
    changed, other = layer(name), layer(name)
    expected = other(*images(name))
    change(changed)
    assert torch.equal(other(*images(name)), expected)
    assert torch.equal(layer(name)(*images(name)), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_network_built_on_meta_comes_back_with_its_state(name):
    module, x = layer(name), images(name)
    for table in (filters.pixel_basis, filters.harmonic_basis, groups.left_translation):
        table.cache_clear()
    with torch.device("meta"):
        built = CASES[name][0]().eval()
    for void in (built, copy.deepcopy(module).to("meta")):
        assert all(value.is_meta for value in (*void.parameters(), *void.buffers()))
        void.to_empty(device="cpu").load_state_dict(module.state_dict())
        assert torch.equal(void(*x), module(*x))
    assert torch.equal(layer(name)(*x), module(*x))


@pytest.mark.parametrize("name", CASES)
def test_a_state_that_is_assigned_brings_its_device_and_precision(name):
    for dtype in (torch.float32, torch.float64):
        module = layer(name, dtype=dtype)
        for void in (layer(name).to("meta"), layer(name, seed=1)):
            void.load_state_dict(module.state_dict(), assign=True)
            found, expected = (each(*images(name, dtype=dtype)) for each in (void, module))
            assert_close(found, expected, atol=1e-6, rtol=1e-6)  # a pool has no state to tell it of float64


@pytest.mark.parametrize("name", LEARNING)
def test_plain_computes_the_same(name):
    module, x = layer(name, dtype=torch.float64), images(name, dtype=torch.float64)
    twin = plain(module)
    assert not any(part.training for part in twin.modules())
    if name != "batch norm of the batch":  # torch has no such layer
        assert not any(isinstance(part, TiedConv2d | GroupBatchNorm2d) for part in twin.modules())
    assert_close(twin(*x), module(*x), atol=1e-6, rtol=1e-6)


class Pyramid(nn.Module):
    """A network with two outputs; the convolution behind the second is read twice."""

    def __init__(self, kind, groups):
        super().__init__()
        torch.manual_seed(0)
        make = lambda: kind(4, 4, 3, stride=2, groups=groups, group="C4")  # noqa: E731
        self.steps, self.last = nn.Sequential(make(), GroupBatchNorm2d(4, group="C4"), nn.ReLU()), make()
        self.norm = GroupBatchNorm2d(4, group="C4")

    def forward(self, x):
        first = self.steps(x)
        last = self.last(first)
        return {"first": first, "last": [last, self.norm(last)]}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [GroupConv2d, GroupConvTranspose2d])
def test_plain_folds_what_only_a_batch_norm_reads(kind, groups):
    net, x = Pyramid(kind, groups).double(), noise(3, 16, 15, 15, dtype=torch.float64)
    net(3 * x + 1)  # statistics that are not 0 and 1
    with pytest.raises(UsageError, match="expected a network in eval mode to fold"):
        plain(net, fold=x)
    twin = plain(net.eval(), fold=x)
    assert_close(twin(x), net(x), atol=1e-6, rtol=1e-6)
    assert [type(part) for part in (twin.steps[1], twin.norm)] == [nn.Identity, nn.BatchNorm2d]
