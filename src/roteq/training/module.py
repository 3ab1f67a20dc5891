"""The one LightningModule: a network, what its input looked like, and one epoch of training and validation.

It carries everything an epoch depends on (weights, optimiser, history), so the checkpoint after epoch k decides what
epoch k + 1 does, whatever happened in between.
"""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.functional.classification import binary_auroc, multiclass_recall

from ..config import validate
from ..data import augment, center_crop
from ..errors import UsageError
from ..metrics.guards import check_constant
from ..models import ModelConfig
from ..results import Finding
from .config import TrainConfig, learning_rate
from .feed import Pixels, stream, world
from .losses import training_loss

Row = dict[str, float | None]


class Classifier(LightningModule):
    """A network with its preprocessing: images as they are stored in, logits out.

    Shapes: (B, C, H, W) uint8 or float, 0..255 -> (B, K); the centre `crop` is cut out and normalised inside.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor
    seen: Tensor
    dense = False

    def __init__(
        self,
        model: dict[str, Any],
        train: dict[str, Any],
        classes: list[str],
        channels: int,
        mpp: float | None = None,
        *,
        shell: bool = False,
    ) -> None:
        """mpp: microns per pixel of the images. shell: the weights will be loaded, so pretrained ones are not
        fetched."""
        super().__init__()
        self.save_hyperparameters("model", "train", "classes", "channels", "mpp", logger=False)
        self.model_config = validate(ModelConfig, model, where="model")
        self.config = validate(TrainConfig, train, where="train")
        self.classes, self.channels, self.crop, self.mpp = tuple(classes), channels, self.config.crop, mpp
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.network = self.model_config.build(channels, len(classes), dense=self.dense, weights=not shell)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.register_buffer("class_weights", torch.ones(len(classes)))
        self.register_buffer("seen", torch.zeros(4))  # pixels in training: lowest, highest, mean, standard deviation
        self.history: list[Row] = []
        self.findings: list[Finding] = []
        self.constant_epochs = 0  # epochs in a row that ended with one answer and no ranking (guards.after_epoch)
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_logits = CatMetric(nan_strategy="disable")
        self.val_labels = CatMetric(nan_strategy="disable")

    def learn_statistics(self, pixels: Pixels, counts: Tensor) -> None:
        """Take the normalisation and the class weights from the training images; counts: labels of each class."""
        spread = (pixels.counts.double().sum(0) @ torch.arange(256.0).double().square()) / pixels.counts.sum()
        mean = pixels.mean.mean()
        self.seen.copy_(torch.tensor([pixels.low, pixels.high, mean, (spread - mean**2).clamp(min=0).sqrt()]))
        if self.config.normalize == "dataset":
            self.mean.copy_(pixels.mean.view_as(self.mean))
            self.std.copy_(pixels.std.clamp(min=1).view_as(self.std))  # a channel without contrast stays finite
        elif self.config.normalize == "unit":
            self.std.fill_(255)
        if self.config.class_weights:
            self.class_weights.copy_(counts.sum() / (len(self.classes) * counts.clamp(min=1)))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            expected = f"(B, {self.channels}, H, W)"
            raise UsageError(f"{self.model_config.label}: expected images {expected}, got {tuple(x.shape)}")
        x = x.to(self.mean.device)
        return self.answer((x if self.crop is None else center_crop(x, self.crop)).float())

    def answer(self, cropped: Tensor) -> Tensor:
        """Logits of float images 0..255 that have their final size."""
        return self.network((cropped - self.mean) / self.std)

    # One epoch

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        epoch, steps = len(self.history), int(self.trainer.num_training_batches)
        if batch_idx == 0:
            torch.manual_seed(stream(self.config.seed, epoch, world()[0]))  # dropout
        lr = learning_rate(self.config, epoch * steps + batch_idx, self.config.epochs * steps, self.val_losses())
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        generator = torch.Generator().manual_seed(stream(self.config.seed, len(self.history), batch_idx, world()[0]))
        with torch.autocast(self.device.type, enabled=False):  # angles need all their digits
            images, labels = self.augmented(images.float(), labels, generator)
        loss = self.loss(self.answer(images), labels)
        self.train_loss.update(loss.detach())
        return loss

    def augmented(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return augment(images, self.config.augment, self.crop, generator), labels

    def judged(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Answers and labels that belong to each other, as F.cross_entropy takes them."""
        return logits.float(), labels

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The training loss."""
        weight = self.class_weights if self.config.class_weights else None
        return training_loss(*self.judged(logits, labels), self.config.loss, weight, self.config.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits, labels = self.judged(self(images), labels)
        self.val_logits.update(logits)
        self.val_labels.update(labels)

    @torch.no_grad()
    def close_epoch(self) -> tuple[Row, Finding | None]:
        """One row of the history from all processes, and whether the network gives one answer to all images."""
        logits, labels = self.val_logits.compute(), self.val_labels.compute().long()
        row: Row = {"epoch": len(self.history) + 1, "train_loss": finite(self.train_loss.compute())}
        row |= scores(logits, labels)
        for metric in (self.train_loss, self.val_logits, self.val_labels):
            metric.reset()
        constant = check_constant(labels, logits.argmax(1), self.classes, self.model_config.label)
        self.history.append(row)
        return row, constant

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the lowest validation loss, the first of equals, or the last one where the validation
        images were trained on; 0 before the first."""
        losses = self.val_losses()
        if self.config.final:
            return len(losses)
        return losses.index(min(losses)) + 1 if losses else 0

    @property
    def finished(self) -> bool:
        """All epochs done, no gain for `early_stopping` epochs, or a guard said stop. Read off what a checkpoint holds,
        so a run that was killed right after its last epoch knows that it is over."""
        done, patience = len(self.history), self.config.early_stopping
        tired = patience is not None and done - self.best_epoch >= patience
        return done >= self.config.epochs or tired or any(finding.level == "stop" for finding in self.findings)

    def val_losses(self) -> list[float]:
        return [math.inf if row["val_loss"] is None else row["val_loss"] for row in self.history]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        trained = [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, lr=config.lr, fused=True)  # on 2 cores 10 to 20 % of a step of cnn and resnet18

    # What a checkpoint holds beside Lightning's own

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        findings = [vars(finding) for finding in self.findings]
        checkpoint["roteq"] = {
            "history": self.history,
            "findings": findings,
            "constant_epochs": self.constant_epochs,
            "dense": self.dense,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["roteq"]
        self.history = [dict(row) for row in state["history"]]
        self.findings = [Finding(**finding) for finding in state["findings"]]
        self.constant_epochs = state["constant_epochs"]


def scores(logits: Tensor, labels: Tensor) -> Row:
    """val_loss (plain cross-entropy, nats), val_accuracy, val_balanced_accuracy, val_auc (mean over classes, one
    against the rest) of a whole split; None where a number does not exist.

    >>> scores(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))["val_auc"]
    1.0
    """
    classes = logits.shape[1]
    present = labels.bincount(minlength=classes) > 0
    recall = multiclass_recall(logits, labels, classes, average=None)[present]
    auc = None
    if present.sum() > 1 and logits.isfinite().all():
        ranked = [1] if classes == 2 else present.nonzero().flatten().tolist()
        chances = logits.softmax(1)
        auc = sum(float(binary_auroc(chances[:, k], (labels == k).long())) for k in ranked) / len(ranked)
    return {
        "val_loss": finite(F.cross_entropy(logits, labels)),
        "val_accuracy": finite((logits.argmax(1) == labels).float().mean()),
        "val_balanced_accuracy": finite(recall.mean()),
        "val_auc": auc,
    }


def finite(value: Tensor) -> float | None:
    return float(value) if value.isfinite() else None
