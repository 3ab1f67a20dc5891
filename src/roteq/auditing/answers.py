"""What a model returned, as one tensor of scores."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import RoteqError, UsageError, nearest
from ..results.audit import Kind
from .subject import Subject

KEYS = ("logits", "out", "output", "pooler_output", "image_embeds", "pred", "scores")  # where a dictionary keeps them
SUM = 1e-4  # how far the sum of probabilities may lie from 1
LEAST = 1e-12
NO_MEMORY = "DefaultCPUAllocator: "


def checked_ask(subject: Subject, images: Tensor) -> Any:
    """The model's answer. Raises: UsageError where it fails on pictures like these; what the device raises where its
    memory does not hold them."""
    try:
        return subject.ask(images)
    except (RoteqError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the model raises
        if isinstance(error, RuntimeError) and NO_MEMORY in str(error):  # of a processor
            raise torch.OutOfMemoryError(str(error)) from error
        channels, height, width = images.shape[1:]
        words = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"{subject.name}: failed on pictures of {channels} channel(s) and {height}x{width} pixels "
            f"({type(error).__name__}: {words}); if it takes another size, give it with --size"
        ) from error


def read_answer(
    output: Any, batch: int, kind: Kind | None, where: str, output_key: str | int | None = None
) -> tuple[Tensor, Kind]:
    """The scores in what a model returned to `batch` pictures, float32 on their device, and what they are.

    (B, K): "classes", or the kind that is given. (B,) and (B, 1): the two logits (0, z) of one binary score.
    (B, D, 1, 1): (B, D). (B, K, H, W): "map"; one channel z becomes (0, z).
    Raises: UsageError for anything else, naming the option that helps; RoteqError for NaN and infinity.
    """
    if kind is not None and kind not in get_args(Kind):
        raise UsageError(f"--output: unknown kind {kind!r}; {nearest(kind, get_args(Kind))}")
    scores = _one_tensor(chosen(output, output_key), where)
    shape = tuple(scores.shape)
    if not shape or shape[0] != batch:
        raise UsageError(f"{where}: expected one answer for each of {batch} pictures, got an output of shape {shape}")
    if scores.is_complex() or scores.dtype == torch.bool:
        raise UsageError(f"{where}: expected real numbers, got {_dtype(scores)}")
    if not scores.is_floating_point() and scores[0].numel() == 1:
        raise UsageError(
            f"{where}: expected a score for every class, got {_dtype(scores)} of shape {shape}, which are decisions; "
            "return what the model decides by: its logits or probabilities"
        )
    scores = scores.float()
    if not scores.isfinite().all():
        bad = int((~scores.reshape(batch, -1).isfinite()).any(1).sum())
        raise RoteqError(
            f"{where}: the output holds NaN or infinity for {bad} of {batch} pictures; was its training stopped by "
            "divergence, or is --normalize another one?"
        )
    return _shaped(scores, kind, where)


def _shaped(scores: Tensor, kind: Kind | None, where: str) -> tuple[Tensor, Kind]:
    shape = tuple(scores.shape)
    if kind == "map":
        scores = scores[:, None] if scores.ndim == 3 else scores
        if scores.ndim != 4:
            raise UsageError(f"{where}: a map is (B, K, H, W), got {shape}; leave --output map out")
        return _both(scores) if scores.shape[1] == 1 else scores, "map"
    if scores.ndim == 4 and scores.shape[2:] == (1, 1):
        scores = scores.flatten(1)
    if scores.ndim == 4 and kind is None:
        return _both(scores) if scores.shape[1] == 1 else scores, "map"
    if scores.ndim == 1:
        scores = scores[:, None]
    if scores.ndim == 4:
        raise UsageError(f"{where}: {kind} are (B, K), got maps of shape {shape}; give --output map, or pool them")
    if scores.ndim != 2:
        raise UsageError(
            f"{where}: expected scores (B, K), got {shape}: one answer for every part of a picture; choose another "
            "output with --output-key, or average over the parts in a function of your own (FILE.py:FUNCTION)"
        )
    kind = kind or "classes"
    return _both(scores) if kind == "classes" and scores.shape[1] == 1 else scores, kind


def _both(score: Tensor) -> Tensor:
    """Of one binary score z the two logits (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z))."""
    return torch.cat([torch.zeros_like(score), score], 1)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def chosen(output: Any, key: str | int | None) -> Any:
    """One part of what a model returned; a single tensor has no parts, so that the key may be applied twice.

    >>> chosen({"a": 1, "b": 2}, "b")
    2
    """
    if key is None or isinstance(output, Tensor | np.ndarray):
        return output
    parts = _parts(output)
    if parts is None:
        return output
    found = {str(name): value for name, value in parts.items()}
    if str(key) not in found:
        raise UsageError(f"--output-key: the model returns no {str(key)!r}; {nearest(key, found)}")
    return found[str(key)]


def _parts(output: Any) -> dict[Any, Any] | None:
    if isinstance(output, Mapping):
        return dict(output.items())
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if is_dataclass(output) and not isinstance(output, type):
        return {f.name: getattr(output, f.name) for f in fields(output)}
    return None


def _one_tensor(output: Any, where: str) -> Tensor:
    parts = _parts(output)
    if parts is None:
        return _tensor(output, where)
    tensors = {key: value for key, value in parts.items() if isinstance(value, Tensor | np.ndarray)}
    named = [key for key in KEYS if key in tensors]
    if len(tensors) == 1 or named:
        return _tensor(tensors[named[0]] if named else next(iter(tensors.values())), where)
    is_named = not isinstance(output, tuple | list)
    if not tensors:
        raise UsageError(f"{where}: expected a tensor of scores, got {type(output).__name__} without any tensor in it")
    what = ", ".join(f"{key} {tuple(value.shape)}" for key, value in tensors.items())
    keys = " or ".join(str(key) for key in tensors)
    many = f"a dictionary with {what}" if is_named else f"a {type(output).__name__} of {len(parts)} (shapes {what})"
    raise UsageError(f"{where}: the model returns {many}: choose one with --output-key {keys}")


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value  # with its tangent, where derivatives are taken
    try:
        return torch.from_numpy(np.ascontiguousarray(value))
    except TypeError:
        raise UsageError(f"{where}: expected a tensor of scores, got {type(value).__name__}") from None


def looks_like_probabilities(scores: Tensor) -> bool:
    """Whether the scores (B, K, ...) of `read_answer` are probabilities already: none negative, and sum 1 over the
    classes. Ask once for each model, with many pictures.

    >>> looks_like_probabilities(torch.tensor([[0.2, 0.8], [0.5, 0.5]]))
    True
    """
    if scores.ndim < 2 or scores.shape[1] < 2 or _is_one_score(scores) or bool((scores < 0).any()):
        return False
    return bool(((scores.sum(1) - 1).abs() <= SUM).all())


def looks_like_one_probability(scores: Tensor) -> bool:
    """Whether the one binary score z of (0, z) is the probability of a sigmoid: always within 0..1, on both sides of
    one half. Ask once for each model, with many pictures.

    >>> looks_like_one_probability(torch.tensor([[0.0, 0.2], [0.0, 0.9]]))
    True
    """
    z = scores[:, 1:2]
    return _is_one_score(scores) and bool(((z >= 0) & (z <= 1)).all() and (z < 0.5).any() and (z > 0.5).any())


def log_probabilities(scores: Tensor) -> Tensor:
    """Logits whose softmax are these probabilities; (0, p) is the probability p of the second of two classes.

    >>> log_probabilities(torch.tensor([[0.25, 0.75], [0.5, 0.5]])).softmax(1)
    tensor([[0.2500, 0.7500],
            [0.5000, 0.5000]])
    """
    if _is_one_score(scores):
        scores = torch.stack([1 - scores[:, 1], scores[:, 1]], 1)
    return scores.clamp(min=LEAST).log()


def _is_one_score(scores: Tensor) -> bool:
    return scores.ndim >= 2 and scores.shape[1] == 2 and not bool(scores[:, 0].any())
