"""The covariance test: five pictures of two layers, and what they show in numbers."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError, nearest
from .app import Json, busy, command, fail_on_stop, show, show_findings, show_json
from .runs import checkpoint_of


@command("roteq covariance --group C12")
def covariance(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Folder of a run, or a checkpoint; else fresh layers.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Any C<N> or D<N> of up to 64 elements (default C8).")] = None,
    kernel_size: Annotated[int | None, typer.Option(min=1, max=21, help="Side of the kernels (default 5).")] = None,
    basis: Annotated[
        str | None, typer.Option(help="pixel, disc or harmonic (default: that of the group's layers).")
    ] = None,
    features: Annotated[
        tuple[int, int] | None, typer.Option(help="Lifted features, and those after (default 3 5).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the pictures.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the page and the pictures.")] = Path(
        "covariance"
    ),
    json: Json = False,
) -> None:
    """Do the maps turn with the picture? Pictures and numbers."""
    fresh = {"group": group, "kernel_size": kernel_size, "basis": basis, "features": features}
    given = {name: value for name, value in fresh.items() if value is not None}
    with busy("turning kernels and pictures"):
        from ..covariance import measure, picture
        from ..report.covariance import write_covariance

        layers = _untrained(given, seed) if run is None else _trained(run, given)
        result = measure(layers, seed=seed)
        write_covariance(result, picture(layers, seed=seed), out)
    show_findings(result.findings)
    if json:
        show_json(result)
    else:
        from ..report.text import covariance_table

        show(covariance_table(result, out))
    fail_on_stop(result.findings)


def _untrained(given: dict[str, Any], seed: int) -> Any:
    from ..covariance import untrained
    from ..covariance.measuring import BASES

    if given.get("basis", "pixel") not in BASES:
        raise UsageError(f"--basis: unknown basis {given['basis']!r}; {nearest(given['basis'], BASES)}")
    if min(given.get("features", (1, 1))) < 1:
        raise UsageError(f"--features: expected at least 1 and 1, got {' '.join(map(str, given['features']))}")
    try:
        return untrained(**given, seed=seed)
    except UsageError as error:
        raise UsageError(_as_option(error)) from None


def _trained(run: Path, given: dict[str, Any]) -> Any:
    from ..covariance import layers_of
    from ..inference import load_classifier

    own = [name for name in given if name != "group"]
    if own:
        option = own[0].replace("_", "-")
        raise UsageError(f"--{option}: the network of {run} has its own; leave it out")
    classifier = load_classifier(checkpoint_of(run))
    try:
        return layers_of(classifier.network, classifier.model_config.label, given.get("group"))
    except UsageError as error:
        raise UsageError(_as_option(error)) from None


def _as_option(error: UsageError) -> str:
    """A message that begins with the name of an argument begins with that of the option.

    >>> _as_option(UsageError("kernel_size: expected one whole number"))
    '--kernel-size: expected one whole number'
    """
    return re.sub("^(group|basis|kernel_size)", lambda found: f"--{found[0].replace('_', '-')}", str(error))
