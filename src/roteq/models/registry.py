"""One dict of models, and the configuration that names one of them with its options."""

from collections.abc import Callable
from inspect import signature
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_serializer, model_validator
from torch import nn

from ..config import Config
from ..errors import UsageError, nearest
from ..groups import group as named_group
from .baselines import alexnet, densenet121, resnet18, resnet50
from .cifar import allcnn_c, resnet26, resnet44
from .e2_mnist import e2_mnist
from .pcam import p4m_densenet, se2_pcam
from .rotated_mnist import p4cnn, p4cnn_rotation_pooling, z2cnn
from .se2cnn import cnn, se2cnn, se2cnn_study
from .twins import twin
from .unet import g_unet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "allcnn_c": allcnn_c,
    "cnn": cnn,
    "densenet121": densenet121,
    "e2_mnist": e2_mnist,
    "g_unet": g_unet,
    "p4cnn": p4cnn,
    "p4cnn_rotation_pooling": p4cnn_rotation_pooling,
    "p4m_densenet": p4m_densenet,
    "resnet18": resnet18,
    "resnet26": resnet26,
    "resnet44": resnet44,
    "resnet50": resnet50,
    "se2_pcam": se2_pcam,
    "se2cnn": se2cnn,
    "se2cnn_study": se2cnn_study,
    "twin": twin,
    "z2cnn": z2cnn,
}
GROUP_NETWORKS = (
    *("allcnn_c", "e2_mnist", "g_unet", "p4cnn", "p4cnn_rotation_pooling", "p4m_densenet", "resnet26", "resnet44"),
    *("se2_pcam", "se2cnn", "se2cnn_study", "twin"),
)
MAP_NETWORKS = ("g_unet",)  # that answer with maps only; those with an option `dense` do both
FROM_DATA = ("in_channels", "num_classes", "dense", "output")  # decided by the data, not by a configuration


def create(name: str, **options: Any) -> nn.Module:
    """Build a model by name: (B, in_channels, H, W) -> (B, num_classes) logits.

    Raises: UsageError for a name, an option or a value that the model does not have, naming the nearest that it has.

    >>> model = create("resnet18", in_channels=1, num_classes=3)
    """
    check_options(name, options)
    return MODELS[name](**options)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise UsageError unless `name` is a model and each option one of its own, with a value of the right type."""
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    hints = get_type_hints(MODELS[name])
    known = list(signature(MODELS[name]).parameters)
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"{name}: unknown option {key!r}; {nearest(key, known)} (options: {', '.join(known)})")
        try:
            TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
        except ValidationError as error:
            expected = ", or ".join(problem["msg"].removeprefix("Input ") for problem in error.errors())
            raise UsageError(f"{name}: {key}: {expected}, got {value!r}") from None


def defaults(name: str) -> dict[str, Any]:
    """The options of a model that a configuration may set, with their default values."""
    parameters = signature(MODELS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in FROM_DATA}


class ModelConfig(Config):
    """A model in a configuration: its name, its options beside it, and the label under which reports show it.

    >>> config = ModelConfig.model_validate({"name": "se2cnn", "group": "C8"})
    >>> config.label, config.group, config.options
    ('se2cnn C8', 'C8', {'group': 'C8', 'width': None, 'basis': None})
    """

    name: str
    label: str
    options: dict[str, Any] = Field(default_factory=dict)  # all of them, defaults included

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            raise UsageError("expected a model as keys and values, such as {name: se2cnn, group: C12}")
        if not isinstance(tree.get("name"), str):
            raise UsageError(f"missing key 'name'; {nearest(tree.get('name'), MODELS)}")
        name = tree["name"]
        given = {key: value for key, value in tree.items() if key not in ("name", "label", "options")}
        given |= tree.get("options") or {}
        given = {key: value for key, value in given.items() if key != "dense" or value}  # of older files
        for key in FROM_DATA:
            if key in given:
                raise UsageError(f"{name}: {key} is given by the data and cannot be set")
        check_options(name, given)
        if "group" in given:
            named_group(given["group"])
        options = defaults(name) | given
        return {"name": name, "label": tree.get("label") or default_label(name, options), "options": options}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        # a label that follows from the options is left out, so that it follows them when one is overridden
        label = {} if self.label == default_label(self.name, self.options) else {"label": self.label}
        return {"name": self.name, **label, **self.options}

    @property
    def group(self) -> str | None:
        """The name of the group of a group network, None for a plain network (the trivial group included)."""
        if self.name not in GROUP_NETWORKS:
            return None
        if self.options.get("head") == "original":  # as published, which is not invariant
            return None
        found = named_group(self.options.get("restrict") or self.options["group"])
        return found.name if found.order > 1 else None

    def build(self, in_channels: int, num_classes: int, *, dense: bool = False, weights: bool = True) -> nn.Module:
        """The network; dense: one that answers with maps. weights=False: as a shell for a checkpoint; pretrained
        weights are neither read nor downloaded and nothing is frozen.

        Raises: UsageError if the network answers with the other kind only.
        """
        mappers = [*MAP_NETWORKS, *(name for name in MODELS if "dense" in signature(MODELS[name]).parameters)]
        if dense and self.name not in mappers:
            raise UsageError(f"{self.name} answers with one vector a picture, and the data has masks; expected one of "
                             f"{', '.join(mappers)}")  # fmt: skip
        if not dense and self.name in MAP_NETWORKS:
            raise UsageError(f"{self.name} answers with maps, and the data has one label a picture, not masks")
        options = dict(self.options) | ({"dense": True} if dense and self.name not in MAP_NETWORKS else {})
        if not weights:
            options = {key: value for key, value in options.items() if key not in ("weights", "freeze")}
        return create(self.name, in_channels=in_channels, num_classes=num_classes, **options)


def default_label(name: str, options: dict[str, Any]) -> str:
    """The name, what the model is chosen by (its group or match), and every option that is not at its default.

    >>> default_label("cnn", {"group": "C12", "match": "channels"})
    'cnn channels'
    >>> default_label("resnet18", {"weights": "pretrained", "freeze": True, "resize": 64})
    'resnet18 pretrained freeze resize=64'
    """
    lead = "group" if name in GROUP_NETWORKS else "match"
    words = [name, str(options[lead])] if lead in options else [name]
    for key, default in defaults(name).items():
        value = options.get(key, default)
        if key != lead and value != default:
            words.append(key if value is True else str(value) if value == "pretrained" else f"{key}={value}")
    return " ".join(words)
