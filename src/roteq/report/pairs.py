"""Two models and the difference between them, equivariant against standard, in the metric that decides."""

from dataclasses import dataclass, replace

from ..results import Difference, Interval, Run, Study, Summary
from . import maps


def change(difference: Difference, metric: str) -> Interval:
    """The difference of two models in a metric."""
    if metric in ("auc", "accuracy"):
        return getattr(difference, metric)
    return difference.metrics.get(metric, Interval(None))


def side(interval: Interval) -> int:
    """On which side of 0 the interval lies; 0 if it includes 0 or does not exist."""
    if interval.low is None or interval.high is None:
        return 0
    return 1 if interval.low > 0 else -1 if interval.high < 0 else 0


@dataclass(frozen=True)
class Pair:
    """Model a against model b in the metric that decides: AUC, or accuracy where AUC does not exist; of maps the
    leading metric of the study."""

    a: Summary
    b: Summary
    difference: Difference  # a minus b
    leading: str = "auc"

    @property
    def metric(self) -> str:
        return "accuracy" if self.leading == "auc" and self.difference.auc.value is None else self.leading

    @property
    def beside(self) -> str:
        """The metric that may confirm it."""
        return "accuracy" if self.leading == "auc" else "auc"

    @property
    def interval(self) -> Interval:
        return change(self.difference, self.metric)

    @property
    def outcome(self) -> int:
        """1: a beats b, -1: b beats a, 0: no difference shown."""
        return side(self.interval)


def runs_of(study: Study, label: str) -> list[Run]:
    return [run for run in study.runs if run.label == label]


def stop_guards(run: Run) -> list[str]:
    return [f.guard for f in (*run.findings, *run.fit.findings) if f.level == "stop"]


def find_pairs(study: Study) -> tuple[bool, list[Pair]]:
    """Every equivariant network against every standard one; all differences where one of the kinds is missing."""
    summaries = {s.label: s for s in study.summaries}
    known = [d for d in study.differences if d.a in summaries and d.b in summaries]
    leading = maps.leading_metric(study)
    pairs = []
    for d in known:
        a, b = summaries[d.a], summaries[d.b]
        if a.group is not None and b.group is None:
            pairs.append(Pair(a, b, d, leading))
        elif a.group is None and b.group is not None:
            pairs.append(Pair(b, a, turned_round(d), leading))
    return bool(pairs), pairs or [Pair(summaries[d.a], summaries[d.b], d, leading) for d in known]


def turned_round(d: Difference) -> Difference:
    """b minus a."""

    def minus(i: Interval) -> Interval:
        low, value, high = (None if x is None else -x for x in (i.high, i.value, i.low))
        return Interval(value, low, high)

    return replace(
        d,
        a=d.b,
        b=d.a,
        auc=minus(d.auc),
        accuracy=minus(d.accuracy),
        only_a_right=d.only_b_right,
        only_b_right=d.only_a_right,
        metrics={name: minus(i) for name, i in d.metrics.items()},
    )
