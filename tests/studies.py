"""Results that look like real ones, made without training: for the tests of everything that shows results."""

import base64
import io
from dataclasses import replace
from math import cos, log, radians

import numpy as np
from PIL import Image

from roteq.results import (
    AuditResult,
    DatasetInfo,
    Difference,
    Evaluation,
    Finding,
    Fit,
    Interval,
    Mistake,
    Run,
    Spread,
    Study,
    Summary,
    Turn,
)

MODELS = {  # label: (model, group, AUC, parameters)
    "se2cnn C12": ("se2cnn", "C12", 0.912, 50_404),
    "se2cnn D4": ("se2cnn", "D4", 0.907, 49_870),
    "cnn parameters": ("cnn", None, 0.880, 51_012),
    "resnet18": ("resnet18", None, 0.899, 11_176_512),
}
PAIR = ("se2cnn C12", "cnn parameters")
COLLAPSE = Finding(
    "constant predictor",
    "stop",
    "it answers 'normal' to 100 % of the images; its accuracy is the majority rate.",
    "Scale the inputs to about mean 0 and variance 1, and lower the learning rate.",
)


def near(value: float | None, half: float = 0.011) -> Interval:
    return Interval(None) if value is None else Interval(value, max(0.0, value - half), min(1.0, value + half))


def study(
    labels: tuple[str, ...] = tuple(MODELS),
    seeds: int = 3,
    classes: tuple[str, ...] = ("normal", "tumour"),
    clusters: int | None = 24,
    collapsed: tuple[str, ...] = (),
    n: int = 1500,
) -> Study:
    """A finished study; the first class is the most frequent one."""
    runs = tuple(
        run(label, seed, classes, clusters, n, collapsed=label in collapsed)
        for label in labels
        for seed in range(seeds)
    )
    summaries = tuple(summary([r for r in runs if r.label == label]) for label in labels)
    pairs = [(a, b) for i, a in enumerate(summaries) for b in summaries[i + 1 :]]
    return Study(
        name="tissue",
        dataset=dataset(classes, clusters, n),
        runs=runs,
        summaries=summaries,
        differences=tuple(difference(a, b) for a, b in pairs),
        findings=(),
        config="name: tissue\nseeds: [0, 1, 2]\nmodels:\n" + "".join(f"- label: {label}\n" for label in labels),
        environment={"roteq": "0.1.0", "torch": "2.15.0+cpu", "device": "cpu, 2 cores", "system": "Linux"},
    )


def run(label: str, seed: int, classes: tuple[str, ...], clusters: int | None, n: int, collapsed: bool = False) -> Run:
    model, group, auc, parameters = MODELS[label]
    rng = np.random.default_rng([seed, len(label), parameters])
    auc = 0.5 if collapsed else float(auc + rng.normal(0, 0.005))
    evaluated = evaluation(auc, classes, clusters, n, collapsed)
    return Run(
        label=label,
        model=model,
        options={"group": group} if group else {},
        group=group,
        seed=seed,
        fit=fit(parameters, rng, evaluated.prior_entropy, collapsed),
        evaluation=evaluated,
        audit=audit(group, evaluated.metrics["accuracy"].value or 0.0, rng, degenerate=collapsed),
        findings=(COLLAPSE,) if collapsed else (),
        mistakes=() if collapsed else tuple(mistake(i, classes, rng) for i in range(6)),
        kernels=kernels(group, rng) if group else (),
    )


def evaluation(auc: float, classes: tuple[str, ...], clusters: int | None, n: int, collapsed: bool) -> Evaluation:
    k = len(classes)
    rest = 0.402 / (k - 1)
    shares = np.array([0.598, *[rest] * (k - 1)])
    counts = np.round(n * shares).astype(int)
    counts[0] += n - counts.sum()
    majority = float(counts[0] / n)
    recall = np.array([1.0, *[0.0] * (k - 1)]) if collapsed else np.array([auc - 0.03, *[auc - 0.1] * (k - 1)])
    confusion = np.zeros((k, k), int)
    for i in range(k):
        right = round(counts[i] * recall[i])
        confusion[i] = (counts[i] - right) // (k - 1)
        confusion[i, i] = 0
        confusion[i, i] = counts[i] - confusion[i].sum()
    accuracy = float(np.trace(confusion) / n)
    grid = np.linspace(0, 1, 300)
    power = (1 - auc) / auc
    two = k == 2
    values = {
        "accuracy": accuracy,
        "balanced_accuracy": float(recall.mean()),
        "auc": auc,
        "average_precision": auc - 0.02,
        "f1": 0.0 if collapsed else auc - 0.08,
        "mcc": None if collapsed else auc - 0.22,
        "nll": 0.675 if collapsed else 1.3 - auc,
        "ece": 0.04,
    }
    return Evaluation(
        n=n,
        classes=classes,
        counts=dict(zip(classes, counts.tolist(), strict=True)),
        majority_rate=majority,
        prior_entropy=float(-sum(p * log(p) for p in shares)),
        metrics={key: near(value) for key, value in values.items()},
        recall={c: near(float(r), 0.02) for c, r in zip(classes, recall, strict=True)},
        precision={c: near(None if collapsed and c != classes[0] else accuracy, 0.02) for c in classes},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        clusters=clusters,
        roc=tuple((float(x), float(x**power)) for x in grid) if two else (),
        pr=tuple((float(x), float(1 - 0.598 * x ** (1 / power))) for x in grid) if two else (),
    )


def audit(group: str | None, accuracy: float, rng: np.random.Generator, degenerate: bool = False) -> AuditResult:
    mirrors = group is not None and group.startswith("D")

    def turn(angle: float, mirror: bool) -> Turn:
        exact = angle % 90 == 0
        invariant = exact and group is not None and (mirrors or not mirror)
        wave = (1 - cos(radians(4 * angle))) / 2
        loss = 0.0 if invariant else (0.004 + 0.01 * wave if group else 0.03 + 0.03 * wave)
        size = 2e-7 if invariant else (0.06 + 0.06 * wave if group else 0.28 + 0.12 * wave)
        if degenerate:
            loss = size = 0.0
        right = accuracy - loss - (0 if invariant or degenerate else abs(rng.normal(0, 0.004)))
        floor = None if exact else 0.02 + 0.015 * wave
        error = None if degenerate else size
        return Turn(angle, mirror, exact, error, size / 5, floor, near(min(1.0, 2.2 * loss), 0.005), near(right, 0.015))

    exact = [turn(90.0 * q, m) for m in (False, True) for q in range(4) if q or m]
    other = [turn(15.0 * i, False) for i in range(24) if i % 6]

    def mean(turns: list[Turn], name: str) -> float | None:
        values = [getattr(t, name) for t in turns]
        plain = [v.value if isinstance(v, Interval) else v for v in values]
        return None if None in plain else float(np.mean(plain))

    return AuditResult(
        images=500,
        degenerate=degenerate,
        turns=(*exact, *other),
        exact_error=mean([t for t in exact if not t.mirror], "between_image_error"),
        exact_flip_rate=mean([t for t in exact if not t.mirror], "flip_rate"),
        interpolated_error=mean(other, "between_image_error"),
        interpolated_floor=mean(other, "floor"),
        interpolated_flip_rate=mean(other, "flip_rate"),
        worst_angle_accuracy=min(t.accuracy.value or 0.0 for t in (*exact, *other)),
        always_right=max(0.0, accuracy - 0.12),
        method="bicubic at 4 times the size, then area average; turned before the centre crop",
        upright_accuracy=accuracy,
        mirror_error=mean([t for t in exact if t.mirror], "between_image_error"),
        mirror_flip_rate=mean([t for t in exact if t.mirror], "flip_rate"),
    )


def fit(parameters: int, rng: np.random.Generator, prior: float, collapsed: bool, epochs: int = 12) -> Fit:
    rows = []
    for epoch in range(1, epochs + 1):
        train = prior if collapsed else 0.2 + 0.5 * np.exp(-epoch / 4) + rng.normal(0, 0.006)
        val = prior if collapsed else 0.33 + 0.35 * np.exp(-epoch / 3) + 0.005 * epoch + rng.normal(0, 0.02)
        auc = 0.5 if collapsed else 0.92 - 0.25 * np.exp(-epoch / 2) + rng.normal(0, 0.004)
        rows.append(
            {
                "epoch": epoch,
                "train_loss": float(train),
                "val_loss": float(val),
                "val_accuracy": float(auc - 0.06),
                "val_balanced_accuracy": float(auc - 0.07),
                "val_auc": float(auc),
                "lr": 1e-3,
                "seconds": 21.0,
            }
        )
    speed = 900.0 if parameters < 1e6 else 210.0
    return Fit(epochs, 9, 21.0 * epochs, speed, parameters, parameters * 400, tuple(rows))


def kernels(group: str, rng: np.random.Generator, features: int = 4) -> tuple:
    """Oriented edges, so that the turning is seen."""
    n, mirrors = int(group[1:]), group.startswith("D")
    y, x = np.mgrid[2:-3:-1, -2:3].astype(float)
    out = []
    for _ in range(features):
        start, sharp = rng.uniform(0, 360), rng.uniform(0.3, 0.9)
        angles = [start + 360 * r / n for r in range(n)] + (
            [start + 90 - 360 * r / n for r in range(n)] if mirrors else []
        )
        bank = [
            np.sin(1.4 * (x * np.cos(np.radians(a)) + y * np.sin(np.radians(a)))) * np.exp(-sharp * (x**2 + y**2) / 4)
            for a in angles
        ]
        out.append(tuple(tuple(map(tuple, k.tolist())) for k in bank))
    return tuple(out)


def mistake(i: int, classes: tuple[str, ...], rng: np.random.Generator) -> Mistake:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(90, 220, (8, 8, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BICUBIC).save(
        buffer, "png"
    )
    truth, predicted = (classes[0], classes[1]) if i % 2 else (classes[1], classes[0])
    return Mistake(
        f"slide_{i:02d}_patch_0{i}17", truth, predicted, 0.99 - 0.01 * i, base64.b64encode(buffer.getvalue()).decode()
    )


def summary(runs: list[Run]) -> Summary:
    def spread(values: list[float | None]) -> Spread:
        known = [v for v in values if v is not None]
        if len(known) < len(values):
            return Spread(None, None, len(known))
        return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known))

    audits = ("exact_error", "exact_flip_rate", "interpolated_error", "interpolated_floor", "interpolated_flip_rate")
    first = runs[0]
    return Summary(
        label=first.label,
        group=first.group,
        seeds=len(runs),
        parameters=first.fit.parameters,
        flops=first.fit.flops,
        seconds=first.fit.seconds,
        images_per_second=first.fit.images_per_second,
        metrics={key: spread([r.evaluation.metrics[key].value for r in runs]) for key in first.evaluation.metrics},
        audit={key: spread([getattr(r.audit, key) for r in runs]) for key in audits},
        collapsed=sum(any(f.level == "stop" for f in r.findings) for r in runs),
    )


def difference(a: Summary, b: Summary, half: float = 0.012) -> Difference:
    def interval(metric: str) -> Interval:
        left, right = a.metrics[metric].mean, b.metrics[metric].mean
        if left is None or right is None:
            return Interval(None)
        return Interval(left - right, left - right - half, left - right + half)

    return Difference(a.label, b.label, interval("auc"), interval("accuracy"), 88, 41, 0.0004)


def dataset(classes: tuple[str, ...], clusters: int | None, n: int) -> DatasetInfo:
    counts = {
        split: {c: round(share * n * (0.598 if c == classes[0] else 0.402 / (len(classes) - 1))) for c in classes}
        for split, share in (("train", 4.0), ("validation", 1.0), ("test", 1.0))
    }
    return DatasetInfo(
        name="tissue",
        source="/data/tissue",
        kind="kaggle",
        classes=classes,
        counts=counts,
        channels=3,
        size=(46, 46),
        options={"crop": 46, "format": "png", "grey": False},
        split_rule="by group" if clusters else "stratified by class",
        seed=0,
        groups={"train": 96, "validation": 24, "test": clusters} if clusters else {},
        skipped={"truncated file": 2},
        duplicates=5,
        sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    )


def with_runs(base: Study, change) -> Study:
    """The study with `change(run) -> run` applied to every run and the summaries made anew."""
    runs = tuple(change(r) for r in base.runs)
    labels = dict.fromkeys(r.label for r in runs)
    summaries = tuple(summary([r for r in runs if r.label == label]) for label in labels)
    return replace(base, runs=runs, summaries=summaries)


def with_difference(base: Study, a: str, b: str, *interval: float | None) -> Study:
    """The study with this interval (value, low, high) as the AUC and accuracy difference of one pair."""
    value = Interval(*interval)
    rows = tuple(replace(d, auc=value, accuracy=value) if (d.a, d.b) == (a, b) else d for d in base.differences)
    return replace(base, differences=rows)
