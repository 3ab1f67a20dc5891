"""The report of an audit: the sentence is right for every kind of model, a floor stands beside every interpolated
number, what says nothing never looks like a pass, and the page is safe and readable."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from audits import CLASSES, make_audit, make_report, old_audit, one_decision, sample_reports
from rich.console import Console
from test_report import HOSTILE, Page

from roteq.files import load_json, save_json
from roteq.report import audit as words
from roteq.report import audit_figures, audit_pictures, audit_tables, text
from roteq.report.tables import Table
from roteq.results import AuditReport, AuditResult, Averaged, ClassAudit, Control, Example, Finding, Interval, Look

NONE = Interval(None)
LONG = "a very long name of a class that no axis and no column of a phone was ever made for " * 3
RTL = "\u202eסרטן ورم"


def hostile_report() -> AuditReport:
    """Every string that a user, a model or a file name can choose is an attack or a trap for matplotlib."""
    a = make_audit(f"_{HOSTILE}", classes=("$a_b$ 癌", HOSTILE, LONG, RTL), angles=8)
    look = Look(0.0, False, '"><img src=x onerror=alert(2)>', HOSTILE, 0.5)
    spoilt = replace(
        a,
        method=HOSTILE,
        facts={HOSTILE: HOSTILE},
        findings=(Finding(HOSTILE, "warn", HOSTILE, HOSTILE),),
        controls=(Control(HOSTILE, HOSTILE, HOSTILE, True),),
        layers=tuple(replace(x, path=f"$x_{i}${HOSTILE}", kind=HOSTILE) for i, x in enumerate(a.layers)),
        lie=tuple(replace(x, method=HOSTILE) for x in a.lie),
        averaged=(Averaged(HOSTILE, 4, NONE, None, None, NONE),),
        examples=(*a.examples, Example(f'"><b>{HOSTILE}', RTL, "changes most", 0, 1, (look,))),
    )
    other = make_audit('"><img src=x onerror=alert(2)>' + LONG, "embedding", angles=8)
    return replace(make_report(spoilt, other), source=HOSTILE, environment={HOSTILE: HOSTILE})


def hollow(result: AuditResult) -> AuditResult:
    """Everything that may be None is."""

    def empty(part: Any) -> Any:
        kept = {"path", "kind", "channels", "size", "representation", "motion", "unit", "method", "name", "images"}
        kept |= {"group", "passes", "angle", "mirror", "exact", "turns", "changes", "recall", "confusion", "floors"}
        made = {f.name: NONE if "Interval" in str(f.type) else None for f in fields(part) if f.name not in kept}
        return replace(part, **made)

    parts = {name: tuple(map(empty, getattr(result, name))) for name in ("turns", "layers", "lie", "per_class")}
    parts["averaged"] = tuple(empty(a) for a in result.averaged)
    parts["turns"] = tuple(replace(t, recall=(None,) * len(result.classes), floors={}) for t in parts["turns"])
    orbits = {name: empty(getattr(result, name)) for name in ("exact", "interpolated")}
    optional = ("exact_error", "exact_flip_rate", "interpolated_error", "interpolated_floor", "interpolated_flip_rate")
    optional += ("worst_angle_accuracy", "always_right", "upright_accuracy", "mirror_error", "majority_rate")
    looks = (Look(0.0, False, "", "", None), Look(90.0, False, "", "", None))
    example = Example("x", None, "changes most", 0, 1, looks)
    return replace(result, **parts, **orbits, **dict.fromkeys(optional), examples=(example,), upright={})


@pytest.fixture(scope="module")
def reports() -> dict[str, AuditReport]:
    found = sample_reports()
    return found | {
        "hostile": hostile_report(),
        "hollow": make_report(hollow(make_audit(angles=8)), hollow(make_audit("b", angles=8))),
    }


PAGES = ("several", "degenerate", "stopped", "unlabelled", "embedding", "map", "many", "alone", "old", "empty")
PAGES += ("hostile", "hollow")


@pytest.fixture(scope="module")
def rendered(reports: dict[str, AuditReport]) -> dict[str, tuple[str, list]]:
    """(page, what was drawn for it)"""
    draw, found = audit_figures.draw, {}
    with pytest.MonkeyPatch.context() as patch:
        for name in PAGES:
            drawn: list = []
            patch.setattr(audit_figures, "draw", lambda report, drawn=drawn: drawn.extend(draw(report)) or drawn)
            found[name] = words.render_audit(reports[name]), drawn
    return found


@pytest.fixture(scope="module")
def pages(rendered: dict[str, tuple[str, list]]) -> dict[str, str]:
    return {name: page for name, (page, _) in rendered.items()}


@pytest.fixture(scope="module")
def drawings(rendered: dict[str, tuple[str, list]]) -> dict[str, list]:
    return {name: drawn for name, (_, drawn) in rendered.items()}


# ---- the sentence

INTERVAL = "23.4 % (20.1 to 26.8)"
ACCURACY = "worst-case accuracy 61.1 % (57.3 to 64.9) against 84.5 % (81.7 to 87.3) upright, majority rate 30.2 %"
FLOOR = "floor 10.1 % (8.0 to 12.6)"
HEADLINES = {
    "plain": (
        make_audit(),
        f"On 640 images resnet18 changes its decision for {INTERVAL} of them under some 90-degree turn or mirror; "
        f"{ACCURACY}.",
    ),
    "no mirrors": (
        make_audit(mirrors=False),
        f"On 640 images resnet18 changes its decision for {INTERVAL} of them under some 90-degree turn; {ACCURACY}.",
    ),
    "no labels": (
        make_audit(labelled=False),
        f"On 640 images resnet18 changes its decision for {INTERVAL} of them under some 90-degree turn or mirror.",
    ),
    "no name": (
        make_audit("the model", "labels"),
        f"On 640 images the model changes its set of labels for {INTERVAL} of them under some 90-degree turn or "
        f"mirror; {ACCURACY}.",
    ),
    "invariant": (
        make_audit(equivariant=True),
        "On 640 images resnet18 does not change its decision for any of them under any of the 7 exact turns; at some "
        f"of the other 20 angles it changes for 12.0 % (8.7 to 15.4), {FLOOR}.",
    ),
    "invariant, exact turns alone": (
        make_audit(equivariant=True, angles=4),
        "On 640 images resnet18 does not change its decision for any of them under any of the 7 exact turns.",
    ),
    "degenerate": (
        make_audit(degenerate=True),
        "On 640 images resnet18 gives (nearly) the same output for every image: degenerate, so nothing about its "
        "equivariance can be said.",
    ),
    "one decision": (
        one_decision(),
        "On 640 images stuck was stopped by a guard (one decision): nothing about its equivariance can be said.",
    ),
    "failed control": (
        replace(make_audit(equivariant=True), controls=(Control("a constant", "degenerate", "0.3", False),)),
        "On 640 images resnet18 was audited, but a control failed (a constant): its numbers are not to be trusted.",
    ),
    "embedding": (
        make_audit("dino", "embedding"),
        "On 640 images dino moves its embedding by a cosine distance of up to 0.150 (90°) under the 7 exact turns, "
        "keeping at least 70.0 % of its 10 nearest neighbours; up to 0.250 (45°), floor 0.020, at the other angles, "
        "keeping at least 50.0 % of its 10 nearest neighbours, floor 93.0 %.",
    ),
    "map": (
        make_audit("unet", "map"),
        "On 640 images unet changes its decision for 9.0 % (7.0 to 11.0) of their pixels at the worst exact turn "
        "(90°).",
    ),
    "equivariant map": (
        make_audit("unet", "map", equivariant=True),
        "On 640 images unet does not change its decision for any of their pixels under any of the 7 exact turns; at "
        "the worst other angle (45°) it changes for 8.0 % (6.0 to 10.0), floor 2.1 %.",
    ),
    "old": (
        old_audit(),
        "On 640 images the model changes its decision for 9.0 % (7.0 to 11.0) of them at the worst exact turn (90°); "
        "worst-case accuracy 79.1 % (76.1 to 82.1) (mirror, 270°) against 84.5 % upright.",
    ),
    "one image": (
        replace(make_audit(labelled=False), images=1),
        f"On 1 image resnet18 changes its decision for {INTERVAL} of them under some 90-degree turn or mirror.",
    ),
}


@pytest.mark.parametrize("name", HEADLINES)
def test_the_headline_answers_the_question(name: str) -> None:
    result, sentence = HEADLINES[name]
    assert words.headline(result) == sentence


def test_a_half_turn_is_no_quarter_turn() -> None:
    a = make_audit(angles=4)
    oblong = replace(a, turns=tuple(t for t in a.turns if t.angle in (0, 180)))
    assert "under some 180-degree turn or mirror" in words.headline(oblong)
    assert "under some mirror" in words.headline(replace(a, turns=tuple(t for t in a.turns if t.mirror)))


def test_models_together_are_summed_up_in_one_sentence(reports: dict[str, AuditReport]) -> None:
    assert words.overall(reports["several"]) == (
        "On 640 images resnet18 changes its decision for 23.4 % under some 90-degree turn or mirror, p4m-resnet18 "
        "never changes its decision under an exact turn and resnet18 without weights is degenerate."
    )
    assert words.overall(reports["one"]) == words.headline(reports["one"].audits[0])
    assert words.overall(reports["empty"]) == "No model was audited."
    many = make_report(*(make_audit(f"m{i}", equivariant=not i) for i in range(5)), make_audit(degenerate=True))
    assert words.overall(many) == (
        "On 640 images, under exact turns: 5 models change their decision for 0 % (m0) to 23.4 % (m4); of 1 model "
        "nothing can be said."
    )


def test_what_says_nothing_is_never_called_invariant() -> None:
    for result in (make_audit(degenerate=True), one_decision(), HEADLINES["failed control"][0]):
        said = " ".join([words.headline(result), *words.details(result), *words.advice(result)])
        assert "0 %" not in said and "invariant" not in said
        assert words.advice(result) == ["Mend it first: see the findings; then audit again."]
        row = dict(zip((table := words.summary(make_report(result))).columns, table.rows[0], strict=True))
        assert not {c for c in row if c.startswith(("flips", "error", "divergence"))}
        assert table.alert == {0} and row["model"] != result.label


# ---- what to do


def test_averaging_is_advised_with_its_cost_and_its_measured_effect() -> None:
    first, second, *rest = words.advice(make_audit())
    assert first == (
        "Average the answers over D4, 8 passes for each image, no training: accuracy 86.6 % (83.9 to 89.3) instead of "
        "84.5 % (81.7 to 87.3), majority rate 30.2 % (no change is shown); no decision changes at its exact turns, by "
        "construction, instead of 23.4 %."
    )
    assert second.endswith(
        "at other angles 20.3 % (17.1 to 23.5) change instead of 41.2 %, floor of the model as it is 10.1 %."
    )
    assert [sentence.partition(" (")[0] for sentence in rest] == [
        "Convert it, if it is a CNN in PyTorch",
        "Train with turned pictures",
    ]


@pytest.mark.parametrize(
    ("accuracy", "other", "said"),
    [
        (Interval(0.9, 0.88, 0.92), 0.2, "(better)"),
        (Interval(0.8, 0.78, 0.82), 0.2, "(worse)"),
        (Interval(0.85, 0.82, 0.88), 0.2, "(no change is shown)"),
        (Interval(0.85, 0.82, 0.88), 0.5, "change (no help) instead of"),
    ],
)
def test_it_is_said_where_averaging_does_not_help(accuracy: Interval, other: float, said: str) -> None:
    averaged = Averaged("C4", 4, accuracy, None, None, Interval(other))
    found = words.advice(replace(make_audit(), averaged=(averaged,)))[0]
    assert said in found
    assert ("(no help)" in found) is (other > 0.412)


def test_there_is_nothing_to_do_for_an_invariant_model() -> None:
    assert words.advice(make_audit(equivariant=True)) == [
        "Nothing to do about exact turns: there it is invariant.",
        "Other angles: what changes there (12.0 %) is not shown to be more than resampling alone changes "
        "(floor 10.1 %); more images would tell.",
    ]
    moving = replace(make_audit(equivariant=True, angles=4), exact_error=0.02)
    assert words.advice(moving) == [
        "Nothing to do about exact turns: no decision changes, although the output moves (0.020)."
    ]
    still = words.advice(make_audit("encoder", "embedding", equivariant=True))
    assert still == ["Nothing to do about exact turns: there it is invariant."]
    assert not [s for s in words.advice(make_audit()) if s.startswith("Nothing")]


def test_mirrors_that_no_group_promised_are_told_apart() -> None:
    found = words.details(replace(make_audit(equivariant=True), mirror_error=0.31))
    assert "Turns change its output by no more than rounding (error 2e-7), but mirrors by 0.310; another angle by " in (
        " ".join(found)
    )


# ---- floors


def named_tables(report: AuditReport, drawn: list) -> Iterator[Table]:
    yield from (words.summary(report), words.summary(report, brief=True))
    for a in report.audits:
        yield from (words.turns(a), words.turns(a, brief=True), words.averaged(a))
    for _, _, _, plots in drawn:
        yield from (p.table for p in plots if "against angle" in p.title)


@pytest.mark.parametrize("name", ["several", "embedding", "map", "old"])
def test_a_floor_stands_beside_every_interpolated_number(
    reports: dict[str, AuditReport], drawings: dict[str, list], name: str
) -> None:
    seen = 0
    for table in named_tables(reports[name], drawings[name]):
        for i, column in enumerate(table.columns):
            if "other angles" in column and "floor" not in column:
                assert "floor" in table.columns[i + 1], (table.caption, column)
                seen += 1
        if table.columns[:2] == ("turn", "kind"):
            assert all("floor" in c for c in table.columns[3::2]) and len(table.columns) % 2 == 0
            seen += 1
    assert seen


def test_sentences_about_other_angles_name_the_floor(reports: dict[str, AuditReport]) -> None:
    seen = 0
    for report in reports.values():
        for a in report.audits:
            for sentence in [words.headline(a), *words.details(a), *words.advice(a)]:
                if re.search("other angles?|another angle", sentence) and "%" in sentence:
                    assert "floor" in sentence, sentence
                    seen += 1
    assert seen > 10


def test_exact_turns_have_no_floor_and_stand_first() -> None:
    table = words.turns(make_audit())
    kinds = [row[1] for row in table.rows]
    assert kinds == sorted(kinds) and len(kinds) == 27  # exact, interpolated
    floors = [i for i, c in enumerate(table.columns) if c.endswith(", floor")]
    assert {row[i] for row in table.rows[:7] for i in floors} == {"–"}
    shown = dict(zip(table.columns, table.rows[-1], strict=True))
    assert shown["flips, floor"] == "2.1 %" and shown["between-image error, floor"] == "0.060"
    assert not [c for c in words.turns(make_audit(angles=4)).columns if "floor" in c]


def test_lines_of_interpolated_angles_never_cross_an_exact_turn() -> None:
    a = make_audit(angles=8)
    points = audit_figures.arcs_of([(t, t.flip_rate.value or 0.0) for t in a.turns])
    assert [angle for angle, _ in points] == [45, 90, 135, 180, 225, 270, 315]
    assert [value != value for _, value in points] == [False, True] * 3 + [False]


# ---- tables and rows


def test_every_accuracy_stands_beside_the_majority_rate(reports: dict[str, AuditReport]) -> None:
    for table in (words.summary(reports["several"]), words.summary(reports["several"], brief=True)):
        assert "majority rate" in table.columns
    a = make_audit()
    for table in (words.turns(a), words.per_class(a), words.averaged(a)):
        assert "majority rate 30.2 %" in table.caption


def test_a_thousand_classes_are_trimmed_to_the_worst_and_it_is_said(reports: dict[str, AuditReport]) -> None:
    a = reports["many"].audits[0]
    worst = ClassAudit("the worst", 3, 0.9, 0.0, 1.0, 1.0)
    table = words.per_class(replace(a, per_class=(*a.per_class[1:], worst)))
    assert len(table.rows) == 30 and table.rows[0][0] == "the worst"
    assert "the worst 30 of 1,000" in table.caption
    assert [row[0] for row in words.per_class(make_audit()).rows] == list(CLASSES)


def test_changes_of_exact_turns_and_other_angles_are_columns_of_their_own() -> None:
    table = words.changes(make_audit())
    assert table.columns == ("decision", "exact turns", "other angles") and "floor" in table.caption
    assert table.rows[0] == ("adipose → lymphocytes", "30", "30")
    assert not words.changes(make_audit(degenerate=True)).rows


def test_differences_are_paired_and_in_percentage_points(reports: dict[str, AuditReport]) -> None:
    table = words.differences(reports["several"])
    assert table.rows[0][:3] == ("resnet18 − p4m-resnet18", "0.0 (−3.0 to +3.0)", "+23.4 (+20.4 to +26.4)")
    assert table.alert == {1, 2} and table.rows[1][2] == "–"  # against a degenerate model flips mean nothing
    assert not words.differences(reports["embedding"]).rows


def test_a_failed_control_is_marked() -> None:
    table = words.controls(HEADLINES["failed control"][0])
    assert table.rows == (("a constant", "degenerate", "0.3", "FAILED"),) and table.alert == {0}


def test_csv_has_one_row_a_model_and_turn(reports: dict[str, AuditReport]) -> None:
    rows = words.csv_rows(reports["mixed"])
    assert len(rows) == 5 * 27 and len({tuple(row) for row in rows}) == 1
    row = next(r for r in rows if r["model"] == "resnet18" and r["angle"] == 15)
    assert (row["flip_rate"], row["floor_flip_rate"], row["exact"]) == (pytest.approx(0.11), 0.021, False)
    assert row["floor_between_image_error"] == 0.06 and row["recall tumour"] is not None
    buffer = io.StringIO()
    csv.DictWriter(buffer, list(row)).writerows(rows)
    assert "nan" not in buffer.getvalue().lower()
    assert all(r["floor_flip_rate"] is None for r in rows if r["exact"])


def test_results_survive_a_round_trip(reports: dict[str, AuditReport], tmp_path: Path) -> None:
    save_json(reports["mixed"], tmp_path / "audit.json")
    assert load_json(AuditReport, tmp_path / "audit.json") == reports["mixed"]


# ---- the page


class Nesting(HTMLParser):
    """Every tag is closed, in order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_and_self_contained(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert Nesting(pages[name]).open == []
    links = [attrs.get(key) or "" for _, attrs in page.tags for key in ("src", "href", "srcset", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links if link)
    assert not page.all("script", "iframe", "object", "embed") and "@import" not in pages[name]
    assert len(pages[name]) < 3_000_000


@pytest.mark.parametrize("name", PAGES)
def test_the_page_can_be_read_aloud(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(a["aria-label"] for a in page.all("svg") if a.get("aria-hidden") != "true")
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in page.all("div") if a.get("class") == "scroll")
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for a in page.all("a", "use") if str(a.get("href")).startswith("#")}
    assert targets | set(re.findall(r"url\(#([^)]+)\)", pages[name])) <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_what_does_not_exist_is_a_dash(pages: dict[str, str], name: str) -> None:
    said = Page(pages[name]).text
    assert not re.search(r"\b(None|nan|NaN|inf)\b", said)


def test_strings_are_escaped(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert HOSTILE not in pages["hostile"] and "<b>_" not in pages["hostile"] and "<img src=x" not in pages["hostile"]
    assert all(str(attrs["src"]).startswith("data:") for attrs in page.all("img"))
    assert page.text.count(HOSTILE) > 20 and ">$a_b$ 癌<" in pages["hostile"] and RTL in pages["hostile"]


def test_the_answer_comes_first_then_what_to_do_then_the_numbers(pages: dict[str, str]) -> None:
    sections = [attrs["aria-labelledby"] for attrs in Page(pages["several"]).all("section")]
    front = ["verdict", "advice", "answers", "findings", "summary", "turning"]
    assert sections == [*front, "classes", "changes", "layers", "gallery", "numbers", "facts"]
    said = Page(pages["several"]).text.replace("\u00a0", " ")
    for sentence in ("changes its decision for 23.4 % (20.1 to 26.8) of them", "is degenerate.", FLOOR):
        assert sentence in said[: said.index("Contents") if "Contents" in said else said.index("Summary")]


def test_shares_are_bold_and_intervals_small(pages: dict[str, str]) -> None:
    head = pages["several"][pages["several"].index("<h1") : pages["several"].index("</h1>")]
    assert "<b>23.4\u00a0%</b>" in head
    assert '<span class="interval">(20.1 to 26.8)</span>' in pages["unlabelled"]
    assert "<b>" not in str(words._weighed(f"{HOSTILE} 5")) and "&lt;script" in str(words._weighed(HOSTILE))


def test_a_model_that_says_nothing_is_stopped_in_a_word_and_a_shape(pages: dict[str, str]) -> None:
    for name in ("degenerate", "stopped"):
        head = pages[name][pages[name].index('<section class="verdict void"') : pages[name].index("<h1")]
        assert "</svg> Stop</span>" in head
    assert "Not drawn, as nothing can be said about it: resnet18 without weights" in Page(pages["several"]).text
    assert "<figure>" not in pages["degenerate"] and '"verdict void"' not in pages["unlabelled"]


def test_the_same_advice_is_given_once(pages: dict[str, str]) -> None:
    both = words.render_audit(make_report(make_audit("a", labelled=False, angles=4), make_audit("b", "map", angles=4)))
    assert both.count("Convert it,") == 1 and '<span class="who">a, b</span>' in both


def test_changed_decisions_are_marked_by_more_than_colour(pages: dict[str, str]) -> None:
    source = pages["unlabelled"]
    flips = sum(e.flips for e in make_audit(labelled=False).examples)
    assert source.count('<li class="changed">') == source.count("≠ </span>") == flips > 10
    assert source.count('<span class="aloud">changed: </span>') == flips
    assert "one and the same wrong decision, upright and at all 27 turns" in source
    assert "its output moves most" in pages["embedding"]


def test_a_gallery_never_makes_the_page_too_heavy() -> None:
    a = make_audit(angles=4, classes=("x", "y"), size=96)
    heavy = replace(a, examples=a.examples * 12, layers=(), lie=())
    source = words.render_audit(make_report(heavy))
    shown = source.count('<div class="example">')
    assert 0 < shown < 48 and f"{48 - shown} more would make this page too heavy" in source
    assert len(source) < 3_000_000


def test_small_pictures_are_enlarged_without_smoothing(pages: dict[str, str]) -> None:
    assert '<img class="small"' in pages["unlabelled"]
    assert words._size("no png ü") == (0, 0) and tuple(words._size(make_audit().examples[0].looks[0].png)) == (32, 32)


def test_the_page_is_written_whole_and_is_the_same_again(tmp_path: Path) -> None:
    report = make_report(replace(make_audit(labelled=False, angles=4), layers=(), lie=()))
    words.write_audit_report(report, tmp_path / "deep" / "audit.html")
    assert (tmp_path / "deep" / "audit.html").read_text(encoding="utf-8") == words.render_audit(report)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["audit.html"]


# ---- figures


def test_figures_carry_their_numbers_and_leave_out_what_says_nothing(drawings: dict[str, list]) -> None:
    sections = {anchor: plots for anchor, _, _, plots in drawings["several"]}
    overview, flips, accuracy = sections["turning"]
    assert [row[0] for row in overview.table.rows] == ["resnet18", "p4m-resnet18"]
    assert len(flips.table.rows) == 27 and "var(--c1" in flips.svg and "currentColor" in flips.svg
    assert "majority rate is 30.2 %" in accuracy.description and accuracy.table.rows[0][0] == "90°"
    assert not drawings["degenerate"] and not audit_figures.draw(make_report())


def test_single_angles_between_exact_turns_are_drawn(reports: dict[str, AuditReport]) -> None:
    """One angle in each quadrant makes no line: its dots are seen, and so are those of its floor."""

    def points(a: AuditResult) -> int:
        plot = audit_figures.flips([(0, a)])
        assert plot is not None
        return plot.svg.count("<use")

    a = make_audit(angles=8)
    assert points(a) - points(replace(a, turns=tuple(t for t in a.turns if t.exact))) == 2 * 4


def test_confusions_are_upright_at_the_worst_turn_and_at_the_worst_angle() -> None:
    plot = audit_pictures.confusions(make_audit())
    assert plot is not None and len(plot.table.rows) == 3 * len(CLASSES)
    assert [row[0] for row in plot.table.rows[:: len(CLASSES)]] == [
        "upright: adipose",
        "mirror, 270° (exact): adipose",
        "315° (interpolated): adipose",
    ]
    assert "accuracy 74.3 %, floor 76.3 %" in plot.svg


def test_recall_keeps_exact_and_interpolated_rows_apart() -> None:
    plot = audit_pictures.recall(make_audit())
    assert plot is not None and [row[0] for row in plot.table.rows[:2]] == ["upright", "90°"]
    assert ">exact<" in plot.svg and ">interpolated<" in plot.svg
    assert audit_pictures.recall(make_audit(classes=("tumour",))) is None


def test_layers_show_what_remains_after_the_best_linear_map() -> None:
    plain, p4m = audit_pictures.layers(make_audit()), audit_pictures.layers(make_audit(equivariant=True))
    assert plain is not None and p4m is not None
    assert ">after the best linear map<" in plain.svg and ">promised<" in p4m.svg and ">promised<" not in plain.svg
    assert audit_pictures.layers(make_audit(degenerate=True)) is None


# ---- the terminal


@pytest.mark.parametrize("name", ["one", "several", "embedding", "map", "old", "hollow", "hostile", "empty"])
def test_the_terminal_says_the_same(reports: dict[str, AuditReport], name: str) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(text.audit_report(reports[name]))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    said = " ".join(output.split())
    for a in reports[name].audits if name != "hostile" else ():  # there some words are longer than a line
        assert " ".join(words.headline(a).split()) in said
        assert all(" ".join(sentence.split()) in said for sentence in words.advice(a))
    assert ("…" in output) is False or name == "hostile"
    assert ("STOP" in output) == any(a.degenerate for a in reports[name].audits)
    assert "nan" not in said.split() and "None" not in said


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Interval(0.5, 0.4, 0.6), "50.0 % (40.0 to 60.0)"), (Interval(1.0, 1.0, 1.0), "100 %"), (NONE, "–")],
)
def test_a_rate_carries_its_interval(value: Interval, expected: str) -> None:
    assert audit_tables.rate(value) == expected
