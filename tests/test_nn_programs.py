"""Layers as programs: compiled, exported, traced or as ONNX they compute what they compute in Python."""

import copy
import io
import warnings

import onnx
import onnxruntime
import pytest
import torch
from layers import CASES, NETWORKS, RUNS, SAME_CODE, images, layer, noise, outcome, run
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

BAKED_IN = ("nn/functional.py", "roteq/nn/pool.py")  # torch's check of the batch norm's size; kernels that suit the map


def slow_if(slow, *values):
    return pytest.param(*values, marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def compiled(module, backend):
    twin = copy.deepcopy(module)
    twin.compile(fullgraph=True, backend=backend)
    return twin


@pytest.mark.parametrize(("name", "training"), [slow_if(name in SAME_CODE, name, mode) for name, mode in RUNS])
def test_compiled_into_one_graph_it_computes_the_same(name, training):
    module, counter = layer(name, training), CompileCounterWithBackend("aot_eager")
    assert_close(outcome(compiled(module, counter), images(name)), outcome(module, images(name)))
    assert counter.frame_count == 1


def test_a_compiled_network_takes_other_batches_and_sizes():
    module = layer("network, odd map", training=True)
    twin = compiled(module, "aot_eager")
    for name, batch in (("network, odd map", 3), ("network, odd map", 5), ("network, even map", 2)):
        assert_close(outcome(twin, images(name, batch)), outcome(module, images(name, batch)))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_inductor_computes_the_same(training):
    module, x = layer("network, odd map", training), images("network, odd map")
    expected = outcome(module, x)
    module = layer("network, odd map", training)
    assert_close(
        outcome(compiled(module, "inductor"), x), expected, atol=1e-4, rtol=1e-4
    )  # fused, so rounded elsewhere


def calls(program):
    """What an exported program calls, in graphs inside its graph too."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    return [node.target for graph in graphs for node in graph.nodes if node.op == "call_function"]


def is_of_torch(target):
    """An operator of aten, or arithmetic of sizes."""
    return getattr(target, "namespace", None) == "aten" or target.__module__ == "_operator"


EXPORTS = [  # strict export is the compiler's way, which has seen every layer above
    slow_if(strict and name not in ("group", "network, odd map"), name, mode, strict)
    for name, mode in RUNS
    for strict in (True, False)
]


@pytest.mark.parametrize(("name", "training", "strict"), EXPORTS)
def test_exported_it_takes_any_batch_and_is_made_of_torch_alone(name, training, strict):
    module, x, more = layer(name, training), images(name), images(name, batch=5)
    batches = tuple({0: torch.export.Dim("batch")} for _ in x)
    program = torch.export.export(copy.deepcopy(module), x, dynamic_shapes=batches, strict=strict)
    assert_close(run(program.module(), more), run(module, more))
    assert [str(target) for target in calls(program) if not is_of_torch(target)] == []
    assert calls(program) or (name, training) == ("dropout", False)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_it_takes_any_size_where_nothing_depends_on_its_parity(strict):
    module, sizes = layer("network, odd map"), dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    module[3] = nn.Identity()  # the symmetric pool: an exported one takes sizes of the same parity
    program = torch.export.export(module, images("network, odd map"), dynamic_shapes=(sizes,), strict=strict)
    for x in (noise(1, 2, 6, 11), noise(4, 2, 13, 8)):
        assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_saves_and_loads(name, strict):
    module, x, file = layer(name), images(name), io.BytesIO()
    torch.export.save(torch.export.export(module, x, strict=strict), file)
    file.seek(0)
    assert_close(torch.export.load(file).module()(*x), module(*x))


class Bouquet(nn.Module):
    """Layers side by side: one ONNX export takes a second, whatever is in it."""

    def __init__(self, names):
        super().__init__()
        self.layers = nn.ModuleList(layer(name) for name in names)

    def forward(self, inputs):
        return [module(*x) for module, x in zip(self.layers, inputs, strict=True)]


@pytest.mark.parametrize(
    "names",
    [pytest.param(CASES.keys() - SAME_CODE, id="each"), pytest.param(SAME_CODE, id="others", marks=pytest.mark.slow)],
)
def test_onnx_computes_the_same_for_any_batch(names):
    names = sorted(names)
    module, x = Bouquet(names).eval(), [list(images(name)) for name in names]
    batches = [[{0: "batch"} for _ in inputs] for inputs in x]
    file = io.BytesIO()
    torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=(batches,), verbose=False).save(file)
    assert {node.domain for node in onnx.load_from_string(file.getvalue()).graph.node} == {""}
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    more = [images(name, batch=5) for name in names]
    feed = [value.numpy() for inputs in more for value in inputs]
    found = session.run(None, dict(zip([entry.name for entry in session.get_inputs()], feed, strict=True)))
    expected = dict(zip(names, [y.detach() for y in module(more)], strict=True))
    found = dict(zip(names, map(torch.from_numpy, found), strict=True))
    assert_close(found, expected, atol=1e-5, rtol=1e-5)  # another library sums in another order


@pytest.mark.filterwarnings("ignore:`torch.jit.")  # it is on its way out, but files of it are still read everywhere
@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize(("name", "training"), RUNS)
def test_traced_saved_and_loaded_it_computes_the_same_for_any_batch(name, training, with_gradient):
    module, file = layer(name, training), io.BytesIO()
    with torch.set_grad_enabled(with_gradient), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", torch.jit.TracerWarning)
        torch.jit.save(torch.jit.trace(module, images(name), check_trace=False), file)
    assert [str(w.message) for w in caught if not w.filename.endswith(BAKED_IN)] == []
    file.seek(0)
    *found, state = outcome(torch.jit.load(file), images(name, batch=5))
    state = {key: value for key, value in state.items() if key in module.state_dict()}  # such a file keeps every table
    assert_close((*found, state), outcome(module, images(name, batch=5)))
