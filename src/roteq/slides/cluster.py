"""Many slides by the workers of a dask cluster (extra roteq[cluster]); docs/cluster.md has the commands.

dask.distributed and not Ray: what is needed is a queue of long, independent tasks. dask is that in 2.5 MB of pure
Python, on every platform that roteq runs on; its scheduler and workers are two commands that any batch system can
start, and they need an address and nothing else; the task of a dead worker goes to another, and workers may come during
a run. Ray brings a store of objects, actors and services, of no use here, in 79 MB for each platform and Python.

What dask does not have is in `lease`: it may take a worker for dead that only lost its connection, and two runs may
want the same slide.
"""

import platform
import socket
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import RoteqError, UsageError
from ..report.words import listing
from ..results import FailedSlide, Finding, SlideResult
from .folder import Job, Outcomes, attempt, outcome_of, unexpected

ANSWER = 20.0  # seconds for a scheduler to answer, and for a first worker to be there
LOOK = 5.0  # seconds from look to look whether there are workers
LONELY = 120.0  # seconds without any worker after which a run ends
AGAIN = 3  # times that a slide goes back to the scheduler which saw workers die near it


@contextmanager
def connected(address: str, jobs: list[Job]) -> Iterator[tuple[Any, list[Finding]]]:
    """A client whose workers have this roteq and see the model, slides and the folder for the maps; and what is odd.

    Raises: UsageError if `address` is none; RoteqError if dask is not installed, no scheduler answers there, or the
    workers cannot work, with their hosts and what they lack.
    """
    try:
        from distributed import Client
    except ImportError:
        raise RoteqError("a cluster needs dask.distributed: pip install 'roteq[cluster]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which versions differ is said below
            client = Client(address, timeout=ANSWER, set_as_default=False)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--cluster {address}: expected an address such as tcp://10.0.0.1:8786 ({error})") from None
    except OSError as error:
        reason = str(error) or type(error).__name__
        raise RoteqError(
            f"--cluster {address}: no scheduler answers there ({reason}); start one with: dask scheduler"
        ) from None
    with client, client.as_current():
        try:
            client.wait_for_workers(1, timeout=ANSWER)
        except TimeoutError:
            raise RoteqError(
                f"--cluster {address}: the scheduler has no workers; start some with: dask worker {address} "
                "--nthreads 1"
            ) from None
        mark = mark_of(jobs[0])
        try:
            mark.touch()
            yield client, check_workers(client, jobs, mark)
        finally:
            mark.unlink(missing_ok=True)


def check_workers(client: Any, jobs: list[Job], mark: Path) -> list[Finding]:
    """Raises: RoteqError naming hosts, and what they do not have or see."""
    paths = [jobs[0].model, *(job.slide for job in jobs)]
    answers = client.run(report, paths, str(mark), on_error="return")
    problems = {f"{host_of(*of)}: {problem}" for of in answers.items() if (problem := problem_of(of[1]))}
    if problems:
        raise RoteqError("\n  ".join(["the cluster cannot do this:", *sorted(problems)]))
    findings = []
    for name, own in versions().items():
        others = {f"{answer['versions'][name]} on {answer['host']}" for answer in answers.values()}
        others -= {f"{own} on {answer['host']}" for answer in answers.values()}
        if others:
            message = f"{name} is {own} here and {listing(sorted(others))}"
            findings.append(Finding("versions", "warn", message, "Install the same everywhere, for the same numbers."))
    return findings


def host_of(worker: str, answer: Any) -> str:
    return str(answer["host"]) if isinstance(answer, dict) else worker


def problem_of(answer: Any) -> str | None:
    """Of what a worker answered."""
    if not isinstance(answer, dict):
        return f"has no roteq, or another one than {__version__} here ({type(answer).__name__}: {answer})"
    if answer["roteq"] != __version__:
        return f"has roteq {answer['roteq']}, here it is {__version__}; install the same"
    if answer["unseen"]:
        more = f" and {len(answer['unseen']) - 1} more" if len(answer["unseen"]) > 1 else ""
        return f"does not see {answer['unseen'][0]}{more}; give paths that mean the same on all hosts"
    return answer["out"]


def report(paths: list[str], mark: str) -> dict[str, Any]:
    """What a worker has and sees."""
    return {
        "host": socket.gethostname(),
        "roteq": __version__,
        "versions": versions(),
        "unseen": [path for path in paths if not Path(path).exists()],
        "out": problem_of_folder(Path(mark)),
    }


def versions() -> dict[str, str]:
    """Of what the numbers depend on; the client and its workers talk through the last."""
    found = {"Python": platform.python_version().rpartition(".")[0]}
    for name in ("torch", "distributed"):
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def problem_of_folder(mark: Path) -> str | None:
    """Whether this is the folder in which the client left a mark, and can be written."""
    if not mark.exists():
        return f"does not see the folder for the maps, {mark.parent}, or another one; give one that all hosts share"
    own = mark.with_name(f"{mark.name}.{uuid.uuid4().hex}")
    try:
        own.touch()
        own.unlink()
    except OSError as error:
        return f"cannot write into {mark.parent} ({error.strerror or error})"
    return None


def by_cluster(client: Any, jobs: list[Job]) -> Outcomes:
    """On the workers of a cluster. dask tries again what an unexpected error or the end of a worker interrupted.

    Raises: RoteqError if the scheduler, or all workers for long, are gone.
    """
    from distributed import CancelledError, KilledWorker

    def submit(job: int, times: int) -> Any:
        key = f"map_slide-{jobs[job].run}", job, times
        return client.submit(on_worker, jobs[job], key=key, pure=False, retries=1)

    try:
        running = {submit(job, 0): (job, 0) for job in range(len(jobs))}
        while running:
            for future in first_ended(client, list(running)):
                job, times = running.pop(future)
                error = future.exception()
                if error is None:
                    yield job, outcome_of(jobs[job], future.result())
                elif isinstance(error, KilledWorker) and times < AGAIN:  # those on the same workers may be to blame
                    running[submit(job, times + 1)] = job, times + 1
                else:
                    yield job, FailedSlide(jobs[job].slide, unexpected(error))
    except (CancelledError, OSError):
        raise RoteqError("the scheduler is gone; start one, and give the same command again: it continues") from None


def first_ended(client: Any, futures: list[Any]) -> set[Any]:
    """Those that ended, one at least. Raises: RoteqError if there is no worker for long."""
    from distributed import wait

    alone: float | None = None
    while True:
        try:
            return wait(futures, timeout=LOOK, return_when="FIRST_COMPLETED").done  # type: ignore[no-any-return]
        except TimeoutError:
            alone = None if client.nthreads() else alone or time.monotonic()
        if alone and time.monotonic() - alone > LONELY:
            raise RoteqError(
                f"the cluster has had no worker for {LONELY:.0f} s; start some, and give the same command again: it "
                "continues"
            )


def on_worker(job: Job) -> SlideResult | str:
    """Workers that came later have not been looked at."""
    problem = problem_of(report([job.model, job.slide], str(mark_of(job))))
    return f"{socket.gethostname()}: {problem}" if problem else attempt(job)


def mark_of(job: Job) -> Path:
    """There while the run lasts, to tell its folder from another of the same name."""
    return Path(job.out) / f".{job.run}.run"
