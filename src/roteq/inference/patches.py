"""A trained network at work: load it, ask it about images, keep the answers."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data import PatchDataset
from ..errors import RoteqError, UsageError
from ..files import atomic_path
from ..metrics.guards import check_input_range
from ..results import Finding
from ..training import Classifier, Segmenter
from ..training.checkpoint import read_checkpoint, restore
from ..training.feed import Pixels, count_pixels
from ..training.measure import device

SHIFT = 1.5  # standard deviations by which the mean pixel may lie off that of the training images
META = b"roteq"


@dataclass(frozen=True)
class Predictions:
    """The answers of one network to N images, in the order of the dataset."""

    ids: list[str]
    labels: np.ndarray | None  # (N,) class indices; None: unlabelled
    groups: list[str] | None
    classes: tuple[str, ...]  # of the network, whatever the folders of the images are called
    probabilities: np.ndarray  # (N, K) float32, rows sum to 1
    findings: tuple[Finding, ...] = ()  # of level 'warn': images unlike those of the training

    @property
    def predicted(self) -> np.ndarray:
        """(N,) class indices."""
        return self.probabilities.argmax(1)

    def save(self, path: str | Path) -> None:
        """Write a Parquet table: id, label, group (where there are any), and one column "p(<class>)" for each class."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, object] = {"id": self.ids}
        if self.labels is not None:
            columns["label"] = np.asarray(self.labels, dtype=np.int64)
        if self.groups is not None:
            columns["group"] = self.groups
        columns |= {f"p({name})": self.probabilities[:, k] for k, name in enumerate(self.classes)}
        facts = {"classes": self.classes, "findings": [vars(finding) for finding in self.findings]}
        table = pa.table(columns).replace_schema_metadata({META: json.dumps(facts).encode()})
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            pq.write_table(table, file)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read what `save` wrote. Raises: RoteqError if there is no such file or it is something else."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not Path(path).is_file():
            raise RoteqError(f"{path}: no such file")
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[META])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise RoteqError(f"{path}: not predictions of roteq ({type(error).__name__})") from error
        names = table.column_names
        return cls(
            ids=table["id"].to_pylist(),
            labels=table["label"].to_numpy() if "label" in names else None,
            groups=table["group"].to_pylist() if "group" in names else None,
            classes=tuple(facts["classes"]),
            probabilities=np.stack([table[f"p({name})"].to_numpy() for name in facts["classes"]], axis=1),
            findings=tuple(Finding(**finding) for finding in facts["findings"]),
        )


def load_classifier(checkpoint: str | Path) -> Classifier:
    """The network of a checkpoint that `fit` wrote, with its preprocessing and class names, ready to answer, on the GPU
    where there is one. No code in the file is run and no pretrained weights are fetched.

    Raises: RoteqError if the file is missing, no checkpoint, damaged, or of another program or model.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = path / "best.ckpt"  # a run folder
    content = read_checkpoint(path)
    settings = content["hyper_parameters"]
    try:
        classifier = (Segmenter if content["roteq"].get("dense") else Classifier)(**settings, shell=True)
    except UsageError as error:
        raise RoteqError(f"{path}: a network that this roteq cannot build: {error}") from error
    restore(classifier, content, path)
    return classifier.to(device()).eval()


def predict(
    classifier: Classifier, dataset: PatchDataset, batch_size: int = 256, progress: bool = False
) -> Predictions:
    """Class probabilities of every image of the dataset, a batch in memory at a time.

    Raises: UsageError if there are no images, or if they have other channels than the network or are smaller than its
    crop.
    """
    total = len(dataset.ids)
    if not total:
        raise UsageError("predict: expected images, got an empty dataset")
    if dataset.channels != classifier.channels:
        raise UsageError(
            f"predict: {classifier.model_config.label} expects images of {classifier.channels} channel(s), got "
            f"{dataset.channels}; open them with channels={classifier.channels}"
        )
    parts, counts = [], torch.zeros(classifier.channels, 256, dtype=torch.long)
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.inference_mode():
            for start in _starts(total, batch_size, progress):
                images = dataset.images(list(range(start, min(start + batch_size, total))))
                counts += count_pixels(images)
                parts.append(classifier(images).float().softmax(1).cpu())
    finally:
        classifier.train(was_training)
    return Predictions(
        ids=list(dataset.ids),
        labels=None if dataset.labels is None else dataset.labels.numpy(),
        groups=None if dataset.groups is None else list(dataset.groups),
        classes=classifier.classes,
        probabilities=torch.cat(parts).numpy(),
        findings=tuple(unfamiliar(classifier, Pixels(counts))),
    )


def unfamiliar(classifier: Classifier, pixels: Pixels) -> list[Finding]:
    """What tells these images from those of the training: their range, their mean. Never stops anything."""
    low, high, mean, std = classifier.seen.tolist()
    found = check_input_range(pixels.quantiles(), trained_on=(low, high))
    if found:
        return [Finding(found.guard, "warn", found.message, found.advice)]
    shift = (float(pixels.mean.mean()) - mean) / max(std, 1.0)
    if abs(shift) <= SHIFT:
        return []
    return [
        Finding(
            "input range",
            "warn",
            f"the images are {'brighter' if shift > 0 else 'darker'} than those of the training: their mean is "
            f"{float(pixels.mean.mean()):.0f}, it was {mean:.0f} with a standard deviation of {std:.0f}",
            "Check the stain, the scanner and the kind of picture; do not rely on answers to unfamiliar images.",
        )
    ]


def _starts(total: int, batch_size: int, progress: bool) -> Iterable[int]:
    starts = range(0, total, batch_size)
    if not progress:
        return starts
    from rich.console import Console
    from rich.progress import track

    return track(starts, "predicting", console=Console(stderr=True), transient=True)
