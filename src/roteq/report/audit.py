"""What an audit found, for the terminal, for CSV, and as one HTML file: sentences, tables, figures, pictures."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup, escape

from ..files import write_text
from ..results import AuditReport, AuditResult, Example, Look
from .audit_tables import (
    averaged,
    changes,
    controls,
    csv_rows,
    differences,
    facts,
    flips,
    is_void,
    layers,
    lie,
    per_class,
    shorten,
    stops,
    summary,
    turn_name,
    turns,
)
from .audit_words import advice, details, headline, overall
from .html import Section, render_page
from .tables import Table, mapping
from .words import percent, plural

__all__ = [
    "advice",
    "averaged",
    "changes",
    "controls",
    "csv_rows",
    "details",
    "differences",
    "facts",
    "headline",
    "layers",
    "lie",
    "overall",
    "per_class",
    "render_audit",
    "summary",
    "turns",
    "write_audit_report",
]
SMALL = 96  # pixels; smaller pictures are enlarged without smoothing
BUDGET = 1_800_000  # characters of pictures in one page


@dataclass(frozen=True)
class Answer:
    """What the page says first about one model."""

    label: str
    void: bool
    headline: Markup
    details: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """One look of a strip. `state`: "upright", "same", "changed"."""

    look: Look
    turn: str
    exact: bool
    state: str
    probability: str
    share: int | None  # the same in whole per cent
    small: bool


@dataclass(frozen=True)
class Strip:
    example: Example
    summary: str
    frames: tuple[Frame, ...]


def write_audit_report(report: AuditReport, path: str | Path) -> None:
    """Write the audit of all models as one HTML file, or nothing. Raises RoteqError if it cannot be written."""
    write_text(path, render_audit(report))


def render_audit(report: AuditReport) -> str:
    """The report as text. Every string of the results is escaped; only the SVG of our own figures is not."""
    from .audit_figures import draw

    galleries, left_out = _galleries(report)
    return render_page(
        "audit.html",
        report=report,
        headline=_weighed(overall(report)),
        answers=[_answer(a) for a in report.audits],
        advice=_advice(report),
        void=bool(report.audits) and all(is_void(a) for a in report.audits),
        findings=[(a.label, a.findings) for a in report.audits if a.findings],
        summary=_stacked(summary(report)),
        differences=_stacked(differences(report)),
        averaged=[(a.label, _stacked(table)) for a in report.audits if _may_gain(a) and (table := averaged(a)).rows],
        sections=[Section(*parts) for parts in draw(report)],
        galleries=galleries,
        left_out=left_out,
        numbers=[(a.label, bool(stops(a)), _numbers(a)) for a in report.audits],
        facts=[mapping(a.label, ("what", "value"), facts(a)) for a in report.audits],
        environment=mapping("Where and with what this ran", ("what", "value"), report.environment),
    )


def _answer(a: AuditResult) -> Answer:
    return Answer(a.label, is_void(a), _weighed(headline(a)), tuple(details(a)))


def _may_gain(a: AuditResult) -> bool:
    """Whether averaging is worth a table: not of a model that is invariant already, nor of one without a result."""
    return not is_void(a) and flips(a, exact=True)[0].value != 0


def _advice(report: AuditReport) -> list[tuple[str, str, str]]:
    """(which models, what to do, the rest): by model, the same advice to several models once."""
    who: dict[str, list[str]] = {}
    for a in report.audits:
        for sentence in advice(a):
            who.setdefault(sentence, []).append(a.label)
    alone = len(report.audits) < 2
    parts = [
        ("" if alone else ", ".join(map(shorten, labels)), *sentence.partition(": "))
        for sentence, labels in who.items()
    ]
    return [(labels, lead, rest) for labels, lead, _, rest in parts]


def _stacked(table: Table) -> Table:
    """Cells that break only between a number and its interval."""
    rows = (tuple(re.sub(r"(?<=\d) (?=%|to )|(?<=to) ", "\u00a0", cell) for cell in row) for row in table.rows)
    return replace(table, rows=tuple(rows))


def _weighed(sentence: str) -> Markup:
    """The sentence as HTML: shares are bold, intervals are small."""
    text = re.sub(r"(?<=\d) (?=%)", "\u00a0", str(escape(sentence)))
    text = re.sub(r"\((−?\d[\d.]* to −?\d[\d.]*)\)", r'<span class="interval">(\1)</span>', text)
    return Markup(re.sub(r"(?<![\w.&#;])(&lt;)?\d[\d.]*\u00a0%", r"<b>\g<0></b>", text))


def _numbers(a: AuditResult) -> list[Table]:
    """Every table of one model that says something."""
    found = [turns(a), per_class(a), changes(a), averaged(a), layers(a), lie(a), controls(a)]
    return [_stacked(table) for table in found if table.rows]


def _galleries(report: AuditReport) -> tuple[list[tuple[str, list[Strip]]], int]:
    """The strips of each model, as many as a page can hold: in turn the first of every model, the second, ..."""
    shown: list[list[Strip]] = [[] for _ in report.audits]
    most = max((len(a.examples) for a in report.audits), default=0)
    space, left_out = BUDGET, 0
    for i in range(most):
        for strips, a in zip(shown, report.audits, strict=True):
            for example in a.examples[i : i + 1]:
                size = sum(len(look.png) for look in example.looks)
                if size > space:
                    left_out += 1
                    continue
                space -= size
                strips.append(_strip(example))
    return [(a.label, strips) for a, strips in zip(report.audits, shown, strict=True) if strips], left_out


def _strip(example: Example) -> Strip:
    looks = example.looks
    upright = next((look for look in looks if look.angle == 0 and not look.mirror), None)
    text = f"{example.flips} of {plural(example.turns, 'turn')} change its decision"
    if example.why == "stable and wrong":
        text = f"one and the same wrong decision, upright and at all {plural(example.turns, 'turn')}"
    elif not any(look.decision for look in looks):  # an embedding, a map
        text = "its output moves most"
    return Strip(example, text, tuple(_frame(look, upright) for look in looks))


def _frame(look: Look, upright: Look | None) -> Frame:
    if look is upright:
        state = "upright"
    else:
        state = "changed" if upright is not None and look.decision != upright.decision else "same"
    small = max(_size(look.png)) < SMALL
    name = turn_name(look.angle, look.mirror) if state != "upright" else "upright"
    share = None if look.probability is None else round(100 * min(max(look.probability, 0.0), 1.0))
    return Frame(look, name, look.angle % 90 == 0, state, percent(look.probability), share, small)


def _size(png: str) -> Sequence[int]:
    """Width and height, from the header of a PNG file; (0, 0) if it is none."""
    try:
        header = base64.b64decode(png[:32])
    except (binascii.Error, ValueError):
        return 0, 0
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])
