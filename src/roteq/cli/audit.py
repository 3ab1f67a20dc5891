"""How any model behaves when the picture is turned."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RoteqError, UsageError
from .app import Json, busy, command, show, show_findings, show_json
from .runs import data_of, write_csv


@command("roteq audit timm:resnet50 images/ --max-flip-rate 0.01 --report out.html")
def audit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... IMAGES [KEY=VALUE...]",
            help="MODEL: a run of roteq, timm:NAME, torchvision:NAME, hf:NAME, a .pt2, .onnx or TorchScript file, "
            "package.module:FUNCTION, FILE.py:FUNCTION. IMAGES: a folder, class folders, a CSV, a prepared dataset, "
            "hf:NAME. Settings: angles=24 or [15,45], images=500 (0: all), mirrors=true, corners=disc "
            "(mirror, edge, black), interpolation=spline (bicubic, bilinear), bootstrap, confidence, seed.",
        ),
    ],
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="A table of images and their labels.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="A,B,...", help="Names of the outputs, in their order.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option("--label-column", help="Of a Hugging Face dataset (default: its class labels).")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="The part of prepared data to use (test).")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="H[,W]", help="Of the model's input.")] = None,
    resize: Annotated[
        int | None,
        typer.Option("--resize", min=0, help="Shorter side of a picture before its centre is cut; 0: as stored."),
    ] = None,
    normalize: Annotated[
        str | None, typer.Option("--normalize", help="raw (0..255), unit (0..1), imagenet, or MEAN/STD.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="What answers are: classes, labels (independent), embedding or map.")
    ] = None,
    output_key: Annotated[
        str | None, typer.Option("--output-key", help="Which of several outputs: a name or a number.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="Trained weights.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Download trained weights.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Download a Hugging Face dataset.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Run code that is in files: FILE.py, pickles.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 (default: a GPU if any).")] = None,
    max_flip_rate: Annotated[
        float | None,
        typer.Option("--max-flip-rate", min=0, max=1, help="Exit with 1 if more images change their decision."),
    ] = None,
    min_worst_accuracy: Annotated[
        float | None,
        typer.Option("--min-worst-accuracy", min=0, max=1, help="Exit with 1 if fewer images are right at every turn."),
    ] = None,
    max_error: Annotated[
        float | None, typer.Option("--max-error", min=0, help="Exit with 1 past this equivariance error.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page to look at.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every turn's numbers.")] = None,
    json: Json = False,
) -> None:
    """What turning the pictures does to any model."""
    models, images, overrides = _arguments(arguments)
    _check_targets(report=report, csv=csv)
    with busy("reading"), _as_options(), _guests():
        from ..auditing import AuditConfig, audit_subjects, broken_limits
        from ..auditing.loading import load_subject
        from ..config import load_config

        config = load_config(AuditConfig, overrides=overrides)
        if images is None:
            images = data_of(Path(models[0]))
        about: dict[str, Any] = {
            "weights": weights,
            "pretrained": pretrained,
            "trust": trust,
            "device": _device(device),
        }
        about |= {
            "size": _size(size),
            "resize": resize,
            "normalize": normalize,
            "kind": output,
            "output_key": output_key,
        }
        about["classes"] = _classes(classes)
        names = short_names(models)
        subjects = [replace(load_subject(model, **about), name=name) for model, name in zip(models, names, strict=True)]
    with _as_options(), _guests():
        where: dict[str, Any] = {"labels": labels, "split": split, "label_column": label_column, "download": download}
        found = audit_subjects(subjects, images, config, progress=not json, **where)
        limits = {"max_flip_rate": max_flip_rate, "min_worst_accuracy": min_worst_accuracy, "max_error": max_error}
        broken = [sentence for result in found.audits for sentence in broken_limits(result, **limits)]
    if report:
        from ..report.audit import write_audit_report

        write_audit_report(found, report)
    if csv:
        from ..report.audit import csv_rows

        write_csv(csv_rows(found), csv)
    for result in found.audits:
        show_findings(result.findings)
    if json:
        show_json(without_pictures(found))
    else:
        from ..report.text import audit_report

        show(audit_report(found))
        for path in filter(None, (report, csv)):
            typer.echo(f"Written: {path}")
    if any(finding.level == "stop" for result in found.audits for finding in result.findings) or broken:
        for sentence in broken:
            typer.echo(f"Failed: {sentence}", err=True)
        raise typer.Exit(1)


def _arguments(given: list[str]) -> tuple[list[str], str | None, list[str]]:
    """Models, images (None: those of the run), settings.

    >>> _arguments(["a.pt2", "b.pt2", "images", "angles=4"])
    (['a.pt2', 'b.pt2'], 'images', ['angles=4'])
    >>> _arguments(["runs/one"])
    (['runs/one'], None, [])
    """
    overrides = [word for word in given if re.fullmatch(r"[\w.]*=.*", word) and not Path(word).exists()]
    places = [word for word in given if word not in overrides]
    if not places:
        raise UsageError("expected MODEL and IMAGES: roteq audit MODEL IMAGES")
    if len(places) == 1:
        if ":" in places[0] or Path(places[0]).suffix not in ("", ".ckpt"):
            raise UsageError(f"IMAGES: expected a folder, a table or a dataset after {places[0]}")
        return places, None, overrides
    return places[:-1], places[-1], overrides


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


def _classes(text: str | None) -> tuple[str, ...] | None:
    """
    >>> _classes("normal, tumour")
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


def _check_targets(**given: Path | None) -> None:
    """What is written at the end must be a place for a file, and that is said at the beginning."""
    paths = {option: path for option, path in given.items() if path is not None}
    for option, path in paths.items():
        parent = next(folder for folder in path.absolute().parents if os.path.exists(folder))
        if path.name == "" or (os.path.exists(path) and not os.path.isfile(path)):
            raise UsageError(f"--{option}: expected the path of a file, got {str(path)!r}")
        if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
            raise RoteqError(f"--{option}: {path}: no file can be written into {parent}")
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise UsageError(f"--{' and --'.join(paths)}: expected different files, got {next(iter(paths.values()))} twice")


@contextmanager
def _guests() -> Iterator[None]:
    """The code of others runs in here: what it prints is no result, and where it ends the program nothing passed."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as ended:
        raise RoteqError(f"the code of the model ended the program (exit code {ended.code}); take that out") from None


def without_pictures(found: Any) -> Any:
    """The result without the examples' pixels, which belong into the page."""
    audits = []
    for result in found.audits:
        examples = (replace(e, looks=tuple(replace(look, png="") for look in e.looks)) for e in result.examples)
        audits.append(replace(result, examples=tuple(examples)))
    return replace(found, audits=tuple(audits))


@contextmanager
def _as_options() -> Iterator[None]:
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
