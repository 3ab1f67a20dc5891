"""What the covariance test found, in words and tables, for the terminal and for covariance.html."""

from pathlib import Path

from ..covariance import CovariancePictures
from ..files import save_json, write_text
from ..results import CovarianceResult, MapError
from .html import render_page
from .tables import Table, mapping
from .words import NONE, error, number, plural

PARTS = {"lifting": "lifting", "convolution": "group convolution", "whole": "both"}
PLAIN_PARTS = {"lifting": "first layer", "convolution": "second layer", "whole": "both"}
PAGE = "covariance.html"
SHOWN = 5  # channels or features in a picture


def write_covariance(result: CovarianceResult, pictures: CovariancePictures, folder: str | Path) -> None:
    """Write covariance.html, covariance.json and the five pictures as PNG files, each whole or not at all.

    Raises: RoteqError if one cannot be written.
    """
    from .covariance_figures import draw, save

    folder = Path(folder)
    drawn = draw(result, pictures)
    for picture in drawn:
        save(picture, folder)
    save_json(result, folder / "covariance.json")
    page = render_page(
        PAGE,
        result=result,
        headline=headline(result),
        sentences=sentences(result),
        summary=summary(result),
        angles=angles(result),
        plots=[picture.plot for picture in drawn],
        elements=elements(result),
        energies=energies(result),
        facts=mapping("What was measured, and on what", ("what", "value"), facts(result)),
        shown=mapping(
            "What each picture shows; differences against the largest value", ("file", "number"), shown(result)
        ),
    )
    write_text(folder / PAGE, page)


def headline(result: CovarianceResult) -> str:
    """One sentence: the errors of both layers together, each kind of element by itself."""
    errors = result.errors
    if result.findings:
        return f"{result.label}: the test failed ({', '.join(dict.fromkeys(f.guard for f in result.findings))})."
    if not (errors.exact or errors.interpolated):
        return f"{result.group} has no element but the identity: nothing is promised, and nothing can fail."
    said = []
    for kind, ranges in (("exact", errors.exact), ("interpolated", errors.interpolated)):
        if ranges:
            whole = ranges["whole"]
            size = f"at most {error(whole.max)}" if result.promised else f"{error(whole.mean)} on average"
            said.append(f"{size} at {plural(whole.elements, f'{kind} element')}")
    if not result.promised:
        return (
            f"{result.label} is a plain CNN and promises nothing: its error is {' and '.join(said)} of {result.group}."
        )
    return f"{result.group}: the error is {' and '.join(said)}; that of a plain CNN {_control(result)}."


def _control(result: CovarianceResult) -> str:
    control = result.control
    found = [] if control is None else [r["whole"] for r in (control.exact, control.interpolated) if r]
    return " and ".join(error(r.mean) for r in found)


def sentences(result: CovarianceResult) -> list[str]:
    found = [
        "0 is equivariant; 1 means that turning a picture changes the maps as much as exchanging it. Exact and "
        "interpolated elements are never averaged together."
    ]
    if not result.promised:
        found.append(
            f"Its channels were read as if they were blocks of {result.group}. This is what the known-bad control of "
            "every equivariant network looks like."
        )
    if result.promised and len(result.energies) > 1:
        found.append(f"Turned lifting kernels have {energy_span(result)} of the energy that they have at the identity.")
    return found


def energy_span(result: CovarianceResult) -> str:
    """Of the lifting kernels, over all elements, against the identity."""
    shares = [e.lifting for e in result.energies if e.lifting is not None]
    if not shares:
        return NONE
    low, high = f"{100 * min(shares):.0f} %", f"{100 * max(shares):.0f} %"
    return low if low == high else f"{low} to {high}"


def parts(result: CovarianceResult) -> dict[str, str]:
    """What the layers are called."""
    return PARTS if result.promised else PLAIN_PARTS


def summary(result: CovarianceResult, brief: bool = False) -> Table:
    """Mean and maximum of each layer over each kind of element. `brief` keeps what fits into a terminal."""
    columns: tuple[str, ...] = ("layer", "elements", "mean", "max", "relative mean", "relative max")
    rows = []
    for kind in ("exact", "interpolated"):
        for part, found in getattr(result.errors, kind).items():
            row = [parts(result)[part], f"{found.elements} {kind}", error(found.mean), error(found.max)]
            row += [error(found.relative_mean), error(found.relative_max)][: 1 if brief else 2]
            if result.control is not None:
                other = getattr(result.control, kind)[part]
                row += [error(other.mean), error(other.max)]
            rows.append(tuple(row))
    control = ("control mean", "control max") if result.control is not None else ()
    caption = "Between-image error; relative error, as papers print it"
    caption += "; between-image error of a plain CNN" if result.control is not None else ""
    return Table(caption, columns[: 5 if brief else 6] + control, tuple(rows))


def elements(result: CovarianceResult) -> Table:
    """One row an element; of the control both layers together."""
    control = result.control
    rows = []
    for i, e in enumerate(result.errors.elements):
        between = [error(getattr(e, part).between_image_error) for part in PARTS]
        beside = [] if control is None else [error(control.elements[i].whole.between_image_error)]
        rows.append((e.name, "exact" if e.exact else "interpolated", *between, error(e.whole.relative_error), *beside))
    columns = (
        "element",
        "kind",
        *parts(result).values(),
        "both, relative",
        *(() if control is None else ("control, both",)),
    )
    return Table("Between-image error at every element", columns, tuple(rows))


def angles(result: CovarianceResult) -> Table:
    def both(found: MapError | None) -> tuple[str, str]:
        return (NONE, NONE) if found is None else (error(found.between_image_error), error(found.relative_error))

    rows = [
        (f"{a.angle:g}°", "yes" if a.in_group else "no", *both(a.error), *(both(a.control) if result.control else ()))
        for a in result.angles
    ]
    columns = ("turned by", "in the group", "error", "relative error")
    control = ("control error", "control relative") if result.control else ()
    return Table("Invariance of the maximum over the group, at the centre", columns + control, tuple(rows))


def energies(result: CovarianceResult) -> Table:
    rows = [
        (e.name, *(number(share) for share in (e.lifting, e.convolution, e.pixel, e.disc, e.harmonic)))
        for e in result.energies
    ]
    first, second, _ = parts(result).values()
    columns = ("element", first, second, "pixel", "disc", "harmonic")
    k = result.kernel_sizes[0]
    caption = f"Energy of turned kernels against the identity: of these layers; of white noise in each basis, {k} × {k}"
    return Table(caption, columns, tuple(rows))


def shown(result: CovarianceResult) -> dict[str, str]:
    """The file of each picture, and the number it shows."""
    turned = f"turned by {result.turn}"
    beside = f"; plain CNN {error(result.control_response_difference)}" if result.control else ""
    return {
        "1-input.png": f"the input and its copy, {turned}",
        "2-lifting-kernels.png": f"energy against the identity: {energy_span(result)}",
        "3-group-kernels.png": f"row g against row 0 turned by g: {error(result.sheet_difference)}",
        "4-lifted-maps.png": f"{turned} and undone: {error(result.lifted_difference)}",
        "5-responses.png": f"{turned} and rolled back: {error(result.response_difference)}{beside}",
    }


def facts(result: CovarianceResult) -> dict[str, str]:
    (first, second), (k1, k2) = result.features, result.kernel_sizes
    name1, name2 = result.layers
    lifted = plural(first, "feature")
    return {
        "network": result.label,
        "layers": f"{name1}: {plural(result.channels, 'channel')} to {lifted}, {k1} × {k1}; "
        f"{name2}: {lifted} to {plural(second, 'feature')}, {k2} × {k2}; at stride 1, without padding",
        "group": f"{result.group}, {plural(len(result.errors.elements), 'element')}",
        "measured on": result.method,
        "seed": str(result.seed),
    }


def input_caption(result: CovarianceResult) -> str:
    exact, between = (
        sum(e.exact is kind for e in result.errors.elements[first:]) for kind, first in ((True, 1), (False, 0))
    )
    text = f"The picture and its copy turned by {result.turn}"
    text += f"; the first {SHOWN} of {result.channels} channels. " if result.channels > SHOWN else ", every channel. "
    if exact:
        text += "Exact elements are measured on U(0, 1) noise, whose pixels they permute. "
    if between:
        text += "Interpolated elements are measured on pictures by a formula, sampled at the turned angle. "
    return (
        f"{text}{result.group} has {plural(exact, 'exact element')} beside the identity and {between} interpolated; "
        f"{plural(result.images, 'picture')} of each kind are measured."
    )


def lifting_caption(result: CovarianceResult) -> str:
    law = f"One row a feature, one column an element of {result.group}; first channel, one scale"
    law += ": a kernel that loses energy in turning pales" if result.promised else "; read as if one had been turned"
    return f"{law}. Energy of all of them: {energy_span(result)} of that at the identity."


def sheet_caption(result: CovarianceResult) -> str:
    law = "Row g is row 0 turned by g, every slice moved from column h to column g h"
    if not result.promised:
        law = f"The channels of a plain CNN, read as if they were blocks. {law}: that is broken here"
    found = error(result.sheet_difference)
    number = "there is no exact element" if result.sheet_difference is None else f"largest difference {found}"
    return f"The kernel from feature 1 to feature 1. {law}. Over the exact elements: {number} (of the largest value)."


def lifted_caption(result: CovarianceResult) -> str:
    shift = " and shifted back" if len(result.energies) > 1 else "; there is no shift to undo"
    where = "" if result.turn_exact else ", at the centre; elsewhere turning back is itself interpolated"
    return (
        f"Feature 1 of the picture x, of its copy g x turned by {result.turn}, of the copy turned back{shift}, and "
        f"what is left against x (white: nothing). Largest difference: {error(result.lifted_difference)} of the "
        f"largest value{where}."
    )


def responses_caption(result: CovarianceResult) -> str:
    beside = f"; of a plain CNN {error(result.control_response_difference)}" if result.control else ""
    return (
        f"Feature 1 after both layers at the centre pixel, for every element: of x, of g x turned by {result.turn}, "
        "and of g x rolled back by the inverse of g. Rings around the dots: the answer turns with the picture. "
        f"Largest difference: {error(result.response_difference)} of the largest value{beside}."
    )
