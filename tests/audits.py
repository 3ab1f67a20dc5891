"""Invented but plausible audits, for the report and the command line."""

import base64
import io
from dataclasses import replace
from functools import cache
from math import cos, radians

import numpy as np
from PIL import Image

from roteq.results import (
    AuditDifference,
    AuditReport,
    AuditResult,
    Averaged,
    Change,
    ClassAudit,
    Control,
    Example,
    Finding,
    Interval,
    LayerError,
    LieError,
    Look,
    Orbit,
    Turn,
)

CLASSES = ("adipose", "background", "debris", "lymphocytes", "mucus", "muscle", "stroma", "tumour")
IMAGES = 640
NONE = Interval(None)
DEGENERATE = Finding(
    "degenerate output",
    "stop",
    "the output hardly varies between images. This is not invariance: nothing can be said about turning.",
    "Check the weights, the normalisation of the input and the training curve before anything else.",
)


def near(value: float, half: float = 0.032) -> Interval:
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


@cache
def png(seed: int, size: int = 32) -> str:
    colours = np.random.default_rng(seed).integers(90, 220, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def make_audit(
    label: str = "resnet18",
    kind: str = "classes",
    equivariant: bool = False,
    degenerate: bool = False,
    labelled: bool = True,
    classes: tuple[str, ...] = CLASSES,
    angles: int = 24,
    mirrors: bool = True,
    size: int = 32,
) -> AuditResult:
    """A plain network, or one that is equivariant to all exact turns. Every field that its kind has is filled."""
    rng = np.random.default_rng(7)
    decides, scored = kind != "embedding", kind in ("classes", "labels")
    labelled = labelled and scored
    still = equivariant or degenerate
    accuracy = (0.302 if degenerate else 0.845) if labelled and decides else None

    def turn(angle: float, mirror: bool) -> Turn:
        exact = angle % 90 == 0
        wave = (1 - cos(radians(4 * angle))) / 2
        flips = 0.0 if exact and still else (0.02 + 0.06 * wave if still else 0.09 + 0.08 * wave)
        moved = 2e-7 if exact and still else 0.1 + 0.2 * wave + 0.2 * (not still)
        flips = 0.0 if degenerate else flips
        right = None if accuracy is None else accuracy - 0.6 * flips
        made: dict = {"floors": {}} if exact else {"floors": {"flip_rate": 0.021, "between_image_error": 0.06}}
        floors = made["floors"]
        if not degenerate:
            made |= {"divergence": 0.1 * flips}
            floors |= {} if exact else {"divergence": 0.004, "relative_error": 0.02}
        if right is not None:
            recall = tuple(float(np.clip(right + rng.normal(0, 0.06), 0, 1)) for _ in classes)
            made |= {"auc": right + 0.1, "ece": 0.04}
            made |= {"recall": recall, "confusion": confusion(len(classes), right)} if len(classes) <= 30 else {}
            floors |= {} if exact else {"accuracy": right + 0.02, "auc": 0.95, "ece": 0.041}
        if kind == "embedding":
            made |= {"cosine_distance": moved / 2, "neighbours": 1 - moved, "alignment": 1 - moved / 3}
            floors |= {} if exact else {"cosine_distance": 0.02, "neighbours": 0.93, "alignment": 0.98}
        return Turn(
            angle=angle,
            mirror=mirror,
            exact=exact,
            between_image_error=None if degenerate else moved,
            relative_error=moved / 5,
            floor=None if degenerate else 0.0 if exact else 0.06,
            flip_rate=near(flips, 0.0 if flips == 0 else 0.02) if decides else NONE,
            accuracy=NONE if right is None else near(right, 0.03),
            **made,
        )

    exact = [turn(90.0 * q, m) for m in ((False, True) if mirrors else (False,)) for q in range(4) if q or m]
    other = [turn(360 * i / angles, False) for i in range(angles) if (360 * i / angles) % 90]
    pairs = tuple(
        Change(classes[i], classes[j], 90 // (i + j)) for i in range(3) for j in (3, 1) if i < j < len(classes)
    )

    def orbit(turns: list[Turn], at_exact: bool) -> Orbit:
        flips = 0.0 if at_exact and still else 0.12 if still else 0.234 if at_exact else 0.412
        flips = 0.0 if degenerate else flips
        return Orbit(
            turns=len(turns),
            upright_accuracy=NONE if accuracy is None else near(accuracy, 0.028),
            mean_accuracy=NONE if accuracy is None else near(accuracy - 0.3 * flips),
            worst_accuracy=NONE if accuracy is None else near(accuracy - flips, 0.038 if flips else 0.028),
            flip_rate=Interval(flips, flips and flips - 0.033, flips and flips + 0.034) if decides else NONE,
            floor_flip_rate=NONE if at_exact or not decides else Interval(0.101, 0.08, 0.126),
            spread=near(flips, 0.02) if decides else NONE,
            divergence=None if degenerate or not decides else 0.07 * flips,
            floor_divergence=None if degenerate or at_exact or not decides else 0.004,
            stable_wrong=NONE if accuracy is None else near(0.058, 0.018),
            changes=() if degenerate or not decides or (at_exact and still) else pairs,
        )

    floor = None if degenerate or not other else 0.06
    return AuditResult(
        images=IMAGES,
        degenerate=degenerate,
        turns=(*exact, *other),
        exact_error=None if degenerate else 2e-7 if still else 0.31,
        exact_flip_rate=(0.0 if still else 0.09) if decides else None,
        interpolated_error=None if floor is None else 0.2 if still else 0.4,
        interpolated_floor=floor,
        interpolated_flip_rate=(0.05 if still else 0.14) if decides and other else None,
        worst_angle_accuracy=accuracy and accuracy - 0.1,
        always_right=accuracy and accuracy - 0.3,
        method="multiples of 90 degrees and mirrors: pixels permuted, exact; other angles: cubic spline",
        upright_accuracy=accuracy,
        mirror_error=None if degenerate or not mirrors else 3e-7 if still else 0.33,
        mirror_flip_rate=0.0 if still and mirrors else None,
        label=label,
        kind=kind,  # type: ignore[arg-type]
        classes=classes if kind in ("classes", "labels") and len(classes) <= 30 else (),
        distances={"exact": near(0.11, 0.01), "interpolated": near(0.13, 0.01)} if not decides else {},
        majority_rate=0.302 if labelled and decides else None,
        upright={"auc": 0.962, "ece": 0.038} if accuracy else {},
        confusion=confusion(len(classes), accuracy) if accuracy and len(classes) <= 30 else (),
        exact=orbit(exact, True) if scored else None,
        interpolated=orbit(other, False) if other and scored else None,
        per_class=tuple(per_class(i, name, accuracy, still) for i, name in enumerate(classes))
        if kind == "classes"
        else (),
        averaged=() if degenerate or not scored else averaged(accuracy, bool(other), mirrors),
        layers=layers(equivariant) if not degenerate else (),
        lie=() if degenerate else lie(still),
        controls=(Control("the same picture twice", "the same answer", "difference 0", True),),
        examples=() if degenerate else tuple(example(i, classes, labelled, size, scored) for i in range(4)),
        findings=(DEGENERATE,) if degenerate else (),
        facts={"parameters": "11.2 M", "input": "32 × 32 pixels"},
        passes=IMAGES * 44,
        seconds=83.0,
    )


def confusion(k: int, accuracy: float) -> tuple[tuple[int, ...], ...]:
    right = round(80 * accuracy)
    return tuple(
        tuple(right if i == j else (80 - right if j == (i + 1) % k else 0) for j in range(k)) for i in range(k)
    )


def per_class(i: int, name: str, accuracy: float | None, still: bool) -> ClassAudit:
    if accuracy is None:
        return ClassAudit(name, 80, None, None, 0.0 if still else 0.1 + 0.02 * (i % 7), 0.3)
    upright = accuracy + 0.015 * (i % 7) - 0.05
    worst = upright if still else upright - 0.1 - 0.03 * (i % 5)
    return ClassAudit(name, 80, upright, worst, 0.0 if still else 0.12 + 0.03 * (i % 5), 0.3 + 0.02 * (i % 4))


def averaged(accuracy: float | None, other: bool, mirrors: bool) -> tuple[Averaged, ...]:
    now = NONE if accuracy is None else near(accuracy + 0.021, 0.027)
    auc, ece = (None, None) if accuracy is None else (0.971, 0.031)
    c4 = Averaged("C4", 4, now, auc, ece, near(0.203) if other else NONE)
    d4 = Averaged("D4", 8, now, auc, ece, NONE)
    return (c4, d4) if mirrors else (c4,)


def layers(equivariant: bool) -> tuple[LayerError, ...]:
    names = ("conv1", *(f"layer{i}.{j}.conv{k}" for i in range(1, 5) for j in range(2) for k in (1, 2)), "fc")
    found = []
    for i, path in enumerate(names):
        size = (32 // 2 ** min(i // 4, 4),) * 2
        plain = min(1.1, 0.9 - 0.03 * i)
        kind = "Linear" if path == "fc" else "Conv2d"
        if equivariant:
            found.append(LayerError(path, f"Group{kind}", 32, size, "regular", 1e-7 * (1 + i / 4), 3e-8))
        else:
            found.append(LayerError(path, kind, 64, size, "linear", plain, 0.5 * plain, 0.05 + 0.02 * i))
    return tuple(found)


def lie(still: bool) -> tuple[LieError, ...]:
    size = 0.6 if still else 1.4
    return (
        LieError("rotation", "radian", size, 0.02 * size, "forward-mode differentiation"),
        LieError("translation", "pixel", 0.09, 0.001, "forward-mode differentiation"),
        LieError("scale", "e-fold", 0.8, 0.012, "central differences"),
    )


def example(i: int, classes: tuple[str, ...], labelled: bool, size: int, decides: bool) -> Example:
    stable = i == 3
    looks = []
    for angle, mirror in [*((15.0 * k, False) for k in range(24)), *((90.0 * q, True) for q in range(4))]:
        changed = not stable and decides and cos(radians(angle * (i + 1))) < -0.2
        decision = classes[(i + changed) % len(classes)] if decides else ""
        probability = None if not decides else 0.92 if stable else round(0.55 + 0.4 * cos(radians(angle * (i + 1))), 3)
        looks.append(Look(angle, mirror, png(i + round(angle), size), decision, probability))
    flips = sum(look.decision != looks[0].decision for look in looks)
    truth = classes[0 if stable else i % len(classes)] if labelled and decides else None
    why = "stable and wrong" if stable else "changes most"
    return Example(f"slide_{i:02d}/patch_0{i}17.png", truth, why, flips, len(looks) - 1, tuple(looks))  # type: ignore[arg-type]


def difference(a: AuditResult, b: AuditResult) -> AuditDifference:
    def minus(x: Interval | None, y: Interval | None) -> Interval:
        if x is None or y is None or x.value is None or y.value is None:
            return NONE
        return Interval(x.value - y.value, x.value - y.value - 0.03, x.value - y.value + 0.03)

    def of(name: str, kind: str) -> Interval:
        return minus(getattr(getattr(a, kind), name, None), getattr(getattr(b, kind), name, None))

    return AuditDifference(
        a.label,
        b.label,
        of("upright_accuracy", "exact"),
        of("flip_rate", "exact"),
        of("worst_accuracy", "exact"),
        of("flip_rate", "interpolated"),
        of("worst_accuracy", "interpolated"),
    )


def make_report(*audits: AuditResult) -> AuditReport:
    pairs = tuple(difference(a, b) for i, a in enumerate(audits) for b in audits[i + 1 :])
    environment = {"roteq": "0.2", "torch": "2.9.1", "device": "cpu"}
    return AuditReport("/data/kather/test", audits, pairs, environment)


def one_decision(label: str = "stuck") -> AuditResult:
    """A network whose scores vary, but whose decision never does."""
    message = "'tumour' is the decision for 99.8 % of the images: accuracy 0.302 is that of always giving one answer"
    stop = Finding("one decision", "stop", message, "check the weights and the normalisation of the input")
    return replace(make_audit(label, equivariant=True), findings=(stop,))


def old_audit() -> AuditResult:
    """What earlier versions saved: means over the turns, nothing by image."""
    a = make_audit()
    turns = tuple(
        Turn(t.angle, t.mirror, t.exact, t.between_image_error, t.relative_error, t.floor, t.flip_rate, t.accuracy)
        for t in a.turns
    )
    kept = ("exact_error", "exact_flip_rate", "interpolated_error", "interpolated_floor", "interpolated_flip_rate")
    kept += ("worst_angle_accuracy", "always_right", "method", "upright_accuracy", "mirror_error", "mirror_flip_rate")
    return AuditResult(a.images, False, turns, **{name: getattr(a, name) for name in kept})


def sample_reports() -> dict[str, AuditReport]:
    """Every kind of report, by name."""
    plain, p4 = make_audit(), make_audit("p4m-resnet18", equivariant=True)
    broken = make_audit("resnet18 without weights", degenerate=True)
    return {
        "one": make_report(plain),
        "several": make_report(plain, p4, broken),
        "invariant": make_report(p4),
        "degenerate": make_report(broken),
        "stopped": make_report(one_decision()),
        "unlabelled": make_report(make_audit(labelled=False)),
        "embedding": make_report(make_audit("dinov2", "embedding"), make_audit("p4 encoder", "embedding", True)),
        "map": make_report(make_audit("unet", "map", classes=CLASSES[:3])),
        "labels": make_report(make_audit("chest", "labels")),
        "mixed": make_report(
            plain, make_audit("dinov2", "embedding"), make_audit("unet", "map"), broken, one_decision()
        ),
        "quarters": make_report(make_audit(angles=4, mirrors=False)),
        "many": make_report(make_audit(classes=tuple(f"class {i}" for i in range(1000)), angles=8)),
        "alone": make_report(make_audit(classes=("tumour",), angles=8)),
        "old": make_report(old_audit()),
        "empty": AuditReport("/data/kather/test", ()),
    }
