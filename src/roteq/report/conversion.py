"""What a conversion did, in words and tables for the terminal."""

import re
from collections import Counter
from collections.abc import Iterable

from ..results import Conversion
from .tables import Table
from .words import NONE, error, human, number, plural

FEW = 4  # names in a sentence
EQUAL = 1e-8  # rounding of a deep network in float64


def headline(result: Conversion) -> str:
    """One sentence: whether it is verified, and how exactly."""
    worst = max((e for e in result.errors.values() if e is not None), default=None)
    if result.broken:
        where = f"at most {error(worst)}" if worst is not None else "an output that does not vary"
        return f"Not equivariant: {plural(len(result.broken), 'operation')} broke {result.group} and stayed ({where})."
    if not result.errors:
        return f"Not verified: no element of {result.group} but the identity maps the pixel grid to itself."
    if None in result.errors.values():
        return "Not verified: the output does not vary between pictures."
    if not result.exact:
        return f"Not equivariant to rounding: the error is {error(worst)}."
    return f"Verified: equivariant to rounding (error at most {error(worst)}) for {_elements(result)}."


def _elements(result: Conversion) -> str:
    exact, interpolated = len(result.errors) + 1, _order(result.group) - len(result.errors) - 1
    if not interpolated:
        return f"all {exact} elements of {result.group}"
    return f"the {exact} exact elements of {result.group}; the other {interpolated} are interpolated"


def _order(group: str) -> int:
    """
    >>> _order("C12"), _order("D4")
    (12, 8)
    """
    return int(group[1:]) * (2 if group[0] == "D" else 1)


def kind(layer: str) -> str:
    """The class of a layer, or those of a sequence.

    >>> kind("Conv2d(3, 6, kernel_size=(3, 3))"), kind("Sequential( (0): MeanOverGroup(|G|=8) (1): Linear(a=1) )")
    ('Conv2d', 'MeanOverGroup + Linear')
    """
    name, _, inside = layer.partition("(")
    parts = re.findall(r"\(\d+\): (\w+)", inside) if name == "Sequential" else []
    return " + ".join(parts) or name


def layers(result: Conversion) -> Table:
    """One row for each kind of layer and what it became."""
    kinds = [(kind(layer.before), kind(layer.after)) for layer in result.layers]
    rows = []
    for pair, count in Counter(kinds).items():
        of_kind = [layer for layer, other in zip(result.layers, kinds, strict=True) if other == pair]
        steps = sum(layer.path in result.asymmetric for layer in of_kind)
        worst = max((layer.error for layer in of_kind if layer.error is not None), default=None)
        rows.append((*pair, str(count), str(steps) if steps else NONE, error(worst)))
    columns = ("layer", "became", "number", "steps mended", "error")
    return Table(f"{result.model}: its twin over {result.group}", columns, tuple(rows))


def costs(result: Conversion) -> Table:
    """What the twin has and costs beside the original."""
    pairs = {
        "parameters": result.parameters,
        "FLOPs of one picture": result.flops,
        "channels of all convolutions": result.channels,
    }
    rows = []
    for name, (before, after) in pairs.items():
        ratio = NONE if not before or after is None else f"{number(after / before, 2)}"
        rows.append((name, human(before), human(after), ratio))
    return Table("", ("", "original", "twin", "ratio"), tuple(rows))


def facts(result: Conversion) -> dict[str, str]:
    """The rest, by name; what there is nothing to say about is left out."""
    said = {
        "error by element": "; ".join(f"{name} {error(value)}" for name, value in result.errors.items()),
        "width": f"{result.width}: {result.factor:.3g} features for each channel of the original",
        "weights": _weights(result),
        "steps": _steps(result),
        "rewritten": _names(result.rewritten),
        "unused": f"{_names(result.unused)}: not reached, and as they were" if result.unused else "",
    }
    return {name: value for name, value in said.items() if value}


def _weights(result: Conversion) -> str:
    if not result.kept_weights:
        return "drawn anew, in the original's proportions; --width features keeps them"
    if result.difference is None:
        return "kept"
    off = f"off by {error(result.difference)}" if result.difference >= EQUAL else "equal"
    return f"kept; against the average of the original over {result.group} the twin is {off}"


def _steps(result: Conversion) -> str:
    if not result.asymmetric:
        return "none to mend: all were symmetric at this size"
    turned = any("turned" in x.after.lower() for x in result.layers if x.path in result.asymmetric)
    text = f"{plural(len(result.asymmetric), 'step')} left pixels over on one side ({_names(result.asymmetric)}). "
    size = result.symmetric_size
    where = f"at {size[0]}x{size[1]} pixels" if size else "at a size where nothing is left over (none is near)"
    if turned:
        text += "Each orientation now takes them from its own corner: the average of the original stays exact, on maps "
        return text + f"that lie a part of a step apart; they coincide {where}"
    text += "Each now works on the mean of neighbours, and is symmetric"
    if not result.kept_weights:
        return text
    return f"{text}. Kept weights learnt the original's steps: the twin is its average exactly only {where}"


def _names(names: Iterable[str]) -> str:
    """
    >>> _names(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    found = [name or "the network" for name in names]
    shown = found[:FEW] if len(found) > FEW + 1 else found
    return ", ".join(shown) + (f" and {len(found) - FEW} more" if len(shown) < len(found) else "")


def broken(result: Conversion) -> list[str]:
    """One sentence for each operation that is not equivariant and stayed."""
    return [f"{where}: {reason.partition('. strict=False')[0]}" for where, reason in result.broken.items()]
