"""Linear maps between regular vectors: the 1x1 group convolution where channels come last."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..filters import bank_placement, group_filters
from ..groups import Group
from ..groups import group as named_group
from .checks import check_at_least, check_finite, check_last_features
from .conv import _with_values
from .tables import HasTables


class GroupLinear(HasTables):
    """A linear map between features on the group that commutes with the group.

    y[o, g] = sum_i sum_h w[o, i, g^-1 h] x[i, h] + b[o]: regular to regular representation.

    Shapes: (..., C_in*|G|) -> (..., C_out*|G|): vectors (B, C*|G|), or maps whose channels come last (B, H, W, C*|G|)
    Arguments: those of nn.Linear; `in_features` and `out_features` count features, not channels. One bias a feature.
    Exactness: exact for every element of the group.
    Raises: UsageError for features of another group, weights that are not finite (seen on the CPU and when they are
    loaded).

    >>> GroupLinear(8, 16, group="p4")(torch.zeros(2, 9, 9, 32)).shape
    torch.Size([2, 9, 9, 64])
    """

    placement: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, group: str | Group) -> None:
        super().__init__()
        check_at_least("GroupLinear", 1, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.group = named_group(group)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, self.group.order))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self._register_tables()
        self.reset_parameters()

    def _register_tables(self) -> None:
        placement = bank_placement(self.group, self.in_features).to(self.weight.device)
        self.register_buffer("placement", placement, persistent=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        check_finite("GroupLinear", state_dict.get(prefix + "weight", self.weight))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reset_parameters(self) -> None:
        """Unit output variance for white input of unit variance. Bias 0."""
        nn.init.normal_(self.weight, std=(self.in_features * self.group.order) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def bank(self) -> Tensor:
        """The matrix of the equivalent nn.Linear, (C_out*|G|, C_in*|G|)."""
        table = self.weight.new_ones(1, self.group.order, 1)  # a number looks the same from every side
        return group_filters(self.weight[..., None], table, self.placement)[..., 0]

    def plain_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias[:, None].expand(-1, self.group.order).flatten()

    def forward(self, x: Tensor) -> Tensor:
        check_last_features("GroupLinear", x, self.in_features, self.group)
        check_finite("GroupLinear", self.weight)
        return F.linear(x, self.bank(), self.plain_bias())

    def plain(self) -> nn.Module:
        """The nn.Linear over physical channels that computes the same."""
        check_finite("GroupLinear", self.weight)
        bank, bias = self.bank().detach(), self.plain_bias()
        linear = nn.Linear(bank.shape[1], bank.shape[0], bias is not None, device="meta")
        return _with_values(linear, bank, bias).train(self.training)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, group={self.group.name!r}"
