"""Whether a file of torch.export is what it looks like: weights, and operations of torch on tensors.

`torch.export.load` trusts its file. It unpickles, evaluates sizes as Python expressions, takes the operations by their
dotted name from anywhere in torch (torch.os.system is there), imports classes, compiles guards, and loads compiled
libraries. So the archive is read first, with the reader that torch will use, and all but plain programs are refused.
"""

import json
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ..errors import RoteqError, UsageError

PROGRAM = "models/model.json"
ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
ON_SIZES = re.compile(
    r"_operator\.(add|sub|mul|neg|pos|abs|pow|mod|floordiv|truediv|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc)"
    r"|torch\.sym_(not|int|float|max|min|ite|sum)"
)
PLAIN = re.compile(r"[\w.@-]*", re.ASCII)  # names of weights and values; no quotes, brackets or spaces
TEXT = re.compile(r"[\w.,>\- ]*", re.ASCII)  # arguments: "bicubic", "bij,bjk->bik"
DUNDER = re.compile(r"(^|\.)__\w*__(\.|$)")  # __class__ is no name of a weight
SYMBOLS, INPUTS = re.compile(r"'[suz]f?\d+'"), re.compile(r"\['\w+'\]")  # the only strings in expressions
SIZES = re.compile(r"[\w ().,=<>!+*/~&|-]*", re.ASCII)  # strings could be put together and evaluated
GUARDS = re.compile(r"[\w ().,=<>!+*/%\[\]-]*", re.ASCII)
IN_SIZES = (  # symbols, their properties, and functions of sympy and torch on them
    r"[suz]f?\d+|positive|nonnegative|integer|real|finite|evaluate|True|False"
    r"|Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Abs|floor|ceiling"
    r"|Equality|Unequality|LessThan|GreaterThan|StrictLessThan|StrictGreaterThan"
    r"|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural"
    r"|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|ToFloat|Identity"
)
IN_GUARDS = IN_SIZES + (
    r"|L|size|stride|storage_offset|and|or|not|math|ceil|floor|inf|torch|sym_(not|int|float|max|min|ite|sum)"
)
CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
FORBIDDEN = {"as_graph", "as_graphs", "as_custom_obj", "as_operator"}  # kinds of arguments


class Unsafe(Exception):
    """What the file holds beside tensors and operations on them."""


@contextmanager
def loading_exported(path: Path, trust: bool) -> Iterator[Any]:
    """The torch.export.ExportedProgram of a file, within the block that makes a module of it. Nothing in the file is
    run unless it is trusted.

    Raises: UsageError for a file that could run code; RoteqError for a damaged one.
    """
    try:
        if not trust:
            check_exported(path)
        with hushed(), nullcontext() if trust else weights_only():
            yield torch.export.load(path)
    except Unsafe as error:
        raise _distrusted(path, str(error)) from error
    except RoteqError:
        raise
    except Exception as error:  # of many kinds
        words = str(error).strip() or type(error).__name__
        if "weights_only" in words or "WeightsUnpickler" in words:
            raise _distrusted(path, "pickled objects") from error
        words = words.splitlines()[0]
        raise RoteqError(f"{path}: not a program of torch.export, or a damaged one ({words})") from error


def _distrusted(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path}: holds more than tensors and operations of torch ({what}), and loading that can run any code; add "
        "--trust if you trust the file"
    )


@contextmanager
def weights_only() -> Iterator[None]:
    """torch.load makes tensors and plain containers only, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def hushed() -> Iterator[None]:
    """Without what libraries warn and log about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_exported(path: Path) -> None:
    """Raises: Unsafe, with what it is, for anything in the archive that could run code."""
    from torch.export.pt2_archive._package import PT2ArchiveReader

    with zipfile.ZipFile(path) as archive:
        if "version" in archive.namelist():  # torch would go back to its former format, all of pickles
            raise Unsafe("a format older than torch 2.8, of pickles")
    with PT2ArchiveReader(str(path)) as archive:
        names = archive.get_file_names()
        if any(name.startswith("data/aotinductor/") for name in names):
            raise Unsafe("compiled libraries")
        if [name for name in names if name.startswith("models/")] != [PROGRAM]:
            raise Unsafe("other programs than one")
        for name in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
            if name in names:
                _check_payloads(json.loads(archive.read_string(name)))
        _check_program(json.loads(archive.read_string(PROGRAM)))


def _check_payloads(config: dict[str, Any]) -> None:
    for payload in config["config"].values():
        name = payload["path_name"]
        if not name.startswith(("weight_", "tensor_")):
            raise Unsafe(f"the object {name}")


def _check_program(program: dict[str, Any]) -> None:
    if program["graph_module"].get("treespec_namedtuple_fields"):
        raise Unsafe("classes of named tuples")
    for guard in program.get("guards_code") or []:
        _check_expression(INPUTS.sub("", guard), GUARDS, IN_GUARDS)
    _check(program, "")


def _check(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            if not PLAIN.fullmatch(name) or (name in FORBIDDEN and part is not None):
                raise Unsafe(name)
            if name not in ("metadata", "guards_code"):  # where it came from, in words; checked above
                _check(part, name)
    elif isinstance(value, list):
        for part in value:
            _check(part, key)
    elif isinstance(value, str):
        if key == "target":
            _check_target(value)
        elif key == "expr_str":
            _check_expression(SYMBOLS.sub("", value), SIZES, IN_SIZES)
        elif key in ("in_spec", "out_spec"):
            _check_container(json.loads(value)[1])
        elif key == "torch_version":
            return
        elif not (TEXT if key in ("as_string", "as_strings") else PLAIN).fullmatch(value) or DUNDER.search(value):
            raise Unsafe(f"{key} {value!r}")


def _check_target(name: str) -> None:
    if ON_SIZES.fullmatch(name):
        return
    match = ATEN.fullmatch(name)
    found = match and getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(found, torch._ops.OpOverload):
        raise Unsafe(f"the operation {name}")
    if any("file" in argument.name for argument in found._schema.arguments):
        raise Unsafe(f"the operation {name}, which reads or writes files")


def _check_expression(text: str, characters: re.Pattern[str], names: str) -> None:
    words = re.findall(r"[A-Za-z_]\w*", text)
    if not characters.fullmatch(text) or not all(re.fullmatch(names, word) for word in words):
        raise Unsafe(f"the size {text!r}")


def _check_container(spec: dict[str, Any]) -> None:
    keys = json.loads(spec["context"]) if spec["context"] is not None else None
    is_plain = keys is None or (isinstance(keys, list) and all(isinstance(k, str) and TEXT.fullmatch(k) for k in keys))
    if spec["type"] not in CONTAINERS or not is_plain:
        raise Unsafe(f"the class {spec['type']}")
    for child in spec["children_spec"]:
        _check_container(child)
