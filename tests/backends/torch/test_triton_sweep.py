"""The whole loss by Triton, kernel, products and positives together, in Triton's interpreter."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton (Linux)")


@pytest.fixture(scope="module")
def report():
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.torch.interpreted_sweep"],
        env=os.environ | {"TRITON_INTERPRET": "1", "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_value_and_gradients_of_the_named_cases(report):
    """With new memory full of NaN, so that what nobody wrote would be seen."""
    assert report["wrong"] == {}
    assert report["judged"] >= 24 + 8


@pytest.mark.parametrize("width", ["20", "64"])
def test_the_operator_keeps_its_promises(report, width):
    """The compiler believes the shapes and strides that it is told, for a width that is no multiple of 8, too."""
    assert report["contract"][width] == {"test_schema": "SUCCESS", "test_faketensor": "SUCCESS"}


def test_a_softmaxs_blocks_are_the_same_by_any_tiles(report):
    """Logarithms of sums of logits of up to 50, off by a rounding of the logit; nothing of the pairs left out."""
    assert len(report["softmax_errors"]) == 4
    for errors in report["softmax_errors"]:
        assert errors.pop("left out") == 0
        assert max(errors.values()) <= 2e-5, errors
        assert max(errors.values()) > 0


def test_the_value_alone_is_the_same_bits(report):
    assert not any(report["value_alone_differs"])


def test_autocast_changes_nothing(report):
    assert report["autocast_changes"] == [False] * 5


def test_programs_leave_multiprocessors_to_transfers(report):
    """Of as many as the GPU has, one program each; the block has 9 tiles."""
    assert report["programs"] == {"sigmoid": [6, 2], "normalisers": [6, 2]}


def test_a_small_batch_takes_few_launches(report):
    """Forward and backward; each costs some microseconds, whatever the batch. None reads a number from the device, or
    compares on it, for which the host would wait, and which a CUDA graph cannot hold.
    """
    assert report["launches"].count("product") == 2
    assert not {"_local_scalar_dense", "equal", "is_nonzero"} & set(report["launches"])
    assert "negatives_kernel" in report["launches"]
    assert len(report["launches"]) <= 10, report["launches"]
