"""Any convolutional network to its equivariant twin, as a file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import Json, busy, command, show, show_json


@command("roteq convert timm:resnet18 twin.pt2 --group p4m --input 3,224,224")
def convert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="timm:NAME, torchvision:NAME, resnet18 ..., or FILE.py:FUNCTION.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A program (.pt2, .onnx), or weights by name (.pt, .safetensors).")
    ],
    group: Annotated[str, typer.Option(help="Any C<N> or D<N>, p4 or p4m.")] = "p4m",
    input: Annotated[str, typer.Option(metavar="C,H,W", help="Channels and size of its pictures.")] = "3,224,224",
    width: Annotated[
        str | None, typer.Option(help="parameters (default), channels, features, or features per channel.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Trained weights, which are kept.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Download trained weights, and keep them.")] = False,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Of the head (default: the model's own).")] = None,
    no_strict: Annotated[
        bool, typer.Option("--no-strict", help="Leave what breaks equivariance, name it, exit with 1.")
    ] = False,
    fold: Annotated[bool, typer.Option("--fold", help="BatchNorm into the convolutions of a program.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Run the code of FILE.py.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights that are drawn anew.")] = 0,
    json: Json = False,
) -> None:
    """The equivariant twin of a CNN, verified, as a file."""
    size = picture_size(input)
    kept = "--pretrained" if pretrained else "--weights" if weights else None
    chosen = factor_or_name(width or ("features" if kept else "parameters"))
    if kept and chosen != "features":
        raise UsageError(
            f"--width: expected 'features', where trained filters have their place, got {width!r}; or leave out {kept}"
        )
    with busy(f"building {model}"), _as_options():
        import torch

        from ..conversion import convert as make_twin
        from ..conversion.width import first_factor
        from ..groups import group as named_group
        from ..models.export import check_out, write_network
        from ..models.named import named

        check_out(out, fold)
        first_factor(chosen, named_group(group))
        torch.manual_seed(seed)
        given: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust": trust}
        found = named(model, size[0], num_classes, **given)
        sample = torch.zeros(1, *size)
        _check_input(found.network, sample, input)
    with busy(f"converting {model}"), _as_options():
        twin: Any = make_twin(found.network, group, sample=sample, width=chosen, strict=not no_strict)
        result = replace(twin.conversion, model=model)
    with busy(f"writing {out}"):
        written = write_network(twin, out, sample, fold=fold)
        arguments = {"model": model, "input": size, "num_classes": num_classes}
        arguments |= {"group": result.group, "width": chosen, "strict": not no_strict, "seed": seed}
        beside = _write_beside(out, result, arguments)
    if found.note:
        typer.echo(found.note, err=True)
    if json:
        show_json(result)
    else:
        from ..report.text import conversion_table
        from ..report.words import human

        show(conversion_table(result))
        typer.echo(f"{out}: {written.what}, {human(written.size)}B; beside it {' and '.join(beside)}")
    if result.broken:
        raise typer.Exit(1)


def picture_size(text: str) -> tuple[int, int, int]:
    """
    >>> picture_size("3,224,224")
    (3, 224, 224)
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--input: expected channels, height and width, such as 3,224,224, got {text!r}")
    channels, height, width = map(int, parts)
    return channels, height, width


def factor_or_name(text: str) -> Any:
    """
    >>> factor_or_name("0.5"), factor_or_name("channels")
    (0.5, 'channels')
    """
    try:
        return float(text)
    except ValueError:
        return text


def _check_input(network: Any, sample: Any, text: str) -> None:
    """Does the network take such pictures at all? The conversion would ask many times."""
    import torch

    training = network.training
    try:
        with torch.no_grad():
            network.eval()(sample)
    except Exception as error:  # whatever its layers raise
        words = (str(error).splitlines() or [""])[0]
        raise UsageError(f"--input: the network does not take pictures of {text} ({words})") from error
    network.train(training)


def _write_beside(out: Path, result: Any, arguments: dict[str, Any]) -> list[str]:
    """OUT.json, the report; and beside weights OUT.recipe.json, by which their network can be built again."""
    from importlib.metadata import version

    from ..files import save_json
    from ..models.export import STATES

    found = {f"{out}.json": result}
    if out.suffix in STATES:
        versions = {name: version(name) for name in ("roteq", "torch", "torchvision", "timm")}
        found[f"{out}.recipe.json"] = arguments | {"versions": versions}
    for path, content in found.items():
        save_json(content, path)
    return list(found)


@contextmanager
def _as_options() -> Iterator[None]:
    """A message that begins with the name of an argument begins with that of the option."""
    try:
        yield
    except UsageError as error:
        text = re.sub(r"^(group|weights|pretrained|fold)(?=:)", r"--\1", str(error))
        text = re.sub(r"^convert: (?=.*width)", "--width: ", text).replace("strict=False", "--no-strict")
        raise UsageError(re.sub(r"^(?=unknown model|expected FILE)", "MODEL: ", text)) from None
