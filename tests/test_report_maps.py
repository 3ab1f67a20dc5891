"""The report of a study of dense networks: pixels of images, intervals over images, maps that turn with the picture."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import studies
import test_report
from PIL import Image
from scipy.ndimage import gaussian_filter
from test_report import HOSTILE, Page

from roteq.files import load_json, save_json
from roteq.report import html, map_figures, maps, tables, text, verdict
from roteq.results import (
    AuditResult,
    DatasetInfo,
    Difference,
    Evaluation,
    Finding,
    Interval,
    MapExample,
    Run,
    Study,
    Summary,
)

MODELS = {"g_unet C8": ("C8", 0.802, 0.962), "g_unet p4": ("C4", 0.797, 0.960), "unet": (None, 0.781, 0.949)}
PAIR = ("g_unet C8", "unet")
CLASSES = ("background", "vessel")
COLLAPSE = replace(studies.COLLAPSE, message="it answers 'background' for 100 % of the pixels")
CONFIG = "name: retina\ntrain:\n  augment:\n    turn: none\n    mirror: null\n"
PIXELS = 960 * 999


# ---- pictures


def png(values: np.ndarray) -> str:
    """(H, W) in 0..1, or (H, W, 3) uint8."""
    picture = values if values.dtype == np.uint8 else np.round(255 * values.clip(0, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def vessels(side: int = 96) -> np.ndarray:
    """Branching lines, 0 or 1."""
    y, x = np.mgrid[:side, :side] / side
    lines = [y - 0.5 - 0.22 * np.sin(3 * x), x - 0.35 - 0.3 * y**2, y - 0.15 - 0.9 * (x - 0.4) ** 2, x + 0.5 * y - 0.95]
    widths = (0.022, 0.018, 0.014, 0.010)
    return np.any([np.abs(line) < width for line, width in zip(lines, widths, strict=True)], axis=0).astype(float)


def example(group: str | None, collapsed: bool = False, classes: tuple[str, ...] = CLASSES) -> MapExample:
    rng = np.random.default_rng(3)
    truth = vessels()
    grain = gaussian_filter(rng.normal(0, 1, (*truth.shape, 3)), (1, 1, 0))
    tissue = (
        np.array([182, 96, 58]) - 62 * gaussian_filter(truth, 0.8)[..., None] * np.array([1, 0.9, 0.5]) + 18 * grain
    )
    picture = tissue.clip(0, 255).astype(np.uint8)

    def answer(noise: int) -> np.ndarray:
        wobble = gaussian_filter(np.random.default_rng(noise).normal(0, 1, truth.shape), 3)
        return (gaussian_filter(truth, 0.9) * (0.95 + 0.9 * wobble) + 0.35 * wobble).clip(0.01, 0.99)

    upright = np.full_like(truth, 0.08) if collapsed else answer(5)
    back = upright if group or collapsed else (0.55 * upright + 0.45 * answer(11))
    apart = np.abs(upright - back)
    return MapExample(
        id="Image_11L",
        angle=90.0,
        scores={"dice": 0.0 if collapsed else 0.81},
        image=png(picture),
        truth=png(truth),
        map=png(upright),
        turned_image=png(np.rot90(picture)),
        turned_map=png(np.rot90(back)),
        turned_back=png(back),
        difference=png(apart),
        largest=float(apart.max()) + 3e-7,
    )


# ---- a study of maps


def evaluation(
    dice: float, auc: float, images: int, clusters: int | None, classes: tuple[str, ...], extra: dict[str, float]
) -> Evaluation:
    n = PIXELS * images
    second = round(0.072 * n)
    hit = round(second * dice)
    confusion = ((n - second - round(0.02 * n), round(0.02 * n)), (second - hit, hit))
    values: dict[str, float | None] = {
        "accuracy": (confusion[0][0] + hit) / n,
        "balanced_accuracy": dice + 0.08,
        "auc": auc,
        "average_precision": dice + 0.03,
        "mcc": dice - 0.03,
        "nll": 0.13,
        "dice": dice,
        "iou": dice / (2 - dice),
        **extra,
    }
    grid = np.linspace(0, 1, 200)
    return Evaluation(
        n=n,
        classes=classes,
        counts=dict(zip(classes, (n - second, second), strict=True)),
        majority_rate=1 - second / n,
        prior_entropy=0.259,
        metrics={key: studies.near(value, 0.014) for key, value in values.items()},
        recall={c: studies.near(dice, 0.02) for c in classes},
        precision={c: studies.near(dice, 0.02) for c in classes},
        confusion=confusion,
        clusters=clusters,
        roc=tuple((float(x), float(x ** ((1 - auc) / auc))) for x in grid),
        pr=tuple((float(x), float(1 - 0.9 * x**6)) for x in grid),
        images=images,
    )


def audit(group: str | None, rng: np.random.Generator, degenerate: bool) -> AuditResult:
    """As of patches, with pixels for images and without accuracy."""
    found = studies.audit(group, 0.5, rng, degenerate)
    turns = tuple(
        replace(t, accuracy=Interval(None), floors={} if t.exact else {"flip_rate": 0.004}) for t in found.turns
    )
    none = dict.fromkeys(("worst_angle_accuracy", "always_right", "upright_accuracy"))
    return replace(found, images=32, turns=turns, kind="map", **none)


def run(
    label: str,
    seed: int,
    images: int,
    clusters: int | None,
    collapsed: bool,
    classes: tuple[str, ...],
    extra: dict[str, float],
) -> Run:
    group, dice, auc = MODELS[label]
    rng = np.random.default_rng([seed, len(label)])
    dice, auc = (0.0, 0.5) if collapsed else (dice + float(rng.normal(0, 0.003)), auc + float(rng.normal(0, 0.001)))
    return Run(
        label=label,
        model=label.split()[0],
        options={},
        group=group,
        seed=seed,
        fit=studies.fit(480_000, rng, 0.259, collapsed),
        evaluation=evaluation(dice, auc, images, clusters, classes, extra),
        audit=audit(group, rng, collapsed),
        findings=(COLLAPSE,) if collapsed else (),
        kernels=studies.kernels(group, rng) if group else (),
        maps=(example(group, collapsed),),
    )


def difference(a: Summary, b: Summary, half: float = 0.009) -> Difference:
    def of(metric: str, width: float) -> Interval:
        value = (a.metrics[metric].mean or 0.0) - (b.metrics[metric].mean or 0.0)
        return Interval(value, value - width, value + width)

    rest = {k: of(k, half) for k in a.metrics if k not in ("auc", "accuracy")}
    return Difference(a.label, b.label, of("auc", half / 3), of("accuracy", half / 4), None, None, None, rest)


def study(
    labels: tuple[str, ...] = tuple(MODELS),
    seeds: int = 3,
    images: int = 4,
    clusters: int | None = None,
    collapsed: tuple[str, ...] = (),
    classes: tuple[str, ...] = CLASSES,
    **extra: float,
) -> Study:
    """A finished study of vessels; extra: further metrics, of every model alike."""
    runs = tuple(
        run(label, seed, images, clusters, label in collapsed, classes, extra)
        for label in labels
        for seed in range(seeds)
    )
    summaries = tuple(studies.summary([r for r in runs if r.label == label]) for label in labels)
    pairs = [(a, b) for i, a in enumerate(summaries) for b in summaries[i + 1 :]]
    return Study(
        name="retina",
        dataset=dataset(images, clusters, classes),
        runs=runs,
        summaries=summaries,
        differences=tuple(difference(a, b) for a, b in pairs),
        findings=(),
        config=CONFIG,
        environment={"roteq": "0.3.0", "device": "cpu, 2 cores"},
    )


def dataset(images: int, clusters: int | None, classes: tuple[str, ...] = CLASSES) -> DatasetInfo:
    number = {"train": 8, "validation": 2, "test": images}
    return replace(
        studies.dataset(classes, None, 10),
        name="retina",
        kind="masks",
        counts={
            split: {classes[0]: round(0.928 * PIXELS * n), classes[1]: round(0.072 * PIXELS * n)}
            for split, n in number.items()
        },
        size=None,
        groups={"train": 4, "validation": 1, "test": clusters} if clusters else {},
        skipped={},
        images=number,
        mpp=6.5,
        split_rule="by group" if clusters else "at random",
    )


def with_lead(base: Study, metric: str, *interval: float | None) -> Study:
    """The study with this difference of its first pair."""
    first, *rest = base.differences
    return replace(base, differences=(replace(first, metrics=first.metrics | {metric: Interval(*interval)}), *rest))


def hostile_study() -> Study:
    """Every string that a user or a file name can choose is an attack."""
    base = study(PAIR, seeds=1, classes=("$a_b$", HOSTILE))
    rename = dict(zip(PAIR, (f"_{HOSTILE}", '"><img src=x onerror=alert(2)>'), strict=True))

    def spoil(run: Run) -> Run:
        shown = tuple(replace(e, id=f'"><b>{HOSTILE}', scores={HOSTILE: 0.5}) for e in run.maps)
        return replace(run, label=rename[run.label], maps=shown, findings=(Finding(HOSTILE, "warn", HOSTILE, HOSTILE),))

    renamed = tuple(replace(d, a=rename[d.a], b=rename[d.b]) for d in base.differences)
    return replace(
        studies.with_runs(base, spoil),
        name=HOSTILE,
        config=f"train: {{augment: {{turn: '{HOSTILE}', mirror: null}}}}",
        differences=renamed,
    )


def hollow_study() -> Study:
    """Everything that may be None or empty is."""
    none = Interval(None)

    def hollow(run: Run) -> Run:
        metrics = {**dict.fromkeys(run.evaluation.metrics, none), "accuracy": Interval(0.9)}
        turns = tuple(
            replace(t, between_image_error=None, relative_error=None, floor=None, flip_rate=none, floors={})
            for t in run.audit.turns
        )
        errors = dict.fromkeys(("exact_error", "exact_flip_rate", "interpolated_error", "interpolated_floor"))
        audit = replace(run.audit, degenerate=True, turns=turns, interpolated_flip_rate=None, **errors)
        evaluation = replace(run.evaluation, metrics=metrics, recall={}, precision={}, roc=(), pr=(), images=1)
        maps = tuple(replace(e, scores={"dice": None}) for e in run.maps)
        fit = replace(run.fit, flops=None, history=())
        return replace(run, evaluation=evaluation, audit=audit, fit=fit, kernels=(), maps=maps)

    base = studies.with_runs(study(PAIR, seeds=1, images=1), hollow)
    empty = tuple(Difference(d.a, d.b, none, none, None, None, None, {"dice": none}) for d in base.differences)
    return replace(base, differences=empty, config=": no: yaml", dataset=replace(base.dataset, mpp=None))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    made = {
        "whole": study(seeds=1),
        "collapsed": study(PAIR, seeds=1, images=30, clusters=25, v_rand=0.93, collapsed=("unet",)),
        "hostile": hostile_study(),
        "hollow": hollow_study(),
        "empty": replace(study(PAIR), runs=(), summaries=(), differences=()),
    }
    return {name: html.render(one) for name, one in made.items()}


PAGES = ("whole", "collapsed", "hostile", "hollow", "empty")


# ---- the page


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_self_contained_and_can_be_read_aloud(pages: dict[str, str], name: str) -> None:
    test_report.test_the_page_is_self_contained(pages, name)
    test_report.test_the_page_can_be_read_aloud(pages, name)


def test_strings_are_escaped(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert HOSTILE not in pages["hostile"] and "<b>" not in pages["hostile"]
    assert all(str(attrs["src"]).startswith("data:image/png;base64,") for attrs in page.all("img"))
    assert page.text.count(HOSTILE) > 10


def test_what_does_not_exist_is_a_dash(pages: dict[str, str]) -> None:
    words = Page(pages["hollow"]).text
    assert "None" not in words and "nan" not in words.lower().split()
    assert "The map hardly varies between images, so it has no error" in words
    assert "There is only 1 test image: nothing can be resampled" in words


@pytest.mark.parametrize("name", ["whole", "collapsed"])
def test_no_word_of_patches_is_left(pages: dict[str, str], name: str) -> None:
    words = Page(pages[name]).text
    for wrong in ("McNemar", "only a right", "pictures whose answer changes", "of the images,", "images/s", "ECE"):
        assert wrong not in words, wrong
    for right in ("pixels flipped, quarter turns", "windows/s", "share of the pixels whose class changes"):
        assert right in words, right
    assert "mistakes" not in [attrs.get("aria-labelledby") for attrs in Page(pages[name]).all("section")]


def test_few_images_are_said_with_a_badge_before_every_number(pages: dict[str, str]) -> None:
    verdict_box = pages["whole"].split("</section>")[0]
    assert verdict_box.index("Warning</span>") < verdict_box.index("Few images") < verdict_box.index("beats unet")
    assert "Few" not in pages["collapsed"].split("</section>")[0]


# ---- the pictures


def test_every_model_shows_one_row_of_seven_pictures(pages: dict[str, str]) -> None:
    page = Page(pages["whole"])
    alts = [str(attrs["alt"]) for attrs in page.all("img")]
    assert len(alts) == 7 * len(MODELS)
    starts = ["Input", "Truth", "Map of Image_11L: the probability of 'vessel'", "Input Image_11L, turned by 90°"]
    starts += ["Map of the turned input", "Map of the turned input", "Difference between"]
    assert all(alt.startswith(start) for alt, start in zip(alts, starts * len(MODELS), strict=True))
    assert [attrs.get("class") for attrs in page.all("img")] == [*[None] * 6, "heat"] * len(MODELS)
    assert "g_unet C8, seed 0" in page.text and "Quarter turns: error of the map 2e-7, 0 % of the pixels" in page.text
    assert "Turned by 90° (exact); upright Dice 0.810 in this picture; largest difference 3e-7." in page.text


def test_the_difference_has_one_scale_for_all_models() -> None:
    found = map_figures.gallery(study(seeds=2))
    assert found is not None and (found.top, found.grey) == (0.2, 51)
    assert [model.name for model in found.models] == [f"{label}, seed 0" for label in MODELS]
    largest = max(e.largest for run in study().runs for e in run.maps)
    assert 0.1 < largest <= found.top
    assert all(
        len(row.split()) == map_figures.STOPS and row.split()[0] in ("0.001", "0.000", "0.014") for row in found.heat
    )


@pytest.mark.parametrize(("largest", "top"), [(0.0, 0.1), (0.11, 0.2), (0.5, 0.5), (0.51, 1.0)])
def test_the_scale_holds_the_largest_difference(largest: float, top: float) -> None:
    one = studies.with_runs(study(PAIR, seeds=1), lambda r: replace(r, maps=(replace(r.maps[0], largest=largest),)))
    found = map_figures.gallery(one)
    assert found is not None and found.top == top


def test_of_many_classes_the_map_shows_all_but_the_first() -> None:
    def three(run: Run) -> Run:
        return replace(run, evaluation=replace(run.evaluation, classes=("background", "nucleus", "border")))

    found = map_figures.gallery(studies.with_runs(study(PAIR, seeds=1), three))
    assert found is not None and found.shown == "anything but 'background'"


def test_patches_have_no_gallery_and_no_filter() -> None:
    assert map_figures.gallery(studies.study(studies.PAIR, seeds=1)) is None
    assert "heat" not in html.render(studies.study(studies.PAIR[:1], seeds=1))


def test_a_collapsed_map_is_marked_where_it_is_shown(pages: dict[str, str]) -> None:
    gallery = pages["collapsed"].split('<h2 id="maps">')[1].split("</section>")[0]
    heading = gallery[gallery.index("unet, seed 0</h3>" if "unet, seed 0</h3>" in gallery else "<h3>unet, seed 0") :]
    assert (
        heading.index("Stop</span>") < heading.index("Stopped by a guard: constant predictor.") < heading.index("<img")
    )
    assert "this row proves nothing" in heading


# ---- the verdict


@pytest.mark.parametrize(
    ("extra", "word"),
    [({}, "Dice"), ({"v_rand": 0.9, "v_info": 0.9}, "V-Rand"), ({"v_rand": 0.9, "detection_f1": 0.7}, "detection F1")],
)
def test_the_leading_metric_decides_with_the_auc_beside(extra: dict[str, float], word: str) -> None:
    base = study(PAIR, images=30, clusters=30, **extra)
    lead = maps.leading_metric(base)
    said = verdict(with_lead(base, lead, 0.02, 0.01, 0.03))
    assert said.headline == "Equivariance pays on retina: g_unet C8 beats unet."
    assert re.fullmatch(
        rf"g_unet C8 beats unet: {word} 0\.\d{{3}} against 0\.\d{{3}}, difference \+0\.020 \(95 % interval \+0\.010 to "
        r"\+0\.030\); difference in AUC \+0\.01\d \(\+0\.01\d to \+0\.01\d\)\.",
        said.sentences[0],
    )
    assert not said.caution and (extra or not said.distrust)


def test_an_interval_around_zero_shows_no_difference_whatever_the_auc() -> None:
    said = verdict(with_lead(study(PAIR, images=30), "dice", 0.01, -0.009, 0.029))
    assert said.headline == "No difference shown between equivariant and standard networks on retina."
    assert "up to 0.029 for g_unet C8 or 0.009 for unet is not ruled out; difference in AUC" in said.sentences[0]


def test_the_verdict_does_not_depend_on_the_order_of_a_pair() -> None:
    base = study(PAIR)
    (d,) = base.differences

    def minus(i: Interval) -> Interval:
        return Interval(-i.value, -i.high, -i.low)  # type: ignore[operator]

    rest = {k: minus(i) for k, i in d.metrics.items()}
    back = Difference(d.b, d.a, minus(d.auc), minus(d.accuracy), None, None, None, rest)
    assert verdict(base) == verdict(replace(base, differences=(back,)))


@pytest.mark.parametrize(
    ("images", "clusters", "pattern"),
    [
        (1, None, r"only 1 test image: nothing can be resampled"),
        (
            4,
            None,
            r"Few images: .* only 4 images, so it is rough and too narrow\. .* all 4 images .* 1 of 8 studies",
        ),
        (14, None, r"Few images: .* only 14 images, so it is rough, and rather too narrow"),
        (30, 3, r"Few groups: .* only 3 groups of the 30 images, .* in 1 of 4 studies"),
        (20, None, ""),
        (30, 25, ""),
    ],
)
def test_few_images_make_rough_intervals(images: int, clusters: int | None, pattern: str) -> None:
    said = verdict(study(PAIR, seeds=1, images=images, clusters=clusters))
    assert bool(said.caution) == bool(pattern) and re.search(pattern, said.caution)
    some = f"the {images} test images of " if pattern and images > 1 else "the 1 test image of " if pattern else ""
    assert f"on {some}retina" in said.headline


def test_an_auc_that_does_not_confirm_is_named() -> None:
    base = study(PAIR)
    (d,) = base.differences
    shaky = replace(base, differences=(replace(d, auc=Interval(0.0, -0.01, 0.01)),))
    pattern = "the Dice differs, but the AUC does not confirm it"
    assert any(pattern in reason for reason in verdict(shaky).distrust)
    assert not any(pattern in reason for reason in verdict(base).distrust)


def test_a_collapsed_model_is_the_headline_and_takes_part_in_nothing() -> None:
    said = verdict(study(collapsed=("unet",)))
    assert said.void and said.headline.startswith("Nothing may be concluded from unet: its runs collapsed.")
    assert not any("beats" in s or "(unet)" in s for s in said.sentences)
    assert any(s.startswith("Left out for that reason: g_unet C8 against unet") for s in said.sentences)


def test_accuracy_and_turns_are_of_pixels() -> None:
    accuracy, quarter, other, augmented, basis = verdict(study(PAIR, clusters=2)).sentences[1:]
    assert re.fullmatch(
        r"Accuracy of the pixels 0\.96\d \(g_unet C8\) and 0\.96\d \(unet\); calling every one 'background' reaches "
        r"0\.928 \(their majority rate\)\.",
        accuracy,
    )
    assert quarter.startswith(
        "Turned by a quarter or a half, the map changes the class of 0 % of the pixels (g_unet C8)"
    )
    assert quarter.endswith("its error is 2e-7 (g_unet C8) and 0.280 (unet).")
    assert other.startswith("Turned by other angles, the map changes the class of 2.2 % of the pixels")
    assert augmented.startswith("No model saw turned or mirrored pictures")
    assert basis == (
        "All of this rests on 3,836,160 pixels of 4 test images from 2 groups and 3 seeds a model; intervals are "
        "resampled over the groups, as the pixels of one image are not independent."
    )


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("{turn: rot90, mirror: null}", "with pictures turned by multiples of 90 degrees and mirrored pictures; how"),
        ("{turn: rot90, mirror: false}", "with pictures turned by multiples of 90 degrees; how they compare without"),
        ("{turn: any, mirror: false}", "with pictures turned by any angle; how"),
        ("{turn: none, mirror: true}", "with mirrored pictures; how"),
        ("{turn: none}", "No model saw turned or mirrored pictures in training"),
        ("nothing", ""),
    ],
)
def test_the_protocol_tells_of_augmentation_and_no_more(policy: str, said: str) -> None:
    base = replace(study(PAIR, seeds=1), config=f"train:\n  augment: {policy}\n")
    text = " ".join(s for s in verdict(base).sentences if "in training" in s or "was trained" in s)
    assert said in text and bool(said) == bool(text) == ("this study does not say" in text)


# ---- tables and the terminal


def test_counts_are_pixels_and_images_are_counted_beside() -> None:
    found = tables.dataset(dataset(4, 2))
    assert found.columns == ("split", "background", "vessel", "pixels", "images", "groups")
    assert found.rows[-1] == ("test", "3,559,956", "276,204", "3,836,160", "4", "2")
    assert found.caption == "Pixels of retina per split and class"
    assert tables.dataset_facts(dataset(4, 2))["microns per pixel"] == "6.5"


def test_the_majority_rate_stands_beside_every_accuracy() -> None:
    base = study(PAIR, seeds=1, clusters=2)
    columns = tables.comparison(base).columns
    assert columns[columns.index("accuracy") + 1] == "majority rate"
    assert columns[2:4] == ("Dice", "IoU") and "pixels flipped, any angle" in columns
    found = tables.metrics(base.runs[0].evaluation)
    names = [row[0] for row in found.rows]
    assert names[names.index("accuracy") + 1] == "majority rate" and names[-1] == "prior entropy"
    assert found.caption.startswith("3,836,160 pixels of 4 images; intervals resampled over 2 groups of the 4 images, ")
    assert found.caption.endswith("which are few, so they are rough")
    assert tables.classes(base.runs[0].evaluation).columns[1] == "pixels"


def test_differences_are_paired_by_metric() -> None:
    found = tables.differences(study(PAIR, seeds=1))
    assert found.columns[:3] == ("model a − model b", "Dice (95 % interval)", "IoU (95 % interval)")
    assert found.caption == "Paired differences on the same test images, resampled over 4 images"
    brief = tables.differences(study(PAIR, seeds=1, v_rand=0.9), brief=True)
    assert brief.columns == ("model a − model b", "V-Rand (95 % interval)", "AUC (95 % interval)")


def test_a_turned_map_has_no_accuracy_but_a_floor() -> None:
    found = tables.turns(study(PAIR, seeds=1).runs[0].audit)
    assert found.columns[2:4] == ("pixels flipped", "floor of these") and "accuracy" not in found.columns
    assert found.rows[0][3] == "–" and found.rows[-1][3] == "0.4 %"
    assert "upright accuracy" not in tables.audit_facts(study(PAIR, seeds=1).runs[0].audit)


def test_pixels_flipped_are_means_over_the_seeds() -> None:
    audits = [run.audit for run in study(("unet",), seeds=2).runs]
    changed = replace(audits[1], turns=tuple(replace(t, flip_rate=Interval(0.5)) for t in audits[1].turns))
    plot = map_figures.flips_by_angle({"unet": [audits[0], changed]})
    assert plot is not None
    value = 50 * ((audits[0].turns[0].flip_rate.value or 0) + 0.5)
    assert plot.table.rows[0] == ("90°", "exact", f"{value:.1f} %", "–")
    assert plot.table.rows[-1][1:] == ("interpolated", plot.table.rows[-1][2], "0.4 %")
    hidden = replace(audits[0], turns=tuple(replace(t, flip_rate=Interval(None)) for t in audits[0].turns))
    assert map_figures.flips_by_angle({"unet": [hidden]}) is None


def test_the_terminal_says_the_same_in_eighty_columns() -> None:
    base = study(collapsed=("g_unet p4",), v_rand=0.93)
    out = test_report.printed(text.summary_table(base))
    assert max(len(line) for line in out.splitlines()) <= 80 and "…" not in out
    out = " ".join(out.split())
    assert "V-Rand" in out and "majority rate: 0.928" in out
    assert "(collapsed:" in out and "3 of 3)" in out
    out = " ".join(test_report.printed(text.evaluation_table(base.runs[0].evaluation)).split())
    assert "3,836,160 pixels of 4 images" in out and "Dice" in out and "majority rate" in out and "pixels" in out
    out = " ".join(test_report.printed(text.verdict_panel(verdict(study()))).replace("│", "").split())
    assert "Few images: every interval is resampled over only 4 images" in out


def test_a_study_of_maps_survives_a_file(tmp_path: Path) -> None:
    base = study(PAIR, seeds=1)
    save_json(base, tmp_path / "study.json")
    assert load_json(Study, tmp_path / "study.json") == base
