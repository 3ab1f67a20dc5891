"""The worker: order, one piece at a time, limits, cancelling, the end."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from roteq.app.worker import Busy, Priority, Stopping, Worker
from roteq.errors import RoteqError


class Gate:
    """A job that waits to be let through, so that a test knows what waits behind it."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.opened.wait(5)
        return "gate"


def run(test: Callable[[Worker], Awaitable[None]], **options: Any) -> None:
    worker = Worker(**{"calm": {}, **options})

    async def inside() -> None:
        try:
            await asyncio.wait_for(test(worker), 5)
        finally:
            await asyncio.to_thread(worker.stop)

    asyncio.run(inside())


async def behind(gate: Gate, worker: Worker, *jobs: Awaitable[Any]) -> list["asyncio.Task[Any]"]:
    """The jobs, put into the queue in this order behind a gate, which is opened then."""
    first = asyncio.ensure_future(worker.do(Priority.ANSWER, gate))
    await asyncio.to_thread(gate.entered.wait, 5)
    tasks = [asyncio.ensure_future(job) for job in jobs]
    await asyncio.sleep(0.02)
    gate.opened.set()
    assert await first == "gate"
    return tasks


def test_what_is_urgent_goes_first_and_equals_in_their_order() -> None:
    done: list[str] = []

    async def test(worker: Worker) -> None:
        jobs = [
            worker.do(Priority.EXPORT, lambda: done.append("export")),
            worker.do(Priority.CIRCLE, lambda: done.append("circle")),
            worker.do(Priority.LOOK, lambda: done.append("look 1")),
            worker.do(Priority.LOOK, lambda: done.append("look 2")),
            worker.do(Priority.ANSWER, lambda: done.append("answer")),
        ]
        await asyncio.gather(*await behind(Gate(), worker, *jobs))

    run(test)
    assert done == ["answer", "look 1", "look 2", "circle", "export"]


def test_everything_runs_in_one_thread() -> None:
    async def test(worker: Worker) -> None:
        found = await asyncio.gather(*(worker.do(Priority(k % 4), threading.get_ident) for k in range(12)))
        assert len(set(found)) == 1 and found[0] != threading.get_ident()

    run(test)


def test_an_answer_waits_for_one_piece_of_a_long_job_at_most() -> None:
    done: list[Any] = []

    def pieces() -> Iterator[int]:
        for i in range(20):
            time.sleep(0.004)
            done.append(i)
            yield i

    async def test(worker: Worker) -> None:
        for begin in (0, 1):
            long = asyncio.ensure_future(worker.last(Priority.CIRCLE, pieces()))
            while len([one for one in done if one != "answer"]) < 20 * begin + 3:
                await asyncio.sleep(0.001)
            before = len(done)
            await worker.do(Priority.ANSWER, lambda: done.append("answer"))
            assert done.index("answer", before) - before <= 2  # the piece at hand, and one that began meanwhile
            assert await long == 19

    run(test)
    assert [one for one in done if one != "answer"] == [*range(20)] * 2


def test_pieces_come_one_after_the_other() -> None:
    async def test(worker: Worker) -> None:
        async with aclosing(worker.each(Priority.CIRCLE, iter("abc"))) as pieces:
            assert [piece async for piece in pieces] == ["a", "b", "c"]
            assert [piece async for piece in pieces] == []

    run(test)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("odd"), ValueError, "odd"),
        (SystemExit(0), RoteqError, r"the code of the model ended \(SystemExit: 0\)"),
        (StopIteration(), RuntimeError, "StopIteration"),
    ],
    ids=["error", "exit", "StopIteration"],
)
def test_a_failure_reaches_who_asked_and_the_worker_goes_on(error: BaseException, kind: type, words: str) -> None:
    def fail() -> None:
        raise error

    async def test(worker: Worker) -> None:
        with pytest.raises(kind, match=words):
            await worker.do(Priority.ANSWER, fail)
        assert await worker.do(Priority.ANSWER, lambda: 1) == 1

    run(test)


def test_a_cancelled_job_never_runs() -> None:
    done: list[str] = []

    async def test(worker: Worker) -> None:
        gate = Gate()
        first = asyncio.ensure_future(worker.do(Priority.ANSWER, gate))
        await asyncio.to_thread(gate.entered.wait, 5)
        dropped = asyncio.ensure_future(worker.do(Priority.ANSWER, lambda: done.append("dropped")))
        kept = asyncio.ensure_future(worker.do(Priority.ANSWER, lambda: done.append("kept")))
        await asyncio.sleep(0.01)
        assert worker.waiting == 2
        dropped.cancel()
        await asyncio.sleep(0.01)
        assert worker.waiting == 1
        gate.opened.set()
        await asyncio.gather(first, kept)
        assert dropped.cancelled()

    run(test)
    assert done == ["kept"]


def test_a_long_job_that_is_left_early_is_closed_in_the_thread_in_which_it_ran() -> None:
    ended: list[int] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield threading.get_ident()
        finally:
            ended.append(threading.get_ident())

    async def test(worker: Worker) -> None:
        async with aclosing(worker.each(Priority.CIRCLE, endless())) as pieces:
            thread = await anext(pieces)
        await worker.do(Priority.EXPORT, lambda: None)
        assert ended == [thread]

    run(test)


def test_more_than_it_takes_on_is_refused_at_once_and_later_taken() -> None:
    async def test(worker: Worker) -> None:
        gate = Gate()
        first = asyncio.ensure_future(worker.do(Priority.ANSWER, gate))
        await asyncio.to_thread(gate.entered.wait, 5)
        tasks = [asyncio.ensure_future(worker.do(Priority.LOOK, lambda: 1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="busy: 3 questions are waiting already; try again"):
            await worker.do(Priority.ANSWER, lambda: 1)
        with pytest.raises(Busy, match="busy: 3"):
            worker.each(Priority.CIRCLE, iter("a"))
        worker.background(iter("a"))  # does not count
        gate.opened.set()
        await asyncio.gather(first, *tasks)
        assert await worker.do(Priority.ANSWER, lambda: 2) == 2

    run(test, waiting=3)


def test_the_background_works_when_nothing_was_asked_for_a_moment() -> None:
    times: list[float] = []

    def background() -> Iterator[None]:
        while True:
            times.append(time.monotonic())
            yield
            time.sleep(0.002)

    async def test(worker: Worker) -> None:
        worker.background(background())
        await asyncio.sleep(0.05)
        assert len(times) > 3
        for _ in range(5):
            await worker.do(Priority.ANSWER, lambda: None)
            asked, before = time.monotonic(), len(times)
            await asyncio.sleep(0.02)
            assert len(times) == before
        await asyncio.sleep(0.15)
        assert len(times) > before and times[before] - asked > 0.09

    run(test, calm={Priority.SURVEY: 0.1})


def test_long_work_gives_way_to_questions_that_keep_coming_but_not_for_ever() -> None:
    times: list[float] = []

    def long() -> Iterator[None]:
        while True:
            times.append(time.monotonic())
            yield

    async def test(worker: Worker) -> None:
        await worker.do(Priority.ANSWER, lambda: None)
        async with aclosing(worker.each(Priority.CIRCLE, long())) as pieces:
            begin = time.monotonic()
            while time.monotonic() < begin + 0.5:  # somebody turns the picture
                await worker.do(Priority.ANSWER, lambda: None)
                await asyncio.sleep(0.01)
            assert 1 <= len(times) <= 4  # one each 0.2 s
            await asyncio.sleep(0.2)
            assert len(times) > 10  # nobody does
            assert await anext(pieces) is None

    run(test, calm={Priority.CIRCLE: 0.1}, patience=0.2)


def test_what_nobody_waits_for_takes_half_of_the_time_at_most() -> None:
    times: list[float] = []

    def slow() -> Iterator[None]:
        while True:
            times.append(time.monotonic())
            time.sleep(0.03)
            yield

    async def test(worker: Worker) -> None:
        worker.background(slow())
        await asyncio.sleep(0.4)
        assert len(times) >= 3
        assert all(later - earlier > 0.055 for earlier, later in pairwise(times))

    run(test, calm={Priority.SURVEY: 0.0})


def test_a_background_that_fails_says_so() -> None:
    failures: list[Exception] = []

    def fail() -> Iterator[None]:
        yield
        raise ValueError("odd")

    async def test(worker: Worker) -> None:
        worker.background(fail(), failures.append)
        while not failures:
            await asyncio.sleep(0.001)
        assert await worker.do(Priority.ANSWER, lambda: 1) == 1

    run(test)
    assert str(failures[0]) == "odd"


def test_at_the_end_what_waits_is_told_and_everything_is_closed() -> None:
    closed: list[bool] = []

    def endless() -> Iterator[None]:
        try:
            while True:
                time.sleep(0.002)
                yield
        finally:
            closed.append(True)

    async def test(worker: Worker) -> None:
        failed: list[Exception] = []
        worker.background(endless(), failed.append)
        await asyncio.sleep(0.02)
        long = asyncio.ensure_future(worker.last(Priority.CIRCLE, endless()))
        await asyncio.sleep(0.02)
        start = time.monotonic()
        await asyncio.to_thread(worker.stop)
        assert time.monotonic() - start < 0.5
        with pytest.raises(Stopping, match="the server is stopping"):
            await long
        with pytest.raises(Stopping, match="the server is stopping"):
            await worker.do(Priority.ANSWER, lambda: 1)
        assert failed == []

    run(test)
    assert closed == [True, True]


def test_a_worker_that_never_ran_can_be_stopped_and_takes_nothing_then() -> None:
    worker = Worker()
    worker.stop()
    with pytest.raises(Stopping, match="the server is stopping"):
        worker.background(iter(()))


def test_a_job_whose_loop_has_ended_does_not_run_on() -> None:
    worker, count = Worker(), 0

    def endless() -> Iterator[None]:
        nonlocal count
        while True:
            count += 1
            time.sleep(0.001)
            yield

    async def begin() -> None:
        await anext(worker.each(Priority.CIRCLE, endless()))

    asyncio.run(begin())
    time.sleep(0.05)
    before = count
    time.sleep(0.02)
    assert count == before
    worker.stop()
