"""Rewriting the forward of a module that calls functions which no exchange of layers can mend: strided pools,
shuffles and splits of channels, concatenations of features with pictures.

Only the forward of that one module is captured (torch.fx), its children stay as they are. Its new code can be read:
`print(twin.get_submodule(path).code)`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..groups import Group
from . import functions
from .terms import Breaks
from .trace import Role, Trace, training_mode

RESHAPES = (
    *("view", "reshape", "transpose", "permute", "contiguous", "flatten", "unflatten", "chunk", "split", "narrow"),
    *("unsqueeze", "squeeze", "expand", "size", "unbind", "stack", "channel_shuffle", "roll", "swapaxes", "movedim"),
    *("index_select", "flip", "tensor_split", "split_with_sizes", "local_response_norm", "native_channel_shuffle"),
)
FUNCTIONS, SCALED, FOLDED = range(3)
ARITHMETIC = ("floordiv", "mul", "add", "sub", "truediv", "mod")


class _OneForward(fx.Tracer):
    """Captures the forward of one module; children are calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _Rewritten(fx.GraphModule):
    """Copied as it is: GraphModule copies what its graph names, and finds no parametrized tensors."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Rewritten":
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update((key, copy.deepcopy(value, memo)) for key, value in vars(self).items())
        return twin


def rewrite(
    module: nn.Module, path: str, group: Group, inputs: tuple[Any, ...], found: Trace, level: int, turned: bool
) -> nn.Module:
    """The module with a rewritten forward. `inputs`: an example, as the original sees it. `level`: FUNCTIONS exchanges
    steps, norms and joins; SCALED also the numbers of channels in splits and slices; FOLDED also lets shuffles and
    splits move whole blocks. `turned`: strided steps are aligned at a corner of every orientation
    (roteq.nn.steps), else centred.

    Raises: Breaks if its forward cannot be captured.
    """
    module = _with_class_forward(module)
    taken = [
        name for name in (*module._modules, *module._parameters, *module._buffers) if hasattr(fx.GraphModule, name)
    ]
    taken += [name for name in ("meta",) if hasattr(module, name)]
    if taken:
        raise Breaks(
            f"{path or type(module).__name__}: its forward has to be rewritten, and torch.fx keeps the name "
            f"{taken[0]!r} for itself; call that attribute something else"
        )
    try:
        graph = _OneForward().trace(module)
    except Exception as error:
        raise Breaks(
            f"{path or type(module).__name__}: its forward calls functions that have to be exchanged, and cannot be "
            f"captured ({str(error).splitlines()[0]}); make them layers of their own (nn.MaxPool2d, nn.ChannelShuffle)"
        ) from error
    twin = _Rewritten(module, graph, type(module).__name__)
    twin.train(module.training)
    shapes = _shapes(twin, inputs)
    calls = [call for call in found.calls if call.module is None and call.path == path]
    _exchange_functions(twin, module, group, shapes, calls, found, turned)
    if level >= SCALED:
        for node in list(twin.graph.nodes):
            _scale(node, shapes)
    if level >= FOLDED:
        _fold_reshapes(twin, group, shapes)
    twin.graph.eliminate_dead_code()
    twin.graph.lint()
    twin.recompile()
    del type(twin).__call__  # prints every error, even one that is handled; nn.Module has its own
    return twin


def _with_class_forward(module: nn.Module) -> nn.Module:
    """Some modules choose their forward when they are made; torch.fx looks at the class."""
    own = vars(module).get("forward")
    if own is None:
        return module
    module = copy.copy(module)
    del module.forward
    module.__class__ = type(type(module).__name__, (type(module),), {"forward": own.__func__})
    return module


def name_of(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.found[n] = value.shape if isinstance(value, Tensor) else value
        return value


@torch.no_grad()
def _shapes(module: fx.GraphModule, inputs: tuple[Any, ...]) -> dict[fx.Node, Any]:
    interpreter = _Shapes(module)
    interpreter.run(*inputs)
    return interpreter.found


def _exchange_functions(
    twin: fx.GraphModule,
    module: nn.Module,
    group: Group,
    shapes: dict[fx.Node, Any],
    calls: list[Any],
    found: Trace,
    turned: bool,
) -> None:
    exchanged: dict[str, Callable[..., Any]] = {
        "max_pool2d": functions.max_pool2d,
        "avg_pool2d": functions.avg_pool2d,
        "conv2d": functions.conv2d,
    }
    cats = [call for call in calls if call.name in ("cat", "concat", "concatenate")]
    last = {id(found.calls[index]) for index in found.last}
    linear = iter([id(call) in last for call in calls if call.name in ("linear", "conv2d")])
    strided = iter([found.nodes[call.inputs[0]].role for call in calls if call.name in exchanged])
    norms = iter(_follow_training(module, twin.graph))
    position = 0
    for node in list(twin.graph.nodes):
        name = name_of(node)
        is_last = name in ("linear", "conv2d") and next(linear, False)
        if name == "linear" and is_last:
            node.target = functions.last_linear
            node.kwargs = {**node.kwargs, "order": group.order}
        elif name in exchanged:
            node.op, node.target = "call_function", exchanged[name]
            role = next(strided, Role.IMAGE)
            if turned and (role == Role.FEATURE or name == "conv2d"):
                node.kwargs = {**node.kwargs, "turned": group.name}
            if is_last:
                with twin.graph.inserting_after(node):
                    pooled = twin.graph.call_function(functions.mean_over_group, (node, group.order))
                node.replace_all_uses_with(pooled, lambda user, pooled=pooled: user is not pooled)
        elif name == "batch_norm":
            _as_batch_norm(twin, node, group, follows=next(norms))
        elif name in ("dropout", "dropout2d") and node.op == "call_function":
            _as_dropout(twin, node, name)
        elif name in ("cat", "concat", "concatenate"):
            if position < len(cats):
                roles = [found.nodes[n].role for n in cats[position].inputs]
                mixed = Role.FEATURE in roles and any(role != Role.FEATURE for role in roles)
                if mixed:
                    node.target = functions.cat
                    regular = [role == Role.FEATURE for role in roles]
                    node.kwargs = {**node.kwargs, "order": group.order, "regular": regular}
            position += 1


def _follow_training(module: nn.Module, captured: fx.Graph) -> list[bool]:
    """Of every functional batch norm, in order: does it read the module's mode? Then what was captured in evaluation
    mode says nothing about training."""
    found = []
    for training in (False, True):
        with training_mode(module, training):
            try:
                nodes = _OneForward().trace(module).nodes
            except Exception:
                nodes = captured.nodes
        norms = [node for node in nodes if name_of(node) == "batch_norm"]
        found.append([node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False) for node in norms])
    return [a != b for a, b in zip(*found, strict=True)] if len(found[0]) == len(found[1]) else [True] * len(found[0])


def _as_batch_norm(twin: fx.GraphModule, node: fx.Node, group: Group, follows: bool) -> None:
    if not follows:
        node.target, node.kwargs = functions.batch_norm, {**node.kwargs, "order": group.order}
        return
    twin.add_submodule(f"{node.name}_of_features", functions.BatchNorm(group.order))
    node.op, node.target = "call_module", f"{node.name}_of_features"


def _as_dropout(twin: fx.GraphModule, node: fx.Node, name: str) -> None:
    """F.dropout(x, p, training=self.training) was captured in one mode; as a layer it follows train() and eval()."""
    arguments = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | node.kwargs
    p: Any = arguments.get("p", 0.5)
    twin.add_submodule(node.name, nn.Dropout(p) if name == "dropout" else nn.Dropout2d(p))
    node.op, node.target, node.args, node.kwargs = "call_module", node.name, (arguments["input"],), {}


def _is_reshape(node: fx.Node, shapes: dict[fx.Node, Any]) -> bool:
    name = name_of(node)
    if name in RESHAPES:
        return True
    if name == "getattr":
        return bool(node.args[1] == "shape")
    if name == "getitem":
        return True
    of_tensors = [a for a in node.all_input_nodes if isinstance(shapes.get(a), torch.Size)]
    if name in ARITHMETIC and not of_tensors:
        return True  # on sizes
    result = shapes.get(node)
    five = any(len(shapes[a]) == 5 for a in of_tensors) or (isinstance(result, torch.Size) and len(result) == 5)
    return bool(five and node.op in ("call_function", "call_method"))


def _fold_reshapes(twin: fx.GraphModule, group: Group, shapes: dict[fx.Node, Any]) -> None:
    """Let every chain of reshapes, splits and shuffles work on folded maps (`layers.fold`), in which the code sees the
    channels that it expects."""
    graph, order = twin.graph, group.order
    inside = {node for node in graph.nodes if _is_reshape(node, shapes)}
    folded: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node in inside:
            for source in node.all_input_nodes:
                size = shapes.get(source)
                if source in inside or not isinstance(size, torch.Size) or len(size) != 4:
                    continue
                if source not in folded:
                    with graph.inserting_after(source):
                        folded[source] = graph.call_function(functions.fold_map, (source, order))
                node.replace_input_with(source, folded[source])
    for node in inside:
        outside = [user for user in node.users if user not in inside and name_of(user) != "unfold_map"]
        if not outside or not isinstance(shapes.get(node), torch.Size | tuple | list):
            continue
        with graph.inserting_after(node):
            opened = graph.call_function(functions.unfold_map, (node, order))
        for user in outside:
            user.replace_input_with(node, opened)


def _scale(node: fx.Node, shapes: dict[fx.Node, Any]) -> None:
    """Numbers of channels in splits and slices were written for the original's."""
    source: Any = node.args[0] if node.args else None
    size = shapes.get(source) if isinstance(source, fx.Node) else None
    if not isinstance(size, torch.Size) or len(size) != 4:
        return
    name = name_of(node)
    if name in ("split", "split_with_sizes"):
        arguments = list(node.args)
        dim = node.kwargs.get("dim", arguments[2] if len(arguments) > 2 else 0)
        sizes = arguments[1] if len(arguments) > 1 else next(iter(node.kwargs.values()))
        if dim == 1:
            node.op, node.target, node.args = "call_function", functions.split, (source, sizes, 1)
            node.kwargs = {"whole": size[1]}
    elif name == "getitem" and isinstance(node.args[1], tuple) and len(node.args[1]) > 1:
        index = node.args[1]
        full = all(part in (slice(None), ...) for part in (index[0], *index[2:]))
        if full and isinstance(index[1], slice) and index[1].step in (None, 1):
            bounds = [b for b in (index[1].start, index[1].stop) if b is not None]
            if all(isinstance(b, int) for b in bounds):
                node.target, node.args, node.kwargs = functions.channels, (source, index[1]), {"whole": size[1]}
