"""Models in files: programs of torch.export and ONNX, TorchScript archives, pickled modules and estimators."""

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RoteqError, UsageError
from .hub import Facts
from .safety import hushed, loading_exported

COLOURS = (1, 3, 4)
NETWORKS = ("model", "net", "network", "module", "ema")  # where checkpoints keep a whole module
ONNX_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


def of_export(path: Path, trust: bool, device: torch.device) -> tuple[nn.Module, Facts]:
    """A program of torch.export as a module."""
    with loading_exported(path, trust) as program:
        if any(value.device.type != device.type for value in program.state_dict.values()):
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        taken = program.graph_signature.user_inputs
        inputs = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder") if node.name in taken]
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise UsageError(f"{path}: expected a program of one tensor, got {len(inputs)} inputs")
        module = program.module()
    for part in module.modules():
        part.training = False  # it has no modes
    shape: list[int | None] = [side if isinstance(side, int) else None for side in inputs[0].shape]
    return module, _input(path, shape, 1, "a program of torch.export")


def _input(path: Path, shape: list[int | None], axis: int, what: str) -> Facts:
    """What the shape of the input says; None: any."""
    if len(shape) != 4:
        raise UsageError(f"{path}: expected a model of pictures (B, C, H, W), got an input of {len(shape)} dimensions")
    sides = [side for k, side in enumerate(shape) if k not in (0, axis)]
    height, width = sides
    size = (height, width) if height and width else None
    notes = (f"{what}, for batches of {shape[0] or 'any size'}",)
    return {"channels": shape[axis], "size": size, "batch": shape[0], "notes": notes}


def of_onnx(path: Path) -> tuple[Callable[[Tensor], dict[str, np.ndarray]], Facts]:
    """An ONNX model, run by onnxruntime on the processor."""
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise RoteqError(f"{path}: needs onnxruntime: pip install 'roteq[onnx]'") from error
    options = SessionOptions()
    options.log_severity_level = 4  # it writes to stderr by itself
    try:
        session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds
        words = (str(error).splitlines() or [""])[0]
        raise RoteqError(f"{path}: not a model that onnxruntime can run ({words})") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(found.name for found in inputs)
        raise UsageError(f"{path}: expected a model of one input, got {len(inputs)} ({names})")
    name, kind = inputs[0].name, inputs[0].type
    if kind not in ONNX_TYPES:
        raise UsageError(f"{path}: expected pictures of numbers, got an input of type {kind}")
    shape = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
    last = len(shape) == 4 and shape[1] not in COLOURS and shape[3] in COLOURS
    facts = _input(path, shape, 3 if last else 1, "ONNX" + ", channels last" * last)
    outputs = [found.name for found in session.get_outputs()]

    def ask(images: Tensor) -> dict[str, np.ndarray]:
        pixels = (images.permute(0, 2, 3, 1) if last else images).cpu().numpy()
        pixels = np.ascontiguousarray(pixels.round() if kind == "tensor(uint8)" else pixels, dtype=ONNX_TYPES[kind])
        return dict(zip(outputs, session.run(None, {name: pixels}), strict=True))

    return ask, facts


def of_torch(path: Path, trust: bool) -> Any:
    """A checkpoint of roteq (its content), a TorchScript archive, or a pickled nn.Module.

    Raises: UsageError for weights alone, and for files that could run code unless they are trusted.
    """
    scripted = _is_torchscript(path)
    if not scripted:
        content = _tensors_only(path)
        if isinstance(content, dict) and "hyper_parameters" in content and "roteq" in content:
            return content
        if content is not None:
            raise UsageError(
                f"{path}: holds weights and not the network they are of; name the network and give the file with "
                f"--weights, such as timm:resnet18 --weights {path}"
            )
    if not trust:
        what = "a TorchScript program, which can write files" if scripted else "pickled Python objects"
        raise _runs_code(path, what)
    try:
        with hushed():
            if scripted:
                return torch.jit.load(path, map_location="cpu")
            found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the file runs
        raise RoteqError(f"{path}: could not be loaded ({_in_words(error)})") from error
    if isinstance(found, dict):
        found = next((found[key] for key in NETWORKS if isinstance(found.get(key), nn.Module)), found)
    if not isinstance(found, nn.Module):
        raise UsageError(
            f"{path}: expected a whole network, got {type(found).__name__}; name the network and give its weights with "
            "--weights FILE"
        )
    return found


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tensors_only(path: Path) -> Any:
    """The content of a file of tensors and plain containers; None: it holds other objects."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if "Weights only load" in str(error) or "weights_only" in str(error):
            return None
        raise RoteqError(f"{path}: not a file of torch, or a damaged one ({_in_words(error)})") from error
    except Exception as error:  # pickle and zip errors of many kinds, all meaning the same
        raise RoteqError(f"{path}: not a file of torch, or a damaged one ({_in_words(error)})") from error


def of_pickle(path: Path, trust: bool) -> Any:
    """Whatever a pickle or joblib file holds."""
    if not trust:
        raise _runs_code(path, "pickled Python objects")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".joblib":
                import joblib

                return joblib.load(path)
            with path.open("rb") as file:
                return pickle.load(file)
    except ImportError as error:
        raise RoteqError(f"{path}: needs {error.name}, which is not installed") from error
    except Exception as error:  # whatever the file runs
        raise RoteqError(f"{path}: could not be loaded ({_in_words(error)})") from error


def _runs_code(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: {what}, and loading that can run any code; add --trust if you trust the file")


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
