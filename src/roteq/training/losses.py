"""Training losses of logits (B, K) or (B, K, H, W) against class indices (B) or (B, H, W); IGNORE counts nowhere."""

from torch import Tensor
from torch.nn import functional as F

from ..data.masks import IGNORE

GAMMA = 2.0  # of the focal loss, as in its source


def training_loss(logits: Tensor, labels: Tensor, name: str, weight: Tensor | None, smoothing: float) -> Tensor:
    """The loss of that name: "cross_entropy", "focal", "dice" or "cross_entropy+dice", a scalar."""
    if name == "focal":
        return focal_loss(logits, labels, weight)
    if name == "dice":
        return dice_loss(logits, labels)
    loss = cross_entropy(logits, labels, weight, smoothing)
    return loss + dice_loss(logits, labels) if name == "cross_entropy+dice" else loss


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """In nats; 0, and not 0/0, where no pixel has a label."""
    if not (labels != IGNORE).any():
        return 0 * logits.sum()
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, label_smoothing=smoothing)


def focal_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of -(1 - p)^2 log p, p the probability of the right class (Lin et al. 2017, arXiv 1708.02002, section
    3.2, gamma 2)."""
    nll = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction="none")
    right = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").neg().exp()
    known = labels != IGNORE
    return ((1 - right) ** GAMMA * nll)[known].sum() / known.sum().clamp(min=1)


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - the mean over the classes of 2 sum p y / (sum p + sum y), sums over the pixels of the whole batch (Milletari
    et al. 2016, arXiv 1606.04797, without squares). A class of which there is neither counts as right.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1], [1, IGNORE]]])
    >>> dice_loss(20 * F.one_hot(labels.clamp(min=0), 2).movedim(-1, 1).float(), labels) < 1e-6
    tensor(True)
    """
    known = (labels != IGNORE)[:, None]
    chances = logits.softmax(1) * known
    truth = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known
    dims = (0, *range(2, logits.ndim))
    both, either = (chances * truth).sum(dims), (chances + truth).sum(dims)
    return 1 - ((2 * both + 1e-6) / (either + 1e-6)).mean()
