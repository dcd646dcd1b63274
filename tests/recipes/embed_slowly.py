"""The embedding of a folder with the fake model, slowly, so that a test has the time to kill it.

`python -m tests.recipes.embed_slowly DATA INDEX`
"""

import sys
import time
from pathlib import Path

import numpy as np

from diptych.engine.embedding import embedding_runs
from diptych.recipes import embed as recipe
from tests.recipes.fake_encoder import ColourEmbedder, FakeEncoder


class SlowEmbedder(ColourEmbedder):
    """Takes its time, and says so each time it is asked."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        print("batch", flush=True)
        return super().predict_on_batch(images)


def slow_encoder(name: str) -> FakeEncoder:
    """The fake model with a slow image tower."""
    encoder = FakeEncoder()
    encoder.image_embedder = SlowEmbedder(encoder.dim)
    return encoder


if __name__ == "__main__":
    embedding_runs.COMMIT_SECONDS = -1.0  # after every batch
    options = recipe.Embed(data=sys.argv[1], index=Path(sys.argv[2]), batch_size=2, texts=True)
    sys.exit(recipe.embed(options, slow_encoder))
