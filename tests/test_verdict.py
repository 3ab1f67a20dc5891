"""The verdict says what the numbers say and no more, and what they do not say comes first."""

import re
from dataclasses import replace

import pytest
import studies
from studies import PAIR, with_difference

from roteq.report import verdict
from roteq.results import Difference, Finding, Interval, Run, Study


def clean_pair() -> Study:
    """Two models of equal size, 3 seeds that do not overlap, groups, nothing skipped."""
    study = studies.study(PAIR)
    return replace(study, dataset=replace(study.dataset, skipped={}))


def test_an_interval_beyond_zero_beats_and_says_by_how_much() -> None:
    said = verdict(with_difference(clean_pair(), *PAIR, 0.032, 0.011, 0.054))
    assert said.headline == "Equivariance pays on tissue: se2cnn C12 beats cnn parameters."
    means = r"AUC 0\.9\d\d against 0\.8\d\d"
    assert re.fullmatch(
        rf"se2cnn C12 beats cnn parameters: {means}, difference \+0\.032 \(95 % interval \+0\.011 to \+0\.054\)\.",
        said.sentences[0],
    )
    assert not said.void


def test_an_interval_around_zero_shows_no_difference_and_tells_what_it_can_hide() -> None:
    said = verdict(with_difference(clean_pair(), *PAIR, 0.01, -0.009, 0.029))
    assert said.headline == "No difference shown between equivariant and standard networks on tissue."
    assert said.sentences[0].startswith("No difference shown between se2cnn C12 and cnn parameters: AUC")
    assert "up to 0.029 for se2cnn C12 or 0.009 for cnn parameters is not ruled out" in said.sentences[0]


def test_a_standard_network_may_win() -> None:
    said = verdict(with_difference(clean_pair(), *PAIR, -0.02, -0.03, -0.01))
    assert said.headline == "Equivariance does not pay on tissue: cnn parameters beats se2cnn C12."
    assert said.sentences[0].startswith("cnn parameters beats se2cnn C12")
    assert "+0.020 (95 % interval +0.010 to +0.030)" in said.sentences[0]


def test_the_verdict_does_not_depend_on_the_order_of_a_pair() -> None:
    study = clean_pair()
    (d,) = study.differences
    back = Difference(
        d.b,
        d.a,
        *(Interval(-i.value, -i.high, -i.low) for i in (d.auc, d.accuracy)),  # type: ignore[operator]
        d.only_b_right,
        d.only_a_right,
        d.mcnemar_p,
    )
    assert verdict(study) == verdict(replace(study, differences=(back,)))


@pytest.mark.parametrize(
    ("intervals", "headline"),
    [
        (
            ((0.03, 0.02, 0.04), (0.01, -0.01, 0.03)),
            "pays in part on tissue: of 2 comparisons .* 1 for and 1 undecided",
        ),
        (
            ((0.03, 0.02, 0.04), (-0.03, -0.04, -0.02)),
            "Mixed results on tissue: of 2 comparisons .* 1 for and 1 against",
        ),
        (((0.01, -0.01, 0.03), (-0.03, -0.04, -0.02)), "does not pay on tissue: of 2 .* 1 against and 1 undecided"),
    ],
    ids=["in part", "mixed", "does not pay"],
)
def test_a_headline_counts_what_disagrees(intervals: tuple, headline: str) -> None:
    study = studies.study(("se2cnn C12", "cnn parameters", "resnet18"), seeds=1)
    for label, interval in zip(("cnn parameters", "resnet18"), intervals, strict=True):
        study = with_difference(study, "se2cnn C12", label, *interval)
    assert re.search(headline, verdict(study).headline)


def test_without_an_equivariant_network_nothing_is_said_about_equivariance() -> None:
    said = verdict(studies.study(("cnn parameters", "resnet18")))
    assert "cannot say whether one helps" in said.headline
    assert "resnet18 beats cnn parameters" in said.sentences[0]
    assert "no two models were compared" in verdict(studies.study(("se2cnn C12",))).headline


def test_a_missing_interval_shows_nothing() -> None:
    said = verdict(with_difference(clean_pair(), *PAIR, 0.3, None, None))
    assert "no interval could be computed" in said.sentences[0]


def test_the_accuracy_decides_where_there_is_no_auc() -> None:
    study = clean_pair()
    (d,) = study.differences
    said = verdict(replace(study, differences=(replace(d, auc=Interval(None), accuracy=Interval(0.03, 0.01, 0.05)),)))
    assert "se2cnn C12 beats cnn parameters: accuracy 0." in said.sentences[0]


def test_accuracy_stands_beside_the_majority_rate() -> None:
    said = verdict(clean_pair())
    (line,) = [s for s in said.sentences if s.startswith("Accuracy")]
    assert "always answering 'normal' reaches 0.598 (the majority rate)" in line


def test_a_collapsed_model_is_the_headline_and_takes_part_in_no_comparison() -> None:
    said = verdict(studies.study(seeds=1, collapsed=("se2cnn C12", "resnet18")))
    assert said.void
    assert said.headline == (
        "Nothing may be concluded from se2cnn C12 and resnet18: their runs collapsed. "
        "The other models are compared below."
    )
    assert "1 of 1 run collapsed: constant predictor" in said.sentences[0]
    assert not any("beats" in s and ("se2cnn C12" in s or "resnet18" in s) for s in said.sentences)
    assert any(s.startswith("se2cnn D4 beats cnn parameters") for s in said.sentences)


def test_one_collapsed_seed_of_three_voids_the_model() -> None:
    study = studies.study(PAIR)
    bad = study.runs[0]
    study = studies.with_runs(study, lambda r: replace(r, findings=(studies.COLLAPSE,)) if r == bad else r)
    said = verdict(study)
    assert said.headline.startswith("Nothing may be concluded from se2cnn C12: its runs collapsed. Nothing else")
    assert "1 of 3 runs collapsed" in said.sentences[0]
    assert not any("beats" in s for s in said.sentences)


def test_a_leak_voids_the_whole_study() -> None:
    leak = Finding("leak", "stop", "3 of 1,500 test images are also in the training split", "Prepare the data again.")
    said = verdict(replace(clean_pair(), findings=(leak,)))
    assert said.void and said.headline == "Nothing may be concluded from this study: leak."
    assert said.sentences[0].startswith("3 of 1,500 test images are also in the training split. Prepare")


def test_a_failed_check_that_is_no_collapse_is_not_called_one() -> None:
    stop = Finding("input range", "stop", "the inputs hold NaN or infinity", "")
    said = verdict(studies.with_runs(clean_pair(), lambda r: replace(r, findings=(stop,))))
    assert "their runs failed a check" in said.headline


def turned(run: Run, **values: object) -> Run:
    return replace(run, audit=replace(run.audit, **values))


def broken(run: Run) -> Run:
    return turned(run, turns=tuple(replace(t, between_image_error=0.3) for t in run.audit.turns))


def evaluated(run: Run, **values: object) -> Run:
    return replace(run, evaluation=replace(run.evaluation, **values))


def no_better(run: Run) -> Run:
    return evaluated(run, metrics={**run.evaluation.metrics, "accuracy": Interval(0.598, 0.58, 0.61)})


def warned(run: Run) -> Run:
    return replace(run, findings=(Finding("dead units", "warn", "40 % of the units are never positive", "Restart."),))


def all_runs(change) -> Study:
    return studies.with_runs(clean_pair(), change)


DISTRUST = {
    "few images": (lambda: all_runs(lambda r: evaluated(r, n=120)), r"few test images \(120\)"),
    "few groups": (lambda: all_runs(lambda r: evaluated(r, clusters=4)), r"few groups in the test part \(4\)"),
    "no groups": (lambda: all_runs(lambda r: evaluated(r, clusters=None)), "carry no groups"),
    "few seeds": (lambda: studies.study(PAIR, seeds=2), r"Fewer than 3 seeds \(se2cnn C12 and cnn parameters\)"),
    "sizes": (lambda: studies.study(("se2cnn C12", "resnet18")), r"resnet18 \(11,176,512 parameters\) differs in size"),
    "degenerate": (lambda: all_runs(lambda r: turned(r, degenerate=True)), "steadiness under turning means nothing"),
    "floor": (lambda: all_runs(lambda r: turned(r, interpolated_floor=0.09)), "may come from resampling"),
    "broken": (lambda: all_runs(broken), r"se2cnn C12 is built to be equivariant, yet .* \(error up to 0.300\)"),
    "constant": (lambda: all_runs(no_better), "no more accurate than always giving the most frequent answer"),
    "warning": (lambda: all_runs(warned), r"se2cnn C12 \(seeds 0, 1 and 2\), cnn .*: dead units. 40 % .* positive\."),
    "many": (lambda: studies.study(seeds=1), "4 comparisons are made, each at 95 %"),
    "skipped": (lambda: studies.study(PAIR), r"2 images could not be used \(truncated file\)"),
}


@pytest.mark.parametrize("case", DISTRUST)
def test_the_verdict_names_what_to_distrust(case: str) -> None:
    make, pattern = DISTRUST[case]
    reasons = verdict(make()).distrust
    assert any(re.search(pattern, reason) for reason in reasons), reasons
    assert not any(re.search(pattern, reason) for reason in verdict(clean_pair()).distrust)


def test_a_clean_study_leaves_nothing_to_distrust() -> None:
    assert verdict(clean_pair()).distrust == ()


def test_overlapping_seeds_are_named() -> None:
    def low_first_seed(run: Run) -> Run:
        low = run.label == "se2cnn C12" and run.seed == 0
        return evaluated(run, metrics={**run.evaluation.metrics, "auc": Interval(0.7)}) if low else run

    reasons = verdict(all_runs(low_first_seed)).distrust
    assert any("the seeds overlap (worst run of se2cnn C12 0.700" in reason for reason in reasons)


def test_an_auc_that_the_accuracy_does_not_confirm_is_named() -> None:
    study = clean_pair()
    (d,) = study.differences
    study = replace(study, differences=(replace(d, accuracy=Interval(0.0, -0.01, 0.01)),))
    assert any("the accuracy does not confirm it" in reason for reason in verdict(study).distrust)


def test_mirrors_are_no_broken_promise_of_a_group_without_them() -> None:
    assert not any("built to be equivariant" in reason for reason in verdict(clean_pair()).distrust)
    mirrored = [t for t in clean_pair().runs[0].audit.turns if t.mirror]
    assert mirrored and all((t.between_image_error or 0) > 0.01 for t in mirrored)  # the fixture does break them
