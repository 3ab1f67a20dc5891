"""The one thread in which models work: what is urgent goes first, and long work is done a piece at a time."""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

from ..errors import RoteqError

T = TypeVar("T")
Kind = Literal["piece", "end", "failure"]
WAITING = 64  # jobs
PATIENCE = 1.0  # s after which a piece of long work is done although something else has just been asked


class Priority(IntEnum):
    """The smallest goes first. CLOSE: what was begun and is not wanted any more. FINE: the circle, every degree."""

    CLOSE = -1
    ANSWER = 0
    LOOK = 1
    CIRCLE = 2
    EXPORT = 3
    FINE = 4
    SURVEY = 5


CALM = dict.fromkeys((Priority.CIRCLE, Priority.EXPORT, Priority.FINE), 0.1) | {
    Priority.SURVEY: 0.25  # s since anything more urgent was done
}


class Busy(Exception):
    """There is more to do than is taken on."""


class Stopping(Busy):
    """Nothing is taken on any more."""


@dataclass(order=True)
class _Job:
    priority: Priority
    number: int
    pieces: Iterator[Any] = field(compare=False)
    tell: Callable[[Kind, Any], None] = field(compare=False)  # called in the worker's thread
    is_cancelled: bool = field(default=False, compare=False)
    since: float = field(default_factory=time.monotonic, compare=False)  # when it was put into the queue


class Worker:
    """Runs jobs in one thread, the smallest priority first, in the order in which they came.

    A job of several pieces waits in the queue after each, so that something urgent waits for one piece at most. While
    urgent questions keep coming, as they do when a picture is turned, long work gives way: it goes on after a moment
    of calm, or a piece each time that its patience ends. What nobody waits for takes
    half of the time at most. The thread starts with the first job. At most `waiting` jobs wait; Busy is raised for
    more.
    """

    def __init__(
        self, waiting: int = WAITING, calm: Mapping[Priority, float] = CALM, patience: float = PATIENCE
    ) -> None:
        self.most, self.calm, self.patience = waiting, calm, patience
        self._numbers = itertools.count()
        self._jobs: list[_Job] = []
        self._news = threading.Condition()
        self._is_over = False
        self._done_at = dict.fromkeys(Priority, -1.0)  # when a piece of this priority was done
        self._rested_at = 0.0  # when what nobody waits for may go on
        self._thread = threading.Thread(target=self._run, name="roteq worker", daemon=True)

    @property
    def waiting(self) -> int:
        """Jobs that somebody waits for; not the one at hand."""
        return sum(job.priority in range(Priority.SURVEY) for job in self._jobs)

    def each(self, priority: Priority, pieces: Iterator[T]) -> "Pieces[T]":
        """The pieces of an iterator that runs in the worker's thread; closed early, it ends there, after the piece at
        hand. Raises: Busy, at once."""
        return Pieces(self, priority, pieces)

    async def last(self, priority: Priority, pieces: Iterator[T]) -> T:
        """The last piece. Cancelled, the iterator is closed. Raises: Busy, and what the iterator raises."""
        found: list[T] = []
        async with aclosing(self.each(priority, pieces)) as running:
            async for piece in running:
                found = [piece]
        return found[0]

    async def do(self, priority: Priority, function: Callable[[], T]) -> T:
        """What the function returns, or raises, in the worker's thread. Cancelled in time, it never runs."""
        async with aclosing(self.each(priority, _once(function))) as running:
            return await anext(running)

    def background(self, pieces: Iterator[Any], failed: Callable[[Exception], None] = lambda error: None) -> None:
        """All of this, a piece at a time, whenever nobody has asked for anything for a moment."""

        def tell(kind: Kind, value: Any) -> None:
            if kind == "failure" and not isinstance(value, Busy):
                failed(value)

        self._put(Priority.SURVEY, pieces, tell)

    def stop(self, patience: float = 5.0) -> None:
        """After the piece at hand; who waits for anything else hears of Stopping. patience: seconds for that piece."""
        with self._news:
            self._is_over = True
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join(patience)

    def _put(self, priority: Priority, pieces: Iterator[Any], tell: Callable[[Kind, Any], None]) -> _Job:
        job = _Job(priority, next(self._numbers), pieces, tell)
        with self._news:
            if self._is_over:
                raise Stopping("the server is stopping")
            if priority != Priority.SURVEY and self.waiting >= self.most:
                raise Busy(f"busy: {self.most} questions are waiting already; try again in a moment")
            heapq.heappush(self._jobs, job)
            if self._thread.ident is None:
                self._thread.start()
            self._news.notify()
        return job

    def _cancel(self, job: _Job) -> None:
        """Whatever it is doing: no further piece."""
        with self._news:
            job.is_cancelled = True
            if job in self._jobs:
                self._jobs.remove(job)
                job.priority = Priority.CLOSE
                self._jobs.append(job)
                heapq.heapify(self._jobs)
                self._news.notify()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            begin = time.monotonic()
            goes_on = self._goes_on(job)
            job.since = self._done_at[job.priority] = now = time.monotonic()
            if job.priority >= Priority.FINE:
                self._rested_at = now + (now - begin)  # the other half of the machine is the browser's
            if not goes_on:
                _close(job.pieces)
                continue
            with self._news:
                if job.is_cancelled:
                    job.priority = Priority.CLOSE
                heapq.heappush(self._jobs, job)
        with self._news:
            rest, self._jobs = self._jobs, []
        for job in rest:
            _close(job.pieces)
            job.tell("failure", Stopping("the server is stopping"))

    def _next(self) -> _Job | None:
        """The next job, taken out; None at the end."""
        with self._news:
            while not self._is_over:
                rest = self._rest(self._jobs[0]) if self._jobs else None
                if rest is not None and rest <= 0:
                    return heapq.heappop(self._jobs)
                self._news.wait(rest)
        return None

    def _rest(self, job: _Job) -> float:
        """Seconds until it may go on."""
        if job.priority not in self.calm:
            return 0.0
        calm = max(self._done_at[p] for p in Priority if p < job.priority) + self.calm[job.priority]
        begin = min(calm, job.since + self.patience)
        return max(begin, self._rested_at if job.priority >= Priority.FINE else 0.0) - time.monotonic()

    def _goes_on(self, job: _Job) -> bool:
        """Do one piece."""
        if job.is_cancelled:
            return False
        try:
            piece = next(job.pieces)
        except StopIteration:
            job.tell("end", None)
        except Exception as error:
            job.tell("failure", error)
        except BaseException as ended:  # SystemExit: a model's code must not end the server
            job.tell("failure", RoteqError(f"the code of the model ended ({type(ended).__name__}: {ended})"))
        else:
            job.tell("piece", piece)
            return True
        return False


class Pieces(AsyncIterator[T], Generic[T]):
    """What `Worker.each` gives; to be closed (contextlib.aclosing)."""

    def __init__(self, worker: Worker, priority: Priority, pieces: Iterator[T]) -> None:
        self._worker, self._loop = worker, asyncio.get_running_loop()
        self._found: asyncio.Queue[tuple[Kind, Any]] = asyncio.Queue()
        self._job = worker._put(priority, pieces, self._tell)

    def _tell(self, kind: Kind, value: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._found.put_nowait, (kind, value))
        except RuntimeError:  # the loop is closed, nobody listens any more
            self._job.is_cancelled = True

    async def __anext__(self) -> T:
        kind, value = await self._found.get()
        if kind == "piece":
            return value  # type: ignore[no-any-return]
        self._found.put_nowait(("end", None))  # asked again, it has ended still
        if kind == "failure":
            raise value
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._worker._cancel(self._job)


def _once(function: Callable[[], T]) -> Iterator[T]:
    yield function()


def _close(pieces: Iterator[Any]) -> None:
    close = getattr(pieces, "close", None)
    if callable(close):
        with suppress(Exception):
            close()
