"""Two models whose results are known go through every audit: a constant, and the model averaged over the group."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..conversion import Symmetrized
from ..errors import RoteqError
from ..results import Control
from .looking import Asker
from .pictures import Pictures
from .rows import Moments, spread_out
from .statistics import is_degenerate
from .turning import Element, Turning

FEW = 4  # images: averaging takes |G|^2 passes of each
CONSTANT = (0.3, 0.1, -0.4)
ZERO = 1e-4  # rounding in float32, against the variation between images
VARIES = 1e-2  # of the model's own variation


def run_controls(asker: Asker, turning: Turning, pictures: Pictures) -> tuple[Control, ...]:
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
    distance, moments = _distance(ask, upright, orbit, map=False)
    degenerate = is_degenerate(moments)
    found = "degenerate" if degenerate else f"a distance of {distance:.1e}"
    return Control("a constant", "degenerate", found, degenerate)


def _average(asker: Asker, upright: Tensor, orbit: list[Element], oblong: bool) -> list[Control]:
    """Against the variation of the model itself: the average of one that looks for a direction hardly varies."""
    mirrors = any(e.mirror for e in orbit)
    group = f"{'D' if mirrors else 'C'}{2 if oblong else 4}"
    is_map = asker.kind == "map"
    averaged = Symmetrized(asker, group, "logits", output="trivial" if is_map else "invariant")
    name, expected = f"the model averaged over {group}", "an error of 0 at the exact turns"
    own = Moments()
    own.add(asker(upright))
    if is_degenerate(own):
        return [Control(name, expected, "degenerate, as the model is", True)]
    try:
        distance, moments = _distance(averaged, upright, orbit, map=is_map)
    except RoteqError as failure:
        return [Control(name, expected, f"could not be asked: {failure}", False)]
    error = distance / own.variation
    varies = "" if moments.variation > VARIES * own.variation else ", although its output hardly varies"
    return [Control(name, expected, f"{error:.1e}{varies}", error <= ZERO)]


def _distance(ask: Any, upright: Tensor, orbit: list[Element], map: bool) -> tuple[float, Moments]:
    """The largest root mean square distance of the answers over the orbit, and the moments of the upright answers."""
    moments = Moments()
    with torch.inference_mode():
        reference = ask(upright)
        moments.add(reference)
        distances = [0.0]
        for e in orbit:
            answer = ask(e.place(upright))
            answer = e.replace(answer) if map else answer
            distances.append(float((answer - reference).double().flatten(1).square().sum(1).mean().sqrt()))
    return max(distances), moments
