"""What this machine can do, and what is broken in it.

Every check is a function of what it looks at and returns a `Check`; `examine` runs them all. The libraries are imported
in a process of their own, so that one that crashes on import is reported and not suffered.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

LIBRARIES = ("torch", "torchvision", "timm", "lightning", "torchmetrics")
EXTRAS = {
    "onnx": ("onnxruntime", "ONNX files"),
    "hub": ("transformers", "models and datasets of Hugging Face"),
    "slides": ("openslide", "whole slides"),
    "app": ("uvicorn", "the page of roteq explore, MP4 films"),
    "cluster": ("distributed", "slides on several machines"),
    "dev": ("pytest", "style, types and tests"),
}
GIB = 2**30
REINSTALL = "pip install --force-reinstall --no-cache-dir torch torchvision"

_PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        module, error = importlib.import_module(name), ""
    except BaseException as problem:
        module, error = None, f"{type(problem).__name__}: {problem}"
    print(json.dumps({"name": name, "version": str(getattr(module, "__version__", "")), "error": error}), flush=True)
"""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer. A 'fail' stops roteq from working, a 'warn' makes it slower or surprising."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


def examine(folder: str | Path = ".") -> tuple[Check, ...]:
    """Look at everything; `folder` is where results would be written. Takes a few seconds: the imports."""
    checks = [check_python(sys.version_info[:3])]
    found = probe_libraries(LIBRARIES)
    libraries = [check_library(name, *found[name], torch=found["torch"][0]) for name in LIBRARIES]
    checks += libraries
    if libraries[0].status != "fail":
        checks += [_guarded("devices", check_devices), _guarded("bf16", check_bf16), _guarded("threads", check_threads)]
    checks += [
        check_memory(available_memory()),
        check_disk(shutil.disk_usage(folder).free),
        check_shared_memory(Path("/dev/shm")),
        check_writable(folder),
    ]
    return (*checks, *(check_extra(name) for name in EXTRAS))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check that itself breaks says so, and the others still run."""
    try:
        return check()
    except Exception as error:
        return Check(name, "warn", f"could not be examined: {type(error).__name__}: {error}")


def check_python(found: tuple[int, ...]) -> Check:
    """
    >>> check_python((3, 10, 2)).status
    'fail'
    """
    text = ".".join(map(str, found))
    if found < (3, 11):
        return Check(
            "python", "fail", f"{text}; roteq needs 3.11 or newer", "make a new environment with a newer Python"
        )
    return Check("python", "ok", f"{text} at {sys.executable}")


def probe_libraries(names: tuple[str, ...], timeout: float = 300) -> dict[str, tuple[str, str]]:
    """Import the libraries one after the other in another process: name -> (version, error or '')."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _PROBE, *names], capture_output=True, text=True, timeout=timeout, check=False
        )
        output, ending = answer.stdout, f"the import ended the process with code {answer.returncode}"
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode()  # bytes, even where text was asked for
        ending = f"the import took more than {timeout:g} s"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"name"')]
    found = {row["name"]: (row["version"], row["error"]) for row in rows}
    for name in names:  # the first one that is missing brought the process down, the others were not reached
        if name not in found:
            found[name] = ("", ending)
            ending = "not examined: an import before it ended the process"
    return found


def check_library(name: str, found: str, error: str, torch: str = "") -> Check:
    """Did the import work; and for torchvision, was it built for this `torch` (its version)?

    >>> check_library("torchvision", "", "RuntimeError: operator torchvision::nms does not exist").advice
    'torchvision was built for another torch: pip install --force-reinstall --no-cache-dir torch torchvision'
    """
    if not error:
        if name == "torchvision" and torch and _build(found) != _build(torch):
            detail = f"{found}, but torch is {torch}: two different builds"
            return Check(name, "warn", detail, f"install both from one place: {REINSTALL}")
        return Check(name, "ok", found)
    detail = " ".join(error.split())[:300]
    if "torchvision::nms" in error:
        return Check(name, "fail", detail, f"torchvision was built for another torch: {REINSTALL}")
    if f"No module named '{name}'" in error:
        return Check(name, "fail", "not installed", f"pip install {name}")
    if re.search(r"undefined symbol|cannot open shared object|DLL load failed|Symbol not found", error):
        return Check(name, "fail", detail, f"its compiled part does not fit this machine or this torch: {REINSTALL}")
    return Check(name, "fail", detail, f"pip install --force-reinstall {name}")


def _build(text: str) -> str:
    """The build behind the plus sign: '2.9.0+cpu' -> 'cpu'; '' where the version names none."""
    return text.partition("+")[2]


def check_devices() -> Check:
    import torch

    cores = f"{usable_cores()} CPU cores"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("devices", "ok", f"{names}; {cores}")
    if torch.backends.mps.is_available():
        return Check("devices", "ok", f"Apple GPU (mps); {cores}")
    if shutil.which("nvidia-smi"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        advice = "install the torch build that fits the driver (pytorch.org, Get Started), or update the driver"
        return Check("devices", "warn", f"{cores}; a GPU driver is here, but torch ({built}) cannot use it", advice)
    return Check("devices", "ok", f"{cores}, no GPU")


def check_bf16(seconds: float = 0.4) -> Check:
    """Time of one convolution, forward and backward, in bf16 against fp32 on the device that training would use."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    times = {dtype: _time_convolution(device, dtype, seconds) for dtype in (torch.float32, torch.bfloat16)}
    ratio = times[torch.bfloat16] / times[torch.float32]
    word = "faster: worth trying" if ratio < 0.9 else "slower: stay with fp32" if ratio > 1.1 else "no gain"
    return Check("bf16", "ok", f"{ratio:.2f} times the time of fp32 for a convolution on {device} ({word})")


def _time_convolution(device: str, dtype: Any, seconds: float) -> float:
    """The shortest of as many runs as fit into the time, after one to warm up."""
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(8, 48, 32, 32, generator=generator).to(device, dtype).requires_grad_()
    weight = torch.randn(48, 48, 3, 3, generator=generator).to(device, dtype).requires_grad_()

    def run() -> float:
        start = time.perf_counter()
        torch.nn.functional.conv2d(image, weight, padding=1).sum().backward()
        weight.grad.sum().item()  # type: ignore[union-attr]  # waits for the device
        return time.perf_counter() - start

    run()
    best, end = run(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, run())
    return best


def check_threads() -> Check:
    import torch

    return compare_threads(torch.get_num_threads(), usable_cores())


def compare_threads(threads: int, cores: int) -> Check:
    """
    >>> compare_threads(64, 4).advice
    'OMP_NUM_THREADS=4 in front of the command'
    """
    detail = f"torch uses {threads} threads on {cores} usable cores"
    if threads > cores:
        return Check(
            "threads", "warn", f"{detail}: they fight each other", f"OMP_NUM_THREADS={cores} in front of the command"
        )
    return Check("threads", "ok", detail)


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: the affinity mask, and the quota of the container (cgroup v2, then v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words(cgroup / "cpu.max") or (
        _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(cgroup / "cpu/cpu.cfs_period_us")
    )
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:  # 'max' and -1: no limit
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def available_memory(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes this process can still get, the container's limit included; None where the system does not say."""
    free = re.search(r"MemAvailable:\s+(\d+)", " ".join(_words(meminfo)))
    sizes = [int(free[1]) * 1024] if free else []
    limit, used = _words(cgroup / "memory.max"), _words(cgroup / "memory.current")
    if limit and used and limit[0].isdigit():
        sizes.append(max(0, int(limit[0]) - int(used[0])))
    if not sizes and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes, default=None)


def check_memory(available: int | None) -> Check:
    if available is None:
        return Check("memory", "ok", "the system does not say how much is free")
    detail = f"{available / GIB:.1f} GiB available"
    if available < 2 * GIB:
        return Check("memory", "warn", detail, "close other programs, or use smaller batches (train.batch_size)")
    return Check("memory", "ok", detail)


def check_disk(free: int) -> Check:
    detail = f"{free / GIB:.1f} GiB free here"
    if free < GIB // 4:
        return Check("disk", "fail", detail, "free some space, or write the results elsewhere")
    if free < 5 * GIB:
        return Check("disk", "warn", detail, "a large data set and its runs may not fit")
    return Check("disk", "ok", detail)


def check_shared_memory(folder: Path) -> Check:
    """Containers often start with 64 MiB of shared memory, through which worker processes pass their batches."""
    if not folder.is_dir():
        return Check("shared memory", "ok", f"no {folder} on this system")
    size = shutil.disk_usage(folder).total
    if size < GIB // 4:
        advice = "start the container with --shm-size=2g (or --ipc=host)"
        return Check(
            "shared memory", "warn", f"{size / 2**20:.0f} MiB: worker processes may die of a bus error", advice
        )
    return Check("shared memory", "ok", f"{size / GIB:.1f} GiB")


def check_writable(folder: str | Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("folder", "ok", f"{Path(folder).resolve()} can be written")
    except OSError as error:
        detail = f"{Path(folder).resolve()} cannot be written: {error.strerror or error}"
        return Check("folder", "fail", detail, "change to a folder of your own, or give an OUT that you may write")


def check_extra(name: str) -> Check:
    module, purpose = EXTRAS[name]
    if find_spec(module) is None:
        return Check(
            f"extra {name}", "ok", f"not installed ({purpose})", f"if you need it: pip install 'roteq[{name}]'"
        )
    return Check(f"extra {name}", "ok", f"installed ({purpose})")
