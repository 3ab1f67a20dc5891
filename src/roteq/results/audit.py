"""What an audit finds out."""

from dataclasses import dataclass, field
from typing import Literal

from .common import Finding, Interval

Kind = Literal["classes", "labels", "embedding", "map"]


@dataclass(frozen=True)
class Turn:
    """The model's answers to the pictures turned in one way, against its answers to the upright ones.

    `floors` holds the same numbers, by the same names, for pictures that were turned by the angle and back: what
    resampling alone does. Exact turns have none: they move pixels. Of maps flip_rate is the share of pixels.
    """

    angle: float
    mirror: bool
    exact: bool  # maps the pixel grid to itself
    between_image_error: float | None  # ||f(gx) - f(x)|| / ||f(x) - f(x')||; None: degenerate
    relative_error: float | None  # ||f(gx) - f(x)|| / ||f(x)||, as papers print it
    floor: float | None  # of the between-image error
    flip_rate: Interval  # share of images whose decision changes
    accuracy: Interval
    divergence: float | None = None  # Jensen-Shannon divergence of the probabilities, nats, mean over the images
    auc: float | None = None  # mean over the classes, each against the rest
    ece: float | None = None
    recall: tuple[float | None, ...] = ()  # by class
    confusion: tuple[tuple[int, ...], ...] = ()  # rows: truth, columns: decision; empty for many classes
    cosine_distance: float | None = None  # of embeddings, mean over the images
    neighbours: float | None = None  # share of the 10 nearest images that upright and turned embeddings have in common
    alignment: float | None = None  # centred kernel alignment of upright and turned embeddings
    floors: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Decisions that turned from one class into another, counted over images and turns."""

    before: str
    after: str
    count: int


@dataclass(frozen=True)
class Orbit:
    """All turns of one kind together, each image with its upright answer."""

    turns: int  # the upright picture not counted
    upright_accuracy: Interval  # of the pictures these turns are compared with
    mean_accuracy: Interval  # over the orbit, the upright picture included
    worst_accuracy: Interval  # images that are right upright and at every turn
    flip_rate: Interval  # images whose decision changes at some turn
    floor_flip_rate: Interval  # the same after turning there and back; undefined for exact turns
    spread: Interval  # of the probability of the upright decision: largest minus smallest, mean over the images
    divergence: float | None
    floor_divergence: float | None
    stable_wrong: Interval  # images with one and the same wrong answer at every turn
    changes: tuple[Change, ...] = ()  # the most frequent first


@dataclass(frozen=True)
class ClassAudit:
    """One class: by label, or by upright decision where there are no labels."""

    name: str
    images: int
    accuracy: float | None
    worst_accuracy: float | None  # right at every exact turn
    exact_flip_rate: float | None  # at some exact turn
    interpolated_flip_rate: float | None  # at some other angle


@dataclass(frozen=True)
class Averaged:
    """The same model with its answers averaged over a group: what that would cost and give."""

    group: str
    passes: int  # forward passes an image
    accuracy: Interval
    auc: float | None
    ece: float | None
    interpolated_flip_rate: Interval  # at some other angle; its exact turns change nothing, by construction


@dataclass(frozen=True)
class LayerError:
    """One layer, mean over the exact elements but the identity. The errors are of maps that are turned back.

    representation "regular" or "trivial": the promised one, of a roteq layer. "linear": nothing is promised, and
    linear_error is what remains after the best linear map between the features of upright and turned pictures (Lenc
    and Vedaldi 2015), fitted on half of the images and measured on the others; errors are those of the untouched maps.
    """

    path: str
    kind: str  # class of the layer
    channels: int
    size: tuple[int, int]
    representation: Literal["regular", "trivial", "linear"]
    between_image_error: float | None
    relative_error: float | None
    linear_error: float | None = None  # between-image


@dataclass(frozen=True)
class LieError:
    """How fast the output changes when the picture begins to move (Gruver et al. 2022)."""

    motion: Literal["rotation", "translation", "scale"]
    unit: str  # "radian", "pixel", "e-fold"
    between_image_error: float | None  # root mean square of ||L f(x)||, over ||f(x) - f(x')||
    mean_square: float | None  # mean over images and outputs of (L f)^2, not divided by anything
    method: str  # "forward-mode differentiation", or "central differences"


@dataclass(frozen=True)
class Control:
    """A model whose result is known, sent through the same audit."""

    name: str
    expected: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Look:
    """One picture as the model saw it, and what it said."""

    angle: float
    mirror: bool
    png: str  # base64
    decision: str
    probability: float | None  # of the upright decision


@dataclass(frozen=True)
class Example:
    """An image worth looking at."""

    id: str
    truth: str | None
    why: Literal["changes most", "stable and wrong"]
    flips: int  # turns at which the decision changes
    turns: int
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class AuditResult:
    """One model on one set of images."""

    images: int
    degenerate: bool  # the output hardly varies between images: no error can be stated
    turns: tuple[Turn, ...]  # exact elements first, then the interpolated angles
    exact_error: float | None  # mean over 90, 180, 270 degrees; exact and interpolated are never mixed
    exact_flip_rate: float | None
    interpolated_error: float | None
    interpolated_floor: float | None
    interpolated_flip_rate: float | None
    worst_angle_accuracy: float | None  # minimum over all turns of the accuracy
    always_right: float | None  # share of images classified rightly at every turn
    method: str = ""  # how the pictures were turned, in words
    upright_accuracy: float | None = None  # on the same images, unturned
    mirror_error: float | None = None  # mean over the mirror images, which a C_N network does not promise
    mirror_flip_rate: float | None = None
    label: str = "the model"
    kind: Kind = "classes"
    classes: tuple[str, ...] = ()
    majority_rate: float | None = None
    upright: dict[str, float | None] = field(default_factory=dict)  # auc, ece of the upright pictures
    confusion: tuple[tuple[int, ...], ...] = ()  # of the upright pictures, as in Turn
    distances: dict[str, Interval] = field(default_factory=dict)  # cosine, of embeddings: "exact", "interpolated"
    exact: Orbit | None = None  # quarter turns and mirrors
    interpolated: Orbit | None = None  # the other angles
    per_class: tuple[ClassAudit, ...] = ()
    averaged: tuple[Averaged, ...] = ()
    layers: tuple[LayerError, ...] = ()
    lie: tuple[LieError, ...] = ()
    controls: tuple[Control, ...] = ()
    examples: tuple[Example, ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)  # of the model and the images, by name, in words
    passes: int = 0  # pictures the model was asked about
    seconds: float = 0.0
    confidence: float = 0.95


@dataclass(frozen=True)
class AuditDifference:
    """Model a minus model b on the same images, paired bootstrap over images or groups."""

    a: str
    b: str
    accuracy: Interval
    exact_flip_rate: Interval  # at some exact turn
    exact_worst_accuracy: Interval
    interpolated_flip_rate: Interval  # at some other angle
    interpolated_worst_accuracy: Interval


@dataclass(frozen=True)
class AuditReport:
    """Several models on the same images."""

    source: str  # of the images
    audits: tuple[AuditResult, ...]
    differences: tuple[AuditDifference, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
