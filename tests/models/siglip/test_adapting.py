"""The same weights at another resolution, patch size or kind of image tower."""

import numpy as np
import pytest

from diptych.models import SigLIP, SigLIPConfig
from diptych.models.siglip.adapting import adapt, fit_weight, to_naflex, to_square
from diptych.models.siglip.config import TextConfig, VisionConfig
from tests.models.examples import forward, numpy_of

CONFIG = SigLIPConfig(
    vision=VisionConfig(width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=4, image_size=16),
    text=TextConfig(width=12, depth=1, mlp_dim=20, num_heads=3, vocab_size=20, context_length=6, embed_dim=16),
)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
IDS = RNG.integers(0, 20, (2, 6)).astype("int32")


def _patches(images: np.ndarray, patch: int) -> dict[str, np.ndarray]:
    batch, side = len(images), images.shape[1] // patch
    x = images.reshape(batch, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, side**2, -1)
    return {"patches": x, "spatial_shapes": np.full((batch, 2), side, "int32")}


def _embedding(model, images) -> np.ndarray:
    return numpy_of(forward(model.image_embedder(), images))


def _weights(model) -> dict[str, np.ndarray]:
    return {weight.path: numpy_of(weight.value) for weight in model.weights}


def test_naflex_computes_the_same_on_square_images_and_back_again():
    model = SigLIP(CONFIG, seed=1)
    naflex = to_naflex(model, max_num_patches=20)
    np.testing.assert_allclose(_embedding(naflex, _patches(IMAGES, 4)), _embedding(model, IMAGES), atol=2e-6)
    assert naflex.config.vision.max_num_patches == 20
    again = to_square(naflex)
    assert again.config == model.config
    for path, value in _weights(model).items():
        np.testing.assert_array_equal(_weights(again)[path], value, err_msg=path)


def test_a_square_model_of_another_grid_computes_what_naflex_does():
    naflex = to_naflex(SigLIP(CONFIG, seed=2))
    larger = RNG.uniform(-1, 1, (2, 24, 24, 3)).astype("float32")
    square = to_square(naflex, image_size=24)
    assert square.config.vision.num_patches == 36
    np.testing.assert_allclose(_embedding(square, larger), _embedding(naflex, _patches(larger, 4)), atol=2e-6)


def test_another_resolution_leaves_all_but_the_positions():
    model = SigLIP(CONFIG, seed=3)
    larger = adapt(model, image_size=32)
    old, new = _weights(model), _weights(larger)
    assert [path for path in old if old[path].shape != new[path].shape] == ["image/position_embedding/embedding"]
    assert not [path for path in old if old[path].shape == new[path].shape and not np.array_equal(old[path], new[path])]
    assert _embedding(larger, RNG.uniform(-1, 1, (1, 32, 32, 3)).astype("float32")).shape == (1, 16)


def test_twice_the_patch_sees_twice_the_image():
    """Each pixel repeated is, for bilinear resizing, nearly the patch resized: embeddings stay close, and are not with
    fresh kernels.
    """
    model = SigLIP(CONFIG, seed=4)
    larger = adapt(model, image_size=32, patch_size=8)
    smooth = np.broadcast_to(np.linspace(-1, 1, 16, dtype="float32")[None, :, None, None], (1, 16, 16, 3))
    smooth_large = np.broadcast_to(np.linspace(-1, 1, 32, dtype="float32")[None, :, None, None], (1, 32, 32, 3))
    similar = (_embedding(model, smooth) * _embedding(larger, smooth_large)).sum()
    fresh = SigLIP(larger.config, seed=5)
    assert similar > 0.99
    assert abs((_embedding(model, smooth) * _embedding(fresh, smooth_large)).sum()) < 0.9


def test_text_is_untouched():
    model = SigLIP(CONFIG, seed=6)
    for other in (to_naflex(model), adapt(model, patch_size=2)):
        np.testing.assert_array_equal(
            numpy_of(forward(other.text_embedder(), IDS)), numpy_of(forward(model.text_embedder(), IDS))
        )


def test_wrong_requests_are_refused():
    model = SigLIP(CONFIG)
    with pytest.raises(ValueError, match="A NaFlex model takes images of any size"):
        adapt(to_naflex(model), image_size=32)
    with pytest.raises(ValueError, match="A NaFlex model is needed"):
        to_square(model)
    with pytest.raises(ValueError, match="can become NaFlex"):
        to_naflex(to_naflex(model))


def test_the_position_of_a_class_token_stays_in_front():
    """Constant positions stay what they are at any size, and the one that stands in front is none of the grid's."""
    positions = np.concatenate([np.full((1, 3), 7.0), np.full((4, 3), 2.0)]).astype("float32")
    for path in ("image/position_embedding/embedding", "image/attention_pool/position_embedding/embedding"):
        fitted = fit_weight(path, positions, (10, 3))
        np.testing.assert_allclose(fitted, np.concatenate([np.full((1, 3), 7.0), np.full((9, 3), 2.0)]), rtol=1e-6)
        assert fit_weight(path, positions, (9, 3)) is None
