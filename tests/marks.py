"""Marks of tests that need not run on every backend each time."""

import os

import pytest

ABOVE_THE_BACKENDS = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "torch" and not os.environ.get("DIPTYCH_THOROUGH"),
    reason="decided above the backends, held by torch; on the others with DIPTYCH_THOROUGH",
)
"""What the code above the backends decides is asked each time of torch alone, which compiles nothing."""
