"""BatchNorm statistics of the whole training set, in place of the running averages of the last steps."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of every BatchNorm to their mean over these batches; the network ends in eval mode.

    Only the norms are in training mode, so dropout and the weights stay out of it. A network without BatchNorm, or
    whose norms are frozen (eval mode is theirs), keeps what it has.
    Source: Cohen & Welling 2016, whose code re-estimates the statistics before each test.
    """
    network.train()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    network.eval()
    if not norms:
        return
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average in which every batch counts the same
        norm.train()
    for images in batches:
        network(images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()
