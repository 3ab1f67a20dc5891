"""Checkpoints that are whole or absent, and readable without running any code in them."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ..errors import RoteqError
from ..files import atomic_path
from .module import Classifier


class WholeFiles(TorchCheckpointIO):
    """Lightning's own writer moves the file in from /tmp, which is a copy, not a rename, across file systems."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:  # a full disk is an OSError only on a file
            torch.save(checkpoint, file)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint that `fit` wrote. Raises: RoteqError for any other file, saying what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise RoteqError(f"{path}: no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and decoding errors of many kinds, all meaning the same
        raise RoteqError(f"{path}: not a checkpoint, or a damaged one ({type(error).__name__})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise RoteqError(f"{path}: not a checkpoint of roteq: expected what 'roteq train' writes, such as best.ckpt")
    settings = content.get("hyper_parameters")
    if not isinstance(settings, dict) or not {"model", "train", "classes", "channels"} <= settings.keys():
        raise RoteqError(f"{path}: a checkpoint of another program: it does not say which roteq model it belongs to")
    return content


def restore(classifier: Classifier, content: dict[str, Any], path: Path) -> None:
    """Weights, statistics and history from the content of a checkpoint. Raises: RoteqError if they do not fit."""
    try:
        classifier.load_state_dict(content["state_dict"])
        classifier.on_load_checkpoint(content)
    except (RuntimeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise RoteqError(
            f"{path}: a checkpoint of another model than {classifier.model_config.label}: {reason}"
        ) from error
