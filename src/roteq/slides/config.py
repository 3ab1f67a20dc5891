"""How a slide becomes a map."""

from pydantic import Field

from ..config import Config


class SlideConfig(Config):
    """Every key has a sane default. Pixels are those that the network sees, `mpp` microns wide.

    >>> SlideConfig(mpp=0.5).threshold
    0.5
    """

    mpp: float | None = Field(None, gt=0, allow_inf_nan=False)  # None: of the training data, as the checkpoint says
    slide_mpp: float | None = Field(None, gt=0, allow_inf_nan=False)  # of level 0, for a slide that does not say it
    level: int | None = Field(None, ge=0)  # None: the coarsest that is still as fine as mpp
    tile: int = Field(512, ge=1)  # side of a region that is read and answered at once, pixels
    stride: int | None = Field(None, ge=1)  # side of a cell of the map; None: what the network gives (docs/slides.md)
    window: int | None = Field(None, ge=1)  # side of the patches trained on, for a checkpoint that does not say it
    batch_size: int | None = Field(None, ge=1)  # tiles at once; None: 4 on a GPU, 1 on a CPU
    workers: int | None = Field(None, ge=0)  # processes that read; None: one a core, 4 at most; 0: in this one
    threshold: float = Field(0.5, gt=0, lt=1)  # a region's probability is at least this
