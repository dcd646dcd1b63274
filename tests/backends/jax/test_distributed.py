"""The sigmoid loss over four devices is that of one, and sends what it says and no more."""

import numpy as np
import pytest

from tests.backends.jax.process import report_of

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def report():
    return report_of("tests.backends.jax.four_devices")


EXCHANGES = ("ring", "gather")


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_value_and_gradients_are_those_of_one_device(report, exchange):
    assert report["devices"] == 4
    for kind in ("errors", "eager_errors", "explicit_errors"):
        assert len(report[exchange][kind]) == 5
        assert max(report[exchange][kind]) <= 1e-6, report[exchange]
    assert report[exchange]["forward_error"] <= 1e-6


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_other_pairs_are_told_from_the_right_ones(report, exchange):
    *others, _ = report[exchange]["wrong"]  # Σ σ(z) - n, the gradient of the bias, is the same for any pairing
    assert min(others) > 1e-3


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_gradients_stay_where_the_embeddings_are(report, exchange):
    assert all("data" in spread for spread in report[exchange]["spread"])


def test_the_ring_passes_on_texts_and_their_gradient_and_gathers_nothing(report):
    """Texts and gradient in the body of the loop, texts before it and the gradient after it; one reduction of the
    scalars.
    """
    counted = {"collective-permute": 4, "all-gather": 0, "all-reduce": 1, "reduce-scatter": 0, "all-to-all": 0}
    assert report["ring"]["collectives"] == counted
    assert report["ring"]["forward_collectives"] == counted | {"collective-permute": 2}


def test_the_gather_is_one_gather_and_one_scatter(report):
    counted = {"collective-permute": 0, "all-gather": 1, "all-reduce": 1, "reduce-scatter": 1, "all-to-all": 0}
    assert report["gather"]["collectives"] == counted
    assert report["gather"]["forward_collectives"] == counted | {"reduce-scatter": 0}


def test_what_cannot_be_spread_is_refused(report):
    assert "130 images and 130 texts cannot be spread evenly over the 4 devices" in report["uneven"]
    assert "no axis 'batch': expected one of 'data'" in report["no axis"]
    assert "no mesh" in report["no mesh"]
    assert "gradients='mean' has no meaning on jax" in report["mean"]
    assert "first derivatives only" in report["twice"]


def test_explicit_gradients_go_over_the_devices_that_keras_knows(report):
    found = report["data parallel"]
    assert max(found["errors"]) <= 1e-6
    assert found["devices"] == 4
    assert max(found["part_errors"]) <= 1e-6


def test_fit_under_data_parallel_learns_as_on_one_device(report):
    np.testing.assert_allclose(report["fit"]["four"], report["fit"]["one"], rtol=1e-5)
    np.testing.assert_allclose(report["fit"]["reference"], report["fit"]["one"], rtol=1e-5)
    assert report["fit"]["one"][-1] < report["fit"]["one"][0]
