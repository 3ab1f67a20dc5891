"""Numbers as people read them. None, a number that does not exist, is a dash everywhere."""

from collections.abc import Iterable

from ..results import Interval, Spread

NONE = "–"
SHORT = {  # the word for each metric, in the order in which tables show them
    "detection_f1": "detection F1",
    "detection_precision": "detection precision",
    "detection_recall": "detection recall",
    "detection_average_precision": "detection average precision",
    "v_rand": "V-Rand",
    "v_info": "V-Info",
    "dice": "Dice",
    "iou": "IoU",
    "auc": "AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "f1": "F1",
    "mcc": "MCC",
    "nll": "NLL",
    "ece": "ECE",
}


def number(value: float | None, digits: int = 3) -> str:
    """A fixed number of digits and a true minus sign; never "-0.000".

    >>> number(0.91239), number(-0.2, 2), number(-0.0001), number(None)
    ('0.912', '−0.20', '0.000', '–')
    """
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with the sign always shown; what rounds to zero has none.

    >>> signed(0.0321), signed(-0.004), signed(0.0)
    ('+0.032', '−0.004', '0.000')
    """
    text = number(value, digits)
    return text if value is None or value < 0 or float(text) == 0 else f"+{text}"


def interval(value: Interval, sign: bool = False) -> str:
    """The form of medical journals.

    >>> interval(Interval(0.912, 0.901, 0.923)), interval(Interval(0.032, 0.011, 0.054), sign=True)
    ('0.912 (0.901 to 0.923)', '+0.032 (+0.011 to +0.054)')
    """
    show = signed if sign else number
    if value.value is None or value.low is None or value.high is None:
        return show(value.value)
    return f"{show(value.value)} ({show(value.low)} to {show(value.high)})"


def spread(value: Spread | None) -> str:
    """
    >>> spread(Spread(0.912, 0.0041, 3)), spread(Spread(0.912, None, 1))
    ('0.912 ± 0.004', '0.912')
    """
    if value is None or value.mean is None:
        return NONE
    return number(value.mean) if value.std is None else f"{number(value.mean)} ± {number(value.std)}"


def percent(value: float | None) -> str:
    """
    >>> percent(0.0312), percent(0.0002), percent(0.0), percent(1.0)
    ('3.1 %', '<0.1 %', '0 %', '100 %')
    """
    if value is None:
        return NONE
    if 0 < value < 0.001:
        return "<0.1 %"
    return f"{100 * value:.0f} %" if value in (0, 1) else f"{100 * value:.1f} %"


def error(value: float | None) -> str:
    """An error that may be as small as rounding: three decimals, below that its order of magnitude.

    >>> error(0.31), error(2.1e-7), error(0.0)
    ('0.310', '2e-7', '0')
    """
    if value is None:
        return NONE
    if value == 0 or value >= 0.0005:
        return "0" if value == 0 else number(value)
    return f"{value:.0e}".replace("e-0", "e-")


def human(value: float | None) -> str:
    """Three digits and a unit; small whole numbers stay as they are.

    >>> human(50404), human(11_176_512), human(3.21e9), human(812)
    ('50.4 k', '11.2 M', '3.21 G', '812')
    """
    if value is None:
        return NONE
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """
    >>> duration(4.23), duration(192), duration(3840)
    ('4.2 s', '3 min 12 s', '1 h 04 min')
    """
    if seconds is None:
        return NONE
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def p_value(p: float | None) -> str:
    return number(p) if p is None or p >= 0.001 else "<0.001"


def listing(names: Iterable[object]) -> str:
    """
    >>> listing(["a", "b", "c"]), listing(["a"])
    ('a, b and c', 'a')
    """
    *front, last = [str(name) for name in names]
    return f"{', '.join(front)} and {last}" if front else last


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "seed"), plural(1500, "image")
    ('1 seed', '1,500 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
