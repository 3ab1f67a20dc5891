"""Which image goes to which split: pure functions, no files.

Images that share a group (slide, patient) or their content are one part, and a part is never divided. Parts are
placed one by one, large ones first, where they bring the counts of every class closest to the shares.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence

SPLITS = ("train", "validation", "test")
ALIASES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
ALIASES |= {"val": "validation", "dev": "validation", "test": "test", "testing": "test"}


def joined(ids: Sequence[str], *keys: Sequence[Hashable | None]) -> list[list[int]]:
    """Indices of the images joined, directly or over others, by an equal key (None joins nothing).

    Parts are sorted by their first id and each part by id, so the order of the input does not matter.

    >>> joined(["a", "b", "c", "d"], ["s1", "s2", "s1", None], [0, 1, 2, 1])
    [[0, 2], [1, 3]]
    """
    parent = list(range(len(ids)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for column in keys:
        first: dict[Hashable, int] = {}
        for i, key in enumerate(column):
            if key is not None:
                parent[root(i)] = root(first.setdefault(key, i))
    parts: dict[int, list[int]] = {}
    for i in sorted(range(len(ids)), key=ids.__getitem__):
        parts.setdefault(root(i), []).append(i)
    return list(parts.values())


def assign(
    ids: Sequence[str], labels: Sequence[Hashable], parts: list[list[int]], shares: dict[str, float], seed: int
) -> list[str]:
    """The split of every image. `parts` from `joined`; `shares` sum to 1, a share of 0 gets nothing.

    >>> assign(list("abcd"), [0, 0, 1, 1], [[0], [1], [2], [3]], {"train": 0.5, "test": 0.5}, seed=0)
    ['train', 'test', 'train', 'test']
    """
    shares = {split: share for split, share in shares.items() if share > 0}
    total = Counter(labels)
    parts = list(parts)
    random.Random(seed).shuffle(parts)
    parts.sort(key=lambda part: -len(part).bit_length())  # large first; the seed decides among similar sizes
    counts = [Counter(labels[i] for i in members) for members in parts]
    have: dict[str, Counter[Hashable]] = {split: Counter() for split in shares}

    def cost(split: str, part: Counter[Hashable]) -> float:
        """Increase of sum over classes of (have - target)^2 / target when the part comes in."""
        now, share = have[split], shares[split]
        return sum(n * (2 * now[c] + n) / (share * total[c]) - 2 * n for c, n in part.items())

    places = []
    for part in counts:
        split = min(shares, key=lambda split: cost(split, part))
        have[split].update(part)
        places.append(split)
    _fill_gaps(counts, places, list(shares))
    result = [""] * len(ids)
    for members, split in zip(parts, places, strict=True):
        for i in members:
            result[i] = split
    return result


def _fill_gaps(counts: list[Counter[Hashable]], places: list[str], splits: list[str]) -> None:
    """Give every split every class where that is possible: move the smallest part whose own split can spare it."""
    holders = {split: Counter[Hashable]() for split in splits}  # parts in the split that hold the class
    for part, split in zip(counts, places, strict=True):
        holders[split].update(part.keys())
    for c in dict.fromkeys(c for part in counts for c in part):
        for split in splits:
            if holders[split][c]:
                continue
            spare = [
                i for i, part in enumerate(counts) if c in part and all(holders[places[i]][other] > 1 for other in part)
            ]
            if spare:
                i = min(spare, key=lambda i: counts[i].total())
                holders[places[i]].subtract(counts[i].keys())
                holders[split].update(counts[i].keys())
                places[i] = split
