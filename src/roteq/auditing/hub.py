"""Networks of timm, torchvision and the Hugging Face hub with the input that their trained weights expect.

Nothing is downloaded unless asked for, and no random weights pass for trained ones.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import RoteqError, UsageError
from ..models.baselines import LAYERS, Baseline, read_weights
from ..models.cached import cached_weights
from ..models.named import Named, named
from .safety import hushed, weights_only
from .subject import Normalization

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
IMAGENET_CLASSES = 1000
Facts = dict[str, Any]  # fields of a Subject


@dataclass(frozen=True)
class Request:
    """What is asked of a loader, beside the name."""

    weights: str | Path | None = None
    pretrained: bool = False
    trust: bool = False
    num_classes: int | None = None
    size: tuple[int, int] | None = None
    in_channels: int = 3
    embedding: bool = False


def of_library(name: str, asked: Request) -> tuple[nn.Module, Facts]:
    """ "timm:NAME", "torchvision:NAME" or a baseline of roteq, with trained weights."""
    found, where = _trained(name, asked)
    network, source = found.network, name.partition(":")[0]
    if source == "timm":
        facts = timm_facts(network, asked.in_channels)
    elif source == "torchvision":
        facts = _torchvision_facts(name.partition(":")[2])
    else:
        facts = {}
    if asked.embedding:
        network = _headless(network, found.head, name)
    notes = (f"weights: {where}", *facts.pop("notes", ()))
    return network, {"channels": asked.in_channels, **facts, "notes": notes}


def _trained(name: str, asked: Request) -> tuple[Named, str]:
    shape: Facts = {"in_channels": asked.in_channels, "num_classes": asked.num_classes, "size": asked.size}
    with hushed(), weights_only():
        if asked.weights is not None:
            found = named(name, weights=asked.weights, **shape)
            head = read_weights(asked.weights).get(f"{found.head}.weight")
            if found.note and head is not None and asked.num_classes is None:  # a head of as many classes as the file's
                found = named(name, weights=asked.weights, **shape | {"num_classes": len(head)})
            where = str(asked.weights)
        else:
            if name in LAYERS and asked.num_classes is None:
                shape["num_classes"] = IMAGENET_CLASSES
            cached = cached_weights(name)
            if cached is None and not asked.pretrained:
                named(name, **shape)  # raises for unknown names
                raise RoteqError(
                    f"{name}: the trained weights are not on this machine; add --pretrained to download them, or "
                    "--weights FILE"
                )
            found = named(name, pretrained=cached is None, cached=cached, **shape)
            where = "downloaded" if cached is None else f"of this machine ({cached.name})"
    if found.note and not asked.embedding:
        raise UsageError(f"{name}: {found.note}, so its answers would be random; leave --num-classes out")
    return found, where


def _headless(network: nn.Module, head: str, name: str) -> nn.Module:
    """The network without its last layer: its features."""
    body = network.net if isinstance(network, Baseline) else network
    if hasattr(body, "reset_classifier"):
        body.reset_classifier(0)  # type: ignore[operator]
    elif head:
        body.set_submodule(head, nn.Identity())
    else:
        raise UsageError(f"{name}: where its head is, is not known; choose its features with --output-key")
    return network


def timm_facts(network: nn.Module, in_channels: int | None = None) -> Facts:
    """What a timm network says of its input: size, resizing, mean and standard deviation."""
    from timm.data import resolve_model_data_config

    about = resolve_model_data_config(network)
    height, width = about["input_size"][-2:]
    facts: Facts = {
        "size": (height, width),
        "resize": math.floor(min(height, width) / about["crop_pct"]),
        "interpolation": about["interpolation"] if about["interpolation"] in RESAMPLE.values() else "bilinear",
    }
    mean, std = about["mean"], about["std"]
    channels = in_channels or first_channels(network)
    if channels == 1:
        facts["notes"] = ("normalised with the average over the channels of the pretrained network",)
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    if channels is None or len(mean) in (1, channels):
        facts["normalize"] = Normalization(tuple(255.0 * v for v in mean), tuple(255.0 * v for v in std))
    if about.get("crop_mode", "center") != "center":
        facts["notes"] = (
            *facts.get("notes", ()),
            f"timm brings pictures to size by {about['crop_mode']!r}; here the centre is cut",
        )
    return facts


def first_channels(network: nn.Module) -> int | None:
    """Channels that the first convolution takes."""
    return next((part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d)), None)


def _torchvision_facts(name: str) -> Facts:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)
    if not len(weights):
        return {}
    best = weights["DEFAULT"]  # type: ignore[call-overload]
    preset = best.transforms()
    crop, resize = getattr(preset, "crop_size", None), getattr(preset, "resize_size", None)
    crop, resize = (value[0] if isinstance(value, list | tuple) and value else value for value in (crop, resize))
    side = crop or resize
    mean, std = getattr(preset, "mean", None), getattr(preset, "std", None)
    interpolation = getattr(getattr(preset, "interpolation", None), "value", "bilinear")
    facts: Facts = {"interpolation": interpolation if interpolation in RESAMPLE.values() else "bilinear"}
    if side:
        facts |= {"size": (int(side), int(side)), "resize": int(resize or side)}
    if mean and std:
        facts["normalize"] = Normalization(tuple(255.0 * v for v in mean), tuple(255.0 * v for v in std))
    if categories := best.meta.get("categories"):
        facts["classes"] = tuple(categories)
    return facts


def of_hugging_face(name: str, asked: Request) -> tuple[nn.Module, Facts]:
    """ "hf:NAME" or "hf:FOLDER": a transformers model for image classification, or its features."""
    try:
        from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification
    except ImportError as error:
        raise RoteqError("hf: needs transformers: pip install 'roteq[hub]'") from error
    rest = name.partition(":")[2]
    if not rest:
        raise UsageError("expected hf:NAME or hf:FOLDER, such as hf:microsoft/resnet-18")
    for option, given in (("weights", asked.weights), ("num-classes", asked.num_classes)):
        if given is not None:
            raise UsageError(f"--{option}: a model of the Hugging Face hub has its own; leave it out")
    options: dict[str, Any] = {"local_files_only": not asked.pretrained, "trust_remote_code": asked.trust}
    kind = AutoModel if asked.embedding else AutoModelForImageClassification
    with _fetching(name, asked), hushed(), weights_only(), _without_bars():
        model, report = kind.from_pretrained(rest, attn_implementation="eager", output_loading_info=True, **options)
        try:
            about = AutoImageProcessor.from_pretrained(rest, **options).to_dict()
        except (OSError, ValueError, ImportError, KeyError):
            about = None
    missing = sorted(report["missing_keys"])
    if missing and not asked.embedding:
        raise UsageError(
            f"{name}: the file has no weights for {', '.join(missing[:3])}, so the answers would be random; it is no "
            "classifier: add --output embedding for its features"
        )
    facts = transformers_facts(model)
    facts |= {"notes": ("no image processor is stored with the model",)} if about is None else _processor_facts(about)
    return model, facts


def transformers_facts(model: Any) -> Facts:
    """What the configuration of a transformers model says."""
    config = model.config
    labels = getattr(config, "id2label", None) or {}
    names = tuple(str(labels[key]) for key in sorted(labels))
    facts: Facts = {"channels": getattr(config, "num_channels", None)}
    if len(names) > 1 and not all(re.fullmatch(r"LABEL_\d+", label) for label in names):
        facts["classes"] = names
    side = getattr(config, "image_size", None)
    if isinstance(side, int):
        facts["size"] = (side, side)
    elif isinstance(side, list | tuple):
        facts["size"] = (int(side[0]), int(side[1]))
    return facts


def _processor_facts(about: dict[str, Any]) -> Facts:
    """What preprocessor_config.json means for 0..255 pixels."""
    facts: Facts = {"interpolation": RESAMPLE.get(int(about.get("resample") or 2), "bilinear")}
    scale = float(about.get("rescale_factor") or 1 / 255) if about.get("do_rescale", True) else 1.0
    mean, std = (0.0,), (1.0,)
    if about.get("do_normalize") and about.get("image_mean") is not None:
        given = about["image_mean"], about["image_std"]
        mean, std = (tuple(v) if isinstance(v, list | tuple) else (v,) for v in given)
    facts["normalize"] = Normalization(tuple(v / scale for v in mean), tuple(v / scale for v in std))
    size = _sides(about.get("size"))
    crop = _sides(about.get("crop_size")) if about.get("do_center_crop") else None
    if not about.get("do_resize", True):
        return facts | ({"size": crop, "resize": 0} if crop else {})
    if size is None:
        return facts | ({"size": crop} if crop else {})
    final, shorter = crop or size, min(size)
    if crop is None and about.get("crop_pct") and shorter < 384:  # as the processor of ConvNeXT
        shorter = int(shorter / about["crop_pct"])
    if crop is None and "height" in (about.get("size") or {}):
        facts["notes"] = (
            "its processor squeezes pictures to the size; here the shorter side is fitted and the centre cut",
        )
    return facts | {"size": final, "resize": shorter}


def _sides(size: Any) -> tuple[int, int] | None:
    """
    >>> _sides({"shortest_edge": 224}), _sides({"height": 32, "width": 48})
    ((224, 224), (32, 48))
    """
    if isinstance(size, int):
        return size, size
    if size and size.get("height"):
        return int(size["height"]), int(size["width"])
    return (int(size["shortest_edge"]),) * 2 if size and size.get("shortest_edge") else None  # type: ignore[return-value]


@contextmanager
def _fetching(name: str, asked: Request) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # OSError, ValueError and what each model raises
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{name}: comes with code of its own; add --trust if you trust it to run on this machine"
            ) from error
        if not asked.pretrained and isinstance(error, OSError) and not Path(name.partition(":")[2]).is_dir():
            raise RoteqError(
                f"{name}: not on this machine: no such folder, and not in the cache of the Hugging Face hub; add "
                "--pretrained to download it"
            ) from error
        raise RoteqError(f"{name}: could not be loaded for image classification: {words}") from error


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
