"""A map of a whole slide, or of every slide of a folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .app import Json, Overrides, RunPath, busy, command, fail_on_stop, show, show_findings, show_json


@command("roteq slide runs/one slides/case7.svs --out maps --threshold 0.7", continues=True)
def slide(
    model: RunPath,
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A slide, or a folder of slides.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the maps go.")] = Path("maps"),
    mpp: Annotated[float | None, typer.Option("--mpp", help="Microns per pixel of the training images.")] = None,
    slide_mpp: Annotated[float | None, typer.Option("--slide-mpp", help="Microns per pixel of the slide.")] = None,
    level: Annotated[int | None, typer.Option("--level", help="Of the slide (default: chosen by --mpp).")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Least probability of a region (0.5).")] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Slides of a folder at once.")] = 1,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="ADDRESS", help="A dask scheduler.")] = None,
    json: Json = False,
) -> None:
    """A network over whole slides: heat map, regions, page."""
    several = slide.is_dir() or cluster is not None
    if processes > 1 and not several:
        raise UsageError(f"--processes: expected a folder of slides, got {str(slide)!r}; one slide uses all cores")
    with busy("reading"):
        from ..config import load_config
        from ..slides import SlideConfig, map_slide, map_slides

        options = {"mpp": mpp, "slide_mpp": slide_mpp, "level": level, "threshold": threshold}
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        config = load_config(SlideConfig, overrides=[*(overrides or []), *given])
    found: Any
    if several:
        found = map_slides(model, slide, out, config, cluster=cluster, processes=processes, progress=not json)
    else:
        found = map_slide(model, slide, out, config, progress=not json)
    show_findings(found.findings)
    if json:
        show_json(found)
    else:
        show(_table(found.slides) if several else _facts(found, out))
    fail_on_stop(found.findings)


def _facts(found: Any, out: Path) -> Any:
    from ..report.text import facts as listing
    from ..slides.viewer import facts

    return listing(facts(found) | {what: str(out / name) for what, name in found.files.items()})


def _table(slides: Any) -> Any:
    """A row for each slide that has a map."""
    from rich.table import Table
    from rich.text import Text

    from ..report.words import percent
    from ..slides.viewer import area

    names = [found.name for found in slides[0].areas] if slides else []
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("slide", "tissue", *names, "not read"):
        table.add_column(Text(name))
    for found in slides:
        shares = (f"{area(of.area)}, {percent(of.share)}" for of in found.areas)
        table.add_row(Text(found.name), area(found.tissue_area), *shares, f"{len(found.failed)} of {found.tiles} tiles")
    return table
