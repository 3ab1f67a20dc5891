"""The covariance test of layers, and the conversion of networks."""

from dataclasses import dataclass, field

from .common import Finding


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
