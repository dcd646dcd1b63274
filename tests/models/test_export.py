"""`model.export`: each tower as a graph of its own that gives the same embeddings without Keras."""

from dataclasses import replace
from importlib.util import find_spec

import keras
import numpy as np
import pytest

from diptych.models import SigLIP
from tests.models.examples import TINY, batch_for, forward, numpy_of

SHALLOW = replace(TINY, vision=replace(TINY.vision, depth=1))
BATCH = batch_for(SHALLOW)
BACKEND = keras.config.backend()


def run_saved_model(path, inputs):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # must outlive the call: the function does not keep the variables
    return loaded.serve(inputs).numpy()


def run_torch(path, inputs):
    import torch

    return torch.export.load(path).module()(torch.from_numpy(inputs)).detach().numpy()


# The format to export to, the file's ending, and how the file is run without Keras.
FORMAT, ENDING, RUN = ("torch", ".pt2", run_torch) if BACKEND == "torch" else ("tf_saved_model", "", run_saved_model)


def export_options() -> dict:
    """What `export` needs for a graph that takes any number of rows."""
    if BACKEND != "torch":
        return {}
    import torch

    return {"dynamic_shapes": {0: torch.export.Dim("batch")}}  # or the graph keeps the single row it was traced with


@pytest.mark.skipif(not find_spec("tensorflow") and BACKEND == "jax", reason="jax exports through tensorflow")
@pytest.mark.parametrize("tower", ["image", "text"])
def test_an_exported_embedder_gives_the_same_embeddings(tower, tmp_path):
    model = SigLIP(SHALLOW)
    embedder, inputs = {
        "image": (model.image_embedder(), BATCH["images"]),
        "text": (model.text_embedder(), BATCH["token_ids"]),
    }[tower]
    path = str(tmp_path / f"{tower}{ENDING}")
    embedder.export(path, format=FORMAT, verbose=False, **export_options())
    expected = numpy_of(forward(embedder, inputs))
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    for size in (4, 3):  # the batch is not part of the exported shape
        assert np.allclose(RUN(path, inputs[:size]), expected[:size], atol=1e-5)
