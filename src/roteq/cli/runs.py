"""The parts of an investigation, alone: train, evaluate, predict."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RoteqError, UsageError, nearest
from .app import (
    DRY_RUN_WORKS,
    DryRun,
    Json,
    MaxTime,
    Overrides,
    RunPath,
    Split,
    command,
    fail_on_stop,
    show,
    show_findings,
    show_json,
)


@command("roteq train se2cnn data/tissue runs/one model.group=C8 train.epochs=10", continues=True)
def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that `roteq models` lists.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A prepared dataset.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for this run.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    max_time: MaxTime = None,
    json: Json = False,
) -> None:
    """Train one network once."""
    from ..training import fit

    limit = [f"train.max_time={max_time!r}"] if max_time else []
    model_config, train_config = training_configs(model, [*(overrides or []), *limit])
    result = fit(model_config, data, train_config, out, progress=not json, dry_run=dry_run)
    show_findings(result.findings)
    if json:
        show_json(result)
    elif dry_run:
        typer.echo(DRY_RUN_WORKS)
    else:
        typer.echo(f"{result.epochs} epochs in {result.seconds:.0f} s, best epoch {result.best_epoch}: {out}/best.ckpt")
    fail_on_stop(result.findings)


def training_configs(model: str, overrides: list[str]) -> tuple[Any, Any]:
    """ModelConfig and TrainConfig of `roteq train`: overrides have the keys of a study, model.* and train.*."""
    from ..config import apply_override, validate
    from ..models import ModelConfig
    from ..training import TrainConfig

    tree: dict[str, Any] = {"model": {"name": model}, "train": {}}
    for override in overrides:
        apply_override(tree, override)
    for key in tree:
        if key not in ("model", "train"):
            raise UsageError(f"override: unknown key {key!r}; {nearest(key, ('model', 'train'))}")
    return validate(ModelConfig, tree["model"], "model"), validate(TrainConfig, tree["train"], "train")


@command("roteq evaluate runs/one --split test")
def evaluate(
    run: RunPath,
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Prepared data; else that of the run.")] = None,
    split: Split = "test",
    boundary: Annotated[
        str | None, typer.Option("--boundary", metavar="CLASS", help="Masks: the class of membranes, for V-Rand.")
    ] = None,
    radius: Annotated[
        float, typer.Option("--radius", metavar="PIXELS", help="Masks: how near an answer finds a centre.")
    ] = 6.0,
    json: Json = False,
) -> None:
    """The numbers of one run on labelled images."""
    from ..data import open_split
    from ..inference import load_classifier, predict
    from ..metrics import check_constant
    from ..metrics import evaluate as evaluate_predictions

    classifier = load_classifier(checkpoint_of(run))
    if classifier.dense:
        result, findings = evaluated_maps(classifier, data or data_of(run), split, boundary, radius, progress=not json)
    else:
        images = open_split(data or data_of(run), split, channels=classifier.channels)
        check_classes(images.classes, classifier.classes)
        found = predict(classifier, images, progress=not json)
        result = evaluate_predictions(found.labels, found.probabilities, found.classes, groups=found.groups)
        constant = check_constant(found.labels, found.predicted, found.classes)
        findings = (*found.findings, *([constant] if constant else []))
    show_findings(findings)
    if json:
        show_json(result)
    else:
        from ..report.text import evaluation_table

        show(evaluation_table(result))
    fail_on_stop(findings)


def evaluated_maps(
    segmenter: Any, data: str | Path, split: str, boundary: str | None, radius: float, progress: bool
) -> tuple[Any, tuple[Any, ...]]:
    """The evaluation of a dense network, and what its guards found."""
    from ..config import validate
    from ..data.masks import open_masks
    from ..metrics.maps import check_constant_maps, evaluate_maps
    from ..study.config import MapConfig
    from ..study.maps import count_all

    images = open_masks(data, split, channels=segmenter.channels)
    check_classes(images.classes, segmenter.classes)
    maps = validate(MapConfig, {"boundary": boundary, "radius": radius}, where="evaluate")
    counts = count_all(segmenter, images, maps, progress)
    constant = check_constant_maps(counts, images.classes)
    return evaluate_maps(counts, images.classes, groups=images.groups), (constant,) if constant else ()


@command("roteq predict runs/one slides/patches --csv answers.csv")
def predict(
    run: RunPath,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="One image, or a folder of images.")],
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the answers to a CSV file.")] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", metavar="FOLDER", help="Where a dense network writes its maps.")
    ] = None,
    json: Json = False,
) -> None:
    """Class and score of images; the maps of a dense network."""
    from ..data import open_folder
    from ..inference import load_classifier
    from ..inference import predict as answer

    classifier = load_classifier(checkpoint_of(run))
    if classifier.dense != (maps is not None):
        raise UsageError(
            f"--maps: {run} is a dense network; name a folder for its maps"
            if classifier.dense
            else f"--maps: {run} answers with one class a picture, not with maps; leave it out"
        )
    if maps is not None:
        from ..inference.files import map_files
        from ..training import Segmenter

        assert isinstance(classifier, Segmenter)

        rows = map_files(classifier, images, maps, progress=not json)
        if csv:
            write_csv(rows, csv)
        return show_json(rows) if json else typer.echo(f"maps of {len(rows)} images: {maps}")
    pictures = open_folder(images, channels=classifier.channels, crop=classifier.crop)
    found = answer(classifier, pictures, progress=not json)
    rows = [
        {"image": name, "class": found.classes[row.argmax()], "score": float(row.max())}
        | {f"p({label})": float(p) for label, p in zip(found.classes, row, strict=True)}
        for name, row in zip(found.ids, found.probabilities, strict=True)
    ]
    show_findings(found.findings)
    if csv:
        write_csv(rows, csv)
        typer.echo(f"{len(rows)} answers: {csv}", err=json)
    if json:
        return show_json(rows)
    if csv:
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "score", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(Text(row["image"]), Text(row["class"]), f"{row['score']:.3f}")
    show(table)


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    import csv

    from ..files import atomic_path

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["image", "class", "score"])
        writer.writeheader()
        writer.writerows(rows)


def checkpoint_of(run: Path) -> Path:
    """The best weights of a run folder; a file is taken as it is."""
    if not run.is_dir():
        return run
    path = run / "best.ckpt"
    if path.exists():
        return path
    runs = sorted(best.parent.name for best in run.glob("*/best.ckpt"))
    hint = f"; name one of its runs: {', '.join(runs)}" if runs else ""
    raise RoteqError(f"{run}: expected the folder of a run, with best.ckpt in it{hint}")


def check_classes(found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """The labels of the images must mean what the answers of the network mean."""
    if tuple(found) != tuple(expected):
        raise UsageError(f"DATA: expected the classes {', '.join(expected)} in this order, got {', '.join(found)}")


def data_of(run: Path) -> str:
    """The data that a run was trained on, from its config.yaml."""
    from ..config import load_config
    from ..training.run import RunConfig

    path = (run if run.is_dir() else run.parent) / "config.yaml"
    if not path.exists():
        raise UsageError(f"{run}: no config.yaml beside it, so name the data: roteq ... {run} DATA")
    return load_config(RunConfig, path).data
