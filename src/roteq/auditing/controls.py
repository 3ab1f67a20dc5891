"""Two models whose results are known go through every audit: a constant, and the model averaged over the group."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..conversion import Symmetrized
from ..errors import RoteqError
from ..results import Control
from .config import AuditConfig
from .looking import Asker
from .pictures import Pictures
from .rows import Key, Moments, spread_out
from .statistics import errors, is_degenerate
from .turning import Element, Turning

FEW = 4  # images: averaging takes |G|^2 passes of each
CONSTANT = (0.3, 0.1, -0.4)
ZERO = 1e-4  # rounding in float32, against the variation between images


def run_controls(asker: Asker, turning: Turning, pictures: Pictures, config: AuditConfig) -> tuple[Control, ...]:
    """Both on a few images and the exact elements, through the same turning and the same statistics."""
    patches, _ = pictures.load(spread_out(len(pictures), FEW))
    if len(patches) < 2:
        return ()
    upright = turning.upright(patches)
    orbit = [e for e in turning.orbit if e.exact]
    constant = torch.tensor(CONSTANT, device=upright.device)
    return (
        _constant(lambda x: constant.expand(len(x), -1), upright, orbit),
        *_average(asker, upright, orbit, oblong=turning.crop[0] != turning.crop[1]),
    )


def _constant(ask: Callable[[Tensor], Tensor], upright: Tensor, orbit: list[Element]) -> Control:
    error, degenerate = _error(ask, upright, orbit, map=False)
    found = "degenerate" if degenerate else f"an error of {error}"
    return Control("a constant", "degenerate", found, degenerate)


def _average(asker: Asker, upright: Tensor, orbit: list[Element], oblong: bool) -> list[Control]:
    mirrors = any(e.mirror for e in orbit)
    group = f"{'D' if mirrors else 'C'}{2 if oblong else 4}"
    is_map = asker.kind == "map"
    averaged = Symmetrized(asker, group, "logits", output="trivial" if is_map else "invariant")
    name = f"the model averaged over {group}"
    try:
        error, degenerate = _error(averaged, upright, orbit, map=is_map)
    except RoteqError as failure:
        return [Control(name, "an error of 0 at the exact turns", f"could not be asked: {failure}", False)]
    if degenerate:
        own = Moments()
        own.add(asker(upright))
        return [Control(name, "an error of 0 at the exact turns", "degenerate", is_degenerate(own))]
    assert error is not None
    return [Control(name, "an error of 0 at the exact turns", f"{error:.1e}", error <= ZERO)]


def _error(ask: Any, upright: Tensor, orbit: list[Element], map: bool) -> tuple[float | None, bool]:
    """The largest between-image error over the orbit, and whether the output is degenerate."""
    moments = Moments()
    with torch.inference_mode():
        reference = ask(upright)
        moments.add(reference)
        squares = {}
        for e in orbit:
            answer = ask(e.place(upright))
            answer = e.replace(answer) if map else answer
            squares[Key("turn", e)] = (answer - reference).double().flatten(1).square().sum(1).cpu().numpy()
    if is_degenerate(moments):
        return None, True
    return max(errors(square, moments)[0] or 0.0 for square in squares.values()), False
