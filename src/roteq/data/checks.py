"""What a table of images must have before anybody trains on it, and what a reader should know of it. Pure functions."""

from collections.abc import Hashable, Mapping, Sequence

from ..errors import RoteqError
from ..results import Finding


def check_classes(counts: Mapping[str, int], where: str) -> None:
    """Raises: RoteqError unless there are two classes and an image of each."""
    for name, n in counts.items():
        if n == 0:
            raise RoteqError(f"{where}: the class {name!r} has no usable image")
    if len(counts) < 2:
        raise RoteqError(f"{where}: expected two classes or more, got {' '.join(counts) or 'no image at all'}")


def check_splits(counts: Mapping[str, Mapping[str, int]], where: str) -> list[Finding]:
    """Raises: RoteqError if a split has fewer than two classes: with one, no AUC and no balanced accuracy exist."""
    missing = []
    for split, classes in counts.items():
        absent = [name for name, n in classes.items() if n == 0]
        if len(classes) - len(absent) < 2:
            raise RoteqError(
                f"{where}: the split {split!r} has no image of {' or '.join(absent)}; give other shares or another "
                "seed, split by image, or take a source with more groups"
            )
        missing += [f"{split}: {', '.join(absent)}"] if absent else []
    if not missing:
        return []
    advice = "Read averages over the classes with care, or split by image, or add groups that hold these classes."
    return [Finding("classes", "warn", f"Classes without an image in a split ({'; '.join(missing)}).", advice)]


def check_duplicates(
    labels: Sequence[str], contents: Sequence[bytes], groups: Sequence[str | None], splits: Sequence[str]
) -> list[Finding]:
    """Identical images that contradict each other, tie groups together, or sit in two splits (only given ones can)."""
    found = []
    ambiguous = _shared(contents, labels)
    if ambiguous:
        n = sum(content in ambiguous for content in contents)
        message = f"Images identical to one with another label: {n} (different pictures: {len(ambiguous)})."
        found.append(Finding("label conflict", "warn", message, "Look at these images: at least half are mislabelled."))
    leaked = _shared(contents, splits)
    if leaked:
        n = sum(content in leaked for content in contents)
        message = f"Images of the given splits that sit in more than one: {n} (different pictures: {len(leaked)})."
        found.append(Finding("leak", "warn", message, "Draw the splits anew with split=group or split=image."))
    torn = _shared(groups, splits) - {None}
    if torn:
        message = f"Groups in more than one split: {len(torn)}."
        found.append(Finding("leak", "warn", message, "Draw the splits anew with split=group."))
    twins = _shared(contents, groups)
    if twins:
        message = f"Pictures that occur in more than one group: {len(twins)}."
        found.append(
            Finding(
                "joined groups",
                "warn",
                message,
                "Check whether these groups are the same slide. Drawn splits keep them together.",
            )
        )
    return found


def check_shares(counts: Mapping[str, int], shares: Mapping[str, float]) -> list[Finding]:
    total = sum(counts.values())
    far = [
        f"{split} {counts.get(split, 0) / total:.0%} instead of {share:.0%}"
        for split, share in shares.items()
        if abs(counts.get(split, 0) / total - share) > 0.1
    ]
    if not far:
        return []
    message = f"The groups are too few or too large for the shares asked for: {', '.join(far)}."
    return [Finding("shares", "warn", message, "Nothing is wrong with the split itself; more groups would help.")]


def check_form(sizes: Mapping[tuple[int, int], int], converted: Mapping[str, int]) -> list[Finding]:
    """Sizes that differ, and conversions that were made."""
    found = []
    if len(sizes) > 1:
        (h, w), _ = max(sizes.items(), key=lambda pair: pair[1])
        message = f"The images have {len(sizes)} different sizes (most are {h}x{w}) and cannot be trained on together."
        found.append(Finding("sizes", "warn", message, "Prepare with a crop or a size."))
    how = {"alpha": "Transparent images laid over white", "grey": "Grey images made RGB (mode=grey keeps them)"}
    for kind, n in sorted(converted.items()):
        message = f"{how.get(kind, f'{kind} images converted to RGB')}: {n}."
        found.append(Finding("conversion", "warn", message, "Look at a few of them."))
    return found


def _shared(keys: Sequence[Hashable], values: Sequence[Hashable]) -> set[Hashable]:
    """The keys that occur with more than one value other than None."""
    first: dict[Hashable, Hashable] = {}
    pairs = ((key, value) for key, value in zip(keys, values, strict=True) if value is not None)
    return {key for key, value in pairs if first.setdefault(key, value) != value}
