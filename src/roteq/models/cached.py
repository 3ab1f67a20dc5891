"""Trained weights that lie on this machine already, where timm, torchvision and the Hugging Face hub keep them."""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")


def cached_weights(name: str) -> Path | None:
    """The file of the trained weights of "timm:NAME" or "torchvision:NAME"; None: not on this machine. Looks at the
    disk only.

    >>> cached_weights("resnet18") is None  # of neither
    True
    """
    source, _, rest = name.partition(":")
    if source == "timm":
        from timm.models import get_pretrained_cfg

        about = get_pretrained_cfg(rest)
        return None if about is None else _of_hub(about) or _downloaded(about.url)
    if source == "torchvision":
        from torchvision.models import get_model_weights, list_models

        weights = get_model_weights(rest) if rest in list_models() else ()
        return _downloaded(weights["DEFAULT"].url) if len(weights) else None  # type: ignore[call-overload]
    return None


def _of_hub(about: Any) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if not about.hf_hub_id:
        return None
    files = (about.hf_hub_filename,) if about.hf_hub_filename else HUB_FILES
    found = (try_to_load_from_cache(about.hf_hub_id, file) for file in files)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def _downloaded(url: Any) -> Path | None:
    import torch

    if not isinstance(url, str) or not url:
        return None
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    return path if path.is_file() else None
