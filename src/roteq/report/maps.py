"""What is said otherwise where networks answer with maps: pixels are counted, but the images (or groups of them) are
what the intervals are resampled over, and few images make rough intervals."""

from collections.abc import Iterator, Sequence

from ..results import Evaluation, Spread, Study, Summary
from .words import error, listing, number, percent, plural

LEADING = ("detection_f1", "v_rand", "dice")  # the first of them that a study has decides
FEW = 20  # images, or groups of them: with fewer a bootstrap interval is rough
NOTHING = Spread(None, None, 0)
TURNED = {
    "rot90": "pictures turned by multiples of 90 degrees",
    "any": "pictures turned by any angle",
    "radians_as_degrees": "pictures turned by 3 degrees at most",
}


def is_maps(study: Study) -> bool:
    return study.dataset.kind == "masks" or any(run.evaluation.images is not None for run in study.runs)


def leading_metric(study: Study) -> str:
    """The metric of maps that decides; AUC where there is none of them, as of patches."""
    known = {k for run in study.runs for k, v in run.evaluation.metrics.items() if v.value is not None}
    return next((metric for metric in LEADING if metric in known), "auc")


def units(evaluation: Evaluation) -> int:
    """How many independent things the intervals are resampled over."""
    return evaluation.clusters or evaluation.images or evaluation.n


def resampled(evaluation: Evaluation) -> str:
    """ "4 images", "2 groups of the 4 images"."""
    images = plural(evaluation.images or 0, "image")
    return f"{plural(evaluation.clusters, 'group')} of the {images}" if evaluation.clusters else images


def where(study: Study) -> str:
    """What a headline speaks of: with few images these and no others."""
    evaluation = study.runs[0].evaluation if study.runs else None
    if evaluation is None or units(evaluation) >= FEW:
        return study.name
    return f"the {plural(evaluation.images or 0, 'test image')} of {study.name}"


def caution(study: Study) -> str:
    """Said before every number where images are few. With n of them an interval excludes 0 whenever all lean to one
    side, which is luck in 2 of 2^n studies."""
    evaluation = study.runs[0].evaluation if study.runs and is_maps(study) else None
    if evaluation is None or units(evaluation) >= FEW:
        return ""
    n, what = units(evaluation), "group" if evaluation.clusters else "image"
    if n == 1:
        return f"There is only 1 test {what}: nothing can be resampled, so no interval and no difference can be shown."
    text = f"Few {what}s: every interval is resampled over only {resampled(evaluation)}, so it is rough"
    if 2.0 ** (1 - n) <= 1 - study.confidence:
        return f"{text}, and rather too narrow than too wide."
    return (
        f"{text} and too narrow. It excludes 0 whenever all {n} {what}s lean to one side, which luck alone brings "
        f"about in 1 of {2 ** (n - 1)} studies: take no difference here as shown for other images."
    )


def accuracy_sentence(study: Study, void: Sequence[str]) -> Iterator[str]:
    """The accuracy of the pixels never stands without their majority rate."""
    if not study.runs:
        return
    evaluation = study.runs[0].evaluation
    always = max(evaluation.counts, key=lambda c: evaluation.counts[c])
    means = [(s.label, s.metrics.get("accuracy", NOTHING).mean) for s in study.summaries if s.label not in void]
    base = f"calling every one '{always}' reaches {number(evaluation.majority_rate)} (their majority rate)"
    shown = [f"{number(mean)} ({label})" for label, mean in means]
    yield f"Accuracy of the pixels {listing(shown)}; {base}." if shown else f"Of the pixels, {base}."


def turn_sentences(study: Study, void: Sequence[str]) -> Iterator[str]:
    """Whether the maps turn with the picture; exact and interpolated turns apart."""
    sure = [s for s in study.summaries if s.label not in void]
    for kind, turned in (("exact", "a quarter or a half"), ("interpolated", "other angles")):
        shares = _means(sure, f"{kind}_flip_rate")
        errors = _means(sure, f"{kind}_error")
        if not shares:
            continue
        said = listing(f"{percent(value)} of the pixels ({label})" for label, value in shares)
        sizes = f"; its error is {listing(f'{error(v)} ({label})' for label, v in errors)}" if errors else ""
        yield f"Turned by {turned}, the map changes the class of {said}{sizes}."


def _means(summaries: Sequence[Summary], key: str) -> list[tuple[str, float]]:
    return [(s.label, mean) for s in summaries if (mean := s.audit.get(key, NOTHING).mean) is not None]


def augment_sentence(study: Study) -> Iterator[str]:
    """What the protocol says about turned pictures in training. A study has one protocol, so it cannot say more."""
    policy = _policy(study.config)
    if policy is None:
        return
    seen = [TURNED[policy["turn"]]] if policy["turn"] in TURNED else []
    mirror = policy.get("mirror")
    if (policy["turn"] in ("rot90", "any")) if mirror is None else mirror:
        seen.append("mirrored pictures")
    if seen:
        yield f"Every model was trained with {listing(seen)}; how they compare without them, this study does not say."
    else:
        yield (
            "No model saw turned or mirrored pictures in training; how they compare with such pictures, this study "
            "does not say."
        )


def _policy(config: str) -> dict | None:
    """train.augment of a study.yaml, if that is what the text is."""
    import yaml

    try:
        found = yaml.safe_load(config)
        for key in ("train", "augment"):
            found = found[key]
        return found if "turn" in found else None
    except (yaml.YAMLError, KeyError, TypeError):
        return None


def basis_sentence(study: Study) -> Iterator[str]:
    if not study.runs:
        return
    evaluation = study.runs[0].evaluation
    seeds = sorted({s.seeds for s in study.summaries})
    counts = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    images = plural(evaluation.images or 0, "test image")
    images += f" from {plural(evaluation.clusters, 'group')}" if evaluation.clusters else ""
    unit = "groups" if evaluation.clusters else "images"
    yield (
        f"All of this rests on {plural(evaluation.n, 'pixel')} of {images} and {counts} a model; intervals are "
        f"resampled over the {unit}, as the pixels of one image are not independent."
    )


def sample_doubts(study: Study) -> Iterator[str]:
    if study.runs and study.runs[0].evaluation.clusters is None:
        yield (
            "The test images carry no groups (such as the patient they come from): if several come from one, the "
            "intervals are too narrow."
        )
