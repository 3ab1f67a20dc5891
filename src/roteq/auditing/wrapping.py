"""Models that are objects already, and what they say of their input."""

import copy
import math
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..training import Classifier
from .asking import Answering, Ask, ask_estimator, ask_function, ask_module, device_of
from .hub import Facts, first_channels, timm_facts, transformers_facts
from .subject import Normalization, Subject


def of_object(model: Any, given: Facts, device: torch.device | None, output_key: str | int | None) -> Subject:
    """A module, an object with predict_proba, or a function; `given` overrides what it says of itself. On another
    device a copy is asked."""
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model).to(device) if device not in (None, device_of(model)) else model
        return of_module(model, merged({"name": type(model).__name__, **_facts(model)}, given), output_key)
    given = {"name": getattr(model, "__name__", type(model).__name__), **given}
    if hasattr(model, "predict_proba"):
        return Subject(ask=ask_estimator(model, given["name"]), **merged(_estimator_facts(model), given))
    if not callable(model):
        raise UsageError(f"expected a model, a function of pictures or an object with predict_proba, got {model!r}")
    device = device or torch.device("cpu")
    return Subject(ask=ask_function(model, device, output_key), device=device, **given)


def merged(facts: Facts, given: Facts) -> Facts:
    """What is given goes before what the model says. Another size keeps the share of the picture that is cut out.

    >>> merged({"size": (224, 224), "resize": 256}, {"size": (112, 112)})
    {'size': (112, 112), 'resize': 128}
    """
    if facts.get("size") and facts.get("resize") and "size" in given:
        facts = {**facts, "resize": min(given["size"]) * facts["resize"] // min(facts["size"])}
    return {**facts, **given}


def of_module(module: nn.Module, facts: Facts, output_key: str | int | None) -> Subject:
    if isinstance(module, Classifier):
        module = Answering(module)
    place = device_of(module)
    return Subject(ask=ask_module(module, place, output_key), module=module, device=place, **facts)


def _facts(module: nn.Module) -> Facts:
    """What a module says of itself."""
    if isinstance(module, Classifier):
        return {
            "name": module.model_config.label,
            "channels": module.channels,
            "size": None if module.crop is None else (module.crop, module.crop),
            "resize": 0,
            "normalize": Normalization.of("raw"),
            "classes": module.classes,
            "kind": "map" if module.dense else "classes",
            "notes": ("a network of roteq, which normalises its input itself",),
        }
    if isinstance(getattr(module, "pretrained_cfg", None), dict):
        return {"channels": first_channels(module), **timm_facts(module)}
    if hasattr(getattr(module, "config", None), "id2label"):
        return transformers_facts(module)
    return {}


def _estimator_facts(estimator: Any) -> Facts:
    """Classes and, from the number of features, channels and side of square pictures."""
    facts: Facts = {
        "kind": "classes",
        "notes": ("asked for predict_proba with rows of pixels, C x H x W; scores are its logarithms",),
    }
    names = getattr(estimator, "classes_", None)
    if names is not None and not isinstance(names, list):
        facts["classes"] = tuple(str(name) for name in names)
    features = getattr(estimator, "n_features_in_", None)
    for channels in (1, 3):
        side = math.isqrt(features // channels) if features else 0
        if features and channels * side**2 == features:
            facts |= {"channels": channels, "size": (side, side)}
    return facts


def keyed(ask: Ask, output_key: str | int | None) -> Ask:
    return ask if output_key is None else ask_function(ask, torch.device("cpu"), output_key)
