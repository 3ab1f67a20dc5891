"""The first question to a model: what does it answer with, and are these probabilities?"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..auditing.looking import Asker
from ..auditing.looks import Looker
from ..auditing.measuring import normalization_of
from ..auditing.subject import Subject
from ..errors import UsageError

FIRST, MORE = 8, 32  # looks; more where one score may be a logit or the probability of a sigmoid
PIXELS = 1 << 19  # of the first looks together, so that large inputs do not keep the page waiting
LOGIT = (
    "its one score lay within 0 and 1, on one side of one half, for all pictures of the first question: it is taken "
    "for a logit"
)


class Started(NamedTuple):
    asker: Asker  # which knows the kind of the answers, and whether they are probabilities
    outputs: int
    notes: tuple[str, ...]


def first_question(subject: Subject, looks: Callable[[int], Tensor]) -> Started:
    """Never by one picture: softmax is told by sums of 1, a sigmoid by scores within 0..1 on both sides of one half.

    looks: so many pictures (N, C, h, w). Raises: UsageError or RoteqError where the model fails.
    """
    pixels = looks(FIRST)
    asker = Asker(subject, normalization_of(subject, pixels.shape[1]))
    scores = asker(pixels)
    if not scores.numel():
        raise UsageError(f"{subject.name}: expected scores, got an output of shape {tuple(scores.shape)}")
    if not _is_doubtful(asker, scores):
        return Started(asker, scores.shape[1], ())
    asker.logarithm = None
    scores = asker(looks(MORE))
    is_doubtful = _is_doubtful(asker, scores)
    if is_doubtful:
        asker.logarithm = _ends_in_sigmoid(subject.module)
    return Started(asker, scores.shape[1], (LOGIT,) if is_doubtful and not asker.logarithm else ())


def first_looks(lookers: Sequence[Looker]) -> Callable[[int], Tensor]:
    """So many looks, or fewer large ones: all images of the size of the first one, then their exact turns and mirrors,
    then the negatives of all these; where more are asked, nearly black and nearly white ones too."""
    shape = lookers[0](0).shape
    alike = [one for one in lookers if one(0).shape == shape]
    quarters = (0, 180) if alike[0].is_oblong else (0, 90, 180, 270)
    turns = [(degrees, mirror) for mirror in (False, True) for degrees in quarters]

    def looks(number: int) -> Tensor:
        most = max(2, min(number, PIXELS * number // FIRST // (shape[-1] * shape[-2])))
        parts = 1 if most <= FIRST else 4
        turned = [(one, *turn) for turn in turns for one in alike][: -(-most // parts)]
        found = torch.cat([one(degrees, mirror) for one, degrees, mirror in turned])
        if parts == 1 and len(found) == most:
            return found
        return torch.cat([found, 255 - found, found / 8, 255 - found / 8])[: max(most, 2 * len(found))]

    return looks


def _is_doubtful(asker: Asker, scores: Tensor) -> bool:
    """Whether the one score z of (0, z) was always within 0..1, on one side of one half."""
    if asker.logarithm or asker.kind not in ("classes", "map") or scores.shape[1] != 2 or bool(scores[:, 0].any()):
        return False
    z = scores[:, 1]
    return bool(((z >= 0) & (z <= 1)).all()) and not bool((z < 0.5).any() and (z > 0.5).any())


def _ends_in_sigmoid(module: nn.Module | None) -> bool:
    return module is not None and isinstance(list(module.modules())[-1], nn.Sigmoid)
