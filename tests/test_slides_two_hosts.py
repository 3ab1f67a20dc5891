"""A scheduler and two workers as three hosts: network namespaces joined by a switch, each worker with a host name and
processes of its own. What they share is the folder, as hosts do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import assert_done_once, write_slides

pytestmark = pytest.mark.slow
PORT = 8786
CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from folders import fake_map
from roteq.slides import map_slides
found = map_slides({model!r}, {slides!r}, {out!r}, cluster="tcp://10.77.0.1:{port}", work=fake_map, progress=False)
print(len(found.slides), len(found.failed))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def within(host: str, *command: str, apart: bool = False) -> subprocess.Popen:
    """Run a command on a host; `apart`: with its own host name and processes, which all end with it."""
    inside = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"] if apart else []
    inside += ["sh", "-c", 'hostname "$0"; exec "$@"', host] if apart else []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    whole = ["ip", "netns", "exec", host, *inside, *command]
    return subprocess.Popen(whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Namespaces "scheduler", "a", "b": their names here; 10.77.0.1 to 3."""
    if not shutil.which("ip") or not shutil.which("unshare") or os.geteuid():
        pytest.skip("needs root, ip and unshare")
    mark = f"rq{os.getpid()}"
    names = {name: f"{mark}-{name}" for name in ("scheduler", "a", "b")}
    try:
        ip("netns", "add", names["scheduler"])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("-n", names["scheduler"], "link", "add", "switch", "type", "bridge")
        ip("-n", names["scheduler"], "addr", "add", "10.77.0.1/24", "dev", "switch")
        for i, name in enumerate("ab"):
            ip("netns", "add", names[name])
            cable = f"{mark}{name}"
            ip("link", "add", cable, "netns", names["scheduler"], "type", "veth", "peer", "eth0", "netns", names[name])
            ip("-n", names["scheduler"], "link", "set", cable, "master", "switch", "up")
            ip("-n", names[name], "addr", "add", f"10.77.0.{i + 2}/24", "dev", "eth0")
            ip("-n", names[name], "link", "set", "eth0", "up")
        ip("-n", names["scheduler"], "link", "set", "switch", "up")
        for name in names.values():
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["killed", "unplugged"])
def test_of_two_hosts_one_goes_and_nothing_is_lost_or_done_twice(hosts, tmp_path: Path, how: str) -> None:
    names = "abcdef"
    slides, out = write_slides(tmp_path / "slides", **dict.fromkeys(names, "slow")), tmp_path / "maps"
    dask = sys.executable, "-m", "dask"
    running = {
        "scheduler": within(hosts["scheduler"], *dask, "scheduler", "--port", str(PORT), "--no-dashboard"),
        **{
            name: within(
                hosts[name], *dask, "worker", f"tcp://10.77.0.1:{PORT}", "--nthreads", "1", "--no-dashboard", apart=True
            )
            for name in "ab"
        },
    }
    try:
        script = CLIENT.format(
            tests=str(Path(__file__).parent),
            model=str(slides[0]),
            slides=str(tmp_path / "slides"),
            out=str(out),
            port=PORT,
        )
        client = within(hosts["scheduler"], sys.executable, "-c", script)

        def begun() -> bool:
            """Host a is in the midst of a slide, and host b works too."""
            assert client.poll() is None, client.communicate()
            journals = [path.read_text() for path in out.glob("*.work/journal")]
            return any(hosts["a"] in text and text.count("tile") == 2 for text in journals) and len(journals) == 2

        wait_until(begun, 60)
        start = time.monotonic()
        if how == "killed":
            running["a"].kill()
        else:
            ip("-n", hosts["scheduler"], "link", "set", f"{hosts['a'].removesuffix('-a')}a", "down")
        answer, complaint = client.communicate(timeout=300)
        assert answer.decode().split() == [str(len(names)), "0"], complaint.decode()
        print(f"{how}: {time.monotonic() - start:.0f} s")
        by = {name: assert_done_once(out, name) for name in names}
        on = {name: {worker.partition(":")[0] for worker in workers} for name, workers in by.items()}
        print(json.dumps({name: sorted(found) for name, found in on.items()}))
        assert set.union(*on.values()) == {hosts["a"], hosts["b"]}
        assert sum(len(found) > 1 for found in on.values()) == (how == "killed")  # the unplugged one goes on alone
        assert not [path.name for path in out.iterdir() if path.suffix in (".lease", ".run", ".work")]
    finally:
        for process in reversed(running.values()):
            process.send_signal(signal.SIGKILL)
            process.communicate()
