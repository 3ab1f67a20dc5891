"""What the commands share that take any model: the options that say what it is, and its loading."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RoteqError, UsageError

MODEL = (
    "a run of roteq, timm:NAME, torchvision:NAME, hf:NAME, a .pt2, .onnx or TorchScript file, package.module:FUNCTION, "
    "FILE.py:FUNCTION"
)
IMAGES = "a folder, class folders, a CSV, a prepared dataset, hf:NAME"

Labels = Annotated[Path | None, typer.Option("--labels", metavar="CSV", help="A table of images and their labels.")]
Classes = Annotated[
    str | None, typer.Option("--classes", metavar="A,B,...", help="Names of the outputs, in their order.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Of a Hugging Face dataset (default: its class labels).")
]
Size = Annotated[str | None, typer.Option("--size", metavar="H[,W]", help="Of the model's input.")]
Resize = Annotated[
    int | None,
    typer.Option("--resize", min=0, help="Shorter side of a picture before its centre is cut; 0: as stored."),
]
Normalize = Annotated[str | None, typer.Option("--normalize", help="raw (0..255), unit (0..1), imagenet, or MEAN/STD.")]
Output = Annotated[
    str | None, typer.Option("--output", help="What answers are: classes, labels (independent), embedding or map.")
]
OutputKey = Annotated[str | None, typer.Option("--output-key", help="Which of several outputs: a name or a number.")]
Weights = Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="Trained weights.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Download trained weights.")]
Download = Annotated[bool, typer.Option("--download", help="Download a Hugging Face dataset.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run code that is in files: FILE.py, pickles.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 (default: a GPU if any).")]


def subjects_of(
    models: list[str],
    *,
    classes: str | None = None,
    size: str | None = None,
    resize: int | None = None,
    normalize: str | None = None,
    output: str | None = None,
    output_key: str | None = None,
    weights: Path | None = None,
    pretrained: bool = False,
    trust: bool = False,
    device: str | None = None,
) -> list[Any]:
    """The Subject of each model, under the shortest name that tells it from the others. Takes the options as given."""
    from ..auditing.loading import load_subject

    about: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust": trust, "device": _device(device)}
    about |= {"size": _size(size), "resize": resize, "normalize": normalize, "kind": output, "output_key": output_key}
    about["classes"] = class_names(classes)
    names = short_names(models)
    return [replace(load_subject(model, **about), name=name) for model, name in zip(models, names, strict=True)]


def short_names(models: list[str]) -> list[str]:
    """The last part of a path, or as many as tell the models apart; a repeated name is counted.

    >>> short_names(["runs/a/x-s0", "runs/b/x-s0", "timm:resnet18"]), short_names(["a.pt2", "a.pt2"])
    (['a/x-s0', 'b/x-s0', 'timm:resnet18'], ['a.pt2', 'a.pt2 (2)'])
    """
    parts = [[model] if ":" in model else model.rstrip("/").split("/") for model in models]
    depth = 1
    while depth < max(map(len, parts)) and len({tuple(p[-depth:]) for p in parts}) < len({tuple(p) for p in parts}):
        depth += 1
    names = ["/".join(p[-depth:]) for p in parts]
    return [n if names.index(n) == i else f"{n} ({names[: i + 1].count(n)})" for i, n in enumerate(names)]


def _size(text: str | None) -> tuple[int, int] | None:
    """
    >>> _size("224"), _size("256,128")
    ((224, 224), (256, 128))
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--size: expected the height and width of the model's input, such as 224 or 256,128, got {text!r}"
        )
    return int(parts[0]), int(parts[-1])


def class_names(text: str | None) -> tuple[str, ...] | None:
    """
    >>> class_names("normal, tumour")
    ('normal', 'tumour')
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--classes: expected different names with commas between them, got {text!r}")
    return names


def _device(text: str | None) -> str | None:
    """A device that is here."""
    if text is not None:
        import torch

        try:
            torch.zeros(1, device=text).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            words = str(error).strip().splitlines()[0]
            raise UsageError(f"--device: {text!r} cannot be used here ({words}); leave it out, or give cpu") from None
    return text


@contextmanager
def guests() -> Iterator[None]:
    """The code of others runs in here: what it prints is no result, and where it ends the program nothing passed."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as ended:
        raise RoteqError(f"the code of the model ended the program (exit code {ended.code}); take that out") from None


@contextmanager
def as_options() -> Iterator[None]:
    """A message that begins with the name of an argument begins with that of the option."""
    try:
        yield
    except UsageError as error:
        names = "labels|label[-_]column|classes|split|size|resize|normalize|output-key|weights|pretrained|device|"
        names += "max-flip-rate|min-worst-accuracy|max-error"
        text = re.sub(rf"^({names})(?=:)", r"--\1", str(error))
        text = re.sub(r"^--label_column", "--label-column", text)
        text = re.sub(r"^kind(?=:)", "--output", text)
        raise UsageError(re.sub(r"^(?=unknown model|expected timm:)", "MODEL: ", text)) from None
