"""fit(): one network, one dataset, one protocol, one folder. Whatever stops it, the same call again continues."""

import math
import os
import signal
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch import Tensor

from ..config import Config, load_config, save_yaml
from ..data import PatchDataset, augment, contents, dataset_info, open_split
from ..data.augment import ANGLES, needed_size
from ..data.masks import MaskDataset, is_masks, open_masks
from ..data.windows import Windows
from ..errors import RoteqError, UsageError
from ..files import load_json, save_json
from ..metrics import check_leak
from ..models import ModelConfig
from ..results import Finding, Fit
from . import guards, measure
from .callbacks import Bar, Clock, Record, TimeUp, write_metrics
from .checkpoint import WholeFiles, read_checkpoint, restore
from .config import Precision, TrainConfig
from .context import exclusive, quiet, repeatable
from .feed import CHUNK, InOrder, Shuffled, loader, pixels_of, share_of, world
from .module import Classifier
from .norm import reestimate_norm
from .segmenter import Segmenter

MAY_DIFFER = {("data",), ("precision",), ("train", "max_time"), ("train", "workers")}  # none of them changes a number


class RunConfig(Config):
    """config.yaml of a run folder."""

    model: ModelConfig
    data: str
    dataset: str  # which images: the hash in dataset.json, or the path where there is none
    train: TrainConfig
    precision: Precision  # what train.precision came to on this machine


@dataclass(frozen=True)
class Job:
    """A run whose data is open and whose configuration fits it."""

    config: RunConfig
    out: Path
    train_set: PatchDataset | Windows
    val_set: PatchDataset | Windows
    classes: tuple[str, ...]
    mpp: float | None
    counts: Tensor  # (K,) labels of each class in use
    chosen: Tensor  # indices of the training images in use
    checked: Tensor  # indices of the validation images in use
    trial: bool  # a dry run judges nothing
    leak: Finding | None  # of level 'warn'

    @property
    def dense(self) -> bool:
        return isinstance(self.train_set, Windows)

    def sample(self, number: int) -> Tensor:
        """Indices of so many training images, evenly spread, so of every class."""
        return self.chosen[torch.linspace(0, len(self.chosen) - 1, min(len(self.chosen), number)).long()]

    def images(self, indices: Tensor) -> Tensor:
        return self.train_set.images(indices.tolist())

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.train_set.__getitems__(indices.tolist())

    def first_batch(self) -> tuple[Tensor, Tensor]:
        return self.batch(self.sample(self.config.train.batch_size))


def fit(
    model: ModelConfig,
    data: str | Path,
    train: TrainConfig,
    out: str | Path,
    *,
    progress: bool = True,
    dry_run: bool = False,
) -> Fit:
    """Train `model` on the split `train` of the prepared dataset `data` (with train.final also on `validation`).

    Writes to `out`: config.yaml, metrics.csv, best.ckpt (lowest validation loss; with train.final the last epoch),
    last.ckpt, tensorboard/ and, at the end, fit.json. Called again it continues after the last whole epoch and ends
    with the same weights as an undisturbed run on the same machine; a finished run is only read. A network that a
    guard stops is no error: see Fit.findings.
    dry_run: one batch through everything, in a temporary folder.
    Under torchrun the processes share every batch.

    Raises: UsageError if `out` holds a run with another configuration or the images do not fit the network; RoteqError
    if last.ckpt is damaged or of another run.
    """
    if not dry_run:
        return _fit(model, Path(data), train, Path(out), progress, trial=False)
    with tempfile.TemporaryDirectory() as folder:
        return fit_one_batch(model, data, train, folder)


def fit_one_batch(model: ModelConfig, data: str | Path, train: TrainConfig, out: str | Path) -> Fit:
    """One batch through training, validation and checkpointing, written to `out`: what a dry run does."""
    once = train.model_copy(update={"epochs": 1, "max_time": None})
    return _fit(model, Path(data), once, Path(out), progress=False, trial=True)


def _fit(model: ModelConfig, data: Path, train: TrainConfig, out: Path, progress: bool, *, trial: bool) -> Fit:
    wanted = RunConfig(model=model, data=str(data), dataset=_identity(data), train=train, precision=32)
    recorded = _recorded(out, wanted)
    if recorded and (out / "fit.json").is_file():
        return load_json(Fit, out / "fit.json")
    job = _open(wanted, out, trial)
    progress = progress and world()[0] == 0
    with exclusive(out), torch.random.fork_rng(devices=[]):
        classifier = _prepare(job, recorded)
        precision = recorded.precision if recorded else _precision(job, classifier)
        if world()[0] == 0:
            save_yaml(wanted.model_copy(update={"precision": precision}), out / "config.yaml")
        if progress:
            _announce(job, classifier, precision)
        complete = classifier.finished or _train(job, classifier, precision, progress)
        return _close(job, classifier, complete)


def _identity(data: Path) -> str:
    info = dataset_info(data)
    return info.sha256 or str(data.resolve())


def _recorded(out: Path, wanted: RunConfig) -> RunConfig | None:
    """The configuration of the run in `out`, if there is one. Raises: UsageError if it is another run."""
    if not (out / "config.yaml").is_file():
        return None
    found = load_config(RunConfig, out / "config.yaml")
    for key, before, now in _differences(found.model_dump(mode="json"), wanted.model_dump(mode="json")):
        if key not in MAY_DIFFER:
            raise UsageError(
                f"{out}: holds a run with {'.'.join(key)}: {before!r}, now it is {now!r}; choose another folder, or "
                "remove this one to start again"
            )
    return found


def _differences(a: object, b: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object, object]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a | b:
            yield from _differences(a.get(key), b.get(key), (*path, key))
    elif a != b:
        yield path, a, b


def _open(config: RunConfig, out: Path, trial: bool) -> Job:
    """Open both splits and check that protocol, images and processes go together."""
    train = config.train
    if train.precision == 16 and measure.device().type == "cpu":
        raise UsageError("train.precision: 16 needs a GPU; choose 32, bf16 or auto")
    if train.batch_size % world()[1]:
        raise UsageError(f"train.batch_size: expected a multiple of the {world()[1]} processes, got {train.batch_size}")
    dense, splits = is_masks(config.data), ("train+validation" if train.final else "train", "validation")
    first: Any  # MaskDataset or PatchDataset
    second: Any
    first, second = ((open_masks if dense else open_split)(config.data, name) for name in splits)
    if first.classes != second.classes:
        raise UsageError(f"{config.data}: train has classes {first.classes}, validation has {second.classes}")
    if first.channels != second.channels:
        raise UsageError(f"{config.data}: train has {first.channels} channels, validation has {second.channels}")
    train_set, val_set, counts, chosen = (_windows if dense else _patches)(config, first, second)
    checked = torch.arange(len(val_set))
    if trial:
        chosen = chosen[torch.linspace(0, len(chosen) - 1, min(len(chosen), train.batch_size)).long()]
        checked = checked[: train.batch_size]
    crop = train.patch if dense else train.crop
    augment(train_set.images(chosen[:1].tolist()).float(), train.augment, crop, torch.Generator())  # may refuse
    leak = check_leak(contents(config.data, "train"), contents(config.data, "validation"))
    if leak and leak.level == "stop":
        raise RoteqError(f"{config.data}: {leak.message}. {leak.advice}")
    mpp = dataset_info(config.data).mpp
    return Job(config, out, train_set, val_set, first.classes, mpp, counts, chosen, checked, trial, leak)


def _patches(
    config: RunConfig, train_set: PatchDataset, val_set: PatchDataset
) -> tuple[PatchDataset, PatchDataset, Tensor, Tensor]:
    """Both sets, labels of each class, indices of the training images in use."""
    train = config.train
    for split, dataset in (("train", train_set), ("validation", val_set)):
        if dataset.labels is None or not len(dataset.labels):
            raise UsageError(f"{config.data}: expected labelled images in the {split} split, found none")
    size = min(*train_set.size, *val_set.size)
    if train.crop is not None and train.crop > size:
        raise UsageError(f"train.crop: expected at most {size}, the size of the stored patches, got {train.crop}")
    if "dice" in train.loss:
        raise UsageError(f"train.loss: {train.loss} is made of the pixels of masks; expected cross_entropy or focal")
    assert train_set.labels is not None
    chosen = share_of(train_set.labels, train.share, train.seed)
    counts = train_set.labels[chosen].bincount(minlength=len(train_set.classes))
    return train_set, val_set, counts, chosen


def _windows(config: RunConfig, of_train: MaskDataset, of_val: MaskDataset) -> tuple[Windows, Windows, Tensor, Tensor]:
    """The same of masks: random windows to train on, a grid of them to validate. They are judged where the network
    answers, and not in the frame of `context`."""
    train = config.train
    for key, refused in (("share", train.share < 1), ("crop", train.crop is not None)):
        if refused:
            raise UsageError(f"train.{key}: is for patches with one label; of masks choose patch, context and patches")
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network: Any = config.model.build(of_train.channels, len(of_train.classes), dense=True, weights=False)
    margin = max(train.context, int(network.geometry.begin))
    side = train.patch
    if side <= 2 * margin:
        raise UsageError(
            f"train.patch: {config.model.label} answers for what lies {margin} pixels or more from the border of a "
            f"window; expected more than {2 * margin}, got {side}"
        )
    room = sum(height * width for height, width in of_train.sizes) / (side - 2 * margin) ** 2
    number = train.patches or math.ceil(room)
    larger = needed_size(side) if train.augment.turn in ANGLES else side  # so that no corner is invented
    random = Windows(of_train, larger, margin=margin + (larger - side) // 2, number=number, seed=train.seed)
    return random, Windows(of_val, side, margin=margin), of_train.class_counts(), torch.arange(len(random))


def _prepare(job: Job, recorded: RunConfig | None) -> Classifier:
    """The classifier as it stands before the next epoch: new, or with the history and statistics of last.ckpt."""
    config, last = job.config, job.out / "last.ckpt"
    settings = {
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "classes": list(job.classes),
        "channels": job.train_set.channels,
        "mpp": job.mpp,
    }
    classifier = (Segmenter if job.dense else Classifier)(**settings)  # type: ignore[arg-type]
    if last.exists():
        content = read_checkpoint(last)
        for key, before, now in _differences(content["hyper_parameters"], settings):
            if key not in MAY_DIFFER:
                raise RoteqError(f"{last}: a checkpoint of another run: {'.'.join(key)} is {before!r}, now {now!r}")
        restore(classifier, content, last)
        return classifier
    classifier.findings += [job.leak] if job.leak else []
    classifier.learn_statistics(pixels_of(job.train_set, job.chosen, config.train.crop), job.counts)
    classifier.findings += guards.at_start(classifier, *job.first_batch())
    return classifier


def _precision(job: Job, classifier: Classifier) -> Precision:
    wanted = job.config.train.precision
    if wanted != "auto":
        return wanted
    return measure.faster_precision(classifier, *job.first_batch(), processes=world()[1])


def _announce(job: Job, classifier: Classifier, precision: Precision) -> None:
    """Say how long it will take, before it begins."""
    train = job.config.train
    steps, left = max(1, len(job.chosen) // train.batch_size), train.epochs - len(classifier.history)
    if left <= 0:
        return
    step = measure.step_seconds(classifier, *job.first_batch(), precision)
    looks = len(job.checked) / train.batch_size / 3  # a forward pass is about a third of a step
    text = f"{classifier.model_config.label}: about {measure.duration(left * (steps + looks) * step)} for {left} epochs"
    Console(stderr=True).print(f"{text} ({steps} steps of {1000 * step:.0f} ms)", highlight=False)


def _train(job: Job, classifier: Classifier, precision: Precision, progress: bool) -> bool:
    """Run the epochs that are left. False: the time limit came first."""
    train = job.config.train
    batches = Shuffled(job.chosen, train.batch_size, train.seed, lambda: len(classifier.history), fresh=job.dense)
    callbacks: list[Callback] = [Record(job.out, len(batches) * min(train.batch_size, len(job.chosen)))]
    callbacks += [Clock(train.seconds)] if train.seconds else []
    callbacks += [Bar(classifier.model_config.label)] if progress else []
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # named, because Lightning would find SLURM first and requeue and resume in its own way
    processes = TorchElasticEnvironment() if world()[1] > 1 else LightningEnvironment()
    with quiet(), repeatable(torch.cuda.is_available()):
        trainer = Trainer(
            max_epochs=train.epochs,
            devices=local,
            num_nodes=world()[1] // local,
            strategy="ddp" if world()[1] > 1 else "auto",
            precision={32: "32-true", 16: "16-mixed", "bf16": "bf16-mixed"}[precision],  # type: ignore[arg-type]
            plugins=[WholeFiles(), processes],
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(
                classifier.train(),
                loader(job.train_set, batches, train.workers),
                loader(job.val_set, InOrder(job.checked, max(train.batch_size, CHUNK // 2)), train.workers),
                ckpt_path=job.out / "last.ckpt" if classifier.history else None,
                weights_only=True,
            )
        except TimeUp:
            return False
        except SIGTERMException:  # would exit with 0
            raise SystemExit(128 + signal.SIGTERM) from None
        except SystemExit:  # how Lightning passes on Ctrl-C
            raise KeyboardInterrupt from None
    return True


def _close(job: Job, classifier: Classifier, complete: bool) -> Fit:
    """Sum up the run with its best weights; a complete one gets its fit.json."""
    history, train = classifier.history, job.config.train
    findings = [f for f in classifier.findings if not (job.trial and f.guard == "constant predictor")]
    if world()[0] == 0 and history and not job.trial:
        best = read_checkpoint(job.out / "best.ckpt")
        classifier.load_state_dict(best["state_dict"])
        if train.reestimate_norm:
            order = torch.randperm(len(job.chosen), generator=torch.Generator().manual_seed(train.seed))
            mixed = job.chosen[order].split(train.batch_size)  # the variance of a batch of one class is too small
            several = [part for part in mixed if len(part) > 1] or mixed  # and one image alone may have none
            reestimate_norm(classifier.to(measure.device()), map(job.images, several))
            WholeFiles().save_checkpoint(best | {"state_dict": classifier.state_dict()}, job.out / "best.ckpt")
        shares = job.counts.double() / job.counts.sum()
        batches = map(job.batch, job.sample(CHUNK // 2).split(train.batch_size))
        findings += guards.at_end(classifier.to(measure.device()), batches, float(torch.special.entr(shares).sum()))
    result = Fit(
        epochs=len(history),
        best_epoch=classifier.best_epoch,
        seconds=sum(row["seconds"] or 0.0 for row in history),
        images_per_second=statistics.median(row["images_per_second"] or 0.0 for row in history) if history else 0.0,
        parameters=sum(p.numel() for p in classifier.network.parameters()),
        flops=measure.flops(classifier, job.first_batch()[0]),
        history=tuple(history),
        findings=(*findings, *([] if complete else [TimeUp.finding])),
    )
    if world()[0] == 0 and complete:
        write_metrics(history, job.out)
        save_json(result, job.out / "fit.json")
    return result
