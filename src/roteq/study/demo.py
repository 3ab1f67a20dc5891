"""The whole investigation on built-in synthetic tissue, in minutes on a laptop."""

from datetime import timedelta
from pathlib import Path

from ..config import validate
from ..data import synthetic_tissue
from ..results import Study
from .config import StudyConfig
from .investigate import investigate

PATCHES = 2400


def demo_config(out: str | Path) -> StudyConfig:
    """se2cnn C12 and D4 against their plain twin of as many parameters, all augmented by quarter turns and mirrors."""
    out = Path(out)
    tree = {
        "name": "synthetic-tissue",
        "out": str(out),
        "data": {"source": str(out / "raw"), "root": str(out / "data"), "prepare": {"crop": 48, "mode": "grey"}},
        "models": [{"name": "se2cnn", "group": "C12"}, {"name": "se2cnn", "group": "D4"}, {"name": "cnn"}],
        "train": {"epochs": 12, "crop": 32},
    }
    return validate(StudyConfig, tree, "demo")


def demo(out: str | Path = "demo", *, progress: bool = True, max_time: timedelta | None = None) -> Study:
    """Make synthetic tissue in `out`, prepare it, investigate it; the report is out/synthetic-tissue/report.html."""
    config = demo_config(out)
    synthetic_tissue(str(config.data.source), patches=PATCHES, progress=progress)
    return investigate(config, progress=progress, max_time=max_time)
