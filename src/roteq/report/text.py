"""The same tables and the verdict for the terminal: functions that return rich renderables and print nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from ..results import (
    AuditReport,
    AuditResult,
    Conversion,
    CovarianceResult,
    DatasetInfo,
    Evaluation,
    Finding,
    Reproduction,
    Study,
)
from . import audit as audits
from . import conversion, covariance, tables
from .tables import Table
from .verdict import Verdict


def render(table: Table) -> RichTable:
    """A table of plain text cells; nothing in a cell is read as markup. Numbers are not broken over lines."""
    style = {"box": box.SIMPLE_HEAD, "show_edge": False, "title_justify": "left", "title_style": "italic"}
    out = RichTable(title=escape(table.caption), collapse_padding=True, **style)  # type: ignore[arg-type]
    for i, column in enumerate(table.columns):
        if table.numeric(i):
            narrow = len(column) > max((len(row[i]) for row in table.rows), default=0)
            name = column.replace(" ", "\n") if narrow else column
            out.add_column(Text(name), justify="right", no_wrap=True, overflow="ellipsis")
        else:
            longest = max((len(word) for row in table.rows for word in row[i].split()), default=0)
            out.add_column(Text(column), min_width=min(longest, 16), overflow="fold")
    for i, row in enumerate(table.rows):
        out.add_row(*(Text(cell) for cell in row), style="red" if i in table.alert else None)
    return out


def facts(values: Mapping[str, str]) -> RichTable:
    out = RichTable.grid(padding=(0, 2))
    out.add_column(style="bold", no_wrap=True)
    out.add_column(overflow="fold")
    for name, value in values.items():
        out.add_row(Text(name), Text(value))
    return out


def summary_table(study: Study) -> RenderableType:
    """The comparison of the models, and the paired differences where there are any."""
    parts: list[RenderableType] = [render(tables.comparison(study, brief=True))]
    if study.differences:
        parts += [Text(), render(tables.differences(study, brief=True))]
    return Group(*parts)


def dataset_table(info: DatasetInfo) -> RenderableType:
    parts: list[RenderableType] = [render(tables.dataset(info)), Text(), facts(tables.dataset_facts(info))]
    return Group(*parts, *([findings_panel(info.findings)] if info.findings else []))


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    return Group(render(tables.metrics(evaluation)), Text(), render(tables.classes(evaluation)))


def audit_table(audit: AuditResult) -> RenderableType:
    return Group(render(tables.turns(audit)), Text(), facts(tables.audit_facts(audit)))


def audit_report(report: AuditReport) -> RenderableType:
    """The answer for every model and what to do about it, then one table of all; of a single model every turn too."""
    parts: list[RenderableType] = []
    for audit in report.audits:
        parts.append(Text(audits.headline(audit), style="bold red" if audits.is_void(audit) else "bold"))
        parts += [Text(sentence) for sentence in audits.details(audit)]
        parts += [*(Text(f"• {sentence}") for sentence in audits.advice(audit)), Text()]
        parts += [findings_panel(audit.findings), Text()] if audit.findings else []
    found = [audits.summary(report, brief=True), audits.differences(report, brief=True)]
    if len(report.audits) == 1:
        found.append(audits.turns(report.audits[0], brief=True))
    for table in found:
        parts += [render(table), Text()] if table.rows else []
    return Group(*parts[:-1])


def covariance_table(result: CovarianceResult, folder: Path) -> RenderableType:
    parts = [covariance.summary(result, brief=True), covariance.angles(result), covariance.elements(result)]
    shown = {str(folder / name): number for name, number in covariance.shown(result).items()}
    return Group(
        Text(covariance.headline(result), style="bold"),
        *(Text(sentence) for sentence in covariance.sentences(result)),
        *(piece for table in [*parts, covariance.energies(result)] if table.rows for piece in (Text(), render(table))),
        Text(),
        facts(shown | {str(folder / covariance.PAGE): "all of it"}),
        Text(),
        facts(covariance.facts(result)),
    )


def conversion_table(result: Conversion) -> RenderableType:
    broken = bool(result.broken) or (bool(result.errors) and not result.exact)
    return Group(
        render(conversion.layers(result)),
        Text(),
        render(conversion.costs(result)),
        Text(),
        facts(conversion.facts(result)),
        Text(),
        Text(conversion.headline(result), style="bold red" if broken else "bold"),
        *(Text(f"• {sentence}") for sentence in conversion.broken(result)),
    )


def reproduction_table(result: Reproduction) -> RenderableType:
    return Group(
        render(tables.reproduction(result)),
        Text(),
        render(tables.trials(result)),
        *(Text(f"• {caution}") for caution in tables.cautions(result)),
    )


def verdict_panel(verdict: Verdict) -> RenderableType:
    lines = [Text(verdict.headline, style="bold red" if verdict.void else "bold"), Text()]
    lines += [Text(verdict.caution, style="bold yellow"), Text()] if verdict.caution else []
    lines += [Text(sentence) for sentence in verdict.sentences]
    if verdict.distrust:
        lines += [Text(), Text("What to distrust", style="bold"), *(Text(f"• {reason}") for reason in verdict.distrust)]
    return Panel(Group(*lines), title="Verdict", title_align="left", border_style="red" if verdict.void else "green")


def findings_panel(findings: Sequence[Finding]) -> RenderableType:
    """STOP and WARNING in words; what was seen, then what to try. An empty sequence gives an empty text."""
    if not findings:
        return Text()
    lines: list[Text] = []
    for f in findings:
        word, style = ("STOP", "bold red") if f.level == "stop" else ("WARNING", "bold yellow")
        lines.append(Text.assemble((f"{word} ", style), (f"{f.guard}: ", "bold"), f.message))
        lines += [Text(f"  Try: {f.advice}")] if f.advice else []
    stop = any(f.level == "stop" for f in findings)
    return Panel(Group(*lines), title="Findings", title_align="left", border_style="red" if stop else "yellow")
