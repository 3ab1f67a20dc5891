"""A trained network over many slides: by several processes of this machine, or by a cluster."""

import csv
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from ..data.staging import available_cores
from ..errors import RoteqError, UsageError
from ..files import atomic_path, save_json
from ..results import FailedSlide, Finding, FolderResult, SlideResult
from .config import SlideConfig
from .lease import DEATHS, leased
from .reading import main_hidden

SUFFIXES = (".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi")
SUMMARY = "slides"  # .csv and .json

Work = Callable[..., SlideResult]
Outcome = SlideResult | FailedSlide
Outcomes = Generator[tuple[int, Outcome], None, None]  # number of a job and what became of it, as they end


@dataclass(frozen=True)
class Job:
    """One slide of one run."""

    model: str
    slide: str
    out: str
    config: SlideConfig
    run: str
    work: Work | None = None  # None: map_slide


def map_slides(
    model: str | Path,
    slides: str | Path | Sequence[str | Path],
    out: str | Path,
    config: SlideConfig | None = None,
    *,
    cluster: str | None = None,
    processes: int = 1,
    progress: bool = True,
    work: Work | None = None,
) -> FolderResult:
    """`map_slide` over many slides, each once, and a table of all: <out>/slides.csv and slides.json.

    model: a run folder or a checkpoint. slides: their paths, or a folder, which is searched with the folders below it.
    processes: slides at once on this machine; they share its cores and take its GPUs in turn. cluster: the address of a
    dask scheduler, whose workers do the work instead (docs/cluster.md). work: in place of map_slide.

    A slide that cannot be mapped is reported and does not block the others; one whose process dies (out of memory,
    kill -9) is tried once more. Killed and called again it continues, and finished slides are only read.

    Raises: UsageError if there are no slides, two have the same name, or settings do not fit the network; RoteqError if
    the model cannot be loaded or the cluster cannot work.
    """
    start, config, out = time.monotonic(), config or SlideConfig(), Path(os.path.abspath(out))
    paths, model = find_slides(slides, out), os.path.abspath(model)
    if work is None:
        check_model(model, config)
    run = uuid.uuid4().hex
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RoteqError(f"{out}: could not be written: {error.strerror or error}") from None
    findings: list[Finding] = []
    found: dict[int, Outcome] = {}
    old = {i for i, path in enumerate(paths) if (out / f"{name_of(path)}.json").is_file()}
    jobs = [Job(model, str(path), str(out), config, run, work) for path in paths]
    with ExitStack() as stack:
        if cluster is None:
            outcomes = by_processes(jobs, processes)
        else:
            from .cluster import by_cluster, connected

            client, findings = stack.enter_context(connected(cluster, jobs))
            outcomes = by_cluster(client, jobs)
        show = stack.enter_context(shown(len(paths), len(old), progress))
        for i, outcome in stack.enter_context(closing(outcomes)):
            found[i] = outcome
            show(outcome, i in old)
    result = summary([found[i] for i in range(len(paths))], round(time.monotonic() - start, 3), findings)
    save_json(result, out / f"{SUMMARY}.json")
    write_table(paths, found, out / f"{SUMMARY}.csv")
    return result


def find_slides(slides: str | Path | Sequence[str | Path], out: Path) -> list[Path]:
    """Absolute paths, of a folder sorted; what lies in `out` is left out.

    Raises: UsageError if there is none, or two would have the same map.
    """
    if isinstance(slides, str | Path) and Path(slides).is_dir():
        folder = Path(os.path.abspath(slides))
        if folder == out:
            raise UsageError(f"{out}: expected another folder for the maps than that of the slides")
        files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
        listed = [path for path in files if not path.name.startswith(".") and out not in path.parents]
        if not listed:
            raise UsageError(f"{slides}: expected slides ({', '.join(SUFFIXES)}) in the folder, found none")
    else:
        given = [slides] if isinstance(slides, str | Path) else slides
        listed = [Path(os.path.abspath(slide)) for slide in given]
        if not listed:
            raise UsageError("slides: expected at least one, got none")
    names: dict[str, Path] = {}
    for path in listed:
        name = name_of(path)
        if name == SUMMARY:
            raise UsageError(f"{path}: a slide of the name {SUMMARY} is in the way of {SUMMARY}.json; rename it")
        if name in names:
            raise UsageError(
                f"{path}: has the name of {names[name]}, and so would its map; rename one, or map it apart"
            )
        names[name] = path
    return listed


def name_of(slide: Path) -> str:
    """What its files are called.

    >>> name_of(Path("case7.svs")), name_of(Path("x/case8.ome.tif"))
    ('case7', 'case8')
    """
    return slide.name.removesuffix(slide.suffix).removesuffix(".ome")


def check_model(model: str, config: SlideConfig) -> None:
    """Raises: what would fail for every slide."""
    from ..inference import load_classifier
    from .asking import Asker

    Asker(load_classifier(model), config)


def attempt(job: Job) -> SlideResult | str:
    """The result of a slide, or why it has none; any error that is not roteq's is raised."""
    work = job.work or real_work()
    try:
        with leased(Path(job.out) / f"{name_of(Path(job.slide))}.lease", job.run):
            return work(job.model, job.slide, job.out, job.config, progress=False)
    except RoteqError as error:
        return str(error)


def real_work() -> Work:
    from .running import map_slide

    return map_slide


def by_processes(jobs: list[Job], processes: int) -> Outcomes:
    """On this machine. A slide whose process dies is tried again after the others.

    Raises: UsageError if `processes` is no number of them.
    """
    if processes < 1:
        raise UsageError(f"processes: expected 1 or more, got {processes}")
    processes = min(processes, len(jobs))
    cores, gpus = max(1, available_cores() // processes), []
    if processes > 1 and jobs[0].work is None:
        gpus, jobs = visible_gpus(), [replace(job, config=with_readers(job.config, cores)) for job in jobs]
    places = [Place(cores, gpus[i % len(gpus)] if gpus else None) for i in range(processes)]
    todo, deaths = deque(range(len(jobs))), Counter[int]()
    running: dict[Future[SlideResult | str], tuple[Place, int]] = {}
    try:
        while todo or running:
            free = [place for place in places if all(place is not busy for busy, _ in running.values())]
            for place in free[: len(todo)]:
                job = todo.popleft()
                running[place.submit(attempt, jobs[job])] = place, job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, job = running.pop(future)
                error = future.exception()
                if error is None:
                    yield job, outcome_of(jobs[job], future.result())
                    continue
                place.end()
                deaths[job] += 1
                if deaths[job] < DEATHS:
                    todo.append(job)
                else:
                    yield job, FailedSlide(jobs[job].slide, unexpected(error))
    finally:
        for place in places:
            place.end()


class Place:
    """A process that maps one slide after another. Where it died or was ended the next job begins a new one."""

    def __init__(self, cores: int, gpu: str | None) -> None:
        self.cores, self.gpu = cores, gpu
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, work: Callable[[Job], Any], job: Job) -> Future[Any]:
        if self.pool is not None:
            try:
                return self.pool.submit(work, job)
            except BrokenProcessPool:  # it died while it had nothing to do
                self.end()
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        theirs, self.lifeline = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(theirs, self.cores, self.gpu))
        with main_hidden():
            future = self.pool.submit(work, job)
        theirs.close()
        return future

    def end(self) -> None:
        """At once, whatever it does."""
        if self.pool is not None:
            self.lifeline.close()
            self.pool.shutdown()
            self.pool = None


def _begin(lifeline: Connection, cores: int, gpu: str | None) -> None:
    """Leave Ctrl-C to the parent, and end with it or when it says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))  # torch comes later
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    def watch() -> None:
        wait_for([lifeline])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def with_readers(config: SlideConfig, cores: int) -> SlideConfig:
    from .running import READERS

    workers = min(READERS, cores) if config.workers is None else config.workers
    return config.model_copy(update={"workers": workers})


def visible_gpus() -> list[str]:
    """Their names for CUDA_VISIBLE_DEVICES."""
    from torch import cuda

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(cuda.device_count())]


def outcome_of(job: Job, answer: SlideResult | str) -> Outcome:
    return FailedSlide(job.slide, answer) if isinstance(answer, str) else answer


def unexpected(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return f"the process that worked on it died, {DEATHS} times; out of memory?"
    return f"unexpected {type(error).__name__}: {error}"


@contextmanager
def shown(slides: int, old: int, progress: bool) -> Iterator[Callable[[Outcome, bool], None]]:
    """A bar on stderr with the slides and the time left; `old` ones were finished before and are quickly read."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..report.words import duration

    columns = (
        TextColumn("mapping"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slides,"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    start, new, failed = time.monotonic(), 0, 0
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("", total=slides)

        def show(outcome: Outcome, was_old: bool) -> None:
            nonlocal new, failed
            new, failed = new + (not was_old), failed + isinstance(outcome, FailedSlide)
            left = (time.monotonic() - start) / new * (slides - old - new) if new else None
            notes = [f"about {duration(left)} left"] if left else []
            notes += [f"{failed} failed"] if failed else []
            bar.update(task, advance=1, description=", ".join(notes))
            if isinstance(outcome, FailedSlide):
                bar.console.print(f"{Path(outcome.slide).name}: {outcome.reason}", markup=False, highlight=False)

        yield show


def summary(outcomes: list[Outcome], seconds: float, findings: list[Finding]) -> FolderResult:
    """All of them, and what stops some."""
    from ..report.words import plural

    done = tuple(outcome for outcome in outcomes if isinstance(outcome, SlideResult))
    failed = tuple(outcome for outcome in outcomes if isinstance(outcome, FailedSlide))
    findings = [*findings]
    if failed:
        message = (
            f"{len(failed)} of {plural(len(outcomes), 'slide')} have no map; the first: "
            f"{Path(failed[0].slide).name}: {failed[0].reason}"
        )
        findings.append(Finding("failed slides", "stop", message, "The same command tries them again, and only them."))
    for slide in done:
        stops = (finding for finding in slide.findings if finding.level == "stop")
        findings += [replace(finding, message=f"{slide.name}: {finding.message}") for finding in stops]
    return FolderResult(done, failed, seconds, tuple(findings))


def write_table(paths: list[Path], outcomes: dict[int, Outcome], target: Path) -> None:
    """A row for each slide; areas in square millimetres, shares of the tissue that has an answer."""
    rows: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        found = outcomes[i]
        row: dict[str, Any] = {"slide": str(path), "name": name_of(path)}
        if isinstance(found, FailedSlide):
            rows.append(row | {"failed": found.reason})
            continue
        row |= {"tissue_mm2": found.tissue_area, "unknown_mm2": found.unknown_area, "tiles": found.tiles}
        row |= {"failed_tiles": len(found.failed), "seconds": found.seconds}
        row["findings"] = "; ".join(finding.guard for finding in found.findings)
        for area in found.areas:
            row |= {f"share({area.name})": area.share, f"mm2({area.name})": area.area}
            row |= {f"mean({area.name})": area.mean, f"regions({area.name})": area.regions}
        rows.append(row)
    columns = dict.fromkeys([*("slide", "name", "failed"), *(key for row in rows for key in row)])
    with atomic_path(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
