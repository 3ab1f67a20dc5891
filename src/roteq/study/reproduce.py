"""Published numbers, run again: one configuration each, in configs/.

The published protocol is kept, not improved: the report stands beside it for that.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..config import Config, load_config
from ..data import PrepareOptions, contents, dataset_info, open_split, prepare
from ..errors import RoteqError, UsageError, nearest
from ..files import save_json
from ..inference import Predictions, load_classifier, predict
from ..metrics import check_constant, check_leak, evaluate, spread
from ..models import ModelConfig
from ..results import Evaluation, Finding, Interval, Reproduction, Spread, Trial
from ..training import TrainConfig, fit

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HEAD = "published:"  # what tells a published number from a study in the same folder


class Published(Config):
    """The number as its authors printed it: error and accuracy in per cent, auc in per cent, nll in nats."""

    metric: Literal["error", "accuracy", "auc", "nll"]
    value: float
    spread: float | None = None  # standard deviation over its seeds
    source: str
    retold: bool = False  # printed by others than the authors


class ReproductionConfig(Config):
    """What was published, and how it is run again. `needs`: what --data must hold, in words. `original`: a file (or
    pattern) that is in --data only where it is the published data and not a stand-in for it."""

    published: Published
    needs: str
    original: str
    prepare: PrepareOptions
    model: ModelConfig
    train: TrainConfig
    seeds: int = Field(ge=1)

    @model_validator(mode="after")
    def _test_split_is_given(self) -> "ReproductionConfig":
        if self.prepare.shares[2]:
            raise ValueError("prepare.shares: expected 0 for test: a published number is for the published test images")
        return self


def reproductions() -> dict[str, Path]:
    """The configurations of published numbers, by name."""
    found = sorted(CONFIGS.glob("*.yaml"))
    return {path.stem: path for path in found if f"\n{HEAD}" in path.read_text(encoding="utf-8")}


def reproduction(name: str) -> ReproductionConfig:
    """Raises: UsageError for a name that is not there, with the nearest that is."""
    known = reproductions()
    if name not in known:
        raise UsageError(f"unknown reproduction {name!r}; {nearest(name, known)}")
    return load_config(ReproductionConfig, known[name])


def reproduce(
    name: str,
    data: str | Path,
    out: str | Path = "reproductions",
    *,
    seeds: int | None = None,
    epochs: int | None = None,
    progress: bool = True,
) -> Reproduction:
    """Run the published experiment `name` again on the raw data in the folder `data`.

    Prepares `data` once for all reproductions that need it alike (out/data-...), trains with the seeds 0, 1, ..., tests
    each network once, and writes out/<name>/reproduction.json. seeds, epochs: fewer or more than published; drops of
    the learning rate keep their epochs. Killed at any moment, the same call continues.

    Raises: UsageError for a name, data or numbers that do not fit; RoteqError where training and test share images.
    """
    config = reproduction(name)
    data, folder = Path(data), Path(out) / name
    number = config.seeds if seeds is None else seeds
    if number < 1 or (epochs is not None and epochs < 1):
        raise UsageError(f"reproduce: expected at least one seed and one epoch, got {seeds} and {epochs}")
    root = Path(out) / f"data-{config.prepare.kind}-{config.prepare.mode}"
    if not data.is_dir():
        raise UsageError(f"--data: no folder {data}; {name} needs {config.needs}")
    prepare(data, root, config.prepare, progress=progress)
    leak = _check_splits(root, config.train)
    train = config.train if epochs is None else config.train.model_copy(update={"epochs": epochs})
    trials = tuple(_trial(config, train, seed, root, folder, leak, progress) for seed in range(number))
    published, obtained = config.published, spread([trial.value.value for trial in trials])
    margin = allowed(published.spread, obtained, [trial.value for trial in trials])
    result = Reproduction(
        name=name,
        metric=published.metric,
        published=published.value,
        published_spread=published.spread,
        source=published.source,
        retold=published.retold,
        original=any(data.glob(config.original)),
        obtained=obtained,
        margin=margin,
        inside=obtained.mean is not None and abs(obtained.mean - published.value) <= margin,
        trials=trials,
        seeds=(number, config.seeds),
        epochs=(train.epochs, config.train.epochs),
        test_images=trials[0].evaluation.n,
        majority_rate=trials[0].evaluation.majority_rate,
    )
    save_json(result, folder / "reproduction.json")
    return result


def _check_splits(root: Path, train: TrainConfig) -> Finding | None:
    """That there is a test split of its own; a finding where a few of its images were trained on."""
    info = dataset_info(root)
    for split in ("train", "validation", "test"):
        if split not in info.counts:
            raise UsageError(f"{root}: expected the splits train, validation and test, got {', '.join(info.counts)}")
    seen = "train+validation" if train.final else "train"
    leak = check_leak(contents(root, seen), contents(root, "test"), "test")
    if leak and leak.level == "stop":
        raise RoteqError(f"{root}: {leak.message}. {leak.advice}")
    return leak


def _trial(
    config: ReproductionConfig,
    train: TrainConfig,
    seed: int,
    root: Path,
    folder: Path,
    leak: Finding | None,
    progress: bool,
) -> Trial:
    run = folder / f"s{seed}"
    fitted = fit(config.model, root, train.model_copy(update={"seed": seed}), run, progress=progress)
    if (run / "predictions.parquet").exists():
        answers = Predictions.load(run / "predictions.parquet")
    else:
        answers = predict(load_classifier(run), open_split(root, "test"), progress=progress)
        answers.save(run / "predictions.parquet")
    assert answers.labels is not None
    evaluation = evaluate(answers.labels, answers.probabilities, answers.classes, groups=answers.groups, seed=seed)
    constant = check_constant(answers.labels, answers.predicted, answers.classes, config.model.label)
    findings = (*fitted.findings, *answers.findings, *(found for found in (constant, leak) if found))
    return Trial(seed, measured(config.published.metric, evaluation), fitted, evaluation, findings)


def measured(metric: str, evaluation: Evaluation) -> Interval:
    """A number in the unit in which it was published, with its interval: per cent, nll in nats."""
    if metric == "nll":
        return evaluation.metrics["nll"]
    found = evaluation.metrics["auc" if metric == "auc" else "accuracy"]
    value, low, high = (None if v is None else 100 * v for v in (found.value, found.low, found.high))
    if metric != "error":
        return Interval(value, low, high)
    return Interval(*(None if v is None else 100 - v for v in (value, high, low)))


def allowed(published: float | None, obtained: Spread, trials: Sequence[Interval]) -> float:
    """By how much two means may differ and agree: two standard deviations, of both spreads together. Where the spread
    over seeds is not known, that over the test images stands in, a quarter of the 95 % interval.

    >>> allowed(0.3, Spread(2.0, 0.4, 3), [])
    1.0
    """
    own = obtained.std
    if own is None:
        widths = [(t.high - t.low) / 4 for t in trials if t.high is not None and t.low is not None]
        own = max(widths, default=0.0)
    return 2 * math.hypot(published or 0.0, own)
