"""The coverage table of docs/convert.md: torchvision's families, and the smallest model of each of timm's.

    python docs/make_convert.py RESULTS.jsonl            convert what RESULTS does not hold yet, an hour on two cores
    python docs/make_convert.py RESULTS.jsonl --write    put the table into docs/convert.md

Random weights, each model at its own input size; width="parameters", p4m. A model that takes longer than --limit
seconds or more memory than there is counts as not converted, with the reason.
"""

import argparse
import json
import signal
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from roteq import convert

PAGE = Path(__file__).with_name("convert.md")
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
TORCHVISION = {  # name -> side of the picture
    **dict.fromkeys(("alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121"), 224),
    **dict.fromkeys(
        ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny"), 224
    ),
    **dict.fromkeys(("regnet_y_400mf", "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet", "mnasnet1_0"), 224),
    "inception_v3": 299,
    "fcn_resnet50": 224,
    "deeplabv3_resnet50": 224,
    "lraspp_mobilenet_v3_large": 224,
    "vit_b_16": 224,
    "swin_t": 224,
}
REASONS = {  # what a message says -> the group of reasons it belongs to
    "attention": "attention between positions (use `roteq.Symmetrized`)",
    "cannot be captured": "the forward of a block calls functions and cannot be captured",
    "is cut off": "a number of channels is written into the code",
    "are cut off": "a number of channels is written into the code",
    "failed on features": "a number of channels is written into the code",
    "breaks equivariance": "an operation that is not symmetric",
    "TooLong": "not converted within the time limit",
    "MemoryError": "too large for this machine",
}


class TooLong(BaseException):
    """The time limit; no handler of ordinary errors may swallow it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--limit", type=int, default=150)
    args = parser.parse_args()
    known = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if args.write:
        _write(known)
        return
    done = {(row["library"], row["model"]) for row in known}
    warnings.simplefilter("ignore")
    for library, family, name, side, make in _models():
        if (library, name) in done:
            continue
        row = {"library": library, "family": family, "model": name} | _converted(make, side, args.limit)
        with args.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(name, row.get("reason") or f"error {row['error']:.0e}", f"{row['seconds']:.0f} s", flush=True)


def _models() -> Iterator[tuple[str, str, str, int, Callable[[], nn.Module]]]:
    for name, side in TORCHVISION.items():
        options = {"weights_backbone": None} if name.split("_")[0] in ("fcn", "deeplabv3", "lraspp") else {}
        yield "torchvision", name, name, side, partial(torchvision.models.get_model, name, weights=None, **options)
    families = defaultdict(list)
    for name in timm.list_models():
        if not name.startswith("test_"):
            families[timm.models._registry._model_to_module[name]].append(name)
    for family, names in sorted(families.items()):
        smallest = min((_size(name), name) for name in names)[1]
        side = timm.get_pretrained_cfg(smallest).input_size[-1] if timm.get_pretrained_cfg(smallest) else 224
        yield "timm", family, smallest, side, partial(timm.create_model, smallest)


def _size(name: str) -> float:
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # cannot be built without values
        return float("inf")


def _converted(make: Callable[[], nn.Module], side: int, limit: int) -> dict[str, Any]:
    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    begin = time.perf_counter()
    torch.manual_seed(0)
    row: dict[str, Any] = {}
    try:
        model = make()
        report = convert(model, "p4m", sample=torch.zeros(1, 3, side, side)).conversion
        row = {"error": max(e for e in report.errors.values() if e is not None), "exact": report.exact}
        row |= {"parameters": report.parameters, "flops": report.flops, "rewritten": len(report.rewritten)}
    except (Exception, TooLong) as error:
        row = {"reason": f"{type(error).__name__}: {error}"[:300]}
    finally:
        signal.alarm(0)
    return row | {"side": side, "seconds": time.perf_counter() - begin}


def _write(rows: list[dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{_tables(rows)}\n{END}{after}", encoding="utf-8")


def _tables(rows: list[dict[str, Any]]) -> str:
    lines = []
    for library in ("torchvision", "timm"):
        some = [row for row in rows if row["library"] == library]
        works = [row for row in some if row.get("exact")]
        lines.append(f"**{library}**: {len(works)} of {len(some)} convert with an error below 1e-10.\n")
        lines.append("| model | converts | error | parameters, M | FLOPs, G | reason |\n|---|---|---|---|---|---|")
        lines += [_line(row) for row in sorted(some, key=lambda row: (not row.get("exact"), row["model"]))]
        groups = Counter(_group(row["reason"]) for row in some if "reason" in row)
        lines.append("\n" + "; ".join(f"{reason}: {n}" for reason, n in groups.most_common()) + "\n")
    return "\n".join(lines)


def _group(reason: str) -> str:
    return next((group for text, group in REASONS.items() if text in reason), "other")


def _line(row: dict[str, Any]) -> str:
    if "reason" in row:
        return f"| {row['model']} | no | | | | {_group(row['reason'])} |"
    millions = " → ".join(f"{n / 1e6:.2f}" for n in row["parameters"])
    billions = " → ".join("?" if n is None else f"{n / 1e9:.2f}" for n in row["flops"])
    return f"| {row['model']} | {'yes' if row['exact'] else 'no'} | {row['error']:.0e} | {millions} | {billions} | |"


if __name__ == "__main__":
    main()
