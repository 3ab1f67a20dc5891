"""Batch normalisation whose statistics are shared over the group, so that training is equivariant too."""

from torch import Tensor, nn

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group


class GroupBatchNorm2d(nn.modules.batchnorm._BatchNorm):
    """Normalise every feature with its mean and variance over batch, group and space.

    y[c, g] = (x[c, g] - mean_c) / sqrt(var_c + eps) * weight_c + bias_c: regular to regular representation.

    Shapes: (B, C*|G|, H, W) -> the same; `num_features` is C.
    Exactness: exact, in training too (statistics per physical channel are not: docs/pitfalls).
    Raises: UsageError for an input with another number of channels.
    Source: Cohen & Welling 2016, section 6.5 (batch normalisation with one scale per feature map over the group).

    >>> import torch
    >>> GroupBatchNorm2d(8, group="p4")(torch.zeros(2, 32, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, *, group: str | Group
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.group = named_group(group)

    def _check_input_dim(self, input: Tensor) -> None:
        """The channels are checked in forward, where the message can name the group."""

    def forward(self, input: Tensor) -> Tensor:
        order = self.group.order
        if input.shape[1] != self.num_features * order:
            raise UsageError(
                f"GroupBatchNorm2d: expected {self.num_features} features on {self.group.name} "
                f"({self.num_features * order} channels), got {input.shape[1]} channels"
            )
        return super().forward(input.unflatten(1, (self.num_features, order))).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, group={self.group.name!r}"


def plain_batch_norm(norm: GroupBatchNorm2d) -> nn.BatchNorm2d:
    """The BatchNorm2d over physical channels that computes the same in eval mode."""
    order = norm.group.order
    twin = nn.BatchNorm2d(norm.num_features * order, eps=norm.eps, momentum=norm.momentum)
    state = {
        name: value.repeat_interleave(order) if value.ndim else value.clone()
        for name, value in norm.state_dict().items()
    }
    twin.load_state_dict(state)
    return twin.to(device=norm.weight.device, dtype=norm.weight.dtype).train(norm.training)
