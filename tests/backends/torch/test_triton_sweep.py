"""The whole loss by Triton, kernel, products and positives together, in Triton's interpreter."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton (Linux)")


def test_value_and_gradients_of_the_named_cases():
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.torch.interpreted_sweep"],
        env=os.environ | {"TRITON_INTERPRET": "1", "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["wrong"] == {}
    assert report["judged"] >= 24
