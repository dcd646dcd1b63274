"""A training step over many devices, with its state spread over half of them, is that of one."""

import os

import pytest

from tests.backends.jax.process import report_of

pytest.importorskip("jax")
THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
KINDS = ["joint", "joint in pieces", "curated"]
OTHERS = ["bit", "gpt1"]


@pytest.fixture(scope="module", params=[4, 8] if THOROUGH else [4])
def devices(request):
    return request.param


@pytest.fixture(scope="module")
def report(devices):
    return report_of("tests.backends.jax.many_devices_step", devices=devices)


@pytest.mark.parametrize("kind", KINDS + OTHERS)
def test_it_trains_as_one_device_does(report, devices, kind):
    """Weights, teacher, moving average, centres and logs after five steps."""
    found = report[kind]
    assert found["devices"] == devices
    assert found["compilations"] == 1
    assert found["values"] < 1e-6 < 1e-3 < found["moved"]
    assert found["losses"] < 1e-6
    assert found["logs"] < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_holds_its_share_of_the_state_and_nothing_else(report, devices, kind):
    found = report[kind]
    assert found["arguments"] == found["held"], "the compiled program's, in bytes"
    assert 2 / devices < found["share"] < 2 / devices + 0.1, "small tensors are whole"


@pytest.mark.parametrize("kind", KINDS)
def test_texts_go_round_in_a_ring(report, kind):
    assert report[kind]["sent"]["collective-permute"]["count"] >= 2  # texts, and their gradients


@pytest.mark.parametrize("kind", ["joint", "curated"])
def test_weights_are_gathered_and_gradients_added_up_as_the_document_says(report, devices, kind):
    """Little else is sent, of each example. Curated batches are chosen in a pass before, which gathers weights, too."""
    found = report[kind]
    sent = {name: sent["bytes"] for name, sent in found["sent"].items()}
    gathered = found["read"] + (found["moving"] if kind == "curated" else 0)
    assert gathered <= sent["all-gather"] < gathered + 700 * 2 * devices  # so many examples
    once = found["gradients"] + found["moving"] / (devices // 2)
    assert once <= sent["all-reduce"] < (1.15 if kind == "curated" else 3) * once
    assert sent.get("all-to-all", 0) < 0.02 * gathered


@pytest.mark.skipif(not THOROUGH, reason="compiles four steps: with DIPTYCH_THOROUGH")
def test_memory_falls_as_the_state_is_spread():
    report = report_of("tests.backends.jax.spread_state", devices=8)
    bytes_held = [report[fsdp]["arguments"] for fsdp in ("1", "2", "4", "8")]
    assert bytes_held == [found["state"] + found["batch"] for found in report.values()]
    assert all(later < 0.65 * before for before, later in zip(bytes_held, bytes_held[1:], strict=False))


def test_between_steps_models_are_on_one_device(report):
    assert report["joint"]["kept on"] == 1


def test_a_batch_that_cannot_be_dealt_out_is_refused(report, devices):
    assert f"{2 * devices} examples (image) cannot be dealt out evenly over 3 devices" in report["uneven"]


def test_more_devices_than_there_are_are_refused(report, devices):
    wanted = f"A step was to be spread over {devices + 1} devices, and jax has {devices} here (cpu)."
    assert report["too many"] == wanted
