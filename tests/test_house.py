"""The house: which room may look at which, what stays light, how long a file may be (CONTRIBUTING.md)."""

import ast
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import roteq

SOURCE = Path(roteq.__file__).parent
ROOMS = (
    *("_version", "errors", "files", "results", "config", "groups", "filters", "nn", "testing", "conversion", "models"),
    *("data", "metrics", "training", "inference", "auditing", "covariance", "report", "study", "slides", "app"),
    *("doctor", "cli"),
)
HEAVY = {"torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "scipy", "PIL", "h5py", "pyarrow"} | {
    *("pydantic", "yaml", "matplotlib", "jinja2", "rich", "tensorboard", "datasets")
}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imported_rooms(source: str, module: str, is_package: bool) -> set[str]:
    """Every room that `module` names in an import, also inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "roteq" else [stem]
        else:
            continue
        rooms |= {room_of(name) for name in names if name.startswith("roteq.")}
    return rooms - {room_of(module)}


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    here = ROOMS.index(room_of(module))
    return sorted(room for room in imported_rooms(source, module, is_package) if ROOMS.index(room) > here)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"}


def test_every_module_lives_in_a_known_room() -> None:
    assert len(MODULES) >= 5
    assert {room_of(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_the_rooms_above_it(module: str) -> None:
    path = MODULES[module]
    assert violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("from .study import investigate", "roteq.auditing", False, ["study"]),
        ("def f():\n    from roteq.cli import main", "roteq.doctor", False, ["cli"]),
        ("import roteq.training", "roteq.models.cnn", False, ["training"]),
        ("from . import auditing, nn", "roteq.models", False, ["auditing"]),
        ("from .. import auditing, nn", "roteq.models", True, ["auditing"]),
        ("from .. import auditing, nn", "roteq.models.cnn", False, ["auditing"]),
        ("from ..report.text import table", "roteq.metrics.guards", False, ["report"]),
        ("from .guards import check\nfrom ..errors import UsageError", "roteq.metrics.compare", False, []),
        ("from .guards import check\nfrom ..errors import UsageError", "roteq.metrics", True, []),
    ],
    ids=[
        "relative",
        "in a function",
        "absolute",
        "one file",
        "package",
        "file of a package",
        "two up",
        "own room",
        "own package",
    ],
)
def test_an_import_from_below_is_seen(source: str, module: str, is_package: bool, expected: list[str]) -> None:
    assert violations(source, module, is_package) == expected


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_400_lines(module: str) -> None:
    assert MODULES[module].read_text(encoding="utf-8").count("\n") <= 400


@pytest.mark.parametrize("name", roteq.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(roteq, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'investigat'"):
        roteq.investigat  # noqa: B018


HELP = "import sys; sys.argv = ['roteq', '--help']\nfrom roteq.cli import main\ntry: main()\nexcept SystemExit: pass\n"


@pytest.mark.parametrize("code", ["import roteq", "import roteq.cli", HELP], ids=["roteq", "roteq.cli", "roteq --help"])
def test_no_heavy_library_is_imported_by(code: str) -> None:
    code += "\nimport sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(answer.stdout.splitlines()[-1])) == set()


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "roteq.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < 0.3  # processor time: a busy machine does not fail the test
