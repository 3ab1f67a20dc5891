"""What one model says of one image all the way round the circle: the numbers that a drawing shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RoteqError
from .explorer import Explorer
from .networks import Answer

ROWS = 5  # classes with a bar
LIKELY = 0.5  # a label is given from here on


@dataclass(frozen=True)
class Course:
    """The answers of one model. The rows of its bars stay the same all round: `rows`, the classes that are largest
    somewhere on the circle, the largest first. What the polar plot follows is `radius`, 0 to 1."""

    name: str
    kind: str | None = None
    classes: tuple[str, ...] = ()
    upright: Answer | None = None  # at 0 degrees, not mirrored: what all others are compared with
    answers: Mapping[int, Answer] = field(default_factory=dict)  # degrees -> answer
    summary: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def rows(self) -> tuple[int, ...]:
        peaks: dict[int, float] = {}
        for answer in (*self.answers.values(), *filter(None, [self.upright])):
            for index, value in answer.values.items():
                peaks[index] = max(value, peaks.get(index, 0.0))
        return tuple(sorted(peaks, key=lambda index: (-peaks[index], index))[:ROWS])

    @property
    def followed(self) -> int | None:
        """The class whose probability is followed: the decision upright, or the likeliest label."""
        if self.upright is None or self.kind in ("map", "embedding") or not self.upright.values:
            return None
        if self.upright.decision is not None:
            return self.upright.decision
        return max(self.upright.values, key=lambda index: self.upright.values[index])  # type: ignore[union-attr]

    def radius(self, answer: Answer) -> float:
        """Probability of the class followed; of a map the share of pixels that change their class; of an embedding the
        cosine similarity to that upright (0 where it is negative)."""
        if self.kind == "map":
            return answer.changed or 0.0
        if self.kind == "embedding":
            return max(0.0, min(1.0, answer.values.get(0, 0.0)))
        return answer.values.get(self.followed, 0.0) if self.followed is not None else 0.0

    def flips(self) -> list[Answer]:
        """The answers with another decision than upright."""
        return [] if self.kind == "map" else [answer for answer in self.answers.values() if answer.changed]

    def decided(self, answer: Answer) -> str:
        """The decision in words."""
        if self.kind == "embedding":
            return f"similarity {answer.values.get(0, 0.0):.3f}"
        if self.kind == "map":
            return f"{percent(answer.changed or 0.0)} of pixels change"
        if self.kind == "labels":
            found = [self.label(index) for index, value in answer.values.items() if value >= LIKELY]
            return ", ".join(found) or "none of the labels"
        if answer.decision is None:
            return ""
        return f"{self.label(answer.decision)}  {percent(answer.values.get(answer.decision, 0.0))}"

    def label(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else f"class {index}"

    def shown(self, answer: Answer, index: int) -> str:
        """The number beside a bar. Of many classes only the largest are known."""
        if index not in answer.values:
            return f"< {percent(min(answer.values.values(), default=0.0))}"
        return f"{answer.values[index]:.3f}" if self.kind == "embedding" else percent(answer.values[index])

    def follows(self) -> str:
        """What the polar plot shows, in words."""
        if self.kind == "map":
            return "share of pixels that change their class"
        if self.kind == "embedding":
            return "cosine similarity to the answer upright"
        return "" if self.followed is None else f"probability of {self.label(self.followed)}"

    def counted(self) -> str:
        """The summary in words; exact and interpolated turns are never in one number."""
        parts = []
        for kind in ("exact", "interpolated"):
            if flips := self.summary.get(f"{kind}_flips"):
                parts.append(f"{flips[0]} of {flips[1]} {kind}")
            elif (changed := self.summary.get(f"{kind}_changed")) is not None:
                parts.append(f"{percent(changed)} {kind}")
            elif (similarity := self.summary.get(f"{kind}_similarity")) is not None:
                parts.append(f"{similarity:.3f} {kind}")
        lead = {"map": "mean: ", "embedding": "mean: "}.get(self.kind or "", "flips: ")
        return lead + ", ".join(parts) if parts else ""


def percent(share: float) -> str:
    """
    >>> percent(0.9312), percent(0.9999), percent(1.0)
    ('93.1 %', '>99.9 %', '100.0 %')
    """
    text = f"{100 * share:.1f}"
    return ">99.9 %" if text == "100.0" and share < 1 else f"{text} %"


def gather(
    explorer: Explorer, id: str, mirror: bool, model: int, step: int, others: Sequence[int] = ()
) -> Iterator[Course | None]:
    """Ask one model all round, every `step` degrees, and at `others`: None after each answer, at the end the Course."""
    network = explorer.networks[model]
    try:
        upright = explorer.answer(model, id, 0)
        yield None
        answers = {}
        for answer in explorer.circle(model, id, mirror, step):
            answers[answer.degrees] = answer
            yield None
        summary = explorer.summary(model, list(answers.values()))
        for degrees in others:
            if degrees not in answers and len(answers) == 360 // step:  # an oblong input knows no other turns
                answers[degrees] = explorer.answer(model, id, degrees, mirror)
                yield None
    except RoteqError as error:
        yield Course(network.name, error=str(error))
        return
    found = dict(sorted(answers.items()))
    yield Course(network.name, network.kind, tuple(network.classes), upright, found, summary)
