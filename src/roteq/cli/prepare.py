"""Raw images, or built-in ones, to a prepared dataset."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import Json, command, show, show_json


@command("roteq prepare photos/ data/mine --crop 64 --class-names normal,tumour", continues=True)
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a CSV file, PCam's HDF5 folder; or 'synthetic': built-in tissue.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the prepared dataset.")],
    kind: Annotated[str | None, typer.Option(help="kaggle, pcam, folder, csv, masks; found out if not given.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the centre square to keep.")] = None,
    size: Annotated[int | None, typer.Option(help="Resize to this side, after the crop.")] = None,
    mode: Annotated[str | None, typer.Option(help="rgb (default) or grey.")] = None,
    format: Annotated[str | None, typer.Option(help="png (default) or jpeg.")] = None,
    quality: Annotated[int | None, typer.Option(help="Of jpeg, 1 to 100 (default 95).")] = None,
    shares: Annotated[
        str | None, typer.Option(help="Of train, validation and test (default 0.7,0.15,0.15).", metavar="A,B,C")
    ] = None,
    split: Annotated[str | None, typer.Option(help="auto (default), group or image.")] = None,
    class_names: Annotated[
        str | None, typer.Option(help="In the order of the labels, or as label=name.", metavar="NAME,NAME")
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="Column that names the slide or patient.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split and the limit (default 0).")] = None,
    limit: Annotated[int | None, typer.Option(help="Prepare only so many images.")] = None,
    skip_bad: Annotated[
        bool | None, typer.Option("--skip-bad", help="Leave out unusable images and count them.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the prepared images.")] = None,
    radius: Annotated[float | None, typer.Option(help="Of discs for points, in pixels (default 6).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes (default: one for each core).")] = None,
    json: Json = False,
) -> None:
    """Make a dataset out of raw images; restartable."""
    given = {
        "kind": kind,
        "crop": crop,
        "size": size,
        "mode": mode,
        "format": format,
        "quality": quality,
        "shares": _numbers(shares),
        "split": split,
        "class_names": _names(class_names),
        "group_column": group_column,
        "seed": seed,
        "limit": limit,
        "skip_bad": skip_bad,
        "mpp": mpp,
        "radius": radius,
        "workers": workers,
    }
    from ..config import validate
    from ..data import PrepareOptions, synthetic_tissue
    from ..data import prepare as run

    options = validate(PrepareOptions, {key: value for key, value in given.items() if value is not None}, "prepare")
    raw = Path(source)
    if source == "synthetic":
        raw = synthetic_tissue(out.with_name(f"{out.name}-raw"), seed=options.seed, progress=not json)
    info = run(raw, out, options, progress=not json)
    if json:
        return show_json(info)
    from ..report.text import dataset_table

    show(dataset_table(info))


def _numbers(text: str | None) -> list[float] | None:
    """
    >>> _numbers("0.8,0.1,0.1")
    [0.8, 0.1, 0.1]
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--shares: expected three numbers such as 0.7,0.15,0.15, got {text!r}") from None


def _names(text: str | None) -> Any:
    """
    >>> _names("normal,tumour"), _names("0=normal,1=tumour")
    (['normal', 'tumour'], {'0': 'normal', '1': 'tumour'})
    """
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",")]
    if all(equals for _, equals, _ in parts):
        return {label.strip(): name.strip() for label, _, name in parts}
    return [part.strip() for part in text.split(",")]
