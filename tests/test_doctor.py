"""Every check of the doctor, on a healthy machine and on the broken ones it is there for."""

import os
from collections import namedtuple
from pathlib import Path

import pytest

from roteq import doctor
from roteq.doctor import GIB, Check

NMS = "RuntimeError: operator torchvision::nms does not exist"


def put(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("check", "status", "words"),
    [
        (doctor.check_python((3, 11, 0)), "ok", "3.11.0"),
        (doctor.check_python((3, 10, 9)), "fail", "needs 3.11"),
        (doctor.check_library("timm", "1.0", ""), "ok", "1.0"),
        (doctor.check_library("timm", "", "ModuleNotFoundError: No module named 'timm'"), "fail", "pip install timm"),
        (doctor.check_library("timm", "", "ValueError: odd"), "fail", "--force-reinstall timm"),
        (doctor.check_library("timm", "", NMS), "fail", "torchvision was built for another torch"),
        (doctor.check_library("torch", "", "ImportError: x.so: undefined symbol: y"), "fail", "compiled part"),
        (doctor.check_library("torchvision", "0.24+cpu", "", torch="2.9+cpu"), "ok", "0.24"),
        (doctor.check_library("torchvision", "0.24+cu128", "", torch="2.9+cpu"), "warn", "two different builds"),
        (doctor.compare_threads(4, 4), "ok", "4 usable cores"),
        (doctor.compare_threads(8, 2), "warn", "OMP_NUM_THREADS=2"),
        (doctor.check_memory(None), "ok", "does not say"),
        (doctor.check_memory(8 * GIB), "ok", "8.0 GiB"),
        (doctor.check_memory(GIB), "warn", "batch_size"),
        (doctor.check_disk(50 * GIB), "ok", "50.0 GiB"),
        (doctor.check_disk(GIB), "warn", "may not fit"),
        (doctor.check_disk(2**20), "fail", "free some space"),
        (doctor.check_shared_memory(Path("/nowhere")), "ok", "no /nowhere"),
        (doctor.check_writable("/nowhere"), "fail", "cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", None),
)
def test_a_check_says_how_bad_it_is_and_what_to_do(check: Check, status: str, words: str) -> None:
    assert check.status == status
    assert words in f"{check.detail} {check.advice}"
    assert check.advice or check.status == "ok"


@pytest.mark.parametrize(("size", "status"), [(64 * 2**20, "warn"), (GIB, "ok")], ids=["docker's 64 MiB", "1 GiB"])
def test_small_shared_memory_is_a_warning(
    size: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(size, 0, size))
    assert doctor.check_shared_memory(tmp_path).status == status


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu_dot_max": "max 100000"}, 64),
        ({"cpu_dot_max": "250000 100000"}, 2),
        ({"cpu_dot_max": "50000 100000"}, 1),
        ({"cpu__cpu_dot_cfs_quota_us": "400000", "cpu__cpu_dot_cfs_period_us": "100000"}, 4),
        ({"cpu__cpu_dot_cfs_quota_us": "-1", "cpu__cpu_dot_cfs_period_us": "100000"}, 64),
    ],
    ids=["no container", "v2 unlimited", "v2 two and a half", "v2 half a core", "v1", "v1 unlimited"],
)
def test_a_container_limits_the_usable_cores(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert doctor.usable_cores(put(tmp_path, **files)) == cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n"}, 2048 * 1024),
        ({"meminfo": "MemAvailable: 2048 kB", "memory_dot_max": "3000", "memory_dot_current": "1000"}, 2000),
        ({"meminfo": "MemAvailable: 2048 kB", "memory_dot_max": "max", "memory_dot_current": "1"}, 2048 * 1024),
    ],
    ids=["no container", "container limit", "container without limit"],
)
def test_available_memory_is_the_smaller_of_machine_and_container(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert doctor.available_memory(put(tmp_path, **files), tmp_path / "meminfo") == expected


def test_a_library_that_kills_the_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, good_dot_py="__version__ = '1'", deadly_dot_py="import os; os._exit(3)", after_dot_py="")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.probe_libraries(("good", "missing", "deadly", "after"))
    assert found["good"] == ("1", "")
    assert "No module named 'missing'" in found["missing"][1]
    assert "ended the process with code 3" in found["deadly"][1]
    assert "not examined" in found["after"][1]


def test_a_library_that_never_returns_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, good_dot_py="__version__ = '1'", endless_dot_py="import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.probe_libraries(("good", "endless"), timeout=2)
    assert found == {"good": ("1", ""), "endless": ("", "the import took more than 2 s")}


def test_a_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert doctor.check_extra("dev") == Check(
        "extra dev",
        "ok",
        "not installed (style, types and tests)",
        "if you need it: pip install 'roteq[dev]'",
    )


def test_a_driver_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor.check_devices().status == "ok"
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert doctor.check_devices().status == "warn"


def test_bf16_is_measured_against_fp32() -> None:
    check = doctor.check_bf16(seconds=0.01)
    assert float(check.detail.split()[0]) > 0


def test_the_other_checks_run_when_one_breaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Check:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(doctor, "check_bf16", broken)
    monkeypatch.setattr(doctor, "probe_libraries", lambda names: dict.fromkeys(names, ("1.0", "")))
    checks = {check.name: check for check in doctor.examine(tmp_path)}
    assert checks["bf16"] == Check("bf16", "warn", "could not be examined: RuntimeError: no such luck")
    assert {"python", "torchvision", "devices", "threads", "memory", "disk", "folder", "extra dev"} <= set(checks)


def test_nothing_is_asked_of_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "probe_libraries", lambda names: dict.fromkeys(names, ("", "ImportError: broken")))
    checks = doctor.examine(tmp_path)
    assert {"devices", "bf16", "threads"}.isdisjoint(check.name for check in checks)
    assert [check.status for check in checks if check.name == "torch"] == ["fail"]
