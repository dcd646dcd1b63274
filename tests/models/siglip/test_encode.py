"""`VisionTransformer.encode`: the tower itself at its own size, other sizes, and hidden patches."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.losses.masked_prediction import patch_mask
from diptych.core.weights.resizing import resize_positions
from diptych.models import VisionTransformer
from tests.models.examples import TINY_VISION, forward, numpy_of, value_and_gradients

CONFIG = replace(TINY_VISION, image_size=12)  # 3 x 3 patches
RNG = np.random.default_rng(0)
TOKEN = RNG.normal(size=16).astype("float32")


def images(size, count=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype("float32")


def randomized(config=CONFIG, **settings) -> VisionTransformer:
    model, rng = VisionTransformer(config, **settings), np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.normal(0, 0.1, weight.shape))
    return model


def encode(model, x, **masking):
    """As one compiled function on jax."""
    names = list(masking)
    outputs = forward(lambda a: model.encode(a[0], **dict(zip(names, a[1:], strict=True))), (x, *masking.values()))
    return {name: numpy_of(value) for name, value in outputs.items()}


def called(model, x):
    return {name: numpy_of(value) for name, value in forward(model, x).items()}


@pytest.mark.parametrize(
    "config",
    [
        TINY_VISION,  # 10 px: two pixels of each row and column belong to no patch
        replace(CONFIG, pooling="gap", embed_dim=5),
        replace(CONFIG, pooling="cls"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_at_its_own_size_it_is_the_tower(config, dtype):
    model = randomized(config, dtype=dtype)
    x = images(config.image_size)
    expected, got = called(model, x), encode(model, x)
    assert list(got) == ["pooled", "tokens"]
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [4, 8, 10, 20])
def test_at_another_size_it_is_the_tower_with_resized_positions(size):
    model = randomized()
    other = VisionTransformer(replace(CONFIG, image_size=size))
    for weight, old in zip(other.weights, model.weights, strict=True):
        value = old.numpy()
        if old.path.endswith("position_embedding/embedding"):
            value = resize_positions(value.reshape(3, 3, 16), size // 4).reshape(-1, 16)
        weight.assign(value)
    x = images(size)
    got, expected = encode(model, x), called(other, x)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=2e-6)
    assert got["tokens"].shape == (2, (size // 4) ** 2, 16)


def test_what_is_hidden_has_no_part_and_its_place_has():
    model, x = randomized(), images(12)
    masked = np.zeros((2, 9), bool)
    masked[0, [1, 5]], masked[1, [0, 8]] = True, True
    before = encode(model, x, mask_token=TOKEN, masked=masked)
    changed = x.reshape(2, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, 4, 4, 3).copy()
    changed[masked] = 7.0
    changed = changed.reshape(2, 3, 3, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    after = encode(model, changed, mask_token=TOKEN, masked=masked)
    for name in before:
        assert np.array_equal(before[name], after[name])
    # Both hidden patches hold the same token; what differs is where they are.
    assert np.abs(before["tokens"][0, 1] - before["tokens"][0, 5]).max() > 1e-2
    seen = encode(model, x)
    assert np.abs(before["tokens"] - seen["tokens"]).max() > 1e-2


def test_masking_nothing_is_not_masking_and_images_do_not_mix():
    model, x = randomized(), images(12)
    nothing = encode(model, x, mask_token=TOKEN, masked=np.zeros((2, 9), bool))
    plain = encode(model, x)
    first = np.zeros((2, 9), bool)
    first[0] = True
    half = encode(model, x, mask_token=TOKEN, masked=first)
    for name in plain:
        np.testing.assert_array_equal(nothing[name], plain[name])
        np.testing.assert_allclose(half[name][1], plain[name][1], atol=1e-6)
        assert np.abs(half[name][0] - plain[name][0]).max() > 1e-3


def test_a_mask_token_equal_to_the_embedding_changes_nothing():
    """It stands where the embedding stood: before the positions."""
    model = randomized()
    x = np.broadcast_to(images(12)[:, :4, :4], (2, 4, 4, 3))
    x = np.tile(x[:1], (2, 3, 3, 1))  # nine equal patches
    embedded = numpy_of(model.get_layer("patch_embedding")(x))[0, 0]
    masked = RNG.random((2, 9)) < 0.5
    got, expected = encode(model, x, mask_token=embedded, masked=masked), encode(model, x)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_every_weight_learns_at_another_size(rematerialize):
    model, token = randomized(rematerialize=rematerialize), keras.Variable(TOKEN)
    places = np.array([[0, 3], [1, 2]], "int32")

    def loss():
        outputs = model.encode(
            ops.convert_to_tensor(images(8)), mask_token=token, masked=patch_mask(ops.convert_to_tensor(places), 4)
        )
        return sum(ops.mean(ops.square(value[..., :5])) for value in outputs.values())

    _, gradients = value_and_gradients(loss, [*model.trainable_variables, token])
    for variable, gradient in zip([*model.trainable_variables, token], gradients, strict=True):
        gradient = numpy_of(gradient)
        assert gradient.shape == tuple(variable.shape)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, variable.path


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow", reason="tensorflow does not list what it keeps for a gradient"
)
def test_rematerialization_is_honoured():
    def kept(rematerialize):
        model = randomized(rematerialize=rematerialize)
        if keras.config.backend() == "jax":
            import jax

            traced = jax.make_jaxpr(lambda x: model.encode(x)["pooled"])(images(8))
            return str(traced).count("remat")
        import torch

        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: numbers.append(x.numel()) or x, lambda x: x):
            model.encode(images(8))
        return -sum(numbers)

    assert kept(True) > kept(False)


def test_encoding_leaves_the_model_as_it_was(tmp_path):
    model = randomized()
    before = ([weight.path for weight in model.weights], [layer.name for layer in model.layers], model.get_config())
    model.save_weights(tmp_path / "before.weights.h5")
    expected = called(model, images(12))
    encode(model, images(20), mask_token=TOKEN, masked=np.ones((2, 25), bool))
    assert (
        [weight.path for weight in model.weights],
        [layer.name for layer in model.layers],
        model.get_config(),
    ) == before
    for name, value in called(model, images(12)).items():
        np.testing.assert_array_equal(value, expected[name])
    model.save(tmp_path / "after.keras")
    loaded = keras.models.load_model(tmp_path / "after.keras")
    loaded.load_weights(tmp_path / "before.weights.h5")
    for name, value in encode(loaded, images(8)).items():
        np.testing.assert_array_equal(value, encode(model, images(8))[name])


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (2, 8, 12, 3), (2, 0, 0, 3)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="square images that hold a patch of 4 px at least"):
        VisionTransformer(CONFIG).encode(np.zeros(shape, "float32"))


@pytest.mark.parametrize("given", [{"mask_token": TOKEN}, {"masked": np.ones((2, 9), bool)}])
def test_half_a_mask_is_refused(given):
    with pytest.raises(ValueError, match="or neither"):
        VisionTransformer(CONFIG).encode(images(12), **given)
