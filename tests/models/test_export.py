"""`export`: each tower as a graph of its own that gives the same embeddings without Keras."""

import keras
import numpy as np
import pytest

from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig

SIZE = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=8), text=TextConfig(**SIZE, vocab_size=20, context_length=5)
)


def load_graph(path, backend: str):
    """The exported graph as a function of one NumPy array."""
    if backend == "torch":
        import torch

        graph = torch.export.load(path).module()
        # Keras traces torch exports with a batch of one, and the graph keeps it.
        return lambda inputs: np.concatenate([graph(torch.from_numpy(row[None])).detach().numpy() for row in inputs])
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda inputs: loaded.serve(inputs).numpy()


@pytest.mark.parametrize("tower", ["image", "text"])
def test_an_exported_tower_gives_the_same_embeddings(tower, tmp_path):
    backend = keras.config.backend()
    model = SigLIP(CONFIG, seed=4)
    rng = np.random.default_rng(0)
    if tower == "image":
        embedder, inputs = model.image_embedder(), rng.uniform(-1, 1, (3, 8, 8, 3)).astype("float32")
    else:
        embedder, inputs = model.text_embedder(), rng.integers(0, 20, (3, 5)).astype("int32")
    path = tmp_path / "graph.pt2" if backend == "torch" else tmp_path / "graph"
    embedder.export(path, format="torch" if backend == "torch" else "tf_saved_model", verbose=False)
    expected = embedder.predict(inputs, verbose=0)
    found = load_graph(path, backend)(inputs)
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
