"""The weights that move in a run, and their rates, by the paths of a real model."""

import re
from dataclasses import replace

import numpy as np
import pytest

from diptych.core.training.optimizers import KERNELS
from diptych.core.training.patterns import matching
from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.engine.training.build import build_student, stage_optimizer
from diptych.engine.training.plan import plan_stages
from diptych.engine.training.terms import TERMS
from diptych.engine.training.tuning import TowerLayers, adapters, decay_multipliers, locked_weights, rate_multipliers
from diptych.models import (
    CLIP,
    CLIPConfig,
    CLIPResNetConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    SigLIP,
    SigLIPConfig,
    TextConfig,
    VisionConfig,
)
from diptych.models.abstract import shapes_only

SIZE = {"width": 16, "depth": 3, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=8),
    text=TextConfig(**SIZE | {"depth": 2}, vocab_size=20, context_length=5, embed_dim=16),
)
OPTIMIZATION = Optimization(examples=64, batch_size=8)


@pytest.fixture(scope="module")
def paths() -> list[str]:
    with shapes_only():
        return [weight.path for weight in SigLIP(CONFIG).weights]


def test_a_locked_tower_holds_still_whole(paths):
    locked = locked_weights(Model(lock_image=True), CONFIG, paths)
    assert locked == [path for path in paths if path.startswith("image/")]
    assert locked_weights(Model(), CONFIG, paths) == []


@pytest.mark.parametrize("open_blocks", [1, 2])
def test_open_blocks_are_the_last_and_all_behind_them_moves(paths, open_blocks):
    locked = set(locked_weights(Model(lock_text=True, lock_text_unlocked_blocks=open_blocks), CONFIG, paths))
    moving = [path for path in paths if path.startswith("text/") and path not in locked]
    still = {int(n) for path in locked if (n := "".join(re.findall(r"block_(\d+)", path)))}
    assert still == set(range(2 - open_blocks))
    assert {"text/encoder/norm/scale", "text/projection/kernel"} <= set(moving)
    assert {"text/token_embedding/embedding", "text/position_embedding/embedding"} <= locked


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(lock_image=True, lock_image_unlocked_blocks=4), "from 0 to 3 of them; got 4 with --lock-image"),
        (Model(lock_text_unlocked_blocks=1), "got 1 without --lock-text"),
    ],
)
def test_open_blocks_that_make_no_sense_are_refused(paths, model, message):
    with pytest.raises(ValueError, match=message):
        locked_weights(model, CONFIG, paths)


def test_rates_fall_from_layer_to_layer_and_multiply_with_others(paths):
    optimization = replace(OPTIMIZATION, image_layer_decay=0.5, learning_rate_multipliers={"image/.*bias": 3.0})
    rules = rate_multipliers(optimization, CONFIG, paths)
    factor = {path: next((value for rule, value in rules.items() if re.fullmatch(rule, path)), 1.0) for path in paths}
    expected = {
        "image/patch_embedding/kernel": 0.5**4,
        "image/position_embedding/embedding": 0.5**4,
        "image/encoder/block_00/mlp/in_kernel": 0.5**3,
        "image/encoder/block_02/attention/qkv_kernel": 0.5,
        "image/encoder/block_02/attention/qkv_bias": 1.5,
        "image/encoder/norm/scale": 1.0,
        "image/map_head/probe": 1.0,
        "text/encoder/block_00/mlp/in_kernel": 1.0,
        "pair_logits/log_logit_scale": 1.0,
    }
    assert {path: factor[path] for path in expected} == pytest.approx(expected)
    assert len({round(float(np.log2(value)), 9) for path, value in factor.items() if path.endswith("kernel")}) == 5


def test_without_decay_the_rules_are_the_ones_given(paths):
    rules = {"learning_rate_multipliers": {"text/.*": 0.1}, "weight_decay_multipliers": {"image/.*": 0}}
    optimization = replace(OPTIMIZATION, **rules)
    text, image = ({re.escape(path) for path in paths if path.startswith(tower)} for tower in ("text/", "image/"))
    assert rate_multipliers(optimization, CONFIG, paths) == dict.fromkeys(text, 0.1)
    assert decay_multipliers(optimization, paths) == dict.fromkeys(image, 0)


def adapted(*lock: str, **model) -> set[str]:
    part = adapters(Model(lora_rank=2, **model), CONFIG, lock)
    assert part is not None
    return {path.partition("/attention/")[0].partition("/mlp/")[0] for path in part.shapes(CONFIG)}


def test_adapters_keep_to_the_blocks_that_are_not_locked():
    image, text = (
        {f"{name}/encoder/block_{n:02d}" for n in range(depth)} for name, depth in (("image", 3), ("text", 2))
    )
    assert adapted() == image | text
    assert adapted(lock_text=True) == image
    assert adapted(lock_image=True, lock_image_unlocked_blocks=1) == {"image/encoder/block_02"} | text
    assert adapted("text/.*", lock_text=True) == image
    assert adapters(Model(lock_image=True), CONFIG) is None
    with pytest.raises(ValueError, match="--lora-rank adapts kernels .* Leave out a lock"):
        adapted(lock_image=True, lock_text=True)
    with pytest.raises(ValueError, match="leave none of --lora-targets"):
        adapted(lock_text=True, lora_targets=("text/.*",))


def test_adapters_have_the_rate_of_the_layer_that_they_adapt():
    part = adapters(Model(lora_rank=2), CONFIG)
    layer = part.build(CONFIG, name="adapters", seed=0, dtype=None, rematerialize=False)
    rules = rate_multipliers(replace(OPTIMIZATION, image_layer_decay=0.5), CONFIG, [w.path for w in layer.weights])
    factors = {
        weight.path: next((f for rule, f in rules.items() if re.fullmatch(rule, weight.path)), 1.0)
        for weight in layer.weights
    }
    for kernel, pair in ((kernel, (layer.down[kernel], layer.up[kernel])) for kernel in layer.shapes):
        block = int(kernel.partition("block_")[2][:2])
        expected = 0.5 ** (3 - block) if kernel.startswith("image/") else 1.0
        assert [factors[weight.path] for weight in pair] == [expected, expected]


def test_rules_about_locked_weights_are_no_mistake():
    """A recipe may slow a tower that one of its stages, or a flag, holds still."""
    model = Model(lock_image=True)
    optimization = replace(
        OPTIMIZATION, learning_rate=1e-3, weight_decay=0.0, learning_rate_multipliers={"image/.*": 0.1}
    )
    recipe = Recipe(data=Data(), model=model, optimization=optimization, run=Run())
    (planned,) = plan_stages(recipe, CONFIG, TERMS).values()
    optimizer = stage_optimizer(recipe, planned, build_student(recipe, planned))
    assert optimizer.learning_rate_multipliers == {}


@pytest.mark.parametrize(
    ("vision", "first", "last"),
    [
        (CLIPVisionConfig(**SIZE, patch_size=4, image_size=8, embed_dim=16), "input_norm/scale", "projection/kernel"),
        (
            CLIPResNetConfig(stage_depths=(1, 2, 1, 1), width=4, num_heads=2, image_size=32, embed_dim=16),
            "stem/conv_3/kernel",
            "attention_pool/position_embedding/embedding",
        ),
    ],
)
def test_layers_of_clips_towers_are_counted_from_the_picture_on(vision, first, last):
    config = CLIPConfig(vision=vision, text=CLIPTextConfig(**SIZE, vocab_size=20, context_length=5, embed_dim=16))
    with shapes_only():
        paths = [weight.path for weight in CLIP(config).weights]
    layers = TowerLayers.of_tower("image", vision)
    found = [layers.of(path) for path in paths if path.startswith("image/")]
    assert set(found) == set(range(layers.depth + 2))
    assert (layers.of(f"image/{first}"), layers.of(f"image/{last}")) == (0, layers.depth + 1)
    if isinstance(vision, CLIPResNetConfig):
        assert layers.of("image/stage_3/block_00/norm_1/scale") == 1 + 2 + 1
    locked = locked_weights(Model(lock_image=True, lock_image_unlocked_blocks=1), config, paths)
    assert {layers.of(path) for path in locked} == set(range(layers.depth))
    part = adapters(Model(lora_rank=2, lock_image=True, lock_image_unlocked_blocks=1, lock_text=True), config)
    assert {layers.of(path) for path in part.shapes(config)} == {layers.depth}


def test_adapters_decay_as_their_kernels_do():
    part = adapters(Model(lora_rank=2), CONFIG)
    layer = part.build(CONFIG, name="adapters", seed=0, dtype=None, rematerialize=False)
    assert all(matching(KERNELS, [weight.path for weight in layer.weights]))
