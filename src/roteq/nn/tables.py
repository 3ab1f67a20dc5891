"""Constants of a layer that are derived from its arguments."""

from typing import Any

from torch import nn


class HasTables(nn.Module):
    """A layer that makes its constants anew from float64 at every change of device or precision, so that none loses a
    digit, `to_empty` and `load_state_dict(assign=True)` leave none empty, and no two layers share one."""

    def _register_tables(self) -> None:
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._register_tables()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        assigned = local_metadata.get("assign_to_params_buffers", False)
        if assigned and any(table.is_meta for table in self.buffers(recurse=False)):
            self._buffers.clear()  # all of them tables
            self._register_tables()
