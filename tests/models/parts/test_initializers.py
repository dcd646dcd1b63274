"""Initial weights: the distributions of big_vision, and one seed for every backend."""

import hashlib
import math
import re
from dataclasses import replace

import keras
import numpy as np
import pytest

from diptych.models import SigLIP, SigLIPConfig, TextConfig, TextTransformer, VisionConfig, VisionTransformer
from diptych.models.parts.heads import bias_for_batch
from diptych.models.parts.initializers import LecunNormal, Normal, XavierUniform
from tests.models.examples import TINY, TINY_TEXT, TINY_VISION

# Wide enough for statistics; width, mlp_dim and projection all differ, so that a wrong fan shows.
WIDE = SigLIPConfig(
    vision=VisionConfig(width=96, depth=1, mlp_dim=160, num_heads=2, patch_size=8, image_size=32),
    text=TextConfig(width=64, depth=1, mlp_dim=80, num_heads=2, vocab_size=200, context_length=16, embed_dim=96),
)
D, M, T, N = WIDE.vision.width, WIDE.vision.mlp_dim, WIDE.text.width, WIDE.text.mlp_dim


def uniform(fan_in, fan_out):
    return "uniform", math.sqrt(6 / (fan_in + fan_out))


# Path pattern -> distribution (big_vision `models/siglip/vit.py` and flax's defaults): a uniform's limit, a normal's
# deviation.
EXPECTED = {
    r"image/patch_embedding/kernel": ("truncated", math.sqrt(1 / (8 * 8 * 3))),
    r"image/position_embedding/embedding": ("normal", D**-0.5),
    r"image/.*/attention/(qkv|out)_kernel": uniform(D, D),
    r"image/.*/mlp/(in|out)_kernel": uniform(D, M),
    r"image/map_head/probe": uniform(1, D),
    r"image/map_head/(query|key_value|out)_kernel": uniform(D, D),
    r"text/token_embedding/embedding": ("normal", T**-0.5),
    r"text/position_embedding/embedding": ("normal", T**-0.5),
    r"text/.*/attention/(qkv|out)_kernel": uniform(T, T),
    r"text/.*/mlp/(in|out)_kernel": uniform(T, N),
    r"text/projection/kernel": ("truncated", math.sqrt(1 / T)),
    r"(image|text)/.*mlp/(in|out)_bias": ("normal", 1e-6),
    r".*norm/scale": ("constant", 1.0),
    r".*norm/bias|.*/(qkv|query|key_value)_bias|.*/(attention|map_head)/out_bias": ("constant", 0.0),
    r"(image/patch_embedding|text/projection)/bias": ("constant", 0.0),
    r"pair_logits/log_logit_scale": ("constant", math.log(10)),
    r"pair_logits/logit_bias": ("constant", -10.0),
}

WIDE_WEIGHTS = {w.path: w for w in SigLIP(WIDE).weights}


def check(values: np.ndarray, kind: str, size: float) -> None:
    """Raises AssertionError unless `values` look drawn from the distribution; its size is pinned to a few percent."""
    values = np.asarray(values, "float64").ravel()
    if kind == "constant":
        assert np.allclose(values, size, rtol=1e-6)
        return
    deviation = size / math.sqrt(3) if kind == "uniform" else size
    assert abs(values.mean()) < 5 * deviation / math.sqrt(len(values))
    assert abs(values.std() / deviation - 1) < 5 / math.sqrt(2 * len(values))
    extreme = np.abs(values).max()
    if kind == "uniform":
        assert size * (1 - 20 / len(values)) < extreme <= size * (1 + 1e-6)
    elif kind == "truncated":
        assert 1.9 < extreme * 0.87962566 / deviation < 2.0001
    else:
        assert extreme > 1.9 * deviation


def test_the_check_of_distributions_refuses_near_misses():
    rng = np.random.default_rng(0)
    check(rng.normal(0, 0.1, 10_000), "normal", 0.1)
    for wrong in (rng.normal(0, 0.105, 10_000), rng.normal(0.01, 0.1, 10_000), rng.uniform(-0.1732, 0.1732, 10_000)):
        with pytest.raises(AssertionError):
            check(wrong, "normal", 0.1)
    with pytest.raises(AssertionError):
        check(rng.normal(0, 0.1, 10_000), "truncated", 0.1)
    with pytest.raises(AssertionError):
        check(rng.normal(0, 0.1 / math.sqrt(3), 10_000), "uniform", 0.1)


@pytest.mark.parametrize("path", sorted(WIDE_WEIGHTS))
def test_a_weight_follows_its_distribution(path):
    matching = [distribution for pattern, distribution in EXPECTED.items() if re.fullmatch(pattern, path)]
    assert len(matching) == 1, f"{path} is covered by {len(matching)} rows"
    check(keras.ops.convert_to_numpy(WIDE_WEIGHTS[path].value), *matching[0])


def test_positions_of_images_may_be_drawn_louder_and_nothing_else_changes():
    loud = SigLIP(replace(WIDE, vision=replace(WIDE.vision, position_stddev=1.0)))
    for weight in loud.weights:
        usual = keras.ops.convert_to_numpy(WIDE_WEIGHTS[weight.path].value)
        is_position = weight.path == "image/position_embedding/embedding"
        factor = D**0.5 if is_position else 1.0
        assert np.allclose(keras.ops.convert_to_numpy(weight.value), factor * usual, rtol=1e-6), weight.path


def test_every_expected_distribution_was_met():
    assert [p for p in EXPECTED if not any(re.fullmatch(p, path) for path in WIDE_WEIGHTS)] == []


def test_the_class_token_starts_at_zero():
    model = VisionTransformer(replace(TINY_VISION, pooling="cls"))
    (token,) = (w for w in model.weights if w.path == "image/class_token/token")
    assert not np.any(token.numpy())


def digest(model) -> str:
    """A hash over the paths and exact values of all weights."""
    total = hashlib.sha256()
    for weight in sorted(model.weights, key=lambda w: w.path):
        total.update(weight.path.encode() + np.ascontiguousarray(weight.numpy(), "<f4").tobytes())
    return total.hexdigest()


def test_one_seed_gives_the_same_weights_on_every_backend():
    assert digest(SigLIP(TINY)) == "1c655b7c3f1fe75e1bb300f4ab92a8c4d977c0998ed599adc1ca6a4b3e0f71a0"
    assert digest(SigLIP(TINY, seed=1)) == "cf22006f72d568469b2f2d72b628f0fb31e2173fe18afbbf6b388a74a0fe5152"


def test_the_same_seed_repeats_and_mixed_precision_changes_nothing():
    assert digest(SigLIP(TINY, seed=5)) == digest(SigLIP(TINY, seed=5, dtype="mixed_bfloat16", rematerialize=True))


def test_another_seed_draws_every_random_weight_anew():
    first, second = ({w.path: w.numpy() for w in SigLIP(TINY, seed=seed).weights} for seed in (0, 1))
    same = {path for path in first if np.array_equal(first[path], second[path])}
    assert same == {path for path in first if np.unique(first[path]).size == 1}  # the constants


def test_no_two_weights_share_a_stream():
    drawn = {}
    for tower in (VisionTransformer(TINY_VISION), TextTransformer(TINY_TEXT)):
        for weight in tower.weights:
            values = weight.numpy().ravel()
            if np.unique(values).size > 1:
                scaled = np.round(values[:8] / np.abs(values[:8]).max(), 4)
                assert drawn.setdefault(tuple(scaled), weight.path) == weight.path
    assert len(drawn) > 20


@pytest.mark.parametrize("change", [{"depth": 3}, {"vocab_size": 30}, {"context_length": 9}, {"pooling": "map"}])
def test_another_layer_or_length_leaves_the_other_weights(change):
    before = {w.path: w.numpy() for w in TextTransformer(TINY_TEXT).weights}
    after = {w.path: w.numpy() for w in TextTransformer(replace(TINY_TEXT, **change)).weights}
    common = [path for path in before if path in after and before[path].shape == after[path].shape]
    assert len(common) >= len(before) - 1
    assert all(np.array_equal(before[path], after[path]) for path in common)


@pytest.mark.parametrize(
    "initializer",
    [Normal(stddev=0.3, seed="0/a"), XavierUniform(fan_in=2, fan_out=3, seed="0/b"), LecunNormal(fan_in=4, seed="0/c")],
)
def test_an_initializer_survives_its_configuration(initializer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(initializer))
    assert np.array_equal(again.draw((5, 7)), initializer.draw((5, 7)))
    assert initializer.draw((5, 7)).dtype == np.float32


def test_the_bias_for_a_batch_is_the_logit_of_a_true_pairs_share():
    for size in (2, 256, 32_768):
        assert 1 / (1 + math.exp(-bias_for_batch(size))) == pytest.approx(1 / size)
    assert bias_for_batch(22_027) == pytest.approx(-10, abs=1e-4)
    with pytest.raises(ValueError, match="A batch of 1 has no negatives: the bias needs batch_size >= 2"):
        bias_for_batch(1)
