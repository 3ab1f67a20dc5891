"""study.yaml: one dataset, one protocol, several models, several seeds."""

from pathlib import Path

from pydantic import Field, model_validator

from ..auditing import AuditConfig
from ..config import Config
from ..data import PrepareOptions
from ..models import ModelConfig
from ..training import TrainConfig


class DataConfig(Config):
    """Where the pictures are. `source`: raw data, prepared into `root` (default: the study's folder `data`) if that has
    not been done. Without one, `root` is a prepared dataset or a tree {train,validation,test}/<class>/<image>."""

    source: str | None = None
    root: str | None = None
    prepare: PrepareOptions = PrepareOptions()

    @model_validator(mode="after")
    def _somewhere(self) -> "DataConfig":
        if self.source is None and self.root is None:
            raise ValueError("expected `source` (raw data) or `root` (a prepared dataset)")
        return self


class MapConfig(Config):
    """How maps are judged. `boundary`: the class of membranes, for V-Rand and V-Info of what they enclose. `radius`:
    pixels within which an answer finds the centre of a nucleus, where the data names centres."""

    boundary: str | None = None
    radius: float = Field(6.0, gt=0)


class StudyConfig(Config):
    """The whole investigation. `mistakes`: how many of the most confident mistakes each run keeps as pictures."""

    name: str = Field("study", pattern=r"^\w[\w.-]*$")
    out: str = "runs"
    data: DataConfig
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    train: TrainConfig = TrainConfig()
    audit: AuditConfig = AuditConfig()
    maps: MapConfig = MapConfig()
    bootstrap: int = Field(1000, ge=10)
    confidence: float = Field(0.95, gt=0, lt=1)
    mistakes: int = Field(6, ge=0, le=100)

    @model_validator(mode="after")
    def _all_differ(self) -> "StudyConfig":
        labels = [model.label for model in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"expected models with different labels, got twice: {', '.join(twice)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("expected seeds that differ")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name

    @property
    def root(self) -> Path:
        return Path(self.data.root) if self.data.root else self.folder / "data"

    def run_folder(self, model: ModelConfig, seed: int) -> Path:
        """runs/<study>/<label>-s<seed>, with everything but letters, digits, dots and signs replaced by a dash."""
        name = "".join(c if c.isalnum() or c in "._=+-" else "-" for c in model.label)
        return self.folder / f"{name}-s{seed}"
