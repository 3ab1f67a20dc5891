"""From what was kept of every answer to the numbers of the audit: classes, and independent labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..metrics.classification import Metrics, Ranking
from ..metrics.robustness import ABSOLUTE_NOISE, RELATIVE_NOISE, interval_of_means
from ..results import Averaged, Change, ClassAudit, Interval, Orbit, Turn
from .config import AuditConfig
from .rows import UPRIGHT, Decisions, Key, Moments, Plan, averages
from .turning import Element

CONFUSED = 30  # classes up to which whole confusion matrices are kept
CHANGES = 60  # pairs of classes that are listed
NOTHING = Interval(None)


@dataclass(frozen=True)
class Measured:
    """The numbers of one model, and the columns (N,) by which models are compared and examples chosen."""

    degenerate: bool
    turns: tuple[Turn, ...]
    fields: dict[str, Any]  # more of AuditResult, by name
    variation: float  # of the output between images; 0: degenerate
    columns: dict[str, np.ndarray] = field(default_factory=dict)


def is_degenerate(moments: Moments) -> bool:
    """As metrics.robustness.is_degenerate, of scores that came in batches."""
    return moments.variation <= max(ABSOLUTE_NOISE, RELATIVE_NOISE * moments.size)


def errors(squares: np.ndarray, moments: Moments) -> tuple[float | None, float | None]:
    """(between-image, relative) error of one look from the squared distances (N,)."""
    distance = float(np.sqrt(squares.mean()))
    between = None if is_degenerate(moments) else distance / moments.variation
    return between, distance / moments.size if moments.size > 0 else None


def mean(values: Sequence[float | None]) -> float | None:
    """None if there is nothing to average or one of them is None."""
    found = list(values)
    return None if not found or None in found else float(np.mean(found))  # type: ignore[arg-type]


def bootstrapped(columns: dict[Any, np.ndarray], groups: np.ndarray | None, config: AuditConfig) -> dict[Any, Interval]:
    """The mean of every column with its interval; the same resamples for all."""
    if not columns:
        return {}
    table = np.stack([column.astype(np.float64) for column in columns.values()], axis=1)
    found = interval_of_means(table, groups, config.bootstrap, config.confidence, config.seed)
    return dict(zip(columns, found, strict=True))


@dataclass
class DecisionStatistics:
    """Everything that is said about decisions. labels: (N,) indices, (N, K) bool of independent labels, or None."""

    tally: Decisions
    labels: np.ndarray | None
    groups: np.ndarray | None
    classes: tuple[str, ...]
    config: AuditConfig

    @property
    def plan(self) -> Plan:
        return self.tally.plan

    @property
    def n(self) -> int:
        return len(self.tally.rows("confidence", UPRIGHT))

    def right(self, key: Key) -> np.ndarray:
        if self.labels is None:
            return np.full(self.n, np.nan)
        same = self.tally.rows("decision", key) == self.labels
        return same.all(1) if self.tally.multi else same

    def flipped(self, key: Key, against: Key | None = None) -> np.ndarray:
        against = against or self.plan.reference_of(key)
        changed = self.tally.rows("decision", key) != self.tally.rows("decision", against)
        return changed.any(1) if self.tally.multi else changed

    @cached_property
    def exact(self) -> list[Key]:
        return [Key("turn", e) for e in self.plan.orbit if e.exact]

    @cached_property
    def others(self) -> list[Key]:
        return [Key("turn", e) for e in self.plan.orbit if not e.exact]

    def measured(self) -> Measured:
        degenerate = is_degenerate(self.tally.moments[UPRIGHT])
        columns = self._columns()
        intervals = bootstrapped(columns, self.groups, self.config)
        turns = tuple(self._turn(e, intervals, degenerate) for e in self.plan.orbit)
        orbits = {
            name: self._orbit(name, keys, intervals)
            for name, keys in (("exact", self.exact), ("interpolated", self.others))
        }
        auc, ece = self._scores(UPRIGHT)
        fields: dict[str, Any] = {
            **orbits,
            "upright": {"auc": auc, "ece": ece},
            "per_class": self._per_class(),
            "averaged": self._averages(intervals),
            "majority_rate": self._majority(),
            "confusion": self.confusion(UPRIGHT),
            "upright_accuracy": intervals["right", UPRIGHT].value,
            "worst_angle_accuracy": self._least([turn.accuracy.value for turn in turns]),
            "always_right": self._always_right(),
            "classes": self.classes if len(self.classes) <= CONFUSED else (),
        }
        named = {str(name): values for name, values in columns.items() if isinstance(name, str)}
        named["right"] = columns["right", UPRIGHT]
        named["flips"] = np.sum([self.flipped(key) for key in self.exact + self.others], axis=0)
        variation = 0.0 if degenerate else self.tally.moments[self.plan.reference].variation
        return Measured(degenerate, turns, fields, variation, named)

    def _columns(self) -> dict[Any, np.ndarray]:
        """Every column whose mean is reported: by (what, key), or by name for what belongs to a whole orbit."""
        keys = [*self.plan.keys, *(Key("averaged", (group, of)) for group, of, _ in averages(self.plan))]
        found: dict[Any, np.ndarray] = {("right", key): self.right(key) for key in keys}
        found |= {("flip", key): self.flipped(key) for key in self.plan.keys}
        for name, orbit in (("exact", self.exact), ("interpolated", self.others)):
            if not orbit:
                continue
            against = self.plan.reference_of(orbit[0])
            right = np.stack([self.right(key) for key in [against, *orbit]])
            flips = np.stack([self.flipped(key) for key in orbit])
            flipped = np.any(flips, axis=0)
            probability = np.stack([self.tally.rows("probability", key) for key in [against, *orbit]])
            found |= {
                f"{name} mean": right.mean(0),
                f"{name} worst": right.min(0),
                f"{name} flip": flipped,
                f"{name} spread": probability.max(0) - probability.min(0),
                f"{name} stable wrong": np.where(np.isnan(right[0]), np.nan, (right[0] == 0) & ~flipped),
            }
        if self.others:
            found["floor flip"] = np.any([self.flipped(Key("back", base)) for base in self.plan.bases], axis=0)
        return found

    def _turn(self, e: Element, intervals: dict[Any, Interval], degenerate: bool) -> Turn:
        key, back = Key("turn", e), Key("back", e.base)
        moments = self.tally.moments[self.plan.reference_of(key)]
        between, relative = errors(self.tally.rows("square", key), moments)
        auc, ece = self._scores(key)
        floors: dict[str, float | None] = {}
        floor = None if degenerate else 0.0
        if not e.exact:
            floor, relative_floor = errors(self.tally.rows("square", back), moments)
            back_auc, back_ece = self._scores(back)
            floors = {
                "between_image_error": floor,
                "relative_error": relative_floor,
                "flip_rate": intervals["flip", back].value,
                "accuracy": intervals["right", back].value,
                "divergence": float(self.tally.rows("divergence", back).mean()),
                "auc": back_auc,
                "ece": back_ece,
            }
        return Turn(
            angle=e.angle,
            mirror=e.mirror,
            exact=e.exact,
            between_image_error=between,
            relative_error=relative,
            floor=floor,
            flip_rate=intervals["flip", key],
            accuracy=intervals["right", key],
            divergence=float(self.tally.rows("divergence", key).mean()),
            auc=auc,
            ece=ece,
            recall=self._recall(key),
            confusion=self.confusion(key),
            floors=floors,
        )

    def _orbit(self, name: str, keys: list[Key], intervals: dict[Any, Interval]) -> Orbit | None:
        if not keys:
            return None
        against = self.plan.reference_of(keys[0])
        inexact = name == "interpolated"
        backs = [self.tally.rows("divergence", Key("back", base)).mean() for base in self.plan.bases]
        return Orbit(
            turns=len(keys),
            upright_accuracy=intervals["right", against],
            mean_accuracy=intervals[f"{name} mean"],
            worst_accuracy=intervals[f"{name} worst"],
            flip_rate=intervals[f"{name} flip"],
            floor_flip_rate=intervals["floor flip"] if inexact else NOTHING,
            spread=intervals[f"{name} spread"],
            divergence=mean([float(self.tally.rows("divergence", key).mean()) for key in keys]),
            floor_divergence=mean([float(value) for value in backs]) if inexact else None,
            stable_wrong=intervals[f"{name} stable wrong"],
            changes=self._changes(against, keys),
        )

    def _scores(self, key: Key) -> tuple[float | None, float | None]:
        """AUC, mean over the classes, and ECE."""
        if self.labels is None:
            return None, None
        ones = np.ones((1, self.n))
        if self.tally.multi:
            if not self.tally.rows.has("scores", key):
                return None, None
            values = [
                Ranking(truth.astype(int), np.stack([1 - p, p], 1))(ones)[0][0]
                for truth, p in zip(self.labels.T, self.tally.rows("scores", key).T, strict=True)
            ]
            defined = [value for value in values if not np.isnan(value)]
            return (float(np.mean(defined)) if defined else None), None
        if self.tally.rows.has("scores", key):
            found = Metrics(self.labels, self.tally.rows("scores", key).astype(np.float64))(ones)
            return _defined(found["auc"][0]), _defined(found["ece"][0])
        sure, right = self.tally.rows("confidence", key), self.right(key)
        two = np.stack([1 - sure, sure], 1)  # ECE looks at the confidence of the decision alone
        bins = np.clip(np.ceil(two[:, 1] * 15).astype(int) - 1, 0, 14)
        return None, float(np.abs(np.bincount(bins, sure - right, 15)).sum() / self.n)

    def _recall(self, key: Key) -> tuple[float | None, ...]:
        if self.labels is None or len(self.classes) > CONFUSED:
            return ()
        if self.tally.multi:
            decided = self.tally.rows("decision", key)
            return tuple(_share(decided[truth, k]) for k, truth in enumerate(self.labels.T))
        right = self.right(key)
        return tuple(_share(right[self.labels == k]) for k in range(len(self.classes)))

    def confusion(self, key: Key) -> tuple[tuple[int, ...], ...]:
        k = len(self.classes)
        if self.labels is None or self.tally.multi or k > CONFUSED:
            return ()
        counts = np.bincount(self.labels * k + self.tally.rows("decision", key), minlength=k * k).reshape(k, k)
        return tuple(tuple(row) for row in counts.tolist())

    def _changes(self, against: Key, keys: list[Key]) -> tuple[Change, ...]:
        before = self.tally.rows("decision", against)
        found: Counter[tuple[str, str]] = Counter()
        for key in keys:
            after = self.tally.rows("decision", key)
            if self.tally.multi:
                for k, name in enumerate(self.classes):
                    found[name, f"not {name}"] += int((before[:, k] & ~after[:, k]).sum())
                    found[f"not {name}", name] += int((~before[:, k] & after[:, k]).sum())
                continue
            where = before != after
            pairs, counts = np.unique(np.stack([before[where], after[where]], 1), axis=0, return_counts=True)
            for (a, b), count in zip(pairs.tolist(), counts.tolist(), strict=True):
                found[self.classes[a], self.classes[b]] += count
        return tuple(Change(*pair, count) for pair, count in found.most_common(CHANGES) if count)

    def _per_class(self) -> tuple[ClassAudit, ...]:
        if self.tally.multi:
            return ()
        of = self.tally.rows("decision", UPRIGHT) if self.labels is None else self.labels
        columns = self._columns()
        nothing = np.full(self.n, np.nan)
        rows = []
        for k in np.unique(of).tolist():
            of_class = of == k
            values = [
                _share(columns.get(name, nothing)[of_class])
                for name in (("right", UPRIGHT), "exact worst", "exact flip", "interpolated flip")
            ]
            rows.append(ClassAudit(self.classes[k], int(of_class.sum()), *values))
        return tuple(rows)

    def _averages(self, intervals: dict[Any, Interval]) -> tuple[Averaged, ...]:
        known = {(group, of): keys for group, of, keys in averages(self.plan)}
        rows = []
        for group, of in known:
            if of != "upright":
                continue
            auc, ece = self._scores(Key("averaged", (group, of)))
            against = Key("averaged", (group, "reference" if self.plan.masked else "upright"))
            bases = [Key("averaged", (group, base)) for base in self.plan.bases if (group, base) in known]
            other = NOTHING
            if bases and group == "C4":
                flips = np.any([self.flipped(key, against) for key in bases], axis=0)
                other = bootstrapped({0: flips}, self.groups, self.config)[0]
            accuracy = intervals["right", Key("averaged", (group, of))]
            rows.append(Averaged(group, len(known[group, of]), accuracy, auc, ece, other))
        return tuple(rows)

    def _majority(self) -> float | None:
        if self.labels is None:
            return None
        _, counts = np.unique(self.labels, axis=0, return_counts=True)
        return float(counts.max() / self.n)

    def _always_right(self) -> float | None:
        if self.labels is None:
            return None
        return float(np.all([self.right(key) for key in [UPRIGHT, *self.exact, *self.others]], axis=0).mean())

    @staticmethod
    def _least(values: list[float | None]) -> float | None:
        defined = [value for value in values if value is not None]
        return min(defined) if defined else None


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _share(values: np.ndarray) -> float | None:
    return None if not len(values) or np.isnan(values.astype(float)).any() else float(values.mean())
