"""Rotations and mirrors of the plane that fix the origin: C_N and D_N, their tables and their actions.

Convention: element (m, r) has index m * N + r and means: mirror left-right first if m, then turn by r * 360/N degrees.
A positive angle is counter-clockwise as displayed, so one quarter turn is torch.rot90(x, 1, (-2, -1)).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import UsageError

ALIASES = {"z2": (1, False), "p4": (4, False), "p4m": (4, True)}
P = ParamSpec("P")


def on_cpu(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a table on the CPU: a network may be built under another default device, `torch.device("meta")` say."""

    @wraps(make)
    def table(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.device("cpu"):
            return make(*args, **kwargs)

    return table


@dataclass(frozen=True)
class Group:
    """C_N (`mirrors=False`) or D_N (`mirrors=True`), the stabilizer of the origin.

    >>> p4m = group("p4m")
    >>> p4m.order, p4m.name, p4m.describe(5)
    (8, 'D4', 'mirror, then 90°')
    >>> p4m.product(5, p4m.inverse(5))
    0
    """

    rotations: int
    mirrors: bool = False

    def __post_init__(self) -> None:
        if self.rotations < 1:
            raise UsageError(f"Group: expected at least 1 rotation, got {self.rotations}")

    @property
    def name(self) -> str:
        if self.order == 1:
            return "Z2"
        return f"{'D' if self.mirrors else 'C'}{self.rotations}"

    @property
    def order(self) -> int:
        """|G|: N for C_N, 2N for D_N."""
        return self.rotations * (1 + self.mirrors)

    def index(self, mirror: bool, turns: int) -> int:
        return int(mirror) * self.rotations + turns % self.rotations

    def angle(self, g: int) -> float:
        """Degrees counter-clockwise, in [0, 360), of the turn that follows the mirror."""
        return (g % self.rotations) * 360.0 / self.rotations

    def is_mirror(self, g: int) -> bool:
        return g >= self.rotations

    def quarter_turns(self, g: int) -> int | None:
        """How many quarter turns the rotation of g is; None where it is not a multiple of 90 degrees."""
        turns, rest = divmod(4 * (g % self.rotations), self.rotations)
        return None if rest else turns

    @property
    def exact_elements(self) -> tuple[int, ...]:
        """Elements that map the pixel grid to itself: multiples of 90 degrees, with and without the mirror."""
        return tuple(g for g in range(self.order) if self.quarter_turns(g) is not None)

    def product(self, g: int, h: int) -> int:
        """g h: first h, then g. From R^a S R^b = R^(a-b) S."""
        turns = -(h % self.rotations) if self.is_mirror(g) else h % self.rotations
        return self.index(self.is_mirror(g) != self.is_mirror(h), g % self.rotations + turns)

    def inverse(self, g: int) -> int:
        """A mirrored element is its own inverse; a turn is undone by the opposite turn."""
        return g if self.is_mirror(g) else self.index(False, -g)

    def matrix(self, g: int) -> Tensor:
        """The 2x2 orthogonal matrix of g on (x, y upwards), float64; exact zeros and ones for exact elements."""
        turns = self.quarter_turns(g)
        if turns is None:
            angle = math.radians(self.angle(g))
            c, s = math.cos(angle), math.sin(angle)
        else:
            c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[turns]
        sign = -1.0 if self.is_mirror(g) else 1.0
        return torch.tensor([[sign * c, -s], [sign * s, c]], dtype=torch.float64)

    def act_on_image(self, x: Tensor, g: int) -> Tensor:
        """(L_g f)(x) = f(g^-1 x) on (..., H, W). Exact elements permute pixels; the others turn about the centre by
        bicubic interpolation with zeros outside, which costs a few per cent by itself (docs/pitfalls)."""
        if self.is_mirror(g):
            x = x.flip(-1)
        turns = self.quarter_turns(g)
        if turns is not None:
            return torch.rot90(x, turns, (-2, -1)) if turns else x
        return turn_image(x, self.angle(g))

    def act_on_features(self, x: Tensor, g: int) -> Tensor:
        """rho(g) on a regular feature map (B, C*|G|, H, W): move the picture, and send block entry h to g h."""
        blocks = x.unflatten(1, (-1, self.order))
        source = torch.tensor([self.product(self.inverse(g), h) for h in range(self.order)], device=x.device)
        return self.act_on_image(blocks.index_select(2, source).flatten(1, 2), g)

    def act_on_vectors(self, x: Tensor, g: int) -> Tensor:
        """A vector field (B, 2*C, H, W), for every feature x (right) and y (up): move the picture, turn the vectors."""
        vectors = self.act_on_image(x, g).unflatten(1, (-1, 2))
        return torch.einsum("ij,bcjhw->bcihw", self.matrix(g).to(x), vectors).flatten(1, 2)

    @property
    def subgroups(self) -> tuple["Group", ...]:
        """C_M and, with mirrors, D_M for every M that divides N; the group itself comes last."""
        turns = [m for m in range(1, self.rotations + 1) if self.rotations % m == 0]
        return tuple(Group(m, mirrors) for mirrors in (False, True)[: 1 + self.mirrors] for m in turns)

    def is_subgroup_of(self, other: "Group") -> bool:
        return self in other.subgroups

    def describe(self, g: int) -> str:
        angle = f"{self.angle(g):g}°"
        return f"mirror, then {angle}" if self.is_mirror(g) else angle


@cache
@on_cpu
def left_translation(group: Group) -> Tensor:
    """Table T[g, h] = index of g^-1 h, (|G|, |G|): where entry h of the block comes from when g acts."""
    order = range(group.order)
    return torch.tensor([[group.product(group.inverse(g), h) for h in order] for g in order])


def cosets(group: Group, subgroup: Group) -> list[list[int]]:
    """Every right coset H t of a subgroup H as [h t for h in H] in the order of H's elements, t ascending.

    >>> cosets(Group(4), Group(2))
    [[0, 2], [1, 3]]
    """
    step = group.rotations // subgroup.rotations
    elements = [group.index(subgroup.is_mirror(h), (h % subgroup.rotations) * step) for h in range(subgroup.order)]
    found: list[list[int]] = []
    for t in range(group.order):
        if not any(t in coset for coset in found):
            found.append([group.product(h, t) for h in elements])
    return found


def group(name: "str | Group") -> Group:
    """The group of a name: 'Z2' (trivial), 'p4', 'p4m', 'C12', 'D6', 'SE(2,8)'. A Group is passed through.

    >>> group("p4") == group("C4") == group("SE(2,4)")
    True

    Raises: UsageError if the name is none of these.
    """
    if isinstance(name, Group):
        return name
    key = str(name).strip().lower()
    if key in ALIASES:
        return Group(*ALIASES[key])
    match = re.fullmatch(r"([cd])(\d{1,3})", key) or re.fullmatch(r"(se)\(2,\s*(\d{1,3})\)", key)
    if match and int(match[2]) > 0:
        return Group(int(match[2]), match[1] == "d")
    raise UsageError(f"group: expected 'Z2', 'p4', 'p4m', 'C<N>', 'D<N>' or 'SE(2,<N>)', got {str(name)!r}")


def turn_image(x: Tensor, degrees: float, mode: str = "bicubic") -> Tensor:
    """Turn (..., H, W) counter-clockwise about the centre of the pixel grid by interpolation, zeros outside."""
    height, width = x.shape[-2:]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ratio = height / width  # affine_grid measures x and y in half-widths and half-heights
    theta = torch.tensor([[c, -s * ratio, 0.0], [s / ratio, c, 0.0]], dtype=x.dtype, device=x.device)
    images = x.reshape(-1, 1, height, width)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False).reshape(x.shape)
