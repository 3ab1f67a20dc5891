"""What roteq finds out: frozen dataclasses that save and load as JSON (roteq.files). Drawing and printing take these
and compute nothing. Rates are fractions in [0, 1], losses are in nats, angles in degrees counter-clockwise, times in
seconds. A number that does not exist (AUC with one class, the error of a degenerate output) is None."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Interval:
    """A number and its confidence interval (95 % unless the configuration says otherwise)."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the seeds (std None with one seed)."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Finding:
    """What a guard saw, in plain words, and what to try. 'stop' ends or discredits a run, 'warn' flags it."""

    guard: str  # "constant predictor", "input range", "dead units", "prior entropy", "train-eval gap", "leak", ...
    level: Literal["stop", "warn"]
    message: str
    advice: str


@dataclass(frozen=True)
class DatasetInfo:
    """dataset.json of a prepared dataset."""

    name: str
    source: str
    kind: str  # "kaggle", "pcam", "folder", "csv", "synthetic", "digits", ...
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split -> class -> images
    channels: int
    size: tuple[int, int] | None  # height, width; None where images differ
    options: dict[str, Any]  # every preparation step and its parameters
    split_rule: str
    seed: int
    groups: dict[str, int] = field(default_factory=dict)  # split -> number of groups (slides, patients); empty if none
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> images
    duplicates: int = 0  # identical images found (kept together in one split)
    sha256: str = ""  # of the sorted lines "path sha256-of-file" of the index
    findings: tuple[Finding, ...] = ()
    source_sha256: str = ""  # of the source's table: ids, labels, groups, splits, file sizes and dates


@dataclass(frozen=True)
class Evaluation:
    """One model on one labelled set. `metrics` holds accuracy, balanced_accuracy, auc, average_precision, f1, mcc,
    nll, ece; for more than two classes auc, average_precision and f1 are macro averages, one class against the rest."""

    n: int
    classes: tuple[str, ...]
    counts: dict[str, int]
    majority_rate: float
    prior_entropy: float
    metrics: dict[str, Interval]
    recall: dict[str, Interval]
    precision: dict[str, Interval]
    confusion: tuple[tuple[int, ...], ...]  # rows: truth, columns: prediction
    clusters: int | None = None  # groups over which the bootstrap resampled; None: single images
    roc: tuple[tuple[float, float], ...] = ()  # (false positive rate, true positive rate), two classes only
    pr: tuple[tuple[float, float], ...] = ()  # (recall, precision), two classes only


@dataclass(frozen=True)
class Turn:
    """The model's answers to the turned pictures, against its answers to the upright ones."""

    angle: float
    mirror: bool
    exact: bool  # maps the pixel grid to itself
    between_image_error: float | None  # ||f(gx) - f(x)|| / ||f(x) - f(x')||; None: degenerate
    relative_error: float | None  # ||f(gx) - f(x)|| / ||f(x)||, as papers print it
    floor: float | None  # between-image error of turning by the angle and back: what resampling alone does
    flip_rate: Interval  # share of images whose predicted class changes
    accuracy: Interval


@dataclass(frozen=True)
class AuditResult:
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


@dataclass(frozen=True)
class MapError:
    """How far f(gx) is from rho(g) f(x), over all images, features and pixels that are compared."""

    between_image_error: float | None  # against ||f(x) - f(x')||; None: degenerate
    relative_error: float | None  # against ||f(x)||, as papers print it


@dataclass(frozen=True)
class ErrorRange:
    """Over all elements of one kind but the identity. None: degenerate."""

    elements: int
    mean: float | None
    max: float | None
    relative_mean: float | None
    relative_max: float | None


@dataclass(frozen=True)
class ElementError:
    element: int
    name: str  # "mirror, then 90°"
    exact: bool  # maps the pixel grid to itself
    lifting: MapError
    convolution: MapError  # the group convolution alone, on any features
    whole: MapError  # the group convolution after the lifting


@dataclass(frozen=True)
class CovarianceErrors:
    """A lifting and a group convolution at every element; means are within one kind only. The keys are the fields of
    ElementError: lifting, convolution, whole; no keys where the group has no such element beside the identity."""

    elements: tuple[ElementError, ...]
    exact: dict[str, ErrorRange]
    interpolated: dict[str, ErrorRange]


@dataclass(frozen=True)
class ElementEnergy:
    """Sum of the squares of the kernels turned by one element, against that at the identity. lifting, convolution: the
    kernels measured; the others: white-noise weights in each basis, at the size of the lifting kernel."""

    element: int
    name: str
    lifting: float | None
    convolution: float | None
    pixel: float | None
    disc: float | None  # None: an even kernel has no disc
    harmonic: float | None


@dataclass(frozen=True)
class AngleError:
    """The invariant answer (maximum over the group, at the centre) when the picture is turned by any angle."""

    angle: float
    in_group: bool
    error: MapError
    control: MapError | None


@dataclass(frozen=True)
class CovarianceResult:
    """The covariance test of two layers, and of a plain CNN of as many physical channels beside them."""

    label: str
    group: str
    promised: bool  # False: a plain CNN, whose channels are read as if they were blocks; it has no control
    layers: tuple[str, str]  # in words
    channels: int
    features: tuple[int, int]
    kernel_sizes: tuple[int, int]
    seed: int
    images: int
    method: str  # which input each kind of element was measured on, in words
    errors: CovarianceErrors
    control: CovarianceErrors | None
    energies: tuple[ElementEnergy, ...]
    angles: tuple[AngleError, ...]
    turn: str  # by which the copy in the pictures is turned
    turn_exact: bool
    sheet_difference: float | None  # largest, against the largest value: row g of the sheet, and row 0 turned by g
    lifted_difference: float | None  # the same for the lifted maps, after undoing the turn and the shift
    response_difference: float | None  # and for the responses at the centre
    control_response_difference: float | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Mistake:
    id: str
    truth: str
    predicted: str
    probability: float
    png: str  # base64


@dataclass(frozen=True)
class Fit:
    """One training: fit.json of a run. History rows: epoch (from 1), train_loss, val_loss, val_accuracy,
    val_balanced_accuracy, val_auc, lr (of the last step), seconds, images_per_second (training steps only)."""

    epochs: int
    best_epoch: int
    seconds: float
    images_per_second: float
    parameters: int
    flops: int | None  # of one forward pass of one image (2 x multiply-adds)
    history: tuple[dict[str, float | None], ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Run:
    label: str  # "se2cnn C12"
    model: str
    options: dict[str, Any]
    group: str | None  # "C12"; None for a network that claims no equivariance ("Z2" too is None here)
    seed: int
    fit: Fit
    evaluation: Evaluation
    audit: AuditResult
    findings: tuple[Finding, ...]
    mistakes: tuple[Mistake, ...] = ()
    kernels: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...] = ()  # first layer: (features, |G|, k, k)


@dataclass(frozen=True)
class Summary:
    """One model over its seeds."""

    label: str
    group: str | None
    seeds: int
    parameters: int
    flops: int | None
    seconds: float
    images_per_second: float
    metrics: dict[str, Spread]
    audit: dict[str, Spread]  # exact_error, exact_flip_rate, interpolated_error, interpolated_flip_rate, ...
    collapsed: int = 0  # seeds with a finding of level 'stop'


@dataclass(frozen=True)
class Difference:
    """Model a minus model b on the same test images: paired bootstrap over images (or groups) and seeds; McNemar on
    the decisions of the mean probability over the seeds."""

    a: str
    b: str
    auc: Interval
    accuracy: Interval
    only_a_right: int
    only_b_right: int
    mcnemar_p: float


@dataclass(frozen=True)
class Study:
    """Everything the report shows."""

    name: str
    dataset: DatasetInfo
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]
    config: str  # the whole study.yaml, every default written out
    environment: dict[str, str]
    confidence: float = 0.95


@dataclass(frozen=True)
class Trial:
    """One seed of a reproduction."""

    seed: int
    value: Interval  # in the unit of the published number; the interval is over the test images
    fit: Fit
    evaluation: Evaluation
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Reproduction:
    """A published number and what its protocol gave here: reproduction.json. error, accuracy, auc are in per cent."""

    name: str
    metric: Literal["error", "accuracy", "auc", "nll"]
    published: float
    published_spread: float | None  # standard deviation over its seeds
    source: str
    retold: bool  # printed by others than its authors
    original: bool  # False: the data stand in for the published ones
    obtained: Spread
    margin: float  # by how much the two may differ and agree
    inside: bool
    trials: tuple[Trial, ...]
    seeds: tuple[int, int]  # used here, published
    epochs: tuple[int, int]  # used here, published
    test_images: int
    majority_rate: float


@dataclass(frozen=True)
class Exchanged:
    """One layer of a converted network: what it was, what it became, and its between-image error, the largest over the
    exact elements (float64; None: its output did not vary)."""

    path: str
    before: str
    after: str
    error: float | None


@dataclass(frozen=True)
class Conversion:
    """What `convert` did and measured. Pairs are (original, twin); FLOPs of one image at the sample's size, channels
    those of all convolutions together."""

    model: str
    group: str
    width: str
    factor: float  # features of the twin per channel of the original
    kept_weights: bool
    layers: tuple[Exchanged, ...]
    errors: dict[str, float | None]  # between-image error of the whole, by exact element; None: it does not vary
    parameters: tuple[int, int]
    flops: tuple[int | None, int | None]
    channels: tuple[int, int]
    asymmetric: dict[str, int]  # layer -> pixels its steps left over on one side at the sample's size
    symmetric_size: tuple[int, int] | None  # nearest input size at which no step leaves any
    difference: float | None  # between-image error of the twin against the average of the original (kept weights)
    rewritten: tuple[str, ...] = ()  # modules whose forward was rewritten
    broken: dict[str, str] = field(default_factory=dict)  # what is not equivariant and was left (strict=False)
    unused: tuple[str, ...] = ()  # layers that the sample never reached; they stay as they were

    @property
    def exact(self) -> bool:
        """Equivariant to rounding for every exact element, and not because the output is constant."""
        return bool(self.errors) and not self.broken and all(e is not None and e < 1e-10 for e in self.errors.values())
