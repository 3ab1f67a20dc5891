"""Pure functions on arrays: classification, paired statistics, rotation robustness, guards. They know no files."""

from .classification import evaluate
from .guards import (
    check_constant,
    check_dead_units,
    check_impossible,
    check_input_range,
    check_leak,
    check_prior_entropy,
    check_train_eval_gap,
    watch_dead_units,
)
from .paired import compare, spread
from .robustness import between_image_error, flip_rate, relative_error

__all__ = [
    "between_image_error",
    "check_constant",
    "check_dead_units",
    "check_impossible",
    "check_input_range",
    "check_leak",
    "check_prior_entropy",
    "check_train_eval_gap",
    "compare",
    "evaluate",
    "flip_rate",
    "relative_error",
    "spread",
    "watch_dead_units",
]
