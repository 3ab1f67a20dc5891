"""Constants of a layer that are derived from its arguments."""

from typing import Any

from torch import nn


class HasTables(nn.Module):
    """A layer that makes its constants anew from float64 at every change of device or precision, so that none loses a
    digit, `to_empty` leaves none empty, and no two layers share one."""

    def _register_tables(self) -> None:
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._register_tables()
        return self
