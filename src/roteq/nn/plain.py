"""Leave the library: the same network made of torch's own layers."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..errors import UsageError
from .rectangular import InterleavedConv2d

SAME = 1e-4  # largest relative change of the output that folding may cause, in float32


def plain(module: nn.Module, *, fold: Tensor | None = None) -> nn.Module:
    """A copy in which tied convolutions are nn.Conv2d (nn.ConvTranspose2d) and the norms torch's own over physical
    channels.

    It computes the same in eval mode and is as fast as any CNN of as many physical channels; trained further, its
    filters drift apart and it is no longer equivariant. Layers without weights stay (GroupPool, the symmetric
    pools, Restriction), and so do norms that torch does not have (GroupLayerNorm2d, most of those with shared=False); a
    rectangular kernel becomes two convolutions side by side. `torch.export` leaves nothing of roteq in the file.

    fold: a sample input, for a network in eval mode. Every BatchNorm that reads what a convolution has just written is
    then folded into it; the output on the sample is compared, and a fold that changes it is undone.

    Raises: UsageError if weights are not finite, or for `fold` in training mode.

    >>> from roteq.nn import LiftingConv2d
    >>> plain(LiftingConv2d(1, 8, kernel_size=3, group="p4"))
    Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1))
    """
    if fold is not None and module.training:
        raise UsageError(
            "plain: expected a network in eval mode to fold its BatchNorm, got training mode; call .eval()"
        )
    twin = _exchange(copy.deepcopy(module), {})
    return twin if fold is None else _fold_batch_norms(twin, fold)


def _exchange(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Replace every layer that knows its plain form, in place; a layer used twice stays one layer."""
    if module not in done:
        done[module] = module
        if parametrize.is_parametrized(module):
            _write_out(module)
        own = getattr(module, "plain", None)
        if callable(own):
            done[module] = own()
        else:
            for name, child in module._modules.items():
                if child is not None:
                    setattr(module, name, _exchange(child, done))
    return done[module]


@torch.no_grad()
def _write_out(module: nn.Module) -> None:
    """Keep what the parametrizations of a module compute, without them. torch's own function for this takes the
    attribute from the class, which copies of the module share."""
    tied: Any = module.parametrizations
    values = {name: getattr(module, name).detach().clone() for name in tied}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for name, value in values.items():
        if isinstance(tied[name].original, nn.Parameter):
            setattr(module, name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


@torch.no_grad()
def _fold_batch_norms(network: nn.Module, sample: Tensor) -> nn.Module:
    expected = network(sample)
    pairs = _written_then_normalised(network, sample)
    folded = _with_folded(network, pairs)
    if _same(folded(sample), expected):
        return folded
    kept: list[tuple[str, str]] = []  # some convolution is read by others too: find out which
    for pair in pairs:
        if _same(_with_folded(network, [*kept, pair])(sample), expected):
            kept.append(pair)
    return _with_folded(network, kept)


def _same(output: Any, expected: Any) -> bool:
    pairs = list(zip(_tensors(output), _tensors(expected), strict=True))
    return bool(pairs) and all(bool((found - wanted).norm() <= SAME * wanted.norm()) for found, wanted in pairs)


def _tensors(output: Any) -> list[Tensor]:
    """All tensors of an output: one, or those in (nested) tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _written_then_normalised(network: nn.Module, sample: Tensor) -> list[tuple[str, str]]:
    """Names of every convolution and the BatchNorm whose input is its output, each called once."""
    writer: dict[int, str] = {}
    alive, pairs, calls = [], [], []  # tensors are kept alive, or another could get the same id

    def convolution(name: str, output: Tensor) -> None:
        calls.append(name)
        alive.append(output)
        writer[id(output)] = name

    def normalisation(name: str, input: Tensor) -> None:
        calls.append(name)
        if id(input) in writer:
            pairs.append((writer[id(input)], name))

    hooks = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | InterleavedConv2d):
            hooks.append(layer.register_forward_hook(lambda _, __, output, name=name: convolution(name, output)))
        elif isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            hooks.append(layer.register_forward_pre_hook(lambda _, inputs, name=name: normalisation(name, inputs[0])))
    try:
        network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if all(calls.count(name) == 1 for name in pair)]


def _exchange_channels(weight: Tensor, groups: int) -> Tensor:
    """(channels in, channels out / groups, k, k) -> (channels out, channels in / groups, k, k), and back."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _fold(conv: Any, norm: Any, channels: slice) -> None:
    """Let the convolution write what these channels of the norm would make of it."""
    transposed = isinstance(conv, nn.ConvTranspose2d)
    weight = _exchange_channels(conv.weight, conv.groups) if transposed else conv.weight
    scale, shift = (None if v is None else v[channels] for v in (norm.weight, norm.bias))
    weight, conv.bias = fuse_conv_bn_weights(
        *(weight, conv.bias, norm.running_mean[channels], norm.running_var[channels], norm.eps, scale, shift)
    )
    conv.weight = nn.Parameter(_exchange_channels(weight, conv.groups)) if transposed else weight


def _with_folded(network: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    network = copy.deepcopy(network)
    for conv_name, norm_name in pairs:
        conv: Any = network.get_submodule(conv_name)
        norm: Any = network.get_submodule(norm_name)
        if isinstance(conv, InterleavedConv2d):
            _fold(conv.even, norm, slice(0, None, 2))
            _fold(conv.odd, norm, slice(1, None, 2))
        else:
            _fold(conv, norm, slice(None))
        parent, _, child = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return network
