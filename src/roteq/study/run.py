"""One model with one seed: train, answer the test images once, evaluate, audit. Every part is skipped where its file
exists, so a killed run continues where it stopped."""

from pathlib import Path

import numpy as np

from ..auditing import audit_dataset
from ..data import PatchDataset, center_crop, open_split
from ..errors import RoteqError
from ..files import load_json, save_json
from ..inference import Predictions, load_classifier, predict
from ..metrics import check_constant, evaluate
from ..models import ModelConfig
from ..results import AuditResult, Finding, Fit, Mistake, Run
from ..training import Classifier
from .config import StudyConfig
from .pictures import first_kernels, png


def finish_run(config: StudyConfig, model: ModelConfig, seed: int, fitted: Fit, split: str, progress: bool) -> Run:
    """Evaluate and audit the best weights on `split`, write run.json, and return it."""
    folder = config.run_folder(model, seed)
    classifier = load_classifier(folder / "best.ckpt")
    data = open_split(config.root, split)
    answers = test_once(folder, classifier, data, progress)
    labels, groups = labelled(answers, folder)
    evaluation = evaluate(
        labels, answers.probabilities, answers.classes,
        groups=groups, bootstrap=config.bootstrap, confidence=config.confidence, seed=seed,
    )  # fmt: skip
    audited = audit_once(folder, classifier, data, config, progress)
    collapsed = check_constant(labels, answers.predicted, answers.classes, model.label)
    run = Run(
        label=model.label,
        model=model.name,
        options=dict(model.options),
        group=model.group,
        seed=seed,
        fit=fitted,
        evaluation=evaluation,
        audit=audited,
        findings=unique(
            (*fitted.findings, *answers.findings, *([collapsed] if collapsed else []), *audit_findings(audited))
        ),
        mistakes=confident_mistakes(answers, labels, data, config.mistakes, classifier.crop),
        kernels=first_kernels(classifier.network),
    )
    save_json(run, folder / "run.json")
    return run


def test_once(folder: Path, classifier: Classifier, data: PatchDataset, progress: bool) -> Predictions:
    """The answers to the test images: made once, then read from predictions.parquet."""
    path = folder / "predictions.parquet"
    if path.exists():
        return Predictions.load(path)
    answers = predict(classifier, data, progress=progress)
    answers.save(path)
    return answers


def audit_once(
    folder: Path, classifier: Classifier, data: PatchDataset, config: StudyConfig, progress: bool
) -> AuditResult:
    path = folder / "audit.json"
    if path.exists():
        return load_json(AuditResult, path)
    result = audit_dataset(classifier, data, config.audit, progress=progress)
    save_json(result, path)
    return result


def labelled(answers: Predictions, where: Path) -> tuple[np.ndarray, list[str] | None]:
    if answers.labels is None:
        raise RoteqError(f"{where}: the predictions carry no labels")
    return np.asarray(answers.labels), answers.groups


def unique(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The first finding of every guard and level: training and evaluation may see the same thing."""
    seen: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        seen.setdefault((finding.guard, finding.level), finding)
    return tuple(seen.values())


def audit_findings(result: AuditResult) -> list[Finding]:
    """What an audit says of an output that hardly varies."""
    if not result.degenerate:
        return []
    return [
        Finding(
            "degenerate output",
            "warn",
            "the output hardly varies between images, so it has no equivariance error",
            "look at the constant-predictor guard and at the training curve before anything else",
        )
    ]


def confident_mistakes(
    answers: Predictions, labels: np.ndarray, data: PatchDataset, most: int, crop: int | None
) -> tuple[Mistake, ...]:
    """The wrong answers that were given with the highest probability, with their pictures."""
    chosen = answers.predicted
    sure = answers.probabilities.max(1)
    wrong = np.flatnonzero(chosen != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    pictures = data.images(wrong.tolist())
    return tuple(
        Mistake(
            id=answers.ids[i],
            truth=answers.classes[labels[i]],
            predicted=answers.classes[chosen[i]],
            probability=float(sure[i]),
            png=png(center_crop(picture[None], crop)[0] if crop else picture),
        )
        for i, picture in zip(wrong, pictures, strict=True)
    )
