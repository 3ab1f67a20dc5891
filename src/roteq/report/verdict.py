"""The verdict in words: what helps, by how much, how sure, and what to distrust.

Nothing is computed here but comparisons of given numbers. Two rules stand above all others. A network that failed a
check of level 'stop' (it gives one answer to everything, say) proves nothing, and neither does beating it: the
headline says so and the network takes part in no comparison. And an accuracy never stands without the majority rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..results import Finding, Interval, Run, Spread, Study, Summary
from . import maps
from .pairs import Pair, change, find_pairs, runs_of, side, stop_guards, turned_round
from .words import SHORT, error, listing, number, percent, plural, signed

COLLAPSE = {"constant predictor", "dead units"}  # guards that mean: it has learnt nothing
FEW_IMAGES, FEW_GROUPS, FEW_SEEDS = 500, 10, 3
UNEQUAL_PARAMETERS = 1.10  # larger / smaller
EXACT = 0.01  # between-image error past which an exact turn visibly changes the output
NOTHING = Spread(None, None, 0)
FLOOR_SHARE = 0.5  # of an interpolated error; from there on it may be mostly the resampling


@dataclass(frozen=True)
class Verdict:
    headline: str
    sentences: tuple[str, ...]
    distrust: tuple[str, ...]
    void: bool = False  # a check of level 'stop' failed: (part of) the study says nothing
    caution: str = ""  # what to know before any number: how few the images are


@dataclass(frozen=True)
class Observation:
    """One kind of finding: what was seen where (places, message), and what to try."""

    level: str
    guard: str
    advice: str
    seen: tuple[tuple[str, str], ...]


def verdict(study: Study) -> Verdict:
    """The study in a headline, sentences that carry its numbers, and the reasons to distrust them."""
    whole = [f for f in (*study.findings, *study.dataset.findings) if f.level == "stop"]
    void = {s.label: count for s in study.summaries if (count := stopped_seeds(study, s))}
    equivariance, pairs = find_pairs(study)
    valid = [p for p in pairs if p.a.label not in void and p.b.label not in void]
    is_maps = maps.is_maps(study)
    sentences = [
        *(f"{sentence(f.message)} {f.advice}".strip() for f in dict.fromkeys(whole)),
        *(_stopped_sentence(study, label, count) for label, count in void.items()),
        *(_pair_sentence(p, study.confidence) for p in valid),
        *_left_out_sentence([p for p in pairs if p not in valid]),
        *(_map_sentences(study, void) if is_maps else _patch_sentences(study, void)),
    ]
    name = maps.where(study) if is_maps else study.name
    headline = _void_headline(study, whole, void) or _headline(study.name, name, valid, equivariance)
    return Verdict(
        headline, tuple(sentences), tuple(_distrust(study, valid, void)), bool(whole or void), maps.caution(study)
    )


def _patch_sentences(study: Study, void: dict[str, int]) -> Iterator[str]:
    yield from _accuracy_sentence(study, void)
    yield from _turn_sentences(study, void)
    yield from _basis_sentence(study)


def _map_sentences(study: Study, void: dict[str, int]) -> Iterator[str]:
    yield from maps.accuracy_sentence(study, list(void))
    yield from maps.turn_sentences(study, list(void))
    yield from maps.augment_sentence(study)
    yield from maps.basis_sentence(study)


def all_findings(study: Study) -> list[Observation]:
    """What the guards saw, 'stop' first, each guard with everything it said, once."""
    found: dict[tuple[str, str, str], dict[str, list[tuple[str, int | None]]]] = {}
    for f in (*study.dataset.findings, *study.findings):
        found.setdefault((f.level, f.guard, f.advice), {}).setdefault(f.message, []).append((study.name, None))
    for run in study.runs:
        for f in dict.fromkeys((*run.findings, *run.fit.findings)):
            places = found.setdefault((f.level, f.guard, f.advice), {}).setdefault(f.message, [])
            places.append((run.label, run.seed))
    seen = [
        Observation(level, guard, advice, tuple((_places(places), sentence(text)) for text, places in texts.items()))
        for (level, guard, advice), texts in found.items()
    ]
    return sorted(seen, key=lambda o: o.level != "stop")


def _places(places: list[tuple[str, int | None]]) -> str:
    """ "se2cnn C12 (seeds 0 and 1), resnet18 (seed 0)"."""
    seeds: dict[str, list[int]] = {}
    for label, seed in places:
        seeds.setdefault(label, []).extend([] if seed is None else [seed])
    words = [
        f"{label} (seed{'s' if len(s) > 1 else ''} {listing(sorted(s))})" if s else label for label, s in seeds.items()
    ]
    return ", ".join(words)


def sentence(text: str) -> str:
    """Closed with a full stop."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def stopped_seeds(study: Study, summary: Summary) -> int:
    return max(summary.collapsed, sum(bool(stop_guards(r)) for r in runs_of(study, summary.label)))


def _void_headline(study: Study, whole: list[Finding], void: dict[str, int]) -> str:
    if whole:
        return f"Nothing may be concluded from this study: {listing(dict.fromkeys(f.guard for f in whole))}."
    if not void:
        return ""
    rest = len(study.summaries) - len(void)
    tail = "Nothing else is left to compare." if rest < 2 else "The other models are compared below."
    guards = {g for run in study.runs for g in stop_guards(run)}
    did = "collapsed" if guards <= COLLAPSE else "failed a check"
    return f"Nothing may be concluded from {listing(void)}: {'its' if len(void) == 1 else 'their'} runs {did}. {tail}"


def _stopped(study: Study, label: str, count: int) -> str:
    """ "3 of 3 runs collapsed: constant predictor"."""
    guards = dict.fromkeys(g for r in runs_of(study, label) for g in stop_guards(r))
    seeds = next(s.seeds for s in study.summaries if s.label == label)
    verb = "collapsed" if set(guards) <= COLLAPSE else "failed"
    return f"{count} of {plural(seeds, 'run')} {verb}{': ' if guards else ''}{listing(guards) if guards else ''}"


def _headline(study: str, name: str, pairs: list[Pair], equivariance: bool) -> str:
    """`name`: of what the study speaks, which may be a few images of it."""
    if not pairs:
        return f"{study}: no two models were compared."
    won, lost = [p for p in pairs if p.outcome > 0], [p for p in pairs if p.outcome < 0]
    if not equivariance:
        return (
            f"{study} does not set an equivariant network against a standard one, so it cannot say whether one helps."
        )
    if not won and not lost:
        return f"No difference shown between equivariant and standard networks on {name}."
    if len(won) == len(pairs):
        return f"Equivariance pays on {name}: {_beats([(p.a.label, p.b.label) for p in won])}."
    if len(lost) == len(pairs):
        return f"Equivariance does not pay on {name}: {_beats([(p.b.label, p.a.label) for p in lost])}."
    undecided = len(pairs) - len(won) - len(lost)
    counts = [(len(won), "for"), (len(lost), "against"), (undecided, "undecided")]
    parts = listing(f"{count} {word}" for count, word in counts if count)
    start = "Equivariance pays in part" if not lost else "Equivariance does not pay" if not won else "Mixed results"
    return f"{start} on {name}: of {plural(len(pairs), 'comparison')} with standard networks {parts}."


def _beats(pairs: list[tuple[str, str]]) -> str:
    winners, losers = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
    return f"{listing(winners)} {'beats' if len(winners) == 1 else 'beat'} {listing(losers)}"


def _stopped_sentence(study: Study, label: str, count: int) -> str:
    return f"{label}: {_stopped(study, label, count)}. Neither its numbers nor any comparison with it means anything."


def _left_out_sentence(pairs: list[Pair]) -> Iterator[str]:
    if pairs:
        yield f"Left out for that reason: {listing(f'{p.a.label} against {p.b.label}' for p in pairs)}."


def _pair_sentence(pair: Pair, confidence: float) -> str:
    up = pair if pair.outcome >= 0 else Pair(pair.b, pair.a, turned_round(pair.difference), pair.leading)
    a, b, i = up.a.label, up.b.label, up.interval
    name = SHORT[up.metric]
    values = f"{name} {_mean(up.a, up.metric)} against {_mean(up.b, up.metric)}, difference {signed(i.value)}"
    if i.low is None or i.high is None:
        return f"No difference shown between {a} and {b}: {values}; no interval could be computed."
    values += f" ({100 * confidence:g} % interval {signed(i.low)} to {signed(i.high)})"
    beside = _beside(up)
    if up.outcome:
        return f"{a} beats {b}: {values}{beside}."
    hidden = f"an advantage of up to {number(i.high)} for {a} or {number(-i.low)} for {b} is not ruled out"
    return f"No difference shown between {a} and {b}: {values}; {hidden}{beside}."


def _beside(pair: Pair) -> str:
    """The AUC beside the leading metric of maps."""
    i = pair.difference.auc
    if pair.leading == "auc" or i.value is None or i.low is None or i.high is None:
        return ""
    return f"; difference in AUC {signed(i.value)} ({signed(i.low)} to {signed(i.high)})"


def _mean(summary: Summary, metric: str) -> str:
    return number(summary.metrics.get(metric, NOTHING).mean)


def _accuracy_sentence(study: Study, void: dict[str, int]) -> Iterator[str]:
    if not study.runs:
        return
    evaluation = study.runs[0].evaluation
    always = max(evaluation.counts, key=lambda c: evaluation.counts[c])
    models = [f"{_mean(s, 'accuracy')} ({s.label})" for s in study.summaries if s.label not in void]
    base = f"always answering '{always}' reaches {number(evaluation.majority_rate)} (the majority rate)"
    yield f"Accuracy {listing(models)}; {base}." if models else f"{base[0].upper()}{base[1:]}."


def _turn_sentences(study: Study, void: dict[str, int]) -> Iterator[str]:
    """What each model does when the picture is turned; exact and interpolated turns apart."""
    for kind, words in (("exact", "a quarter or a half"), ("interpolated", "other angles")):
        means = {s.label: s.audit.get(f"{kind}_flip_rate", NOTHING).mean for s in study.summaries}
        shares = [(label, percent(mean)) for label, mean in means.items() if label not in void and mean is not None]
        if shares:
            (first, share), *rest = shares
            others = [f"{label} on {value}" for label, value in rest]
            yield f"Turned by {words}, {listing([f'{first} changes its answer on {share} of the images', *others])}."


def _basis_sentence(study: Study) -> Iterator[str]:
    if not study.runs:
        return
    evaluation = study.runs[0].evaluation
    seeds = sorted({s.seeds for s in study.summaries})
    groups = f" from {plural(evaluation.clusters, 'group')}" if evaluation.clusters else ""
    counts = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    yield f"All of this rests on {plural(evaluation.n, 'test image')}{groups} and {counts} a model."


def _distrust(study: Study, pairs: list[Pair], void: dict[str, int]) -> Iterator[str]:
    """The worst first."""
    for observation in all_findings(study):
        for places, message in observation.seen:
            yield f"{places}: {observation.guard}: {message}"
    summaries = [s for s in study.summaries if s.label not in void]
    yield from _distrust_models(study, summaries)
    yield from _distrust_sizes(pairs)
    yield from _distrust_pairs(study, pairs)
    yield from _distrust_sample(study, pairs)


def _distrust_models(study: Study, summaries: list[Summary]) -> Iterator[str]:
    for s in summaries:
        runs = runs_of(study, s.label)
        accuracy = s.metrics.get("accuracy")
        if runs and accuracy and accuracy.mean is not None and accuracy.mean <= runs[0].evaluation.majority_rate:
            yield f"{s.label} is no more accurate than always giving the most frequent answer."
        if any(r.audit.degenerate for r in runs):
            yield (
                f"{s.label}: the output hardly varies between images, so its steadiness under turning means nothing "
                "and no equivariance error is stated."
            )
            continue
        broken = [e for r in runs for e in _promised_errors(r)]
        if broken and max(broken) > EXACT:
            yield (
                f"{s.label} is built to be equivariant, yet exact turns change its output (error up to "
                f"{error(max(broken))}): look for an asymmetric stride or a head that reads one corner."
            )
        floors = [(r.audit.interpolated_floor, r.audit.interpolated_error) for r in runs]
        if any(f is not None and e is not None and 0 < FLOOR_SHARE * e <= f for f, e in floors):
            yield f"{s.label}: much of its error at other angles may come from resampling the pictures (see its floor)."


def _promised_errors(run: Run) -> list[float]:
    """Between-image errors at the exact turns under which the network's group promises invariance."""
    if run.group is None:
        return []
    from ..groups import group

    g = group(run.group)
    promised = {(round(g.angle(e)) % 360, g.is_mirror(e)) for e in g.exact_elements}
    turns = [t for t in run.audit.turns if t.exact and (round(t.angle) % 360, t.mirror) in promised]
    return [t.between_image_error for t in turns if t.between_image_error is not None]


def _distrust_sizes(pairs: list[Pair]) -> Iterator[str]:
    unequal: dict[str, list[Pair]] = {}
    for p in pairs:
        small, large = sorted((p.a.parameters, p.b.parameters))
        if large > UNEQUAL_PARAMETERS * small:
            unequal.setdefault(p.b.label, []).append(p)
    for label, found in unequal.items():
        others = listing(f"{p.a.label} ({p.a.parameters:,})" for p in found)
        yield (
            f"{label} ({found[0].b.parameters:,} parameters) differs in size from {others}: "
            "what separates them need not be equivariance."
        )


def _distrust_pairs(study: Study, pairs: list[Pair]) -> Iterator[str]:
    for p in pairs:
        names = f"{p.a.label} and {p.b.label}"
        confirming = change(p.difference, p.beside)
        if p.outcome and p.metric == p.leading and confirming.value is not None and side(confirming) != p.outcome:
            yield f"{names}: the {SHORT[p.metric]} differs, but the {SHORT[p.beside]} does not confirm it."
        better, worse = (p.a, p.b) if p.outcome > 0 else (p.b, p.a)
        scores = [
            [
                v
                for r in runs_of(study, s.label)
                if (v := r.evaluation.metrics.get(p.metric, Interval(None)).value) is not None
            ]
            for s in (better, worse)
        ]
        if p.outcome and all(scores) and min(scores[0]) <= max(scores[1]):
            yield (
                f"{names}: the seeds overlap (worst run of {better.label} {number(min(scores[0]))}, best of "
                f"{worse.label} {number(max(scores[1]))}); with one seed each the order can be reversed."
            )


def _distrust_sample(study: Study, pairs: list[Pair]) -> Iterator[str]:
    if maps.is_maps(study):
        yield from maps.sample_doubts(study)
    elif study.runs:
        evaluation = study.runs[0].evaluation
        if evaluation.n < FEW_IMAGES:
            yield f"There are few test images ({evaluation.n}): small differences cannot show."
        if evaluation.clusters is None:
            yield (
                "The test images carry no groups (such as the specimen they come from): if several come from one, "
                "the intervals are too narrow."
            )
        elif evaluation.clusters < FEW_GROUPS:
            yield f"There are few groups in the test part ({evaluation.clusters}): the intervals are rough."
    few = [s.label for s in study.summaries if s.seeds < FEW_SEEDS]
    if few:
        yield f"Fewer than {FEW_SEEDS} seeds ({listing(few)}): the luck of one training is not averaged out."
    if len(pairs) > 2:
        yield (
            f"{len(pairs)} comparisons are made, each at {100 * study.confidence:g} %, without a correction: "
            "the more there are, the likelier it is that one of them is wrong."
        )
    skipped = sum(study.dataset.skipped.values())
    if skipped:
        yield f"{plural(skipped, 'image')} could not be used ({listing(study.dataset.skipped)})."
