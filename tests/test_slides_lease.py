"""A lease has one holder, whoever dies, sleeps or lives on another host."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from roteq.errors import RoteqError
from roteq.slides import lease
from roteq.slides.lease import Holder, leased

PATIENT = 2.0  # a holder that lives touches its lease in that time, on a busy machine too
NOBODY = Holder("x", "another host", 1, "1", "a run")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch.setattr)


def quicken(put: object = setattr) -> None:
    for name, seconds in {"BEAT": 0.05, "STALE": 0.6, "SETTLE": 0.1}.items():
        put(lease, name, seconds)  # type: ignore[operator]


def hold(path: Path, ready: Path) -> None:
    """In another process, for long."""
    quicken()
    with leased(path, "a run"):
        ready.touch()
        time.sleep(60)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A lease, and the process that holds it."""
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "a.lease", tmp_path / "ready"))
    process.start()
    monkeypatch.setattr(lease, "STALE", PATIENT)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    yield tmp_path / "a.lease", process
    process.kill()
    process.join()


def seconds_to_get(path: Path, run: str = "a run") -> float:
    start = time.monotonic()
    with leased(path, run):
        return time.monotonic() - start


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    lease.STALE = PATIENT
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with leased(tmp_path / "a.lease", "a run"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and list(tmp_path.iterdir()) == []


def test_one_waits_for_a_live_holder_and_not_for_a_dead_one(held) -> None:
    path, process = held
    threading.Timer(PATIENT + 1, process.kill).start()  # it lives and touches it
    assert PATIENT + 0.9 < seconds_to_get(path) < PATIENT + 1 + PATIENT  # and is seen to be over, not taken for it
    assert not path.exists()


def test_a_holder_that_slept_ends_when_its_lease_was_taken(held) -> None:
    path, process = held
    os.kill(process.pid, signal.SIGSTOP)
    with leased(path, "a run"):
        os.kill(process.pid, signal.SIGCONT)
        process.join(5)
        assert process.exitcode == 1
        assert json.loads(path.read_text())["pid"] == os.getpid()  # and it left the lease alone


def test_of_many_that_take_it_over_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "a.lease").write_text(json.dumps(asdict(NOBODY)))
    test_one_holds_it_at_a_time(tmp_path)


def test_of_two_that_take_it_over_the_last_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sleep, taken = tmp_path / "a.lease", time.sleep, []
    path.write_text(json.dumps(asdict(replace(NOBODY, host=lease._host()))))  # dead

    def settle(seconds: float) -> None:
        if seconds == lease.SETTLE and not taken:
            taken.append(path.read_text())
            path.write_text(json.dumps(asdict(NOBODY)))
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", settle)
    assert seconds_to_get(path) > lease.STALE
    assert json.loads(taken[0])["pid"] == os.getpid()


@pytest.mark.parametrize("content", [json.dumps(asdict(NOBODY)), "", "[1]", '{"id": "x"}'])
def test_what_nobody_touches_is_taken_after_a_while(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.lease"
    path.write_text(content)
    assert seconds_to_get(path) > lease.STALE
    assert not path.exists()


def test_a_process_of_another_time_does_not_keep_it(tmp_path: Path) -> None:
    lease.STALE, path = 60.0, tmp_path / "a.lease"
    path.write_text(json.dumps(asdict(replace(NOBODY, host=lease._host(), pid=os.getpid()))))
    assert seconds_to_get(path) < lease.STALE


def test_a_slide_on_which_two_processes_died_is_given_up_in_this_run(tmp_path: Path) -> None:
    path = tmp_path / "a.lease"
    over = replace(NOBODY, host=lease._host(), deaths=lease.DEATHS - 1)
    path.write_text(json.dumps(asdict(over)))
    with pytest.raises(RoteqError, match="died, 2 times; out of memory"):
        seconds_to_get(path)
    assert not path.exists()
    path.write_text(json.dumps(asdict(over)))
    seconds_to_get(path, "another run")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match="could not be written: No such file"):
        seconds_to_get(tmp_path / "none" / "a.lease")
