"""roteq: the instrument for rotation equivariance of image networks.

Names are loaded on first use, so that `roteq --help` and `import roteq` stay quick.
"""

from importlib import import_module
from typing import Any

from ._version import __version__

_HOMES = {
    "Group": "groups",
    "Symmetrized": "conversion",
    "assert_equivariant": "testing",
    "assert_rotation_robust": "auditing",
    "audit": "auditing",
    "convert": "conversion",
    "covariance": "covariance",
    "create": "models",
    "equivariance_error": "testing",
    "evaluate": "metrics",
    "fit": "training",
    "group": "groups",
    "investigate": "study",
    "models": "models",
    "nn": "nn",
    "prepare": "data",
}
_ROOMS = {"covariance", "models", "nn"}  # names that are modules themselves

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'roteq' has no attribute {name!r}")
    module = import_module(f".{_HOMES[name]}", __name__)
    return module if name in _ROOMS else getattr(module, name)


def __dir__() -> list[str]:
    return list(__all__)
