"""Low-rank adapters, on whichever backend Keras runs."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.weights.safetensors import read_tensors
from diptych.models import CLIPConfig, CLIPResNetConfig, CLIPTextConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.parts.convolutions import Convolution
from diptych.models.parts.low_rank import LowRank
from diptych.models.pretrained import build_model
from diptych.models.siglip.parts import AdaptersPart
from diptych.models.siglip.student import Student

SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=8), text=TextConfig(**SIZE, vocab_size=20, context_length=5)
)
RESNET = CLIPConfig(
    vision=CLIPResNetConfig(stage_depths=(2, 1, 1, 1), width=4, num_heads=2, image_size=32, embed_dim=16),
    text=CLIPTextConfig(**SIZE, vocab_size=20, context_length=5, embed_dim=16),
)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (3, 8, 8, 3)).astype("float32")


def adapted(**changes) -> Student:
    part = AdaptersPart(**{"rank": 3, "alpha": 6.0} | changes)
    return Student(CONFIG, parts={"adapters": part}, seed=4)


def pooled(model) -> np.ndarray:
    return ops.convert_to_numpy(model.image_features({"images": IMAGES})["pooled"])


def test_fresh_adapters_change_nothing_and_count_as_planned():
    student = adapted()
    np.testing.assert_array_equal(pooled(student), pooled(build_model(CONFIG, seed=4)))
    count = sum(int(np.prod(weight.shape)) for weight in student.adapters.weights)
    assert count == AdaptersPart(rank=3, alpha=6.0).parameters(CONFIG) == 2 * 2 * 3 * (64 + 32 + 40 + 40)


def test_each_convolution_of_a_residual_networks_blocks_has_an_adapter():
    shapes = AdaptersPart(rank=3, alpha=6.0, targets=("image/.*",)).shapes(RESNET)
    kernels = {weight.path: tuple(weight.shape) for weight in build_model(RESNET).weights if len(weight.shape) == 4}
    assert shapes == {
        path: (int(np.prod(shape[:-1])), shape[-1]) for path, shape in kernels.items() if "image/stage_" in path
    }
    assert len(shapes) == 4 * 4 + 3


def test_a_convolution_counts_with_its_adapter_until_that_is_merged_into_its_kernel():
    with keras.name_scope("tower"):
        layer = Convolution(filters=5, kernel_size=3, stride=2, name="conv")
        layer.build((None, 8, 8, 3))
    adapters = LowRank(shapes={layer.kernel.path: (27, 5)}, rank=2, alpha=3.0)
    adapters.build()
    before = ops.convert_to_numpy(layer.call(ops.convert_to_tensor(IMAGES)))
    adapters.attach(layer.weights)
    for up in adapters.up.values():
        up.assign(RNG.normal(0, 0.3, up.shape))
    adapted = ops.convert_to_numpy(layer.call(ops.convert_to_tensor(IMAGES)))
    assert np.abs(adapted - before).max() > 0.1
    kernel = ops.convert_to_numpy(layer.kernel.value)
    with adapters.merged_into(layer.weights):
        merged = Convolution(filters=5, kernel_size=3, stride=2)
        merged.build((None, 8, 8, 3))
        merged.kernel.assign(layer.kernel.value)
    alone = ops.convert_to_numpy(merged.call(ops.convert_to_tensor(IMAGES)))
    np.testing.assert_allclose(alone, adapted, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel.value), kernel)


def test_merged_kernels_compute_what_adapters_do():
    student, plain = adapted(), build_model(CONFIG, seed=4)
    for up in student.adapters.up.values():
        up.assign(RNG.normal(0, 0.3, up.shape))
    moved = pooled(student)
    assert np.abs(moved - pooled(plain)).max() > 0.1
    with student.merged():
        for own, merged in zip(plain.weights, student.towers.weights, strict=True):
            own.assign(ops.convert_to_numpy(merged.value))
        inside = pooled(student)
    np.testing.assert_allclose(pooled(plain), moved, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(inside, pooled(plain))
    np.testing.assert_array_equal(pooled(student), moved)


def test_adapters_are_a_small_file(tmp_path):
    student = adapted()
    student.adapters.save_to(tmp_path)
    stored = read_tensors(tmp_path / "adapters.safetensors")
    assert stored["text/encoder/block_01/mlp/in_kernel/down"].shape == (16, 3)
    assert len(stored) == 2 * len(student.adapters.shapes)
    assert json.loads((tmp_path / "adapters.json").read_text()) == {"rank": 3, "alpha": 6.0}


def test_targets_choose_and_a_pattern_that_chooses_nothing_is_refused():
    some = AdaptersPart(rank=2, alpha=2.0, targets=("text/.*/qkv_kernel",))
    assert list(some.shapes(CONFIG)) == [f"text/encoder/block_0{n}/attention/qkv_kernel" for n in range(2)]
    with pytest.raises(ValueError, match=r"--lora-targets matches none.*image/encoder/block_00/attention/qkv_kernel"):
        AdaptersPart(rank=2, alpha=2.0, targets=("query",)).shapes(CONFIG)
    with pytest.raises(ValueError, match=r"'text/\(' is no regular expression"):
        AdaptersPart(rank=2, alpha=2.0, targets=("text/(",)).shapes(CONFIG)
