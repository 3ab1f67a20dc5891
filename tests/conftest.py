from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
