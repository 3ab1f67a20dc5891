"""Data, training, evaluation, and the study they make up."""

from dataclasses import dataclass, field
from typing import Any, Literal

from .audit import AuditResult
from .common import Finding, Interval, Spread


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
    images: dict[str, int] = field(default_factory=dict)  # split -> images, of masks, whose counts are pixels
    mpp: float | None = None  # microns per pixel, as prepared; None: unknown


@dataclass(frozen=True)
class Evaluation:
    """One model on one labelled set. `metrics` holds accuracy, balanced_accuracy, auc, average_precision, f1, mcc,
    nll, ece; for more than two classes auc, average_precision and f1 are macro averages, one class against the rest.
    Of maps n counts pixels (`images` says of how many images), the bootstrap resamples images or groups of them, and
    there are dice, iou, and where they apply v_rand, v_info, detection_precision, detection_recall, detection_f1."""

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
    images: int | None = None  # of maps


@dataclass(frozen=True)
class Mistake:
    id: str
    truth: str
    predicted: str
    probability: float
    png: str  # base64


@dataclass(frozen=True)
class MapExample:
    """One test image through a dense network, upright and turned: base64 PNGs. Maps show the probability of anything
    but the first class; `turned_back` is the map of the turned image, turned back, `difference` its distance from the
    upright map."""

    id: str
    angle: float  # degrees, counter-clockwise as displayed
    scores: dict[str, float | None]  # of this image, such as dice
    image: str
    truth: str
    map: str
    turned_image: str
    turned_map: str
    turned_back: str
    difference: str
    largest: float  # difference of two probabilities in it


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
    maps: tuple[MapExample, ...] = ()  # of a dense network


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
    only_a_right: int | None  # None of maps, whose pixels are no independent decisions
    only_b_right: int | None
    mcnemar_p: float | None
    metrics: dict[str, Interval] = field(default_factory=dict)  # of maps: dice, v_rand, detection_f1, ...


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
