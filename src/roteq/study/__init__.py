"""The investigation: does rotation equivariance pay on your data?"""

from .config import DataConfig, StudyConfig
from .demo import demo
from .investigate import investigate
from .reproduce import reproduce, reproductions

__all__ = ["DataConfig", "StudyConfig", "demo", "investigate", "reproduce", "reproductions"]
