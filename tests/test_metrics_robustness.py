import numpy as np
import pytest

from roteq.metrics import between_image_error, flip_rate, relative_error
from roteq.metrics.robustness import centred, image_variation, interval_of_means, is_degenerate

LOGITS = np.random.default_rng(0).normal(size=(30, 3))
OTHER = np.random.default_rng(1).normal(size=(30, 3))


def test_the_variation_is_the_mean_over_every_roll() -> None:
    f = centred(LOGITS)
    rolls = [((np.roll(f, r, axis=0) - f) ** 2).sum(-1).mean() for r in range(1, len(f))]
    assert image_variation(LOGITS) == pytest.approx(np.sqrt(np.mean(rolls)))


def test_an_invariant_output_has_error_0_and_a_shuffled_one_about_1() -> None:
    assert between_image_error(LOGITS, LOGITS) == 0
    shuffled = [between_image_error(np.roll(LOGITS, r, axis=0), LOGITS) for r in range(1, 30)]
    assert np.sqrt(np.mean(np.square(shuffled))) == pytest.approx(1)


def test_the_order_of_the_images_does_not_matter() -> None:
    order = np.argsort(LOGITS[:, 0])
    assert between_image_error(OTHER[order], LOGITS[order]) == pytest.approx(between_image_error(OTHER, LOGITS))


def test_errors_do_not_see_what_softmax_does_not_see() -> None:
    shift = np.random.default_rng(2).normal(size=(30, 1)) * 100
    assert between_image_error(LOGITS + shift, LOGITS) == pytest.approx(0, abs=1e-12)
    assert relative_error(LOGITS + shift, LOGITS) == pytest.approx(0, abs=1e-12)
    assert is_degenerate(np.ones((30, 3)) * shift)


def test_the_relative_error_flatters_an_output_that_hardly_varies() -> None:
    offset = np.array([50.0, 0.0, -50.0])
    assert between_image_error(OTHER + offset, LOGITS + offset) == pytest.approx(between_image_error(OTHER, LOGITS))
    assert relative_error(OTHER + offset, LOGITS + offset) < 0.05 < 0.9 < relative_error(OTHER, LOGITS)


@pytest.mark.parametrize(
    ("logits", "degenerate"),
    [
        (np.zeros((5, 2)), True),
        (np.tile([3.0, -1.0], (5, 1)), True),
        (1e3 * np.array([[1.0, -1.0]]) + 1e-3 * LOGITS[:, :2], True),
        (1e-8 * LOGITS, True),
        (LOGITS, False),
        (LOGITS + np.array([50, 0, -50]), False),
        (1e-3 * LOGITS, False),
    ],
    ids=["zero", "constant", "float noise", "tiny", "varied", "offset", "small but varied"],
)
def test_degeneracy(logits: np.ndarray, degenerate: bool) -> None:
    assert is_degenerate(logits) is degenerate
    assert (between_image_error(logits + 1, logits) is None) is degenerate


def test_relative_error_of_nothing_is_undefined() -> None:
    assert relative_error(np.zeros((3, 2)), np.zeros((3, 2))) is None


def test_flip_rate_is_the_share_of_changed_decisions() -> None:
    assert flip_rate([[0, 1], [1, 0], [0, 2], [5, 4]], [[0, 1], [0, 1], [0, 1], [0, 1]]) == 0.5


def test_intervals_of_means_hold_the_mean_and_resample_groups_whole() -> None:
    values = np.repeat((OTHER.argmax(-1) != LOGITS.argmax(-1))[:, None], 20, axis=0)
    groups = np.repeat(np.arange(len(LOGITS)), 20)
    (alone,), (clustered,) = (interval_of_means(values, g, 200, 0.95, 0) for g in (None, groups))
    assert alone.value == clustered.value == flip_rate(OTHER, LOGITS)
    assert alone.low < alone.value < alone.high
    assert clustered.high - clustered.low > 3 * (alone.high - alone.low)


def test_the_mean_of_nothing_is_undefined() -> None:
    assert interval_of_means(np.full((5, 1), np.nan), None, 20, 0.95, 0)[0].value is None
