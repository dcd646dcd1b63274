"""Marks of tests that need not run on every backend each time."""

import os

import pytest

ABOVE_THE_BACKENDS = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] == "tensorflow" and not os.environ.get("DIPTYCH_THOROUGH"),
    reason="decided above the backends, held by jax and torch; on tensorflow with DIPTYCH_THOROUGH",
)
"""On tensorflow, which traces and compiles longest, what the code above the backends decides is not run each time."""
