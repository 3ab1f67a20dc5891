"""The five pictures of the covariance test, drawn from the arrays of `CovariancePictures`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..covariance import CovariancePictures
from ..files import atomic_path
from ..results import CovarianceResult
from .covariance import (
    SHOWN,
    energies,
    input_caption,
    lifted_caption,
    lifting_caption,
    responses_caption,
    sheet_caption,
)
from .pictures import element_names
from .svg import INK, PAPER, RC, Plot, drawn, finish, look
from .tables import Table, grid
from .words import error, number

LABELS = 16  # elements that are named on an axis
LARGEST = 1.0  # inches of a tile
FINE = 240  # pixels of a side of an enlarged sheet, at least


@dataclass(frozen=True)
class Picture:
    """One figure, its inline SVG with words and numbers, and the name of its file."""

    name: str
    plot: Plot
    figure: Figure


def draw(result: CovarianceResult, arrays: CovariancePictures) -> list[Picture]:
    """All five, in the order of the study."""
    return [make(result, arrays) for make in (_input, _lifting_kernels, _sheet, _lifted, _responses)]


def save(picture: Picture, folder: Path) -> Path:
    """The PNG: black on white, for papers and slides."""
    path = folder / f"{picture.name}.png"
    with atomic_path(path) as temporary, rc_context(RC):
        picture.figure.savefig(temporary, dpi=150, facecolor=PAPER)
    return path


def _grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return colormaps["gray"]((values - low) / (high - low if high > low else 1.0))


def _signed(values: np.ndarray, limit: float) -> np.ndarray:
    """Red is positive, blue negative, white zero."""
    return colormaps["RdBu_r"](0.5 + values / (2 * limit if limit > 0 else 1.0))


def _show(ax: Axes, colours: np.ndarray) -> None:
    """Tiles (rows, columns, h, w, 4) with gaps of a pixel, enlarged without smoothing; one unit a tile and its gap."""
    rows, columns, h, w, _ = colours.shape
    tiles = np.zeros((rows, columns, h + 1, w + 1, 4))
    tiles[:, :, :h, :w] = colours
    sheet = (255 * tiles.transpose(0, 2, 1, 3, 4).reshape(rows * (h + 1), columns * (w + 1), 4)).round()
    times = max(1, -(-FINE // min(sheet.shape[:2])))
    enlarged = sheet[:-1, :-1].astype(np.uint8).repeat(times, 0).repeat(times, 1)
    ax.imshow(enlarged, interpolation="none", extent=(0, columns - 1 / (w + 1), rows - 1 / (h + 1), 0))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])


def _sized(rows: int, columns: int, left: float = 0.0) -> tuple[Figure, Axes]:
    """A figure as wide as a column of the page and as high as its square tiles; left: inches for the names of rows."""
    tile = min((5 - left) / columns, 4.5 / rows, LARGEST)
    figure = Figure(figsize=(5, 0.6 + rows * tile), layout="constrained")
    return figure, figure.add_subplot()


def _name_columns(ax: Axes, names: list[str], size: float) -> None:
    """size: pixels of a tile, whose gap its name leaves out; infinite where there is none."""
    step = -(-len(names) // LABELS)
    places = range(0, len(names), step)
    ax.set_xticks([i + _middle(size) for i in places], [names[i] for i in places], fontsize=9)
    if len(names) > 8 or any(" " in name for name in names):
        ax.tick_params(axis="x", rotation=90)


def _name_rows(ax: Axes, names: list[str], size: float) -> None:
    step = -(-len(names) // LABELS)
    places = range(0, len(names), step)
    ax.set_yticks([i + _middle(size) for i in places], [names[i] for i in places], fontsize=9)


def _middle(size: float) -> float:
    return 0.5 * size / (size + 1)


def _names(arrays: CovariancePictures) -> list[str]:
    return element_names(arrays.group, len(arrays.sheet))


@drawn
def _input(result: CovarianceResult, arrays: CovariancePictures) -> Picture:
    channels = min(result.channels, SHOWN)
    figure = Figure(figsize=(5, len(arrays.inputs) * min(4.3 / channels, 1.5)), layout="constrained")
    rows = figure.subplots(len(arrays.inputs), 1, squeeze=False)[:, 0]
    for ax, (name, values) in zip(rows, arrays.inputs, strict=True):
        partners = [v for other, v in arrays.inputs if other.split(",")[0] == name.split(",")[0]]
        low, high = min(v.min() for v in partners), max(v.max() for v in partners)
        _show(ax, _grey(values[None, :channels], float(low), float(high)))
        ax.set_anchor("W")
        ax.set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=9)
    table = grid(
        "Values of the pictures",
        ("picture", "smallest", "mean", "largest"),
        [(name, *(number(float(f(values))) for f in (np.min, np.mean, np.max))) for name, values in arrays.inputs],
    )
    return Picture("1-input", finish(figure, "1. The input and its turned copy", input_caption(result), table), figure)


@drawn
def _lifting_kernels(result: CovarianceResult, arrays: CovariancePictures) -> Picture:
    kernels = arrays.lifting_kernels[:SHOWN]
    features, order, k, _ = kernels.shape
    figure, ax = _sized(features, order)
    _show(ax, _signed(kernels, np.abs(kernels).max()))
    _name_columns(ax, _names(arrays), k)
    plot = finish(figure, "2. The turned lifting kernels", lifting_caption(result), energies(result))
    return Picture("2-lifting-kernels", plot, figure)


@drawn
def _sheet(result: CovarianceResult, arrays: CovariancePictures) -> Picture:
    k, names = arrays.sheet.shape[-1], _names(arrays)
    figure, ax = _sized(len(names), len(names), left=0.6)
    _show(ax, _signed(arrays.sheet, np.abs(arrays.sheet).max()))
    _name_columns(ax, names, k)
    _name_rows(ax, names, k)
    ax.set_xlabel("slice h")
    ax.set_ylabel("turned by g")
    norms = np.linalg.norm(arrays.sheet, axis=(2, 3))
    rows = [(name, *(number(float(v)) for v in row)) for name, row in zip(names, norms, strict=True)]
    table = Table(
        "Norm of every kernel of the sheet (rows: turned by; columns: slice)", ("turned by", *names), tuple(rows)
    )
    plot = finish(figure, "3. The turned group convolution kernels", sheet_caption(result), table)
    return Picture("3-group-kernels", plot, figure)


@drawn
def _lifted(result: CovarianceResult, arrays: CovariancePictures) -> Picture:
    h, names = arrays.lifted.shape[-1], _names(arrays)
    order = len(names)
    maps, rest = arrays.lifted[:3], arrays.lifted[3:]
    low, high = float(maps.min()), float(maps.max())
    figure, ax = _sized(4, order, left=0.6)
    _show(ax, np.concatenate([_grey(maps, low, high), _signed(rest, high - low)]))
    _name_columns(ax, names, h)
    _name_rows(ax, ["x", "g x", "undone", "rest"], h)
    rows = [
        (name, *(number(float(np.abs(v).max())) for v in column[:3]), error(float(np.abs(column[3]).max())))
        for name, column in zip(names, arrays.lifted.swapaxes(0, 1), strict=True)
    ]
    table = grid("Largest values of the lifted maps", ("element", "x", "g x", "undone", "rest"), rows)
    plot = finish(figure, "4. The lifted maps of both inputs", lifted_caption(result), table)
    return Picture("4-lifted-maps", plot, figure)


@drawn
def _responses(result: CovarianceResult, arrays: CovariancePictures) -> Picture:
    sides = [(_title(result), arrays.responses, arrays.response_difference)]
    if arrays.control_responses is not None:
        sides.append(("plain CNN (control)", arrays.control_responses, arrays.control_response_difference))
    names = _names(arrays)
    figure = Figure(figsize=(5, 0.7 + 2.1 * len(sides)), layout="constrained")
    for ax, (title, values, difference) in zip(figure.subplots(len(sides), 1, squeeze=False)[:, 0], sides, strict=True):
        places = range(len(names))
        ax.plot(places, values[0], color=look(0).color, marker="o", linewidth=1.4)
        ax.plot(places, values[1], color=look(1).color, marker="s", markersize=4, linestyle=look(1).line, linewidth=1.1)
        ax.plot(places, values[2], color=INK, marker="o", markerfacecolor="none", markersize=10, linestyle="")
        _name_columns(ax, names, 0)
        ax.margins(y=0.12)  # the rings are not cut off
        ax.set_title(f"{title}: off by {error(difference)}", fontsize=10, loc="left")
        ax.grid()
    handles = [
        Line2D([], [], color=look(0).color, marker="o", label="x"),
        Line2D([], [], color=look(1).color, marker="s", linestyle=look(1).line, markersize=4, label="g x"),
        Line2D(
            [], [], color=INK, marker="o", markerfacecolor="none", markersize=10, linestyle="", label="g x, rolled back"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    beside = len(sides) > 1
    columns = ["x", "g x", "rolled back", *(["control x", "control g x", "control rolled back"] if beside else [])]
    stacked = np.vstack([values for _, values, _ in sides])
    rows = [(name, *(number(float(v)) for v in row)) for name, row in zip(names, stacked.T, strict=True)]
    table = grid("Responses at the centre pixel", ("element", *columns), rows)
    plot = finish(figure, "5. The responses at the centre", responses_caption(result), table)
    return Picture("5-responses", plot, figure)


def _title(result: CovarianceResult) -> str:
    return result.label if len(result.label) <= 40 else f"{result.label[:39]}…"
