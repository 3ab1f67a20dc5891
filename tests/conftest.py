import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from roteq.cli import main

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, each for a core
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture
def roteq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["roteq", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return int(code or 0), captured.out, captured.err

    return run
