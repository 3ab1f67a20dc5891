"""The investigation: does rotation equivariance pay on your data?"""

from .config import DataConfig, StudyConfig
from .demo import demo
from .investigate import investigate

__all__ = ["DataConfig", "StudyConfig", "demo", "investigate"]
