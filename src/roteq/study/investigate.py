"""The whole investigation, resumable: the same call continues a killed one and ends with the same numbers."""

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from .._version import __version__
from ..config import load_config, save_yaml, to_yaml
from ..data import contents, dataset_info, prepare
from ..data.masks import is_masks
from ..errors import RoteqError, UsageError
from ..files import load_json, save_json, write_text
from ..metrics import check_leak
from ..report import write_report
from ..results import Finding, Run, Study
from ..training import TrainConfig, fit, fit_one_batch
from ..training.feed import world
from .comparison import comparison_csv, differences, summarise
from .config import StudyConfig
from .maps import finish_maps
from .run import finish_run


def investigate(
    config: StudyConfig, *, progress: bool = True, dry_run: bool = False, max_time: timedelta | None = None
) -> Study:
    """Prepare if needed, train every model with every seed, evaluate each on the test split once, audit, compare, and
    write study.yaml, comparison.csv, study.json and report.html into the study's folder.

    `dry_run`: one batch through every step with every model and one seed, on the validation split, in a temporary
    folder. `max_time`: stop cleanly when it is over; the same call continues.

    Raises: UsageError if the folder holds another study or another process works in it; RoteqError when the time is
    over before every model is trained.
    """
    if not dry_run:
        return _investigate(config, "test", progress, max_time, dry_run=False)
    with tempfile.TemporaryDirectory() as folder:
        return _investigate(_shortened(config, folder), "validation", progress, max_time, dry_run=True)


def _shortened(config: StudyConfig, folder: str) -> StudyConfig:
    data = config.data.model_copy(update={"root": str(config.root)})
    audit = config.audit.model_copy(update={"images": 16, "angles": 8, "bootstrap": 10})
    return config.model_copy(
        update={"out": folder, "data": data, "seeds": config.seeds[:1], "audit": audit, "bootstrap": 10}
    )


def _investigate(config: StudyConfig, split: str, progress: bool, max_time: timedelta | None, dry_run: bool) -> Study:
    deadline = None if max_time is None else time.monotonic() + max_time.total_seconds()
    with _claimed(config.folder):
        _write_or_check(config)
        _prepare_data(config, progress)
        leak = None if dry_run else check_leak(contents(config.root, "train"), contents(config.root, "test"), "test")
        if leak and leak.level == "stop":
            raise RoteqError(f"{config.root}: {leak.message}. {leak.advice}")
        runs = [
            _run(config, index, seed, split, progress, deadline, dry_run)
            for seed in config.seeds
            for index in range(len(config.models))
        ]
        if not is_main_process():
            raise SystemExit(0)
        study = _gather(config, [run for run in runs if run is not None], (leak,) if leak else ())
        save_json(study, config.folder / "study.json")
        write_text(config.folder / "comparison.csv", comparison_csv(study))
        write_report(study, config.folder / "report.html")
        return study


def _run(
    config: StudyConfig, index: int, seed: int, split: str, progress: bool, deadline: float | None, dry_run: bool
) -> Run | None:
    model = config.models[index]
    finished = config.run_folder(model, seed) / "run.json"
    if finished.exists():
        return load_json(Run, finished)
    train = config.train.model_copy(update={"seed": seed})
    folder = config.run_folder(model, seed)
    if dry_run:
        fitted = fit_one_batch(model, config.root, train, folder)
    else:
        fitted = fit(model, config.root, _within(train, deadline, config.folder), folder, progress=progress)
        if deadline is not None and not (folder / "fit.json").exists():
            raise _time_is_over(config.folder)
    if not is_main_process():
        return None
    finish = finish_maps if is_masks(config.root) else finish_run
    return finish(config, model, seed, fitted, split, progress)


def _within(train: TrainConfig, deadline: float | None, folder: Path) -> TrainConfig:
    """The protocol with the time that is left, in minutes, as its limit."""
    if deadline is None:
        return train
    left = (deadline - time.monotonic()) / 60
    if left <= 0:
        raise _time_is_over(folder)
    return train.model_copy(update={"max_time": left})


def _time_is_over(folder: Path) -> RoteqError:
    return RoteqError(f"{folder}: the time is over; what is done is kept, and the same command continues")


def _prepare_data(config: StudyConfig, progress: bool) -> None:
    """Raw data is prepared by one process; several find it ready."""
    if config.data.source is None:
        return
    if world()[1] == 1:
        prepare(config.data.source, config.root, config.data.prepare, progress=progress)
    elif not (config.root / "dataset.json").is_file():
        raise UsageError(
            f"{config.root}: not prepared yet; several processes need it ready: "
            f"roteq prepare {config.data.source} {config.root}"
        )


def _gather(config: StudyConfig, runs: list[Run], findings: tuple[Finding, ...]) -> Study:
    data = dataset_info(config.root)
    return Study(
        name=config.name,
        dataset=data,
        runs=tuple(runs),
        summaries=summarise(runs),
        differences=differences(config, runs),
        findings=findings,
        config=to_yaml(config),
        environment=environment(),
        confidence=config.confidence,
    )


def environment() -> dict[str, str]:
    """What the numbers depend on besides the configuration."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "roteq": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
    }


def is_main_process() -> bool:
    """False in the further processes of a run started by torchrun."""
    return world()[0] == 0


def _write_or_check(config: StudyConfig) -> None:
    """study.yaml holds the whole configuration; a folder that holds another one is not touched."""
    path = config.folder / "study.yaml"
    if not path.exists():
        if is_main_process():
            save_yaml(config, path)
        return
    before, now = to_yaml(load_config(StudyConfig, path)).splitlines(), to_yaml(config).splitlines()
    if before != now:
        old, new = next(((a, b) for a, b in zip(before, now, strict=False) if a != b), (before[-1], now[-1]))
        raise UsageError(
            f"{config.folder}: holds a study with another configuration (there: {old.strip()!r}, "
            f"now: {new.strip()!r}); choose another name, or remove that folder"
        )


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """One process at a time works in a study's folder; the system drops the claim of a killed one by itself."""
    if not is_main_process():
        yield
        return
    try:
        import fcntl
    except ImportError:  # Windows has no flock: two processes at once are the user's care there
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be an output folder ({error.strerror})") from None
    with (folder / ".claim").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder}: another process is working in this folder; wait for it or choose another name"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
