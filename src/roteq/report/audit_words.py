"""What an audit found, in sentences: the answer, what else there is to say, and what to do about it."""

from ..results import AuditReport, AuditResult, Averaged, Turn
from .audit_tables import accuracies, failed, flips, floor_of, is_void, rate, shorten, stops, turn_name, worst_turn
from .words import error, interval, listing, percent, plural

ROUNDING = 1e-4  # between-image error of a deep network in float32
NAMED = 4  # models in one sentence


# ---- the first sentence


def headline(result: AuditResult) -> str:
    """The sentence that answers the question."""
    start = f"On {plural(result.images, 'image')} {result.label}"
    if result.degenerate:
        return (
            f"{start} gives (nearly) the same output for every image: degenerate, so nothing about its equivariance "
            "can be said."
        )
    if stops(result):
        guards = ", ".join(dict.fromkeys(f.guard for f in stops(result)))
        return f"{start} was stopped by a guard ({guards}): nothing about its equivariance can be said."
    if failed(result):
        names = ", ".join(c.name for c in failed(result))
        return f"{start} was audited, but a control failed ({names}): its numbers are not to be trusted."
    if result.kind == "embedding":
        return _embedding(result, start)
    changed, _ = flips(result, exact=True)
    if changed.value is None:
        return f"{start} was asked about no exact turn. {_other(result)}".rstrip()
    if changed.value == 0:
        whose = "any of their pixels" if result.kind == "map" else "any of them"
        return (
            f"{start} does not change {_what(result)} for {whose} under any of the {_turns(result)}{_beside(result)}."
        )
    text = f"{start} changes {_what(result)} for {rate(changed)} of {_whose(result)} {_under(result)}"
    return f"{text}; {_accuracy(result)}." if _accuracy(result) else f"{text}."


def _what(result: AuditResult) -> str:
    return {"labels": "its set of labels"}.get(result.kind, "its decision")


def _whose(result: AuditResult) -> str:
    return "their pixels" if result.kind == "map" else "them"


def _under(result: AuditResult) -> str:
    """ "under some 90-degree turn or mirror"; where only single turns are known, the worst of them."""
    if result.exact is None:
        return f"at the worst exact turn{_at(worst_turn(result, 'flip_rate', exact=True))}"
    exact = [t for t in result.turns if t.exact]
    angles = {t.angle for t in exact if not t.mirror}
    found = ["90-degree turn"] if 90 in angles else ["180-degree turn"] if angles else []
    return f"under some {' or '.join([*found, *['mirror'] * any(t.mirror for t in exact)]) or 'exact turn'}"


def _at(turn: Turn | None) -> str:
    return "" if turn is None else f" ({turn_name(turn.angle, turn.mirror)})"


def _turns(result: AuditResult) -> str:
    return plural(sum(t.exact for t in result.turns), "exact turn")


def _accuracy(result: AuditResult) -> str:
    """Worst-case against upright accuracy and the majority rate."""
    worst, upright = accuracies(result)
    if worst.value is None or upright.value is None:
        return ""
    majority = f", majority rate {percent(result.majority_rate)}" if result.majority_rate is not None else ""
    at = "" if result.exact else _at(worst_turn(result, "accuracy", exact=True, least=True))
    return f"worst-case accuracy {rate(worst)}{at} against {rate(upright)} upright{majority}"


def _beside(result: AuditResult) -> str:
    """ "; at the 20 other angles it changes for 12 % (floor 10 %)"; empty if there are none."""
    changed, floor = flips(result, exact=False)
    if changed.value is None:
        return ""
    if result.interpolated is None:
        at = _at(worst_turn(result, "flip_rate", exact=False))
        return f"; at the worst other angle{at} it changes for {rate(changed)}, floor {rate(floor)}"
    where = (
        f"some of the other {result.interpolated.turns} angles" if result.interpolated.turns > 1 else "the other angle"
    )
    return f"; at {where} it changes for {rate(changed)}, floor {rate(floor)}"


def _other(result: AuditResult) -> str:
    """The same as a sentence."""
    text = _beside(result).removeprefix("; ")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _embedding(result: AuditResult, start: str) -> str:
    parts = []
    for exact in (True, False):
        turn = worst_turn(result, "cosine_distance", exact)
        if turn is None:
            continue
        floor = "" if exact else f", floor {error(floor_of(turn))},"
        text = f"up to {error(turn.cosine_distance)}{_at(turn)}{floor}"
        where = f"under the {_turns(result)}" if exact else "at the other angles"
        parts.append(f"{text} {where}{_neighbours(result, exact)}")
    if not parts:
        return f"{start} gave embeddings, of which no turn was measured."
    return f"{start} moves its embedding by a cosine distance of {'; '.join(parts)}."


def _neighbours(result: AuditResult, exact: bool) -> str:
    turn = worst_turn(result, "neighbours", exact, least=True)
    if turn is None or turn.neighbours is None:
        return ""
    floor = "" if exact else f", floor {percent(floor_of(turn, 'neighbours'))}"
    return f", keeping at least {percent(turn.neighbours)} of its 10 nearest neighbours{floor}"


def overall(report: AuditReport) -> str:
    """One sentence over all models; the headline if there is one."""
    if len(report.audits) == 1:
        return headline(report.audits[0])
    if not report.audits:
        return "No model was audited."
    if len(report.audits) > NAMED:
        return f"On {_images(report)}, under exact turns: {'; '.join(_many(report))}."
    return f"On {_images(report)} {listing(_in_short(a) for a in report.audits)}."


def _many(report: AuditReport) -> list[str]:
    """Too many models to name them all: the best and the worst, and how many others there are."""
    sure = [a for a in report.audits if not is_void(a)]
    decided = [(v, a) for a in sure if a.kind in ("classes", "labels") and (v := flips(a, True)[0].value) is not None]
    decided.sort(key=lambda x: x[0])
    others, void = len(sure) - len(decided), len(report.audits) - len(sure)
    said = []
    if len(decided) == 1:
        said.append(f"{shorten(decided[0][1].label)} changes its decision for {percent(decided[0][0])}")
    elif decided:
        ends = [f"{percent(v)} ({shorten(a.label)})" for v, a in (decided[0], decided[-1])]
        said.append(f"{len(decided)} models change their decision for {ends[0]} to {ends[1]}")
    said += [f"{plural(others, 'model')} gave embeddings or maps"] if others else []
    return said + ([f"of {plural(void, 'model')} nothing can be said"] if void else [])


def _images(report: AuditReport) -> str:
    return " or ".join(dict.fromkeys(plural(a.images, "image") for a in report.audits))


def _in_short(a: AuditResult) -> str:
    name = shorten(a.label)
    if is_void(a):
        return (
            f"{name} is {'degenerate' if a.degenerate else 'stopped by a guard' if stops(a) else 'not to be trusted'}"
        )
    if a.kind == "embedding":
        turn = worst_turn(a, "cosine_distance", exact=True)
        return (
            f"{name} moves its embedding by a cosine distance of up to {error(turn.cosine_distance if turn else None)}"
        )
    value = flips(a, exact=True)[0].value
    whose = " of the pixels" if a.kind == "map" else ""
    if value is None:
        return f"{name} was asked about no exact turn"
    if value == 0:
        return f"{name} never changes {_what(a)} under an exact turn"
    return f"{name} changes {_what(a)} for {percent(value)}{whose} {_under(a)}"


# ---- what else there is to say, and to do


def details(result: AuditResult) -> list[str]:
    """What the first sentence leaves out; nothing where nothing can be concluded (see the findings)."""
    if is_void(result):
        return []
    exact, still = result.exact, flips(result, exact=True)[0].value == 0
    found = []
    if still and _accuracy(result):
        found.append(f"{_accuracy(result).capitalize()}.")
    elif not still and result.kind != "embedding":
        found.append(_other(result))
    if (distance := result.distances.get("exact")) is not None and distance.value is not None:
        found.append(f"Mean cosine distance over the {_turns(result)}: {interval(distance)}.")
    found.append(_output(result))
    if exact and exact.stable_wrong.value is not None:
        found.append(f"{rate(exact.stable_wrong)} of the images get one and the same wrong answer at every exact turn.")
    if result.kind in ("classes", "labels") and not _accuracy(result):
        found.append("Without labels there is no accuracy: whether a changed decision was right is not known.")
    return [sentence for sentence in found if sentence]


def _output(result: AuditResult) -> str:
    """How far the output itself moves, in units of the distance between two images."""
    if result.exact_error is None:
        return ""
    size, mirrored = result.exact_error, result.mirror_error or 0.0
    if size < ROUNDING <= mirrored:
        text = (
            f"Turns change its output by no more than rounding (error {error(size)}), but mirrors by {error(mirrored)}"
        )
    elif size < ROUNDING:
        text = f"Exact turns change its output by no more than rounding (error {error(size)})"
    else:
        text = f"An exact turn changes its output by {error(size)} of what exchanging the image does"
    if result.interpolated_error is None:
        return f"{text}."
    other = f"another angle by {error(result.interpolated_error)}, floor {error(result.interpolated_floor)}"
    return f"{text}; {other}."


def advice(result: AuditResult) -> list[str]:
    """What to do about it, with the measured effect where there is one."""
    if is_void(result):
        return ["Mend it first: see the findings; then audit again."]
    if result.kind == "embedding":
        still = result.exact_error is not None and max(result.exact_error, result.mirror_error or 0) < ROUNDING
    else:
        still = flips(result, exact=True)[0].value == 0
    found = []
    if still:
        moves = result.kind != "embedding" and (result.exact_error or 0) >= ROUNDING
        why = f"no decision changes, although the output moves ({error(result.exact_error)})" if moves else ""
        found.append(f"Nothing to do about exact turns: {why or 'there it is invariant'}.")
    else:
        found += [_averaging(result, a) for a in sorted(result.averaged, key=lambda a: -a.passes)]
        found.append(
            "Convert it, if it is a CNN in PyTorch (roteq convert): the twin is equivariant to exact turns by "
            "construction, so no decision changes there. Its accuracy is known only after training; then audit both "
            "on the same images."
        )
        found.append(
            "Train with turned pictures (roteq investigate): changes become rarer, though nothing is promised; "
            "the study measures whether that, or equivariance, pays on your data."
        )
    return [*found, *_at_the_floor(result)]


def _averaging(result: AuditResult, a: Averaged) -> str:
    """Cost, then what was measured: accuracy and flips beside those of the model as it is."""
    (changed, _), (changed_between, floor), (_, upright) = flips(result, True), flips(result, False), accuracies(result)
    said = []
    if a.accuracy.value is not None:
        majority = f", majority rate {percent(result.majority_rate)}" if result.majority_rate is not None else ""
        said.append(f"accuracy {rate(a.accuracy)} instead of {rate(upright)}{majority}{_gain(result, a)}")
    instead = f", instead of {percent(changed.value)}" if changed.value is not None else ""
    said.append(f"no decision changes at its exact turns, by construction{instead}")
    if a.interpolated_flip_rate.value is not None and changed_between.value is not None:
        helps = "" if a.interpolated_flip_rate.value < changed_between.value else " (no help)"
        without = f"{percent(changed_between.value)}, floor of the model as it is {percent(floor.value)}"
        said.append(f"at other angles {rate(a.interpolated_flip_rate)} change{helps} instead of {without}")
    return f"Average the answers over {a.group}, {a.passes} passes for each image, no training: {'; '.join(said)}."


def _gain(result: AuditResult, a: Averaged) -> str:
    """Where averaging does not help, that is said."""
    old = accuracies(result)[1].value
    if old is None or a.accuracy.low is None or a.accuracy.high is None:
        return ""
    return " (worse)" if a.accuracy.high < old else " (better)" if a.accuracy.low > old else " (no change is shown)"


def _at_the_floor(result: AuditResult) -> list[str]:
    """Whether the other angles do more than resampling by itself."""
    changed, floor = flips(result, exact=False)
    if changed.value is None or floor.value is None:
        return []
    low = changed.value if changed.low is None else changed.low
    high = floor.value if floor.high is None else floor.high
    if low > high:
        return []
    return [
        f"Other angles: what changes there ({percent(changed.value)}) is not shown to be more than resampling alone "
        f"changes (floor {percent(floor.value)}); more images would tell."
    ]
