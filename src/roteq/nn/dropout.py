"""Dropout that does not break equivariance."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..groups import Group
from ..groups import group as named_group
from .checks import check_blocks


class GroupDropout2d(nn.Module):
    """Drop whole features: a feature goes with all its orientations and pixels, so that what is left is a regular map.

    Shapes: (B, C*|G|, H, W) -> the same; in training every feature of every sample is zero with probability p, the
    others are scaled by 1 / (1 - p).
    Exactness: exact, given the same features are dropped (dropping single orientations is not, in any case).
    Raises: UsageError if p is not in [0, 1] or the channels are no multiple of |G|.
    Source: Tompson et al. 2015 (arXiv 1411.4280), over blocks of |G| channels.

    >>> import torch
    >>> GroupDropout2d(0.5, group="p4")(torch.ones(2, 32, 9, 9)).shape
    torch.Size([2, 32, 9, 9])
    """

    def __init__(self, p: float = 0.5, *, group: str | Group) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"GroupDropout2d: expected p between 0 and 1, got {p!r}")
        self.p, self.group = p, named_group(group)

    def forward(self, x: Tensor) -> Tensor:
        check_blocks("GroupDropout2d", x, self.group)
        if not self.training or not self.p:
            return x
        return F.dropout3d(x.unflatten(1, (-1, self.group.order)), self.p).flatten(1, 2)

    def plain(self) -> nn.Module:
        """nn.Identity where it is off for good (eval mode); in training there is no such layer in torch."""
        return self if self.training else nn.Identity()

    def extra_repr(self) -> str:
        return f"{self.p}, group={self.group.name!r}"
