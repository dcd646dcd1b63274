"""Counts by arithmetic: published parameter counts, the layers that are built, and their real operations."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given, settings

from diptych.models import ClassifierConfig, CLIPConfig, CLIPResNetConfig, CLIPTextConfig, SigLIP
from diptych.models.abstract import shapes_only
from diptych.models.counting import count_flops, count_parameters, count_tower_parameters, estimate_memory
from diptych.models.presets import PRESETS
from diptych.models.pretrained import build_model
from diptych.models.siglip.config import VisionConfig
from diptych.models.siglip.presets import siglip_config
from diptych.models.sizes import SIZES, vision_size
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.configurations import models
from tests.models.examples import TINY, batch_for
from tests.models.operations import forward_flops, operations_of, training_flops

# Image tower with MAP head at 224 px and without a projection, counted in big_vision.
BIG_VISION = {
    "mu/16": 56_320,
    "Ti/16": 5_968_704,
    "S/16": 23_438_976,
    "M/16": 41_475_584,
    "B/16": 92_884_224,
    "L/16": 315_894_784,
    "So400m/14": 427_680_704,
    "H/14": 650_438_400,
    "g/14": 1_036_448_384,
    "g-opt/16": 1_163_076_096,
    "G/14": 1_881_132_416,
    "G-opt/16": 1_698_109_952,
    "e/14": 3_873_342_720,
}

# image, text and total (scale and bias included) of the released SigLIP 2 checkpoints.
SIGLIP2 = {
    "base_patch32_256": (94_552_320, 282_303_744, 376_856_066),
    "base_patch16_224": (92_884_224, 282_303_744, 375_187_970),
    "base_patch16_256": (92_930_304, 282_303_744, 375_234_050),
    "base_patch16_384": (93_176_064, 282_303_744, 375_479_810),
    "base_patch16_512": (93_520_128, 282_303_744, 375_823_874),
    "large_patch16_256": (315_956_224, 565_570_560, 881_526_786),
    "large_patch16_384": (316_283_904, 565_570_560, 881_854_466),
    "large_patch16_512": (316_742_656, 565_570_560, 882_313_218),
    "so400m_patch14_224": (427_680_704, 707_782_896, 1_135_463_602),
    "so400m_patch14_384": (428_225_600, 707_782_896, 1_136_008_498),
    "so400m_patch16_256": (427_888_064, 707_782_896, 1_135_670_962),
    "so400m_patch16_384": (428_256_704, 707_782_896, 1_136_039_602),
    "so400m_patch16_512": (428_772_800, 707_782_896, 1_136_555_698),
    "giant_patch16_256": (1_163_168_256, 708_225_648, 1_871_393_906),
    "giant_patch16_384": (1_163_659_776, 708_225_648, 1_871_885_426),
    "base_patch16_naflex": (92_930_304, 282_303_744, 375_234_050),
    "so400m_patch16_naflex": (427_888_064, 707_782_896, 1_135_670_962),
}

# Totals of OpenAI's released models.
CLIP = {
    "vit_base_patch32": 151_277_313,
    "vit_base_patch16": 149_620_737,
    "vit_large_patch14": 427_616_513,
    "vit_large_patch14_336": 427_944_193,
}


def test_every_size_counts_as_in_big_vision():
    assert {size.partition("/")[0] for size in BIG_VISION} == set(SIZES)
    counted = {size: count_tower_parameters(VisionConfig(**vision_size(size))) for size in BIG_VISION}
    assert counted == BIG_VISION


def test_the_vit_baseline_counts_as_in_big_vision():
    vision = PRESETS["vit_s16_224"].vision
    classifier = ClassifierConfig(vision=vision, classes=tuple(f"class {number}" for number in range(1_000)))
    assert count_parameters(classifier)["total"] == 22_122_472


def test_every_siglip2_preset_counts_as_the_released_checkpoint():
    presets = {name.removeprefix("siglip2_"): config for name, config in PRESETS.items() if "siglip2" in name}
    counted = {
        name: tuple(count_parameters(c)[part] for part in ("image", "text", "total")) for name, c in presets.items()
    }
    assert counted == SIGLIP2


def test_every_clip_preset_counts_as_the_released_checkpoint():
    presets = {name.removeprefix("clip_"): config for name, config in PRESETS.items() if name.startswith("clip_vit")}
    assert {name: count_parameters(config)["total"] for name, config in presets.items()} == CLIP


CLIP_RESNETS = {
    "clip_rn50": 102_007_137,
    "clip_rn101": 119_688_033,
    "clip_rn50x4": 178_300_601,
    "clip_rn50x16": 290_979_217,
    "clip_rn50x64": 623_258_305,
}


def test_every_clip_resnet_counts_as_the_released_checkpoint():
    counted = {}
    for name in CLIP_RESNETS:
        with shapes_only():
            model = build_model(PRESETS[name])
        counted[name] = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert counted == CLIP_RESNETS
    assert {name: count_parameters(PRESETS[name])["total"] for name in CLIP_RESNETS} == CLIP_RESNETS


@pytest.mark.skipif(keras.config.backend() != "torch", reason="torch alone counts the operations of convolutions")
def test_a_resnets_forward_pass_does_the_counted_operations():
    vision = CLIPResNetConfig(stage_depths=(1, 2, 1, 1), width=4, num_heads=2, image_size=64, embed_dim=20)
    text = CLIPTextConfig(width=8, depth=1, mlp_dim=8, num_heads=2, vocab_size=9, context_length=4, embed_dim=20)
    config = CLIPConfig(vision=vision, text=text)
    batch = {"images": np.zeros((1, 64, 64, 3), "float32"), "token_ids": np.ones((1, 4), "int32")}
    pooled = build_model(config).image_embedder()
    counted = operations_of(lambda: pooled(keras.ops.convert_to_tensor(batch["images"])))
    assert counted == pytest.approx(count_flops(config, batch_size=1)["image"], rel=0.02)


BUILD_EVERY_PRESET = """
import json, resource, sys
from diptych.models.pretrained import build_model
from diptych.models.abstract import shapes_only
from diptych.models.presets import PRESETS
from diptych.models.siglip.presets import siglip_config

def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

before, counts = peak_megabytes(), {}
for name, config in {**PRESETS, "e": siglip_config("e/14")}.items():
    if name.startswith("clip_rn"):
        continue  # not counted by arithmetic
    with shapes_only():
        model = build_model(config)
    counts[name] = {"image": model.image_encoder.count_params(), "text": model.text_encoder.count_params()}
    counts[name] |= {"logits": model.pair_logits.count_params(), "total": model.count_params()}
print(json.dumps({"counts": counts, "grown": peak_megabytes() - before, "tensorflow": "tensorflow" in sys.modules}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak memory of a process is read through a POSIX module")
@ABOVE_THE_BACKENDS
def test_every_preset_builds_with_the_counted_weights_in_a_few_megabytes():
    process = subprocess.run([sys.executable, "-c", BUILD_EVERY_PRESET], capture_output=True, text=True, check=True)
    answer = json.loads(process.stdout.splitlines()[-1])
    assert answer["counts"] == {
        name: count_parameters(config)
        for name, config in {**PRESETS, "e": siglip_config("e/14")}.items()
        if not name.startswith("clip_rn")
    }
    assert len(answer["counts"]) > 30
    assert answer["grown"] < 150  # the largest would need 16 GB
    assert answer["tensorflow"] == (keras.config.backend() == "tensorflow")  # Keras imports it when it serialises


@settings(max_examples=25, deadline=None)
@given(models())
def test_the_arithmetic_counts_any_model_that_can_be_built(config):
    with shapes_only():
        model = SigLIP(config)
    towers = {"image": model.image_encoder, "text": model.text_encoder, "logits": model.pair_logits, "total": model}
    assert count_parameters(config) == {part: layer.count_params() for part, layer in towers.items()}


def test_shapes_leave_nothing_behind_that_would_be_drawn_later():
    with shapes_only():
        hollow = SigLIP(TINY)
    real = SigLIP(TINY)
    with keras.StatelessScope():
        pass  # at its end Keras draws whatever waits for a value
    assert all(w._value is None for w in hollow.weights)
    assert [(w.path, tuple(w.shape)) for w in hollow.weights] == [(w.path, tuple(w.shape)) for w in real.weights]


# Image size -> billions of forward operations of image and text, and of a training example with every block
# rematerialised; from a table made by the same rules (its MAP head counts the probe's projection once per image).
GIGAFLOPS = {
    "siglip2_base_patch32_256": (11.5, 11.0, 90),
    "siglip2_base_patch16_224": (35.4, 11.0, 186),
    "siglip2_base_patch16_512": (216.2, 11.0, 909),
    "siglip2_large_patch16_384": (383.9, 39.1, 1692),
    "siglip2_so400m_patch14_384": (670.3, 53.1, 2894),
    "siglip2_giant_patch16_384": (1393.0, 53.1, 5785),
}


@pytest.mark.parametrize("preset", GIGAFLOPS)
def test_operations_agree_with_the_table(preset):
    image, text, rematerialized = GIGAFLOPS[preset]
    config = PRESETS[preset]
    counted = count_flops(config, batch_size=1)
    assert counted["image"] / 1e9 == pytest.approx(image, abs=0.06)
    assert counted["text"] / 1e9 == pytest.approx(text, abs=0.06)
    assert counted["training"] == 3 * (counted["image"] + counted["text"]) + 6 * config.vision.width
    assert count_flops(config, batch_size=1, rematerialize=True)["training"] / 1e9 == pytest.approx(
        rematerialized, rel=0.04
    )


def test_the_loss_costs_its_three_matrix_products():
    small, large = (count_flops(TINY, batch_size=size) for size in (8, 1024))
    assert large["loss"] == 6 * 1024 * TINY.vision.width
    assert large["training"] - small["training"] == large["loss"] - small["loss"]


POOLINGS = [("map", "last"), ("gap", "gap"), ("cls", "map"), ("map", "first")]


@pytest.mark.parametrize(("image_pooling", "text_pooling"), POOLINGS)
def test_the_layers_do_exactly_the_counted_products(image_pooling, text_pooling):
    config = replace(
        TINY, vision=replace(TINY.vision, pooling=image_pooling), text=replace(TINY.text, pooling=text_pooling)
    )
    batch = batch_for(config)
    counted = count_flops(config, batch_size=4)
    # The probe's query is projected once a batch, not once an example.
    queries = sum(2 * tower.width**2 for tower in (config.vision, config.text) if tower.pooling == "map")
    assert forward_flops(SigLIP(config), batch) == 4 * (counted["image"] + counted["text"]) + queries


def test_training_does_three_forward_passes_and_four_when_rematerialised():
    config = replace(TINY, vision=replace(TINY.vision, depth=3))
    batch = batch_for(config)
    plain = training_flops(SigLIP(config), batch) / 4
    rematerialized = training_flops(SigLIP(config, rematerialize=True), batch) / 4
    # Nobody needs the gradient of the pixels, so the backward pass of the patch embedding is half of the counted one.
    assert plain == pytest.approx(count_flops(config, batch_size=4)["training"], rel=0.06)
    # Frameworks leave the last product of a recomputed block out.
    assert 1.2 < rematerialized / plain < 4 / 3


def test_memory_counts_weights_gradients_slots_and_average():
    weights = 4 * count_parameters(TINY)["total"]
    memory = estimate_memory(TINY, batch_size=4, optimizer_slots=1, ema=True)
    assert (memory["weights"], memory["gradients"], memory["optimizer"], memory["ema"]) == (weights,) * 4
    assert memory["total"] == 4 * weights + memory["activations"]
    assert estimate_memory(TINY, batch_size=4)["ema"] == 0


def test_memory_of_activations_follows_batch_precision_and_rematerialisation():
    config = PRESETS["siglip2_base_patch16_256"]
    plain = estimate_memory(config, batch_size=256)["activations"]
    assert estimate_memory(config, batch_size=512)["activations"] == pytest.approx(2 * plain, rel=0.01)
    assert estimate_memory(config, batch_size=256, dtype="mixed_bfloat16")["activations"] < 0.7 * plain
    assert estimate_memory(config, batch_size=256, rematerialize=True)["activations"] < 0.3 * plain
    with pytest.raises(ValueError, match="dtype must be float32 or mixed_bfloat16, got 'float16'"):
        estimate_memory(config, batch_size=256, dtype="float16")
