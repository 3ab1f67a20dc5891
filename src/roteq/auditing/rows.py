"""What is kept of every answer: a few numbers for each image and look, however many classes or pixels there are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .turning import Element

SCORED = 64  # classes up to which the scores themselves are kept, for the AUC
What = Literal["upright", "reference", "quarter", "turn", "back", "averaged"]


@dataclass(frozen=True)
class Key:
    """One look at every picture. upright: as stored; reference: what interpolated looks are compared with (the same, or
    masked); quarter: the reference turned by `at` quarters; turn: by element `at` of the orbit; back: by base angle
    `at` and back; averaged: an answer averaged over group `at[0]`, of look `at[1]`."""

    what: What
    at: Any = None

    @property
    def is_exact(self) -> bool:
        return self.what == "upright" or (self.what == "turn" and isinstance(self.at, Element) and self.at.exact)


UPRIGHT, REFERENCE = Key("upright"), Key("reference")


@dataclass(frozen=True)
class Plan:
    """Which looks an audit asks for."""

    orbit: tuple[Element, ...]
    bases: tuple[float, ...]
    masked: bool
    quarters: tuple[int, ...] = (1, 2, 3)  # of the reference, for the average over quarter turns

    @property
    def keys(self) -> list[Key]:
        masked = [REFERENCE, *(Key("quarter", q) for q in self.quarters)] if self.masked else []
        backs = [Key("back", base) for base in self.bases]
        return [UPRIGHT, *masked, *(Key("turn", e) for e in self.orbit), *backs]

    @property
    def reference(self) -> Key:
        return REFERENCE if self.masked else UPRIGHT

    def reference_of(self, key: Key) -> Key:
        return UPRIGHT if key.is_exact else self.reference


def spread_out(number: int, few: int) -> np.ndarray:
    """At most `few` indices below `number`, evenly: the first images may all be of one class.

    >>> spread_out(100, 4).tolist(), spread_out(2, 4).tolist()
    ([0, 33, 66, 99], [0, 1])
    """
    return np.unique(np.linspace(0, number - 1, min(number, few)).astype(int))


class Moments:
    """Mean and spread of vectors that come a batch at a time (Chan et al. 1983), in double precision."""

    def __init__(self) -> None:
        self.n, self.mean, self.spread, self.squares = 0, torch.zeros(()), 0.0, 0.0

    def add(self, x: Tensor) -> None:
        x = x.detach().flatten(1).double().cpu()
        mean = x.mean(0)
        self.squares += float(x.square().sum())
        self.spread += float((x - mean).square().sum())
        if self.n:
            self.spread += float((mean - self.mean).square().sum()) * self.n * len(x) / (self.n + len(x))
        self.mean = mean if not self.n else self.mean + (mean - self.mean) * (len(x) / (self.n + len(x)))
        self.n += len(x)

    @property
    def variation(self) -> float:
        """The root mean square distance of two images, over all pairs (metrics.robustness.image_variation)."""
        return (2 * self.spread / (self.n - 1)) ** 0.5 if self.n > 1 else 0.0

    @property
    def size(self) -> float:
        return (self.squares / self.n) ** 0.5 if self.n else 0.0


class Rows:
    """Arrays (N, ...) by name and key, put together from batches."""

    def __init__(self) -> None:
        self.parts: dict[tuple[str, Key], list[np.ndarray]] = {}

    def add(self, name: str, key: Key, values: Tensor) -> None:
        self.parts.setdefault((name, key), []).append(values.detach().cpu().numpy())

    def __call__(self, name: str, key: Key) -> np.ndarray:
        found = self.parts[name, key]
        if len(found) > 1:
            self.parts[name, key] = found = [np.concatenate(found)]
        return found[0]

    def has(self, name: str, key: Key) -> bool:
        return (name, key) in self.parts

    def stack(self, name: str, keys: Sequence[Key]) -> np.ndarray:
        """(N, keys)"""
        return np.stack([self(name, key) for key in keys], axis=1)


class Decisions:
    """Class scores (B, K), or with `multi` those of independent labels.

    decision (N,) index, or (N, K) bool; probability (N,) of the upright decision; divergence (N,) in nats; square (N,)
    squared distance of the scores; confidence (N,) of the decision; scores (N, K) where there are few classes.
    """

    def __init__(self, plan: Plan, multi: bool) -> None:
        self.plan, self.multi, self.rows = plan, multi, Rows()
        self.moments = {UPRIGHT: Moments(), plan.reference: Moments()}
        self.batch: dict[Key, Tensor] = {}
        self.classes = 0

    def add(self, key: Key, answer: Tensor) -> None:
        self.batch[key] = answer

    def close(self) -> None:
        """Reduce the answers to one batch."""
        answers, self.batch = self.batch, {}
        self.classes = answers[UPRIGHT].shape[1]
        probabilities = {key: self._probabilities(answer) for key, answer in answers.items()}
        centred = {key: self._centred(answer) for key, answer in answers.items()}
        for key, moments in self.moments.items():
            moments.add(centred[key])
        for key, p in [*probabilities.items(), *self._averaged(probabilities)]:
            reference = probabilities[self.plan.reference_of(key)]
            if key in centred:
                distance = centred[key] - centred[self.plan.reference_of(key)]
                self.rows.add("square", key, distance.square().sum(1))
                self.rows.add("divergence", key, self._divergence(p, reference))
                self.rows.add("probability", key, self._of_decision(p, reference))
            self.rows.add("decision", key, p > 0.5 if self.multi else p.argmax(1))
            self.rows.add("confidence", key, self._of_decision(p, p))
            if self.classes <= SCORED:
                self.rows.add("scores", key, p.float())

    def _probabilities(self, answer: Tensor) -> Tensor:
        answer = answer.double()
        return answer.sigmoid() if self.multi else answer.softmax(1)

    def _centred(self, answer: Tensor) -> Tensor:
        answer = answer.double()
        return answer if self.multi else answer - answer.mean(1, keepdim=True)

    def _of_decision(self, p: Tensor, reference: Tensor) -> Tensor:
        """The probability that p gives to the decision of the reference; of labels their mean."""
        if self.multi:
            return torch.where(reference > 0.5, p, 1 - p).mean(1)
        return p.gather(1, reference.argmax(1, keepdim=True))[:, 0]

    def _divergence(self, p: Tensor, q: Tensor) -> Tensor:
        if self.multi:
            p, q = torch.stack([p, 1 - p], 2).flatten(0, 1), torch.stack([q, 1 - q], 2).flatten(0, 1)
        middle = (p + q) / 2
        parts = [torch.xlogy(a, a) - torch.xlogy(a, middle) for a in (p, q)]
        found = ((parts[0] + parts[1]).sum(1) / 2).clamp(min=0)
        return found.unflatten(0, (-1, self.classes)).mean(1) if self.multi else found

    def _averaged(self, p: dict[Key, Tensor]) -> Iterator[tuple[Key, Tensor]]:
        """Mean probabilities over the looks that are each other's exact turns."""
        for group, of, keys in averages(self.plan):
            yield Key("averaged", (group, of)), torch.stack([p[key] for key in keys]).mean(0)


def averages(plan: Plan) -> Iterator[tuple[str, Any, list[Key]]]:
    """(group, look, the looks whose mean is the answer averaged over the group); look: "upright", "reference" or a base
    angle."""
    turns = {(e.mirror, e.quarters, e.base): Key("turn", e) for e in plan.orbit}
    known: dict[tuple[bool, int, float], Key] = {(False, 0, 0.0): UPRIGHT} | turns
    wanted = {"C4": [(False, q) for q in range(4)], "D4": [(m, q) for m in (False, True) for q in range(4)]}
    wanted |= {"D2": [(m, q) for m in (False, True) for q in (0, 2)]}
    for group, elements in wanted.items():
        if all((m, q, 0.0) in known for m, q in elements) and not (group == "D2" and (False, 1, 0.0) in known):
            yield group, "upright", [known[m, q, 0.0] for m, q in elements]
    if plan.masked and plan.quarters:
        yield "C4", "reference", [REFERENCE, *(Key("quarter", q) for q in (1, 2, 3))]
    for base in plan.bases:
        if all((False, q, base) in known for q in range(4)):
            yield "C4", base, [known[False, q, base] for q in range(4)]
