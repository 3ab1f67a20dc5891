"""Which images make up which batch, and what the pixel values of a set of images are.

Every order is a function of (seed, epoch) alone, so an epoch can be repeated without the ones before it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..data import PatchDataset, batch_collate, center_crop
from ..data.windows import Windows

CHUNK = 512  # images at a time where nothing else decides


def world() -> tuple[int, int]:
    """(rank, number of processes), as torchrun sets them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def stream(*key: int) -> int:
    """A seed that is independent for every key, such as (seed, epoch, batch).

    >>> stream(0, 1) == stream(0, 1), stream(0, 1) == stream(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Shuffled(Sampler[list[int]]):
    """Training batches of epoch `epoch()`. All are whole: what is left over waits for another epoch's order. Several
    processes share each batch, so their number does not change what a step sees. `fresh`: every epoch has indices of
    its own (roteq.data.windows)."""

    def __init__(
        self, indices: Tensor, batch_size: int, seed: int, epoch: Callable[[], int], fresh: bool = False
    ) -> None:
        self.indices, self.batch_size, self.seed, self.epoch, self.fresh = indices, batch_size, seed, epoch, fresh

    def __len__(self) -> int:
        return max(1, len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = world()
        generator = torch.Generator().manual_seed(stream(self.seed, self.epoch()))
        order = self.indices[torch.randperm(len(self.indices), generator=generator)]
        order = order + self.epoch() * len(order) * self.fresh
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][rank::processes].tolist()


class InOrder(Sampler[list[int]]):
    """Every image once; each process gets as many batches as the others, since they wait for each other."""

    def __init__(self, indices: Tensor, batch_size: int) -> None:
        rank, processes = world()
        number = -(-len(indices) // (batch_size * processes))
        self.batches = [part.tolist() for part in torch.tensor_split(indices[rank::processes], number)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def loader(dataset: PatchDataset | Windows, batches: Sampler[list[int]], workers: int = 0) -> DataLoader[Any]:
    """Whole batches in the order of the sampler; no work per image where the dataset is in memory."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=batch_collate,  # type: ignore[arg-type]  # a whole batch comes, not a list of images
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),  # its own, so that reading does not move the global one
    )


def share_of(labels: Tensor, share: float, seed: int) -> Tensor:
    """Indices of that share of every class (at least one image of each), in ascending order.

    >>> share_of(torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, seed=0).shape
    torch.Size([3])
    """
    if share == 1:
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(stream(seed, 1))
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        keep = max(1, round(share * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:keep]])
    return torch.cat(chosen).sort().values


@dataclass(frozen=True)
class Pixels:
    """Pixel values 0..255 of a set of images, counted: exact, and as small for a million images as for one."""

    counts: Tensor  # (C, 256)

    @property
    def low(self) -> float:
        return float(self.counts.sum(0).nonzero().min())

    @property
    def high(self) -> float:
        return float(self.counts.sum(0).nonzero().max())

    @property
    def mean(self) -> Tensor:
        return (self.counts.double() @ torch.arange(256.0).double()) / self.counts.sum(1)

    @property
    def std(self) -> Tensor:
        squares = (self.counts.double() @ torch.arange(256.0).double().square()) / self.counts.sum(1)
        return (squares - self.mean.square()).clamp(min=0).sqrt()

    def quantiles(self, number: int = 1001) -> np.ndarray:
        """So many evenly spaced quantiles: a small stand-in for all the values."""
        steps = self.counts.sum(0).cumsum(0)
        wanted = torch.linspace(0, 1, number, dtype=torch.float64) * (steps[-1] - 1) + 1
        return torch.searchsorted(steps.double(), wanted).numpy()


def count_pixels(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) -> (C, 256) how often each value occurs in each channel."""
    return torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in images.unbind(1)])


def pixels_of(dataset: PatchDataset | Windows, indices: Tensor, crop: int | None) -> Pixels:
    """Count the pixel values of these images (their centre `crop`), a few hundred images at a time; of windows, those
    of all the images they are cut from."""
    if isinstance(dataset, Windows):
        return Pixels(dataset.data.pixel_counts())
    total = torch.zeros(dataset.channels, 256, dtype=torch.long)
    for part in indices.split(CHUNK):
        images = dataset.images(part.tolist())
        total += count_pixels(images if crop is None else center_crop(images, crop))
    return Pixels(total)
