"""Filter bases: how one set of weights becomes a filter turned by every element of the group.

    bank[o, g, i, h] = basis[g] . weight[o, i, g^-1 h]          basis: (|G|, P, k*k), weight: (C_out, C_in, |G|, P)

Row p of basis[g] is basis filter p, turned by g and sampled on the k x k grid.
"""

from functools import cache

import torch
from torch import Tensor

from .errors import UsageError
from .groups import Group, left_translation


@cache
def pixel_basis(group: Group, kernel_size: int, mask: bool = False) -> Tensor:
    """The pixel basis: every weight is a pixel, P = k*k. float64, (|G|, k*k, k*k).

    Law: (R_g k)(x) = k(g^-1 x), read at the four pixels around g^-1 x with bilinear weights; pixels outside the grid
    are dropped, not renormalised. Exact elements are permutations, so C4 and D4 give exactly the filters of a G-CNN
    (Cohen & Welling 2016, section 6.2); with `mask` and odd k it is exactly the operator of SE(2)-CNNs
    (Bekkers et al. 2018), which keeps a target within floor(k/2) + 1/2 of the centre.
    Convention: centre (k-1)/2, so even kernels turn about the corner between their four middle pixels.

    >>> pixel_basis(Group(12), 5, mask=True).shape
    torch.Size([12, 25, 25])

    Raises: UsageError if the kernel is smaller than 1.
    """
    if kernel_size < 1:
        raise UsageError(f"kernel_size: expected 1 or more, got {kernel_size}")
    k, centre = kernel_size, (kernel_size - 1) / 2
    row, column = torch.meshgrid(
        torch.arange(k, dtype=torch.float64), torch.arange(k, dtype=torch.float64), indexing="ij"
    )
    x, y = (column - centre).flatten(), (centre - row).flatten()  # (k*k,), y upwards
    keep = x**2 + y**2 <= (k // 2 + 0.5) ** 2 if mask else torch.ones(k * k, dtype=torch.bool)
    target = torch.arange(k * k)[keep]
    basis = torch.zeros(group.order, k * k, k * k, dtype=torch.float64)
    for g in range(group.order):
        source_x, source_y = group.matrix(g).T @ torch.stack((x, y))  # g^-1 is the transpose
        i, j = (centre - source_y)[keep], (source_x + centre)[keep]
        top, left = i.floor(), j.floor()
        for di in (0, 1):
            for dj in (0, 1):
                ii, jj = top + di, left + dj
                share = (1 - (i - ii).abs()) * (1 - (j - jj).abs())
                inside = (ii >= 0) & (ii < k) & (jj >= 0) & (jj < k)
                basis[g, (ii * k + jj)[inside].long(), target[inside]] += share[inside]
    return basis


def lifting_bank(weight: Tensor, basis: Tensor) -> Tensor:
    """Filters of a lifting convolution: weight (C_out, C_in, P) -> (C_out*|G|, C_in, k*k)."""
    turned = torch.einsum("oip,gpk->ogik", weight, basis)
    return turned.flatten(0, 1)


def group_bank(weight: Tensor, basis: Tensor, sources: Tensor) -> Tensor:
    """Filters of a group convolution: weight (C_out, C_in, |G|, P) -> (C_out*|G|, C_in*|G|, k*k).

    Every weight filter is turned by every element in one matrix product, and one look-up (`sources`, from
    `bank_sources`) puts the results in their places.
    """
    out_channels, in_channels, order, _ = weight.shape
    turned = torch.einsum("oihp,gpk->oihgk", weight, basis).flatten(1, 3)  # (o, i*h*g, k*k)
    return turned.index_select(1, sources).reshape(out_channels * order, in_channels * order, -1)


def bank_sources(group: Group, in_channels: int) -> Tensor:
    """Where bank entry (g, i, h) stands among the turned filters (i, g^-1 h, g): flat, |G| * C_in * |G|."""
    order = group.order
    g, i = torch.arange(order)[:, None, None], torch.arange(in_channels)[:, None]
    return ((i * order + left_translation(group)[:, None, :]) * order + g).flatten()
