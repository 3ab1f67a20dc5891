import numpy as np
import pytest
from scipy.spatial.distance import cosine
from sklearn.neighbors import NearestNeighbors

from roteq.errors import UsageError
from roteq.metrics import embeddings
from roteq.metrics.embeddings import cosine_distance, kernel_alignment, mutual_neighbours


def some(n: int = 60, d: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + 1


def test_cosine_distance_is_scipys() -> None:
    a, b = some(seed=1), some(seed=2)
    np.testing.assert_allclose(cosine_distance(a, b), [cosine(x, y) for x, y in zip(a, b, strict=True)])
    assert cosine_distance(np.zeros((1, 3)), np.ones((1, 3))).tolist() == [1.0]


@pytest.mark.parametrize("rows", [1 << 10, 7], ids=["whole", "in parts"])
def test_neighbours_are_scikit_learns(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "ROWS", rows)
    a, b = some(seed=1), some(seed=1) + 0.3 * some(seed=2)
    near = [
        NearestNeighbors(n_neighbors=11, metric="cosine").fit(x).kneighbors(x, return_distance=False)[:, 1:]
        for x in (a, b)
    ]
    expected = np.mean([len(set(p) & set(q)) / 10 for p, q in zip(*near, strict=True)])
    assert mutual_neighbours(a, b) == pytest.approx(expected)
    assert 0.3 < expected < 0.95


def test_neighbours_of_unrelated_embeddings_are_at_chance() -> None:
    found = mutual_neighbours(some(500, 20, 1) - 1, some(500, 20, 2) - 1)
    assert found == pytest.approx(10 / 499, abs=0.01)


@pytest.mark.parametrize("d", [7, 200], ids=["covariance", "Gram"])
def test_alignment_sees_neither_rotation_nor_scale_nor_shift(d: int) -> None:
    a = some(d=d)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(d, d)))
    assert kernel_alignment(a, 4 * a @ turn - 5) == pytest.approx(1)
    other = kernel_alignment(a, some(d=d, seed=9))
    assert other is not None and other < 0.9


def test_alignment_is_the_normalized_hsic() -> None:
    a, b = some(d=5, seed=1), some(d=80, seed=2)
    n = len(a)
    h = np.eye(n) - 1 / n
    k, m = h @ a @ a.T @ h, h @ b @ b.T @ h
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert kernel_alignment(a, b) == pytest.approx(expected) and kernel_alignment(b, a) == pytest.approx(expected)


def test_a_constant_is_aligned_with_nothing() -> None:
    assert kernel_alignment(np.ones((20, 3)), some(20, 3)) is None


def test_a_large_common_offset_is_no_constant() -> None:
    a, b = some(seed=1), some(seed=1) + some(seed=2)
    assert kernel_alignment(a + 1e4, b - 1e4) == pytest.approx(kernel_alignment(a, b), rel=1e-6)


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(N, D\) of the same images, got \(3, 2\) and \(4, 2\)"):
        cosine_distance(np.ones((3, 2)), np.ones((4, 2)))
