"""Any network by its name: of timm, of torchvision, a baseline of roteq, or a function in the user's own file.

Nothing is downloaded unless asked for (`pretrained`), and no file is run unless it is trusted.
"""

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import RoteqError, UsageError, nearest
from .baselines import LAYERS, Baseline, load_adapted, read_weights
from .registry import create

FEW = 12  # names that an error message can list
RGB = 3
KINDS = f"expected timm:NAME, torchvision:NAME, FILE.py:FUNCTION or one of {', '.join(LAYERS)}"


@dataclass(frozen=True)
class Named:
    """A network, where its first convolution and its head are ("": unknown), and what there is to say about it."""

    network: nn.Module
    first: str
    head: str
    note: str | None = None


def named(
    name: str,
    in_channels: int = 3,
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    cached: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    trust: bool = False,
) -> Named:
    """Build the network that `name` names: "timm:NAME", "torchvision:NAME", a baseline of roteq, "FILE.py:FUNCTION".

    num_classes: None is the network's own default. weights: a local file; its first convolution is adapted to
    in_channels, a head of another size stays as initialised and the note says so. pretrained: downloads.
    cached: the file of the pretrained weights, as their source publishes it. size: height and width of the pictures,
    for networks of timm that take one size only. trust: code of the user's file may run.
    Raises: UsageError for a name, number or file that cannot be right, naming the nearest that can; RoteqError where
    the user's function or the download fails.

    >>> named("timm:resnet18", num_classes=5).head
    'fc'
    """
    if weights is not None and pretrained:
        raise UsageError("pretrained: either downloaded weights or those of a file, not both")
    source, _, rest = name.partition(":")
    if ".py:" in name:
        found = _of_file(name, in_channels, num_classes, pretrained, trust)
    elif source == "timm":
        found = _of_timm(rest, in_channels, num_classes, pretrained, cached, size)
    elif source == "torchvision":
        found = _of_torchvision(rest, in_channels, num_classes, pretrained, cached)
    elif name in LAYERS:
        found = _baseline(name, in_channels, num_classes, pretrained)
    else:
        raise UsageError(f"unknown model {name!r}; {_near(name, all_names(), KINDS)}")
    return found if weights is None else loaded(found, read_weights(weights), str(weights))


def all_names() -> list[str]:
    """Of roteq's baselines, and of all networks of timm and torchvision."""
    import timm
    from torchvision.models import list_models

    return [*LAYERS, *(f"timm:{name}" for name in timm.list_models()), *(f"torchvision:{n}" for n in list_models())]


def _near(name: str, names: Iterable[str], otherwise: str) -> str:
    """The nearest name, or all of them where they are few, or what to read.

    >>> _near("resnet81", ["resnet18", "resnet50"], "timm.list_models() lists them")
    "did you mean 'resnet18'?"
    """
    names = list(names)
    hint = nearest(name, names)
    return hint if hint.startswith("did you mean") or len(names) <= FEW else otherwise


def _baseline(name: str, in_channels: int, num_classes: int | None, pretrained: bool) -> Named:
    options: dict[str, Any] = {"weights": "pretrained"} if pretrained else {}
    classes = 2 if num_classes is None else num_classes
    network = create(name, in_channels=in_channels, num_classes=classes, **options)
    first, head, _ = LAYERS[name]
    return Named(network, first, head, _new_head(head, 1000, classes) if pretrained else None)


def _of_timm(
    name: str,
    in_channels: int,
    num_classes: int | None,
    pretrained: bool,
    cached: str | Path | None,
    size: int | tuple[int, int] | None,
) -> Named:
    import timm

    if not timm.is_model(name):
        raise UsageError(
            f"timm: unknown model {name!r}; {_near(name, timm.list_models(), 'timm.list_models() lists them')}"
        )
    tags = [tag for tag in timm.list_pretrained(f"{name.partition('.')[0]}.*") if tag]
    if "." in name and name not in tags:
        raise UsageError(f"timm: unknown weights {name!r}; {nearest(name, tags or [name.partition('.')[0]])}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if size is not None and getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False):
        options["img_size"] = size
    if cached is not None:
        options["pretrained_cfg_overlay"], pretrained = {"file": str(cached)}, True
    with _quiet(), _download(f"timm:{name}") if pretrained else _building(f"timm:{name}"):
        network = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    about = getattr(network, "pretrained_cfg", {})
    first, head = (path if isinstance(path, str) else "" for path in map(about.get, ("first_conv", "classifier")))
    own = getattr(network, "num_classes", None)
    return Named(network, first, head, _new_head(head, about.get("num_classes"), own) if pretrained else None)


def _of_torchvision(
    name: str, in_channels: int, num_classes: int | None, pretrained: bool, cached: str | Path | None
) -> Named:
    from torchvision.models import get_model_builder, get_model_weights, list_models

    if name not in list_models():
        hint = _near(name, list_models(), "torchvision.models.list_models() lists them")
        raise UsageError(f"torchvision: unknown model {name!r}; {hint}")
    if in_channels != RGB:
        raise UsageError(
            f"torchvision:{name}: expected pictures of {RGB} channels, got {in_channels}; models of timm take any"
        )
    build = get_model_builder(name)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if "weights_backbone" in inspect.signature(build).parameters:
        options["weights_backbone"] = None  # which would be downloaded
    with _quiet(), _building(f"torchvision:{name}"):
        found = with_ends(build(weights=None, **options))
    if cached is not None:
        return loaded(found, read_weights(cached), f"torchvision:{name}")
    if not pretrained:
        return found
    with _download(f"torchvision:{name}"):
        state = dict(get_model_weights(name)["DEFAULT"].get_state_dict(progress=False, check_hash=True))
    return loaded(found, state, f"torchvision:{name}")


def _of_file(name: str, in_channels: int, num_classes: int | None, pretrained: bool, trust: bool) -> Named:
    if trust and (num_classes is not None or pretrained):
        file, _, function = name.rpartition(":")
        option = "pretrained" if num_classes is None else "num-classes"
        raise UsageError(f"--{option}: {function} of {file} decides that itself; leave it out")
    make = function_of_file(name, trust)
    with running(name, beside_file(name)):
        network = make()
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name}: expected a function that returns an nn.Module, got {type(network).__name__}")
    return with_ends(network)


def function_of_file(name: str, trust: bool) -> Callable[..., Any]:
    """The function that "FILE.py:FUNCTION" names. Raises: UsageError if there is none, or the file is not trusted;
    RoteqError if its code fails."""
    file, _, function = name.rpartition(".py:")
    path = Path(f"{file}.py")
    if not file or not function.isidentifier():
        raise UsageError(f"expected FILE.py:FUNCTION, such as mine.py:make_network, got {name!r}")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if not trust:
        raise UsageError(f"{path}: building this network runs the code of the file; add --trust if you trust it")
    with running(name, beside_file(name)):
        return _function(path, function)


def _function(path: Path, function: str) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location(f"_roteq_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    make = getattr(module, function, None)
    if not callable(make):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{path}: no function {function!r}; {nearest(function, own) if own else 'there is none'}")
    return make


def beside_file(name: str) -> Path:
    """The folder of "FILE.py:FUNCTION"."""
    return Path(name.rpartition(":")[0]).parent


@contextmanager
def running(what: str, folder: Path) -> Iterator[None]:
    """The user's own code, which may import what lies in the folder, as with `python FILE.py`. Raises: RoteqError for
    whatever it raises."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    except RoteqError:
        raise
    except Exception as error:
        raise RoteqError(f"{what}: failed with {_in_words(error)}") from error
    finally:
        if place in sys.path:
            sys.path.remove(place)


def with_ends(network: nn.Module) -> Named:
    """First convolution and head by their place among the layers."""
    layers = {path: layer for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    first = next((path for path, layer in layers.items() if isinstance(layer, nn.Conv2d)), "")
    return Named(network, first, next(reversed(layers), ""))


def loaded(found: Named, state: dict[str, Any], where: str) -> Named:
    network = found.network.net if isinstance(found.network, Baseline) else found.network
    new, old = (values.get(f"{found.head}.weight") for values in (network.state_dict(), state))
    load_adapted(network, state, where, first=found.first, head=found.head)
    note = None if new is None else _new_head(found.head, None if old is None else len(old), len(new))
    return replace(found, note=note)


def _new_head(head: str, old: int | None, new: int | None) -> str | None:
    """
    >>> _new_head("fc", 1000, 2)
    'fc: the weights are for 1,000 classes, this network has 2; drawn anew'
    """
    if old == new:
        return None
    if old is None:
        return f"{head}: not among the weights; drawn anew"
    return f"{head}: the weights are for {old:,} classes, this network has {new:,}; drawn anew"


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn about their own defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _building(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a number of channels or classes that this network cannot have
        raise UsageError(f"{what}: could not be built: {_in_words(error)}") from error


@contextmanager
def _download(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # urllib, requests, httpx and the hub each raise their own kinds
        raise RoteqError(
            f"{what}: the pretrained weights could not be had: {_in_words(error)}; "
            "fetch the file elsewhere and give it with --weights"
        ) from error


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
