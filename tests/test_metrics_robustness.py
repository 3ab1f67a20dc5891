import numpy as np
import pytest

from roteq.errors import UsageError
from roteq.metrics import between_image_error, flip_rate, relative_error, turn_statistics
from roteq.metrics.robustness import centred, image_variation, is_degenerate

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


def test_turn_statistics_hold_errors_flips_and_accuracy() -> None:
    labels = LOGITS.argmax(-1)
    same, other = turn_statistics(LOGITS, np.stack([LOGITS, OTHER]), labels)
    assert (same["between_image_error"], same["flip_rate"].value, same["accuracy"].value) == (0, 0, 1)
    assert (same["flip_rate"].low, same["flip_rate"].high) == (0, 0)
    assert other["between_image_error"] == between_image_error(OTHER, LOGITS)
    assert other["relative_error"] == relative_error(OTHER, LOGITS)
    assert other["flip_rate"].value == flip_rate(OTHER, LOGITS) == pytest.approx(1 - other["accuracy"].value)
    assert other["flip_rate"].low < other["flip_rate"].value < other["flip_rate"].high


def test_without_labels_there_is_no_accuracy() -> None:
    assert turn_statistics(LOGITS, OTHER[None])[0]["accuracy"].value is None


def test_groups_are_resampled_whole() -> None:
    upright, turned = np.repeat(LOGITS, 20, axis=0), np.repeat(OTHER, 20, axis=0)[None]
    alone = turn_statistics(upright, turned)[0]["flip_rate"]
    clustered = turn_statistics(upright, turned, groups=np.repeat(np.arange(30), 20))[0]["flip_rate"]
    assert clustered.high - clustered.low > 3 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("upright", "turned", "message"),
    [
        (LOGITS, OTHER, "turned logits"),
        (LOGITS[:, :1], OTHER[None, :, :1], "K >= 2"),
        (LOGITS, OTHER[None, 1:], "turned"),
    ],
)
def test_wrong_shapes_are_named(upright: np.ndarray, turned: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        turn_statistics(upright, turned)
