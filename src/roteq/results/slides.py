"""What a network says about a whole slide."""

from dataclasses import dataclass, field
from typing import Any

from .common import Finding


@dataclass(frozen=True)
class FailedTile:
    """A place that could not be read, in pixels of level 0; the map does not know it."""

    y: int
    x: int
    height: int
    width: int
    reason: str


@dataclass(frozen=True)
class ClassArea:
    """The part of the slide in which a class has at least the threshold's probability. Areas in square millimetres."""

    name: str
    share: float | None  # of the tissue that has an answer; None: there is none
    area: float
    mean: float | None  # probability over that tissue
    regions: int  # connected ones


@dataclass(frozen=True)
class SlideResult:
    """<name>.json. A cell of the map is `downsample` pixels of level 0 wide; of two classes the map holds the last."""

    name: str
    slide: str
    size: tuple[int, int]  # height, width of level 0
    slide_mpp: float
    model: str
    classes: tuple[str, ...]  # of the network
    level: int  # of the slide, that was read
    mpp: float  # microns per pixel that the network saw
    stride: int  # of those pixels from cell to cell
    map_size: tuple[int, int]  # height, width in cells
    downsample: float
    threshold: float
    tissue: float  # share of the cells
    tissue_area: float
    unknown_area: float  # of tissue without an answer
    areas: tuple[ClassArea, ...]  # one for each class of the map
    tiles: int  # that touch tissue
    failed: tuple[FailedTile, ...]
    seconds: float  # of reading and answering, over all runs that it took
    tiles_per_second: float | None
    findings: tuple[Finding, ...]
    files: dict[str, str]  # what is drawn -> name of the file beside this one
    identity: dict[str, Any] = field(default_factory=dict)  # slide, model and settings that make this map


@dataclass(frozen=True)
class FailedSlide:
    """One without a map."""

    slide: str  # its path
    reason: str


@dataclass(frozen=True)
class FolderResult:
    """slides.json: the maps of many slides, in the order in which they were given, and the slides that have none."""

    slides: tuple[SlideResult, ...]
    failed: tuple[FailedSlide, ...]
    seconds: float  # of this run, from the first slide to the last
    findings: tuple[Finding, ...] = ()  # about the run, and what stops a slide; the others stand in its result
