"""Normalisation whose statistics are shared over the group, so that training is equivariant too."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group
from .checks import check_at_least, check_features, check_last_features
from .layout import in_layout_of, is_channels_last


def over_group(values: Tensor, order: int) -> Tensor:
    """One value a feature -> one value a physical channel."""
    return values[:, None].expand(-1, order).reshape(-1)


def _unless_shared(shared: bool) -> str:
    return "" if shared else ", shared=False"


def over_rows(normalise: Callable[[Tensor], Tensor], x: Tensor, features: int) -> Tensor:
    """Batch normalisation of a channels_last map (B, C*|G|, H, W) as (B*H*W, C, |G|): no copy, but slow on the CPU."""
    rows = x.permute(0, 2, 3, 1).unflatten(3, (features, -1)).flatten(0, 2)
    return normalise(rows).flatten(1).unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)


class _NormaliseChannelsLast(torch.autograd.Function):
    """Batch normalisation in training, shared over blocks of channels, on maps that stay channels_last.

    torch's own kernels do the passes over the map, with statistics per physical channel; those of a feature are the
    mean of its channels' means, and the mean of their variances plus the variance of their means. So is the gradient:
    that of fixed statistics, less its own mean and its part along the normalised map.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, features: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        order = x.shape[1] // features
        _, means, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        means, inverse = (
            v.view(features, order).to(torch.promote_types(v.dtype, torch.float32)) for v in (means, inverse)
        )
        variances = inverse.pow(-2) - eps
        mean = means.mean(1)
        variance = (variances + (means - mean[:, None]).square()).mean(1).clamp(min=0)
        mean, variance = (v.to(x.dtype if weight is None else weight.dtype) for v in (mean, variance))
        weights, biases = (None if v is None else over_group(v, order) for v in (weight, bias))
        means, variances = over_group(mean, order), over_group(variance, order)
        y = torch.native_batch_norm(x, weights, biases, means, variances, False, 0.0, eps)[0]
        ctx.features, ctx.eps = features, eps
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted: take the way that torch can differentiate
            y = over_rows(
                lambda rows: F.batch_norm(rows, None, None, weight, bias, True, 0.0, ctx.eps), x, ctx.features
            )
            wanted = [v for v in (x, weight, bias) if v is not None and v.requires_grad]
            found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=True))
            return *(next(found) if v is not None and v.requires_grad else None for v in (x, weight, bias)), None, None
        order, n = x.shape[1] // ctx.features, x.numel() // ctx.features
        per_channel = [None if v is None else over_group(v, order) for v in (weight, mean, variance)]
        gradient = in_layout_of(x, gradient)
        x_gradient, along, total = torch.ops.aten.native_batch_norm_backward(
            gradient, x, *per_channel, None, None, False, ctx.eps, [True, True, True]
        )
        along, total = (v.view(ctx.features, order).sum(1) for v in (along, total))  # sums of gradient * xhat, gradient
        scale = (variance.to(torch.promote_types(variance.dtype, torch.float32)) + ctx.eps).rsqrt()
        slope = -(1 if weight is None else weight) * scale / n  # of the correction slope * (total + xhat * along)
        factor, offset = slope * scale * along, slope * (total - mean * scale * along)
        factor, offset = (over_group(v, order).to(x.dtype).view(1, -1, 1, 1) for v in (factor, offset))
        x_gradient = x_gradient.addcmul_(x, factor).add_(offset)
        weighted = None if weight is None else along.to(weight.dtype)
        return x_gradient, weighted, None if bias is None else total.to(bias.dtype), None, None


class GroupBatchNorm2d(nn.modules.batchnorm._BatchNorm):
    """Normalise every feature with its mean and variance over batch, group and space.

    y[c, g] = (x[c, g] - mean_c) / sqrt(var_c + eps) * weight_c + bias_c: regular to regular representation.

    Shapes: (B, C*|G|, H, W) -> the same; `num_features` is C. The arguments are those of nn.BatchNorm2d.
    Exactness: exact, in training too (statistics per physical channel are not: docs/pitfalls).
    Raises: UsageError for features of another group or another number of them.
    Source: Cohen & Welling 2016, section 6.5 (batch normalisation with one scale per feature map over the group).

    >>> GroupBatchNorm2d(8, group="p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        group: str | Group,
    ) -> None:
        check_at_least("GroupBatchNorm2d", 1, num_features=num_features)
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.group = named_group(group)

    def _check_input_dim(self, input: Tensor) -> None:
        """The channels are checked in forward, where the message can name the group."""

    def forward(self, input: Tensor) -> Tensor:
        check_features("GroupBatchNorm2d", input, self.num_features, self.group)
        if input.is_contiguous():
            return super().forward(input.view(input.shape[0], self.num_features, -1, input.shape[3])).view(input.shape)
        if not self.training and self.running_mean is not None and self.running_var is not None:
            mean, variance, weight, bias = (
                None if v is None else over_group(v, self.group.order)
                for v in (self.running_mean, self.running_var, self.weight, self.bias)
            )
            return F.batch_norm(input, mean, variance, weight, bias, eps=self.eps)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return over_rows(super().forward, input, self.num_features)
        try:
            y, mean, variance = _NormaliseChannelsLast.apply(input, self.weight, self.bias, self.num_features, self.eps)
        except RuntimeError:  # inside torch.func and in forward mode it has no rule
            return over_rows(super().forward, input, self.num_features)
        self._update_running_statistics(mean, variance, input.numel() // self.num_features)
        return y

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """What nn.BatchNorm2d does with the statistics of a batch of n values a feature."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:
                factor = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), factor or 0.0)
        self.running_var.lerp_((variance * (n / max(n - 1, 1))).to(self.running_var), factor or 0.0)

    def plain(self) -> nn.Module:
        """The BatchNorm2d over physical channels that computes the same in eval mode; without running statistics the
        layer itself, for torch has none that shares those of a batch."""
        if self.running_mean is None:
            return self
        order = self.group.order
        twin = nn.BatchNorm2d(self.num_features * order, self.eps, self.momentum, self.affine, self.track_running_stats)
        state = {name: (over_group(v, order) if v.ndim else v).clone() for name, v in self.state_dict().items()}
        twin.load_state_dict(state, assign=True)
        return twin.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, group={self.group.name!r}"
        )


class GroupNorm2d(nn.Module):
    """Normalise every sample over sets of features, over the group and over space: group normalisation of feature maps
    on a group.

    Shapes: (B, C*|G|, H, W) -> the same; `num_groups` divides the number of features C. One weight and bias a feature.
    num_groups=1 normalises whole samples, num_groups=C is GroupInstanceNorm2d. `shared=False`: every orientation has
    its own statistics, so that nn.GroupNorm acts on each as if there were no other (the copies of a network that
    stand side by side before any weight mixes them, say).
    Exactness: exact.
    Raises: UsageError if num_groups does not divide C, or for features of another group.
    Source: Wu & He 2018 (arXiv 1803.08494), with the statistics of a feature shared over the stabilizer.

    >>> GroupNorm2d(2, 8, group="p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        group: str | Group,
        shared: bool = True,
    ) -> None:
        super().__init__()
        check_at_least(type(self).__name__, 1, num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise UsageError(
                f"GroupNorm2d: expected num_groups to divide num_channels, got {num_groups} and {num_channels}"
            )
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.group, self.shared = named_group(group), shared
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        check_features(type(self).__name__, x, self.num_channels, self.group)
        alone = not self.shared and self.num_groups == self.num_channels  # every channel for itself
        if not self.shared and not (alone and x.is_contiguous()):
            return self._every_orientation(x)
        order = self.group.order
        weight, bias = (None if v is None else over_group(v, order) for v in (self.weight, self.bias))
        return F.group_norm(x, self.num_groups * (order if alone else 1), weight, bias, self.eps)

    def _every_orientation(self, x: Tensor) -> Tensor:
        """torch's group norm wants the channels of a set side by side: to (B, |G|*C, H, W), and back."""
        order = self.group.order
        weight, bias = (None if v is None else v.repeat(order) for v in (self.weight, self.bias))
        y = x.unflatten(1, (-1, order)).transpose(1, 2).flatten(1, 2)
        y = F.group_norm(y, order * self.num_groups, weight, bias, self.eps)
        return in_layout_of(x, y.unflatten(1, (order, -1)).transpose(1, 2).flatten(1, 2))

    def plain(self) -> nn.Module:
        """The GroupNorm over physical channels that computes the same; where every orientation has statistics of
        several features the layer itself, for those of torch's groups are neighbours."""
        order, groups = self.group.order, self.num_groups
        if not self.shared:
            if groups < self.num_channels and order > 1:
                return self
            groups *= order
        twin = nn.GroupNorm(groups, self.num_channels * order, self.eps, self.affine)
        state = {name: over_group(value, order).clone() for name, value in self.state_dict().items()}
        twin.load_state_dict(state, assign=True)
        return twin.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, group={self.group.name!r}"
            f"{_unless_shared(self.shared)}"
        )


class GroupInstanceNorm2d(GroupNorm2d):
    """Normalise every feature of every sample with its mean and variance over group and space.

    Shapes: (B, C*|G|, H, W) -> the same; `num_features` is C. `shared=False`: the statistics of every orientation are
    its own, as in GroupNorm2d.
    Exactness: exact. Raises: UsageError for features of another group.
    Source: Ulyanov, Vedaldi & Lempitsky 2016 (arXiv 1607.08022), with the statistics shared over the stabilizer.

    >>> GroupInstanceNorm2d(8, group="p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, affine: bool = False, *, group: str | Group, shared: bool = True
    ) -> None:
        super().__init__(num_features, num_features, eps, affine, group=group, shared=shared)

    def extra_repr(self) -> str:
        return (
            f"{self.num_channels}, eps={self.eps}, affine={self.affine}, group={self.group.name!r}"
            f"{_unless_shared(self.shared)}"
        )


class GroupLayerNorm(nn.Module):
    """Normalise every vector with its mean and variance over all features and the whole group.

    Shapes: (..., C*|G|) -> the same: vectors (B, C*|G|), or maps whose channels come last (B, H, W, C*|G|);
    `num_channels` is C. One weight and bias a feature. `shared=False`: the statistics of every orientation are its own,
    over its C features, so that nn.LayerNorm acts on each as if there were no other.
    Exactness: exact. Raises: UsageError for features of another group.
    Source: Ba, Kiros & Hinton 2016 (arXiv 1607.06450).

    >>> GroupLayerNorm(8, group="p4")(torch.zeros(2, 9, 9, 32)).shape
    torch.Size([2, 9, 9, 32])
    """

    def __init__(
        self, num_channels: int, eps: float = 1e-5, affine: bool = True, *, group: str | Group, shared: bool = True
    ) -> None:
        super().__init__()
        check_at_least(type(self).__name__, 1, num_channels=num_channels)
        self.num_channels, self.eps, self.affine = num_channels, eps, affine
        self.group, self.shared = named_group(group), shared
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        check_last_features("GroupLayerNorm", x, self.num_channels, self.group)
        return self._normalise(x)

    def _normalise(self, x: Tensor) -> Tensor:
        order = self.group.order
        if self.shared:
            weight, bias = (None if v is None else over_group(v, order) for v in (self.weight, self.bias))
            return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)
        rows = x.unflatten(-1, (-1, order)).transpose(-1, -2).flatten(0, -2)  # (...*|G|, C)
        y = F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias, self.eps)
        return y.unflatten(0, (*x.shape[:-1], order)).transpose(-1, -2).flatten(-2)

    def plain(self) -> nn.Module:
        """The LayerNorm over physical channels that computes the same; where every orientation has its own statistics
        the layer itself, which torch does not have."""
        order = self.group.order
        if not self.shared and order > 1:
            return self
        twin = nn.LayerNorm(self.num_channels * order, self.eps, self.affine)
        state = {name: over_group(value, order).clone() for name, value in self.state_dict().items()}
        twin.load_state_dict(state, assign=True)
        return twin.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.num_channels}, eps={self.eps}, affine={self.affine}, group={self.group.name!r}"
            f"{_unless_shared(self.shared)}"
        )


class GroupLayerNorm2d(GroupLayerNorm):
    """Normalise every pixel with its mean and variance over all features and the whole group, as ConvNeXt does.

    Shapes: (B, C*|G|, H, W) -> the same; otherwise as GroupLayerNorm, `shared=False` too.
    Exactness: exact. Raises: UsageError for features of another group.
    Source: Ba, Kiros & Hinton 2016 (arXiv 1607.06450); per pixel as in Liu et al. 2022 (arXiv 2201.03545).

    >>> GroupLayerNorm2d(8, group="p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self, num_channels: int, eps: float = 1e-6, affine: bool = True, *, group: str | Group, shared: bool = True
    ) -> None:
        super().__init__(num_channels, eps, affine, group=group, shared=shared)

    def forward(self, x: Tensor) -> Tensor:
        check_features("GroupLayerNorm2d", x, self.num_channels, self.group)
        y = self._normalise(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y if is_channels_last(x) else y.contiguous()

    def plain(self) -> nn.Module:
        """The layer itself: torch has none that normalises pixels."""
        return self
