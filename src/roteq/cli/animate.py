"""One picture turning, as a film for slides and papers."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RoteqError, UsageError
from .app import Json, busy, command, show_json
from .models import (
    MODEL,
    Classes,
    Device,
    Normalize,
    Output,
    OutputKey,
    Pretrained,
    Resize,
    Size,
    Trust,
    Weights,
    as_options,
    guests,
    subjects_of,
)


@command("roteq animate runs/mine/se2cnn-s0 runs/mine/cnn-s0 cells.png turn.gif --layer lift")
def animate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... IMAGE OUT",
            help=f"MODEL: up to four of {MODEL}. IMAGE: a file. OUT: a file that ends in .gif, .webp or .mp4 (needs "
            "roteq[app]), or in .png, for one frame.",
        ),
    ],
    mirror: Annotated[bool, typer.Option("--mirror", help="Mirror the picture before it is turned.")] = False,
    step: Annotated[int, typer.Option("--step", metavar="DEGREES", help="Between two frames; divides 360.")] = 5,
    seconds: Annotated[float, typer.Option("--seconds", help="Of the whole turn.")] = 6.0,
    angle: Annotated[int | None, typer.Option("--angle", metavar="DEGREES", help="Of a .png (0).")] = None,
    theme: Annotated[str, typer.Option("--theme", help="light or dark.")] = "light",
    width: Annotated[int | None, typer.Option("--width", metavar="PIXELS", help="Of the frame.")] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", help="Show below how the maps of this layer turn and move on.")
    ] = None,
    feature: Annotated[int, typer.Option("--feature", help="Which feature of that layer.")] = 0,
    classes: Classes = None,
    size: Size = None,
    resize: Resize = None,
    normalize: Normalize = None,
    output: Output = None,
    output_key: OutputKey = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    trust: Trust = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """One picture turning, and what models say, as a film."""
    if len(arguments) < 3:
        raise UsageError("expected MODEL... IMAGE OUT, such as roteq animate runs/mine/se2cnn-s0 cells.png turn.gif")
    *models, image, out = arguments
    if not Path(image).exists():  # said before everything heavy is imported
        raise UsageError(f"IMAGE: {image}: no such file")
    if angle is not None and Path(out).suffix.lower() != ".png":
        raise UsageError(f"--angle: only for one frame, a .png; {out} shows all angles")
    look: dict[str, Any] = {"mirror": mirror, "step": step, "seconds": seconds, "theme": theme, "width": width}
    look |= {"degrees": angle or 0, "layer": layer, "feature": feature}
    about: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust": trust, "device": device}
    about |= {"size": size, "resize": resize, "normalize": normalize, "output": output, "output_key": output_key}
    with busy("reading"), as_options(), _places(), guests():
        from ..app.animate import album_of, check_place, format_of, write
        from ..app.explorer import Explorer

        format_of(Path(out))
        check_place(Path(out))
        album, id = album_of(image)
        explorer = Explorer(subjects_of(models, classes=classes, **about), album)
    with as_options(), _places(), guests():
        written = write(explorer, id, Path(out), progress=not json, **look)
    if json:
        show_json(written)
    else:
        frames = "1 frame" if written.frames == 1 else f"{written.frames} frames, {written.seconds:g} s"
        size_of_file = f"{written.width} x {written.height} pixels, {written.bytes / 1e6:.2f} MB"
        typer.echo(f"Written: {written.path} ({frames}, {size_of_file})")


@contextmanager
def _places() -> Iterator[None]:
    """The names that these arguments have on the command line."""
    try:
        yield
    except RoteqError as error:
        text = re.sub(r"^(step|seconds|theme|width|layer|feature)(?=:)", r"--\1", str(error))
        for name, shown in (("path", "OUT"), ("image", "IMAGE"), ("models", "MODEL")):
            text = re.sub(rf"^{name}(?=:)", shown, text)
        raise (UsageError if isinstance(error, UsageError) else RoteqError)(text) from None
