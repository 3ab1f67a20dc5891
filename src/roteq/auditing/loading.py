"""Any model under audit, by its name, by its file, or as the object that it is."""

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import RoteqError, UsageError, nearest
from ..inference import load_classifier
from ..models.baselines import LAYERS, read_weights
from ..models.named import all_names, beside_file, function_of_file, loaded, running, with_ends
from ..results.audit import Kind
from ..training.measure import device as best_device
from .answers import (
    checked_ask,
    log_probabilities,
    looks_like_one_probability,
    looks_like_probabilities,
    read_answer,
)
from .hub import Facts, Request, of_hugging_face, of_library
from .programs import of_export, of_onnx, of_pickle, of_torch
from .subject import Normalization, Subject
from .wrapping import keyed, merged, of_module, of_object

__all__ = [
    "as_subject",
    "checked_ask",
    "load_subject",
    "log_probabilities",
    "looks_like_one_probability",
    "looks_like_probabilities",
    "read_answer",
]

LIBRARIES = ("timm", "torchvision", "hf")
TORCH, PICKLES = (".pt", ".pth", ".ts", ".ckpt"), (".pkl", ".pickle", ".joblib")
FILES = (".pt2", ".onnx", *TORCH, *PICKLES)
FORMS = (
    "the folder of a run, timm:NAME, torchvision:NAME, hf:NAME, FILE.py:FUNCTION, package.module:function, "
    f"one of {', '.join(LAYERS)}, or a file that ends with {', '.join(FILES)}"
)
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
Normalize = str | Normalization | tuple[Sequence[float], Sequence[float]]
Size = int | tuple[int, int]


def load_subject(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    trust: bool = False,
    num_classes: int | None = None,
    normalize: Normalize | None = None,
    size: Size | None = None,
    resize: int | None = None,
    in_channels: int = 3,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    output_key: str | int | None = None,
    kind: Kind | None = None,
) -> Subject:
    """The model that `name` names: the folder or checkpoint of a run of roteq, "timm:NAME", "torchvision:NAME",
    "hf:NAME or FOLDER", a baseline of roteq, a file (.pt2, .onnx, TorchScript, pickled module or estimator),
    "FILE.py:FUNCTION" or "package.module:function", which make or are a model.

    weights: a local file of weights for a named network. pretrained: its trained weights may be downloaded; those on
    this machine are used without. trust: code in the file, or beside the weights, may run. Without it none does.
    kind: "embedding" leaves the head of a named network out. The other options override what the model says.
    Raises: UsageError for what cannot be right, RoteqError for what cannot be had, naming the option that helps.
    """
    if weights is not None and pretrained:
        raise UsageError("--pretrained: either downloaded weights or those of --weights FILE, not both")
    asked = Request(weights, pretrained, trust, num_classes, _both_sides(size), in_channels, kind == "embedding")
    given = _given(name, normalize, size, resize, classes, kind)
    place = None if device is None else torch.device(device)
    source, path = name.partition(":")[0] if ":" in name else "", Path(name)
    if ".py:" not in name and (source in LIBRARIES or (name in LAYERS and not path.exists())):
        module, facts = of_hugging_face(name, asked) if source == "hf" else of_library(name, asked)
        return of_module(module.to(place or best_device()), merged(facts, given), output_key)
    if ".py:" in name or (FUNCTION.fullmatch(name) and not path.exists()):
        model = _of_function(name, asked)
        model = model.to(place or best_device()) if isinstance(model, nn.Module) else model
        return as_subject(model, output_key=output_key, device=place, **given)
    for option, value in (("weights", weights), ("pretrained", pretrained), ("num-classes", num_classes)):
        if value:
            raise UsageError(f"--{option}: {name} holds its own weights; leave it out")
    return _of_path(path, trust, given, place, output_key)


def as_subject(
    model: Any,
    *,
    name: str | None = None,
    normalize: Normalize | None = None,
    size: Size | None = None,
    resize: int | None = None,
    classes: Sequence[str] | None = None,
    kind: Kind | None = None,
    output_key: str | int | None = None,
    device: str | torch.device | None = None,
) -> Subject:
    """Any model: a Subject, what `load_subject` takes, a Classifier of roteq, a network of timm or transformers, any
    nn.Module, an object with predict_proba, or a function from float pictures (B, C, H, W) to scores.

    A module is asked in evaluation mode on its own device and left as it was; with `device`, a copy is. The options
    override what the model says of itself.
    """
    given = _given(name, normalize, size, resize, classes, kind)
    place = None if device is None else torch.device(device)
    if isinstance(model, Subject):
        changed = {"ask": keyed(model.ask, output_key), **given}
        return replace(model, **changed)
    if isinstance(model, str | Path):
        options = {key: value for key, value in given.items() if key != "name"}
        found = load_subject(str(model), output_key=output_key, device=device, **options)
        return replace(found, name=name or found.name)
    return of_object(model, given, place, output_key)


def _given(
    name: str | None,
    normalize: Normalize | None,
    size: Size | None,
    resize: int | None,
    classes: Sequence[str] | None,
    kind: Kind | None,
) -> Facts:
    """The fields of a Subject that were said explicitly. A size without a resize brings pictures to that size."""
    found: Facts = {
        "name": name,
        "normalize": None if normalize is None else Normalization.of(normalize),
        "size": _both_sides(size),
        "resize": resize,
        "classes": None if classes is None else tuple(map(str, classes)),
        "kind": kind,
    }
    return {key: value for key, value in found.items() if value is not None}


def _both_sides(size: Size | None) -> tuple[int, int] | None:
    both = (size, size) if isinstance(size, int) else size
    if both is not None and (len(both) != 2 or min(both) < 1):
        raise UsageError(f"--size: expected a number of pixels or height and width, got {size!r}")
    return None if both is None else (int(both[0]), int(both[1]))


def _of_path(path: Path, trust: bool, given: Facts, place: torch.device | None, output_key: Any) -> Subject:
    if path.is_dir():
        return _of_run(path, given, place, output_key)
    if not path.is_file():
        if path.suffix in FILES or len(path.parts) > 1:
            raise UsageError(f"{path}: no such file or folder")
        hint = nearest(path.name, all_names())
        raise UsageError(
            f"unknown model {path.name!r}; {hint if hint.startswith('did you mean') else f'expected {FORMS}'}"
        )
    if path.suffix == ".pt2":
        module, facts = of_export(path, trust, place or best_device())
        return of_module(module, merged(facts, given), output_key)
    if path.suffix == ".onnx":
        ask, facts = of_onnx(path)
        return Subject(ask=keyed(ask, output_key), **merged(facts, given))
    if path.suffix in TORCH:
        found = of_torch(path, trust)
        if isinstance(found, dict):
            return _of_run(path, given, place, output_key)
        return as_subject(found.to(place or best_device()), output_key=output_key, **given)
    if path.suffix in PICKLES:
        return as_subject(of_pickle(path, trust), output_key=output_key, device=place, **given)
    if path.suffix == ".safetensors":
        raise UsageError(
            f"{path}: holds weights and not the network they are of; name the network and give the file with --weights"
        )
    raise UsageError(f"{path}: cannot be told what kind of model this is; expected {FORMS}")


def _of_run(path: Path, given: Facts, place: torch.device | None, output_key: Any) -> Subject:
    if path.is_dir() and not (path / "best.ckpt").exists():
        runs = sorted(best.parent.name for best in path.glob("*/best.ckpt"))
        if runs:
            raise UsageError(f"{path}: expected the folder of one run; name one of its runs: {', '.join(runs)}")
        hint = f"; did you mean hf:{path}?" if (path / "config.json").exists() else ""
        raise UsageError(f"{path}: expected the folder of a run, with best.ckpt in it{hint}")
    classifier = load_classifier(path)
    return of_object(classifier if place is None else classifier.to(place), given, None, output_key)


def _of_function(name: str, asked: Request) -> Any:
    """What the function returns if it takes nothing, else the function itself, which is the model."""
    if asked.pretrained or asked.num_classes is not None:
        raise UsageError(f"--{'pretrained' if asked.pretrained else 'num-classes'}: {name} decides that itself")
    is_file = ".py:" in name
    folder = beside_file(name) if is_file else Path()
    made = function_of_file(name, asked.trust) if is_file else _imported(name)
    with running(name, folder):
        model = made() if _is_maker(made) else made
    if asked.weights is not None:
        if not isinstance(model, nn.Module):
            raise UsageError(f"--weights: {name} gives {type(model).__name__}, not an nn.Module")
        model = loaded(with_ends(model), read_weights(asked.weights), str(asked.weights)).network
    if not (callable(model) or hasattr(model, "predict_proba")):
        raise UsageError(
            f"{name}: expected a function that returns an nn.Module, a function of pictures or an object with "
            f"predict_proba, got {type(model).__name__}"
        )
    return model


def _is_maker(found: Any) -> bool:
    if isinstance(found, nn.Module) or (hasattr(found, "predict_proba") and not isinstance(found, type)):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # of C
        return False
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in free for p in parameters)


def _imported(name: str) -> Any:
    """The object of "package.module:function"; the current folder counts as installed, as for uvicorn."""
    module, _, attribute = name.partition(":")
    try:
        with running(name, Path()):
            found: Any = importlib.import_module(module)
    except RoteqError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and module.startswith(str(missing.name)):
            hint = nearest(module, LIBRARIES)
            raise UsageError(f"{name}: no module {missing.name!r}, here or installed; {hint}") from error
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            own = [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else []
            raise UsageError(f"{name}: no {part!r} in it; {nearest(part, own) if own else 'it has nothing'}")
        found = getattr(found, part)
    return found
