"""Embeddings (B, D): no decisions, only how far they move and whether the neighbours stay."""

import tempfile
import weakref

import numpy as np
import torch
from torch import Tensor

from ..metrics.embeddings import kernel_alignment, mutual_neighbours
from ..results import Turn
from .config import AuditConfig
from .rows import UPRIGHT, Key, Moments, Plan, Rows
from .statistics import NOTHING, Measured, bootstrapped, errors, is_degenerate
from .turning import Element

KEPT = 2000  # images whose embeddings are kept, on disk, for neighbours and alignment


class Embeddings:
    """square, cosine (N,): distances to the reference; the embeddings of the first images lie in a temporary file."""

    def __init__(self, plan: Plan, images: int) -> None:
        self.plan, self.rows = plan, Rows()
        self.moments = {UPRIGHT: Moments(), plan.reference: Moments()}
        self.batch: dict[Key, Tensor] = {}
        self.capacity, self.kept = min(images, KEPT), 0
        self.place = {key: i for i, key in enumerate(plan.keys)}
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as this
        weakref.finalize(self, self.file.close)
        self.stored: np.memmap | None = None

    def add(self, key: Key, answer: Tensor) -> None:
        self.batch[key] = answer

    def close(self) -> None:
        answers, self.batch = self.batch, {}
        for key, moments in self.moments.items():
            moments.add(answers[key])
        for key, answer in answers.items():
            reference = answers[self.plan.reference_of(key)].double()
            self.rows.add("square", key, (answer.double() - reference).square().sum(1))
            self.rows.add("cosine", key, 1 - torch.cosine_similarity(answer.double(), reference, dim=1))
        if self.stored is None:
            shape = (len(self.place), self.capacity, answers[UPRIGHT].shape[1])
            self.stored = np.memmap(self.file, np.float32, "w+", shape=shape)
        some = min(self.capacity - self.kept, len(answers[UPRIGHT]))
        for key, i in self.place.items():
            self.stored[i, self.kept : self.kept + some] = answers[key][:some].float().cpu().numpy()
        self.kept += some

    def measured(self, groups: np.ndarray | None, config: AuditConfig) -> Measured:
        degenerate = is_degenerate(self.moments[UPRIGHT])
        turns = tuple(self._turn(e, degenerate) for e in self.plan.orbit)
        columns = {
            name: np.mean([self.rows("cosine", Key("turn", e)) for e in chosen], axis=0)
            for name, chosen in (
                ("exact", [e for e in self.plan.orbit if e.exact]),
                ("interpolated", [e for e in self.plan.orbit if not e.exact]),
            )
            if chosen
        }
        fields = {"distances": bootstrapped(columns, groups, config)}
        largest = np.max([self.rows("cosine", Key("turn", e)) for e in self.plan.orbit], axis=0)
        variation = 0.0 if degenerate else self.moments[self.plan.reference].variation
        return Measured(degenerate, turns, fields, variation, {"change": largest})

    def _turn(self, e: Element, degenerate: bool) -> Turn:
        key, back = Key("turn", e), Key("back", e.base)
        between, relative, cosine, neighbours, alignment = self._numbers(key)
        floor, floors = None if degenerate else 0.0, {}
        if not e.exact:
            floor, *others = self._numbers(back)
            names = ("between_image_error", "relative_error", "cosine_distance", "neighbours", "alignment")
            floors = dict(zip(names, (floor, *others), strict=True))
        return Turn(
            angle=e.angle,
            mirror=e.mirror,
            exact=e.exact,
            between_image_error=between,
            relative_error=relative,
            floor=floor,
            flip_rate=NOTHING,
            accuracy=NOTHING,
            cosine_distance=cosine,
            neighbours=neighbours,
            alignment=alignment,
            floors=floors,
        )

    def _numbers(self, key: Key) -> tuple[float | None, float | None, float, float | None, float | None]:
        assert self.stored is not None
        of = self.plan.reference_of(key)
        upright, turned = (np.asarray(self.stored[self.place[k], : self.kept]) for k in (of, key))
        between, relative = errors(self.rows("square", key), self.moments[of])
        cosine = float(self.rows("cosine", key).mean())
        return between, relative, cosine, mutual_neighbours(upright, turned), kernel_alignment(upright, turned)
