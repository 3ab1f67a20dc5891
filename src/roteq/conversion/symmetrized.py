"""Group averaging: any model as it stands, asked about every turned copy of its images.

Source: Yarotsky 2018 (arXiv 1804.10306), symmetrization; Puny et al. 2021 (arXiv 2110.03336), group averaging.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..errors import UsageError, nearest
from ..groups import Group
from ..groups import group as named_group
from ..nn.checks import check_at_least
from ..testing import Representation, act

REDUCTIONS = ("mean", "logits", "vote")
OUTPUTS = ("invariant", "trivial", "regular", "vector")
TIE = 1e-3  # weight of the mean probability beside the votes; below 1 / |G|, so that it only decides between equal ones
ROUNDING = 1e-4  # more than rounding can move a sum of |G| probabilities


class Symmetrized(nn.Module):
    """The average of a model's answers to every turned copy: invariant or equivariant, whatever the model is.

    f_G(x) = 1/|G| sum_g rho(g^-1) f(g x): maps are turned back before they are averaged. The model is any callable, its
    inputs and outputs may be nested in tuples and dictionaries. Every 4-D input is a batch of images and is turned,
    other tensors with one row an image are repeated, everything else is passed as it is.

    reduce: "mean" of the probabilities, as its logarithm: softmax, argmax and cross-entropy of it mean what they mean
    of logits. "logits": mean of the outputs as they are, also of embeddings, regressions and maps without classes.
    "vote": the share of votes, as its logarithm; the mean probability is mixed in with a weight of 0.001 and decides
    between equal votes. Nothing else of a vote has a gradient: train with the others.
    output: how the output transforms (`equivariance_error`); None: 4-D outputs are "trivial" maps, others "invariant".
    Said aloud, "trivial" takes 3-D outputs (B, H, W) for maps too, and "invariant" turns none, attention for instance.
    batch_size: how many copies go through the model at a time; None: all |G| B of them.
    early_stop: for (B, K) class scores under "mean" and "vote", in eval mode and without gradients: an image is left
    alone once no answer to come can change its decision, |G|/2 + 1 of them at the earliest. Its argmax is that of the
    full average, its values are those of the answers seen: decisions are invariant, values are not. `passes`, (B,):
    how many answers each image of the last call took; None where the call was a full one.

    Shapes: those of the model; answers are summed and returned in float32 at least.
    Exactness: exact for multiples of 90 degrees and mirrors. Other angles are interpolated and have empty corners
    (`Group.act_on_image`); only invariant outputs are averaged over them, and oblong images then lose exactness at 90
    degrees too. In training mode BatchNorm sees all copies of an image, so it is exact there too, unless batch_size <
    |G|. Dropout draws anew for every copy.
    Raises: UsageError for unknown options, no or differing batches of images, outputs that are not one row an image or
    not what `reduce`, `output` and `early_stop` need, or a model that fails on the turned copies of oblong images.

    >>> x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> network = Symmetrized(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "p4m")
    >>> torch.allclose(network(x.rot90(1, (-2, -1))), network(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        model: Callable[..., Any],
        group: str | Group,
        reduce: Literal["mean", "logits", "vote"] = "mean",
        *,
        output: Representation | None = None,
        batch_size: int | None = None,
        early_stop: bool = False,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise UsageError(f"Symmetrized: expected a model or another callable, got {type(model).__name__}")
        if reduce not in REDUCTIONS:
            raise UsageError(f"Symmetrized: unknown reduce {reduce!r}; {nearest(reduce, REDUCTIONS)}")
        if output is not None and output not in OUTPUTS:
            raise UsageError(f"Symmetrized: unknown output {output!r}; {nearest(output, OUTPUTS)}")
        if output in ("regular", "vector") and reduce != "logits":
            raise UsageError(f"Symmetrized: {output} outputs have no classes, got reduce={reduce!r}; use 'logits'")
        if early_stop and reduce == "logits":
            raise UsageError(
                "Symmetrized: expected reduce='mean' or 'vote' with early_stop, got 'logits'; logits have no bound, so "
                "the last answer can always change the decision"
            )
        if batch_size is not None:
            check_at_least("Symmetrized", 1, batch_size=batch_size)
        self.model, self.group, self.reduce = model, named_group(group), reduce
        self.output, self.batch_size, self.early_stop = output, batch_size, early_stop
        self.passes: Tensor | None = None
        self.training = getattr(model, "training", False)  # a trained network stays in eval mode

    def forward(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        inputs = _Inputs.of(args if x is None else (x, *args), kwargs)
        if self.early_stop:
            self.passes = None
            if not (self.training or torch.is_grad_enabled()):
                return self._until_decided(inputs)
        order = self.group.order
        total = self._sum(inputs, range(order))
        return tree_map(lambda leaf: leaf / order if self.reduce == "logits" else leaf - math.log(order), total)

    def _until_decided(self, inputs: "_Inputs") -> Tensor:
        """Probabilities lie in [0, 1], so r answers to come change a lead by at most r: by half, nothing is decided."""
        order = self.group.order
        half = order // 2 + 1
        total = self._sum(inputs, range(half))
        if not isinstance(total, Tensor) or total.ndim != 2:
            raise UsageError("Symmetrized: early_stop expects class scores (B, K) and nothing else; set it to False")
        passes = torch.full((inputs.batch,), half, device=total.device)
        undecided = torch.arange(inputs.batch, device=total.device)
        for g in range(half, order):
            first, second = total[undecided].exp().topk(2).values.unbind(1)
            undecided = undecided[~(first - second > order - g + ROUNDING)]
            if not len(undecided):
                break
            total[undecided] = self._add(total[undecided], self._sum(inputs.rows(undecided), [g]))
            passes[undecided] += 1
        self.passes = passes
        return total - passes[:, None].to(total).log()

    def _sum(self, inputs: "_Inputs", elements: Sequence[int]) -> Any:
        """The answers to the copies, turned back and added up; all copies of a few images go together, as BatchNorm
        needs it, and only then a few copies of one image."""
        if self.batch_size is None:
            return self._sum_at_most(len(elements), inputs, elements)
        step = max(1, self.batch_size // len(elements))
        parts = [inputs.rows(slice(start, start + step)) for start in range(0, max(1, inputs.batch), step)]
        return tree_map(
            lambda *leaves: torch.cat(leaves), *(self._sum_at_most(self.batch_size, p, elements) for p in parts)
        )

    def _sum_at_most(self, step: int, inputs: "_Inputs", elements: Sequence[int]) -> Any:
        """With at most `step` elements at a time. Copies of oblong images have two shapes."""
        sideways = [g for g in elements if inputs.oblong and self.group.quarter_turns(g) in (1, 3)]
        upright = [g for g in elements if g not in sideways]
        total = None
        for several in (upright, sideways):
            for part in (several[start : start + step] for start in range(0, len(several), step)):
                output = self._ask(inputs, part, several is sideways)
                scores = tree_map(partial(self._scores, copies=len(part), batch=inputs.batch), output)
                for i, g in enumerate(part):
                    answer = tree_map(partial(self._turn_back, i=i, g=g), scores)
                    total = answer if total is None else tree_map(self._add, total, answer)
        return total

    def _ask(self, inputs: "_Inputs", elements: Sequence[int], sideways: bool) -> Any:
        args, kwargs = inputs.copies(self.group, elements)
        if not sideways:
            return self.model(*args, **kwargs)
        try:
            return self.model(*args, **kwargs)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"Symmetrized: the model fails on oblong images turned by 90° ({error}); if it needs one size, crop or "
                f"pad them to squares, or use a group without quarter turns: {'D2' if self.group.mirrors else 'C2'}"
            ) from error

    def _scores(self, leaf: Any, copies: int, batch: int) -> Tensor:
        """What is averaged, (copies, B, ...), of one tensor of the output."""
        rows = copies * batch
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.ndim or leaf.shape[0] != rows:
            got = f"{str(leaf.dtype)[6:]} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise UsageError(
                f"Symmetrized: expected floating-point tensors with one row for each of {rows} images as outputs, got "
                f"{got}"
            )
        scores = leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        if self.reduce != "logits":
            if leaf.ndim not in (2, 4) or leaf.shape[1] < 2:
                raise UsageError(
                    f"Symmetrized: reduce={self.reduce!r} expects scores of 2 classes or more, (B, K) or (B, K, H, W), "
                    f"got an output {tuple(leaf.shape)}; use reduce='logits'"
                )
            scores = F.log_softmax(scores, 1).clamp(min=torch.finfo(scores.dtype).min)  # log 0 has no gradient
        if self.reduce == "vote":
            lost = torch.full_like(scores, -math.inf)
            votes = lost.scatter(1, leaf.argmax(1, keepdim=True), math.log(1 - TIE))
            scores = torch.logaddexp(votes, scores + math.log(TIE))
        return scores.unflatten(0, (copies, batch))

    def _turn_back(self, scores: Tensor, i: int, g: int) -> Tensor:
        """rho(g^-1) of the answers to copy i, which was turned by g."""
        answer = scores[i]
        if self.output == "invariant" or answer.ndim < (3 if self.output == "trivial" else 4):
            return answer
        if len(self.group.exact_elements) < self.group.order:
            raise UsageError(
                f"Symmetrized: maps are turned back by multiples of 90° only, got {self.group.name}; use "
                f"'{'D' if self.group.mirrors else 'C'}4', or output='invariant' if {tuple(answer.shape)} is no map"
            )
        return act(self.group, answer, self.group.inverse(g), self.output or "trivial")

    def _add(self, total: Tensor, answer: Tensor) -> Tensor:
        if total.shape != answer.shape:
            raise UsageError(
                f"Symmetrized: expected answers of one shape, got {tuple(total.shape)} and {tuple(answer.shape)}; if "
                "they are no maps, set output='invariant'"
            )
        return total + answer if self.reduce == "logits" else torch.logaddexp(total, answer)

    def extra_repr(self) -> str:
        return f"{self.group.name!r}, reduce={self.reduce!r}"


@dataclass(frozen=True)
class _Inputs:
    """The arguments of one call, flattened."""

    leaves: list[Any]
    structure: Any
    batch: int
    oblong: bool

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Inputs":
        leaves, structure = tree_flatten((args, kwargs))
        images = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim == 4]
        if not images:
            raise UsageError("Symmetrized: expected a batch of images (B, C, H, W) among the inputs, got none")
        sizes = [image.shape[0] for image in images]
        if any(size != sizes[0] for size in sizes):
            raise UsageError(f"Symmetrized: expected as many images in every 4-D input, got {sizes}")
        return cls(leaves, structure, sizes[0], any(image.shape[-2] != image.shape[-1] for image in images))

    def map(self, change: Callable[[Tensor], Tensor]) -> list[Any]:
        """The leaves, those changed that have one row an image."""
        ours = [isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == self.batch for leaf in self.leaves]
        return [change(leaf) if is_ours else leaf for leaf, is_ours in zip(self.leaves, ours, strict=True)]

    def rows(self, index: slice | Tensor) -> "_Inputs":
        number = len(range(self.batch)[index]) if isinstance(index, slice) else len(index)
        return _Inputs(self.map(lambda leaf: leaf[index]), self.structure, number, self.oblong)

    def copies(self, group: Group, elements: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with all copies in one batch, element by element."""

        def copies(leaf: Tensor) -> Tensor:
            return torch.cat([group.act_on_image(leaf, g) if leaf.ndim == 4 else leaf for g in elements])

        return tree_unflatten(self.map(copies), self.structure)
