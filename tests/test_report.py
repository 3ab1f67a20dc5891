"""The report: the page is safe, whole and readable by everybody; the figures and tables carry their numbers."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import studies
from rich.console import Console
from studies import PAIR, with_difference

from roteq.report import figures, html, pictures, tables, text, verdict, words, write_report
from roteq.report.svg import LOOKS
from roteq.results import Finding, Interval, Run, Study


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in names]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


HOSTILE = "<script>alert(1)</script>"


def hostile_study() -> Study:
    """Every string that a user or a file name can choose is an attack or a trap for matplotlib."""
    study = studies.study(PAIR, seeds=1, classes=("$a_b$ 癌", HOSTILE))
    rename = {"se2cnn C12": f"_{HOSTILE}", "cnn parameters": '"><img src=x onerror=alert(2)>'}

    def spoil(run: Run) -> Run:
        mistakes = tuple(replace(m, id=f'"><b>{HOSTILE}') for m in run.mistakes)
        return replace(
            run, label=rename[run.label], mistakes=mistakes, findings=(Finding(*([HOSTILE, "warn"] + [HOSTILE] * 2)),)
        )

    study = studies.with_runs(study, spoil)
    return replace(
        study,
        name=HOSTILE,
        config=f"a: {HOSTILE}",
        environment={HOSTILE: HOSTILE},
        differences=tuple(replace(d, a=rename[d.a], b=rename[d.b]) for d in study.differences),
    )


def hollow_study() -> Study:
    """Everything that may be None or empty is."""

    def hollow(run: Run) -> Run:
        none = Interval(None)
        turns = tuple(
            replace(t, between_image_error=None, relative_error=None, floor=None, flip_rate=none, accuracy=none)
            for t in run.audit.turns
        )
        audit = replace(
            run.audit,
            degenerate=True,
            turns=turns,
            **dict.fromkeys(("exact_error", "exact_flip_rate", "interpolated_error", "interpolated_floor")),
            **dict.fromkeys(("interpolated_flip_rate", "worst_angle_accuracy", "always_right", "upright_accuracy")),
        )
        history = ({"epoch": 1, "train_loss": None, "val_loss": 51.2, "val_auc": None, "val_accuracy": 0.5},)
        metrics = {**dict.fromkeys(run.evaluation.metrics, none), "accuracy": Interval(0.6)}
        evaluation = replace(run.evaluation, metrics=metrics, recall={}, precision={}, roc=(), pr=(), clusters=None)
        fit = replace(run.fit, flops=None, history=history)
        return replace(run, audit=audit, evaluation=evaluation, fit=fit, mistakes=(), kernels=())

    study = studies.with_runs(studies.study(PAIR, seeds=1, clusters=None), hollow)
    study = with_difference(study, *PAIR, None)
    return replace(study, dataset=replace(study.dataset, size=None, sha256="", options={}))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    made = {
        "whole": studies.study(),
        "collapsed": studies.study(PAIR, seeds=1, collapsed=("se2cnn C12",)),
        "classes": studies.study(PAIR, seeds=1, classes=("fat", "mucus", "muscle", "nerve", "stroma", "tumour")),
        "hostile": hostile_study(),
        "hollow": hollow_study(),
        "empty": replace(studies.study(PAIR), runs=(), summaries=(), differences=()),
    }
    return {name: html.render(study) for name, study in made.items()}


PAGES = ("whole", "collapsed", "classes", "hostile", "hollow", "empty")


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_self_contained(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    links = [attrs.get(key) or "" for _, attrs in page.tags for key in ("src", "href", "srcset", "xlink:href")]
    assert {link.split(",")[0] for link in links if link and not link.startswith("#")} <= {
        "data:",
        "data:image/png;base64",
    }
    assert not page.all("script", "iframe", "object", "embed")
    assert "@import" not in pages[name] and not re.search(r"url\((?!#)", pages[name])
    assert len(pages[name]) < 3_000_000


@pytest.mark.parametrize("name", PAGES)
def test_the_page_can_be_read_aloud(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert page.all("html")[0]["lang"] == "en"
    assert "width=device-width" in str(page.all("meta")[1]["content"])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    shown = [attrs for attrs in page.all("svg") if attrs.get("aria-hidden") != "true"]
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in shown)
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in page.all("div") if a.get("class") == "scroll")
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for attrs in page.all("a", "use") if str(attrs.get("href")).startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", pages[name]))
    assert targets <= set(ids)
    assert [attrs for attrs in page.all("a") if attrs.get("class") == "skip"]


def test_strings_are_escaped(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert HOSTILE not in pages["hostile"] and "<b>" not in pages["hostile"]
    assert all(str(attrs["src"]).startswith("data:") for attrs in page.all("img"))
    assert page.text.count(HOSTILE) > 10


def test_the_order_is_verdict_doubts_findings_numbers(pages: dict[str, str]) -> None:
    page = Page(pages["collapsed"])
    sections = [attrs["aria-labelledby"] for attrs in page.all("section")]
    front = ["verdict", "distrust", "findings", "comparison", "scores", "turning", "thresholds", "training"]
    assert sections == [*front, "confusions", "kernels", "runs", "mistakes", "dataset", "configuration"]
    numbers = page.text[page.text.index("Comparison Mean ± standard deviation") :]
    assert numbers.index("majority rate balanced accuracy") < numbers.index("model a − model b")


def test_a_stop_is_said_in_a_word_and_a_shape(pages: dict[str, str]) -> None:
    source = pages["collapsed"]
    badge = source[source.index('<section class="verdict void"') : source.index("<h1")]
    assert "</svg> Stop</span>" in badge
    assert "verdict void" not in pages["whole"].split("<body>")[1] and "Stop</span>" not in pages["whole"]
    assert "se2cnn C12 (collapsed: 1 of 1)" in source
    assert (
        source.count('<tr class="alert">') == 2 and '<tr class="alert">' not in pages["whole"]
    )  # comparison, difference


def test_what_does_not_exist_is_a_dash(pages: dict[str, str]) -> None:
    words = Page(pages["hollow"]).text
    assert "None" not in words and "nan" not in words.lower().split()
    assert "degenerate: the output hardly varies" in words


def test_the_comparison_has_every_column(pages: dict[str, str]) -> None:
    page = Page(pages["whole"])
    columns = tables.comparison(studies.study()).columns
    wanted = "AUC,accuracy,majority rate,balanced accuracy,MCC,NLL,ECE,parameters,FLOPs,images/s,training"
    assert set(wanted.split(",")) <= set(columns)
    assert {"flips, quarter turns", "flips, any angle", "error, quarter turns", "error, any angle"} <= set(columns)
    assert all(column in page.text for column in columns)


def test_the_report_is_deterministic_and_written_whole(tmp_path: Path) -> None:
    study = studies.study(("se2cnn D4",), seeds=1)
    write_report(study, tmp_path / "deep" / "report.html")
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8") == html.render(study)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_contrast_is_wcag_aa(scheme: int) -> None:
    css = Path(html.__file__).with_name("style.css").read_text(encoding="utf-8")
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", css, re.S)[scheme]))
    text_on = [(t, "paper") for t in ("ink", "soft", "link", "stop")]
    text_on += [(t, f"{t}-wash") for t in ("stop", "warn")] + [("ink", w) for w in ("stop-wash", "warn-wash", "wash")]
    for front, back in text_on:
        assert contrast(colors[front], colors[back]) >= 4.5, (front, back)
    for i, style in enumerate(LOOKS):
        assert contrast(colors[f"c{i}"], colors["paper"]) >= 3, i
        assert scheme or colors[f"c{i}"] == style.color


# ---- figures


@pytest.fixture(scope="module")
def study() -> Study:
    return studies.study(("se2cnn C12", "se2cnn D4", "resnet18"), seeds=1)


def audits(study: Study) -> dict:
    return {label: [r.audit for r in runs] for label, runs in figures.runs_by_label(study).items()}


def test_figures_follow_the_colours_of_the_page(study: Study) -> None:
    svg = figures.metric_by_model(study, "accuracy").svg
    root = ElementTree.fromstring(svg)
    assert "currentColor" in svg and "#010203" not in svg and "#000000" not in svg
    assert "var(--c0" in svg
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"se2cnn C12", "resnet18", "majority rate"} <= set(words)  # text, not paths
    assert "metadata" not in svg and "<style" not in svg
    assert "majority rate is 0.598" in root.attrib["aria-label"]


def test_a_dollar_in_a_name_is_no_mathematics() -> None:
    run = studies.study(PAIR, seeds=1, classes=("$a_b$", "c")).runs[0]
    assert ">$a_b$<" in pictures.confusion("x", [run]).svg


def test_models_differ_in_colour_marker_and_line() -> None:
    assert len({look.color for look in LOOKS}) == len({look.marker for look in LOOKS}) == len(LOOKS)
    assert len({str(look.line) for look in LOOKS}) == len(LOOKS)


def test_every_figure_carries_its_numbers(study: Study) -> None:
    plot = figures.differences(study, "auc")
    assert [row[0] for row in plot.table.rows] == [f"{d.a} − {d.b}" for d in study.differences]
    assert plot.table.rows[0][1] == words.interval(study.differences[0].auc, sign=True)
    by_angle = figures.accuracy_by_angle(audits(study), 0.598)
    assert by_angle.table.rows[0][:2] == ("0°", "exact")
    assert len(by_angle.table.rows) == 1 + len(study.runs[0].audit.turns)
    errors = figures.equivariance_error(audits(study))
    assert errors.table.rows[0] == ("se2cnn C12", "2e-7", "0.096", "0.029")


def test_the_upright_pictures_are_the_turn_by_zero(study: Study) -> None:
    audit = study.runs[0].audit
    assert figures.turn_means([audit])[(0.0, False, True)] == audit.upright_accuracy
    assert (0.0, False, True) not in figures.turn_means([replace(audit, upright_accuracy=None)])


def test_a_mean_over_seeds_is_one(study: Study) -> None:
    audit = study.runs[0].audit
    other = replace(audit, upright_accuracy=(audit.upright_accuracy or 0) + 0.2)
    assert figures.turn_means([audit, other])[(0.0, False, True)] == pytest.approx(audit.upright_accuracy + 0.1)


def test_there_is_no_roc_with_many_classes_and_no_turned_kernel_without_a_group(study: Study) -> None:
    many = studies.study(PAIR, seeds=1, classes=("a", "b", "c"))
    assert figures.roc(many) is None and figures.precision_recall(many) is None
    assert figures.roc(study) is not None
    one = tuple(feature[:1] for feature in study.runs[0].kernels)
    assert pictures.kernels("resnet18", replace(study.runs[-1], kernels=one)) is None
    assert pictures.kernels("se2cnn C12", study.runs[0]) is not None


@pytest.mark.parametrize(
    ("group", "names"),
    [("C4", ["0°", "90°", "180°", "270°"]), ("D1", ["0°", "m 0°"]), ("C12", ["0°", "30°"])],
)
def test_kernel_columns_are_named_by_their_turn(group: str, names: list[str]) -> None:
    order = int(group[1:]) * (2 if group[0] == "D" else 1)
    assert pictures.element_names(group, order)[: len(names)] == names


def test_confusions_of_all_seeds_are_added() -> None:
    runs = list(studies.study(PAIR, seeds=2).runs[:2])
    plot = pictures.confusion("se2cnn C12", runs)
    total = sum(run.evaluation.confusion[0][1] for run in runs)
    assert plot.table.rows[0] == ("normal", plot.table.rows[0][1], f"{total:,}")


def test_a_loss_far_above_the_prior_is_drawn_on_a_logarithmic_axis(study: Study) -> None:
    run = study.runs[0]
    wild = replace(
        run, fit=replace(run.fit, history=({"epoch": 1, "train_loss": 51.0, "val_loss": 0.7, "val_auc": 0.5},))
    )
    plot = pictures.curves("x", [wild], pictures.loss_limits([wild]))
    assert ">5<" in plot.svg
    assert ">5<" not in pictures.curves("x", [run], pictures.loss_limits([run])).svg


def test_the_overview_is_a_thousand_by_four_hundred_pixels(study: Study) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    figure = pictures.overview_figure(study)
    figure.savefig(buffer, format="png")
    assert Image.open(buffer).size == (1000, 400)
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"se2cnn C12", "resnet18", "majority rate"}
    pictures.overview_figure(studies.study(("resnet18",), seeds=1)).savefig(io.BytesIO())  # no group: no kernels


# ---- the terminal


def printed(renderable: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def terminal() -> Iterator[str]:
    study = studies.study(collapsed=("resnet18",))
    yield printed(text.summary_table(study))


def test_the_terminal_shows_the_comparison_in_eighty_columns(terminal: str) -> None:
    assert max(len(line) for line in terminal.splitlines()) <= 80
    assert "…" not in terminal
    assert "majority rate" in terminal and "0.598" in terminal
    assert "(collapsed: 3 of 3)" in terminal
    assert re.search(r"\+0\.037 \(\+0\.025 to \+0\.049\)", terminal)


def test_markup_in_names_is_not_obeyed() -> None:
    info = replace(studies.dataset(("[red]a[/red]", "b"), 24, 100), source="[/x]")
    out = printed(text.dataset_table(info), 120)
    assert "[red]a[/red]" in out and "[/x]" in out
    run = studies.study(PAIR, seeds=1, classes=("[red]a[/red]", "b")).runs[0]
    assert "[red]a[/red]" in printed(text.evaluation_table(run.evaluation), 120)


def test_a_narrow_terminal_does_not_break_numbers() -> None:
    out = printed(text.summary_table(studies.study(PAIR, seeds=2)), 64)
    assert len(re.findall(r"0\.\d{3} ± 0\.\d{3}", out)) == 4


def test_the_panels_say_stop_and_what_to_try() -> None:
    out = printed(text.findings_panel([studies.COLLAPSE, Finding("gap", "warn", "large", "")]))
    assert "STOP constant predictor: it answers" in out and "Try: Scale the inputs" in out
    assert "WARNING gap: large" in out and out.count("Try:") == 1
    assert printed(text.findings_panel([])).strip() == ""
    said = printed(text.verdict_panel(verdict(studies.study(PAIR, seeds=1, collapsed=PAIR[:1]))))
    assert "Nothing may be concluded from se2cnn C12" in said and "What to distrust" in said


def test_tables_of_one_model_name_every_number() -> None:
    run = studies.study(PAIR, seeds=1).runs[0]
    out = printed(text.evaluation_table(run.evaluation))
    assert "majority rate" in out and "prior entropy" in out and "resampled over 24" in out
    out = printed(text.audit_table(run.audit))
    assert "floor, any angle" in out and "interpolated" in out and "mirror, 90°" in out
