"""Many slides on a cluster: a worker that dies loses nothing and does nothing twice."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from folders import assert_done_once, fake_map, mapped, write_slides

from roteq.errors import RoteqError, UsageError
from roteq.slides import SlideConfig, cluster, map_slides
from roteq.slides.folder import Job

distributed = pytest.importorskip("distributed", reason="needs roteq[cluster]")


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """A scheduler and two worker processes of one thread each, whose nannies start them again."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as found:
        yield found


def test_each_slide_is_mapped_once_and_bad_ones_block_none(workers: Any, tmp_path: Path) -> None:
    orders = {"a": "ok", "b": "fail", "c": "die", "d": "die once", "e": "error", "f": "error once", "g": "ok"}
    slides, out = write_slides(tmp_path / "slides", **orders), tmp_path / "maps"
    address = workers.scheduler_address
    found = map_slides(slides[0], slides, out, cluster=address, progress=False, work=fake_map)
    assert [slide.name for slide in found.slides] == ["a", "d", "f", "g"]
    assert {Path(failed.slide).stem: failed.reason for failed in found.failed} == {
        "b": f"{tmp_path}/slides/b.svs: a damaged slide",
        "c": "the process that worked on it died, 2 times; out of memory?",
        "e": "unexpected ZeroDivisionError: a bug",
    }
    for name in "ag":
        assert len(assert_done_once(out, name)) == 1
    assert len(assert_done_once(out, "d")) == 2
    assert_done_once(out, "f")
    begins = {name: (out / f"{name}.log").read_text().count("begin") for name in orders}
    least = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 2, "f": 2, "g": 1}
    for name, times in least.items():  # once more where the answer was lost with a worker that died of another slide
        assert times <= begins[name] <= times + (name not in "ag"), name


def test_a_worker_killed_in_the_midst_loses_nothing_and_does_nothing_twice(workers: Any, tmp_path: Path) -> None:
    names = "abcdef"
    slides, out = write_slides(tmp_path / "slides", **dict.fromkeys(names, "slow")), tmp_path / "maps"
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.05)
            for journal in out.glob("*.work/journal"):
                lines = journal.read_text().splitlines()
                if len(lines) == 2:  # of four
                    killed.append(int(lines[-1].rpartition(":")[2]))
                    os.kill(killed[0], signal.SIGKILL)
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    found = map_slides(slides[0], slides, out, cluster=workers.scheduler_address, progress=False, work=fake_map)
    killer.join()
    assert [slide.name for slide in found.slides] == list(names) and not found.failed and not found.findings
    by = {name: assert_done_once(out, name) for name in names}
    interrupted = [name for name in names if len(by[name]) > 1]
    assert len(interrupted) == 1  # and another process continued it, where the first was killed
    assert [worker.endswith(f":{killed[0]}") for worker in by[interrupted[0]]] == [True, False]
    assert len({worker for workers_of in by.values() for worker in workers_of}) >= 2
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_two_runs_at_once_share_the_slides(workers: Any, tmp_path: Path) -> None:
    slides, out = write_slides(tmp_path / "slides", a="slow", b="slow"), tmp_path / "maps"
    found = []

    def run() -> None:
        address = workers.scheduler_address
        found.append(map_slides(slides[0], slides, out, cluster=address, progress=False, work=fake_map))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0].slides == found[1].slides
    assert [len(assert_done_once(out, name)) for name in "ab"] == [1, 1]


def run_one(workers: Any, folder: Path, **changed: Any) -> Any:
    slides = write_slides(folder / "slides", a="ok")
    options = {"cluster": workers.scheduler_address, "progress": False, "work": fake_map} | changed
    return map_slides(options.pop("model", slides[0]), slides, folder / "maps", **options)


def test_paths_that_workers_do_not_see_are_said_before(workers: Any, tmp_path: Path) -> None:
    with pytest.raises(RoteqError, match=r"cannot do this:\n  .*: does not see .*/none; give paths that mean the same"):
        run_one(workers, tmp_path, model=tmp_path / "none")


def test_a_folder_of_the_same_name_on_another_host_is_not_taken_for_the_shared_one(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda path: None)  # the mark of the client is nowhere
    with pytest.raises(RoteqError, match=r"does not see the folder for the maps, .*/maps, or another one"):
        run_one(workers, tmp_path)
    monkeypatch.undo()
    jobs = [Job(str(tmp_path), str(tmp_path), str(tmp_path), SlideConfig(), "run", fake_map)]
    assert "does not see the folder for the maps" in str(cluster.on_worker(jobs[0]))  # nor does a late worker


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mark").touch()
    assert cluster.problem_of_folder(tmp_path / "mark") is None

    def touch(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    assert f"cannot write into {tmp_path} (Permission denied)" == cluster.problem_of_folder(tmp_path / "mark")


def test_another_roteq_on_the_workers_is_refused(workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "99.0")
    with pytest.raises(RoteqError, match=r"has roteq .*, here it is 99.0; install the same"):
        run_one(workers, tmp_path)


def test_a_worker_without_roteq_is_said() -> None:
    answer = ModuleNotFoundError("No module named 'roteq'")
    assert "has no roteq, or another one than" in str(cluster.problem_of(answer))
    assert cluster.host_of("tcp://10.0.0.2:4000", answer) == "tcp://10.0.0.2:4000"


def test_another_torch_on_the_workers_is_a_finding(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = cluster.versions()
    monkeypatch.setattr(cluster, "versions", lambda: own | {"torch": "1.0"})
    (finding,) = run_one(workers, tmp_path).findings
    assert finding.level == "warn" and f"torch is 1.0 here and {own['torch']} on " in finding.message


def test_no_scheduler_no_address_no_workers_no_dask(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    with pytest.raises(RoteqError, match=r"--cluster tcp://127.0.0.1:9: no scheduler answers there .*dask scheduler"):
        run_one(workers, tmp_path, cluster="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"--cluster abc://x: expected an address such as tcp://10.0.0.1:8786"):
        run_one(workers, tmp_path, cluster="abc://x")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", processes=False) as empty,
        pytest.raises(RoteqError, match=r"the scheduler has no workers; start some with: dask worker .* --nthreads 1"),
    ):
        run_one(empty, tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RoteqError, match=r"needs dask.distributed: pip install 'roteq\[cluster\]'"):
        run_one(workers, tmp_path)


def test_a_slide_that_waited_where_others_killed_workers_goes_back_to_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Future:
        def __init__(self, times: int) -> None:
            self.times = times

        def exception(self) -> Exception | None:
            return (
                distributed.KilledWorker("a", SimpleNamespace(address="b"), 3)
                if self.times < cluster.AGAIN + last
                else None
            )

        def result(self) -> object:
            return mapped("a")

    class Client:
        def submit(self, work: object, job: object, *, key: tuple[str, int, int], **options: object) -> Future:
            return Future(key[2])

    monkeypatch.setattr(cluster, "first_ended", lambda client, futures: set(futures))
    jobs, last = [Job("m", "a.svs", "out", SlideConfig(), "run", fake_map)], 0
    assert list(cluster.by_cluster(Client(), jobs)) == [(0, mapped("a"))]
    last = 1
    ((_, failed),) = cluster.by_cluster(Client(), jobs)
    assert "KilledWorker" in failed.reason


@pytest.mark.slow
def test_a_cluster_that_loses_its_workers_or_its_scheduler_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.2)
    monkeypatch.setattr(cluster, "LONELY", 0.5)
    slides, out = write_slides(tmp_path / "slides", **dict.fromkeys("abc", "slow")), tmp_path / "maps"
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as own:
        jobs = [Job(str(slide), str(slide), str(out), SlideConfig(), "run", fake_map) for slide in slides]
        out.mkdir()
        with cluster.connected(own.scheduler_address, jobs) as (client, findings):
            assert findings == []
            outcomes = cluster.by_cluster(client, jobs)
            next(outcomes)
            own.scale(0)
            with pytest.raises(RoteqError, match="has had no worker for 0 s; start some, and give the same command"):
                list(outcomes)
            waiting = cluster.by_cluster(client, jobs)
            threading.Timer(0.5, own.close).start()
            monkeypatch.setattr(cluster, "LONELY", 60)
            with pytest.raises(RoteqError, match="the scheduler is gone; start one, and give the same command again"):
                list(waiting)


@pytest.mark.slow
def test_real_maps_of_a_killed_worker_are_those_of_an_undisturbed_run(workers: Any, tmp_path: Path) -> None:
    import tifffile
    import torch
    from slides import network

    from roteq.slides import map_slide, write_slide

    model = network("p4m_densenet", group="p4", growth=2, depth=3)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    torch.save(content, tmp_path / "best.ckpt")
    config, names = SlideConfig(tile=128, workers=0), "ab"
    for seed, name in enumerate(names):
        write_slide(tmp_path / "slides" / f"{name}.tif", (600, 600), seed=seed)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.02)
            for journal in (tmp_path / "maps").glob("*.work/journal.jsonl"):
                held_by = json.loads((tmp_path / "maps" / f"{journal.parent.stem}.lease").read_text())
                killed.append(held_by["pid"])
                os.kill(killed[0], signal.SIGKILL)
                return

    threading.Thread(target=kill, daemon=True).start()
    address = workers.scheduler_address
    found = map_slides(
        tmp_path / "best.ckpt", tmp_path / "slides", tmp_path / "maps", config, cluster=address, progress=False
    )
    assert killed and [slide.name for slide in found.slides] == list(names) and not found.findings
    for slide in found.slides:
        alone = map_slide(model, tmp_path / "slides" / slide.slide, tmp_path / "alone", config, progress=False)
        assert (alone.areas, alone.tiles, alone.identity) == (slide.areas, slide.tiles, slide.identity)
        maps = [tifffile.imread(tmp_path / folder / slide.files["heat map"]) for folder in ("alone", "maps")]
        assert len(set(maps[0].ravel().tolist())) > 2 and (maps[0] == maps[1]).all()
