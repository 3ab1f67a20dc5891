"""What happens around an epoch: the record on disk, the clock, the progress bar."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..files import write_text
from ..results import Finding
from . import guards
from .module import Classifier, Row

COLUMNS = (
    *("epoch", "train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy", "val_auc", "lr"),
    *("seconds", "images_per_second"),
)


def write_metrics(history: list[Row], out: Path) -> None:
    """metrics.csv: the whole history, one row an epoch; a number that does not exist is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "metrics.csv", text.getvalue())


class Record(Callback):
    """Closes each epoch: its row, the guards, best.ckpt before last.ckpt (so that a kill between them repeats the epoch
    and writes best.ckpt again), metrics.csv, TensorBoard."""

    def __init__(self, out: Path, images: int) -> None:
        """images: how many an epoch trains on."""
        self.out, self.images, self.started, self.trained = out, images, 0.0, 0.0
        self.board = TensorBoardLogger(out, name="tensorboard", version="", default_hp_metric=False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.trained = time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        classifier: Classifier = pl_module
        row, constant = classifier.close_epoch()
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self.started
        row["images_per_second"] = self.images / self.trained
        classifier.findings += guards.after_epoch(classifier, constant, steps=trainer.global_step)
        if classifier.best_epoch == len(classifier.history):
            trainer.save_checkpoint(self.out / "best.ckpt", weights_only=True)
        trainer.save_checkpoint(self.out / "last.ckpt", weights_only=False)
        if trainer.is_global_zero:
            write_metrics(classifier.history, self.out)
            self.board.log_metrics({k: v for k, v in row.items() if v is not None}, step=len(classifier.history))
            self.board.experiment.flush()
        trainer.should_stop = classifier.finished

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.board.finalize("success")


class TimeUp(Exception):
    """The time limit is over; the epoch in hand is given up."""

    finding = Finding(
        "time limit",
        "warn",
        "training stopped at --max-time before its last epoch; the weights are the best so far",
        "Give the same command again to continue.",
    )


class Clock(Callback):
    """Raises TimeUp in all processes at the same step. Only whole epochs count, so a continued run is the same run."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.world_size == 1 or trainer.fit_loop.epoch_loop.batch_idx % 10 == 0:  # agreeing costs a message
            self.check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not pl_module.finished:
            self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(time.monotonic() > self.deadline, all=False):
            raise TimeUp


class Bar(Callback):
    """One line on stderr: epoch, last validation, time left."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task: TaskID | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        steps, done = int(trainer.num_training_batches), len(pl_module.history)
        self.task = self.progress.add_task(self.label, total=pl_module.config.epochs * steps, completed=done * steps)
        self.progress.start()

    def on_train_batch_end(self, *args: Any) -> None:
        assert self.task is not None
        self.progress.advance(self.task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        assert self.task is not None
        row = pl_module.history[-1]
        words = [f"{self.label}: epoch {row['epoch']}/{pl_module.config.epochs}"]
        shown = (("loss", row["val_loss"]), ("AUC", row["val_auc"]))
        words += [f"{name} {value:.3f}" for name, value in shown if value is not None]
        self.progress.update(self.task, description=", ".join(words))

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.progress.stop()
