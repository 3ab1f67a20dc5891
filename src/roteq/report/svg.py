"""From a matplotlib figure to an SVG that lives inside a page: text stays text, colours follow the page's scheme, no
ids that could clash, the same bytes for the same results.

Matplotlib knows no `currentColor`, so the ink is drawn in a near-black and the paper in a near-white that nothing
else uses, and both are exchanged in the SVG; saved as PNG the same figure is simply black on white.
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .tables import Table

P = ParamSpec("P")
T = TypeVar("T")

INK, PAPER = "#010203", "#fffefd"
SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"

RC: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.formatter.use_mathtext": False,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "font.family": ["DejaVu Sans"],  # wider than most system fonts: what fits in it fits in the page's
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$a_b$"
    "xtick.color": INK,
    "xtick.major.size": 3,
    "xtick.major.width": 0.6,
    "ytick.color": INK,
    "ytick.major.size": 3,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Look:
    """How a model is drawn: told apart by colour, by marker and by line style."""

    color: str
    marker: str
    line: Any


# Okabe and Ito's order, darkened where needed: every colour has a contrast above 3 on white and on #14171b.
LOOKS = (
    Look("#0072b2", "o", "-"),
    Look("#d55e00", "s", (0, (5, 1.5))),
    Look("#009371", "^", (0, (1.2, 1.2))),
    Look("#b868a0", "D", (0, (6, 1.5, 1.2, 1.5))),
    Look("#a67c00", "v", (0, (3, 1.2))),
    Look("#3f8fc4", "P", (0, (8, 2))),
    Look("#c1443c", "X", (0, (4, 1.2, 1.2, 1.2, 1.2, 1.2))),
    Look("#7a7f87", "*", (0, (1.2, 3))),
)


def look(index: int) -> Look:
    return LOOKS[index % len(LOOKS)]


@dataclass(frozen=True)
class Plot:
    """One figure of the report: the picture, the words for those who do not see it, and its numbers."""

    title: str
    description: str
    svg: str
    table: Table


def drawn(function: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function under the report's matplotlib settings, whatever the user's own are."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with rc_context(RC):
            return function(*args, **kwargs)

    return inner


def canvas(width: float = 360, height: float = 270, **axes: Any) -> tuple[Figure, Axes]:
    """A figure of width x height points with one pair of axes."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot(**axes)


def visible(label: str) -> str:
    """Matplotlib leaves labels that start with an underscore out of a legend."""
    return f"\u200b{label}" if label.startswith("_") else label


def finish(figure: Figure, title: str, description: str, table: Table) -> Plot:
    return Plot(title, description, to_svg(figure, title, description), table)


def to_svg(figure: Figure, title: str, description: str) -> str:
    """Inline SVG without prologue, ids (but those it refers to itself), metadata and style sheet."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the fonts that matplotlib lacks
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "}style")):
                parent.remove(child)
    used = set(re.findall(r'#([\w.-]+)["\')]', buffer.getvalue()))
    for node in root.iter():
        _clean(node, used)
    width, height = (root.attrib.pop(key).removesuffix("pt") for key in ("width", "height"))
    root.set("viewBox", f"0 0 {width} {height}")
    root.set("role", "img")
    root.set("aria-label", f"{title}. {description}")
    text = ElementTree.tostring(root, encoding="unicode")
    for i, style in enumerate(LOOKS):
        text = text.replace(style.color, f"var(--c{i}, {style.color})")
    return text.replace(INK, "currentColor").replace(PAPER, "var(--paper, #fff)")


def _clean(node: ElementTree.Element, used: set[str]) -> None:
    if node.get("id") not in used:
        node.attrib.pop("id", None)
    if XLINK in node.attrib:
        node.set("href", node.attrib.pop(XLINK).replace("\n", ""))
    for key in ("d", "x", "y"):
        if key in node.attrib:
            node.set(key, re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}", node.attrib[key]).replace(" \n", " "))
    if "style" in node.attrib:
        node.set("style", re.sub(r"font-family:[^;]*", "font-family: system-ui, sans-serif", node.attrib["style"]))
        if "font:" in node.attrib["style"]:
            node.set("style", re.sub(r"'DejaVu Sans'[^;]*", "system-ui, sans-serif", node.attrib["style"]))
    node.text, node.tail = (t if t and t.strip() else None for t in (node.text, node.tail))
