"""A training step over four devices, with its state spread over two and two of them, is that of one."""

import pytest

from tests.backends.jax.process import report_of

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def report():
    return report_of("tests.backends.jax.four_devices_step")


@pytest.mark.parametrize("kind", ["joint", "joint in pieces", "curated"])
def test_it_trains_as_one_device_does(report, kind):
    """Weights, teacher, moving average, centres and logs after five steps."""
    found = report[kind]
    assert found["devices"] == 4
    assert found["compilations"] == 1
    assert found["values"] < 1e-6 < 1e-3 < found["moved"]
    assert found["losses"] < 1e-6
    assert found["logs"] < 2e-4
    assert found["share"] < 0.6


@pytest.mark.parametrize("kind", ["joint", "joint in pieces", "curated"])
def test_texts_go_round_in_a_ring(report, kind):
    assert report[kind]["ring"] >= 2  # texts, and their gradients


def test_between_steps_models_are_on_one_device(report):
    assert report["joint"]["kept on"] == 1


def test_a_batch_that_cannot_be_dealt_out_is_refused(report):
    assert "8 examples (image) cannot be dealt out evenly over 3 devices" in report["uneven"]


def test_more_devices_than_there_are_are_refused(report):
    assert report["too many"] == "A step was to be spread over 5 devices, and jax has 4 here (cpu)."
