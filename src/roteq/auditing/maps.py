"""Dense maps (B, K, H, W): the answer to a turned picture, turned back, against the answer to the upright one."""

import numpy as np
from torch import Tensor

from ..errors import UsageError
from ..results import Interval, Turn
from .config import AuditConfig
from .rows import UPRIGHT, Key, Moments, Plan, Rows
from .statistics import NOTHING, Measured, bootstrapped, errors, is_degenerate
from .turning import Element, Turner, disc, prefilter

MEASURED_IN_DISC = Key("reference", "disc")


class Maps:
    """square (N,): squared distance of the maps; flip (N,): share of the pixels whose class changes (of one channel:
    whose sign changes).

    Exact turns are compared on the whole map. Other angles are turned back by the same interpolation and compared on
    the inscribed disc; their floor is the map of the picture turned there and back, itself turned there and back.
    """

    def __init__(self, plan: Plan, config: AuditConfig) -> None:
        self.plan, self.config, self.rows = plan, config, Rows()
        self.moments = {UPRIGHT: Moments(), MEASURED_IN_DISC: Moments()}
        self.upright: Tensor | None = None
        self.reference: Tensor | None = None
        self.turners: dict[float, Turner] = {}
        self.mask: Tensor | None = None

    def add(self, key: Key, answer: Tensor) -> None:
        if key == UPRIGHT:
            self._start(answer)
        elif key.what == "reference":
            self.reference = answer
        elif key.what == "turn" and key.at.exact:
            self._compare(key, key.at.replace(answer), self.upright)
        elif key.what == "turn":
            there, _ = self._turn(key.at.base, key.at.replace(answer), back=True)
            self._compare(key, there, self.reference, self.mask)
        elif key.what == "back":
            _, both = self._turn(key.at, answer)
            self._compare(key, both, self.reference, self.mask)

    def close(self) -> None:
        assert self.upright is not None and self.reference is not None
        self.moments[UPRIGHT].add(self.upright)
        if self.mask is not None:
            self.moments[MEASURED_IN_DISC].add(self.reference[:, :, self.mask])

    def _start(self, answer: Tensor) -> None:
        self.upright = self.reference = answer
        size = tuple(answer.shape[-2:])
        if self.plan.bases and self.mask is None:
            if size[0] != size[1]:
                raise UsageError(f"audit: expected square maps of square pictures, got {size}")
            self.mask = disc(size[0]).to(answer.device)
            config = self.config.model_copy(update={"corners": "mirror"})
            self.turners = {b: Turner(b, size[0], size[0], config, answer.device) for b in self.plan.bases}

    def _turn(self, base: float, maps: Tensor, back: bool = False) -> tuple[Tensor, Tensor]:
        """The maps turned by base degrees (`back`: by minus that), and turned there and back."""
        b, k, h, w = maps.shape
        pixels = (maps.flip(-1) if back else maps).reshape(b * k, h, w).permute(1, 2, 0).contiguous()
        found = self.turners[base](prefilter(pixels) if self.config.interpolation == "spline" else pixels)
        there, both = (x.permute(2, 0, 1).reshape(b, k, h, w) for x in found)
        return (there.flip(-1), both.flip(-1)) if back else (there, both)

    def _compare(self, key: Key, found: Tensor, expected: Tensor | None, mask: Tensor | None = None) -> None:
        assert expected is not None
        if mask is not None:
            found, expected = found[:, :, mask], expected[:, :, mask]
        found, expected = found.flatten(2), expected.flatten(2)
        self.rows.add("square", key, (found - expected).double().square().sum((1, 2)))
        one = found.shape[1] == 1
        changed = (found > 0) != (expected > 0) if one else found.argmax(1, True) != expected.argmax(1, True)
        self.rows.add("flip", key, changed.double().mean((1, 2)))

    def measured(self, groups: np.ndarray | None) -> Measured:
        degenerate = is_degenerate(self.moments[UPRIGHT])
        keys = [key for key in self.plan.keys if key.what in ("turn", "back")]
        rates = bootstrapped({key: self.rows("flip", key) for key in keys}, groups, self.config)
        turns = tuple(self._result(e, rates, degenerate) for e in self.plan.orbit)
        change = np.max([self.rows("flip", Key("turn", e)) for e in self.plan.orbit], axis=0)
        columns = {"change": change}
        moments = self.moments[MEASURED_IN_DISC if self.mask is not None else UPRIGHT]
        return Measured(degenerate, turns, {}, 0.0 if degenerate else moments.variation, columns)

    def _result(self, e: Element, rates: dict[Key, Interval], degenerate: bool) -> Turn:
        key, back = Key("turn", e), Key("back", e.base)
        moments = self.moments[UPRIGHT if e.exact else MEASURED_IN_DISC]
        between, relative = errors(self.rows("square", key), moments)
        floors: dict[str, float | None] = {}
        floor = None if degenerate else 0.0
        if not e.exact:
            floor, relative_floor = errors(self.rows("square", back), moments)
            floors = {"between_image_error": floor, "relative_error": relative_floor, "flip_rate": rates[back].value}
        return Turn(
            angle=e.angle,
            mirror=e.mirror,
            exact=e.exact,
            between_image_error=between,
            relative_error=relative,
            floor=floor,
            flip_rate=rates[key],
            accuracy=NOTHING,
            floors=floors,
        )
