"""Configurations: frozen, validated, loaded from YAML plus `key=value` overrides, and written out whole.

A key that does not exist is refused with the nearest one that does, because a misspelt key that is silently ignored
is an experiment that was never run.
"""

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import UsageError, nearest
from .files import write_text

C = TypeVar("C", bound="Config")
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """Safe YAML whose numbers are the usual ones: 1e-3 is a number, 1:30:00 is not 5400."""


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in found if tag not in (INT, FLOAT)]
    for start, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)$|\.nan$"), list("-+.0123456789")
)


class Config(BaseModel):
    """Base of every configuration: immutable, unknown keys rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load_config(kind: type[C], path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> C:
    """Read `path` (YAML; None: all defaults), apply overrides such as `train.lr=0.01` or `models.0.group=C8`, validate.

    Raises: UsageError naming the file and key, what was expected and the nearest valid key.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader) or {}
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(tree, dict):
            raise UsageError(f"{path}: expected keys and values, got a {type(tree).__name__}")
    for override in overrides:
        apply_override(tree, override)
    return validate(kind, tree, where=str(path) if path is not None else "configuration")


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `dotted.key=value` in a tree of dicts and lists; the value is read as YAML.

    >>> tree = {"train": {"lr": 0.1}}
    >>> apply_override(tree, "train.lr=0.01"); tree
    {'train': {'lr': 0.01}}
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"override {override!r}: expected key=value, as in train.epochs=5")
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise UsageError(f"override {override!r}: the value is not valid YAML") from None
    node: Any = tree
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, override)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
            continue
        if not isinstance(node, dict | list):
            raise UsageError(f"override {override!r}: {part!r} is a value and has no keys below it")
    if isinstance(node, list):
        node[_index(node, last, override)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise UsageError(f"override {override!r}: nothing can be set below a plain value")


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise UsageError(f"override {override!r}: expected an index from 0 to {len(items) - 1}, got {part!r}")
    return int(part)


def validate(kind: type[C], tree: Any, where: str) -> C:
    """Build the configuration, or say in one message everything that is wrong with it."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
        below = {problem["loc"][:-1] for problem in problems}  # an item that failed also makes its list too short
        told = [p for p in problems if p["type"] != "too_short" or p["loc"] not in below]
        raise UsageError("\n".join(_explain(kind, problem, where) for problem in told)) from None


def _explain(kind: type[BaseModel], problem: Any, where: str) -> str:
    path = [part for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(kind, path[:-1])
        return f"{where}: unknown key {key!r}; {nearest(path[-1], fields)}"
    if problem["type"] == "missing":
        return f"{where}: missing key {key!r}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
    return f"{where}: {key or 'configuration'}: {message[:1].lower()}{message[1:]}{given}"


def _fields_at(kind: Any, path: list[Any]) -> list[str]:
    """The keys allowed at a path of the configuration."""
    for part in path:
        if isinstance(part, int):
            continue
        field = getattr(kind, "model_fields", {}).get(part)
        if field is None:
            return []
        found = [t for t in (field.annotation, *_flatten(field.annotation)) if hasattr(t, "model_fields")]
        kind = found[0] if found else None
    return list(getattr(kind, "model_fields", {}))


def _flatten(annotation: Any) -> list[Any]:
    return [inner for arg in get_args(annotation) for inner in (arg, *_flatten(arg))]


def to_yaml(config: Config) -> str:
    """Every key with its value, defaults included, in the order of the definition."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def save_yaml(config: Config, path: str | Path) -> None:
    write_text(path, to_yaml(config))
