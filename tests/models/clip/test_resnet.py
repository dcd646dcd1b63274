"""CLIP's ResNet towers: open_clip's results with the same weights, the released sizes, moving statistics that move."""

import math
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.training.patterns import freeze
from diptych.core.weights.mapping import WeightsMismatch
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import read_tensors
from diptych.models import CLIP, CLIPConfig, CLIPResNetConfig, from_preset
from diptych.models.abstract import shapes_only
from diptych.models.clip.presets import clip_text_config
from diptych.models.clip.resnet import CLIPResNet
from diptych.models.parts.convolutions import BatchNorm
from diptych.models.weights import open_clip
from tests.models.examples import forward, numpy_of, value_and_gradients

OPEN_CLIP = Path(__file__).parents[1] / "foreign" / "open_clip_resnet"
TINY = CLIPResNetConfig(stage_depths=(1, 2, 1, 1), width=4, num_heads=2, image_size=64, embed_dim=20)
# Radford et al. 2021, table 19, and the trained scalars of the released models.
RELEASED = {
    "RN50": ((3, 4, 6, 3), 64, 224, 1024, 512, 102_007_137),
    "RN101": ((3, 4, 23, 3), 64, 224, 512, 512, 119_688_033),
    "RN50x4": ((4, 6, 10, 6), 80, 288, 640, 640, 178_300_601),
    "RN50x16": ((6, 8, 18, 8), 96, 384, 768, 768, 290_979_217),
    "RN50x64": ((3, 15, 36, 10), 128, 448, 1024, 1024, 623_258_305),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(OPEN_CLIP / "expected.npz"))


def close(actual, expected) -> None:
    np.testing.assert_allclose(numpy_of(actual), expected, rtol=2e-5, atol=2e-5)


def relative_error(actual, expected) -> float:
    """Of a tensor, by its norm; what a batch of two pixels is divided by leaves single small entries fewer digits."""
    return float(np.linalg.norm(numpy_of(actual) - expected) / np.linalg.norm(expected))


def test_it_computes_what_open_clip_does(expected):
    model = from_preset(OPEN_CLIP)
    assert model.config.vision == TINY
    outputs = forward(model, {name: expected[name] for name in ("images", "token_ids")})
    close(outputs["image_embedding"], expected["image_embedding"])
    close(outputs["text_embedding"], expected["text_embedding"])
    pooled = forward(model.image_encoder, expected["images"])["pooled"]
    close(pooled, expected["pooled"])


@pytest.mark.parametrize(
    "wrong",
    [
        "image/stem/conv_1/kernel",
        "image/stage_2/block_00/shortcut_norm/moving_variance",
        "image/stage_4/block_00/norm_3/moving_mean",
        "image/attention_pool/position_embedding/embedding",
    ],
)
def test_a_wrong_weight_is_seen(expected, wrong):
    """The comparison fails for weights that have the right shape and lie the wrong way round."""
    model = from_preset(OPEN_CLIP)
    (weight,) = [weight for weight in model.weights if weight.path == wrong]
    weight.assign(np.flip(numpy_of(weight.value), axis=0).copy())
    pooled = numpy_of(forward(model.image_encoder, expected["images"])["pooled"])
    assert np.abs(pooled - expected["pooled"]).max() > 1e-3


def test_training_normalises_by_the_batch_and_moves_the_statistics(expected):
    tower = from_preset(OPEN_CLIP).image_encoder
    pooled, moved = training_pass(tower, expected["images"])
    assert relative_error(pooled, expected["pooled_in_training"]) < 2e-5
    assert relative_error(expected["pooled"], expected["pooled_in_training"]) > 0.1
    before = {weight.path: numpy_of(weight.value) for weight in tower.non_trainable_variables}
    assert moved.keys() == before.keys()
    assert len(moved) == 2 * (3 + 3 * 5 + 4)
    with open_weights(OPEN_CLIP / "open_clip_model.safetensors") as files:
        rules = open_clip.table(CLIPConfig(vision=TINY, text=from_preset(OPEN_CLIP).config.text), files).rules
    for rule in rules:
        if "moving_" in rule.ours[0]:
            assert relative_error(moved[rule.ours[0]], expected[rule.theirs[0]]) < 2e-5, rule.ours[0]
            assert np.abs(moved[rule.ours[0]] - before[rule.ours[0]]).max() > 1e-3


def training_pass(tower, images) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(pooled, moving statistics afterwards) of one call in training, whose updates are kept as `fit` keeps them."""
    variables = tower.non_trainable_variables
    with keras.StatelessScope(state_mapping=[(v, v.value) for v in variables]) as scope:
        pooled = numpy_of(tower(images, training=True)["pooled"])
    return pooled, {v.path: numpy_of(scope.get_current_value(v)) for v in variables}


def test_fit_learns_pairs_and_keeps_the_statistics():
    text = clip_text_config(64, 20)
    vision = replace(TINY, stage_depths=(1, 1, 1, 1), image_size=32)
    model = CLIP(CLIPConfig(vision=vision, text=replace(text, depth=1, vocab_size=30, context_length=6)))
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.uniform(-1, 1, (8, 32, 32, 3)).astype("float32"),
        "token_ids": rng.integers(0, 30, (8, 6)).astype("int32"),
    }
    before = {weight.path: numpy_of(weight.value) for weight in model.non_trainable_variables}
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    losses = model.fit(batch, batch_size=8, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    moved = {weight.path: numpy_of(weight.value) for weight in model.non_trainable_variables}
    still = [path for path in before if path.startswith("image/") and np.array_equal(before[path], moved[path])]
    assert len(before) == 2 * (3 + 3 * 4 + 4)
    assert still == []


@pytest.mark.parametrize("frozen", ["layers", "weights"])
def test_frozen_norms_keep_their_statistics(expected, frozen):
    model = from_preset(OPEN_CLIP)
    tower = model.image_encoder
    if frozen == "layers":
        tower.trainable = False
    else:
        freeze(model, ["image/.*"])
    pooled, moved = training_pass(tower, expected["images"])
    close(pooled, expected["pooled"])
    assert not [v.path for v in tower.non_trainable_variables if not np.array_equal(numpy_of(v.value), moved[v.path])]


def test_gradients_reach_every_trained_weight():
    tower = CLIPResNet(TINY)
    for block in tower.layers:
        for weight in block.trainable_weights:
            if weight.path.endswith("norm_3/scale"):  # zero at first: nothing behind it would get a gradient
                weight.assign(np.ones(weight.shape, "float32"))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    _, gradients = value_and_gradients(
        lambda: keras.ops.sum(keras.ops.square(tower(images, training=True)["pooled"])), tower.trainable_variables
    )
    zero = [
        weight.path
        for weight, gradient in zip(tower.trainable_variables, gradients, strict=True)
        if not np.abs(numpy_of(gradient)).max() > 0
    ]
    assert zero == []


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes_have_the_released_numbers_of_parameters(name):
    depths, width, image_size, embed_dim, text_width, parameters = RELEASED[name]
    vision = CLIPResNetConfig(
        stage_depths=depths, width=width, num_heads=width // 2, image_size=image_size, embed_dim=embed_dim
    )
    with shapes_only():
        model = CLIP(CLIPConfig(vision=vision, text=clip_text_config(text_width, embed_dim)))
    assert sum(math.prod(weight.shape) for weight in model.trainable_variables) == parameters


def test_open_clip_gets_its_own_weights_back_bit_for_bit(tmp_path):
    from_preset(OPEN_CLIP).save_to_preset(tmp_path, format="open_clip")
    theirs = read_tensors(OPEN_CLIP / "open_clip_model.safetensors")
    ours = read_tensors(tmp_path / "open_clip_model.safetensors")
    counters = {name for name in theirs if name.endswith("num_batches_tracked")}
    assert len(counters) == 3 + 3 * 5 + 4
    assert ours.keys() == theirs.keys() - counters
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []


def test_other_sizes_are_refused_by_name():
    with open_weights(OPEN_CLIP / "open_clip_model.safetensors") as files:
        config = from_preset(OPEN_CLIP).config
        deeper = replace(config, vision=replace(TINY, stage_depths=(1, 2, 2, 1)))
        with shapes_only():
            model = CLIP(deeper)
        shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
        with pytest.raises(WeightsMismatch, match=r"visual\.layer3\.1\.conv1\.weight"):
            open_clip.table(deeper, files).check(shapes, files)


def test_a_fresh_tower_starts_as_its_shortcuts_and_is_the_same_for_the_same_seed():
    images = np.random.default_rng(1).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
    one, same, other = CLIPResNet(TINY, seed=1), CLIPResNet(TINY, seed=1), CLIPResNet(TINY, seed=2)
    pooled = [numpy_of(forward(tower, images)["pooled"]) for tower in (one, same, other)]
    np.testing.assert_array_equal(pooled[0], pooled[1])
    assert np.abs(pooled[0] - pooled[2]).max() > 1e-3
    second = one.get_layer("stage_2").blocks[1]
    x = np.abs(np.random.default_rng(2).standard_normal((1, 4, 4, 32))).astype("float32")
    np.testing.assert_array_equal(numpy_of(second(x)), x)


def test_saved_as_keras_it_comes_back(tmp_path):
    tower = CLIPResNet(TINY, seed=3)
    tower.save(tmp_path / "tower.keras")
    again = keras.saving.load_model(tmp_path / "tower.keras")
    images = np.random.default_rng(1).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
    assert again.get_config() == tower.get_config()
    np.testing.assert_array_equal(numpy_of(again(images)["tokens"]), numpy_of(tower(images)["tokens"]))


def test_mixed_precision_keeps_weights_and_statistics_in_float32():
    tower = CLIPResNet(TINY, dtype="mixed_bfloat16")
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    outputs = forward(tower, images)
    assert outputs["tokens"].shape == (2, TINY.num_patches, TINY.channels)
    assert keras.backend.standardize_dtype(outputs["tokens"].dtype) == "bfloat16"
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in tower.weights} == {"float32"}
    single = numpy_of(forward(CLIPResNet(TINY), images)["pooled"])
    assert np.linalg.norm(numpy_of(outputs["pooled"]) - single) < 0.05 * np.linalg.norm(single)


def test_batch_norm_is_written_out_in_numpy():
    """y = (x - mean) / sqrt(variance + epsilon) · scale + bias; an offset of 100 costs no digits."""
    rng = np.random.default_rng(3)
    x = (100 + rng.standard_normal((4, 3, 5, 6))).astype("float32")
    scale, bias = rng.uniform(0.5, 2, 6), rng.standard_normal(6)
    norm = BatchNorm()
    norm.build(x.shape)
    norm.scale.assign(scale)
    norm.bias.assign(bias)
    mean, variance = x.astype("float64").mean((0, 1, 2)), x.astype("float64").var((0, 1, 2))
    np.testing.assert_allclose(
        numpy_of(norm(x, training=True)), (x - mean) / np.sqrt(variance + 1e-5) * scale + bias, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(numpy_of(norm.moving_mean.value), 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(numpy_of(norm.moving_variance.value), 0.9 + 0.1 * variance * 60 / 59, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_depths": (3, 4, 6)}, "four numbers"),
        ({"stage_depths": (3, 4, 0, 3)}, "positive"),
        ({"width": 63}, "even"),
        ({"num_heads": 30}, "num_heads must divide the 2048 channels"),
        ({"image_size": 225}, "multiple of 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CLIPResNetConfig(**change)


def test_a_configuration_from_json_is_the_same():
    assert CLIPResNetConfig(stage_depths=[3, 4, 6, 3]) == CLIPResNetConfig()
    assert CLIPResNetConfig().num_patches == 49
