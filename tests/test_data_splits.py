"""Laws of the splits, on any groups, duplicates and shares."""

import random
from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from roteq.data.splits import SPLITS, assign, joined

shares_of = st.sampled_from(
    [(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33)]
)
images = st.lists(
    st.tuples(st.integers(0, 2), st.none() | st.integers(0, 6), st.integers(0, 60)), min_size=1, max_size=60
)


def split(table: list[tuple], shares: tuple[float, ...], seed: int) -> dict[str, str]:
    """(id, label, group, content) rows -> id: split."""
    ids, labels, groups, contents = (list(column) for column in zip(*table, strict=True))
    parts = joined(ids, groups, contents)
    return dict(zip(ids, assign(ids, labels, parts, dict(zip(SPLITS, shares, strict=True)), seed), strict=True))


def named(rows: list[tuple]) -> list[tuple]:
    return [(f"i{n:03d}", *row) for n, row in enumerate(rows)]


@given(images, shares_of, st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_image_is_placed_once_and_no_group_or_picture_is_divided(rows, shares, seed) -> None:
    table = named(rows)
    placed = split(table, shares, seed)
    assert placed.keys() == {row[0] for row in table}
    assert set(placed.values()) <= {name for name, share in zip(SPLITS, shares, strict=True) if share > 0}
    homes = defaultdict(set)
    for key, _, group, content in table:
        homes["content", content].add(placed[key])
        if group is not None:
            homes["group", group].add(placed[key])
    assert all(len(where) == 1 for where in homes.values())


@given(images, shares_of, st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_split_depends_on_the_seed_and_not_on_the_order(rows, shares, seed, rng: random.Random) -> None:
    table = named(rows)
    first = split(table, shares, seed)
    rng.shuffle(table)
    assert split(table, shares, seed) == first


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_single_images_are_stratified_to_within_one_image(labels, seed) -> None:
    shares = (0.7, 0.15, 0.15)
    placed = split([(f"i{n:03d}", label, None, n) for n, label in enumerate(labels)], shares, seed)
    total = Counter(labels)
    have = Counter((label, placed[f"i{n:03d}"]) for n, label in enumerate(labels))
    for label, n in total.items():
        for name, share in zip(SPLITS, shares, strict=True):
            assert abs(have[label, name] - share * n) <= 1.5
            assert have[label, name] >= 1 or n < 3


def test_another_seed_gives_another_split() -> None:
    table = [(f"i{n:03d}", n % 2, n // 5, n) for n in range(100)]
    assert len({tuple(split(table, (0.7, 0.15, 0.15), seed).items()) for seed in range(5)}) == 5


def test_shares_are_met_by_equal_groups() -> None:
    table = [(f"i{n:03d}", n % 2, n // 10, n) for n in range(200)]
    assert Counter(split(table, (0.7, 0.15, 0.15), 0).values()) == {"train": 140, "validation": 30, "test": 30}


def test_a_rare_class_reaches_every_split_that_it_can() -> None:
    """Three groups of 20 hold the only positives: greedy placing alone leaves a split without."""
    table = [(f"i{n:03d}", int(n // 20 < 3), n // 20, n) for n in range(400)]
    for seed in range(10):
        placed = split(table, (0.7, 0.15, 0.15), seed)
        assert {placed[row[0]] for row in table if row[1] == 1} == set(SPLITS)


def test_duplicates_join_over_groups() -> None:
    parts = joined(["a", "b", "c", "d", "e"], ["s1", "s1", "s2", "s2", "s3"], [0, 1, 1, 2, 3])
    assert parts == [[0, 1, 2, 3], [4]]


def test_a_class_with_one_image_stays_in_the_largest_split() -> None:
    table = [(f"i{n:03d}", int(n == 7), None, n) for n in range(30)]
    assert {split(table, (0.7, 0.15, 0.15), seed)["i007"] for seed in range(5)} == {"train"}
