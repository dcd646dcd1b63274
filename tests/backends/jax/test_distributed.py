"""The losses over four devices are those of one, and send what they say and no more."""

import numpy as np
import pytest

from tests.backends.jax.process import report_of

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def report():
    return report_of("tests.backends.jax.four_devices")


EXCHANGES = ("ring", "gather")
SWEEPS = {"sigmoid_loss": 1, "softmax_contrastive_loss": 2}


@pytest.fixture(params=SWEEPS)
def loss(request):
    return request.param


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_value_and_gradients_are_those_of_one_device(report, loss, exchange):
    assert report["devices"] == 4
    found = report[loss][exchange]
    for kind in ("errors", "eager_errors", "explicit_errors"):
        assert len(found[kind]) == (5 if loss == "sigmoid_loss" else 4)
        assert max(found[kind]) <= 1e-6, found
    assert found["forward_error"] <= 1e-6


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_other_pairs_are_told_from_the_right_ones(report, loss, exchange):
    wrong = report[loss][exchange]["wrong"]  # Σ σ(z) - n, the gradient of the bias, is the same for any pairing
    assert min(wrong[:4]) > 1e-3


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_gradients_stay_where_the_embeddings_are(report, loss, exchange):
    assert all("data" in spread for spread in report[loss][exchange]["spread"])


def test_the_ring_passes_on_texts_and_what_is_added_up_for_them_and_gathers_nothing(report, loss):
    """Texts and sums in the body of a sweep's loop, texts before it and sums after it; one reduction of the scalars.

    Beside the texts of the softmax loss's second sweep their normalisers travel, and the first hop's texts are those of
    its first sweep, which is all that evaluation takes.
    """
    counted = {"collective-permute": 4, "all-gather": 0, "all-reduce": 1, "reduce-scatter": 0, "all-to-all": 0}
    if loss == "sigmoid_loss":
        assert report[loss]["ring"]["collectives"] == counted
        assert report[loss]["ring"]["forward_collectives"] == counted | {"collective-permute": 2}
    else:
        assert report[loss]["ring"]["collectives"] == counted | {"collective-permute": 4 + 5}
        assert report[loss]["ring"]["forward_collectives"] == counted


def test_the_gather_is_one_gather_and_one_scatter(report, loss):
    """The softmax loss exchanges normalisers, too: each device's of all texts, and then all devices' of their own."""
    counted = {"collective-permute": 0, "all-gather": 1, "all-reduce": 1, "reduce-scatter": 1, "all-to-all": 0}
    more = {} if loss == "sigmoid_loss" else {"all-to-all": 1}
    found = report[loss]["gather"]
    assert found["collectives"] == counted | more | ({"all-gather": 2} if more else {})
    assert found["forward_collectives"] == counted | more | {"reduce-scatter": 0}


def test_what_cannot_be_spread_is_refused(report):
    assert "130 images and 130 texts cannot be spread evenly over the 4 devices" in report["uneven"]
    assert "no axis 'batch': expected one of 'data'" in report["no axis"]
    assert "no mesh" in report["no mesh"]
    assert "gradients='mean' has no meaning on jax" in report["mean"]
    for loss in SWEEPS:
        assert f"{loss} has first derivatives only" in report[loss]["twice"]


def test_explicit_gradients_go_over_the_devices_that_keras_knows(report):
    found = report["data parallel"]
    assert max(found["errors"]) <= 1e-6
    assert max(found["softmax_errors"]) <= 1e-6
    assert found["devices"] == found["softmax_devices"] == 4
    assert max(found["part_errors"]) <= 1e-6


def test_fit_under_data_parallel_learns_as_on_one_device(report):
    np.testing.assert_allclose(report["fit"]["four"], report["fit"]["one"], rtol=1e-5)
    np.testing.assert_allclose(report["fit"]["reference"], report["fit"]["one"], rtol=1e-5)
    assert report["fit"]["one"][-1] < report["fit"]["one"][0]
