"""What a network does with a sample: every call of a layer and of a torch function, in order, and what flows where.

The network runs as it is, on real tensors, so any Python in its forward is fine. Which tensor is an image, a feature
map or a constant follows from where it came from, never from the name of a layer.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

Inputs = tuple[Any, ...]


class Role(IntEnum):
    """What a tensor is to the group; an operation's result has the highest role of its inputs."""

    CONSTANT = 0  # does not depend on a picture
    IMAGE = 1  # the picture, or what was made of it before any convolution: trivial representation
    FEATURE = 2  # behind a convolution: regular representation
    ANSWER = 3  # behind the last linear map: trivial representation again


@dataclass
class Call:
    """One call of a layer (`module` set) or of a torch function, made by the code of the module at `path`."""

    path: str
    name: str
    module: nn.Module | None
    inputs: tuple[int, ...]  # numbers of the tensors that went in, in order
    outputs: tuple[int, ...]
    function: Any = None

    @property
    def where(self) -> str:
        return f"{self.path or 'the network itself'}: {self.name}" if self.module is None else self.path


@dataclass
class Node:
    """A tensor: its shape, and for a flattened map the size (h, w) of the map it was."""

    tensor: Tensor
    grid: tuple[int, int] = (1, 1)
    role: Role = Role.CONSTANT
    parameters: frozenset[str] = frozenset()  # names of parameters and buffers it was made of, if of these alone


@dataclass
class Trace:
    calls: list[Call] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    output: Any = None
    learnt: frozenset[str] = frozenset()  # names of the parameters
    last: set[int] = field(default_factory=set)  # indices of the last linear maps (`find_roles`)

    def tensor(self, number: int) -> Tensor:
        return self.nodes[number].tensor


def is_layer(module: nn.Module) -> bool:
    """A module that is taken as a whole: torch's own layers, and whatever is derived from its convolutions, linear
    maps, norms and pools."""
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    kinds: Any = nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm
    kinds += (nn.MaxPool2d, nn.AvgPool2d)
    home = type(module).__module__
    if home.startswith("roteq.nn.") or home == "roteq.conversion.layers":
        return True
    own = home.startswith("torch.nn.modules.")
    return (own and not any(True for _ in module.children())) or isinstance(module, kinds)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


class Tracer(TorchFunctionMode):
    """Records into a `Trace`. `stack` names the modules that are running, outermost first."""

    def __init__(self, model: nn.Module, layer: Callable[[nn.Module], bool] = is_layer) -> None:
        super().__init__()
        self.model, self.layer, self.trace = model, layer, Trace()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[str] = []
        self.inside: nn.Module | None = None  # the layer that is running: what it calls itself is not recorded
        self.numbers: dict[int, int] = {}
        self.trace.learnt = frozenset(name for name, _ in model.named_parameters())
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            self.trace.nodes.append(Node(value, parameters=frozenset([name])))
            self.numbers[id(value)] = len(self.trace.nodes) - 1

    def number(self, tensor: Tensor, made: bool = False) -> int:
        """Of a tensor; a new one where it was made (or changed in place) just now."""
        if made or id(tensor) not in self.numbers:
            self.trace.nodes.append(Node(tensor))  # kept alive, or another could get the same id
            self.numbers[id(tensor)] = len(self.trace.nodes) - 1
        return self.numbers[id(tensor)]

    def record(self, module: nn.Module | None, function: Any, inputs: Any, output: Any) -> None:
        made = list(tensors_in(output))
        if not made:
            return
        path = self.names.get(id(module), "?") if module is not None else self.stack[-1] if self.stack else ""
        name = type(module).__name__ if module is not None else getattr(function, "__name__", str(function))
        before = tuple(self.number(tensor) for tensor in tensors_in(inputs))
        same = not before or (len(made) == 1 and any(made[0] is self.trace.tensor(n) for n in before))
        in_place = name.endswith("_") or name in ("__setitem__", "__iadd__", "__imul__")
        if same and module is None and not in_place and before:
            return  # contiguous() of what is contiguous: nothing happened
        after = tuple(self.number(tensor, made=True) for tensor in made)
        self.trace.calls.append(Call(path, name, module, before, after, function))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.inside is None:
            self.record(None, func, (args, kwargs), output)
            if getattr(func, "__name__", "") == "__setitem__":
                self.record(None, func, (args, kwargs), args[0])
        return output

    def enter(self, module: nn.Module, args: Any) -> None:
        if self.inside is not None:
            return
        self.stack.append(self.names.get(id(module), "?"))
        if self.layer(module):
            self.inside = module

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.inside is not None and self.inside is not module:
            return
        if self.inside is module:
            self.inside = None
            self.record(module, None, (args, kwargs), output)
        self.stack.pop()


@contextmanager
def training_mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


def trace(
    model: nn.Module, inputs: Inputs, training: bool = False, layer: Callable[[nn.Module], bool] = is_layer
) -> Trace:
    """Run the model once, without gradients. If it fails, the exception carries `where`: the running module."""
    tracer = Tracer(model, layer)
    tracer.trace.inputs = [tracer.number(tensor, made=True) for tensor in tensors_in(inputs)]
    hooks = [
        register_module_forward_pre_hook(tracer.enter),
        register_module_forward_hook(tracer.leave, with_kwargs=True),
    ]
    try:
        with torch.no_grad(), training_mode(model, training), warnings.catch_warnings(), tracer:
            warnings.simplefilter("ignore")
            output = model(*inputs)
    except Exception as error:
        error.where = next((name for name in reversed(tracer.stack) if name != "?"), "")  # type: ignore[attr-defined]
        raise
    finally:
        for hook in hooks:
            hook.remove()
    found = tracer.trace
    found.output, found.outputs = output, [tracer.number(tensor) for tensor in tensors_in(output)]
    return found


LINEAR_FUNCTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear")
RESHAPES = ("flatten", "view", "reshape", "squeeze")


@dataclass
class Roles:
    """Of the calls of a trace, by index: the linear maps, whether each is a last one (no other works on what comes out
    of it), and behind which calls the mean over the group is taken."""

    last: dict[int, bool]
    pools: set[int]


def find_roles(found: Trace) -> Roles:
    """Fill in role, grid and parameters of every node."""
    for number in found.inputs:  # a vector is not turned
        found.nodes[number].role = Role.IMAGE if found.tensor(number).ndim == 4 else Role.CONSTANT
    for call in found.calls:  # what is made of parameters alone
        before = [found.nodes[n] for n in call.inputs]
        if before and all(node.parameters for node in before):
            for number in call.outputs:
                found.nodes[number].parameters = frozenset().union(*(node.parameters for node in before))
    last = _last_linear_maps(found)
    found.last = {index for index, is_last in last.items() if is_last}
    pools = {_where_to_pool(found, index) for index, is_last in last.items() if is_last}
    for index, call in enumerate(found.calls):
        before = [found.nodes[n] for n in call.inputs]
        role = max((node.role for node in before), default=Role.CONSTANT)
        if index in last and role == Role.IMAGE:
            role = Role.FEATURE
        if index in pools and role == Role.FEATURE:
            role = Role.ANSWER
        for number in call.outputs:
            found.nodes[number].role = role
            if index not in last:
                found.nodes[number].grid = _grid(call, before, found.nodes[number].tensor)
    return Roles(last, pools)


def _where_to_pool(found: Trace, index: int) -> int:
    """The last layer that works on nothing but what a last convolution gives: what lies between is not linear, perhaps.
    A linear map of vectors is pooled before, which comes to the same."""
    call = found.calls[index]
    times = Counter(id(c.module) for c in found.calls if c.module is not None)
    if found.tensor(call.outputs[0]).ndim != 4:
        return index
    behind, best = set(call.outputs), index
    for later in range(index + 1, len(found.calls)):
        call = found.calls[later]
        varying = [n for n in call.inputs if not found.nodes[n].parameters]
        if not any(n in behind for n in varying):
            continue
        if not all(n in behind for n in varying):
            break
        behind.update(call.outputs)
        maps = all(found.tensor(n).ndim == 4 for n in call.outputs)
        if call.module is not None and times[id(call.module)] == 1 and maps:
            best = later
    return best


def _grid(call: Call, before: Sequence[Node], made: Tensor) -> tuple[int, int]:
    if call.name.lower() in RESHAPES and made.ndim == 2:
        for node in before:
            if node.tensor.ndim == 4 and node.tensor.numel() == made.numel():
                return node.tensor.shape[2], node.tensor.shape[3]
    flat = [node for node in before if node.role != Role.CONSTANT and node.tensor.ndim == made.ndim]
    return max((node.grid for node in flat), default=(1, 1))


def _last_linear_maps(found: Trace) -> dict[int, bool]:
    """Index of every linear map -> no other one follows. Backwards: which tensors will meet another linear map?"""
    meets: set[int] = set()
    last: dict[int, bool] = {}
    for index in range(len(found.calls) - 1, -1, -1):
        call = found.calls[index]
        meets_later = any(n in meets for n in call.outputs)
        linear = _is_linear_map(found, call)
        if linear:
            last[index] = not meets_later
        if linear or meets_later:
            meets.update(call.inputs)
    return last


def _is_linear_map(found: Trace, call: Call) -> bool:
    """A convolution or linear map with weights to be learnt (a blur with a constant filter is none)."""
    if call.module is not None:
        return isinstance(call.module, nn.modules.conv._ConvNd | nn.Linear)
    if call.name not in LINEAR_FUNCTIONS or len(call.inputs) < 2:
        return False
    sources = found.nodes[call.inputs[1]].parameters
    return any(name in found.learnt for name in sources)
