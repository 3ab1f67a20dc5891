"""A network as a file: a program for torch or ONNX, or its state. What is written is checked before it is kept."""

import importlib.util
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..conversion.trace import tensors_in
from ..errors import RoteqError, UsageError, nearest
from ..files import atomic_path
from ..nn import plain

PROGRAMS = (".pt2", ".onnx")
STATES = (".pt", ".safetensors")
SAME = 1e-4  # largest relative difference between the answers of the network and of the file, in float32
LARGEST_ONNX = 2**31  # bytes in one file of protocol buffers


@dataclass(frozen=True)
class Written:
    """What a file holds, in words."""

    what: str
    size: int  # bytes


def check_out(path: str | Path, fold: bool = False) -> None:
    """Before any work: UsageError unless the suffix names a format (that can be folded), RoteqError if what it needs is
    not installed."""
    path = Path(path)
    formats = (*PROGRAMS, *STATES)
    if path.suffix not in formats:
        raise UsageError(
            f"{path}: expected a file that ends with {', '.join(formats)}, got {path.suffix or 'no ending'!r}; "
            f"{nearest(path.suffix, formats)}"
        )
    if path.is_dir():
        raise UsageError(f"{path}: expected a file, got a folder")
    if fold and path.suffix in STATES:
        raise UsageError(f"fold: a program has folded layers ({', '.join(PROGRAMS)}); a state ({path.suffix}) has not")
    missing = [name for name in ("onnx", "onnxscript") if path.suffix == ".onnx" and not _installed(name)]
    if missing:
        raise RoteqError(f"{path}: ONNX needs {' and '.join(missing)}: pip install 'roteq[onnx]'")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def write_network(network: nn.Module, path: str | Path, sample: Tensor, *, fold: bool = False) -> Written:
    """Write a network to a file, whose suffix decides what: .pt2 (torch.export) and .onnx are programs of torch's own
    layers in eval mode, for any batch if the network allows it; .pt and .safetensors are its state.

    A program is read back, run on noise like the sample (B, C, H, W), and its answers compared. fold: BatchNorm goes
    into the convolutions. The file is whole, or the former one stays.
    Raises: UsageError for a suffix that names no format; RoteqError if the network cannot be exported, or the program
    answers otherwise.
    """
    check_out(path, fold)
    path = Path(path)
    if path.suffix in STATES:
        with atomic_path(path) as temporary:
            _save_state(network, temporary)
        return Written("weights by name", path.stat().st_size)
    images = torch.randn((3, *sample.shape[1:]), generator=torch.Generator().manual_seed(0))
    if path.suffix == ".onnx":
        _check_size(network, path)
    with atomic_path(path) as temporary, warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # exporters warn about themselves, and print
        program = plain(network.eval(), fold=images[:2] if fold else None)
        what = _write_program(program, images, path, temporary)
    return Written(what, path.stat().st_size)


def _save_state(network: nn.Module, path: Path) -> None:
    state = {key: value.detach().clone().contiguous() for key, value in network.state_dict().items()}
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)


def _check_size(network: nn.Module, path: Path) -> None:
    shapes = plain(deepcopy(network).to("meta")).state_dict().values()
    size = sum(value.numel() * value.element_size() for value in shapes)
    if size >= LARGEST_ONNX:
        raise RoteqError(
            f"{path}: the filters of all group elements take {size / 2**30:.1f} GiB, and one ONNX file holds 2; choose "
            "a smaller --width, .pt2, or .safetensors (which holds one filter of |G|)"
        )


def _write_program(program: nn.Module, images: Tensor, path: Path, temporary: Path) -> str:
    write = _pt2 if path.suffix == ".pt2" else _onnx
    for any_batch in (True, False):
        try:
            run = write(program, images[: 2 if any_batch else 1], any_batch, temporary)
            break
        except Exception as error:  # exporters raise of all kinds
            if not any_batch:
                words = (str(error).splitlines() or [""])[0]
                raise RoteqError(f"{path}: could not be exported ({type(error).__name__}: {words})") from error
    of_what = f"{'torch.export' if path.suffix == '.pt2' else 'ONNX'}, {'any batch' if any_batch else 'batches of 1'}"
    if run is None:
        return f"{of_what}, not checked: onnxruntime is not installed"
    for batch in (images, images[:1]) if any_batch else (images[:1],):
        expected, found = list(tensors_in(program(batch))), run(batch)
        worst = max(_difference(*pair) for pair in zip(found, expected, strict=True))
        if not worst <= SAME:
            raise RoteqError(
                f"{path}: the program answers otherwise than the network (relative difference {worst:.2g})"
            )
    return f"{of_what}, answers checked"


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm()) if found.shape == expected.shape else float("inf")


Run = Callable[[Tensor], list[Tensor]]


def _pt2(program: nn.Module, images: Tensor, any_batch: bool, path: Path) -> Run:
    shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
    torch.export.save(torch.export.export(program, (images,), dynamic_shapes=shapes), path)
    loaded = torch.export.load(path).module()
    return lambda x: list(tensors_in(loaded(x)))


def _onnx(program: nn.Module, images: Tensor, any_batch: bool, path: Path) -> Run | None:
    shapes = ({0: "batch"},) if any_batch else None
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "input_names": ["images"], "dynamic_shapes": shapes}
    torch.onnx.export(program, (images,), **options).save(path)  # type: ignore[union-attr]
    if not _installed("onnxruntime"):
        return None
    from onnxruntime import InferenceSession

    session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})]
