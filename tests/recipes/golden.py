"""Losses of small runs as they were recorded: a change that moves one says so in the changelog.

To record those of a backend anew, after such a change:

    DIPTYCH_RECORD_LOSSES=1 KERAS_BACKEND=jax python -m pytest tests/recipes -k golden
"""

import json
import os
from pathlib import Path

import numpy as np

from diptych.core.training.metrics import read_metrics

GOLDEN = Path(__file__).with_name("golden_losses.json")
FIRST = 8
"""Losses that are held against each other; later ones magnify how machines round."""
TOLERANCE = 1e-4
"""Relative; machines of other instructions round otherwise."""


def check_losses(run: str, metrics: Path) -> None:
    """Holds the first losses of a run, by name, against those that its backend was recorded with."""
    found = [row["loss"] for row in read_metrics(metrics) if "loss" in row][:FIRST]
    golden = json.loads(GOLDEN.read_text())
    backend = os.environ["KERAS_BACKEND"]
    if os.environ.get("DIPTYCH_RECORD_LOSSES"):
        golden.setdefault(run, {})[backend] = [float(f"{loss:.8g}") for loss in found]
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    np.testing.assert_allclose(found, golden[run][backend], rtol=TOLERANCE, err_msg=f"{run} on {backend}")
