"""Networks: plain functions in one dict. `create("se2cnn", in_channels=1, num_classes=2, group="C12")`."""

from .registry import MODELS, ModelConfig, create

__all__ = ["MODELS", "ModelConfig", "create"]
