"""CLIP's towers: what the end of a text is, what a token can see, and a model that is fitted and saved as any other."""

import keras
import numpy as np
import pytest
from keras import ops

from diptych import backends
from diptych.models import CLIP, CLIPConfig, CLIPTextTransformer
from diptych.models.clip.config import CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.model import EndOfText
from diptych.models.parts.mlp import ACTIVATIONS
from tests.models.examples import forward, numpy_of

TEXT = CLIPTextConfig(width=24, depth=2, mlp_dim=40, num_heads=3, vocab_size=30, context_length=7, embed_dim=10)
VISION = CLIPVisionConfig(width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=4, image_size=12, embed_dim=10)


def test_a_text_is_read_at_its_first_end():
    tokens = np.arange(2 * 5 * 3, dtype="float32").reshape(2, 5, 3)
    ids = np.array([[1, 9, 2, 9, 9], [9, 1, 1, 1, 1]], "int32")
    np.testing.assert_array_equal(numpy_of(EndOfText()(tokens, ids)), [tokens[0, 1], tokens[1, 0]])
    np.testing.assert_array_equal(numpy_of(EndOfText(eot_id=2)(tokens[:1], ids[:1])), [tokens[0, 2]])


def test_a_token_sees_only_those_before_it():
    tower, rng = CLIPTextTransformer(TEXT), np.random.default_rng(0)
    ids = rng.integers(0, 30, (1, 7)).astype("int32")
    other = ids.copy()
    other[0, 4:] = (other[0, 4:] + 1) % 30
    one, changed = (numpy_of(forward(tower, x)["tokens"]) for x in (ids, other))
    np.testing.assert_allclose(one[:, :4], changed[:, :4], atol=1e-6)
    assert np.abs(one[:, 4:] - changed[:, 4:]).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "expected"), [("quick_gelu", 0.8457958), ("gelu", 0.8413447), ("gelu_tanh", 0.8411920)]
)
def test_activations_at_one(name, expected):
    assert float(numpy_of(ACTIVATIONS[name](ops.ones(())))) == pytest.approx(expected, abs=1e-6)


def test_it_is_fitted_and_saved_as_any_keras_model(tmp_path):
    model, rng = CLIP(CLIPConfig(vision=VISION, text=TEXT)), np.random.default_rng(0)
    batch = {
        "images": rng.uniform(-1, 1, (4, 12, 12, 3)).astype("float32"),
        "token_ids": rng.integers(0, 30, (4, 7)).astype("int32"),
    }
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    losses = model.fit(batch, batch_size=4, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.3
    model.save(tmp_path / "clip.keras")
    again = keras.saving.load_model(tmp_path / "clip.keras")
    np.testing.assert_array_equal(numpy_of(again(batch)["text_embedding"]), numpy_of(model(batch)["text_embedding"]))
    assert again.config == model.config
    assert model.logit_bias is None


def test_the_loss_of_fit_may_be_the_one_in_tiles():
    model, rng = CLIP(CLIPConfig(vision=VISION, text=TEXT)), np.random.default_rng(1)
    image, text = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in rng.normal(size=(2, 5, 8)).astype("float32"))
    right = float(numpy_of(model.batch_loss(image, text)))
    called = []
    model.pair_loss = lambda *pair, **scale: called.append(1) or backends.softmax_contrastive_loss(*pair, **scale)
    assert float(numpy_of(model.batch_loss(image, text))) == pytest.approx(right, rel=1e-6)
    assert called == [1]
