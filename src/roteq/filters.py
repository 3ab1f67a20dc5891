"""Filter bases: how one set of weights becomes a filter turned by every element of the group.

    bank[o, g, i, h] = basis[g] . weight[o, i, g^-1 h]          basis: (|G|, P, k*k), weight: (C_out, C_in, |G|, P)

Row p of basis[g] is basis filter p, turned by g and sampled on the k x k grid.
"""

from functools import cache
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import UsageError, nearest
from .groups import Group, left_translation, on_cpu

Basis = Literal["pixel", "disc", "harmonic"]
RING_WIDTH = 0.6  # standard deviation of a ring in pixels, as in Weiler et al. 2018


def default_basis(group: Group) -> Basis:
    """Pixels where every element of the group permutes them, harmonics where some have to be interpolated."""
    return "pixel" if len(group.exact_elements) == group.order else "harmonic"


def make_basis(name: str, group: Group, kernel_size: int) -> Tensor:
    """The basis of a name: "pixel", "disc" (the pixel basis with SE2CNN's disc mask) or "harmonic".

    Raises: UsageError if the name is none of these, the kernel is smaller than 1, or a disc has an even kernel.
    """
    makers = {"pixel": pixel_basis, "disc": disc_basis, "harmonic": harmonic_basis}
    if name not in makers:
        raise UsageError(f"basis: expected None or a name, got {name!r}; {nearest(name, makers)}")
    return makers[name](group, kernel_size)


def pixel_grid(kernel_size: int) -> tuple[Tensor, Tensor]:
    """Coordinates (x to the right, y upwards) of the k*k pixels about the centre (k-1)/2, row by row. float64."""
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int) or kernel_size < 1:
        raise UsageError(
            f"kernel_size: expected one whole number of at least 1 (a kernel that turns is square), got {kernel_size!r}"
        )
    side = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    row, column = torch.meshgrid(side, side, indexing="ij")
    return column.flatten(), -row.flatten()


@cache
@on_cpu
def pixel_basis(group: Group, kernel_size: int) -> Tensor:
    """The pixel basis: every weight is a pixel, P = k*k. float64, (|G|, k*k, k*k).

    Law: (R_g k)(x) = k(g^-1 x), read at the four pixels around g^-1 x with bilinear weights; pixels outside the grid
    are dropped, not renormalised. Exact elements are permutations, so C4 and D4 give exactly the filters of a G-CNN
    (Cohen & Welling 2016, section 6.2). Off the axes bilinear turning loses up to two thirds of the energy
    (docs/pitfalls); `harmonic_basis` does not.
    Convention: centre (k-1)/2, so even kernels turn about the corner between their four middle pixels.

    >>> pixel_basis(Group(12), 5).shape
    torch.Size([12, 25, 25])

    Raises: UsageError if the kernel is smaller than 1.
    """
    x, y = pixel_grid(kernel_size)
    k, centre = kernel_size, (kernel_size - 1) / 2
    target = torch.arange(k * k)
    basis = torch.zeros(group.order, k * k, k * k, dtype=torch.float64)
    for g in range(group.order):
        source_x, source_y = group.matrix(g).T @ torch.stack((x, y))  # g^-1 is the transpose
        i, j = centre - source_y, source_x + centre
        top, left = i.floor(), j.floor()
        for di in (0, 1):
            for dj in (0, 1):
                ii, jj = top + di, left + dj
                share = (1 - (i - ii).abs()) * (1 - (j - jj).abs())
                inside = (ii >= 0) & (ii < k) & (jj >= 0) & (jj < k)
                basis[g, (ii * k + jj)[inside].long(), target[inside]] += share[inside]
    return basis


@cache
@on_cpu
def rectangle_basis(group: Group, height: int, width: int) -> Tensor:
    """The pixel basis of a kernel with two sides, for groups whose elements are all exact. float64, (|G|, h*w, h*w).

    Row p of basis[g] is pixel p, turned by g; after an odd number of quarter turns the pixels are those of a kernel
    that is w high and h wide.

    >>> rectangle_basis(Group(4), 1, 7).shape
    torch.Size([4, 7, 7])
    """
    pixels = torch.arange(height * width).view(height, width)
    sources = [group.act_on_image(pixels, g).flatten() for g in range(group.order)]
    return torch.stack([torch.eye(height * width, dtype=torch.float64)[:, source] for source in sources])


@cache
@on_cpu
def disc_basis(group: Group, kernel_size: int) -> Tensor:
    """The pixel basis under a disc: exactly the operator of SE(2)-CNNs (Bekkers et al. 2018), which keeps a target
    pixel within floor(k/2) + 1/2 of the centre.

    Raises: UsageError for an even kernel, which has no centre pixel.
    """
    if kernel_size % 2 == 0:
        raise UsageError(
            f"basis='disc': expected an odd kernel_size, whose disc has a centre pixel, got {kernel_size}; "
            f"nearest: {kernel_size - 1 if kernel_size > 1 else 1} or {kernel_size + 1}, or basis='harmonic'"
        )
    x, y = pixel_grid(kernel_size)
    return pixel_basis(group, kernel_size) * (x**2 + y**2 <= (kernel_size // 2 + 0.5) ** 2)


@cache
@on_cpu
def harmonic_basis(group: Group, kernel_size: int) -> Tensor:
    """Circular harmonics on rings: P = k(k+1)/2 filters for a k x k kernel. float64, (|G|, P, k*k).

    psi_rm(rho, phi) = exp(-(rho - r)^2 / 2 sigma^2) e^(i m phi), rings r = (k-1)/2, (k-3)/2, ... >= 0, frequencies
    m = 0 ... 2r, sigma = 0.6: the form of Weiler, Hamprecht & Storath 2018, arXiv 1711.07289. A ring of 2 pi r pixels
    carries frequencies up to pi r; 2r is also the upper bound of escnn, which goes lower on the outermost ring. Real
    and imaginary parts are two real filters. There are as many as polynomials of degree below k.

    Law: turning by theta multiplies psi_rm by e^(-i m theta) and a mirror conjugates it, so any angle of any C_N or D_N
    is as good as any other: the energy of a white-noise filter does not depend on its orientation (that of a single
    sampled filter varies around it, by 9 to 11 % for 5x5).
    Sampling: at pixel centres. The square grid cannot tell the frequency m from m + 4n, so every sampled filter is made
    orthogonal to the polynomials rho^d e^(i n phi), d < k, n = m mod 4, n != m: on an image that is a polynomial of
    degree below k around the pixel the turned response is exact, not nearly so.
    Normalised: a complex filter has norm sqrt(2 / (1 + m)) (m = 0: 1), so that slow frequencies start
    stronger than fast ones, which differ most between two elements of the group: with equal norms untrained networks
    are further from invariance there (6 layers, C4: 0.30 instead of 0.22 at 45 degrees).

    >>> harmonic_basis(Group(8), 5).shape
    torch.Size([8, 15, 25])
    """
    rows = []
    for m, psi in _ring_harmonics(kernel_size):
        turned = [_turn_harmonic(psi, m, group, g) for g in range(group.order)]
        rows.append(torch.stack([t.real for t in turned]))
        if m:
            rows.append(torch.stack([t.imag for t in turned]))
    return torch.stack(rows, 1)


def _turn_harmonic(psi: Tensor, m: int, group: Group, g: int) -> Tensor:
    (cosine, _), (sine, _) = group.matrix(g).tolist()  # the first column is where g sends the x axis
    if group.is_mirror(g):  # x -> -x turns phi into pi - phi, and e^(i m phi) into (-1)^m times its conjugate
        return (-1) ** m * (complex(-cosine, sine) ** m * psi).conj()
    return complex(cosine, -sine) ** m * psi


def _ring_harmonics(kernel_size: int) -> list[tuple[int, Tensor]]:
    """(m, psi) of every ring and frequency, sampled, cleaned of aliases and normalised; psi complex128, (k*k,)."""
    x, y = pixel_grid(kernel_size)
    z = torch.complex(x, y)
    rho = z.abs()
    unit = torch.where(rho > 0, z / rho.clamp(min=0.5), 0)  # e^(i phi), 0 at the centre
    filters = []
    for ring in range(kernel_size - 1, -1, -2):  # 2r: an integer for even kernels too
        profile = torch.exp(-((rho - ring / 2) ** 2) / (2 * RING_WIDTH**2))
        for m in range(ring + 1):
            psi = profile * unit**m if m else profile.to(z.dtype)
            psi = psi - _aliased_part(psi, m, rho, unit, kernel_size)
            filters.append((m, psi * (((2 if m else 1) / (1 + m)) ** 0.5 / psi.norm())))
    return filters


def _aliased_part(psi: Tensor, m: int, rho: Tensor, unit: Tensor, kernel_size: int) -> Tensor:
    """The projection of psi on the polynomials that have another frequency and that the grid takes for frequency m."""
    radius = rho / max(rho.max().item(), 1.0)
    aliases = [
        radius**degree * (unit if n > 0 else unit.conj()) ** abs(n) if n else (radius**degree).to(psi.dtype)
        for n in range(1 - kernel_size, kernel_size)
        if n != m and (n - m) % 4 == 0
        for degree in range(abs(n), kernel_size, 2)
    ]
    if not aliases:
        return torch.zeros_like(psi)
    a = torch.stack(aliases, 1)  # (k*k, aliases)
    return a @ (torch.linalg.pinv(a, rtol=1e-10) @ psi)


def lifting_filters(weight: Tensor, table: Tensor) -> Tensor:
    """Filters of a lifting convolution: weight (C_out, C_in, P) -> (C_out*|G|, C_in, pixels). table: (P, |G|, pixels),
    the basis with its first two axes exchanged."""
    out_channels, in_channels, filters = weight.shape
    _, order, pixels = table.shape
    turned = torch.mm(weight.reshape(-1, filters), table.view(filters, -1))  # (o*i, g*pixels)
    turned = turned.view(out_channels, in_channels, order, pixels).transpose(1, 2)
    return turned.reshape(out_channels * order, in_channels, pixels)


def group_filters(weight: Tensor, table: Tensor, placement: Tensor) -> Tensor:
    """Filters of a group convolution: weight (C_out, C_in, |G|, P) -> (C_out*|G|, C_in*|G|, pixels). table as above.

    Every weight filter is turned by every element in one matrix product, and one look-up (`placement`, from
    `bank_placement`) puts the results in their places.
    """
    out_channels, in_channels, order, filters = weight.shape
    pixels = table.shape[2]
    turned = torch.mm(weight.reshape(-1, filters), table.view(filters, -1))  # (o*i*h, g*pixels)
    placed = _permuted(turned.view(out_channels, -1, pixels), placement)  # (o, i*h*g, pixels) -> (o, g*i*h, pixels)
    return placed.view(out_channels * order, in_channels * order, pixels)


def lifting_bank(weight: Tensor, table: Tensor) -> Tensor:
    """`lifting_filters` on k x k pixels, (C_out*|G|, C_in, k, k)."""
    return lifting_filters(weight, table).unflatten(2, (isqrt(table.shape[2]), -1))


def group_bank(weight: Tensor, table: Tensor, placement: Tensor) -> Tensor:
    """`group_filters` on k x k pixels, (C_out*|G|, C_in*|G|, k, k)."""
    return group_filters(weight, table, placement).unflatten(2, (isqrt(table.shape[2]), -1))


def _permuted(x: Tensor, placement: Tensor) -> Tensor:
    """x[:, placement[0]], with a gradient that knows the inverse permutation where that is possible."""
    if torch.is_grad_enabled() and not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
        try:
            return _Permute.apply(x, *placement)
        except RuntimeError:  # inside torch.func: its transforms want functions that are several times slower to call
            pass
    return x.index_select(1, placement[0])  # a file cannot hold a function of ours


class _Permute(torch.autograd.Function):
    """x[:, forwards], whose gradient is a look-up too. That of `index_select` must expect repetitions, which takes
    twice as long for wide layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forwards: Tensor, backwards: Tensor) -> Tensor:
        ctx.save_for_backward(forwards, backwards)
        ctx.save_for_forward(forwards, backwards)
        return x.index_select(1, forwards)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        forwards, backwards = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted
            return _Permute.apply(gradient, backwards, forwards), None, None
        return gradient.index_select(1, backwards), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        return tangent.index_select(1, ctx.saved_tensors[0])


@on_cpu
def bank_placement(group: Group, in_channels: int) -> Tensor:
    """Where bank entry (g, i, h) stands among the turned filters (i, g^-1 h, g), and the inverse of that permutation:
    (2, |G| * C_in * |G|), int32."""
    order = group.order
    g, i = torch.arange(order)[:, None, None], torch.arange(in_channels)[:, None]
    forwards = ((i * order + left_translation(group)[:, None, :]) * order + g).flatten()
    return torch.stack((forwards, forwards.argsort())).int()
