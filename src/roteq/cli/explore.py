"""A page where pictures are turned, and what networks say and see turns with them."""

import sys
import threading
import webbrowser
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RoteqError, UsageError, nearest
from .app import busy, command
from .models import (
    IMAGES,
    MODEL,
    Classes,
    Device,
    Download,
    LabelColumn,
    Labels,
    Normalize,
    Output,
    OutputKey,
    Pretrained,
    Resize,
    Size,
    Trust,
    Weights,
    as_options,
    class_names,
    guests,
    subjects_of,
)
from .runs import data_of

CORNERS = ("disc", "mirror", "edge", "black")
SPLITS = ("validation", "valid", "val", "train")  # the first there is; never test, unless it is the only one


@command("roteq explore runs/mine/se2cnn-s0 runs/mine/cnn-s0 --images patches/ --open")
def explore(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help=f"Up to four: the folder of a study, for one run of each, or {MODEL}."),
    ],
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="IMAGES", help=f"{IMAGES}. Default: the data of the first run."),
    ] = None,
    labels: Labels = None,
    classes: Classes = None,
    label_column: LabelColumn = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="The part of the data to show (validation). Test data is looked at once: give test when the study is "
            "over.",
        ),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Images in the gallery, spread over all of them.")] = 500,
    corners: Annotated[
        str, typer.Option("--corners", help="Where a picture is too small to be turned: disc, mirror, edge, black.")
    ] = "disc",
    size: Size = None,
    resize: Resize = None,
    normalize: Normalize = None,
    output: Output = None,
    output_key: OutputKey = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    download: Download = False,
    trust: Trust = False,
    device: Device = None,
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen at; 0.0.0.0: all, for others too, who need a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="8420, or the next free one; 0: any free one.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Turn pictures and watch models, on a page in the browser."""
    _check_parts()
    if corners not in CORNERS:
        raise UsageError(f"--corners: unknown {corners!r}; {nearest(corners, CORNERS)}")
    about: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust": trust, "device": device}
    about |= {"size": size, "resize": resize, "normalize": normalize, "output": output, "output_key": output_key}
    where: dict[str, Any] = {"labels": labels, "label_column": label_column, "download": download, "most": most}
    from ..app.serving import listen

    with listen(host, port) as listening:
        with busy("reading"), as_options(), guests():
            from ..app.explorer import Explorer

            chosen = _runs_of_all(models)
            subjects = subjects_of(chosen, classes=classes, **about)
            source = _images_of(chosen) if images is None else images
            album = _album(source, split, classes=class_names(classes), **where)
            explorer = Explorer(subjects, album, corners=corners)
            explorer.about()  # every model is asked once, so that the page is there at once
        said = port is None and listening.getsockname()[1]
        _serve(explorer, listening, host, said, open_browser, debug=bool(context.find_root().params.get("debug")))


def _serve(explorer: Any, listening: Any, host: str, said: int | bool, open_browser: bool, debug: bool) -> None:
    from secrets import token_urlsafe

    from ..app.security import LOOPBACK
    from ..app.server import create_app
    from ..app.serving import PORT, address_of, is_for_all, is_open_to_others, serve

    is_open = is_open_to_others(listening)
    token = token_urlsafe(24) if is_open else None
    address, out = address_of(listening, host, token), sys.stdout

    def ready() -> None:
        typer.echo(f"Turn pictures at {address}   (Ctrl+C stops)", file=out)
        out.flush()
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    if said and said != PORT:
        typer.echo(f"Port {PORT} is in use; this page is on port {said}.", err=True)
    if is_open:
        typer.echo(
            "Anybody who has this address with its token can use the page and see the images, and whoever listens on "
            "the network can read both: nothing is encrypted.",
            err=True,
        )
    hosts = () if is_for_all(listening) else (*LOOPBACK, host)
    with redirect_stdout(sys.stderr):  # what models print
        serve(create_app(explorer, token=token, hosts=hosts, debug=debug), listening, ready)


def _check_parts() -> None:
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise RoteqError(f"roteq explore needs {name}: pip install 'roteq[app]'")


def _runs_of_all(models: list[str]) -> list[str]:
    from ..app.explorer import MODELS

    chosen = [run for model in models for run in _runs_of(model, MODELS)]
    if len(chosen) > MODELS:
        raise UsageError(f"MODEL: expected at most {MODELS}, got {len(chosen)}: {', '.join(chosen)}")
    return chosen


def _runs_of(model: str, most: int) -> list[str]:
    """Of the folder of a study the first seed of each model, so many at most; anything else is one model."""
    folder = Path(model)
    found = sorted(best.parent for best in folder.glob("*/best.ckpt")) if folder.is_dir() else []
    if not found or (folder / "best.ckpt").exists():
        return [model]
    first: dict[str, Path] = {}
    for run in sorted(found, key=_seed):
        first.setdefault(_label(run), run)
    firsts = sorted(first.values())
    left = f"; left out: {', '.join(run.name for run in firsts[most:])}, name runs to choose" if firsts[most:] else ""
    seeds = " of several seeds the first" if len(firsts) < len(found) else ""
    typer.echo(f"{model}:{seeds} {', '.join(run.name for run in firsts[:most])}{left}", err=True)
    return [str(run) for run in firsts[:most]]


def _label(run: Path) -> str:
    """
    >>> _label(Path("runs/mine/se2cnn-C12-s3"))
    'se2cnn-C12'
    """
    label, _, seed = run.name.rpartition("-s")
    return label if seed.isdecimal() else run.name


def _seed(run: Path) -> int:
    seed = run.name.rpartition("-s")[2]
    return int(seed) if seed.isdecimal() else 0


def _images_of(models: list[str]) -> str | None:
    """The data of the first run; None where there is no run."""
    for model in map(Path, models):
        if (model / "best.ckpt").exists() or (model.is_file() and (model.parent / "config.yaml").exists()):
            source = data_of(model)
            if not Path(source).exists():
                raise UsageError(
                    f"--images: {model} was trained on {source}, which is not here; name a folder of images"
                )
            return source
    return None


def _album(source: str | None, split: str | None, **where: Any) -> Any:
    """The images, of the split that is asked for, else of validation where there is one."""
    from ..app.album import Album

    if source is None:
        return Album(None, **where)
    for part in SPLITS if split is None else ():
        try:
            return _opened(source, part, **where)
        except UsageError as error:
            if "split" not in str(error):
                raise
    return _opened(source, split, **where)


def _opened(source: str, split: str | None, **where: Any) -> Any:
    from ..app.album import Album
    from ..data import dataset_info
    from ..data.masks import open_masks

    folder = Path(source)
    info = dataset_info(folder) if (folder / "dataset.json").is_file() else None
    if info is None or info.kind != "masks":
        return Album(source, split=split, **where)
    chosen = split or "+".join(info.counts)
    album = Album([row.image for row in open_masks(folder, chosen).rows], **where)  # their masks are not shown
    album.source, album.split = f"{folder.resolve().name}, {chosen}", chosen
    return album
