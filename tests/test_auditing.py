from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from auditing import QUICK, GroupMean, make_cnn, radial, smooth_images
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score
from torch import nn

import roteq
from roteq.auditing import AuditConfig, assert_rotation_robust, audit_subjects, broken_limits
from roteq.auditing.loading import as_subject
from roteq.auditing.rows import Moments
from roteq.auditing.statistics import is_degenerate
from roteq.errors import RoteqError, UsageError
from roteq.files import load_json, save_json
from roteq.metrics.robustness import between_image_error
from roteq.results import AuditResult

EXACT = AuditConfig(angles=4, images=0, bootstrap=20)
LABELS = np.arange(40) % 3


def audit(model: Any, images: Any, labels: Any = None, **options: Any) -> AuditResult:
    options = {"normalize": "raw", "config": QUICK, "details": False} | options
    return roteq.audit(model, images, labels, **options)


def guards(result: AuditResult, level: str = "stop") -> set[str]:
    return {finding.guard for finding in result.findings if finding.level == level}


# Invariance


def test_an_invariant_function_has_no_exact_error_and_never_flips() -> None:
    result = audit(GroupMean(make_cnn()), smooth_images(), LABELS, size=24)
    assert not result.degenerate and result.exact is not None
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert result.mirror_error is not None and result.mirror_error < 1e-5
    assert result.exact_flip_rate == 0 and result.exact.flip_rate.value == 0 and result.exact.changes == ()
    assert result.exact.worst_accuracy.value == result.exact.upright_accuracy.value
    assert result.interpolated_error is not None and result.interpolated_error > 0.05


def test_mirrors_do_not_spoil_the_exact_error_of_a_rotation_group() -> None:
    result = audit(GroupMean(make_cnn(), mirrors=False), smooth_images(), size=24)
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert result.mirror_error is not None and result.mirror_error > 0.05


def test_a_plain_cnn_is_not_invariant() -> None:
    result = audit(make_cnn(), smooth_images(), size=24)
    for error in (result.exact_error, result.mirror_error, result.interpolated_error):
        assert error is not None and error > 0.3
    assert result.exact is not None and result.exact.flip_rate.value is not None and result.exact.flip_rate.value > 0.3
    assert result.upright_accuracy is None and result.turns[0].accuracy.value is None


@pytest.mark.parametrize("size", [32, 64], ids=["cropped", "masked"])
def test_a_radial_function_is_at_the_floor_of_resampling(size: int) -> None:
    result = audit(radial, smooth_images(size=64), size=size)
    assert not result.degenerate
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert result.interpolated_error is not None and result.interpolated_error < 0.02
    assert result.interpolated_floor is not None and 0 < result.interpolated_floor < 0.02


# Every number against a computation of its own


def test_every_number_of_the_exact_turns() -> None:
    images, net = smooth_images(30, channels=3, size=24), make_cnn(3)
    labels = np.arange(30) % 3
    result = audit(net, images, labels, config=EXACT)
    x = torch.from_numpy(images).float()
    looks = [x, *(x.rot90(q, (2, 3)) for q in (1, 2, 3)), *(x.flip(3).rot90(q, (2, 3)) for q in range(4))]
    with torch.no_grad():
        logits = [net(look).double().numpy() for look in looks]
    p = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in logits]
    decisions = np.stack([z.argmax(1) for z in logits])
    right = decisions == labels
    assert result.exact is not None
    assert result.exact.flip_rate.value == (decisions[1:] != decisions[0]).any(0).mean()
    assert result.exact.mean_accuracy.value == pytest.approx(right.mean())
    assert result.exact.worst_accuracy.value == right.all(0).mean()
    assert result.exact.stable_wrong.value == ((decisions == decisions[0]).all(0) & ~right[0]).mean()
    chosen = np.stack([q[np.arange(30), decisions[0]] for q in p])
    assert result.exact.spread.value == pytest.approx((chosen.max(0) - chosen.min(0)).mean(), rel=1e-5)
    assert result.majority_rate == pytest.approx(1 / 3)
    for i, turn in enumerate(result.turns, 1):
        assert turn.between_image_error == pytest.approx(between_image_error(logits[i], logits[0]), rel=1e-4)
        assert turn.flip_rate.value == (decisions[i] != decisions[0]).mean()
        assert turn.accuracy.value == right[i].mean()
        expected = np.mean(jensenshannon(p[0], p[i], axis=1) ** 2)
        assert turn.divergence == pytest.approx(expected, rel=1e-4)
        assert turn.auc == pytest.approx(roc_auc_score(labels, p[i], multi_class="ovr"), rel=1e-4)
        assert np.array(turn.confusion).sum() == 30
        assert np.trace(turn.confusion) == right[i].sum()
    counted: dict[tuple[str, str], int] = {}
    for after in decisions[1:]:
        for a, b in zip(decisions[0], after, strict=True):
            if a != b:
                counted[f"class {a}", f"class {b}"] = counted.get((f"class {a}", f"class {b}"), 0) + 1
    assert {(c.before, c.after): c.count for c in result.exact.changes} == counted
    averaged = {one.group: one for one in result.averaged}
    mean = np.mean(p, axis=0)
    assert averaged["D4"].accuracy.value == (mean.argmax(1) == labels).mean() and averaged["D4"].passes == 8
    assert averaged["C4"].auc == pytest.approx(roc_auc_score(labels, np.mean(p[:4], axis=0), multi_class="ovr"))
    for k, one in enumerate(result.per_class):
        assert one.accuracy == right[0][labels == k].mean() and one.images == 10
        assert one.exact_flip_rate == (decisions[1:] != decisions[0]).any(0)[labels == k].mean()


def test_interpolated_numbers_are_against_the_masked_upright_picture() -> None:
    images, net = smooth_images(20, size=24), make_cnn()
    result = audit(net, images, config=AuditConfig(angles=(30,), images=0, bootstrap=0))
    from roteq.auditing.turning import Turning

    patches = torch.from_numpy(images)
    work = Turning((24, 24), (24, 24), AuditConfig(angles=(30,)), torch.device("cpu"), False)
    upright = work.upright(patches)
    (_, look, back), *_ = work.looks(patches, upright)
    with torch.no_grad():
        reference, turned, returned = (net(x) for x in (work.reference(upright), look, back))
    (turn,) = [turn for turn in result.turns if not turn.exact]
    assert work.masked and turn.angle == 30
    assert turn.between_image_error == pytest.approx(between_image_error(turned, reference), rel=1e-4)
    assert turn.floor == pytest.approx(between_image_error(returned, reference), rel=1e-3)
    assert turn.floors["flip_rate"] == (returned.argmax(1) != reference.argmax(1)).double().mean()


def test_averaging_over_quarter_turns_removes_their_part_of_the_flips() -> None:
    images, net = smooth_images(40, size=40), make_cnn()
    result = audit(net, images, size=24, config=AuditConfig(angles=8, images=0, bootstrap=0))
    own = audit(roteq.Symmetrized(net, "p4"), images, size=24, config=AuditConfig(angles=8, images=0, bootstrap=0))
    (c4,) = [one for one in result.averaged if one.group == "C4"]
    assert own.interpolated is not None
    assert c4.interpolated_flip_rate.value == own.interpolated.flip_rate.value


def test_independent_labels() -> None:
    images, net = smooth_images(30, size=24), make_cnn()
    labels = np.random.default_rng(0).integers(0, 2, (30, 3))
    result = audit(net, images, labels, kind="labels", config=EXACT)
    x = torch.from_numpy(images).float()
    with torch.no_grad():
        upright, turned = ((net(look) > 0).numpy() for look in (x, x.rot90(1, (2, 3))))
        scores = net(x).sigmoid().numpy()
    assert result.turns[0].flip_rate.value == (upright != turned).any(1).mean()
    assert result.exact is not None and result.exact.upright_accuracy.value == (upright == labels).all(1).mean()
    assert result.upright["auc"] == pytest.approx(roc_auc_score(labels, scores))
    with torch.no_grad():
        looks = [x.rot90(q, (2, 3)) for q in range(4)] + [x.flip(3).rot90(q, (2, 3)) for q in range(4)]
        said = np.stack([np.where(upright, p, 1 - p).mean(1) for p in (net(look).sigmoid().numpy() for look in looks)])
    assert result.exact.spread.value == pytest.approx((said.max(0) - said.min(0)).mean(), rel=1e-4)


def test_embeddings_have_distances_and_neighbours_but_no_decisions() -> None:
    net = make_cnn()[:-1]
    result = audit(net, smooth_images(), size=24, kind="embedding")
    turn = result.turns[0]
    x = torch.from_numpy(smooth_images()[:, :, 12:36, 12:36]).float()
    with torch.no_grad():
        expected = 1 - torch.cosine_similarity(net(x.rot90(1, (2, 3))), net(x)).mean()
    assert turn.cosine_distance == pytest.approx(float(expected), rel=1e-3)
    assert turn.neighbours is not None and turn.neighbours < 0.9 and turn.alignment is not None
    assert turn.flip_rate.value is None and result.distances["exact"].value is not None
    same = audit(GroupMean(net), smooth_images(), size=24, kind="embedding").turns[0]
    assert same.cosine_distance == pytest.approx(0, abs=1e-6)
    assert same.neighbours == pytest.approx(1, abs=0.02) and same.alignment == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [32, 48], ids=["cropped", "masked"])
def test_maps_are_turned_back(size: int) -> None:
    axis = torch.arange(9) - 4.0
    window = torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / 8)
    bank = torch.stack([window / window.sum(), -window / window.sum()])[:, None]

    def blur(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(nn.functional.pad(x - 127, [4] * 4, mode="reflect"), bank)

    steep = nn.Sequential(nn.Conv2d(1, 2, 5, padding=2)).eval()
    smooth = smooth_images(20, sigma=3)
    invariant, plain = (audit(f, smooth, size=size) for f in (blur, steep))
    assert invariant.kind == "map" and not invariant.degenerate
    assert invariant.exact_error is not None and invariant.exact_error < 1e-5
    assert plain.exact_error is not None and plain.exact_error > 0.2
    assert invariant.interpolated_error is not None and invariant.interpolated_error < 0.2
    assert plain.interpolated_error is not None and plain.interpolated_error > 2 * invariant.interpolated_error
    assert invariant.turns[0].flip_rate.value == 0 and plain.turns[0].flip_rate.value is not None


# What must not pass


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6], ids=["exact", "float noise", "1e-6 noise"])
def test_a_constant_is_degenerate_and_never_passes(noise: float) -> None:
    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 3.0]) + noise * x[:, 0, :2, 0]

    result = audit(predict, smooth_images(), np.ones(40, int), size=24)
    assert result.degenerate and "degenerate output" in guards(result)
    assert result.exact_error is None and result.interpolated_error is None and result.interpolated_floor is None
    assert all(turn.between_image_error is None and turn.floor is None for turn in result.turns)
    assert result.exact_flip_rate == 0
    assert "degenerate" in broken_limits(result, max_flip_rate=1.0)[0]


def test_a_model_that_answers_by_chance_is_found() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x.flatten(1)[:, :3], 0.5, training=True)

    result = audit(Noisy(), smooth_images(), size=24)
    assert "stochastic" in guards(result)


def test_one_decision_for_all_images_is_no_robustness() -> None:
    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)

    assert "one decision" in guards(audit(predict, smooth_images(), size=24))
    assert "one decision" in guards(audit(predict, smooth_images(), LABELS % 2, size=24))
    lesser = audit(predict, smooth_images(), np.zeros(40, int), size=24)
    assert "one decision" in guards(lesser, "warn") and "one decision" not in guards(lesser)


def test_labels_in_another_order_are_noticed() -> None:
    images, net = smooth_images(60, size=24), make_cnn()
    with torch.no_grad():
        said = net(torch.from_numpy(images).float()).argmax(1).numpy()
    assert "labels" in guards(audit(net, images, (said + 1) % 3), "warn")
    assert "labels" not in guards(audit(net, images, said), "warn")


def test_controls_are_run_and_pass() -> None:
    result = audit(make_cnn(), smooth_images(), size=24, config=EXACT, details=True)
    assert [control.passed for control in result.controls] == [True, True]
    assert result.controls[0].found == "degenerate"
    assert float(result.controls[1].found) < 1e-4


def test_a_model_that_looks_for_a_direction_passes_the_controls() -> None:
    """Its average over the group is a constant, and a constant is no proof of a fault."""

    def predict(x: torch.Tensor) -> torch.Tensor:
        more = x[..., :12].mean((1, 2, 3)) - x[..., 12:].mean((1, 2, 3))
        return torch.stack([more, -more], 1)

    result = audit(predict, smooth_images(), size=24, config=EXACT, details=True)
    assert guards(result) == set()
    assert "hardly varies" in result.controls[1].found and result.controls[1].passed


def test_a_model_with_a_state_fails_the_control() -> None:
    calls = 0

    def predict(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x.flatten(1)[:, :3] * (1 + calls)

    result = audit(predict, smooth_images(), size=24, config=EXACT, details=True)
    assert guards(result) >= {"control failed", "stochastic"}


def test_a_model_that_looks_at_its_neighbours_in_the_batch_is_found() -> None:
    def predict(x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(1)[:, :3]
        return y - y.mean(0)

    assert "stochastic" in guards(audit(predict, smooth_images(), size=24))


# Details


def test_examples_are_those_that_change_most_and_those_that_are_stably_wrong() -> None:
    images, net = smooth_images(60, size=24), make_cnn()
    with torch.no_grad():
        said = net(torch.from_numpy(images).float()).argmax(1).numpy()
    result = audit(net, images, (said + 1) % 3, config=EXACT, details=True)
    most = [e for e in result.examples if e.why == "changes most"]
    stable = audit(GroupMean(net), images, (said + 1) % 3, config=EXACT, details=True)
    wrong = [e for e in stable.examples if e.why == "stable and wrong"]
    assert len(most) == len(wrong) == 6 and all(e.flips == 0 for e in wrong)
    assert {e.why for e in stable.examples} == {"stable and wrong"}
    assert [e.flips for e in most] == sorted((e.flips for e in most), reverse=True)
    first = most[0]
    assert len(first.looks) == 8 and first.looks[0].angle == 0
    assert sum(look.decision != first.looks[0].decision for look in first.looks) == first.flips
    assert first.truth in ("class 0", "class 1", "class 2")


def test_several_models_are_compared_on_the_same_images() -> None:
    images, net = smooth_images(40, size=24), make_cnn()
    subjects = [as_subject(m, name=n, normalize="raw") for m, n in ((net, "plain"), (GroupMean(net), "mean"))]
    found = audit_subjects(subjects, images, EXACT, details=False, labels=LABELS)
    assert [a.label for a in found.audits] == ["plain", "mean"]
    (difference,) = found.differences
    plain, mean = (a.exact for a in found.audits)
    assert plain is not None and mean is not None
    assert difference.exact_flip_rate.value == pytest.approx((plain.flip_rate.value or 0) - (mean.flip_rate.value or 0))
    assert difference.exact_flip_rate.low is not None and difference.exact_flip_rate.low > 0
    assert difference.accuracy.value == pytest.approx(
        (plain.upright_accuracy.value or 0) - (mean.upright_accuracy.value or 0)
    )


def test_images_are_drawn_once_for_a_seed_and_groups_widen_the_interval() -> None:
    images, config = smooth_images(60), AuditConfig(angles=4, images=50, bootstrap=200)
    labels = np.arange(60) // 20
    groups = [f"slide {i // 20}" for i in range(60)]
    model = make_cnn()
    alone, again = (replace(audit(model, images, labels, size=24, config=config), seconds=0.0) for _ in range(2))
    clustered = audit(model, images, labels, size=24, config=config, groups=groups)
    assert alone == again and alone.images == 50
    other = audit(model, images, labels, size=24, config=AuditConfig(angles=4, images=50, bootstrap=0, seed=1))
    assert other.exact_error != alone.exact_error
    assert clustered.turns[0].accuracy.value == alone.turns[0].accuracy.value
    assert clustered.turns[0].accuracy != alone.turns[0].accuracy
    assert other.turns[0].accuracy.low is None


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images, model = torch.from_numpy(smooth_images(21, channels=3)), make_cnn(channels=3)
    whole = audit(model, images, size=24)
    monkeypatch.setattr("roteq.auditing.looking.MOST", {"cpu": 8})
    parts = audit(model, images, size=24, progress=True)
    assert parts.exact_error == pytest.approx(whole.exact_error, rel=1e-4)
    assert parts.interpolated_floor == pytest.approx(whole.interpolated_floor, rel=1e-4)


def test_memory_that_runs_out_halves_the_batch() -> None:
    net, most = make_cnn(), 0

    def predict(x: torch.Tensor) -> torch.Tensor:
        nonlocal most
        if len(x) > 10:
            raise torch.OutOfMemoryError("full")
        most = max(most, len(x))
        return net(x)

    found = audit(predict, smooth_images(), size=24, config=EXACT)
    whole = audit(net, smooth_images(), size=24, config=EXACT)
    assert most == 8 and found.exact_error == pytest.approx(whole.exact_error, rel=1e-4)


def test_a_module_is_asked_in_evaluation_mode_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.9), make_cnn()).train()
    result = audit(GroupMean(model).train(), smooth_images(), size=24)
    assert result.exact_error is not None and result.exact_error < 1e-5
    assert model.training


def test_probabilities_are_judged_by_their_logarithm() -> None:
    net = make_cnn()
    logits, probabilities = (
        audit(f, smooth_images(), LABELS, size=24, config=EXACT) for f in (net, nn.Sequential(net, nn.Softmax(1)))
    )
    assert probabilities.exact_error == pytest.approx(logits.exact_error, rel=1e-3)
    assert probabilities.turns[0].divergence == pytest.approx(logits.turns[0].divergence, rel=1e-3)


def test_moments_equal_the_pairwise_distance() -> None:
    x = torch.randn(37, 5, generator=torch.Generator().manual_seed(0)) + 100
    moments = Moments()
    for part in x.split(8):
        moments.add(part)
    assert moments.variation == pytest.approx(float(torch.pdist(x.double()).square().mean().sqrt()), rel=1e-9)
    assert moments.size == pytest.approx(float(x.double().square().sum(1).mean().sqrt()), rel=1e-9)
    assert not is_degenerate(moments)


def test_result_survives_json(tmp_path: Path) -> None:
    result = audit(make_cnn(), smooth_images(), LABELS, size=24, details=True)
    save_json(result, tmp_path / "audit.json")
    assert load_json(AuditResult, tmp_path / "audit.json") == result


# Wrong calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 1, 8, 8), np.uint8)}, "at least two"),
        ({"size": 9}, "8x8"),
        ({"normalize": None}, "normalize: .* give raw"),
        ({"labels": [0, 1]}, "5 images"),
        ({"labels": [0, 1, 2, 3, 4]}, "labels"),
        ({"groups": ["a"]}, "5 images"),
        ({"model": lambda x: x[:, 0, 0, 0].long()}, "expected a score for every class"),
    ],
)
def test_wrong_calls_are_named(change: dict, message: str) -> None:
    call = {"model": lambda x: x[:, 0, :2, 0], "images": smooth_images(5, size=8), "config": EXACT, **change}
    with pytest.raises(UsageError, match=message):
        audit(**call)


def test_a_model_without_finite_output_is_refused() -> None:
    with pytest.raises(RoteqError, match="NaN or infinity"):
        audit(lambda x: x[:, 0, :2, 0] / 0, smooth_images(5, size=8))


def test_oblong_pictures_keep_half_turns_and_mirrors() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(24 * 16, 3)).eval()
    result = audit(net, smooth_images(size=24)[:, :, :16], details=True)
    assert [(turn.angle, turn.mirror) for turn in result.turns] == [(180, False), (0, True), (180, True)]
    assert "oblong input" in guards(result, "warn") and "do not exist" in result.method
    assert [control.passed for control in result.controls] == [True, True]


# Limits


def test_limits_are_judged_for_exact_turns_and_other_angles_apart() -> None:
    result = audit(GroupMean(make_cnn()), smooth_images(), LABELS, size=24)
    assert broken_limits(result) == [] and broken_limits(result, max_flip_rate=1, max_error=9) == []
    (flips,) = broken_limits(result, max_flip_rate=0.0)
    assert "other angle" in flips and "floor" in flips
    (error,) = broken_limits(result, max_error=1e-4)
    assert "degrees" in error
    assert len(broken_limits(result, min_worst_accuracy=1.0)) == 2
    with pytest.raises(UsageError, match="accuracy needs labels"):
        broken_limits(audit(make_cnn(), smooth_images(), size=24), min_worst_accuracy=0.5)
    with pytest.raises(UsageError, match="embeddings have no decisions"):
        broken_limits(audit(make_cnn()[:-1], smooth_images(), size=24, kind="embedding"), max_flip_rate=0.5)


def test_assert_rotation_robust() -> None:
    options: dict[str, Any] = {"size": 24, "normalize": "raw"}
    result = assert_rotation_robust(GroupMean(make_cnn()), smooth_images(), **options)
    assert result.interpolated is None
    with pytest.raises(AssertionError, match=r"of the images change their decision at some exact turn, more than 1.0%"):
        assert_rotation_robust(make_cnn(), smooth_images(), **options)
    with pytest.raises(AssertionError, match="degenerate output"):
        assert_rotation_robust(lambda x: x.new_zeros(len(x), 2), smooth_images(), max_flip_rate=1.0, **options)
