"""convert(): any convolutional network -> its group-equivariant twin, verified before it is returned."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group
from ..nn.steps import can_turn
from ..results import Conversion
from . import report
from .build import Plan, build, make_plan, substitute
from .rewrite import FOLDED, FUNCTIONS, SCALED, rewrite
from .terms import Breaks, Terms
from .trace import Inputs, Role, is_layer, trace
from .verify import Errors, measure
from .width import Scale, Width, first_factor

ROUNDS = 12  # rewritings, of one kind of modules each
ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


def convert(
    model: nn.Module,
    group: str | Group = "p4m",
    *,
    sample: Tensor | Sequence[Any],
    width: Width = "parameters",
    strict: bool = True,
) -> nn.Module:
    """The group-equivariant twin of a convolutional network.

    Law: f(g x) = rho(g) f(x) for every exact element g: class scores and embeddings are invariant, maps turn with the
    picture. The convolutions that see the picture become lifting convolutions, all others group convolutions; norms
    share their statistics; strided steps become symmetric; the mean over the group is taken before the last linear map.
    What each layer sees is found by running the network on the sample, in evaluation and in training mode.

    model: any module; it stays as it is. sample: an input (B, C, H, W) of the size that will be used, or a tuple of all
    inputs. group: any C_N or D_N; beyond quarter turns and mirrors it is interpolated, and not verified.
    width: "parameters" (as many as the original has), "channels" (as many physical channels, about the original's
    cost), "features" (each channel becomes a feature, |G| times as many channels; keeps the weights), or features per
    channel.
    With "features" every filter goes to the identity of its group filter: before any training the twin is the average
    of the original over the group, exactly for exact elements and at every size (the report measures it). Otherwise
    weights are drawn anew, in the original's proportions.
    strict=False: operations that break equivariance are left and named in the report; a layer that has no group form is
    refused all the same.

    Returns: the twin, in the original's mode; `twin.conversion` is the report (roteq.results.Conversion). `nn.plain`
    gives a network of torch's own layers.
    Raises: UsageError for a wrong argument, or naming the module, the operation and what to do where something has no
    equivariant counterpart; attention (ViT, Swin) has none: roteq.Symmetrized averages any model.
    Source: Cohen & Welling 2016 (arXiv 1602.07576); the layers: roteq.nn.

    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    >>> twin = convert(net, "p4", sample=torch.rand(1, 3, 32, 32), width="channels")
    >>> twin[0].out_channels, twin.conversion.exact
    (4, True)
    """
    chosen = named_group(group)
    factor = first_factor(width, chosen)
    inputs = two_images(sample)
    work = _Work(copy.deepcopy(model).eval(), chosen, inputs, width, factor, strict)
    twin = work.run().train(model.training)
    for path, module in model.named_modules():
        if module.training != model.training:  # frozen parts stay in evaluation mode
            twin.get_submodule(path).train(module.training)
    return twin


def two_images(sample: Any) -> Inputs:
    """The sample's shapes with two different pictures of noise: a constant picture would verify nothing."""
    values = tuple(sample) if isinstance(sample, tuple | list) else (sample,)
    if not any(isinstance(value, Tensor) and value.ndim == 4 for value in values):
        shown = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
        raise UsageError(f"convert: expected sample to be a picture (B, C, H, W) or a tuple of inputs, got {shown}")
    generator = torch.Generator().manual_seed(0)
    made: list[Any] = []
    for value in values:
        if isinstance(value, Tensor) and value.ndim and value.is_floating_point():
            noise = torch.randn((2, *value.shape[1:]), generator=generator)
            made.append(noise.to(value.device, value.dtype))
        elif isinstance(value, Tensor) and value.ndim:
            made.append(value[:1].expand(2, *value.shape[1:]).clone())
        else:
            made.append(value)
    return tuple(made)


@dataclass
class _Work:
    """One conversion: plan, build, measure; rewrite what the measurement or a failure points at, and again."""

    model: nn.Module  # a copy of the original
    group: Group
    inputs: Inputs
    width: Width
    factor: float
    strict: bool
    rewritten: dict[str, int] = field(default_factory=dict)  # path -> level

    def run(self) -> nn.Module:
        self.original, self.sample = copy.deepcopy(self.model), self.inputs
        self.plan = make_plan(self.model, self.inputs, self.strict)
        self._refuse_attention(self.plan)
        self.inputs = self._smaller(self.inputs)
        for path, level in _paths_to_rewrite(self.plan).items():
            try:
                self._rewrite(path, level)
            except Breaks:
                if level == FUNCTIONS:  # what cuts channels may be right as it is
                    raise
        twin, terms, errors = self._best()
        broken = {} if errors.exact else {_where(errors): _reason(errors)}
        if broken and self.strict:
            where, reason = next(iter(broken.items()))
            raise Breaks(f"{where}: {reason}")
        twin.conversion = self._report(twin, terms, errors, self.plan.left | broken)  # type: ignore[assignment]
        return twin

    def _best(self) -> tuple[nn.Module, Terms, Errors]:
        """Build and measure; where that fails, or shows an operation that breaks equivariance, rewrite the module that
        is to blame and do it again, until nothing is broken or nothing can be rewritten."""
        found: tuple[nn.Module, Terms, Errors] | None = None
        for rounds in range(ROUNDS + 1):
            try:
                twin, terms = self._build()
            except Breaks:
                raise
            except Exception as error:
                where = getattr(error, "where", "")
                blamed = self._rewritable(where)
                if blamed is not None and rounds < ROUNDS:
                    self._rewrite_all_like(blamed)
                    continue
                if found is None:
                    raise Breaks(
                        f"{where or 'the network itself'}: failed on features of {self.group.name}: "
                        f"{_first_line(error)}; a number of channels is written into its code, perhaps: take it from "
                        "x.shape, or choose width='features'"
                    ) from error
                break  # rewriting did not help: what was measured before it stands
            errors = measure(twin, self.inputs, self.group)
            found = twin, terms, errors
            blamed = None if errors.exact or errors.culprit is None else self._rewritable(errors.culprit.path)
            if blamed is None:
                break
            try:
                self._rewrite_all_like(blamed)
            except Breaks:
                break
        assert found is not None
        return found

    def _report(self, twin: nn.Module, terms: Terms, errors: Errors, broken: dict[str, str]) -> Conversion:
        original, plan = self.original, self.plan
        steps = report.asymmetric_steps(twin, plan)
        return Conversion(
            model=type(original).__name__,
            group=self.group.name,
            width=str(self.width),
            factor=terms.scale.factor,
            kept_weights=terms.keep,
            layers=report.exchanged_layers(original, twin, plan, errors),
            errors={self.group.describe(g): e for g, e in errors.by_element.items()},
            parameters=(count_parameters(original), count_parameters(twin)),
            flops=(report.flops(original, self.sample), report.flops(twin, self.sample)),
            channels=(report.physical_channels(original), report.physical_channels(twin)),
            asymmetric=steps,
            symmetric_size=report.symmetric_size(original, twin, plan, self.sample) if steps else None,
            difference=report.difference_to_average(original, twin, self.inputs, self.group) if terms.keep else None,
            rewritten=tuple(self.rewritten),
            broken=broken,
            unused=report.unused_layers(original, plan),
        )

    def _smaller(self, inputs: Inputs) -> Inputs:
        """Pictures of 64 to 95 pixels that leave the same remainders in steps of 2 to 32, where the network does the
        same with them: building and measuring then take seconds for pictures of any size."""
        sizes = {v.shape[-2:] for v in inputs if isinstance(v, Tensor) and v.ndim == 4}
        if all(max(size) < 96 for size in sizes):
            return inputs
        small = tuple(
            v[..., : 64 + v.shape[-2] % 32, : 64 + v.shape[-1] % 32] if isinstance(v, Tensor) and v.ndim == 4 else v
            for v in inputs
        )
        try:
            found = trace(self.original, small)
            if len(self.plan.traced) > 1:
                trace(copy.deepcopy(self.original), small, training=True)
        except Exception:  # its size is written into the network, that of a linear map of a flattened map for instance
            return inputs
        same = [(c.path, c.name) for c in found.calls] == [(c.path, c.name) for c in self.plan.traced[0].calls]
        return small if same else inputs

    def _refuse_attention(self, plan: Plan) -> None:
        for call in plan.traced[0].calls:
            products = call.name in ("matmul", "bmm", "__matmul__", "einsum", "baddbmm")
            roles = [plan.traced[0].nodes[n].role for n in call.inputs]
            if call.name in ATTENTION or (products and roles.count(Role.FEATURE) > 1):
                raise Breaks(
                    f"{call.path or type(self.model).__name__}: attention ({call.name}) relates positions to each "
                    "other and has no group convolution; roteq.Symmetrized(model, group) makes any model invariant"
                )

    def _rewritable(self, path: str) -> str | None:
        """The nearest module around whose forward is not rewritten yet: layers and sequences have none of their own."""
        while True:
            module = self.original.get_submodule(path)
            fixed = is_layer(module) or isinstance(module, nn.Sequential | nn.ModuleList) or path in self.plan.exchanges
            if not fixed and self.rewritten.get(path, FUNCTIONS) < FOLDED:
                return path
            if not path:
                return None
            path = path.rpartition(".")[0]

    def _rewrite_all_like(self, path: str) -> None:
        """What is wrong with the forward of one block is wrong with all of its class."""
        kind = type(self.original.get_submodule(path))
        called = {call.path for found in self.plan.traced for call in found.calls}
        for other, module in self.original.named_modules():
            runs = other in called or any(name.startswith(f"{other}.") for name in called)
            if type(module) is kind and runs:
                self._rewrite(other, min(FOLDED, self.rewritten.get(other, FUNCTIONS) + 1))

    @property
    def _turned(self) -> bool:
        return self.width == "features" and can_turn(self.group)

    def _rewrite(self, path: str, level: int) -> None:
        module = self.original.get_submodule(path)
        example = _example(self.original, path, self.inputs)
        twin = rewrite(module, path, self.group, example, self.plan.traced[0], level, self._turned)
        old = self.model.get_submodule(path)
        for name, child in old._modules.items():  # children may be rewritten already
            if name in twin._modules:
                twin._modules[name] = child
        self.model = substitute(self.model, {id(old): twin})
        self.rewritten[path] = level

    def _build(self) -> tuple[nn.Module, Terms]:
        """The twin at the width asked for. Widths in proportion come last: they suit every split, but few numbers."""
        keep = self.width == "features"
        parts = _parts(self.plan)
        scales = [Scale(1.0)]
        if not keep:
            common = math.gcd(*_channels(self.original))
            scales = [Scale(self.factor, unit) for unit in (1, 2, 4)]
            scales += [Scale(self.factor, 1, parts), Scale(self.factor, 1, (common,))]
        failure: Exception | None = None
        for scale in scales:
            terms = Terms(self.group, scale, keep, self.inputs[0].device)
            try:
                if self.width == "parameters":
                    terms = self._as_many_parameters(terms)
                return build(self.model, self.inputs, self.plan, terms), terms
            except Breaks:
                raise
            except Exception as error:
                failure = error
        assert failure is not None
        raise failure

    def _as_many_parameters(self, terms: Terms) -> Terms:
        """Search the factor with networks that have shapes but no values."""
        target = count_parameters(self.original)
        found: dict[float, Terms] = {}
        for _ in range(6):
            trial = self._parameters_of(terms)
            found[abs(math.log(trial / target))] = terms
            if min(found) < 0.005:
                break
            factor = terms.scale.factor * (target / trial) ** 0.5
            terms = Terms(self.group, replace(terms.scale, factor=factor), terms.keep, terms.device)
        return found[min(found)]

    def _parameters_of(self, terms: Terms) -> int:
        meta = tuple(v.to("meta") if isinstance(v, Tensor) else v for v in self.inputs)
        try:
            with torch.device("meta"):
                return count_parameters(build(copy.deepcopy(self.model).to("meta"), meta, self.plan, terms))
        except Exception as error:
            if "meta" not in str(error).lower():
                raise
            return count_parameters(build(self.model, self.inputs, self.plan, terms))


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _channels(model: nn.Module) -> list[int]:
    return [m.out_channels for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)] or [1]


def _parts(plan: Plan) -> tuple[int, ...]:
    """Numbers of channels that divide what is cut and joined: kept in proportion, pieces add up."""
    found = set()
    for call in plan.traced[0].calls:
        if call.module is None and call.name in ("cat", "split", "chunk", "__getitem__", "tensor_split", "narrow"):
            shapes = [plan.traced[0].tensor(n).shape for n in (*call.inputs, *call.outputs)]
            sizes = {shape[1] for shape in shapes if len(shape) == 4}
            if len(sizes) > 1:
                found.add(math.gcd(*sizes))
    return tuple(sorted(found - {1}))


def _paths_to_rewrite(plan: Plan) -> dict[str, int]:
    """Modules whose own forward calls functions with strided steps or norms, joins features with pictures, or cuts
    channels, and how far they are to be rewritten."""
    paths: dict[str, int] = {}
    for found in plan.traced:
        for index, call in enumerate(found.calls):
            roles = [found.nodes[n].role for n in call.inputs]
            if call.module is not None or max(roles, default=0) not in (Role.IMAGE, Role.FEATURE):
                continue
            before, after = found.tensor(call.inputs[0]), found.tensor(call.outputs[0])
            pools = call.name in ("max_pool2d", "avg_pool2d", "conv2d") and after.shape[-1] < before.shape[-1] - 2
            mixed = call.name in ("cat", "concat") and Role.FEATURE in roles and min(roles) < Role.FEATURE
            cuts = call.name in ("split", "__getitem__", "narrow", "split_with_sizes") and Role.FEATURE in roles
            if pools or mixed or index in found.last or (call.name == "batch_norm" and Role.FEATURE in roles):
                paths.setdefault(call.path, FUNCTIONS)
            elif cuts and before.ndim == after.ndim == 4 and before.shape[2:] == after.shape[2:]:
                paths[call.path] = SCALED
    return paths


def _example(model: nn.Module, path: str, inputs: Inputs) -> tuple[Any, ...]:
    """What comes into a module, in evaluation mode or, if it is not used there, in training mode."""
    seen: list[tuple[Any, ...]] = []
    shadow = copy.deepcopy(model)
    shadow.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        shadow.eval()(*inputs)
        if not seen:
            shadow.train()(*inputs)
    return seen[0]


def _where(errors: Errors) -> str:
    return "the network" if errors.culprit is None else errors.culprit.where


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _reason(errors: Errors) -> str:
    call = errors.culprit
    if any(e is None for e in errors.by_element.values()):
        return "its output does not vary between pictures, so nothing can be verified; is it trained, or initialised?"
    if call is None:
        worst = max(e or 0.0 for e in errors.by_element.values())
        return f"is not equivariant (error {worst:.2g}), and no single operation is to blame"
    before, after = errors.shapes
    advice = {
        "add": "a constant added position by position, such as a position embedding, has no place here: leave it out",
        "pad": "pad all sides alike",
        "getitem": "crop all sides alike, and cut channels in whole blocks",
    }
    hint = next((text for key, text in advice.items() if key in call.name), "make it a layer, or symmetric")
    return f"breaks equivariance, {before} -> {after}; {hint}. strict=False leaves it and says so"
