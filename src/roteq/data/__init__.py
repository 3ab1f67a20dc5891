"""Real and synthetic images: sources, preparation, splits, loading, augmentation.

Names are loaded on first use: the preparing processes import this package and must not wait for torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .augment import Augment, augment, center_crop
    from .dataset import PatchDataset, batch_collate, contents, dataset_info, open_folder, open_split
    from .prepare import PrepareOptions, prepare
    from .synthetic import synthetic_tissue

__all__ = [
    "Augment",
    "PatchDataset",
    "PrepareOptions",
    "augment",
    "batch_collate",
    "center_crop",
    "contents",
    "dataset_info",
    "open_folder",
    "open_split",
    "prepare",
    "synthetic_tissue",
]

_HOMES = {
    "Augment": "augment",
    "PatchDataset": "dataset",
    "PrepareOptions": "prepare",
    "augment": "augment",
    "batch_collate": "dataset",
    "center_crop": "augment",
    "contents": "dataset",
    "dataset_info": "dataset",
    "open_folder": "dataset",
    "open_split": "dataset",
    "prepare": "prepare",
    "synthetic_tissue": "synthetic",
}


class _Package(ModuleType):
    """`prepare` and `augment` name a module and the function in it. Importing a module sets its name on the
    package; the function takes its place, so `from roteq.data import prepare` always means the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_both = isinstance(value, ModuleType) and _HOMES.get(name) == name
        super().__setattr__(name, getattr(value, name) if is_both else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'roteq.data' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
