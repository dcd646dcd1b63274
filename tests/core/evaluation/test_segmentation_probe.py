"""The linear probe of patches: its loss against a slow one, its minimum, planted classes, and noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.evaluation.segmentation_probe import (
    SegmentationProbe,
    class_counts,
    segmentation_probe,
    softmax_regression,
)
from diptych.core.evaluation.segmentation_scores import mean_iou
from tests.core.evaluation.planted import CLASSES, PIXELS, class_maps

NAMES = tuple("abcde")


def regression(seed: int = 0, patches: int = 30, columns: int = 4, classes: int = 3):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes), patches) * rng.integers(1, 17, (patches, 1))
    return rng.normal(size=((columns + 1) * classes)), rng.normal(size=(patches, columns)), shares / shares.sum()


def slow_loss(weights: np.ndarray, rows: np.ndarray, targets: np.ndarray, decay: float) -> float:
    """Patch by patch, class by class."""
    table = weights.reshape(-1, targets.shape[1])
    total = decay / 2 * sum(float(value) ** 2 for value in table[:-1].ravel())
    for row, target in zip(rows, targets, strict=True):
        exponentials = [np.exp(row @ table[:-1, c] + table[-1, c]) for c in range(len(target))]
        total -= sum(t * np.log(e / sum(exponentials)) for t, e in zip(target, exponentials, strict=True))
    return total


def assert_gradient(gradient: np.ndarray, weights, rows, targets, decay) -> None:
    step = 1e-6
    for place in range(len(weights)):
        moved = np.zeros_like(weights)
        moved[place] = step
        up, down = (slow_loss(weights + sign * moved, rows, targets, decay) for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_loss_and_its_gradient_are_those_of_the_definition(decay):
    weights, rows, targets = regression()
    value, gradient = softmax_regression(weights, rows, targets, decay)
    assert value == pytest.approx(slow_loss(weights, rows, targets, decay), rel=1e-12)
    assert_gradient(gradient, weights, rows, targets, decay)


@pytest.mark.parametrize("wrong", ["zeros", "sign", "bias decays", "no decay"])
def test_a_wrong_gradient_is_rejected(wrong):
    weights, rows, targets = regression()
    gradient = softmax_regression(weights, rows, targets, 0.3)[1]
    bias = np.zeros_like(gradient)
    bias[-3:] = 0.3 * weights[-3:]
    others = {
        "zeros": 0 * gradient,
        "sign": -gradient,
        "bias decays": gradient + bias,
        "no decay": softmax_regression(weights, rows, targets, 0.0)[1],
    }
    with pytest.raises(AssertionError):
        assert_gradient(others[wrong], weights, rows, targets, 0.3)


def test_chunks_of_patches_add_up(monkeypatch):
    weights, rows, targets = regression(patches=101)
    whole = softmax_regression(weights, rows, targets, 0.1)
    monkeypatch.setattr("diptych.core.evaluation.segmentation_probe.CHUNK_ELEMENTS", 8 * 4 * 10)
    parts = softmax_regression(weights, rows, targets, 0.1)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-9, atol=1e-12)


def test_logits_beyond_the_range_of_exp_are_no_trouble():
    weights, rows, targets = regression()
    value, gradient = softmax_regression(1e5 * weights, rows.astype(np.float32), targets.astype(np.float32), 0.1)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_probe_is_where_the_loss_is_least():
    """Seen from the plain features: the gradient of the loss, with the decay of standardised weights, vanishes
    there.
    """
    features, labels = class_maps(12, noise=2.0, seed=0)
    features = features * np.linspace(0.1, 20, 24, dtype=np.float32) + 3
    probe = SegmentationProbe.fit(features, labels, CLASSES, weight_decay=0.01)
    assert probe.converged
    rows = features.reshape(-1, 24).astype(np.float64)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    kernel, bias = probe.linear.kernel * deviation[:, None], probe.linear.bias + mean @ probe.linear.kernel
    counts = class_counts(labels, 8, 8, CLASSES).reshape(-1, CLASSES)
    weights = np.concatenate([kernel, bias[None]]).ravel()
    value, gradient = softmax_regression(weights, (rows - mean) / deviation, counts / counts.sum(), 0.01)
    assert value == pytest.approx(probe.loss, rel=1e-5)
    assert np.abs(gradient).max() < 1e-4
    assert (
        np.abs(softmax_regression(0 * weights, (rows - mean) / deviation, counts / counts.sum(), 0.01)[1]).max() > 0.05
    )


def test_planted_classes_are_recovered_and_noise_is_not():
    train, test = class_maps(60, noise=0.3, seed=0, side=16), class_maps(40, noise=0.3, seed=1, side=16)
    result, _ = segmentation_probe(*train, *test, NAMES)
    # The logits are interpolated, so that a border between blocks may be off by a pixel.
    assert result["mean_iou"] > 0.95
    assert result["interval"][0] <= result["mean_iou"] <= result["interval"][1]
    assert result["patches"] == [16, 16]
    rng = np.random.default_rng(2)
    noise, _ = segmentation_probe(
        rng.normal(size=train[0].shape), train[1], rng.normal(size=test[0].shape), test[1], NAMES
    )
    assert noise["mean_iou"] < 0.2, "a fifth of the pixels right by chance is an IoU of a ninth"


def test_the_answer_at_a_patch_centre_is_that_of_its_own_logits():
    features, labels = class_maps(4, noise=0.5, seed=0)
    probe = SegmentationProbe.fit(features, labels, CLASSES)
    odd = probe.predict(features, 8 * 5, 8 * 5)  # sides of five pixels have one in the middle
    np.testing.assert_array_equal(odd[:, 2::5, 2::5], probe.linear(features, None).argmax(axis=-1))


def test_ignored_pixels_teach_nothing():
    features, labels = class_maps(20, noise=0.3, seed=0)
    spoiled, hidden = features.copy(), labels.copy()
    spoiled[10:] = np.random.default_rng(0).normal(size=spoiled[10:].shape) * 50
    hidden[10:] = IGNORE
    half, masked = (
        SegmentationProbe.fit(features[:10], labels[:10], CLASSES),
        SegmentationProbe.fit(spoiled, hidden, CLASSES),
    )
    np.testing.assert_allclose(masked.linear.kernel, half.linear.kernel, rtol=1e-4, atol=1e-5)


def test_the_pooled_vector_tells_images_apart():
    """Patches that say nothing of their own: the class is that of the image, and only the pooled vector knows it."""
    rng = np.random.default_rng(0)
    of_image = np.arange(40) % CLASSES
    features, pooled = rng.normal(size=(40, 4, 4, 6)), np.eye(CLASSES)[of_image]
    labels = np.broadcast_to(of_image[:, None, None], (40, 8, 8)).astype(np.uint8)
    without, _ = segmentation_probe(features[:20], labels[:20], features[20:], labels[20:], NAMES)
    joined, _ = segmentation_probe(
        features[:20], labels[:20], features[20:], labels[20:], NAMES, train_pooled=pooled[:20], pooled=pooled[20:]
    )
    assert joined["mean_iou"] == 1.0
    assert joined["pooled"]
    assert without["mean_iou"] < 0.5
    beside = np.concatenate([features, np.broadcast_to(pooled[:, None, None], (40, 4, 4, CLASSES))], axis=-1)
    apart = SegmentationProbe.fit(features, labels, CLASSES, pooled=pooled)
    np.testing.assert_array_equal(apart.linear.kernel, SegmentationProbe.fit(beside, labels, CLASSES).linear.kernel)


def test_fewer_patches_are_drawn_by_the_seed_and_still_teach():
    train, test = class_maps(60, noise=0.3, seed=0), class_maps(20, noise=0.3, seed=1)
    fits = [SegmentationProbe.fit(*train, CLASSES, most_patches=400, seed=seed).linear.kernel for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])
    few = SegmentationProbe.fit(*train, CLASSES, most_patches=400)
    assert mean_iou(few.predict(test[0], 8 * PIXELS, 8 * PIXELS), test[1], CLASSES)[0] > 0.85


def test_half_precision_on_disk_is_read_as_it_is(tmp_path):
    features, labels = class_maps(6, noise=0.3, seed=0)
    np.save(tmp_path / "features.npy", features.astype(np.float16))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    there = SegmentationProbe.fit(mapped, labels, CLASSES)
    here = SegmentationProbe.fit(features.astype(np.float16).astype(np.float32), labels, CLASSES)
    np.testing.assert_array_equal(there.linear.kernel, here.linear.kernel)
    np.testing.assert_array_equal(there.predict(mapped, 32, 32), here.predict(mapped, 32, 32))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 6), st.integers(0, 6), st.integers(0, 1000))
def test_classes_are_counted_where_the_centres_of_pixels_lie(rows, columns, more_rows, more_columns, seed):
    height, width = rows + more_rows, columns + more_columns
    labels = np.random.default_rng(seed).choice([0, 1, 2, IGNORE], (2, height, width)).astype(np.uint8)
    expected = np.zeros((2, rows, columns, 3), int)
    for image, y, x in np.ndindex(labels.shape):
        if labels[image, y, x] != IGNORE:
            down, along = (2 * y + 1) * rows // (2 * height), (2 * x + 1) * columns // (2 * width)
            expected[image, down, along, labels[image, y, x]] += 1
    np.testing.assert_array_equal(class_counts(labels, rows, columns, 3), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": np.ones((2, 3, 4))}, "images, rows, columns, width"),
        ({"features": np.full((2, 2, 2, 3), np.nan)}, "not finite"),
        ({"labels": np.zeros((3, 8, 8), np.uint8)}, "labels must be .* with 2 images"),
        ({"labels": np.zeros((2, 1, 8), np.uint8)}, "smaller than the 2 x 2 patches"),
        ({"labels": np.full((2, 8, 8), 9, np.uint8)}, "labels must be 0 to 2"),
        ({"labels": np.full((2, 8, 8), IGNORE, np.uint8)}, "no pixel of 2 images counts"),
        ({"pooled": np.ones((3, 2))}, "pooled must be"),
        ({"weight_decay": 0.0}, "weight_decay must be above 0"),
        ({"most_patches": 0}, "at least one patch"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, words):
    arguments = {"features": np.ones((2, 2, 2, 3)), "labels": np.zeros((2, 8, 8), np.uint8), "classes": 3} | change
    with pytest.raises(ValueError, match=words):
        SegmentationProbe.fit(**arguments)


def test_features_of_another_width_are_refused():
    features, labels = class_maps(2, noise=0.3, seed=0)
    probe = SegmentationProbe.fit(features, labels, CLASSES)
    with pytest.raises(ValueError, match="fitted to 24 features a patch, got 26"):
        probe.predict(features, 32, 32, pooled=np.ones((2, 2)))
