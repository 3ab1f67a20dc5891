"""The whole investigation on built-in synthetic tissue, in minutes on a laptop."""

from datetime import timedelta
from pathlib import Path

from ..config import validate
from ..data import synthetic_tissue
from ..results import Study
from .config import StudyConfig
from .investigate import investigate

PATCHES = 1200


def demo_config(out: str | Path, patches: int = PATCHES) -> StudyConfig:
    """se2cnn C12 and D4 against their plain twin with as many parameters; two seeds."""
    out = Path(out)
    tree = {
        "name": "study",
        "out": str(out),
        "data": {"source": str(out / "tissue"), "root": str(out / "prepared"), "prepare": {"crop": 48, "mode": "grey"}},
        "models": [{"name": "se2cnn", "group": "C12"}, {"name": "se2cnn", "group": "D4"}, {"name": "cnn"}],
        "seeds": [0, 1],
        "train": {"epochs": 12, "crop": 32, "augment": {"turn": "none"}},
    }
    return validate(StudyConfig, tree, "demo")


def demo(out: str | Path = "demo", *, progress: bool = True, max_time: timedelta | None = None) -> Study:
    """Make synthetic tissue in `out`, prepare it, investigate it; the report is out/study/report.html."""
    config = demo_config(out)
    synthetic_tissue(Path(out) / "tissue", patches=PATCHES, progress=progress)
    return investigate(config, progress=progress, max_time=max_time)
