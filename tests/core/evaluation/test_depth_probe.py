"""Depth by a linear probe: its closed form, planted depths, unknown pixels, and errors by their definition."""

import numpy as np
import pytest

from diptych.core.evaluation.depth_probe import DepthProbe, depth_probe, depth_scores, patch_sums, ridge
from tests.core.evaluation.planted import depth_maps


def lstsq(rows, sums, counts, l2):
    """The same problem as plain least squares: a row a patch, weighed by the root of its pixels, and sqrt(l2) I
    below.
    """
    columns = rows.shape[1]
    share = np.sqrt(counts / counts.sum())[:, None]
    above = np.concatenate([rows, np.ones((len(rows), 1))], axis=1) * share
    below = np.sqrt(l2) * np.eye(columns, columns + 1)
    targets = np.concatenate([share[:, 0] * sums / counts, np.zeros(columns)])
    return np.linalg.lstsq(np.concatenate([above, below]), targets, rcond=None)[0]


def problem(patches: int, columns: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 17, patches)
    return rng.normal(size=(patches, columns)) + 2, rng.uniform(1, 9, patches) * counts, counts


def agrees(found, expected) -> bool:
    kernel, bias = found
    return bool(np.allclose(np.append(kernel[:, 0], bias), expected, rtol=1e-8, atol=1e-9))


@pytest.mark.parametrize("patches", [3, 40])
@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_the_solution_is_that_of_numpy(patches, l2):
    rows, sums, counts = problem(patches)
    assert agrees(ridge(rows, sums, counts, l2), lstsq(rows, sums, counts, l2))


@pytest.mark.parametrize("wrong", ["no weights", "l2", "sign", "bias shrunk"])
def test_a_wrong_solution_is_rejected(wrong):
    rows, sums, counts = problem(40)
    expected = lstsq(rows, sums, counts, 0.1)
    kernel, bias = ridge(rows, sums, counts, 0.1)
    others = {
        "no weights": ridge(rows, sums / counts, np.ones(40), 0.1),
        "l2": ridge(rows, sums, counts, 0.2),
        "sign": (-kernel, bias),
        "bias shrunk": (kernel, bias / 1.1),
    }
    assert agrees((kernel, bias), expected)
    assert not agrees(others[wrong], expected)


def test_planted_depths_are_recovered_and_noise_is_the_mean():
    train, test = depth_maps(30, noise=0.0, seed=0), depth_maps(20, noise=0.0, seed=1)
    result = depth_probe(*train, *test)
    # Between the centres the planes are exact; the half patch along the edges is constant.
    assert result["rmse"] < 0.12 < 0.6 < result["chance"]
    assert result["delta1"] == 1.0
    assert result["interval"][0] <= result["rmse"] <= result["interval"][1]
    rng = np.random.default_rng(2)
    noise = depth_probe(rng.normal(size=train[0].shape), train[1], rng.normal(size=test[0].shape), test[1])
    assert noise["rmse"] > 0.9 * noise["chance"]


def test_unknown_depths_neither_teach_nor_count():
    features, depths = depth_maps(10, noise=0.2, seed=0)
    spoiled, hidden = features.copy(), depths.copy()
    spoiled[5:] = 99.0
    hidden[5:] = 0.0
    hidden[5] = np.nan
    half, masked = DepthProbe.fit(features[:5], depths[:5]), DepthProbe.fit(spoiled, hidden)
    np.testing.assert_allclose(masked.linear.kernel, half.linear.kernel, rtol=1e-5)
    assert (masked.least, masked.most) == (half.least, half.most)
    predicted = half.predict(features, *depths.shape[1:])
    scores, few = depth_scores(predicted, hidden), depth_scores(predicted[:5], depths[:5])
    assert scores == few
    sums, counts = patch_sums(hidden, 6, 6)
    assert counts[5:].sum() == 0 == sums[5:].sum()
    np.testing.assert_allclose(sums[:5] / counts[:5], depths[:5].reshape(5, 6, 4, 6, 4).mean(axis=(2, 4)), rtol=1e-6)


def test_predictions_stay_in_the_range_that_was_seen():
    features, depths = depth_maps(10, noise=0.0, seed=0)
    probe = DepthProbe.fit(features, depths)
    wild = probe.predict(100 * features, 24, 24)
    assert wild.min() >= depths.min() > 0
    assert wild.max() <= depths.max()


def test_the_pooled_vector_is_set_behind_each_patch():
    features, depths = depth_maps(10, noise=0.5, seed=0)
    pooled = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    beside = np.concatenate([features, np.broadcast_to(pooled[:, None, None], (10, 6, 6, 3))], axis=-1)
    first, second = DepthProbe.fit(features, depths, pooled=pooled), DepthProbe.fit(beside, depths)
    np.testing.assert_array_equal(first.linear.kernel, second.linear.kernel)
    np.testing.assert_allclose(
        first.predict(features, 24, 24, pooled=pooled), second.predict(beside, 24, 24), rtol=1e-5
    )


def test_errors_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    depths = rng.uniform(1, 9, (6, 5, 7))
    predicted = depths * rng.uniform(0.6, 1.6, depths.shape)
    depths[0, :, 2:] = 0
    depths[1] = np.inf
    result = depth_scores(predicted, depths)
    known = np.isfinite(depths) & (depths > 0)
    error, ratio = predicted[known] - depths[known], predicted[known] / depths[known]
    assert result["pixels"] == known.sum()
    assert result["images"] == 5
    assert result["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert result["abs_rel"] == pytest.approx(np.mean(np.abs(error) / depths[known]))
    assert result["delta1"] == pytest.approx(np.mean((ratio < 1.25) & (ratio > 0.8)))
    own = [np.sqrt(np.mean((predicted - depths)[image][known[image]] ** 2)) for image in (0, 2, 3, 4, 5)]
    assert result["rmse_by_image"] == pytest.approx(np.mean(own))
    assert result["chance"] == pytest.approx(depths[known].std())
    perfect = depth_scores(np.where(known, depths, 1.0), depths)
    assert (perfect["rmse"], perfect["abs_rel"], perfect["delta1"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DepthProbe.fit(np.ones((1, 2, 2, 3)), np.zeros((1, 4, 4))), "no depth of 1 images is known"),
        (lambda: DepthProbe.fit(np.ones((1, 2, 2, 3)), np.ones((1, 4, 4)), l2=0.0), "l2 must be above 0"),
        (lambda: DepthProbe.fit(np.ones((1, 2, 2, 3)), np.ones((2, 4, 4))), "depths must be"),
        (lambda: depth_scores(np.ones((1, 2, 2)), np.ones((1, 4, 4))), "must both be"),
        (lambda: depth_scores(np.ones((1, 2, 2)), np.zeros((1, 2, 2))), "no depth of 1 images is known"),
        (lambda: depth_scores(np.zeros((1, 2, 2)), np.ones((1, 2, 2))), "finite and above 0"),
        (lambda: depth_scores(np.full((1, 2, 2), np.nan), np.ones((1, 2, 2))), "finite and above 0"),
    ],
)
def test_what_has_no_depth_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
