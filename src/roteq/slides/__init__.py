"""Whole slides: open them, ask a trained network about their tissue, and keep a map of the answers.

Names are loaded on first use: the processes that only read regions need no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "SlideConfig": "config",
    "map_slide": "running",
    "map_slides": "folder",
    "open_slide": "opening",
    "tissue_mask": "tissue",
    "write_slide": "synthetic",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'roteq.slides' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
